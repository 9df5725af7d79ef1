"""Sequence batching: controls, strategies, states."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.models.lint import Case
from composer.releases import RELEASES
from tests.modelfiles import node, onnx_model

from . import PLAIN, Files, assert_finds, assert_silent, model

BASE = """name: "m"
backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


def sequences(fields: str) -> str:
    """A config with sequence batching."""
    return f"{BASE}sequence_batching {{ {fields} }}\n"


def control(fields: str, name: str = 'name: "C"') -> str:
    """A config with one control input."""
    return sequences(f"control_input [ {{ {name} control [ {{ {fields} }} ] }} ]")


def state(fields: str, data_type: str = "data_type: TYPE_FP32") -> str:
    """A config with one state, without dims."""
    return sequences(f'state [ {{ input_name: "SI" output_name: "SO" {data_type} {fields} }} ]')


def begins(fields: str, data_type: str = "data_type: TYPE_FP32", name: str = 'name: "b"') -> str:
    """A config with a state of two numbers that begins with something."""
    return state(f"dims: [ 2 ] initial_state {{ {name} {data_type} {fields} }}")


START = "kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ]"
END = "kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ]"
CORRID = "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64"
TWO = 'control_input [ {{ name: "A" control [ {{ {0} }} ] }}, {{ name: {2}"{3}" control [ {{ {1} }} ] }} ]'
STATE = 'state {{ input_name: {0}"{1}" output_name: "SO" data_type: TYPE_FP32 dims: [ 2 ] {2} }}'
ZERO = 'initial_state { name: "b" data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }'

RULES = [
    (
        "SEQ001",
        control(START, name="").replace("control_input [ {", "control_input [ ^{"),
        control(START),
    ),
    (
        "SEQ002",
        sequences(TWO.format(START, END, "^", "A")),
        sequences(TWO.format(START, END, "", "B")),
    ),
    (
        "SEQ003",
        sequences(TWO.format(START, START.replace("kind: ", "kind: ^"), "", "B")),
        sequences(TWO.format(START, END, "", "B")),
    ),
    (
        "SEQ004",
        sequences('control_input { name: "C" ^control { kind: CONTROL_SEQUENCE_READY } }'),
        sequences(
            'control_input { name: "C" control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } }'
        ),
    ),
    (
        "SEQ005",
        control(START + " ^bool_false_true: [ false, true ]"),
        control(START),
    ),
    ("SEQ006", control("kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1, 2 ]"), control(START)),
    ("SEQ007", control("kind: CONTROL_SEQUENCE_CORRID data_type: ^TYPE_FP32"), control(CORRID)),
    ("SEQ008", control(CORRID + " int32_false_true: [ 0, 1 ]"), control(CORRID)),
    (
        "SEQ009",
        sequences("oldest { max_candidate_sequences: 4 preferred_batch_size: [ 4, ^5 ] }"),
        sequences("oldest { preferred_batch_size: [ 4 ] }"),
    ),
    (
        "SEQ009",
        sequences("oldest { max_candidate_sequences: 4 preferred_batch_size: [ ^0 ] }"),
        sequences("oldest { preferred_batch_size: [ 1 ] }"),
    ),
    (
        "SEQ010",
        sequences("direct { minimum_slot_utilization: ^1.5 }"),
        sequences("direct { minimum_slot_utilization: 1 }"),
    ),
    (
        "SEQ011",
        begins("dims: [ 2 ] zero_data: true", "data_type: ^TYPE_INT32"),
        begins("dims: [ 2 ] zero_data: true"),
    ),
    (
        "SEQ012",
        begins("dims: [ 2 ] zero_data: true", name="").replace("initial", "^initial"),
        begins("dims: [ 2 ] zero_data: true"),
    ),
    ("SEQ013", begins("dims: [ 2, 1 ] zero_data: true"), begins("dims: [ 2 ] zero_data: true")),
    ("SEQ013", begins("dims: [ 3 ] zero_data: true"), begins("dims: [ 2 ] zero_data: false")),
    ("SEQ014", begins("dims: [ ^-1 ] zero_data: true"), begins("dims: [ 2 ] zero_data: true")),
    ("SEQ015", begins('dims: [ 2 ] data_file: ^"x"'), begins("dims: [ 2 ] zero_data: true")),
    ("SEQ017", begins("dims: [ 2 ]").replace("initial", "^initial"), begins("dims: [ 2 ] zero_data: true")),
    (
        "SEQ018",
        sequences(STATE.format("", "SI", ZERO) + STATE.format("^", "SI", ZERO)),
        sequences(STATE.format("", "SI", ZERO) + STATE.format("", "SI", "")),
    ),
    (
        "SEQ019",
        state("dims: [ 2 ] use_growable_memory: ^true"),
        state("dims: [ 2 ] use_growable_memory: true use_same_buffer_for_input_output: true"),
    ),
    (
        "SEQ023",
        sequences(STATE.format("", "", "")).replace("state {", "^state {"),
        sequences(STATE.format("", "SI", "")),
    ),
    ("SEQ024", state("dims: [ 2 ]", data_type=""), state("dims: [ 2 ]")),
]


