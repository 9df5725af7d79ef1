"""Warmup samples: their inputs, files and batch sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from composer.models.lint.completion import may_add, may_batch, may_complete
from composer.models.lint.files import cannot_open, named
from composer.models.lint.rule import ERROR, WARNING, Case, Found, at, rule
from composer.models.lint.tensors import Tensor, byte_size, datatype, element_count, shape
from composer.models.repository import Model

_GENERATE: Final = "core: backend_model_instance.cc, GenerateWarmupData"
_REQUEST: Final = "core: infer_request.cc, Normalize"

FOLDER: Final = "warmup"
"""The folder of a model that holds the data of warmup samples."""

_CHECKING: Final = frozenset(["python", "onnxruntime", "pytorch", "tensorrt", "tensorflow", "openvino"])
"""Backends that refuse a batch which is larger than max_batch_size."""

_MOST_READ: Final = 8 << 20
"""Files of strings that are larger are not looked into."""

_NUMBERS: Final = frozenset(f"TYPE_{sign}INT{bits}" for sign in ("", "U") for bits in (16, 32, 64))

Key = tuple[str | int, ...]
Sample = Any
"""A ModelWarmup: its type is made at run time."""

Data = Any
"""A ModelWarmup.Input."""


def _samples(model: Model) -> Iterator[tuple[int, Sample]]:
    """The samples that the server runs: none for ensembles, for passive instances, and those without a batch."""
    groups = model.config.instance_group
    if model.is_ensemble or (groups and all(group.passive for group in groups)):
        return
    for number, sample in enumerate(model.config.model_warmup):
        if sample.batch_size:
            yield number, sample


def _inputs(model: Model) -> Iterator[tuple[Key, str, Data]]:
    for number, sample in _samples(model):
        for name in sorted(sample.inputs):
            yield ("model_warmup", number, "inputs", name), name, sample.inputs[name]


def _known(model: Model) -> Iterator[tuple[Key, str, Data, Tensor]]:
    """The inputs of samples that are inputs of the model, with what its config says of them."""
    tensors = {tensor.name: tensor for tensor in reversed(model.config.input)}
    for key, name, data in _inputs(model):
        if name in tensors:
            yield key, name, data, tensors[name]


# -- data -----------------------------------------------------------------------------------------


@rule("WRM001", ERROR, says="{words}", source=_GENERATE, fix="write a size for each -1")
def variable_dim(model: Model, case: Case) -> Iterator[Found]:
    """A warmup sample has a dim of less than 0."""
    for key, name, data in _inputs(model):
        for place, dim in enumerate(data.dims):
            if dim < 0:
                words = f"warmup setting expects all variable-size dimensions are specified for input '{name}'"
                words = words if dim == -1 else f"input byte size mismatch for input '{name}' for model '{model.name}'"
                message = f"{name} of a sample has a certain size: {dim} is none"
                yield at(model, *key, "dims", place, message=message, words=words)


@rule(
    "WRM002",
    ERROR,
    says="warmup setting expects input '{input}' to have input_data_type set",
    source=_GENERATE,
    fix="zero_data: true",
)
def no_data(model: Model, case: Case) -> Iterator[Found]:
    """A warmup sample does not say what is in an input."""
    for key, name, data in _inputs(model):
        if data.WhichOneof("input_data_type") is None and -1 not in data.dims:
            message = f"{name} of a sample has neither zero_data, nor random_data, nor input_data_file"
            yield at(model, *key, message=message, input=name)


@rule("WRM003", ERROR, says="{words}", source=_GENERATE, fix="add the file, or write zero_data: true")
def data_missing(model: Model, case: Case) -> Iterator[Found]:
    """The file of a warmup sample is not there."""
    for key, _name, data in _inputs(model):
        found = named(model, FOLDER, data.input_data_file)
        if data.WhichOneof("input_data_type") == "input_data_file" and found.kind in ("missing", "folder"):
            message = f"there is no file {found.path} in the model's folder"
            yield at(model, *key, "input_data_file", message=message, words=cannot_open(model, found))


@rule(
    "WRM004",
    ERROR,
    says="warmup setting expects {wanted} bytes, but the data provided from {file}only has {size} bytes",
    source=_GENERATE,
    fix="write the file anew, or the dims that it has",
)
def data_too_short(model: Model, case: Case) -> Iterator[Found]:
    """The file of a warmup sample is too short."""
    for key, name, data in _inputs(model):
        found = named(model, FOLDER, data.input_data_file)
        size = found.entry.size if found.kind == "file" and found.entry else None
        if data.input_data_file and size is not None and datatype(data) != "TYPE_STRING" and byte_size(data) > size:
            wanted = byte_size(data)
            message = f"{found.path} has {size} bytes, and {name} has {wanted}"
            yield at(
                model, *key, "input_data_file", message=message, wanted=wanted, file=data.input_data_file, size=size
            )


@rule(
    "WRM011",
    ERROR,
    says="expected {wanted} string elements for inference input '{input}' for model '{model}', got {count}",
    source="core: infer_request.cc, ValidateBytesInputs; seen on a real server",
    fix="each string is its length, in four bytes, little end first, and then itself",
    since="24.09",
)
def other_number_of_strings(model: Model, case: Case) -> Iterator[Found]:
    """The file of a warmup sample has another number of strings than its dims say."""
    for key, name, data in _inputs(model):
        found = named(model, FOLDER, data.input_data_file)
        entry = found.entry if found.kind == "file" and datatype(data) == "TYPE_STRING" else None
        if data.input_data_file and entry and entry.size <= _MOST_READ:
            count, wanted = _strings(entry.source.read_bytes()), element_count(data.dims)
            if count != wanted >= 0:
                message = f"{found.path} has {count} strings, and {name} has {wanted}"
                yield at(model, *key, "input_data_file", message=message, input=name, wanted=wanted, count=count)


def _strings(data: bytes) -> int:
    """How many strings there are, each after its length; one that is cut off does not count."""
    count, place = 0, 0
    while place + 4 <= len(data):
        place += 4 + int.from_bytes(data[place : place + 4], "little")
        count += place <= len(data)
    return count if place == len(data) else -1


# -- against the inputs of the model --------------------------------------------------------------


@rule(
    "WRM005",
    ERROR,
    says="{words}",
    source=_REQUEST,
    fix="write the data_type of the input",
)
def data_of_another_type(model: Model, case: Case) -> Iterator[Found]:
    """An input of a warmup sample is of another datatype than the model's."""
    for key, name, data, tensor in _known(model):
        kind, wanted = datatype(data), datatype(tensor)
        if tensor.data_type and kind != wanted:
            message = f"{name} is {wanted}, and {kind if data.data_type else 'of no datatype'} in the sample"
            fix, given = f"data_type: {wanted}", kind.removeprefix("TYPE_") if data.data_type else "<invalid>"
            words = f"inference input '{name}' data-type is '{given}', but model '{model.name}' expects"
            words = f"{words} '{wanted.removeprefix('TYPE_')}'"
            yield at(model, *key, "data_type", message=message, fix=fix, words=words)


