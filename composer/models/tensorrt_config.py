"""The config.pbtxt of a TensorRT plan. Plans cannot be read here: what one takes follows from its model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from composer.models.tensorrt_source import Original, Tensor
from composer.recipe import Conversion
from composer.releases import trtexec


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """An input or output of a plan, as config.pbtxt has it: -1 for dimensions that are not fixed.

    With batching, `dims` are without the first one. `linear` is false for a layout that clients must know of.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    linear: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a plan takes and gives. `max_batch_size` is 0 where the first dimension is no batch."""

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    max_batch_size: int


def interface_of(original: Original, conversion: Conversion, version: str) -> Interface | None:
    """What a plan will take and give, as follows from the model. None where the model does not say enough.

    Formats change types; TensorRT before 10 has no INT64, and none has FP64: such tensors get the next smaller type.
    Source: TensorRT's data types and onnx-tensorrt's list of operators. That a plan's first dimension is a batch where
    it is not fixed for all inputs and outputs is the rule of the tensorrt backend's auto-complete.
    """
    tensors = (*original.inputs, *original.outputs)
    if any(tensor.dims is None or tensor.datatype is None for tensor in tensors):
        return None
    most = _batch(original, conversion)
    others = {"FP64": "FP32", **({"INT64": "INT32"} if trtexec.parsed(version) < (10,) else {})}
    # Without formats, older trtexec gives inputs of INT8 the type FP32.
    of_inputs = {**others, **({"INT8": "FP32"} if trtexec.parsed(version) < (10, 1) else {})}
    return Interface(
        inputs=_bindings(original.inputs, conversion.input_formats, of_inputs, batched=bool(most)),
        outputs=_bindings(original.outputs, conversion.output_formats, others, batched=bool(most)),
        max_batch_size=most,
    )


def _batch(original: Original, conversion: Conversion) -> int:
    """The largest batch that all inputs take, 0 where the first dimension is none."""
    tensors = (*original.inputs, *original.outputs)
    if not all(tensor.dims and tensor.dims[0] is None for tensor in tensors):
        return 0
    return min((conversion.shapes[tensor.name].max[0] for tensor in original.inputs), default=0)


def _bindings(
    tensors: Sequence[Tensor], formats: Sequence[str], others: Mapping[str, str], *, batched: bool
) -> tuple[Binding, ...]:
    spread = [*formats] if len(formats) == len(tensors) else [*formats[:1]] * len(tensors)
    return tuple(
        _binding(tensor, spread[place] if spread else "", others, batched=batched)
        for place, tensor in enumerate(tensors)
    )


def _binding(tensor: Tensor, layout: str, others: Mapping[str, str], *, batched: bool) -> Binding:
    kind, _, order = layout.rpartition(":")
    datatype = str(tensor.datatype)
    dims = tuple(-1 if one is None else one for one in tensor.dims or ())
    return Binding(
        name=tensor.name,
        datatype=kind.upper() if kind else others.get(datatype, datatype),
        dims=dims[1:] if batched else dims,
        linear=order in ("", "chw"),
    )


Side = Literal["input", "output"]


def config_text(name: str, interface: Interface) -> str:
    """The config.pbtxt of a plan."""
    lines = [f'name: "{name}"', 'backend: "tensorrt"', f"max_batch_size: {interface.max_batch_size}"]
    sides: tuple[tuple[Side, tuple[Binding, ...]], ...] = (("input", interface.inputs), ("output", interface.outputs))
    for side, bindings in sides:
        lines += [line for binding in bindings for line in _config_lines(side, binding)]
    return "\n".join(lines) + "\n"


def _config_lines(side: Side, binding: Binding) -> Iterator[str]:
    yield f"{side} {{"
    yield f"  name: {json.dumps(binding.name)}"
    yield f"  data_type: TYPE_{binding.datatype}"
    # A tensor of one value each has no dims beside the batch; the config cannot say so, and has one of 1.
    yield f"  dims: [{', '.join(map(str, binding.dims or (1,)))}]"
    if not binding.dims:
        yield "  reshape { shape: [] }"
    if not binding.linear:
        yield "  is_non_linear_format_io: true"
    yield "}"