@pytest.mark.parametrize(("rule", "bad", "good"), RULES)
def test_finds_one_thing_in_its_place(tmp_path: Path, rule: str, bad: str, good: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    if "^" in bad:
        assert_finds(tmp_path / "bad", rule, bad)
    else:
        assert [one.rule.id for one in model(tmp_path / "bad", bad) if one.severity == "error"] == [rule]
    assert_silent(tmp_path / "good", rule, good)


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "rule"), [(7, "SEQ016"), (8, None), (9, None)])
def test_the_file_that_a_state_begins_with(tmp_path: Path, size: int, rule: str | None) -> None:
    files: Files = {"1/model.py": PLAIN, "initial_state/x": bytes(size)}
    config = begins('dims: [ 2 ] data_file: ^"x"')
    if rule:
        found = assert_finds(tmp_path, rule, config, files)
        assert found.says == "initial_state setting expects 8 bytes, but the data provided from xonly has 7 bytes."
    else:
        assert_silent(tmp_path, "SEQ015", config.replace("^", ""), files)


def test_strings_may_be_of_any_length(tmp_path: Path) -> None:
    config = begins('dims: [ 2 ] data_file: "x"', "data_type: TYPE_STRING").replace(
        'SO" data_type: TYPE_FP32', 'SO" data_type: TYPE_STRING'
    )
    assert_silent(tmp_path, "SEQ016", config, {"1/model.py": PLAIN, "initial_state/x": b"a"})


# -- releases and backends ------------------------------------------------------------------------


@pytest.mark.parametrize(("release", "refused"), [("24.03", True), ("24.07", False), ("24.10", True), ("25.01", False)])
def test_ids_that_are_strings(tmp_path: Path, release: str, refused: bool) -> None:
    config = control("kind: CONTROL_SEQUENCE_CORRID data_type: ^TYPE_STRING")
    case = Case(release=RELEASES[release])
    if refused:
        assert_finds(tmp_path, "SEQ025", config, case=case)
    else:
        assert_silent(tmp_path, "SEQ025", config.replace("^", ""), case=case)


@pytest.mark.parametrize(("release", "refused"), [("23.08", True), ("23.09", False)])
def test_older_releases_want_room_for_sequences(tmp_path: Path, release: str, refused: bool) -> None:
    config, case = sequences("^oldest { }"), Case(release=RELEASES[release])
    if refused:
        assert_finds(tmp_path, "SEQ026", config, case=case)
    else:
        assert_silent(tmp_path, "SEQ026", config.replace("^", ""), case=case)


def test_growing_states_want_a_gpu(tmp_path: Path) -> None:
    config = state("dims: [ 2 ] use_growable_memory: ^true use_same_buffer_for_input_output: true")
    assert_finds(tmp_path, "SEQ019", config, case=Case(gpus=0))


@pytest.mark.parametrize(("name", "known"), [("START__1", True), ("A__B__1", False), ("START", False), ("X__", True)])
def test_controls_of_torchscript_say_which_argument(tmp_path: Path, name: str, known: bool) -> None:
    config = control(START, name=f'name: "{name}"').replace("python", "pytorch")
    found = model(tmp_path, config, {"1/model.pt": b""})
    assert ("SEQ021" in {one.rule.id for one in found}) is not known


def _onnx(control_type: str = "FP32", state_type: str = "FP32", size: int = 2) -> Files:
    made = onnx_model(
        inputs={"X": ("FP32", ["N", 2]), "C": (control_type, ["N", 1]), "SI": (state_type, ["N", size])},
        outputs={"Y": ("FP32", ["N", 2]), "SO": (state_type, ["N", size])},
        nodes=[node("Identity", ["X"], ["Y"]), node("Identity", ["SI"], ["SO"])],
    )
    return {"1/model.onnx": made}


WHOLE = sequences(
    f'control_input [ {{ name: "C" control [ {{ {START} }} ] }} ] state [ '
    '{ input_name: "SI" output_name: "SO" data_type: TYPE_FP32 dims: [ 2 ] } ]'
).replace("python", "onnxruntime")


@pytest.mark.parametrize(
    ("config", "files", "count"),
    [
        (WHOLE, _onnx(), 0),
        (WHOLE.replace('"C"', '"D"'), _onnx(), 1),
        (WHOLE, _onnx(control_type="INT32"), 1),
        (WHOLE, _onnx(state_type="INT32"), 1),
        (WHOLE, _onnx(size=3), 1),
        (WHOLE.replace("dims: [ 2 ] } ] }", "dims: [ -1 ] } ] }"), _onnx(size=1), 0),
        (WHOLE.replace('"SI"', '"S"'), _onnx(), 1),
        (WHOLE.replace('"SO"', '"S"'), _onnx(), 1),
        (WHOLE.replace('input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]\n', "", 1), _onnx(), 1),
    ],
)
def test_controls_and_states_are_those_of_the_onnx_file(tmp_path: Path, config: str, files: Files, count: int) -> None:
    found = model(tmp_path, config, files)
    assert len([one for one in found if one.rule.id == "SEQ020"]) == count