def _fits(dims: list[int], wanted: list[int]) -> bool:
    return len(dims) == len(wanted) and all(want in (-1, dim) for dim, want in zip(dims, wanted, strict=True))


@rule(
    "WRM006",
    ERROR,
    says="unexpected shape for input '{input}' for model '{model}'. Expected {expected}, got {got}.",
    source=_REQUEST,
    fix="write dims that fit those of the input, without the batch",
)
def data_of_another_shape(model: Model, case: Case) -> Iterator[Found]:
    """An input of a warmup sample has other dims than the model's."""
    batch, least = ([-1], [1]) if model.max_batch_size else ([], [])
    for key, name, data, tensor in _known(model):
        dims, wanted = list(data.dims), list(tensor.dims)
        if wanted and -1 not in dims and not tensor.is_shape_tensor and not _fits(dims, wanted):
            message = f"{name} has the dims {shape(wanted)}, and {shape(dims)} in the sample"
            expected, got = shape([*batch, *wanted]), shape([*least, *dims])
            yield at(model, *key, "dims", message=message, input=name, expected=expected, got=got)


@rule(
    "WRM007",
    ERROR,
    says="{words}",
    source="core: infer_request.cc, ValidateRequestInputs; seen on a real server",
    fix='inputs { key: "NAME" value: { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } }',
)
def input_missing(model: Model, case: Case) -> Iterator[Found]:
    """A warmup sample lacks an input that the model requires, or has none at all."""
    names = {tensor.name for tensor in model.config.input}
    required = [tensor.name for tensor in model.config.input if not tensor.optional]
    for number, sample in _samples(model):
        lacking, got = sorted({*required}.difference(sample.inputs)), sorted(names.intersection(sample.inputs))
        if lacking and not may_complete(model, case):
            words = f"expected {len(model.config.input)} inputs but got {len(got)} inputs for model '{model.name}'."
            words = f"{words} Got input(s) [{_quoted(got)}], but missing required input(s) [{_quoted(lacking)}]."
            message = f"a sample lacks {' and '.join(lacking)}"
            # The server only counts: an optional input makes up for a required one, and the backend has to see to it.
            severity = WARNING if len(got) >= len(required) else None
            yield at(model, "model_warmup", number, message=message, severity=severity, words=words)
        elif not sample.inputs and not required and model.max_batch_size > 0 and model.backend in _CHECKING:
            message = "a sample without any input has no size of a batch"
            yield at(model, "model_warmup", number, message=message, words="index 0: request has 0 inputs")


