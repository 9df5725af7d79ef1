"""What model files say of themselves: ONNX, PyTorch and TensorRT, read without any of them."""

from __future__ import annotations

import os
import struct
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.models import opening
from composer.models.onnx import OnnxModel, Value, read_onnx
from composer.models.opening import Unreadable
from composer.models.tensorrt_plan import TensorRtPlan, read_plan
from composer.models.torchscript import Argument, TorchFile, read_torch
from tests.modelfiles import (
    aoti_package,
    exported_program,
    external_tensor,
    field,
    legacy_pickle,
    map_of,
    node,
    onnx_add_sub,
    onnx_cnn,
    onnx_identity,
    onnx_linear,
    onnx_model,
    optional_of,
    plan,
    sequence_of,
    sparse_tensor,
    state_dict,
    subgraph,
    tensor,
    torchscript,
    torchscript_two_outputs,
    ultralytics_plan,
    varint,
)

MIB = 1 << 20
GIB = 1 << 30
READERS = {"onnx": read_onnx, "torch": read_torch, "plan": read_plan}
Reader = Callable[[Path], OnnxModel | TorchFile | TensorRtPlan | Unreadable]


def _onnx(folder: Path, data: bytes) -> OnnxModel:
    model = read_onnx(_file(folder, data))
    assert isinstance(model, OnnxModel), model
    return model


def _torch(folder: Path, data: bytes) -> TorchFile:
    file = read_torch(_file(folder, data))
    assert isinstance(file, TorchFile), file
    return file


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "model"
    path.write_bytes(data)
    return path


def _why(read: Reader, path: Path) -> str:
    told = read(path)
    assert isinstance(told, Unreadable), told
    assert told.words
    return told.kind


# -- ONNX


def test_versions_and_producer(tmp_path: Path) -> None:
    data = onnx_identity(ir_version=9, opset=17, opsets={"ai.onnx.ml": 3}, before=field(3, "1.2"))
    model = _onnx(tmp_path, data)
    assert (model.ir_version, dict(model.opsets)) == (9, {"": 17, "ai.onnx.ml": 3})
    assert (model.producer, model.producer_version) == ("tricompose-tests", "1.2")


def test_the_default_domain_goes_by_two_names(tmp_path: Path) -> None:
    data = onnx_model(
        inputs={},
        outputs={"Y": ("FP32", [])},
        nodes=[node("RandomNormal", [], ["Y"], domain="ai.onnx")],
        opset=None,
        opsets={"ai.onnx": 12},
    )
    model = _onnx(tmp_path, data)
    assert dict(model.opsets) == {"": 12}
    assert model.operators == {("", "RandomNormal")}


def test_what_is_not_said(tmp_path: Path) -> None:
    model = _onnx(tmp_path, onnx_identity(ir_version=None, opset=None, producer=""))
    assert (model.ir_version, dict(model.opsets), model.producer) == (None, {}, "")


def test_inputs_and_outputs_with_every_kind_of_dimension(tmp_path: Path) -> None:
    model = _onnx(tmp_path, onnx_identity(dims=("N", 4, None, -1, "")))
    assert model.inputs == (Value(name="X", element=1, dims=("N", 4, None, -1, None)),)
    assert model.inputs[0].shape == (-1, 4, -1, -1, -1)
    assert [value.name for value in model.outputs] == ["Y"]


@pytest.mark.parametrize(("dims", "shape"), [((), ()), (None, ())])
def test_a_scalar_is_not_the_same_as_no_shape(tmp_path: Path, dims: tuple[int, ...] | None, shape: object) -> None:
    value = _onnx(tmp_path, onnx_identity(dims=dims)).inputs[0]
    assert (value.dims, value.shape) == (dims, shape)


