"""Written configs, and where given ones disagree with a model file. What the real server says: tests/judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import Unplannable
from composer.models.agreement import Difference, differences
from composer.models.autoconfig import UNSURE, completed, to_fill_in, written
from composer.models.configuration import parse_configuration
from composer.models.onnx import OnnxModel, read_onnx
from composer.models.schema import ModelConfig
from composer.models.tensorrt_plan import TensorRtPlan, read_plan
from composer.models.torchscript import TorchFile, read_torch
from tests.judge import autoconfig, onnx_configs, shapes
from tests.judge.autoconfig import with_choices
from tests.judge.server import RELEASES
from tests.modelfiles import (
    Value,
    aoti_package,
    field,
    legacy_pickle,
    map_of,
    node,
    onnx_add_sub,
    onnx_cnn,
    onnx_identity,
    onnx_linear,
    onnx_model,
    plan,
    sequence_of,
    state_dict,
    tensor,
    torchscript,
    torchscript_two_outputs,
    ultralytics_plan,
)


def _onnx(folder: Path, data: bytes) -> OnnxModel:
    (folder / "model.onnx").write_bytes(data)
    model = read_onnx(folder / "model.onnx")
    assert isinstance(model, OnnxModel), model
    return model


def _torch(folder: Path, data: bytes) -> TorchFile:
    (folder / "model.pt").write_bytes(data)
    file = read_torch(folder / "model.pt")
    assert isinstance(file, TorchFile), file
    return file


def _plan(folder: Path, data: bytes) -> TensorRtPlan:
    (folder / "model.plan").write_bytes(data)
    file = read_plan(folder / "model.plan")
    assert isinstance(file, TensorRtPlan), file
    return file


def _parsed(text: str) -> ModelConfig:
    configuration = parse_configuration(text.encode(), path=Path("config.pbtxt"))
    assert not configuration.faults, configuration.faults
    return configuration.message


# -- ONNX


def test_a_model_that_batches(tmp_path: Path) -> None:
    config = _parsed(written("cnn", _onnx(tmp_path, onnx_cnn())))
    assert (config.name, config.backend, config.platform) == ("cnn", "onnxruntime", "onnxruntime_onnx")
    assert config.default_model_filename == "model.onnx"
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (4, True)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("data", 11, [3, 8, 8])]
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [("prob", 11, [10])]


def test_a_model_that_does_not(tmp_path: Path) -> None:
    config = _parsed(written("cnn", _onnx(tmp_path, onnx_cnn(batch=1))))
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert list(config.input[0].dims) == [1, 3, 8, 8]


def test_one_number_for_each_of_the_batch(tmp_path: Path) -> None:
    config = _parsed(written("m", _onnx(tmp_path, onnx_identity(dims=("N",)))))
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")
    assert not config.input[0].reshape.shape


@pytest.mark.parametrize("dims", [(), None])
def test_a_single_number_without_a_batch(tmp_path: Path, dims: tuple[int, ...] | None) -> None:
    config = _parsed(written("m", _onnx(tmp_path, onnx_identity(dims=dims))))
    assert (config.max_batch_size, list(config.input[0].dims), config.input[0].HasField("reshape")) == (0, [1], False)


def test_inputs_with_a_value_of_their_own_are_left_out(tmp_path: Path) -> None:
    text = written("m", _onnx(tmp_path, onnx_linear(overridable=True)))
    assert [one.name for one in _parsed(text).input] == ["X"]
    assert "no request needs to give them: W, B" in text


@pytest.mark.parametrize(("release", "batch"), [("21.08", 1), ("22.05", 1), ("22.06", 4), ("24.10", 4), (None, 4)])
def test_what_the_server_completes_by_release(tmp_path: Path, release: str | None, batch: int) -> None:
    told = completed(_onnx(tmp_path, onnx_cnn()), release=release)
    assert (told.max_batch_size, told.dynamic_batching) == (batch, batch > 1)


def test_bf16_came_late(tmp_path: Path) -> None:
    model = _onnx(tmp_path, onnx_identity(datatype="BF16"))
    assert "TYPE_BF16" in written("m", model, release="26.03")
    with pytest.raises(Unplannable, match=r"BF16, which the ONNX Runtime backend of 26.02 does not take"):
        written("m", model, release="26.02")


def test_single_numbers_came_late(tmp_path: Path) -> None:
    model = _onnx(tmp_path, onnx_identity(dims=()))
    assert "dims: [ 1 ]" in written("m", model, release="23.10")
    with pytest.raises(Unplannable, match=r"a single number, which the ONNX Runtime backend of 23.09 does not take"):
        written("m", model, release="23.09")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (sequence_of(map_of("INT64", ("FP32", []))), r"is no tensor \(sequence\)"),
        (("COMPLEX64", ["N"]), "no datatype for"),
        (("FP32", ["N", 0]), "a dimension of size 0"),
    ],
)
def test_models_that_no_config_helps(tmp_path: Path, value: Value, words: str) -> None:
    model = _onnx(tmp_path, onnx_model(inputs={"X": ("FP32", ["N"])}, outputs={"Y": value}, nodes=[]))
    with pytest.raises(Unplannable, match=words) as caught:
        written("m", model)
    assert caught.value.hint


@pytest.mark.parametrize("data", [onnx_cnn(), onnx_cnn(batch=1), onnx_add_sub("STRING", ("N", None, "a"))])
def test_every_choice_can_be_taken(tmp_path: Path, data: bytes) -> None:
    text = written("m", _onnx(tmp_path, data))
    plain, chosen = _parsed(text), _parsed(with_choices(text, "KIND_GPU"))
    assert not plain.model_warmup
    assert [one.kind for one in chosen.instance_group] == [1]
    for sample in chosen.model_warmup:
        assert {key: list(one.dims) for key, one in sample.inputs.items()} == {
            one.name: [max(1, dim) for dim in one.dims] for one in plain.input
        }
    assert len(chosen.model_warmup) == 1


def test_names_that_are_hard_to_spell(tmp_path: Path) -> None:
    name = 'say "hi"\\\n\té\0'
    text = written(name, _onnx(tmp_path, onnx_identity([(name, "Y")])), filename="a b.onnx")
    config = _parsed(text)
    assert (config.name, config.input[0].name, config.default_model_filename) == (name, name, "a b.onnx")


@given(name=st.text(min_size=1, max_size=20))
def test_any_name_can_be_spelled(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    clean = name.encode("utf-8", "replace").decode()
    text = written(clean, _onnx(folder, onnx_identity([(clean, "Y")])))
    assert _parsed(text).name == clean
    assert _parsed(with_choices(text, "KIND_GPU")).input[0].name == clean


# -- shapes that are found out


def _of(outputs: Value, nodes: list[bytes], inputs: Value = ("FP32", ["N", 4]), **how: list[bytes]) -> bytes:
    return onnx_model(inputs={"X": inputs}, outputs={"Y": outputs}, nodes=nodes, **how)  # type: ignore[arg-type]


def test_a_size_that_the_file_only_names_is_found_out(tmp_path: Path) -> None:
    """ONNX Runtime knows it, so the server refuses a config with -1."""
    weights = [tensor("W", "FP32", [4, 3], [0.0] * 12)]
    data = _of(("FP32", ["batch", "classes"]), [node("MatMul", ["X", "W"], ["Y"])], initializers=weights)
    model = _onnx(tmp_path, data)
    assert (model.outputs[0].dims, model.outputs[0].sure) == (("batch", 3), True)
    assert list(_parsed(written("m", model)).output[0].dims) == [3]


def test_a_shape_that_the_file_does_not_give(tmp_path: Path) -> None:
    model = _onnx(tmp_path, _of(("FP32", None), [node("Relu", ["X"], ["Y"])]))
    assert (model.outputs[0].shape, model.outputs[0].sure) == ((-1, 4), True)


def test_what_an_unknown_operator_does_to_a_shape_is_not_guessed(tmp_path: Path) -> None:
    data = _of(("FP32", ["N", "k"]), [node("Odd", ["X"], ["y"], domain="mine"), node("Relu", ["y"], ["Y"])])
    model = _onnx(tmp_path, data)
    assert (model.outputs[0].dims, model.outputs[0].sure) == (("N", "k"), False)
    assert UNSURE in written("m", model)
    for dims in ("4", "-1"):
        config = 'max_batch_size: 4 input { name: "X" data_type: TYPE_FP32 dims: 4 } output { name: "Y" '
        assert not differences(_parsed(f"{config} data_type: TYPE_FP32 dims: {dims} }}"), model)


def test_sizes_that_the_file_gives_are_sure_whatever_makes_them(tmp_path: Path) -> None:
    model = _onnx(tmp_path, _of(("FP32", [2, 3]), [node("Odd", ["X"], ["Y"], domain="mine")]))
    assert (model.outputs[0].shape, model.outputs[0].sure) == ((2, 3), True)


def test_shapes_of_values_within_the_graph_are_heeded(tmp_path: Path) -> None:
    told = field(13, field(1, "y") + field(2, field(1, field(1, 1) + field(2, field(1, b"") + field(1, field(1, 7))))))
    data = _of(("FP32", None), [node("Odd", ["X"], ["y"], domain="mine"), node("Relu", ["y"], ["Y"])])
    model = _onnx(tmp_path, data + field(7, told))
    assert (model.outputs[0].shape, model.outputs[0].sure) == ((-1, 7), False)


def test_numbers_without_end_are_no_matter(tmp_path: Path) -> None:
    """Each node squares the one before: a number of 2^300 digits, were it computed."""
    nodes = [node("Mul", [f"c{at}", f"c{at}"], [f"c{at + 1}"]) for at in range(300)]
    constants = [tensor("c0", "INT64", [2], [3, 3])]
    data = _of(("FP32", None), [*nodes, node("Reshape", ["X", "c300"], ["Y"])], initializers=constants)
    assert not _onnx(tmp_path, data).outputs[0].sure


def test_drawn_graphs_have_the_shapes_that_onnx_runtime_says(tmp_path: Path) -> None:
    """Its words are recorded: `python -m tests.judge.shapes record`."""
    found = {number: shapes.judged(int(number), tmp_path, truth) for number, truth in shapes.recorded().items()}
    assert [number for number, outcome in found.items() if outcome == "wrong"] == []
    counts = Counter(found.values())
    assert len(found) == shapes.COUNT
    assert counts["right"] > 6 * counts["unsure"] > 0


# -- PyTorch and TensorRT


def test_torchscript_leaves_to_people_what_the_file_does_not_say(tmp_path: Path) -> None:
    text = written("m", _torch(tmp_path, torchscript_two_outputs()))
    config = _parsed(text)
    assert (config.backend, config.platform, config.default_model_filename) == (
        "pytorch",
        "pytorch_libtorch",
        "model.pt",
    )
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("input_ids", 0, [])]
    assert [one.name for one in config.output] == ["OUTPUT__0", "OUTPUT__1"]
    assert len(to_fill_in(text)) == 1 + 2 * 3
    assert "INT64" not in text.replace("TYPE_INT64 for torch.long", "")


def test_torchscript_of_texts(tmp_path: Path) -> None:
    code = "class Model(Module):\n  def forward(self: __torch__.Model, s: List[str]) -> List[str]:\n    return s\n"
    text = written("m", _torch(tmp_path, torchscript(code)))
    config = _parsed(text)
    assert [(one.data_type, list(one.dims)) for one in (*config.input, *config.output)] == [(13, [1])] * 2
    assert len(to_fill_in(text)) == 1


@pytest.mark.parametrize("code", ["", "class Model(Module):\n  def forward(self: M) -> Dict[str, Tensor]:\n"])
def test_torchscript_that_tells_nothing(tmp_path: Path, code: str) -> None:
    text = written("m", _torch(tmp_path, torchscript(code)))
    config = _parsed(text)
    assert [one.name for one in (*config.input, *config.output)] == ["INPUT__0", "OUTPUT__0"]
    assert text.count("one more block for each further") == 2


@pytest.mark.parametrize("data", [state_dict(), legacy_pickle(), aoti_package()])
def test_files_of_pytorch_that_the_server_does_not_run(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Unplannable, match="the server cannot run this file") as caught:
        written("m", _torch(tmp_path, data))
    assert "torch.jit.save" in str(caught.value.hint)


def test_a_plan_is_left_to_the_server(tmp_path: Path) -> None:
    text = written("m", _plan(tmp_path, plan()))
    config = _parsed(text)
    assert (config.backend, config.platform, config.default_model_filename) == (
        "tensorrt",
        "tensorrt_plan",
        "model.plan",
    )
    assert "TensorRT 10.4.0.26" in text
    _parsed(with_choices(text, "KIND_GPU"))


def test_a_plan_behind_json_is_cut_out_by_the_hint(tmp_path: Path) -> None:
    data = ultralytics_plan()
    with pytest.raises(Unplannable) as caught:
        written("m", _plan(tmp_path, data))
    start = int(str(caught.value.hint).split("+")[1].split()[0])
    assert data[start - 1 :] == plan()


# -- what a given config disagrees in


def _given(batch: int = 4, *, inputs: str | None = None, outputs: str | None = None, more: str = "") -> ModelConfig:
    """A config for onnx_cnn() that the server takes, but for what is given."""
    inputs = 'name: "data" data_type: TYPE_FP32 dims: [3, 8, 8]' if inputs is None else inputs
    outputs = 'name: "prob" data_type: TYPE_FP32 dims: [10]' if outputs is None else outputs
    text = f'name: "m" max_batch_size: {batch} {more}'
    text += f" input {{ {inputs} }}" if inputs else ""
    return _parsed(text + (f" output {{ {outputs} }}" if outputs else ""))


def _found(config: ModelConfig, folder: Path, data: bytes | None = None) -> list[Difference]:
    return differences(config, _onnx(folder, onnx_cnn() if data is None else data))


_PROB = 'name: "prob" data_type: TYPE_FP32 dims: '


@pytest.mark.parametrize(
    "config",
    [
        _given(),
        _given(inputs="", outputs=""),
        _given(inputs=""),
        _given(0, inputs="", outputs=""),
        _given(0, inputs='name: "data" data_type: TYPE_FP32 dims: [5, 3, 8, 8]', outputs=_PROB + "[-1, 10]"),
        _given(inputs='name: "data" data_type: TYPE_FP32 dims: [192] reshape { shape: [3, 8, 8] }'),
        _given(64, more="dynamic_batching { }"),
    ],
)
def test_configs_that_agree(tmp_path: Path, config: ModelConfig) -> None:
    assert _found(config, tmp_path) == []


def test_a_batch_of_none_is_four_where_the_server_fills_something_in(tmp_path: Path) -> None:
    """It turns on batching all by itself, so that the dims of the rest are wrong."""
    found = _found(_given(0, inputs='name: "data" data_type: TYPE_FP32 dims: [5, 3, 8, 8]', outputs=""), tmp_path)
    assert [(one.kind, one.key, one.expected) for one in found] == [("dims", ("input", 0, "dims"), "[ 3, 8, 8 ]")]
    assert "making complete shape [-1,5,3,8,8])" in found[0].words


def test_a_strict_server_fills_nothing_in(tmp_path: Path) -> None:
    model = _onnx(tmp_path, onnx_cnn())
    found = differences(_given(0, inputs="", outputs=_PROB + "[-1, 10]"), model, strict=True)
    assert [one.words for one in found] == [
        "unable to load model 'm', configuration expects 0 inputs, model provides 1"
    ]
    assert differences(_given(inputs="", outputs=""), _onnx(tmp_path, onnx_cnn(batch=1)), strict=True)[0].key == (
        "input",
    )


DISAGREE = {
    "unknown_input": (
        _given(inputs='name: "date" data_type: TYPE_FP32 dims: [3, 8, 8]'),
        ("input", 0, "name"),
        "unexpected inference input 'date', allowed inputs are: data",
        '"data"',
    ),
    "unknown_output": (
        _given(outputs='name: "x" data_type: TYPE_FP32 dims: [10]'),
        ("output", 0, "name"),
        "unexpected inference output 'x', allowed outputs are: prob",
        '"prob"',
    ),
    "datatype": (
        _given(inputs='name: "data" data_type: TYPE_INT8 dims: [3, 8, 8]'),
        ("input", 0, "data_type"),
        "unable to load model 'm', configuration expects datatype TYPE_INT8 for input 'data', model provides TYPE_FP32",
        "TYPE_FP32",
    ),
    "dims": (
        _given(inputs='name: "data" data_type: TYPE_FP32 dims: [3, 8]'),
        ("input", 0, "dims"),
        "model 'm', tensor 'data': the model expects 4 dimensions (shape [-1,3,8,8]) but the model configuration "
        "specifies 3 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor "
        "shape, making complete shape [-1,3,8])",
        "[ 3, 8, 8 ]",
    ),
    "optional": (
        _given(inputs='name: "data" data_type: TYPE_FP32 dims: [3, 8, 8] optional: true'),
        ("input", 0, "optional"),
        "unable to load model 'm', optional input 'data' is not supported for models that support batching",
        None,
    ),
    "ragged": (
        _given(inputs='name: "data" data_type: TYPE_FP32 dims: [3, 8, 8] allow_ragged_batch: true'),
        ("input", 0, "allow_ragged_batch"),
        "unable to load model 'm', configuration expects model provides input with shape [-1]  for ragged input "
        "'data', model provides [-1,3,8,8]",
        None,
    ),
}


@pytest.mark.parametrize("kind", DISAGREE)
def test_configs_that_disagree(tmp_path: Path, kind: str) -> None:
    config, key, words, expected = DISAGREE[kind]
    found = next(one for one in _found(config, tmp_path) if one.kind == kind)
    assert (found.key, found.words, found.expected) == (key, words, expected)
    assert found.message


def test_outputs_are_compared_to_the_last_dimension(tmp_path: Path) -> None:
    data = onnx_identity(dims=("N", "L"))
    ports = [f'name: "{name}" data_type: TYPE_FP32 dims: [8]' for name in "XY"]
    found = _found(_given(inputs=ports[0], outputs=ports[1]), tmp_path, data)
    assert [(one.kind, one.key, one.expected) for one in found] == [("dims", ("output", 0, "dims"), "[ -1 ]")]


@pytest.mark.parametrize(
    ("config", "key"),
    [(_given(4), ("max_batch_size",)), (_given(4, inputs="", outputs=""), ("max_batch_size",))],
)
def test_a_batch_that_the_model_does_not_have(tmp_path: Path, config: ModelConfig, key: tuple[str, ...]) -> None:
    found = _found(config, tmp_path, onnx_cnn(batch=1))
    assert {(one.kind, one.key, one.expected) for one in found} == {("batching", key, "0")}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ('name: "W" data_type: TYPE_FP32 dims: [4, 3]', "lacks: X"),
        (
            'name: "X" data_type: TYPE_FP32 dims: [2, 4] } input { name: "W" data_type: TYPE_FP32 dims: [4, 3]',
            "for W: ",
        ),
    ],
)
def test_the_number_of_inputs(tmp_path: Path, inputs: str, words: str) -> None:
    config = _given(0, inputs=inputs, outputs='name: "Y" data_type: TYPE_FP32 dims: [-1, 3]')
    found = [one for one in _found(config, tmp_path, onnx_linear(overridable=True)) if one.kind == "input_count"]
    assert [words in one.message for one in found] == ([True] if "X" in inputs else [])
    optional = _given(
        0,
        inputs='name: "X" data_type: TYPE_FP32 dims: [2, 4] } input { name: "W" optional: true '
        "data_type: TYPE_FP32 dims: [4, 3]",
        outputs='name: "Y" data_type: TYPE_FP32 dims: [-1, 3]',
    )
    assert _found(optional, tmp_path, onnx_linear(overridable=True)) == []


def test_inputs_that_a_sequence_batcher_gives(tmp_path: Path) -> None:
    ends: dict[str, Value] = {"X": ("FP32", ["N", 4]), "START": ("FP32", ["N", 1])}
    data = onnx_model(inputs=ends, outputs={"Y": ("FP32", ["N", 4])}, nodes=[node("Mul", ["X", "START"], ["Y"])])
    control = "control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] } }"
    ports = [f'name: "{name}" data_type: TYPE_FP32 dims: [4]' for name in "XY"]
    config = _given(inputs=ports[0], outputs=ports[1], more=f"sequence_batching {{ {control} }}")
    assert _found(config, tmp_path, data) == []
    assert [one.kind for one in _found(_given(inputs=ports[0], outputs=ports[1]), tmp_path, data)] == ["input_count"]
    absent = _found(config, tmp_path, onnx_identity())
    assert [one.words for one in absent if one.kind == "control"] == [
        "configuration specified sequence control 'START', but model does not provide that input"
    ]
    ends["START"] = ("FP32", ["N", 2])
    data = onnx_model(inputs=ends, outputs={"Y": ("FP32", ["N", 4])}, nodes=[])
    assert [(one.kind, one.key) for one in _found(config, tmp_path, data)] == [
        ("control", ("sequence_batching", "control_input", 0, "name"))
    ]


@pytest.mark.parametrize("dims", ["[1]", "[1, 1]"])
def test_a_single_number(tmp_path: Path, dims: str) -> None:
    ports = [f'name: "{name}" data_type: TYPE_FP32 dims: {dims}' for name in "XY"]
    assert _found(_given(0, inputs=ports[0], outputs=ports[1]), tmp_path, onnx_identity(dims=())) == []
    wrong = [f'name: "{name}" data_type: TYPE_FP32 dims: [2]' for name in "XY"]
    found = _found(_given(0, inputs=wrong[0], outputs=wrong[1]), tmp_path, onnx_identity(dims=()))
    assert [one.expected for one in found] == ["[ 1 ]", "[ 1 ]"]


@pytest.mark.parametrize("release", RELEASES)
def test_drawn_configs_are_refused_where_the_real_server_refuses_them(release: str) -> None:
    """In its words too. They are recorded: `python -m tests.judge.onnx_configs RELEASE`."""
    recorded = onnx_configs.recorded(release)
    found = {number: onnx_configs.judged(number, words, release) for number, words in recorded.items()}
    assert [number for number, outcome in found.items() if outcome == "wrong"] == []
    counts = Counter(found.values())
    assert len(found) == onnx_configs.COUNT
    assert min(counts["refused"], counts["served"]) > 150


def test_models_that_cannot_be_served_are_told_by_what_they_have(tmp_path: Path) -> None:
    data = onnx_model(inputs={"X": ("FP32", ["N"])}, outputs={"Y": sequence_of(("FP32", []))}, nodes=[])
    found = _found(_given(), tmp_path, data)
    assert [(one.kind, one.key) for one in found] == [("unserved", ())]
    assert found[0].words == "Unsupported ONNX Type 'ONNX_TYPE_SEQUENCE' for I/O 'Y', expected 'ONNX_TYPE_TENSOR'."


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_written_is_what_the_real_server_completes(tmp_path: Path, release: str) -> None:
    """Its configs are recorded: `python -m tests.judge.autoconfig RELEASE`."""
    recorded = autoconfig.recorded(release)
    found = {**autoconfig.models(), **autoconfig.of_the_corpus(release)}
    for name, files in autoconfig.models().items():
        assert name in recorded, "python -m tests.judge.autoconfig"
        assert _written_for(name, files, tmp_path / name, release) == recorded[name]
    known = [name for name in found if recorded.get(name)]
    assert len(known) > 50
    for name in known:
        assert _written_for(name, found[name], tmp_path / "again" / name, release) == recorded[name]


def _written_for(name: str, files: Mapping[str, bytes], folder: Path, release: str) -> Mapping[str, Any] | None:
    """What is written for a model, as the server would say it; None where nothing can be."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    model = read_onnx(folder / "model.onnx")
    assert isinstance(model, OnnxModel)
    try:
        config = _parsed(written(name, model, release=release))
    except Unplannable:
        return None
    keys = ("name", "backend", "platform", "default_model_filename", "max_batch_size")
    ports = {key: sorted(map(_port, getattr(config, key)), key=itemgetter("name")) for key in ("input", "output")}
    batching = config.HasField("dynamic_batching")
    return {**{key: getattr(config, key) for key in keys}, **ports, "dynamic_batching": batching}


def _port(io: Any) -> Mapping[str, Any]:
    datatype = io.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[io.data_type].name
    reshape = {"reshape": {"shape": list(io.reshape.shape)}} if io.HasField("reshape") else {}
    return {"name": io.name, "data_type": datatype, "dims": list(io.dims), **reshape}


@pytest.mark.parametrize("number", range(0, 300, 3))
def test_what_is_written_never_disagrees(tmp_path: Path, number: int) -> None:
    model = _onnx(tmp_path, shapes.drawn(number))
    try:
        text = written("m", model)
    except Unplannable:
        return
    assert differences(_parsed(text), model) == []
