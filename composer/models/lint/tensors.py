"""Inputs and outputs: names, datatypes, dims, reshapes, batch inputs and outputs, labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from composer.models.lint.completion import Side, disagreements, may_add, may_batch, may_complete
from composer.models.lint.files import Named, cannot_open, named, onnx_files
from composer.models.lint.programs import codes
from composer.models.lint.rule import ERROR, INFO, WARNING, Case, Edit, Found, at, on, rule
from composer.models.lint.server import strict
from composer.models.repository import Entry, Model
from composer.models.schema import enum_name

_SHAPE: Final = "core: model_config_utils.cc, ValidateIOShape"
_INPUT: Final = "core: model_config_utils.cc, ValidateModelInput"
_NON_LINEAR: Final = "core: model_config_utils.cc, ValidateNonLinearFormatIO"
_BATCH: Final = "core: model_config_utils.cc, ValidateBatchIO"
_LABELS: Final = "core: label_provider.cc, AddLabels"

Message = Any
"""A part of a config: the types of messages are made at run time."""

Tensor = Any
"""A ModelInput or a ModelOutput."""

BYTES: Final = {
    **dict.fromkeys(("TYPE_BOOL", "TYPE_UINT8", "TYPE_INT8"), 1),
    **dict.fromkeys(("TYPE_UINT16", "TYPE_INT16", "TYPE_FP16", "TYPE_BF16"), 2),
    **dict.fromkeys(("TYPE_UINT32", "TYPE_INT32", "TYPE_FP32"), 4),
    **dict.fromkeys(("TYPE_UINT64", "TYPE_INT64", "TYPE_FP64"), 8),
}
"""The size of one element of each datatype that has a fixed one."""

_MOST_LABELS: Final = 8 << 20
_MOST_ELEMENTS: Final = (1 << 63) - 1


def datatype(message: Message) -> str:
    """The name of a message's `data_type`, `TYPE_FP32`; its number where that has no name."""
    return enum_name(message, "data_type") or str(message.data_type)


def element_count(dims: Sequence[int]) -> int:
    """How many elements a shape has, as the server counts: -1 with a variable dim, 0 for no dims at all."""
    return (-1 if -1 in dims else math.prod(dims)) if dims else 0


def byte_size(message: Message) -> int:
    """The bytes of data of a `data_type` and `dims`; a string counts as the four bytes that its length takes."""
    return element_count(message.dims) * BYTES.get(datatype(message), 4)


def shape(dims: Sequence[int]) -> str:
    """A shape as the server writes it."""
    return f"[{','.join(str(dim) for dim in dims)}]"


def _tensors(model: Model) -> Iterator[tuple[Side, int, Tensor]]:
    sides: tuple[Side, ...] = ("input", "output")
    for side in sides:
        for number, tensor in enumerate(getattr(model.config, side)):
            yield side, number, tensor


def _called(side: Side, number: int, tensor: Tensor) -> str:
    return f"{side} {tensor.name}" if tensor.name else f"{side} {number + 1}"


def _wrong_dims(dims: Sequence[int]) -> list[int]:
    """The places of dims that no tensor can have."""
    return [number for number, dim in enumerate(dims) if dim < 1 and dim != -1]


# -- what every tensor must have ------------------------------------------------------------------


@rule("IO001", ERROR, says="model {side} must specify 'name' for {model}", source=_SHAPE, fix='add name: "NAME"')
def no_name(model: Model, case: Case) -> Iterator[Found]:
    """An input or output has no name."""
    nameless = [(side, number) for side, number, tensor in _tensors(model) if not tensor.name]
    if nameless and not may_complete(model, case):
        for side, number in nameless:
            yield at(model, side, number, message=f"{side} {number + 1} has no name", side=side)


@rule(
    "IO002",
    ERROR,
    says="model {side} '{name}' must specify 'data_type' for {model}",
    source=_SHAPE,
    fix="add data_type: TYPE_FP32, or what it is",
)
def no_datatype(model: Model, case: Case) -> Iterator[Found]:
    """An input or output has no data_type."""
    lacking = [(side, number, tensor) for side, number, tensor in _tensors(model) if tensor.data_type == 0]
    if lacking and not may_complete(model, case):
        for side, number, tensor in lacking:
            message = f"{_called(side, number, tensor)} has no data_type"
            yield at(model, side, number, "data_type", message=message, side=side, name=tensor.name)