@pytest.mark.parametrize(
    ("element", "datatype"),
    [("FP32", "TYPE_FP32"), ("STRING", "TYPE_STRING"), ("BF16", "TYPE_BF16"), ("COMPLEX64", None), ("INT4", None)],
)
def test_datatypes_are_tritons(tmp_path: Path, element: str, datatype: str | None) -> None:
    assert _onnx(tmp_path, onnx_identity(datatype=element)).inputs[0].datatype == datatype


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("sequence", sequence_of(("FP32", ["N"]))),
        ("map", map_of("INT64", ("FP32", []))),
        ("optional", optional_of(("FP32", []))),
        ("sparse_tensor", sparse_tensor("FP32", ["N"])),
        ("unknown", b""),
    ],
)
def test_what_is_no_tensor_has_no_datatype(tmp_path: Path, kind: str, value: bytes) -> None:
    model = _onnx(tmp_path, onnx_model(inputs={}, outputs={"Y": value}, nodes=[]))
    assert (model.outputs[0].kind, model.outputs[0].datatype) == (kind, None)


def test_inputs_with_a_value_of_their_own_are_apart(tmp_path: Path) -> None:
    model = _onnx(tmp_path, onnx_linear(overridable=True))
    assert [value.name for value in model.inputs] == ["X"]
    assert [value.name for value in model.overridable] == ["W", "B"]
    assert model.initializers["W"].shape == (4, 3)


def test_operators_of_branches_and_functions_are_seen(tmp_path: Path) -> None:
    inner = subgraph([node("Odd", [], ["a"], domain="mine")], {"a": ("FP32", [1])})
    outer = subgraph([node("If", ["c"], ["a"], then_branch=inner, else_branch=inner)], {"a": ("FP32", [1])})
    function = field(1, "Known") + field(7, node("Relu", ["x"], ["y"])) + field(10, "theirs")
    data = onnx_model(
        inputs={"c": ("BOOL", [])},
        outputs={"Y": ("FP32", [1])},
        nodes=[
            node("If", ["c"], ["Y"], then_branch=outer, else_branch=inner),
            node("Known", [], ["z"], domain="theirs"),
        ],
        after=field(25, function),
    )
    model = _onnx(tmp_path, data)
    assert model.operators == {("", "If"), ("mine", "Odd"), ("theirs", "Known"), ("", "Relu")}
    assert model.functions == {("theirs", "Known")}


def test_files_of_weights_are_named_with_the_bytes_they_need(tmp_path: Path) -> None:
    inner = subgraph([], {}, [external_tensor("D", "FP32", [1], "more.bin")])
    data = onnx_model(
        inputs={"X": ("FP32", ["N", 4])},
        outputs={"Y": ("FP32", ["N", 4])},
        nodes=[
            node("Add", ["X", "A"], ["Y"]),
            node("Constant", [], ["c"], value=external_tensor("", "FP32", [4], "c/d.bin", offset=8, length=16)),
            node("If", ["b"], ["q"], then_branch=inner),
        ],
        initializers=[
            external_tensor("A", "FP32", [4], "w.bin", offset=0, length=16),
            external_tensor("B", "FP32", [4], "w.bin", offset=4096, length=16),
        ],
    )
    assert dict(_onnx(tmp_path, data).external) == {"w.bin": 4112, "c/d.bin": 24, "more.bin": 0}


def test_a_folder_holds_the_model_as_the_server_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "model.onnx"
    folder.mkdir()
    assert _why(read_onnx, folder) == "missing"
    (folder / "model.onnx").write_bytes(onnx_identity())
    assert isinstance(read_onnx(folder), OnnxModel)


def test_ten_gigabytes_of_weights_are_not_read(tmp_path: Path) -> None:
    """The weights are a hole in the file: what is read of it can be counted."""
    weights = 10 * GIB
    last = field(2, 1) + field(8, "small") + field(9, b"\0" * 4)
    first = varint(1 << 3) + varint(weights // 4) + field(2, 1) + field(8, "W")
    giant = varint(5 << 3 | 2) + varint(len(first) + 1 + len(varint(weights)) + weights) + first + b"\x4a"
    giant += varint(weights)
    rest = field(5, last) + field(1, node("Identity", ["X"], ["Y"]))
    rest += _graph_ends()
    head = field(1, 8) + varint(7 << 3 | 2) + varint(len(giant) + weights + len(rest)) + giant
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + weights)
        file.write(rest + field(8, field(1, "") + field(2, 13)))
    assert path.stat().st_size > weights
    before = _bytes_read()
    model = read_onnx(path)
    assert isinstance(model, OnnxModel)
    assert _bytes_read() - before < MIB
    assert model.initializers.keys() == {"W", "small"}
    assert (dict(model.opsets), model.outputs[0].name) == ({"": 13}, "Y")


