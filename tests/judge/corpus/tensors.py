"""Inputs and outputs: IO."""

from __future__ import annotations

from tests.modelfiles import node, onnx_model

from . import Entry, File, Folder, Link, bad, good
from .parts import ANY, IDENTITY, ONNX, PYTHON, changed, onnx, python

_X = '{ name: "X" data_type: TYPE_FP32 dims: [ 2 ] }'
_Y = '{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }'
_FREE = PYTHON.replace("max_batch_size: 4", "max_batch_size: 0")


def _input(tensor: str, config: str = PYTHON) -> dict[str, File]:
    """A python model whose input is another: it answers whatever it gets."""
    return python(changed(config, _X, "{ " + tensor + " }"))


def _output(tensor: str, config: str = PYTHON) -> dict[str, File]:
    return python(changed(config, _Y, "{ " + tensor + " }"))


def _onnx_input(tensor: str) -> dict[str, File]:
    return onnx(changed(ONNX, _X, "{ " + tensor + " }"))


def _labels(text: File | None, config: str = PYTHON) -> dict[str, File]:
    named = changed(config, _Y, '{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }')
    return python(named) if text is None else {**python(named), "m/labels.txt": text}


def _typed(datatype: str) -> dict[str, File]:
    return python(PYTHON.replace("TYPE_FP32", f"TYPE_{datatype}"))


def _batch_input(text: str) -> dict[str, File]:
    return python(PYTHON + "batch_input [ { " + text + " } ]\n")


_TYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "STRING",
)  # fmt: skip
_SEVEN = onnx_model(
    inputs={name: ("FP32", ["N", 2]) for name in ("X", "W")},
    outputs={"Y": ("FP32", ["N", 2])},
    nodes=[node("Add", ["X", "W"], ["Y"])],
)
_SIZE = '{ name: "X" data_type: TYPE_FP32 dims: [ 2 ] allow_ragged_batch: true }'

