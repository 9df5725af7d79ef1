"""ONNX: what the file itself says, against the release's ONNX Runtime; weights beside it; parameters, accelerators."""

from __future__ import annotations

from tests.modelfiles import external_tensor, field, node, onnx_model, sequence_of

from . import Files, Folder, bad, good
from .parts import IDENTITY, ONNX, changed, onnx

_SHAPE = ("FP32", ["N", 2])
_WEIGHTS = b"\0" * 8


def _model(nodes: list[bytes] | None = None, **how: object) -> bytes:
    nodes = nodes or [node("Identity", ["X"], ["Y"])]
    return onnx_model(inputs={"X": _SHAPE}, outputs={"Y": _SHAPE}, nodes=nodes, **how)  # type: ignore[arg-type]


def _spread(location: str, **how: int) -> bytes:
    """A model with 8 bytes of weights in another file."""
    return _model([node("Add", ["X", "W"], ["Y"])], initializers=[external_tensor("W", "FP32", [2], location, **how)])


def _with(name: str, value: str) -> Files:
    return onnx(f'{ONNX}parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n')


def _accelerated(kind: str, name: str) -> Files:
    return onnx(
        f'{ONNX}optimization {{ execution_accelerators {{ {kind}_execution_accelerator [ {{ name: "{name}" }} ] }} }}\n'
    )


_FOO = node("Foo", ["X"], ["Y"], domain="my.ops")
_OWN = field(
    25,
    field(1, "Foo")
    + field(4, "a")
    + field(5, "b")
    + field(7, node("Relu", ["a"], ["b"]))
    + field(9, field(2, 13))
    + field(10, "my.ops"),
)
_LIBRARY = 'model_operations {{ op_library_filename: "{}" }}\n'

_STRICT = ("--disable-auto-complete-config",)
_GELU = _model([node("Gelu", ["X"], ["Y"], domain="com.microsoft")], opsets={"com.microsoft": 1})
_SEQUENCE = onnx_model(
    inputs={"X": _SHAPE}, outputs={"Y": sequence_of(_SHAPE)}, nodes=[node("SequenceConstruct", ["X"], ["Y"])]
)
_BAD_VALUES = (
    ("execution_mode", "2"),
    ("execution_mode", "x"),
    ("execution_mode", ""),
    ("execution_mode", "99999999999"),
    ("intra_op_thread_count", "all"),
    ("enable_mem_arena", "yes"),
)
_GOOD_VALUES = (
    ("execution_mode", "1"),
    ("intra_op_thread_count", " 2 threads"),
    ("intra_op_thread_count", "-1"),
    ("enable_mem_arena", "ON"),
    ("cudnn_conv_algo_search", "9"),
)
_BROKEN = (
    ("cut-off", IDENTITY[:-9]),
    ("a-byte-too-short", IDENTITY[:-1]),
    ("text", b"hello, world" * 40),
    ("zeros", bytes(64)),
    ("no-graph", field(1, 8)),
    ("zeros-behind", IDENTITY + bytes(3)),
)