def _quoted(names: list[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


@rule(
    "WRM008",
    ERROR,
    says="failed to run warmup sample '{sample}': batch size {size} for '{instance}', max allowed is {most}; ",
    source="python_backend: python_be.cc, and others; seen on a real server",
    fix="lower batch_size, or raise max_batch_size",
)
def sample_too_large(model: Model, case: Case) -> Iterator[Found]:
    """The batch of a warmup sample is larger than the model takes."""
    for number, sample in _samples(model):
        over = sample.batch_size > max(1, model.max_batch_size)
        if over and model.backend in _CHECKING and not may_batch(model, case):
            message = f"a batch of {sample.batch_size}, and max_batch_size is {model.max_batch_size}"
            key, size, most = ("model_warmup", number, "batch_size"), sample.batch_size, model.max_batch_size
            instance = _instance(model)
            yield at(model, *key, message=message, sample=sample.name, size=size, most=most, instance=instance)


def _instance(model: Model) -> str:
    """The name of the first instance that takes requests."""
    for number, group in enumerate(model.config.instance_group):
        if not group.passive:
            return f"{group.name or f'{model.name}_{number}'}_0"
    return f"{model.name}_0"


@rule(
    "WRM012",
    ERROR,
    says="Signal (6) received.",
    source="seen on a real server: the Python backend ends it at once",
    fix='inputs { key: "NAME" value: { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } }',
)
def unsaid_input(model: Model, case: Case) -> Iterator[Found]:
    """An input of a warmup sample that the model does not have, without name or datatype: it ends the server."""
    names = {tensor.name for tensor in model.config.input}
    for key, name, data in _inputs(model):
        if name not in names and not (name and data.data_type) and not may_add(model, case, "input"):
            lacks = "datatype" if name else "name"
            yield at(model, *key, message=f"an input of a sample has no {lacks}: the server would end at once")


# -- what does not do what was meant --------------------------------------------------------------


@rule("WRM009", WARNING, source=f"{_GENERATE}: it is passed over", fix="batch_size: 1")
def sample_without_batch(model: Model, case: Case) -> Iterator[Found]:
    """A warmup sample has no batch size, and is passed over."""
    for number, sample in enumerate(model.config.model_warmup):
        if not sample.batch_size and not model.is_ensemble:
            message = "a sample of batch_size 0 is passed over"
            yield at(model, "model_warmup", number, "batch_size", message=message)


@rule(
    "WRM010",
    WARNING,
    source=f"{_GENERATE}: random bytes",
    fix="zero_data: true, or an input_data_file with values that it can have",
)
def random_numbers(model: Model, case: Case) -> Iterator[Found]:
    """Random bytes for an input of whole numbers: indices would be out of range."""
    for key, name, data in _inputs(model):
        if data.random_data and datatype(data) in _NUMBERS:
            message = f"{name} would get numbers of any size, which no table of a model has"
            yield at(model, *key, "random_data", message=message)
