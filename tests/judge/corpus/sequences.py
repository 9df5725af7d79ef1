"""Sequence batching and implicit state: SEQ."""

from __future__ import annotations

from tests.modelfiles import node, onnx_model

from . import Entry, File, bad, good
from .parts import PYTHON, onnx, python

_START = 'name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ]'
_READY = 'name: "READY" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ]'
_CORRID = 'name: "ID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ]'
_STATE = 'input_name: "SI" output_name: "SO" data_type: TYPE_FP32 dims: [ 2 ]'
_CODE = """import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb.InferenceResponse(
                [
                    pb.Tensor("Y", pb.get_input_tensor_by_name(request, "X").as_numpy()),
                    pb.Tensor("SO", pb.get_input_tensor_by_name(request, "SI").as_numpy()),
                ]
            )
            for request in requests
        ]
"""
_SUMS = onnx_model(
    inputs={"X": ("FP32", ["N", 2]), "SI": ("FP32", ["N", 2]), "START": ("FP32", ["N", 1])},
    outputs={"Y": ("FP32", ["N", 2]), "SO": ("FP32", ["N", 2])},
    nodes=[
        node("Add", ["X", "SI"], ["sum"]),
        node("Add", ["sum", "START"], ["Y"]),
        node("Identity", ["sum"], ["SO"]),
    ],
)
_ONNX = """name: "m"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
_FP32_START = 'name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ]'


def _sequences(inside: str) -> dict[str, File]:
    return python(PYTHON + "sequence_batching { " + inside + " }\n")


def _controls(*controls: str) -> dict[str, File]:
    return _sequences("control_input [ " + ", ".join("{ " + control + " }" for control in controls) + " ]")


def _state(state: str = _STATE, more: str = "") -> dict[str, File]:
    return python(PYTHON + "sequence_batching { state [ { " + state + " } ] " + more + " }\n", _CODE)


def _initial(inside: str, data: bytes | None = None) -> dict[str, File]:
    files = _state(_STATE + " initial_state { " + inside + " }")
    return files if data is None else {**files, "m/initial_state/zeros": data}


def _sums(inside: str) -> dict[str, File]:
    return onnx(_ONNX + "sequence_batching { " + inside + " }\n", _SUMS)


ENTRIES: list[Entry] = [
    good("sequences/plain", _sequences("")),
    good("sequences/direct", _sequences("direct { max_queue_delay_microseconds: 100 minimum_slot_utilization: 0.5 }")),
    good("sequences/oldest", _sequences("oldest { max_candidate_sequences: 4 preferred_batch_size: [ 2, 4 ] }")),
    good("sequences/unbatched", python(PYTHON.replace("max_batch_size: 4\n", "") + "sequence_batching { }\n")),
    good(
        "sequences/oldest-unbatched",
        python(
            PYTHON.replace("max_batch_size: 4\n", "") + "sequence_batching { oldest { max_candidate_sequences: 4 } }\n"
        ),
    ),
    good("sequences/oldest-candidates-left-out", _sequences("oldest { }")),
    bad("SEQ009", "sequences/oldest-candidates-negative", _sequences("oldest { max_candidate_sequences: -1 }")),
    good("sequences/idle", _sequences("max_sequence_idle_microseconds: 1")),
    good("sequences/controls", _controls(_START, _READY, _CORRID)),
    good(
        "sequences/control-bool",
        _controls('name: "START" control [ { kind: CONTROL_SEQUENCE_START bool_false_true: [ false, true ] } ]'),
    ),
    good(
        "sequences/two-controls-in-one-tensor-block",
        _controls(_START, 'name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ]'),
    ),
    good("sequences/control-of-input-name", _controls(_START.replace('"START"', '"X"'))),
    bad("SEQ001", "sequences/control-without-name", _controls(_START.replace('name: "START" ', ""))),
    bad("SEQ001", "sequences/control-name-empty", _controls(_START.replace('"START"', '""'))),
    bad(
        "SEQ002",
        "sequences/tensor-of-two-kinds",
        _controls(
            'name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] },'
            " { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ]"
        ),
    ),
    bad("SEQ002", "sequences/tensor-named-twice", _controls(_START, _READY.replace('"READY"', '"START"'))),
    bad("SEQ003", "sequences/kind-twice", _controls(_START, _START.replace('"START"', '"OTHER"'))),
    bad("SEQ003", "sequences/corrid-twice", _controls(_CORRID, _CORRID.replace('"ID"', '"ID2"'))),
    bad("SEQ004", "sequences/no-values", _controls('name: "START" control [ { kind: CONTROL_SEQUENCE_START } ]')),
    bad(
        "SEQ005",
        "sequences/values-of-two-types",
        _controls(_START.replace("int32_false_true", "fp32_false_true: [ 0, 1 ] int32_false_true")),
    ),
    bad(
        "SEQ006",
        "sequences/one-value",
        _controls('name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0 ] } ]'),
    ),
    bad(
        "SEQ006",
        "sequences/three-values",
        _controls('name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1, 2 ] } ]'),
    ),
    bad(
        "SEQ006",
        "sequences/three-bools",
        _controls('name: "START" control [ { kind: CONTROL_SEQUENCE_START bool_false_true: [ false, true, true ] } ]'),
    ),
    bad("SEQ007", "sequences/corrid-fp32", _controls(_CORRID.replace("TYPE_UINT64", "TYPE_FP32"))),
    bad("SEQ007", "sequences/corrid-without-type", _controls(_CORRID.replace("data_type: TYPE_UINT64", ""))),
    bad("SEQ007", "sequences/corrid-int16", _controls(_CORRID.replace("TYPE_UINT64", "TYPE_INT16"))),
    good("sequences/corrid-int32", _controls(_CORRID.replace("TYPE_UINT64", "TYPE_INT32"))),
    bad(
        "SEQ007",
        "sequences/corrid-string",
        _controls(_CORRID.replace("TYPE_UINT64", "TYPE_STRING")),
        requests={
            "m": {
                "inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]}],
                "parameters": {"sequence_id": "one", "sequence_start": True, "sequence_end": True},
            }
        },
    ),
    bad(
        "SEQ008",
        "sequences/corrid-with-values",
        _controls(_CORRID.replace("data_type:", "int32_false_true: [ 0, 1 ] data_type:")),
    ),
    good(
        "sequences/start-with-data-type",
        _controls(_START.replace("int32_false_true", "data_type: TYPE_FP32 int32_false_true")),
    ),
    good("sequences/control-empty", _controls('name: "START"')),
    bad(
        "SEQ009",
        "sequences/preferred-too-large",
        _sequences("oldest { max_candidate_sequences: 4 preferred_batch_size: [ 8 ] }"),
    ),
    bad(
        "SEQ009",
        "sequences/preferred-zero",
        _sequences("oldest { max_candidate_sequences: 4 preferred_batch_size: [ 0 ] }"),
    ),
    bad(
        "SEQ009",
        "sequences/preferred-negative",
        _sequences("oldest { max_candidate_sequences: 4 preferred_batch_size: [ -1 ] }"),
    ),
    bad("SEQ010", "sequences/utilization-above-one", _sequences("direct { minimum_slot_utilization: 1.5 }")),
    bad("SEQ010", "sequences/utilization-negative", _sequences("direct { minimum_slot_utilization: -0.5 }")),
    good("sequences/utilization-zero", _sequences("direct { minimum_slot_utilization: 0 }")),
    good("sequences/utilization-one", _sequences("direct { minimum_slot_utilization: 1.0 }")),
    bad("SEQ010", "sequences/utilization-nan", _sequences("direct { minimum_slot_utilization: nan }")),
    good("sequences/state", _state()),
    good("sequences/state-onnx", _sums("control_input [ { " + _FP32_START + " } ] state [ { " + _STATE + " } ]")),
    good(
        "sequences/state-unbatched",
        python(
            PYTHON.replace("max_batch_size: 4\n", "") + "sequence_batching { state [ { " + _STATE + " } ] }\n", _CODE
        ),
    ),
    good("sequences/initial-zero", _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true')),
    good(
        "sequences/initial-file", _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ] data_file: "zeros"', b"\0" * 8)
    ),
    good(
        "sequences/initial-file-longer",
        _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ] data_file: "zeros"', b"\0" * 12),
    ),
    bad(
        "SEQ011",
        "sequences/initial-of-another-type",
        _initial('name: "i" data_type: TYPE_INT32 dims: [ 2 ] zero_data: true'),
    ),
    bad("SEQ011", "sequences/initial-without-type", _initial('name: "i" dims: [ 2 ] zero_data: true')),
    bad("SEQ012", "sequences/initial-without-name", _initial("data_type: TYPE_FP32 dims: [ 2 ] zero_data: true")),
    bad(
        "SEQ013",
        "sequences/initial-of-another-rank",
        _initial('name: "i" data_type: TYPE_FP32 dims: [ 2, 1 ] zero_data: true'),
    ),
    bad(
        "SEQ013",
        "sequences/initial-of-another-size",
        _initial('name: "i" data_type: TYPE_FP32 dims: [ 3 ] zero_data: true'),
    ),
    bad("SEQ013", "sequences/initial-without-dims", _initial('name: "i" data_type: TYPE_FP32 zero_data: true')),
    bad(
        "SEQ014",
        "sequences/initial-variable",
        python(
            PYTHON
            + 'sequence_batching { state [ { input_name: "SI" output_name: "SO" data_type: TYPE_FP32 dims: [ -1 ]'
            ' initial_state { name: "i" data_type: TYPE_FP32 dims: [ -1 ] zero_data: true } } ] }\n',
            _CODE,
        ),
    ),
    good(
        "sequences/initial-of-variable-state",
        python(
            PYTHON
            + 'sequence_batching { state [ { input_name: "SI" output_name: "SO" data_type: TYPE_FP32 dims: [ -1 ]'
            ' initial_state { name: "i" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true } } ] }\n',
            _CODE,
        ),
    ),
    good("sequences/state-variable", _state(_STATE.replace("[ 2 ]", "[ -1 ]"))),
    bad(
        "SEQ015",
        "sequences/initial-file-missing",
        _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ] data_file: "zeros"'),
    ),
    bad(
        "SEQ016",
        "sequences/initial-file-short",
        _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ] data_file: "zeros"', b"\0" * 4),
    ),
    bad(
        "SEQ016",
        "sequences/initial-file-empty",
        _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ] data_file: "zeros"', b""),
    ),
    bad("SEQ017", "sequences/initial-without-data", _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ]')),
    bad(
        "SEQ017",
        "sequences/two-initials",
        _state(
            _STATE + ' initial_state [ { name: "i" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true },'
            ' { name: "j" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true } ]'
        ),
    ),
    bad(
        "SEQ017",
        "sequences/initial-zero-false",
        _initial('name: "i" data_type: TYPE_FP32 dims: [ 2 ] zero_data: false'),
    ),
    bad(
        "SEQ018",
        "sequences/state-twice",
        python(PYTHON + "sequence_batching { state [ { " + _STATE + " }, { " + _STATE + " } ] }\n", _CODE),
    ),
    bad(
        "SEQ018",
        "sequences/state-output-twice",
        python(
            PYTHON + "sequence_batching { state [ { " + _STATE + " }, { " + _STATE.replace('"SI"', '"S2"') + " } ] }\n",
            _CODE,
        ),
    ),
    bad(
        "SEQ018",
        "sequences/state-input-is-an-input",
        python(
            PYTHON + "sequence_batching { state [ { " + _STATE.replace('"SI"', '"X"') + " } ] }\n",
            _CODE.replace('"SI"', '"X"'),
        ),
    ),
    bad("SEQ018", "sequences/state-output-is-an-output", _state(_STATE.replace('"SO"', '"Y"'))),
    bad("SEQ018", "sequences/state-without-input-name", _state(_STATE.replace('input_name: "SI"', ""))),
    bad("SEQ018", "sequences/state-without-output-name", _state(_STATE.replace('output_name: "SO"', ""))),
    bad("SEQ018", "sequences/state-without-type", _state(_STATE.replace("data_type: TYPE_FP32", ""))),
    bad("SEQ018", "sequences/state-without-dims", _state(_STATE.replace("dims: [ 2 ]", ""))),
    bad("SEQ018", "sequences/state-of-dim-zero", _state(_STATE.replace("[ 2 ]", "[ 0 ]"))),
    bad(
        "SEQ019",
        "sequences/growable-without-same-buffer",
        _state(_STATE + " use_growable_memory: true"),
        release="24.10",
    ),
    bad("CFG002", "sequences/growable-too-new", _state(_STATE + " use_growable_memory: false"), release="23.07"),
    good("sequences/growable-not", _state(_STATE + " use_growable_memory: false"), release="24.10"),
    bad(
        "SEQ019",
        "sequences/growable-on-cpu",
        _state(_STATE + " use_growable_memory: true use_same_buffer_for_input_output: true"),
        release="24.10",
    ),
    good("sequences/same-buffer", _state(_STATE + " use_same_buffer_for_input_output: true"), release="24.10"),
    good("sequences/iterative", _sequences("iterative_sequence: true"), release="24.10"),
    good(
        "sequences/iterative-oldest",
        _sequences("iterative_sequence: true oldest { max_candidate_sequences: 4 }"),
        release="24.10",
    ),
    bad(
        "SEQ020",
        "sequences/control-absent-onnx",
        _sums("control_input [ { " + _FP32_START.replace('"START"', '"BEGIN"') + " } ] state [ { " + _STATE + " } ]"),
    ),
    bad(
        "SEQ020",
        "sequences/control-of-another-type-onnx",
        _sums("control_input [ { " + _START + " } ] state [ { " + _STATE + " } ]"),
    ),
    bad(
        "SEQ020",
        "sequences/state-absent-onnx",
        _sums("control_input [ { " + _FP32_START + " } ] state [ { " + _STATE.replace('"SI"', '"S"') + " } ]"),
    ),
    bad(
        "SEQ020",
        "sequences/state-of-another-type-onnx",
        _sums(
            "control_input [ { " + _FP32_START + " } ] state [ { " + _STATE.replace("TYPE_FP32", "TYPE_INT32") + " } ]"
        ),
    ),
    bad(
        "SEQ020",
        "sequences/state-of-another-shape-onnx",
        _sums("control_input [ { " + _FP32_START + " } ] state [ { " + _STATE.replace("[ 2 ]", "[ 3 ]") + " } ]"),
    ),
    bad(
        "SEQ020",
        "sequences/state-output-absent-onnx",
        _sums("control_input [ { " + _FP32_START + " } ] state [ { " + _STATE.replace('"SO"', '"S"') + " } ]"),
    ),
    bad("SEQ020", "sequences/nothing-said-onnx", _sums("")),
]
