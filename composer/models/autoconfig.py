"""Writes the config.pbtxt of a model as the server's own auto-complete would, and what it cannot know as choices.

For ONNX the file says it all. Source: onnxruntime_backend, onnxruntime.cc (AutoCompleteConfig), and Triton core,
model_config_utils.cc (AutoCompleteBackendFields). For PyTorch and TensorRT the server completes little or nothing from
what can be read without them: there, what must be filled in is marked, and the server refuses the file until it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from composer.errors import Unplannable
from composer.models.onnx import OnnxModel, Value
from composer.models.tensorrt_plan import TensorRtPlan
from composer.models.torchscript import TorchFile

DEFAULT_BATCH: Final = 4
"""The largest batch that the server sets where none is given: its backend setting `default-max-batch-size`."""

FILL_IN: Final = "FILL IN"
"""Stands in a comment wherever someone must decide."""

UNSURE: Final = "The file does not say all of this shape. The server may know more, and then wants it said here."
"""Stands before dims that the server might refuse; its own words then say what they should be."""

_SUFFIX: Final = {"onnxruntime": "onnx", "pytorch": "pt", "tensorrt": "plan"}
_PLATFORM: Final = {"onnxruntime": "onnxruntime_onnx", "pytorch": "pytorch_libtorch", "tensorrt": "tensorrt_plan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output as config.pbtxt has it. `dims` are without the batch; `flat`: with a batch, a number each.

    `sure` is False where ONNX Runtime may know more of the dims than these.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    flat: bool = False
    sure: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What the server's auto-complete comes to for an ONNX model of which the config says nothing."""

    max_batch_size: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def dynamic_batching(self) -> bool:
        """Whether the server turns it on too."""
        return self.max_batch_size > 1


def completed(model: OnnxModel, *, release: str | None = None) -> Completed:
    """What the server would fill in; `release` is such as "24.10", None for today's.

    Raises `Unplannable` for a model that the server refuses: inputs or outputs that are no tensors, or of a datatype
    that Triton does not have.
    """
    for value in (*model.inputs, *model.outputs):
        _check(value, release)
    batched = can_batch(model)
    largest = (DEFAULT_BATCH if _batches_by_default(release) else 1) if batched else 0
    return Completed(
        max_batch_size=largest,
        inputs=tuple(_port(value, batched) for value in model.inputs),
        outputs=tuple(_port(value, batched) for value in model.outputs),
    )


def can_batch(model: OnnxModel) -> bool:
    """Whether the server takes it for one that batches: each input and output has a first dimension that varies."""
    return all(value.shape[:1] == (-1,) for value in (*model.inputs, *model.outputs))


def unsupported(value: Value, release: str | None) -> str | None:
    """Why the server cannot serve an input or output; None where it can."""
    if value.kind != "tensor":
        return f"is no tensor ({value.kind.replace('_', ' ')})"
    if value.datatype is None:
        return f"has an element type that Triton has no datatype for (ONNX's number {value.element})"
    if value.datatype == "TYPE_BF16" and release is not None and release < "26.03":
        return f"is of BF16, which the ONNX Runtime backend of {release} does not take; that of 26.03 does"
    if not value.shape and value.sure and release is not None and release < "23.10":
        return f"is a single number, which the ONNX Runtime backend of {release} does not take; that of 23.10 does"
    if 0 in value.shape:
        return "has a dimension of size 0"
    return None


def _check(value: Value, release: str | None) -> None:
    if why := unsupported(value, release):
        hint = "export the model with tensors for inputs and outputs"
        if value.kind in ("sequence", "map"):
            hint = 'for scikit-learn: convert_sklearn(model, options={"zipmap": False})'
        raise Unplannable(f'no config can make Triton serve this model: "{value.name}" {why}', hint=hint)


def _batches_by_default(release: str | None) -> bool:
    """Since 22.06 the server sets 4 and dynamic batching; before, a batch of one."""
    return release is None or release >= "22.06"


def _port(value: Value, batched: bool) -> Port:
    dims = value.shape[1:] if batched else value.shape
    return Port(
        name=value.name, datatype=value.datatype or "", dims=dims or (1,), flat=batched and not dims, sure=value.sure
    )


# -- the text -------------------------------------------------------------------------------------