ENTRIES = [
    *(good(f"onnx/ir-{number}", onnx(model=_model(ir_version=number, opset=11))) for number in (2, 3, 9)),
    *(bad("ONX001", f"onnx/ir-{number}", onnx(model=_model(ir_version=number, opset=11))) for number in (11, 13)),
    bad("ONX001", "onnx/ir-10", onnx(model=_model(ir_version=10, opset=11)), release="23.07"),
    bad("ONX001", "onnx/ir-none", onnx(model=_model(ir_version=None))),
    *(good(f"onnx/opset-{number}", onnx(model=_model(opset=number))) for number in (7, 13, 18)),
    *(bad("ONX002", f"onnx/opset-{number}", onnx(model=_model(opset=number))) for number in (22, 99)),
    bad("ONX002", "onnx/opset-20", onnx(model=_model(opset=20)), release="23.07"),
    bad("ONX002", "onnx/opset-none", onnx(model=_model(opset=None))),
    bad("ONX002", "onnx/opset-ml", onnx(model=_model(opsets={"ai.onnx.ml": 6}))),
    bad("ONX002", "onnx/opset-microsoft", onnx(model=_model(opsets={"com.microsoft": 2}))),
    bad("ONX002", "onnx/opset-training", onnx(model=_model(opsets={"ai.onnx.training": 2}))),
    bad("ONX003", "onnx/opset-6", onnx(model=_model(opset=6))),
    bad("ONX004", "onnx/operator-of-nobody", onnx(model=_model([_FOO], opsets={"my.ops": 1}))),
    bad("ONX004", "onnx/operator-not-imported", onnx(model=_model([_FOO]))),
    good("onnx/operator-of-its-own", onnx(model=_model([_FOO], opsets={"my.ops": 1}, after=_OWN))),
    good("onnx/domain-unused", onnx(model=_model(opsets={"my.ops": 1}))),
    good("onnx/operator-of-microsoft", onnx(model=_GELU)),
    bad("ONX005", "onnx/library-missing", onnx(ONNX + _LIBRARY.format("/nowhere/libops.so"))),
    bad("ONX005", "onnx/library-unnamed", onnx(ONNX + _LIBRARY.format(""))),
    good("onnx/weights-beside", {**onnx(model=_spread("w.bin")), "m/1/w.bin": _WEIGHTS}),
    good("onnx/weights-below", {**onnx(model=_spread("data/w.bin")), "m/1/data/w.bin": _WEIGHTS}),
    good("onnx/weights-above", {**onnx(model=_spread("../w.bin")), "m/w.bin": _WEIGHTS}),
    bad("ONX006", "onnx/weights-missing", onnx(model=_spread("w.bin"))),
    bad("ONX006", "onnx/weights-cut-off", {**onnx(model=_spread("w.bin", length=8)), "m/1/w.bin": _WEIGHTS[:4]}),
    bad("ONX006", "onnx/weights-are-a-folder", {**onnx(model=_spread("w.bin")), "m/1/w.bin": Folder()}),
    bad("ONX006", "onnx/weights-nowhere", onnx(model=_spread(""))),
    good(
        "onnx/folder",
        {"m/config.pbtxt": ONNX, "m/1/model.onnx/model.onnx": _spread("w.bin"), "m/1/model.onnx/w.bin": _WEIGHTS},
    ),
    bad("ONX007", "onnx/folder-empty", {"m/config.pbtxt": ONNX, "m/1/model.onnx": Folder()}),
    bad("ONX007", "onnx/folder-with-another-name", {"m/config.pbtxt": ONNX, "m/1/model.onnx/net.onnx": IDENTITY}),
    bad("ONX008", "onnx/input-unknown", onnx(changed(ONNX, '"X"', '"Z"'))),
    bad("ONX010", "onnx/input-of-another-type", onnx(ONNX.replace("TYPE_FP32", "TYPE_FP16", 1))),
    bad("ONX011", "onnx/input-of-other-dims", onnx(ONNX.replace("dims: [ 2 ]", "dims: [ 3 ]", 1))),
    bad("ONX012", "onnx/sequence", {"m/config.pbtxt": 'backend: "onnxruntime"\n', "m/1/model.onnx": _SEQUENCE}),
    bad("ONX009", "onnx/nothing-said-nothing-completed", onnx('backend: "onnxruntime"\n'), flags=_STRICT),
    bad("ONX019", "onnx/no-outputs", onnx(ONNX.replace("output", "#output")), flags=_STRICT),
    bad("ONX013", "onnx/accelerator-unknown", _accelerated("cpu", "foo")),
    good("onnx/accelerator-for-gpus-unknown", _accelerated("gpu", "foo")),
    *(bad("ONX015", f"onnx/parameter-{name}-{value}", _with(name, value)) for name, value in _BAD_VALUES),
    *(good(f"onnx/parameter-{name}-{value}", _with(name, value)) for name, value in _GOOD_VALUES),
    *(bad("ONX017", f"onnx/{name}", onnx(model=data)) for name, data in _BROKEN),
]