def _bytes_read() -> int:
    """What this process has read from files and elsewhere, by the kernel's own count."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def _graph_ends() -> bytes:
    kind = field(2, field(1, field(1, 1)))
    return field(11, field(1, "X") + kind) + field(12, field(1, "Y") + kind)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"hello\n", "garbage"),
        (b"\0", "garbage"),
        (field(1, 8), "garbage"),
        (onnx_cnn()[:-1], "truncated"),
        (onnx_cnn()[:200], "truncated"),
        (onnx_cnn()[:1], "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "lfs_pointer"),
        (b"\n<!DOCTYPE html><html>", "web_page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web_page"),
        (field(7, field(1, b"\x08")) + field(1, 8), "garbage"),
        (field(7, b"\x0b" * 100), "garbage"),
        (b"\x80" * 11, "garbage"),
        (field(7, field(2, "x" * 10)) + varint(7 << 3 | 4), "garbage"),
    ],
)
def test_what_is_no_onnx_file_is_told_apart(tmp_path: Path, data: bytes, kind: str) -> None:
    assert _why(read_onnx, _file(tmp_path, data)) == kind


def test_groups_of_old_are_passed_by(tmp_path: Path) -> None:
    group = varint(99 << 3 | 3) + field(1, 77) + varint(99 << 3 | 4)
    assert _onnx(tmp_path, group + onnx_identity(ir_version=7)).ir_version == 7


def test_graphs_within_graphs_without_end_are_no_matter(tmp_path: Path) -> None:
    graph = field(1, node("Relu", ["x"], ["y"]))
    for _ in range(300):
        graph = field(1, field(4, "If") + field(5, field(1, "then_branch") + field(6, graph)))
    model = _onnx(tmp_path, field(1, 8) + field(7, graph))
    assert model.operators == {("", "If"), ("", "Relu")}


def test_a_name_longer_than_any_is_refused(tmp_path: Path) -> None:
    assert _why(read_onnx, _file(tmp_path, onnx_identity([("x" * 70_000, "Y")]))) == "garbage"


def test_fields_without_number_are_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.models.onnx._MOST_FIELDS", 1000)
    assert _why(read_onnx, _file(tmp_path, field(7, field(99, 1) * 1001))) == "garbage"


@pytest.mark.parametrize("make", [onnx_cnn, onnx_linear, onnx_add_sub])
def test_a_file_cut_anywhere_is_never_taken_for_a_whole_one(tmp_path: Path, make: Callable[[], bytes]) -> None:
    """But where the cut is between two fields, after the graph: then it is a whole message, as ONNX Runtime has it."""
    data = make()
    whole = len(data) - len(field(8, field(1, "") + field(2, 13)))
    for end in range(1, len(data)):
        told = read_onnx(_file(tmp_path, data[:end]))
        assert isinstance(told, OnnxModel) == (end == whole), end


# -- PyTorch


def test_a_torchscript_file_tells_its_forward(tmp_path: Path) -> None:
    file = _torch(tmp_path, torchscript_two_outputs())
    assert (file.kind, file.format) == ("torchscript", 3)
    assert file.forward
    assert file.forward.arguments == (Argument(name="input_ids", type="Tensor"),)
    assert file.forward.outputs == ("Tensor", "Tensor")


FORWARDS = {
    "def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:": (["x"], ("Tensor",)),
    "def forward(self: __torch__.M,\n    argument_1: Tensor,\n    y: Tensor) -> Tensor:": (
        ["argument_1", "y"],
        ("Tensor",),
    ),
    "def forward(self: __torch__.M) -> Tensor:": ([], ("Tensor",)),
    "def forward(self: __torch__.M, s: List[str]) -> List[str]:": (["s"], ("List[str]",)),
    "def forward(self: __torch__.M, x: Tuple[Tensor, Tensor],\n y: Optional[Tensor]=None) -> Dict[str, Tensor]:": (
        ["x", "y"],
        None,
    ),
    "def forward(self: __torch__.M, x: Tensor) -> Tuple[Tensor, List[Tensor]]:": (["x"], None),
    "def forward(self: __torch__.M, x: Tensor, n: int=3) -> Tuple[Tensor]:": (["x", "n"], ("Tensor",)),
    "def forward(self: __torch__.M, x: Tensor) -> List[Tensor]:": (["x"], None),
}


@pytest.mark.parametrize("code", FORWARDS)
def test_signatures(tmp_path: Path, code: str) -> None:
    names, outputs = FORWARDS[code]
    other = "class Other(Module):\n  def forward(self: __torch__.Other, wrong: Tensor) -> Tensor:\n    return wrong\n"
    text = f"{other}class M(Module):\n  def other(self: __torch__.M) -> int:\n    return 1\n  {code}\n    pass\n{other}"
    forward = _torch(tmp_path, torchscript(text, class_name="M")).forward
    assert forward
    assert [argument.name for argument in forward.arguments] == names
    assert forward.outputs == outputs


def test_arguments_with_a_default_are_optional(tmp_path: Path) -> None:
    code = "class M(Module):\n  def forward(self: __torch__.M, x: Tensor, y: Optional[Tensor], n: int=3) -> Tensor:\n"
    forward = _torch(tmp_path, torchscript(code, class_name="M")).forward
    assert forward
    assert [argument.optional for argument in forward.arguments] == [False, True, True]


def test_a_class_in_a_module_of_its_own(tmp_path: Path) -> None:
    code = "class Net(Module):\n  def forward(self: __torch__.a.b.___torch_mangle_3.Net, x: Tensor) -> Tensor:\n"
    data = torchscript(code, class_name="Net", module="__torch__.a.b.___torch_mangle_3")
    file = _torch(tmp_path, data)
    assert file.forward


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (state_dict(), "weights"),
        (legacy_pickle(), "legacy"),
        (aoti_package(), "aoti"),
        (exported_program(), "exported"),
        (torchscript("", without=["constants.pkl"]), "weights"),
        (torchscript("", without=["constants.pkl", "data.pkl"]), "archive"),
        (torchscript("", version="x" * 99), "torchscript"),
        (torchscript("class Other(Module):\n  pass\n"), "torchscript"),
        (torchscript("class Model(Module):\n  def forward(self: "), "torchscript"),
    ],
)
def test_kinds_of_files(tmp_path: Path, data: bytes, kind: str) -> None:
    assert _torch(tmp_path, data).kind == kind


def test_an_archive_of_another_program(tmp_path: Path) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert _torch(tmp_path, buffer.getvalue()).kind == "archive"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (torchscript_two_outputs()[:3000], "truncated"),
        (b"PK\x03\x04" + bytes(1000), "truncated"),
        (b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18, "garbage"),
        (b"PK\x03\x04" + b"PK\x05\x06" + bytes(8) + struct.pack("<II", 1 << 30, 0) + bytes(2), "garbage"),
        (b"not a model", "garbage"),
        (b"version https://git-lfs.github.com/spec/v1\n", "lfs_pointer"),
    ],
)
def test_what_is_no_file_of_pytorch(tmp_path: Path, data: bytes, kind: str) -> None:
    assert _why(read_torch, _file(tmp_path, data)) == kind


def test_weights_of_a_torch_file_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02c__torch__\nM\n)\x81.")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/code/__torch__.py", "class M(Module):\n  def forward(self: M, x: Tensor) -> Tensor:\n")
    _stretch(path, 10 * GIB)
    before = _bytes_read()
    file = read_torch(path)
    assert isinstance(file, TorchFile)
    assert file.forward
    assert _bytes_read() - before < MIB


def _stretch(path: Path, size: int) -> None:
    """Move the end of a zip archive away from its beginning, with a hole between."""
    data = path.read_bytes()
    listing = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    record = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, end - listing, listing + size
    ) + struct.pack("<4sIQI", b"PK\x06\x07", 0, end + size, 1)
    finish = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 3, 3, end - listing, 0xFFFFFFFF, 0)
    with path.open("r+b") as file:
        file.truncate(listing)
        file.seek(listing + size)
        file.write(data[listing:end] + record + finish)


# -- TensorRT


def test_the_version_of_a_plan(tmp_path: Path) -> None:
    assert read_plan(_file(tmp_path, plan((10, 4, 0, 26)))) == TensorRtPlan(version=(10, 4, 0, 26))


@pytest.mark.parametrize("data", [plan(second=1), plan((0, 0, 0, 0)), plan((200, 1, 2, 3))])
def test_a_plan_laid_out_in_another_way_has_no_version(tmp_path: Path, data: bytes) -> None:
    assert read_plan(_file(tmp_path, data)) == TensorRtPlan(version=None)


def test_json_before_a_plan(tmp_path: Path) -> None:
    data = ultralytics_plan(task="detect")
    told = read_plan(_file(tmp_path, data))
    assert isinstance(told, TensorRtPlan)
    assert (told.version, told.metadata) == ((10, 4, 0, 26), {"task": "detect"})
    assert data[told.offset :] == plan()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"ftrt", "truncated"),
        (plan()[:27], "truncated"),
        (b"trtf" + bytes(100), "garbage"),
        (ultralytics_plan(b"other"), "garbage"),
        (struct.pack("<I", 4) + b"{{{{" + plan(), "garbage"),
        (struct.pack("<I", 1 << 20) + b"{" * (1 << 20), "garbage"),
        (struct.pack("<I", 1 << 30) + b"{}", "garbage"),
    ],
)
def test_what_is_no_plan(tmp_path: Path, data: bytes, kind: str) -> None:
    assert _why(read_plan, _file(tmp_path, data)) == kind


# -- all of them


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_file_at_all(tmp_path: Path, read: Reader) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder/model.onnx").mkdir(parents=True)
    assert _why(read, tmp_path / "fifo") == "not_a_file"
    assert _why(read, tmp_path / "folder/model.onnx") in ("not_a_file", "missing")
    assert _why(read, tmp_path / "absent") == "missing"
    assert _why(read, tmp_path / "dangling") == "missing"
    assert _why(read, tmp_path / "loop") == "denied"
    assert _why(read, tmp_path / "fifo" / "x") == "missing"
    assert _why(read, Path("/dev/null")) == "not_a_file"
    assert _why(read, tmp_path / "nul\0byte") == "denied"


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_disk_that_fails(tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: IO[bytes], read: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(opening, "_looked_into", fail)
    assert _why(read, _file(tmp_path, b"x")) == "denied"


GOOD = {
    "onnx": onnx_linear(overridable=True),
    "torch": torchscript_two_outputs(words=2, width=2),
    "plan": ultralytics_plan(task="detect"),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=300)
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_told_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Bytes at will, and good files of which some bytes are others."""
    content = bytearray(data.draw(st.one_of(st.binary(max_size=200), st.just(GOOD[name]))))
    changes = data.draw(st.lists(st.tuples(st.integers(0, max(0, len(content) - 1)), st.integers(0, 255)), max_size=8))
    for at, byte in changes:
        if content:
            content[at] = byte
    path = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    path.write_bytes(bytes(content))
    told = READERS[name](path)
    assert isinstance(told, OnnxModel | TorchFile | TensorRtPlan | Unreadable)


def test_a_thousand_models_are_read_in_a_second(tmp_path: Path) -> None:
    for at in range(1000):
        (tmp_path / f"{at}.onnx").write_bytes(onnx_cnn())
    started = time.monotonic()
    assert all(isinstance(read_onnx(path), OnnxModel) for path in tmp_path.iterdir())
    assert time.monotonic() - started < 5


def test_values_of_a_tensor_may_be_packed_or_not(tmp_path: Path) -> None:
    packed = field(1, varint(2) + varint(300)) + field(2, 1) + field(8, "W")
    model = _onnx(tmp_path, onnx_model(inputs={}, outputs={}, nodes=[], initializers=[packed]))
    assert model.initializers["W"].dims == (2, 300)
    assert tensor("W", "FP32", [2], [0.0, 0.0]) != packed