def written(
    model_name: str,
    file: OnnxModel | TorchFile | TensorRtPlan,
    *,
    filename: str | None = None,
    release: str | None = None,
) -> str:
    """The text of a config.pbtxt for a model of this name whose file says so.

    `filename` is the file's name in the version's folder where it is not the usual one. Raises `Unplannable`.
    """
    match file:
        case OnnxModel():
            lines = _of_onnx(model_name, file, filename, release)
        case TorchFile():
            lines = _of_torch(model_name, file, filename)
        case TensorRtPlan():
            lines = _of_plan(model_name, file, filename)
    return "\n".join(lines) + "\n"


def to_fill_in(text: str) -> tuple[int, ...]:
    """The lines, from 1, of a text of `written` in which someone must decide before the server takes it."""
    return tuple(at for at, line in enumerate(text.split("\n"), 1) if FILL_IN in line.partition("#")[2])


def _of_onnx(name: str, model: OnnxModel, filename: str | None, release: str | None) -> Iterator[str]:
    told = completed(model, release=release)
    yield from _head(name, "onnxruntime", filename)
    if told.max_batch_size:
        yield "# The first dimension of all inputs and outputs varies, so requests can be put together into batches."
    else:
        yield "# Not all inputs and outputs begin with a dimension that varies: the model does not batch."
    yield f"max_batch_size: {told.max_batch_size}"
    yield from _ports("input", told.inputs)
    yield from _ports("output", told.outputs)
    if told.dynamic_batching:
        yield "dynamic_batching { }"
    if model.overridable:
        names = ", ".join(value.name for value in model.overridable)
        yield f"# The model has values of its own for these inputs, so no request needs to give them: {_safe(names)}"
    yield from _choices(told)


def _head(name: str, backend: str, filename: str | None) -> Iterator[str]:
    yield f"name: {_quoted(name)}"
    yield f'backend: "{backend}"'
    yield f'platform: "{_PLATFORM[backend]}"'
    yield f"default_model_filename: {_quoted(filename or f'model.{_SUFFIX[backend]}')}"


def _ports(kind: str, ports: Sequence[Port]) -> Iterator[str]:
    if not ports:
        return
    yield f"{kind} ["
    for at, port in enumerate(ports, 1):
        yield "  {"
        yield f"    name: {_quoted(port.name)}"
        yield f"    data_type: {port.datatype}"
        if not port.sure:
            yield f"    # {UNSURE}"
        yield f"    dims: {_list(port.dims)}"
        if port.flat:
            yield "    reshape { shape: [ ] }"
        yield "  }" if at == len(ports) else "  },"
    yield "]"


def _choices(told: Completed) -> Iterator[str]:
    """What no file can say, ready to be uncommented."""
    yield ""
    yield "# Choices that no model file can make. Take the # away in front of those that you want."
    if told.dynamic_batching:
        yield "#"
        yield "# Wait a little for more requests to batch with, here 0.1 ms; in place of `dynamic_batching { }` above:"
        yield "#dynamic_batching { max_queue_delay_microseconds: 100 }"
    yield from _instances()
    yield from _warmup(told)


def _instances() -> Iterator[str]:
    yield "#"
    yield "# How many copies of the model run at a time, and where. Without this: one on each GPU, two on a CPU."
    yield "#instance_group [ { count: 1 kind: KIND_GPU } ]"
    yield "#instance_group [ { count: 2 kind: KIND_CPU } ]"


def _warmup(told: Completed) -> Iterator[str]:
    if not told.inputs:
        return
    yield "#"
    yield "# Run it once before it is said to be ready. Where a dimension varies, 1 stands here: put in a usual size."
    yield "#model_warmup ["
    yield "#  {"
    yield '#    name: "zeros"'
    yield f"#    batch_size: {1 if told.max_batch_size else 0}"
    for port in told.inputs:
        dims = _list(tuple(1 if dim < 0 else dim for dim in port.dims))
        value = f"data_type: {port.datatype} dims: {dims} zero_data: true"
        yield f"#    inputs {{ key: {_quoted(port.name)} value {{ {value} }} }}"
    yield "#  }"
    yield "#]"


# -- PyTorch --------------------------------------------------------------------------------------