@rule(
    "IO003",
    ERROR,
    says="model {side} '{name}' must specify 'dims' for {model}",
    source=_SHAPE,
    fix="add dims: [ -1 ], or what they are; a single number with a batch is dims: [ 1 ] reshape: { shape: [ ] }",
)
def no_dims(model: Model, case: Case) -> Iterator[Found]:
    """An input or output has no dims."""
    lacking = [(side, number, tensor) for side, number, tensor in _tensors(model) if not tensor.dims]
    if lacking and not may_complete(model, case):
        for side, number, tensor in lacking:
            message = f"{_called(side, number, tensor)} has no dims"
            yield at(model, side, number, "dims", message=message, side=side, name=tensor.name)


@rule("IO004", ERROR, says="{words}", source=_SHAPE, fix="write its size, or -1 for one that varies")
def impossible_dim(model: Model, case: Case) -> Iterator[Found]:
    """A dim is 0, or less than -1, or they come to more elements than can be counted."""
    for side, number, tensor in _tensors(model):
        for place in _wrong_dims(tensor.dims):
            message = f"{_called(side, number, tensor)} has a dim of {tensor.dims[place]}"
            words = f"model {side} '{tensor.name}' dimension must be integer >= 1, or -1 to indicate"
            words = f"{words} a variable-size dimension for {model.name}"
            yield at(model, side, number, "dims", place, message=message, words=words)
        if side == "input" and math.prod(tensor.dims) > _MOST_ELEMENTS and not _wrong_dims(tensor.dims):
            words = f"element count for tensor '{tensor.name} dims' exceeds maximum size of {_MOST_ELEMENTS}"
            message = f"{_called(side, number, tensor)} has more elements than can be counted"
            yield at(model, side, number, "dims", message=message, severity=WARNING, words=words)


# -- reshape --------------------------------------------------------------------------------------


@rule(
    "IO005",
    ERROR,
    says="model {side} '{name}' reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension "
    "for {model}",
    source=_SHAPE,
    fix="write its size, or -1 for one that varies",
)
def impossible_reshape_dim(model: Model, case: Case) -> Iterator[Found]:
    """A dim of a reshape is 0, or less than -1."""
    for side, number, tensor in _tensors(model):
        for place in _wrong_dims(tensor.reshape.shape):
            message = f"the reshape of {_called(side, number, tensor)} has a dim of {tensor.reshape.shape[place]}"
            key = (side, number, "reshape", "shape", place)
            yield at(model, *key, message=message, side=side, name=tensor.name)


def _reshaped(model: Model) -> Iterator[tuple[Side, int, Tensor]]:
    """The tensors whose dims and reshape can be compared."""
    for side, number, tensor in _tensors(model):
        wrong = _wrong_dims(tensor.dims) or _wrong_dims(tensor.reshape.shape)
        if tensor.HasField("reshape") and tensor.dims and not wrong:
            yield side, number, tensor


def _runs(dims: Sequence[int]) -> list[int]:
    """The element counts of what stands between variable dims."""
    found = [1]
    for dim in dims:
        if dim == -1:
            found.append(1)
        else:
            found[-1] *= dim
    return found