ENTRIES: list[Entry] = [
    *(good(f"io/type-{datatype.lower()}", _typed(datatype)) for datatype in _TYPES),
    bad("IO017", "io/type-bf16", _input('name: "X" data_type: TYPE_BF16 dims: [ 2 ]')),
    bad("IO001", "io/input-without-name", _input("data_type: TYPE_FP32 dims: [ 2 ]")),
    bad("IO001", "io/input-with-empty-name", _input('name: "" data_type: TYPE_FP32 dims: [ 2 ]')),
    bad("IO001", "io/output-without-name", _output("data_type: TYPE_FP32 dims: [ 2 ]")),
    bad("IO001", "io/input-empty", _input("")),
    bad("IO001", "io/input-without-name-onnx", _onnx_input("data_type: TYPE_FP32 dims: [ 2 ]")),
    bad("IO002", "io/input-without-type", _input('name: "X" dims: [ 2 ]')),
    bad("IO002", "io/output-without-type", _output('name: "Y" dims: [ 2 ]')),
    bad("IO002", "io/input-of-type-invalid", _input('name: "X" data_type: TYPE_INVALID dims: [ 2 ]')),
    bad("IO002", "io/input-without-type-onnx", _onnx_input('name: "X" dims: [ 2 ]')),
    bad("IO003", "io/input-without-dims", _input('name: "X" data_type: TYPE_FP32')),
    bad("IO003", "io/input-with-empty-dims", _input('name: "X" data_type: TYPE_FP32 dims: [ ]')),
    bad("IO003", "io/output-without-dims", _output('name: "Y" data_type: TYPE_FP32')),
    bad("IO003", "io/input-without-dims-unbatched", _input('name: "X" data_type: TYPE_FP32', _FREE)),
    bad("IO003", "io/input-without-dims-onnx", _onnx_input('name: "X" data_type: TYPE_FP32')),
    bad("IO004", "io/dim-zero", _input('name: "X" data_type: TYPE_FP32 dims: [ 0 ]')),
    bad("IO004", "io/dim-minus-two", _input('name: "X" data_type: TYPE_FP32 dims: [ -2 ]')),
    bad("IO004", "io/output-dim-zero", _output('name: "Y" data_type: TYPE_FP32 dims: [ 2, 0 ]')),
    good("io/dim-minus-one", _input('name: "X" data_type: TYPE_FP32 dims: [ -1, 2, -1 ]')),
    good("io/output-dim-minus-one", _output('name: "Y" data_type: TYPE_FP32 dims: [ -1 ]')),
    good("io/many-dims", _input('name: "X" data_type: TYPE_FP32 dims: [ 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 ]')),
    good("io/dim-large", _input('name: "X" data_type: TYPE_UINT8 dims: [ 1000000 ]')),
    bad("IO004", "io/dims-overflow", _input('name: "X" data_type: TYPE_FP32 dims: [ 9223372036854775807, 4 ]')),
    bad("IO005", "io/reshape-dim-zero", _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 0 ] }')),
    bad(
        "IO005",
        "io/reshape-dim-minus-two",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ -2 ] }'),
    ),
    good("io/reshape", _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 2, 1 ] }')),
    good("io/reshape-output", _output('name: "Y" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 1, 2 ] }')),
    good("io/scalar-by-reshape", _input('name: "X" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] }')),
    good("io/scalar-by-reshape-braces", _input('name: "X" data_type: TYPE_FP32 dims: [ 1 ] reshape { }')),
    good("io/scalar-output-by-reshape", _output('name: "Y" data_type: TYPE_FP32 dims: [ 1 ] reshape { }')),
    bad(
        "IO006",
        "io/reshape-of-another-size",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 3 ] }'),
    ),
    bad(
        "IO006",
        "io/reshape-output-of-another-size",
        _output('name: "Y" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 4 ] }'),
    ),
    bad(
        "IO006",
        "io/reshape-to-scalar-of-another-size",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] reshape { }'),
    ),
    bad(
        "IO006",
        "io/reshape-parts-of-another-size",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 2, -1, 3 ] reshape { shape: [ 3, -1, 2 ] }'),
    ),
    good(
        "io/reshape-around-a-variable-dim",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 4, -1, 3 ] reshape { shape: [ 2, 2, -1, 3 ] }'),
    ),
    bad(
        "IO007",
        "io/reshape-variable-dims",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ -1, -1 ] }'),
    ),
    bad(
        "IO007",
        "io/reshape-variable-to-fixed",
        _input('name: "X" data_type: TYPE_FP32 dims: [ -1 ] reshape { shape: [ 2 ] }'),
    ),
    bad("IO008", "io/reshape-empty-unbatched", _input('name: "X" data_type: TYPE_FP32 dims: [ 1 ] reshape { }', _FREE)),
    bad(
        "IO008",
        "io/reshape-output-empty-unbatched",
        _output('name: "Y" data_type: TYPE_FP32 dims: [ 1 ] reshape { }', _FREE),
    ),
    good(
        "io/reshape-unbatched", _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 1, 2 ] }', _FREE)
    ),
    bad("IO009", "io/nchw-with-one-dim", _input('name: "X" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 2 ]')),
    bad(
        "IO009",
        "io/nhwc-with-four-dims",
        _input('name: "X" data_type: TYPE_FP32 format: FORMAT_NHWC dims: [ 1, 2, 2, 3 ]'),
    ),
    good("io/nchw", _input('name: "X" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 2, 2 ]')),
    good("io/nhwc", _input('name: "X" data_type: TYPE_FP32 format: FORMAT_NHWC dims: [ 2, 2, 3 ]')),
    bad(
        "IO009",
        "io/nchw-with-four-dims-unbatched",
        _input('name: "X" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 1, 3, 2, 2 ]', _FREE),
    ),
    bad("IO010", "io/shape-tensor", _input('name: "X" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true')),
    bad(
        "IO010", "io/shape-tensor-output", _output('name: "Y" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true')
    ),
    bad(
        "IO011",
        "io/non-linear",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 3, 2, 2 ] is_non_linear_format_io: true'),
        release="24.10",
    ),
    bad(
        "IO011",
        "io/non-linear-output",
        _output('name: "Y" data_type: TYPE_FP32 dims: [ 3, 2, 2 ] is_non_linear_format_io: true'),
        release="24.10",
    ),
    bad("IO012", "io/input-twice", python(changed(PYTHON, _X, f"{_X}, {_X}"))),
    bad("IO012", "io/input-twice-onnx", onnx(changed(ONNX, _X, f"{_X}, {_X}"))),
    bad("IO013", "io/output-twice", python(changed(PYTHON, _Y, f"{_Y}, {_Y}"))),
    bad("IO013", "io/output-twice-onnx", onnx(changed(ONNX, _Y, f"{_Y}, {_Y}"))),
    good("io/output-like-input", python(changed(PYTHON, '"Y"', '"X"'))),
    good("io/name-with-space", python(changed(PYTHON, '"X"', '"the input"'))),
    good("io/name-with-umlaut", python(changed(PYTHON, '"X"', '"größe"'))),
    good(
        "io/optional",
        python(changed(PYTHON, _X, f'{_X}, {{ name: "W" data_type: TYPE_FP32 dims: [ 2 ] optional: true }}')),
    ),
    good("io/all-optional", _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] optional: true')),
    bad("IO016", "io/optional-onnx", _onnx_input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] optional: true')),
    bad(
        "IO016",
        "io/optional-onnx-unbatched",
        onnx(
            'backend: "onnxruntime"\ninput [ { name: "X" data_type: TYPE_FP32 dims: [ -1, 2 ] optional: true } ]\n'
            'output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]\n'
        ),
    ),
    bad("IO014", "io/dims-with-batch-onnx", _onnx_input('name: "X" data_type: TYPE_FP32 dims: [ -1, 2 ]')),
    bad("IO018", "io/no-outputs", python('backend: "python"\ninput [ ' + _X + " ]\n")),
    bad("IO019", "io/no-inputs", python('backend: "python"\noutput [ ' + _Y + " ]\n")),
    bad("IO019", "io/nothing-said", python('backend: "python"\n')),
    good("io/two-inputs", onnx(changed(ONNX, _X, f'{_X}, {{ name: "W" data_type: TYPE_FP32 dims: [ 2 ] }}'), _SEVEN)),
    good(
        "io/inputs-in-another-order",
        onnx(changed(ONNX, _X, f'{{ name: "W" data_type: TYPE_FP32 dims: [ 2 ] }}, {_X}'), _SEVEN),
    ),
    bad(
        "IO020",
        "io/ragged-without-batching",
        _input('name: "X" data_type: TYPE_FP32 dims: [ 2 ] allow_ragged_batch: true'),
    ),
    good("io/ragged", python(changed(PYTHON, _X, _SIZE) + "dynamic_batching { }\n")),
    bad("IO020", "io/ragged-onnx", onnx(changed(ONNX, _X, _SIZE) + "dynamic_batching { }\n")),
    bad("IO020", "io/ragged-onnx-without-batching", onnx(changed(ONNX, _X, _SIZE))),
    bad(
        "IO020",
        "io/ragged-onnx-variable",
        onnx(changed(ONNX, _X, _SIZE.replace("[ 2 ]", "[ -1 ]")) + "dynamic_batching { }\n"),
    ),
    good(
        "io/batch-input",
        _batch_input('kind: BATCH_ELEMENT_COUNT target_name: "I" data_type: TYPE_FP32 source_input: "X"'),
    ),
    good(
        "io/batch-input-int",
        _batch_input('kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "I" data_type: TYPE_INT32 source_input: "X"'),
    ),
    good(
        "io/batch-input-item-shape",
        _batch_input('kind: BATCH_ITEM_SHAPE target_name: "I" data_type: TYPE_INT32 source_input: "X"'),
    ),
    bad(
        "IO021",
        "io/batch-input-without-source",
        _batch_input('kind: BATCH_ELEMENT_COUNT target_name: "I" data_type: TYPE_FP32'),
    ),
    bad(
        "IO021",
        "io/batch-input-two-sources",
        _batch_input('kind: BATCH_ELEMENT_COUNT target_name: "I" data_type: TYPE_FP32 source_input: [ "X", "X" ]'),
    ),
    bad("IO021", "io/batch-input-empty", _batch_input("")),
    bad(
        "IO022",
        "io/batch-input-of-int64",
        _batch_input('kind: BATCH_ELEMENT_COUNT target_name: "I" data_type: TYPE_INT64 source_input: "X"'),
    ),
    bad(
        "IO022",
        "io/batch-input-without-type",
        _batch_input('kind: BATCH_ELEMENT_COUNT target_name: "I" source_input: "X"'),
    ),
    bad(
        "IO023",
        "io/batch-input-unknown-source",
        _batch_input('kind: BATCH_ELEMENT_COUNT target_name: "I" data_type: TYPE_FP32 source_input: "U"'),
    ),
    bad(
        "IO023",
        "io/batch-input-source-is-an-output",
        _batch_input('kind: BATCH_ELEMENT_COUNT target_name: "I" data_type: TYPE_FP32 source_input: "Y"'),
    ),
    bad(
        "IO023",
        "io/batch-input-without-target",
        _batch_input('kind: BATCH_ELEMENT_COUNT data_type: TYPE_FP32 source_input: "X"'),
    ),
    good(
        "io/batch-output",
        python(
            PYTHON + 'batch_output [ { target_name: "Y" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "X" } ]\n'
        ),
    ),
    bad(
        "IO023",
        "io/batch-output-unknown-target",
        python(
            PYTHON + 'batch_output [ { target_name: "U" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "X" } ]\n'
        ),
    ),
    bad(
        "IO023",
        "io/batch-output-unknown-source",
        python(
            PYTHON + 'batch_output [ { target_name: "Y" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "U" } ]\n'
        ),
    ),
    bad("IO021", "io/batch-output-without-source", python(PYTHON + 'batch_output [ { target_name: "Y" } ]\n')),
    bad(
        "IO024",
        "io/batch-output-target-twice",
        python(PYTHON + 'batch_output [ { target_name: [ "Y", "Y" ] source_input: "X" } ]\n'),
    ),
    bad(
        "IO024",
        "io/batch-outputs-of-one-target",
        python(
            PYTHON + 'batch_output [ { target_name: "Y" source_input: "X" }, { target_name: "Y" source_input: "X" } ]\n'
        ),
    ),
    good("io/labels", _labels("cat\ndog\n")),
    good("io/labels-without-newline", _labels("cat\ndog")),
    bad("IO025", "io/labels-missing", _labels(None)),
    bad("IO025", "io/labels-in-version", {**_labels(None), "m/1/labels.txt": "cat\ndog\n"}),
    bad("IO025", "io/labels-dangling", _labels(Link("nowhere"))),
    good("io/labels-linked", {**_labels(Link("other.txt")), "m/other.txt": "cat\ndog\n"}),
    bad("IO026", "io/labels-a-folder", _labels(Folder())),
    bad(
        "IO027",
        "io/labels-outside",
        {
            **python(
                changed(PYTHON, _Y, '{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "../labels.txt" }')
            ),
            "labels.txt": "cat\ndog\n",
        },
    ),
    good(
        "io/labels-in-folder",
        {
            **python(
                changed(PYTHON, _Y, '{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "data/labels.txt" }')
            ),
            "m/data/labels.txt": "cat\ndog\n",
        },
    ),
    bad(
        "IO025",
        "io/labels-absolute",
        python(changed(PYTHON, _Y, '{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "/srv/labels.txt" }')),
    ),
    bad("IO028", "io/labels-too-few", _labels("cat\n")),
    bad("IO028", "io/labels-too-many", _labels("cat\ndog\ncow\n")),
    bad("IO028", "io/labels-crlf", _labels("cat\r\ndog\r\n")),
    bad("IO028", "io/labels-bom", _labels("\ufeffcat\ndog\n")),
    bad("IO028", "io/labels-blank-lines", _labels("cat\ndog\n\n\n")),
    bad("IO028", "io/labels-empty", _labels("")),
    bad("IO028", "io/labels-binary", _labels(bytes(range(256)))),
    good(
        "io/labels-name-empty",
        python(changed(PYTHON, _Y, '{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "" }')),
    ),
    good(
        "io/extra-version-files",
        {**python(), "m/1/weights.npy": b"x", "m/1/lib/helper.py": ANY, "m/1/model.onnx": IDENTITY},
    ),
]