def _of_torch(name: str, file: TorchFile, filename: str | None) -> Iterator[str]:
    if file.kind != "torchscript":
        raise Unplannable(f"the server cannot run this file: it is {_WHAT[file.kind]}", hint=_SAVE)
    yield from _head(name, "pytorch", filename)
    yield "# A TorchScript file does not say datatypes or shapes, and the server cannot find them out either."
    yield f"max_batch_size: 0  # {FILL_IN}: the most rows at a time, if the first dimension of everything is the batch"
    yield from _torch_inputs(file)
    yield from _torch_outputs(file)
    yield ""
    yield "# Choices that no model file can make. Take the # away in front of those that you want."
    yield "#"
    yield "# Put requests together into batches, if max_batch_size is more than 1:"
    yield "#dynamic_batching { }"
    yield from _instances()


_WHAT: Final = {
    "weights": "what torch.save writes, with weights and no code",
    "legacy": "what torch.save wrote before torch 1.6",
    "aoti": "a package of AOTInductor's, which config.pbtxt is not written for",
    "exported": "a program of torch.export's, which is not compiled",
    "archive": "a zip archive, and not of PyTorch's",
}
_SAVE: Final = 'save it as TorchScript: torch.jit.save(torch.jit.trace(model.eval(), example), "model.pt")'


def _torch_inputs(file: TorchFile) -> Iterator[str]:
    arguments = file.forward.arguments if file.forward else ()
    if not arguments:
        yield f"# {FILL_IN}: one more block for each further argument of forward()"
    names = [argument.name for argument in arguments] or ["INPUT__0"]
    types = [argument.type for argument in arguments] or ["Tensor"]
    yield from _blocks("input", names, types)


def _torch_outputs(file: TorchFile) -> Iterator[str]:
    types = file.forward.outputs if file.forward else None
    if types is None:
        told = f", which gives {file.forward.returns}" if file.forward else ""
        yield f"# {FILL_IN}: one more block for each further output of forward(){_safe(told)}"
    yield from _blocks("output", [f"OUTPUT__{at}" for at in range(len(types or [""]))], types or ["Tensor"])


def _blocks(kind: str, names: Sequence[str], types: Sequence[str]) -> Iterator[str]:
    yield f"{kind} ["
    for at, (name, type_) in enumerate(zip(names, types, strict=True), 1):
        yield "  {"
        yield f"    name: {_quoted(name)}"
        if type_ == "List[str]":
            yield "    data_type: TYPE_STRING"
            yield "    dims: [ 1 ]"
        else:
            yield f"    data_type: TYPE_INVALID  # {FILL_IN}: TYPE_FP32 for floats, TYPE_INT64 for torch.long ..."
            yield f"    dims: [ ]  # {FILL_IN}: the shape, without the batch; -1 for a size that varies"
        yield "  }" if at == len(names) else "  },"
    yield "]"


# -- TensorRT -------------------------------------------------------------------------------------


def _of_plan(name: str, plan: TensorRtPlan, filename: str | None) -> Iterator[str]:
    if plan.metadata is not None:
        message = "the server cannot read this plan: there is JSON before it, as Ultralytics writes it"
        raise Unplannable(message, hint=f"tail -c +{plan.offset + 1} model.engine > model.plan")
    version = ".".join(map(str, plan.version)) if plan.version else "an unknown version"
    yield from _head(name, "tensorrt", filename)
    yield f"# A plan of TensorRT {version}. Its inputs and outputs can only be read with TensorRT, on the GPU that it"
    yield "# is for: the server fills them in when it loads the model, unless it is told to complete nothing."
    yield "#"
    yield "# Choices that no model file can make. Take the # away in front of those that you want."
    yield "#"
    yield "# How many copies of the model run at a time, and on which GPUs. Without this: one on each."
    yield "#instance_group [ { count: 1 kind: KIND_GPU gpus: [ 0 ] } ]"


# -- spelling -------------------------------------------------------------------------------------


def _list(dims: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, dims))} ]" if dims else "[ ]"


def _quoted(text: str) -> str:
    """A text as protobuf's text format spells it."""
    return f'"{"".join(map(_character, text))}"'


def _character(sign: str) -> str:
    if sign in '"\\':
        return f"\\{sign}"
    return f"\\{ord(sign):03o}" if sign < " " or sign == "\x7f" else sign


def _safe(text: str) -> str:
    """A text fit for a comment, which ends with its line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