def _differs(dims: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a shape cannot be another one, though as many of their dims vary."""
    count, counted = element_count(dims), element_count(other)
    if count != counted and (counted != 0 or count != 1):
        return True
    runs, others = _runs(dims), _runs(other)
    return count == -1 and len(runs) == len(others) and runs != others


def _compared(tensor: Tensor) -> str:
    return f"dims {shape(tensor.dims)} and reshape {shape(tensor.reshape.shape)}"


@rule(
    "IO006",
    ERROR,
    says="model {side} '{name}' has different size for dims and reshape for {model}",
    source=_SHAPE,
    fix="write a shape of as many elements",
)
def reshape_of_another_size(model: Model, case: Case) -> Iterator[Found]:
    """The reshape has another number of elements than the dims."""
    for side, number, tensor in _reshaped(model):
        if _differs(tensor.dims, tensor.reshape.shape):
            message = f"{_compared(tensor)} of {_called(side, number, tensor)} are of different sizes"
            yield at(model, side, number, "reshape", message=message, side=side, name=tensor.name)


@rule(
    "IO007",
    ERROR,
    says="model {side} '{name}' has different number of variable-size dimensions for dims and reshape for {model}",
    source=_SHAPE,
    fix="keep every -1",
)
def reshape_of_other_variables(model: Model, case: Case) -> Iterator[Found]:
    """The reshape has another number of variable dims."""
    for side, number, tensor in _reshaped(model):
        dims, other = tensor.dims, tensor.reshape.shape
        if element_count(dims) == element_count(other) == -1 and list(dims).count(-1) != list(other).count(-1):
            message = f"{_compared(tensor)} of {_called(side, number, tensor)} have different numbers of -1"
            yield at(model, side, number, "reshape", message=message, side=side, name=tensor.name)


@rule(
    "IO008",
    ERROR,
    says="model {side} '{name}' cannot have empty reshape for non-batching model as scalar tensors are not supported "
    "for {model}",
    source=_SHAPE,
    fix="remove the reshape, or set max_batch_size",
)
def empty_reshape_without_batch(model: Model, case: Case) -> Iterator[Found]:
    """A reshape to nothing, in a model that does not batch."""
    empty = [one for one in _tensors(model) if one[2].HasField("reshape") and not one[2].reshape.shape]
    if empty and model.max_batch_size == 0 and not may_batch(model, case):
        for side, number, tensor in empty:
            message = f"{_called(side, number, tensor)} is reshaped to a single number, but max_batch_size is 0"
            yield at(model, side, number, "reshape", message=message, side=side, name=tensor.name)


# -- what only some tensors may have --------------------------------------------------------------


@rule(
    "IO009",
    ERROR,
    says="model input NHWC/NCHW require 3 dims for {model}",
    source=_INPUT,
    fix="remove the format, or write dims without the batch: [ 3, 224, 224 ]",
)
def format_without_three_dims(model: Model, case: Case) -> Iterator[Found]:
    """An input has the format of an image, and not three dims."""
    for number, tensor in enumerate(model.config.input):
        if tensor.format in (1, 2) and tensor.dims and len(tensor.dims) != 3:
            said = f"{enum_name(tensor, 'format')} wants 3 dims, and {_called('input', number, tensor)}"
            yield at(model, "input", number, "format", message=f"{said} has {len(tensor.dims)}")


def _is_tensorrt(model: Model) -> bool:
    return model.config.platform == "tensorrt_plan" or model.backend == "tensorrt"


@rule(
    "IO010",
    ERROR,
    says="shape tensors are only supported for TensorRT platform for {model}",
    source=_INPUT,
    fix="remove is_shape_tensor",
)
def shape_tensor_elsewhere(model: Model, case: Case) -> Iterator[Found]:
    """A shape tensor in a model that is not TensorRT's."""
    for side, number, tensor in _tensors(model):
        if tensor.is_shape_tensor and not _is_tensorrt(model):
            message = f"{_called(side, number, tensor)} is a shape tensor, which only TensorRT has"
            yield at(model, side, number, "is_shape_tensor", message=message)


@rule(
    "IO011", ERROR, says="{words} for {model}", source=_NON_LINEAR, fix="remove is_non_linear_format_io", since="24.08"
)
def non_linear_elsewhere(model: Model, case: Case) -> Iterator[Found]:
    """A tensor of non-linear format in a model that is not TensorRT's, or without three dims."""
    for side, number, tensor in _tensors(model):
        key = (side, number, "is_non_linear_format_io")
        called = _called(side, number, tensor)
        if tensor.is_non_linear_format_io and not _is_tensorrt(model):
            words = "Non-linear IO format is only supported for the TensorRT platform"
            yield at(model, *key, message=f"{called} is of a non-linear format, which only TensorRT has", words=words)
        elif tensor.is_non_linear_format_io and len(tensor.dims) not in (0, 3):
            message = f"{called} is of a non-linear format, which wants 3 dims"
            yield at(model, *key, message=message, words=f"Non-linear IO format {side} requires 3 dims")


_NO_OPTIONAL: Final = frozenset(["pytorch", "tensorrt", "openvino"])


@rule(
    "IO015",
    ERROR,
    says="'optional' is set to true for input '{name}' while the backend model doesn't support optional input",
    source="backend: backend_model.cc, ParseModelConfig",
    fix="remove optional",
    since="22.01",
)
def optional_unsupported(model: Model, case: Case) -> Iterator[Found]:
    """An input is optional, and the backend has no such thing."""
    older = model.backend == "onnxruntime" and case.before("23.04")
    if (model.backend in _NO_OPTIONAL or older) and not model.config.runtime:
        for number, tensor in enumerate(model.config.input):
            if tensor.optional:
                message = f"{model.backend} models cannot have optional inputs"
                yield at(model, "input", number, "optional", message=message, name=tensor.name)


@rule(
    "IO016",
    ERROR,
    says="{words}",
    source="onnxruntime_backend: onnxruntime.cc, ValidateInputs",
    fix="remove optional",
    since="23.04",
)
def optional_in_onnx(model: Model, case: Case) -> Iterator[Found]:
    """An optional input of an ONNX model that batches, or whose file has no value of its own for it."""
    optional = [(number, tensor.name) for number, tensor in enumerate(model.config.input) if tensor.optional]
    if model.backend != "onnxruntime" or model.config.runtime or not optional:
        return
    counted = next(disagreements(model, case, "input_count"), None)
    required = {value.name for file in onnx_files(model) for value in file.inputs}
    for number, name in optional:
        key = ("input", number, "optional")
        if model.max_batch_size > 0:
            words = f"unable to load model '{model.name}', optional input '{name}' is not supported for models that"
            message = f"{name} cannot be optional in an ONNX model that batches"
            yield at(model, *key, message=message, words=f"{words} support batching")
        elif counted and name in required:
            message = f"{name} cannot be optional: the model file has no value for it"
            yield at(model, *key, message=message, words=counted.words)


_NO_TYPES: Final = {
    "pytorch": frozenset(["TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_BF16"]),
    "tensorrt": frozenset(["TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT16", "TYPE_FP64", "TYPE_STRING"]),
}
"""The datatypes that backends have never had."""


@rule(
    "IO017",
    ERROR,
    says="unsupported datatype {type} for {side} '{name}' for model '{model}'",
    source="pytorch_backend: libtorch_utils.cc; tensorrt_backend: tensorrt_utils.cc",
    fix="write a datatype that the backend has",
)
def datatype_unsupported(model: Model, case: Case) -> Iterator[Found]:
    """A datatype that the backend does not have."""
    if model.config.runtime:
        return
    for side, number, tensor in _tensors(model):
        kind = datatype(tensor)
        if kind in _NO_TYPES.get(model.backend or "", ()):
            message = f"{_called(side, number, tensor)} is {kind}, which {model.backend} does not have"
            yield at(model, side, number, "data_type", message=message, type=kind, side=side, name=tensor.name)
        if kind == "TYPE_BF16" and model.backend == "python":
            message = f"NumPy has no BF16: model.py can have {_called(side, number, tensor)} by DLPack only"
            severity = None if side == "input" and _has_no_bf16(model, tensor, case) else WARNING
            key, words = (side, number, "data_type"), {"type": kind, "side": side, "name": tensor.name}
            yield replace(at(model, *key, message=message, severity=severity), says=words)


def _has_no_bf16(model: Model, tensor: Tensor, case: Case) -> bool:
    """Whether every request with this input fails: the backend has BF16 from 24.08 on, and NumPy has it never."""
    asked = [one for _, code in codes(model, case) for one in code.reads if one.names == (tensor.name,)]
    to_numpy = any(one.certain and one.attribute == "as_numpy" for one in asked)
    return not tensor.optional and (to_numpy or case.before("24.08"))


# -- what is there, and how often -----------------------------------------------------------------


@rule(
    "IO012",
    ERROR,
    says="expected {count} inputs but got {names} inputs for model '{model}'",
    source="core: model.cc, Init; seen on a real server: every request fails",
    fix="remove one of them, or give it another name",
)
def input_twice(model: Model, case: Case) -> Iterator[Found]:
    """Two inputs have the same name, so that no request can have them all."""
    inputs = model.config.input
    names = {tensor.name for tensor in inputs}
    required = sum(not tensor.optional for tensor in inputs)
    seen: set[str] = set()
    for number, tensor in enumerate(inputs):
        if tensor.name in seen and required > len(names):
            message = f"there is another input {tensor.name}: no request can have both"
            yield at(model, "input", number, "name", message=message, count=len(inputs), names=len(names))
        seen.add(tensor.name)


@rule("IO013", WARNING, says="{words}", source="core: model.cc, Init", fix="remove one of them")
def output_twice(model: Model, case: Case) -> Iterator[Found]:
    """Two outputs have the same name."""
    labelled = Counter(tensor.name for tensor in model.config.output if tensor.label_filename)
    seen: set[str] = set()
    for number, tensor in enumerate(model.config.output):
        if tensor.name and tensor.name in seen:
            refused = labelled[tensor.name] > 1 and bool(tensor.label_filename)
            words = f"multiple label files for '{tensor.name}'" if refused else ""
            message = f"there is another output {tensor.name}"
            severity = ERROR if refused else None
            yield at(model, "output", number, "name", message=message, severity=severity, words=words)
        seen.add(tensor.name)


@rule("IO018", WARNING, source="seen on a real server: it answers without outputs", fix="add output [ ... ]")
def no_outputs(model: Model, case: Case) -> Iterator[Found]:
    """A Python model has no outputs in its config, and none are filled in."""
    if model.backend == "python" and not model.config.output and not may_add(model, case, "output"):
        yield at(model, message="there are no outputs in the config: answers have none either")


@rule(
    "IO019",
    WARNING,
    says="{words}",
    source="core: model.cc, GetInput; python_backend: python_be.cc, ProcessRequests; seen on a real server",
    fix="add input [ ... ], or an auto_complete_config to model.py",
)
def no_inputs(model: Model, case: Case) -> Iterator[Found]:
    """A Python model has no inputs in its config, and none are filled in; with a batch, every request fails."""
    if model.backend == "python" and not model.config.input and not may_add(model, case, "input"):
        if _batches(model, case) and not _made_by_sequences(model):
            message = "without an input no request has a size of a batch, and max_batch_size is not 0: all of them fail"
            yield at(model, message=message, severity=ERROR, words="out of bounds index 0: request has 0 inputs")
        else:
            words = f"unexpected inference input 'NAME' for model '{model.name}'"
            yield at(
                model, message="there are no inputs in the config: requests that have one are refused", words=words
            )


def _batches(model: Model, case: Case) -> bool:
    """Whether a Python model has a max_batch_size, from its config or its own `auto_complete_config`."""
    set_later = (code.auto.max_batch_size or 0 for _, code in codes(model, case) if not strict(case))
    return model.max_batch_size > 0 or any(size > 0 for size in set_later)


def _made_by_sequences(model: Model) -> bool:
    """Whether the sequence batcher gives requests inputs of its own."""
    batching = model.config.sequence_batching
    return bool(batching.control_input or batching.state)


@rule(
    "IO014",
    ERROR,
    says="{words}",
    source="onnxruntime_backend: onnxruntime_utils.cc, CompareDimsSupported",
    fix="leave the first dim out: max_batch_size is for that",
)
def dims_with_the_batch(model: Model, case: Case) -> Iterator[Found]:
    """The dims of an ONNX model's tensor have the batch in them, and max_batch_size adds another."""
    ranks = {value.name: len(value.shape) for file in onnx_files(model) for value in (*file.inputs, *file.outputs)}
    for one in disagreements(model, case, "dims"):
        tensor = getattr(model.config, str(one.key[0]))[one.key[1]]
        if model.max_batch_size > 0 and tensor.dims and len(tensor.dims) == ranks.get(tensor.name):
            fix = f"dims: [ {', '.join(str(dim) for dim in tensor.dims[1:])} ]"
            message = f"the dims of {tensor.name} have the batch in them, and max_batch_size adds another"
            yield at(model, *one.key, message=message, fix=fix, words=one.words)


@rule(
    "IO020",
    WARNING,
    says="{words}",
    source="server: docs, ragged_batching.md; onnxruntime_backend: onnxruntime.cc, ValidateInputs",
    fix="add dynamic_batching { }",
)
def ragged_without_batching(model: Model, case: Case) -> Iterator[Found]:
    """allow_ragged_batch, and nothing makes batches, or the ONNX file is not made for it."""
    config = model.config
    for one in disagreements(model, case, "ragged"):
        fix = "remove allow_ragged_batch"
        yield at(model, *one.key, message=one.message, severity=ERROR, fix=fix, words=one.words)
    batches = config.HasField("dynamic_batching") or config.HasField("sequence_batching")
    ragged = [number for number, tensor in enumerate(config.input) if tensor.allow_ragged_batch]
    if ragged and not batches and not may_batch(model, case):
        for number in ragged:
            message = "allow_ragged_batch means nothing without dynamic_batching"
            yield at(model, "input", number, "allow_ragged_batch", message=message, words="")


# -- batch inputs and outputs ---------------------------------------------------------------------


def _batch_tensors(model: Model) -> Iterator[tuple[Side, int, Any]]:
    sides: tuple[Side, ...] = ("input", "output")
    for side in sides:
        for number, tensor in enumerate(getattr(model.config, f"batch_{side}")):
            yield side, number, tensor


@rule(
    "IO021",
    ERROR,
    says="batch {side} kind '{kind}' expects 1 source input, got {count} for {model}",
    source=_BATCH,
    fix='source_input: "NAME"',
)
def not_one_source(model: Model, case: Case) -> Iterator[Found]:
    """A batch input or output has not exactly one source."""
    for side, number, tensor in _batch_tensors(model):
        count, kind = len(tensor.source_input), enum_name(tensor, "kind")
        if count != 1:
            message = f"{kind} is made from one input, and source_input has {count}"
            key = (f"batch_{side}", number, "source_input")
            yield at(model, *key, message=message, side=side, kind=kind, count=count)


@rule(
    "IO022",
    ERROR,
    says="batch input data type must be TYPE_INT32 or TYPE_FP32 for {model}",
    source=_BATCH,
    fix="data_type: TYPE_FP32",
)
def batch_input_datatype(model: Model, case: Case) -> Iterator[Found]:
    """A batch input is neither INT32 nor FP32."""
    for number, tensor in enumerate(model.config.batch_input):
        kind = datatype(tensor)
        if kind not in ("TYPE_INT32", "TYPE_FP32"):
            message = f"a batch input is TYPE_INT32 or TYPE_FP32, not {kind}"
            yield at(model, "batch_input", number, "data_type", message=message)


def _unknown(model: Model, side: Side, field: str) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Names in batch inputs and outputs that are not among the model's own, with where they stand."""
    known = {tensor.name for tensor in getattr(model.config, side)}
    for which, number, tensor in _batch_tensors(model):
        names = getattr(tensor, field) if field == "source_input" or which == "output" else ()
        for place, name in enumerate(names):
            if name not in known:
                yield (f"batch_{which}", number, field, place), name


@rule(
    "IO023", ERROR, says="unknown {what} name '{name}' for {model}", source=_BATCH, fix="write the name of one that is"
)
def unknown_source_or_target(model: Model, case: Case) -> Iterator[Found]:
    """A batch input or output names an input or output that the model does not have."""
    sides: tuple[tuple[Side, str], ...] = (("input", "source_input"), ("output", "target_name"))
    for side, field in sides:
        unknown = list(_unknown(model, side, field))
        if unknown and not may_add(model, case, side):
            what = "source input" if side == "input" else "target output"
            for key, name in unknown:
                yield at(model, *key, message=f"the model has no {side} {name}", what=what, name=name)


@rule(
    "IO024",
    ERROR,
    says="target output name '{name}' can only be specified once for {model}",
    source=_BATCH,
    fix="remove one of them",
)
def target_twice(model: Model, case: Case) -> Iterator[Found]:
    """A batch output has a target twice."""
    for number, tensor in enumerate(model.config.batch_output):
        for place, name in enumerate(tensor.target_name):
            if name in tensor.target_name[:place]:
                key = ("batch_output", number, "target_name", place)
                yield at(model, *key, message=f"{name} is there twice", name=name)


@rule(
    "IO030",
    ERROR,
    says="Signal (11) received.",
    source="backend: backend_common.cc, BatchOutput::ParseFromModelConfig; seen on a real server: it ends at once",
    fix='target_name: "NAME"',
)
def no_target(model: Model, case: Case) -> Iterator[Found]:
    """A batch output has no target, which ends the server."""
    for number, tensor in enumerate(model.config.batch_output):
        if not tensor.target_name and model.config.output:
            yield at(model, "batch_output", number, message="a batch output without target_name ends the server")


# -- labels ---------------------------------------------------------------------------------------


def _labelled(model: Model) -> Iterator[tuple[int, Tensor, Named]]:
    for number, tensor in enumerate(model.config.output):
        if tensor.label_filename:
            yield number, tensor, named(model, tensor.label_filename)


@rule("IO025", ERROR, says="{words}", source=_LABELS, fix="add the file, or remove label_filename")
def labels_missing(model: Model, case: Case) -> Iterator[Found]:
    """The file with labels is not there."""
    for number, _tensor, found in _labelled(model):
        if found.kind == "missing" and not (found.path.startswith("..") and case.from_("26.02")):
            message = f"there is no {found.path} in the model's folder"
            yield at(model, "output", number, "label_filename", message=message, words=cannot_open(model, found))


@rule("IO026", ERROR, says="{words}", source=f"{_LABELS}; seen on a real server: it aborts", fix="name the file in it")
def labels_are_a_folder(model: Model, case: Case) -> Iterator[Found]:
    """The file with labels is a folder, which ends the server."""
    for number, _tensor, found in _labelled(model):
        if found.kind == "folder":
            message = f"{found.path} is a folder: the server would end at once"
            yield at(model, "output", number, "label_filename", message=message, words=cannot_open(model, found))


@rule(
    "IO027",
    ERROR,
    says="label file path '{path}' for output '{name}' in model '{model}' is outside model directory",
    source="core: model.cc, Init",
    fix="copy the file into the model's folder",
    since="26.02",
)
def labels_outside(model: Model, case: Case) -> Iterator[Found]:
    """The file with labels is not in the model's folder."""
    for number, tensor, found in _labelled(model):
        away = found.entry is not None and found.kind == "file" and not _inside(model, found.entry)
        if found.path.startswith("..") or away:
            path = model.folder / tensor.label_filename.lstrip("/")
            message = f"{tensor.label_filename} is not in the model's folder"
            yield at(model, "output", number, "label_filename", message=message, path=path, name=tensor.name)


def _inside(model: Model, entry: Entry) -> bool:
    """Whether a file, behind all links, is in the model's folder."""
    return entry.link is None or entry.source.is_relative_to(model.folder.resolve())


@rule("IO028", WARNING, source="seen on a real server", fix="one label a line, in plain UTF-8")
def odd_labels(model: Model, case: Case) -> Iterator[Found]:
    """Labels that are not what they look like, or not one for each class."""
    for _number, tensor, found in _labelled(model):
        if found.kind == "file" and found.entry and found.entry.size <= _MOST_LABELS:
            path, data = model.folder / found.path, found.entry.source.read_bytes()
            for message, mended in _odd(data, element_count(tensor.dims)):
                edit = Edit(path=path, write=mended) if mended is not None else None
                yield on(path, message, edit=edit)


def _odd(data: bytes, classes: int) -> Iterator[tuple[str, bytes | None]]:
    """What is odd about labels, and the same labels without it."""
    if b"\r" in data:
        mended = data.replace(b"\r\n", b"\n")
        yield "lines end in CR LF: labels would have a CR at their end", mended if mended != data else None
    if data.startswith(b"\xef\xbb\xbf"):
        yield "the file begins with a byte order mark: the first label would have it", data[3:]
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    filled = len(lines)
    while filled and not lines[filled - 1].strip():
        filled -= 1
    if classes > 0 and filled != classes and len(lines) != classes:
        yield f"there are {filled} labels for {classes} classes", None


@rule(
    "IO029",
    INFO,
    source="server: docs, protocol/extension_classification.md; classification.cc, TopkClassifications",
    fix="remove label_filename",
)
def labels_without_classes(model: Model, case: Case) -> Iterator[Found]:
    """Labels for an output that has no classes."""
    for number, tensor in enumerate(model.config.output):
        many = sum(dim != 1 for dim in tensor.dims) > 1
        if tensor.label_filename and (many or datatype(tensor) == "TYPE_STRING"):
            kind = "are strings" if not many else f"have the shape {shape(tensor.dims)}"
            message = f"labels are for one score a class: the values of {tensor.name} {kind}"
            yield at(model, "output", number, "label_filename", message=message)
        elif tensor.label_filename and datatype(tensor) in _UNCLASSED:
            message = f"the server gives no classes of {datatype(tensor)}, and so no labels"
            fix = f"have {tensor.name} be TYPE_FP32, or remove label_filename"
            yield at(model, "output", number, "label_filename", message=message, fix=fix, severity=WARNING)


_UNCLASSED: Final = ("TYPE_FP16", "TYPE_BF16", "TYPE_BOOL")
"""Numbers that are not ordered into classes: it answers that the class result is not available."""
