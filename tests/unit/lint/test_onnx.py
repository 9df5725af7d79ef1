"""ONNX files: versions, operators, weights; the config against the file; accelerators and parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.models.lint import Case
from composer.models.lint import onnx as family
from composer.models.lint.rule import RULES
from composer.releases import RELEASES
from composer.releases import onnx as facts
from tests.modelfiles import external_tensor, field, map_of, node, onnx_model, sequence_of, varint

from . import Files, assert_finds, assert_finds_at, assert_silent, model

NAMED = 'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: 4\n'
FLAT = NAMED.replace("4", "0")
X = 'input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
Y = 'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]\n'
CONFIG = NAMED + X + Y
SHAPE = ("FP32", ["N", 2])
IDENTITY = [node("Identity", ["X"], ["Y"])]
R2410 = Case(release=RELEASES["24.10"])
STRICT = Case(release=RELEASES["24.10"], server={"disable-auto-complete-config": True})


def onnx(nodes: list[bytes] = IDENTITY, **how: object) -> bytes:
    """Y is made of X, which is FP32 [N, 2]."""
    told = {"ir_version": 7, **how}
    return onnx_model(inputs={"X": SHAPE}, outputs={"Y": SHAPE}, nodes=nodes, **told)  # type: ignore[arg-type]


def one(data: bytes) -> Files:
    return {"1/model.onnx": data}


def spread(location: str, *, offset: int | None = None, length: int | None = None) -> bytes:
    """A model with 8 bytes of weights in another file."""
    weights = external_tensor("W", "FP32", [2], location, offset=offset, length=length)
    return onnx([node("Add", ["X", "W"], ["Y"])], initializers=[weights])


def release(name: str) -> Case:
    return Case(release=RELEASES[name])


# -- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "too_old", "enough"), [(9, "22.11", "23.05"), (10, "24.04", "24.05"), (11, "24.10", "25.08")]
)
def test_a_format_newer_than_the_release(tmp_path: Path, version: int, too_old: str, enough: str) -> None:
    files = one(onnx(ir_version=version, opset=11))
    found = assert_finds_at(tmp_path, "ONX001", "1/model.onnx", CONFIG, files, release(too_old))
    assert found.message.startswith(
        f"the file's IR version is {version}, and ONNX Runtime {RELEASES[too_old].onnxruntime}"
    )
    assert found.says == f"Unsupported model IR version: {version}, max supported IR version: {version - 1}"
    assert f'triton: "{enough}" or later' in found.fix
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "ONX001", CONFIG, files, release(enough))


def test_what_the_release_has_is_not_known(tmp_path: Path) -> None:
    assert_silent(tmp_path, "ONX001", CONFIG, one(onnx(ir_version=99, opset=99)), Case())


def test_a_release_without_a_known_runtime(tmp_path: Path) -> None:
    old = next(one for one in RELEASES.values() if one.onnxruntime is None)
    assert_silent(tmp_path, "ONX001", CONFIG, one(onnx(ir_version=99, opset=99)), Case(release=old, gpus=0))


def test_no_version_of_the_format(tmp_path: Path) -> None:
    found = assert_finds_at(tmp_path, "ONX001", "1/model.onnx", CONFIG, one(onnx(ir_version=None)))
    assert found.says == "Missing model IR version."


@pytest.mark.parametrize(
    ("domain", "version", "too_old", "enough"),
    [
        ("", 20, "24.02", "24.03"),
        ("", 22, "25.02", "25.03"),
        ("", 16, "22.04", "22.05"),
        ("ai.onnx.ml", 4, "24.02", "24.03"),
        ("com.microsoft", 2, "24.10", None),
    ],
)
def test_operators_newer_than_the_release(
    tmp_path: Path, domain: str, version: int, too_old: str, enough: str | None
) -> None:
    opsets = {"opset": version} if not domain else {"opset": 11, "opsets": {domain: version}}
    files = one(onnx(**opsets))
    found = assert_finds_at(tmp_path, "ONX002", "1/model.onnx", CONFIG, files, release(too_old))
    assert f"Opset {version} is under development" in found.says
    assert f"for domain {domain or 'ai.onnx'} is till opset {version - 1}" in found.says
    if enough is None:
        assert "triton" not in found.fix
        return
    assert found.fix.startswith(f'triton: "{enough}" or later')
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "ONX002", CONFIG, files, release(enough))


def test_no_opset(tmp_path: Path) -> None:
    found = assert_finds_at(tmp_path, "ONX002", "1/model.onnx", CONFIG, one(onnx(opset=None)))
    assert found.says.startswith("Missing opset in the model.")


def test_operators_that_nobody_vouches_for(tmp_path: Path) -> None:
    found = assert_finds_at(tmp_path, "ONX003", "1/model.onnx", CONFIG, one(onnx(opset=6)), R2410)
    assert found.severity == "warning"
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "ONX003", CONFIG, one(onnx(opset=7)), R2410)


def test_versions_that_are_not_served_do_not_count(tmp_path: Path) -> None:
    files = {"1/model.onnx": onnx(ir_version=13), "2/model.onnx": onnx()}
    assert_silent(tmp_path, "ONX001", CONFIG, files, R2410)


def test_each_version_that_is_served_counts(tmp_path: Path) -> None:
    files = {"1/model.onnx": onnx(ir_version=13), "2/model.onnx": onnx(), "3/model.onnx": onnx(ir_version=12)}
    found = model(tmp_path, CONFIG + "version_policy { all { } }\n", files, R2410)
    assert [(one.rule.id, one.path.parent.name) for one in found] == [("ONX001", "1"), ("ONX001", "3")]


# -- operators ------------------------------------------------------------------------------------

FOO = node("Foo", ["X"], ["Y"], domain="my.ops")
OF_ITS_OWN = field(
    25,
    field(1, "Foo")
    + field(4, "a")
    + field(5, "b")
    + field(7, node("Relu", ["a"], ["b"]))
    + field(9, field(2, 13))
    + field(10, "my.ops"),
)


def test_operators_of_nobody(tmp_path: Path) -> None:
    found = assert_finds_at(tmp_path, "ONX004", "1/model.onnx", CONFIG, one(onnx([FOO], opsets={"my.ops": 1})))
    assert found.says == "Fatal error: my.ops:Foo(-1) is not a registered function/op"


@pytest.mark.parametrize(
    "data",
    [
        onnx([node("Gelu", ["X"], ["Y"], domain="com.microsoft")], opsets={"com.microsoft": 1}),
        onnx([FOO], opsets={"my.ops": 1}, after=OF_ITS_OWN),
        onnx(opsets={"my.ops": 1}),
    ],
    ids=["of ONNX Runtime's own", "of the file's own", "imported and not used"],
)
def test_operators_that_are_there(tmp_path: Path, data: bytes) -> None:
    assert_silent(tmp_path, "ONX004", CONFIG, one(data), R2410)


def test_operators_in_functions_may_not_be_called(tmp_path: Path) -> None:
    bar = node("Bar", ["X"], ["Y"], domain="other.ops")
    found = model(tmp_path, CONFIG, one(onnx([bar], after=OF_ITS_OWN)), R2410)
    assert [(one.rule.id, one.severity) for one in found] == [("ONX004", "warning")]


def library(name: str) -> str:
    return CONFIG + f'model_operations {{ op_library_filename: [ ^"{name}" ] }}\n'


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    files = one(onnx([FOO], opsets={"my.ops": 1}))
    case = Case(release=RELEASES["24.10"], files=frozenset(["/opt/ops/other.so"]))
    found = assert_finds(tmp_path, "ONX005", library("/ops/libops.so"), files, case)
    assert found.fix == "files: [{from: ./libops.so, to: /ops/libops.so}]"
    for number, (name, brought) in enumerate(
        [
            ("/ops/libops.so", ["/ops/libops.so"]),
            ("/ops/libops.so", ["/ops"]),
            ("/opt/tritonserver/lib/libops.so", []),
            ("/models/m/1/model.onnx", []),
            ("libops.so", []),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        config = library(name).replace("^", "")
        assert_silent(tmp_path / str(number), "ONX005", config, files, Case(files=frozenset(brought)))


def test_a_library_beside_the_server(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "ONX005", library("./libops.so"), one(onnx()))
    assert found.severity == "warning"


def test_a_library_without_a_name(tmp_path: Path) -> None:
    assert assert_finds(tmp_path, "ONX005", library(""), one(onnx())).severity == "error"


# -- weights in other files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (spread("w.bin"), {}),
        (spread("w.bin"), {"1/w.bin": None}),
        (spread("w.bin", length=8), {"1/w.bin": b"1234567"}),
        (spread("w.bin", offset=4, length=8), {"1/w.bin": b"12345678"}),
        (spread("data/w.bin"), {"1/w.bin": b"12345678"}),
        (spread("../w.bin"), {"1/w.bin": b"12345678"}),
        (spread(""), {}),
    ],
    ids=["missing", "a folder", "cut off", "cut off behind its start", "elsewhere", "above", "nowhere"],
)
def test_weights_that_are_not_there(tmp_path: Path, data: bytes, more: Files) -> None:
    found = assert_finds_at(tmp_path, "ONX006", "1/model.onnx", CONFIG, {**one(data), **more}, R2410)
    assert found.says


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (spread("w.bin", length=8), {"1/w.bin": b"12345678"}),
        (spread("w.bin", offset=4, length=8), {"1/w.bin": b"123456789012"}),
        (spread("data/w.bin"), {"1/data/w.bin": b"12345678"}),
        (spread("../w.bin"), {"w.bin": b"12345678"}),
        (spread("../../n/w.bin"), {}),
    ],
    ids=["there", "behind its start", "in a folder", "above", "out of the model"],
)
def test_weights_that_are_there(tmp_path: Path, data: bytes, more: Files) -> None:
    assert_silent(tmp_path, "ONX006", CONFIG, {**one(data), **more}, R2410)


def test_weights_at_a_path_of_this_machine(tmp_path: Path) -> None:
    found = assert_finds_at(tmp_path, "ONX006", "1/model.onnx", CONFIG, one(spread("/data/w.bin")), R2410)
    assert found.severity == "warning"


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    files: Files = {"1/model.onnx/net.onnx": onnx()}
    found = assert_finds_at(tmp_path, "ONX007", "1/model.onnx", CONFIG, files, R2410)
    place = tmp_path / "m/1/model.onnx"
    assert found.fix == f"mv {place}/net.onnx {place}/model.onnx"
    assert found.says == f"unable to find '{place}/model.onnx' for model instance 'm'"


def test_a_folder_with_the_file_in_it(tmp_path: Path) -> None:
    files: Files = {"1/model.onnx/model.onnx": spread("w.bin"), "1/model.onnx/w.bin": b"12345678"}
    assert_silent(tmp_path, "ONX006", CONFIG, files, R2410)
    (tmp_path / "bad").mkdir()
    files = {"1/model.onnx/model.onnx": spread("w.bin"), "1/w.bin": b"12345678"}
    assert_finds_at(tmp_path / "bad", "ONX006", "1/model.onnx/model.onnx", CONFIG, files, R2410)


# -- the config and the file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "config", "fix"),
    [
        ("ONX008", NAMED + X.replace('"X"', '^"Z"') + Y, 'name: "X"'),
        ("ONX008", NAMED + X + Y.replace('"Y"', '^"Z"'), 'name: "Y"'),
        ("ONX010", NAMED + X.replace("TYPE_FP32", "^TYPE_FP16") + Y, "data_type: TYPE_FP32"),
        ("ONX010", NAMED + X + Y.replace("TYPE_FP32", "^TYPE_INT64"), "data_type: TYPE_FP32"),
        ("ONX011", NAMED + X.replace("dims: [ 2", "^dims: [ 3") + Y, "dims: [ 2 ]"),
        ("ONX011", FLAT + X.replace("dims: [", "^dims: [") + Y.replace("[ 2 ]", "[ -1, 2 ]"), "dims: [ -1, 2 ]"),
        ("ONX011", NAMED + X + Y.replace("dims: [ 2", "^dims: [ -1"), "dims: [ 2 ]"),
    ],
)
def test_a_config_that_disagrees(tmp_path: Path, rule: str, config: str, fix: str) -> None:
    found = assert_finds(tmp_path, rule, config, one(onnx()), R2410)
    assert found.fix == fix


def test_inputs_that_the_config_lacks(tmp_path: Path) -> None:
    data = onnx_model(inputs={"X": SHAPE, "Z": SHAPE}, outputs={"Y": SHAPE}, nodes=[node("Add", ["X", "Z"], ["Y"])])
    found = assert_finds(tmp_path, "ONX009", NAMED + "^" + X + Y, one(data), R2410)
    assert found.says == "unable to load model 'm', configuration expects 1 inputs, model provides 2"
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "ONX009", NAMED + Y, one(data), R2410)


def test_nothing_said_and_nothing_completed(tmp_path: Path) -> None:
    assert_finds(tmp_path, "ONX009", "^" + NAMED + Y, one(onnx()), STRICT)
    (tmp_path / "outputs").mkdir()
    assert_finds(tmp_path / "outputs", "ONX019", "^" + NAMED + X, one(onnx()), STRICT)
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "ONX009", NAMED, one(onnx()), R2410)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (sequence_of(SHAPE), "ONNX_TYPE_SEQUENCE"),
        (map_of("INT64", ("FP32", [])), "ONNX_TYPE_MAP"),
        (("COMPLEX64", [2]), ""),
    ],
)
def test_what_triton_has_no_tensors_for(tmp_path: Path, value: object, words: str) -> None:
    data = onnx_model(
        inputs={"X": SHAPE},
        outputs={"Y": SHAPE, "Z": value},
        nodes=IDENTITY,  # type: ignore[dict-item]
    )
    found = assert_finds_at(tmp_path, "ONX012", "1/model.onnx", CONFIG, one(data), R2410)
    assert words in found.says


# -- accelerators ---------------------------------------------------------------------------------


def accelerated(kind: str, inside: str, more: str = "") -> str:
    return f"{CONFIG}optimization {{ execution_accelerators {{ {kind}_execution_accelerator [ {inside} ] }} }}\n{more}"


GPU = Case(release=RELEASES["24.10"], gpus=1)
NO_GPU = Case(release=RELEASES["24.10"], gpus=0)
ON_CPU = "instance_group [ { kind: KIND_CPU } ]\n"


@pytest.mark.parametrize(
    ("kind", "name", "case"),
    [
        ("gpu", "foo", GPU),
        ("gpu", "openvino", GPU),
        ("gpu", "cuda", Case(release=RELEASES["24.05"], gpus=1)),
        ("cpu", "foo", NO_GPU),
        ("cpu", "tensorrt", GPU),
        ("cpu", "openvino", Case(release=RELEASES["24.10"], gpus=0, architecture="arm64")),
    ],
)
def test_accelerators_that_do_not_exist(tmp_path: Path, kind: str, name: str, case: Case) -> None:
    found = assert_finds(tmp_path, "ONX013", accelerated(kind, f'{{ name: ^"{name}" }}'), one(onnx()), case)
    assert found.says == f"unknown Execution Accelerator '{name}' is requested"
    assert found.severity == "error"


@pytest.mark.parametrize(
    ("kind", "name", "case"), [("gpu", "tensorrt", GPU), ("gpu", "cuda", GPU), ("cpu", "openvino", NO_GPU)]
)
def test_accelerators_that_exist(tmp_path: Path, kind: str, name: str, case: Case) -> None:
    assert_silent(tmp_path, "ONX013", accelerated(kind, f'{{ name: "{name}" }}'), one(onnx()), case)


def test_accelerators_on_a_machine_that_is_not_known(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "ONX013", accelerated("gpu", '{ name: ^"foo" }'), one(onnx()), R2410)
    assert found.severity == "warning"


def test_accelerators_without_a_gpu(tmp_path: Path) -> None:
    foo = '^{ name: "foo" parameters { key: "no" value: "such" } }'
    assert assert_finds(tmp_path, "ONX016", accelerated("gpu", foo), one(onnx()), NO_GPU).severity == "warning"
    (tmp_path / "cpu").mkdir()
    assert_finds(tmp_path / "cpu", "ONX016", accelerated("gpu", foo, ON_CPU), one(onnx()), GPU)
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "ONX016", accelerated("gpu", '{ name: "cuda" }'), one(onnx()), GPU)


def tensorrt(key: str, value: str) -> str:
    return accelerated("gpu", f'{{ name: "tensorrt" parameters {{ key: "{key}" value: ^"{value}" }} }}')


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("precision", "FP16", "unknown parameter 'precision' is provided for TensorRT Execution Accelerator"),
        ("precision_mode", "FP8", "unsupported precision mode 'FP8' is requested"),
        ("precision_mode", "BF16", "unsupported precision mode 'BF16' is requested"),
        ("trt_engine_cache_enable", "yes", "failed to convert 'yes' to boolean"),
        ("trt_dla_core", "all", "failed to convert 'all' to integral number"),
        ("max_workspace_size_bytes", "1GiB", ""),
        ("max_workspace_size_bytes", "x", "failed to convert 'x' to unsigned long long integral number"),
    ],
)
def test_parameters_of_the_tensorrt_accelerator(tmp_path: Path, key: str, value: str, words: str) -> None:
    config = tensorrt(key, value)
    if words:
        assert assert_finds(tmp_path, "ONX014", config, one(onnx()), GPU).says == words
    else:
        assert_silent(tmp_path, "ONX014", config.replace("^", ""), one(onnx()), GPU)


@pytest.mark.parametrize(
    ("key", "value", "bad", "good"),
    [
        ("trt_engine_cache_enable", "1", "21.08", "21.09"),
        ("trt_sparsity_enable", "true", "24.03", "24.04"),
        ("precision_mode", "BF16", "26.01", "26.02"),
        ("precision_mode", "INT8", "21.08", "21.09"),
    ],
)
def test_when_parameters_came(tmp_path: Path, key: str, value: str, bad: str, good: str) -> None:
    assert_finds(tmp_path, "ONX014", tensorrt(key, value), one(onnx()), Case(release=RELEASES[bad], gpus=1))
    (tmp_path / "good").mkdir()
    config = tensorrt(key, value).replace("^", "")
    assert_silent(tmp_path / "good", "ONX014", config, one(onnx()), Case(release=RELEASES[good], gpus=1))


def parameter(key: str, value: str) -> str:
    return f'{CONFIG}parameters {{ key: "{key}" value {{ string_value: ^"{value}" }} }}\n'


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("execution_mode", "2", "Expected values for  execution_mode are 0 or 1 but got 2 ."),
        ("execution_mode", "", "failed to convert '' to integral number"),
        ("execution_mode", "99999999999", "std::out_of_range"),
        ("intra_op_thread_count", "all", "failed to convert 'all' to integral number"),
        ("enable_mem_arena", "yes", "failed to convert 'yes' to boolean"),
        ("cudnn_conv_algo_search", "3", "unsupported cudnn_conv_algo_search value '3' is requested"),
        ("arena_extend_strategy", "2", "unsupported arena_extend_strategy value '2' is requested"),
    ],
)
def test_parameters_that_are_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    assert words in assert_finds(tmp_path, "ONX015", parameter(key, value), one(onnx()), GPU).says


@pytest.mark.parametrize(
    ("key", "value", "case"),
    [
        ("execution_mode", "1", GPU),
        ("intra_op_thread_count", " 2 threads", GPU),
        ("intra_op_thread_count", "-1", GPU),
        ("enable_mem_arena", "ON", GPU),
        ("cudnn_conv_algo_search", "3", NO_GPU),
        ("cudnn_conv_algo_search", "3", Case(release=RELEASES["24.05"], gpus=1)),
        ("enable_mem_arena", "yes", Case(release=RELEASES["22.03"], server={"strict-model-config": False})),
        ("of_our_own", "x", GPU),
        (
            "intra_op_thread_count",
            "all",
            Case(release=RELEASES["24.10"], server={"backend-config": "onnxruntime,enable-global-threadpool=1"}),
        ),
    ],
)
def test_parameters_that_are_taken(tmp_path: Path, key: str, value: str, case: Case) -> None:
    assert_silent(tmp_path, "ONX015", parameter(key, value).replace("^", ""), one(onnx()), case)


# -- files that cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [onnx()[:-1], onnx()[:-30], b"hello, world" * 40, bytes(64), field(1, 8), onnx() + bytes(3)],
    ids=["a byte too short", "cut off", "a text", "zeros", "no graph", "zeros behind it"],
)
def test_no_onnx(tmp_path: Path, data: bytes) -> None:
    found = assert_finds_at(tmp_path, "ONX017", "1/model.onnx", CONFIG, one(data), R2410)
    assert found.message.startswith("model.onnx ")


def test_other_rules_speak_of_some_files(tmp_path: Path) -> None:
    for number, (data, rule) in enumerate(
        [(b"", "LAY024"), (b"version https://git-lfs.github.com/spec/v1\n", "LAY025"), (b"<!DOCTYPE html>", "LAY026")]
    ):
        (tmp_path / str(number)).mkdir()
        found = model(tmp_path / str(number), CONFIG, one(data), R2410)
        assert [one.rule.id for one in found] == [rule]


def test_onnx_runtime_s_own_format(tmp_path: Path) -> None:
    config = CONFIG + 'default_model_filename: "model.ort"\n'
    assert_silent(tmp_path, "ONX017", config, {"1/model.ort": b"\x18\0\0\0ORTM" + bytes(64)}, R2410)


def test_more_than_protobuf_can_read(tmp_path: Path) -> None:
    """A file of 10 GB: it is not read to find that out."""
    raw = 10 << 30
    weights = field(1, raw // 4) + field(2, 1) + field(8, "W") + varint(9 << 3 | 2) + varint(raw)
    size = len(weights) + raw
    graph = field(1, IDENTITY[0]) + varint(5 << 3 | 2) + varint(size)
    head = field(1, 8) + varint(7 << 3 | 2) + varint(len(graph) + size) + graph + weights
    place = tmp_path / "m/1"
    place.mkdir(parents=True)
    with (place / "model.onnx").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + raw)
    (tmp_path / "m/config.pbtxt").write_text(CONFIG)
    from composer.models.lint import lint
    from composer.models.repository import read_repository

    found = lint([read_repository(tmp_path)], R2410)
    assert "ONX018" in [one.rule.id for one in found]
    assert "ONX017" not in [one.rule.id for one in found]


@pytest.mark.parametrize("config", ['backend: "python"\n', 'backend: "onnxruntime"\nruntime: "model.py"\n'])
def test_models_of_others_are_left_alone(tmp_path: Path, config: str) -> None:
    files: Files = {"1/model.onnx": onnx(ir_version=99), "1/model.py": "class TritonPythonModel:\n    pass\n"}
    found = model(tmp_path, config + parameter("execution_mode", "7").replace("^", "")[len(NAMED) :], files, R2410)
    assert not [one.rule.id for one in found if one.rule.id.startswith("ONX")]


# -- facts ----------------------------------------------------------------------------------------


def test_limits_grow_with_the_version() -> None:
    known = [facts.limits(one.onnxruntime) for one in RELEASES.values() if one.onnxruntime]
    assert all(known), "a release's ONNX Runtime has no limits in onnx.toml"
    pairs = [(one.ir_version, one.opsets[""], one.opsets["ai.onnx.ml"]) for one in known if one]
    assert pairs == sorted(pairs)


def test_every_rule_has_words_of_the_server_or_none() -> None:
    own = [one for name, one in RULES.items() if name.startswith("ONX")]
    assert len(own) == 19
    assert all(one.source and one.fix for one in own)
    assert family.no_onnx.__doc__
