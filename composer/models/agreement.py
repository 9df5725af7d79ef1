"""Where a config.pbtxt disagrees with the ONNX file it is for, by the rules by which the server compares them.

Source: onnxruntime_backend, onnxruntime.cc (AutoCompleteConfig, ValidateInputs, ValidateOutputs) and
onnxruntime_utils.cc (CompareDimsSupported).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from composer.models.autoconfig import can_batch, completed, unsupported
from composer.models.configuration import Key
from composer.models.onnx import OnnxModel, Value
from composer.models.schema import ModelConfig, enum_name

ModelIo = Any
"""A ModelInput or ModelOutput of Triton's: made at run time too, so its fields have no types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing in which the config and the file differ, and for which the server refuses the model.

    `key` is the way to it in the config, of what it is missing from where it is missing. `kind` is one of
    `unserved` (no config can help: not a tensor, no datatype), `batching`, `unknown_input`, `unknown_output`,
    `input_count`, `optional`, `datatype`, `dims`, `ragged`, `control`. `message` is a sentence of ours, `words` are the
    server's, `expected` is what to write instead, where that is one thing.
    """

    key: Key
    kind: str
    message: str
    words: str
    expected: str | None = None


def differences(
    given: ModelConfig, model: OnnxModel, *, release: str | None = None, strict: bool = False
) -> list[Difference]:
    """All that the server would refuse a config for, given the file. Empty if it takes it.

    Inputs or outputs that are not given at all are no difference: the server fills them in, unless it is `strict`, that
    is told to complete nothing. Nothing is said of a shape that only ONNX Runtime knows for sure, nor of what is wrong
    with the config by itself.
    """
    return list(_differences(given, model, release, strict))


def _differences(given: ModelConfig, model: OnnxModel, release: str | None, strict: bool) -> Iterator[Difference]:
    served = True
    for value in (*model.inputs, *model.outputs):
        if why := unsupported(value, release):
            served = False
            yield _unserved(value, why)
    if not served:
        return
    complete = strict or (given.input and given.output)
    if not complete and given.max_batch_size > 0 and not can_batch(model):
        yield _autofill(given, model)
        return
    full = given if complete else _filled_in(given, model, release)
    yield from _controls(full, model)
    yield from _inputs(full, model, release)
    yield from _outputs(full, model)


def _filled_in(given: ModelConfig, model: OnnxModel, release: str | None) -> ModelConfig:
    """The config after the server's auto-complete, which is what it holds against the file.

    Where inputs or outputs are missing, it also turns a `max_batch_size` of 0 into its own for a model that can batch.
    """
    full = type(given)()
    full.CopyFrom(given)
    own = completed(model, release=release)
    full.max_batch_size = given.max_batch_size or own.max_batch_size
    for missing, ports in ((full.input, own.inputs), (full.output, own.outputs)):
        if not missing:
            for port in ports:
                io = missing.add(name=port.name, dims=port.dims)
                io.data_type = io.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name[port.datatype].number
                if port.flat:
                    io.reshape.SetInParent()
    return full


def _unserved(value: Value, why: str) -> Difference:
    words = f"Unsupported ONNX Type 'ONNX_TYPE_{value.kind.replace('_', '').upper()}' for I/O '{value.name}', expected"
    return Difference(
        key=(),
        kind="unserved",
        message=f'"{value.name}" of the model {why}',
        words="" if value.kind == "tensor" else f"{words} 'ONNX_TYPE_TENSOR'.",
    )


def _autofill(given: ModelConfig, model: OnnxModel) -> Difference:
    fixed = next(value for value in (*model.inputs, *model.outputs) if value.shape[:1] != (-1,))
    return Difference(
        key=("max_batch_size",),
        kind="batching",
        message=f'the model does not batch: "{fixed.name}" is of shape {_shape(fixed.shape)}',
        words=f"autofill failed for model '{given.name}': model does not support batching while non-zero "
        "max_batch_size is specified",
        expected="0",
    )


def _controls(given: ModelConfig, model: OnnxModel) -> Iterator[Difference]:
    """The inputs that a sequence batcher gives, one number for each of the batch."""
    known = {value.name: value for value in model.inputs}
    for at, tensor in enumerate(given.sequence_batching.control_input):
        key: Key = ("sequence_batching", "control_input", at, "name")
        value = known.get(tensor.name)
        if value is None:
            yield _absent_control(tensor.name, key)
        elif (dims := value.shape[1 if given.max_batch_size > 0 else 0 :]) != (1,):
            yield _long_control(given, tensor.name, dims, key)


def _absent_control(name: str, key: Key) -> Difference:
    return Difference(
        key=key,
        kind="control",
        message=f'the model has no input "{name}", which the sequence batcher is to give',
        words=f"configuration specified sequence control '{name}', but model does not provide that input",
    )


def _long_control(given: ModelConfig, name: str, dims: Sequence[int], key: Key) -> Difference:
    return Difference(
        key=key,
        kind="control",
        message=f'a sequence batcher gives one number each; "{name}" of the model is {_shape(dims)} without the batch',
        words=f"unable to load model '{given.name}', sequence control '{name}' in model has dims {_shape(dims)} but "
        "dims [1] is expected",
    )


def _inputs(given: ModelConfig, model: OnnxModel, release: str | None) -> Iterator[Difference]:
    known = [_allowed(io, model, release) for io in given.input]
    count = list(_input_count(given, model))
    if all(io.name in allowed for io, allowed in zip(given.input, known, strict=True)):
        yield from count
    for at, (io, allowed) in enumerate(zip(given.input, known, strict=True)):
        key: Key = ("input", at)
        if io.optional and given.max_batch_size:
            yield _optional(given, io.name, key)
        if value := allowed.get(io.name):
            yield from _datatype(given, io, value, key, "input")
            yield from _input_dims(given, io, value, key)
        else:
            found = _unknown(io.name, allowed, key, "input")
            yield replace(found, words=count[0].words) if count else found


def _allowed(io: ModelIo, model: OnnxModel, release: str | None) -> Mapping[str, Value]:
    """What an input may be. Before 23.10 the optional ones had to have a value in the file, and no other could."""
    values = (*model.inputs, *model.overridable)
    if release is not None and release < "23.10":
        values = model.overridable if io.optional else model.inputs
    return {value.name: value for value in values}


def _input_count(given: ModelConfig, model: OnnxModel) -> Iterator[Difference]:
    expected = sum(not io.optional for io in given.input) + len(given.batch_input) + _sequence_inputs(given)
    if expected == len(model.inputs):
        return
    listed = {io.name for io in given.input}
    missing = [value.name for value in model.inputs if value.name not in listed]
    own = {value.name for value in model.overridable}
    extra = [io.name for io in given.input if not io.optional and io.name in own]
    message = f"the model has {len(model.inputs)} inputs, and the config comes to {expected}"
    if missing:
        message = f"the model has inputs that the config lacks: {', '.join(missing)}"
    elif extra:
        message = f"the model has values of its own for {', '.join(extra)}: such inputs are left out"
    yield Difference(
        key=("input",),
        kind="input_count",
        message=message,
        words=f"unable to load model '{given.name}', configuration expects {expected} inputs, "
        f"model provides {len(model.inputs)}",
    )


def _sequence_inputs(given: ModelConfig) -> int:
    """The inputs that a sequence batcher gives by itself: each kind of control once, and the states."""
    if not given.HasField("sequence_batching"):
        return 0
    kinds = {one.kind for tensor in given.sequence_batching.control_input for one in tensor.control}
    return len(kinds) + len(given.sequence_batching.state)


def _optional(given: ModelConfig, name: str, key: Key) -> Difference:
    return Difference(
        key=(*key, "optional"),
        kind="optional",
        message="a model that batches cannot have optional inputs on ONNX Runtime",
        words=f"unable to load model '{given.name}', optional input '{name}' is not supported for models that "
        "support batching",
    )


def _unknown(name: str, known: Mapping[str, Value], key: Key, kind: str) -> Difference:
    allowed = ", ".join(sorted(known))
    return Difference(
        key=(*key, "name"),
        kind=f"unknown_{kind}",
        message=f'the model has no such {kind} "{name}"; it has {allowed or "none"}',
        words=f"unexpected inference {kind} '{name}', allowed {kind}s are: {allowed}",
        expected=f'"{next(iter(known))}"' if len(known) == 1 else None,
    )


def _datatype(given: ModelConfig, io: ModelIo, value: Value, key: Key, kind: str) -> Iterator[Difference]:
    said = enum_name(io, "data_type") or "TYPE_INVALID"
    if said in (value.datatype, "TYPE_INVALID"):
        return
    mine = (value.datatype or "").replace("STRING", "BYTES")
    words = f"configuration expects datatype {said} for {kind} '{io.name}', model provides {mine}"
    yield Difference(
        key=(*key, "data_type"),
        kind="datatype",
        message=f'"{io.name}" is {value.datatype} in the model',
        words=f"unable to load model '{given.name}', {words}",
        expected=value.datatype,
    )


def _input_dims(given: ModelConfig, io: ModelIo, value: Value, key: Key) -> Iterator[Difference]:
    if io.allow_ragged_batch:
        if value.shape != (-1,):
            yield _ragged(given, io, value, key)
        return
    yield from _dims(given, io, value, key, exact=False)


def _ragged(given: ModelConfig, io: ModelIo, value: Value, key: Key) -> Difference:
    return Difference(
        key=(*key, "allow_ragged_batch"),
        kind="ragged",
        message=f'ragged batches need an input of one dimension that varies; "{io.name}" is {_shape(value.shape)}',
        words=f"unable to load model '{given.name}', configuration expects model provides input with shape [-1]  for "
        f"ragged input '{io.name}', model provides {_shape(value.shape)}",
    )


def _outputs(given: ModelConfig, model: OnnxModel) -> Iterator[Difference]:
    known = {value.name: value for value in model.outputs}
    batched = {name for one in given.batch_output for name in one.target_name}
    for at, io in enumerate(given.output):
        key: Key = ("output", at)
        if value := known.get(io.name):
            yield from _datatype(given, io, value, key, "output")
            if io.name not in batched:
                yield from _dims(given, io, value, key, exact=True)
        else:
            yield _unknown(io.name, known, key, "output")


def _dims(given: ModelConfig, io: ModelIo, value: Value, key: Key, *, exact: bool) -> Iterator[Difference]:
    reshaped = io.HasField("reshape")
    dims = tuple(io.reshape.shape if reshaped else io.dims)
    if not io.dims:
        return
    key = (*key, "reshape", "shape") if reshaped else (*key, "dims")
    shape = value.shape
    exact = exact and value.sure
    if not shape:
        if value.sure and any(dim != 1 for dim in dims):
            yield _scalar(given, io, dims, key)
    elif given.max_batch_size > 0:
        yield from _batched_dims(given, io, shape, dims, key, exact=exact)
    elif not _fits(shape, dims, exact=exact):
        yield _other_dims(given, io, shape, dims, key, f"{len(dims)} dimensions (shape {_shape(dims)})")


def _scalar(given: ModelConfig, io: ModelIo, dims: Sequence[int], key: Key) -> Difference:
    return Difference(
        key=key,
        kind="dims",
        message=f'"{io.name}" is a single number in the model, or of a shape that it does not tell',
        words=f"unable to load model '{given.name}', scalar tensor '{io.name}', should only provide 1 in the model "
        f"configuration when the model doesn't support batching. Model configuration provided: {_shape(dims)}.",
        expected="[ 1 ]",
    )


def _batched_dims(
    given: ModelConfig, io: ModelIo, shape: Sequence[int], dims: Sequence[int], key: Key, *, exact: bool
) -> Iterator[Difference]:
    if shape[0] != -1:
        yield Difference(
            key=("max_batch_size",),
            kind="batching",
            message=f'the model does not batch: "{io.name}" is of shape {_shape(shape)}',
            words=f"model '{given.name}', tensor '{io.name}': for the model to support batching the shape should have "
            "at least 1 dimension and the first dimension must be -1; but shape expected by the model is "
            f"{_shape(shape)}",
            expected="0",
        )
    elif not _fits(shape, full := (-1, *dims), exact=exact):
        how = (
            f"{len(full)} dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit "
            f"tensor shape, making complete shape {_shape(full)})"
        )
        yield _other_dims(given, io, shape, dims, key, how)


def _fits(shape: Sequence[int], dims: Sequence[int], *, exact: bool) -> bool:
    """Whether dims go with a shape. Those of inputs may be narrower than the model's."""
    if len(shape) != len(dims):
        return False
    return all(own == dim or (own == -1 and not exact) for own, dim in zip(shape, dims, strict=True))


def _other_dims(
    given: ModelConfig, io: ModelIo, shape: Sequence[int], dims: Sequence[int], key: Key, specified: str
) -> Difference:
    right = tuple(shape[1:] if given.max_batch_size > 0 else shape)
    spelled = f"[ {', '.join(map(str, right))} ]" if right else None
    message = f'"{io.name}" is of shape {_shape(shape)} in the model'
    if given.max_batch_size > 0:
        message += f", which is {_shape(right)} without the batch"
    return Difference(
        key=key,
        kind="dims",
        message=message,
        words=f"model '{given.name}', tensor '{io.name}': the model expects {len(shape)} dimensions (shape "
        f"{_shape(shape)}) but the model configuration specifies {specified}",
        expected=spelled,
    )


def _shape(dims: Sequence[int]) -> str:
    return f"[{','.join(map(str, dims))}]"
