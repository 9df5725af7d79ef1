"""What keeps a conversion to TensorRT from being made as the recipe has it: small rules, all of which are asked.

Each gives the keys below `convert:`, what is wrong, and what to do. What trtexec would do in silence is wrong too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from composer.models.tensorrt_source import Fault, Original, Tensor
from composer.recipe import Conversion
from composer.releases import trtexec
from composer.releases.trtexec import Flag, Version

MIB: Final = 1 << 20

_TYPED: Final = (11, 0)
"""The first version in which types are always those of the model."""
_MODELOPT: Final = "python -m modelopt.onnx.autocast --onnx_path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the rules look at."""

    conversion: Conversion
    original: Original
    version: Version
    gpus: object

    @property
    def typed(self) -> bool:
        """Whether types are those of the model, whatever is asked for."""
        return self.version >= _TYPED

    @property
    def spelled(self) -> str:
        """The version as it is spoken of."""
        return f"TensorRT {'.'.join(map(str, self.version))}"


def has(flag: str, case: Case) -> bool:
    """Whether that version of trtexec has a flag."""
    return trtexec.flags()[flag].known_to(case.version)


def _gpu_rule(case: Case) -> Iterator[Fault]:
    if case.gpus == "none":
        yield (), "a TensorRT plan runs on a GPU only, and run.gpus is none", "run: {gpus: all}"


def _age_rule(case: Case) -> Iterator[Fault]:
    if case.version < trtexec.OLDEST:
        yield ("to",), f"it is not known what trtexec of {case.spelled} takes", "a release from 20.10 on"
    for key, flag in _KEYED.items():
        if getattr(case.conversion, key) and not trtexec.flags()[flag].known_to(case.version):
            yield (key,), f"{case.spelled} has no --{flag}", _when(trtexec.flags()[flag], case.version)


_KEYED: Final = {
    "timing_cache": "timingCacheFile",
    "version_compatible": "versionCompatible",
    "hardware_compatibility": "hardwareCompatibilityLevel",
    "calibration": "calib",
}


def _same_capability_rule(case: Case) -> Iterator[Fault]:
    if case.conversion.hardware_compatibility == "same_compute_capability" and (8, 6) <= case.version < (10, 9):
        message = f"{case.spelled} knows no same_compute_capability: it came with 10.9"
        yield ("hardware_compatibility",), message, "hardware_compatibility: ampere+"


def _precision_rule(case: Case) -> Iterator[Fault]:
    precision = case.conversion.precision
    if precision == "fp32":
        return
    if case.typed:
        message = f"{case.spelled} computes in the model's own types, and takes no precision"
        yield ("precision",), message, f"{_MODELOPT} {case.conversion.from_}, convert what it writes, precision: fp32"
    elif not (flag := trtexec.flags()[precision]).known_to(case.version):
        yield ("precision",), f"{case.spelled} has no {precision}", _when(flag, case.version)
    elif case.conversion.flags.get("stronglyTyped") is True:
        yield ("precision",), "a strongly typed model computes in its own types only", "precision: fp32"
    else:
        yield from _quantization(case, precision)


def _quantization(case: Case, precision: str) -> Iterator[Fault]:
    if case.original.quantized:
        return
    if precision == "fp8":
        message = "fp8 is used where the model has Q/DQ nodes, and this one has none"
        yield ("precision",), message, "quantize it with NVIDIA's ModelOpt, or precision: fp16"
    elif precision in ("int8", "best") and case.conversion.calibration is None:
        # trtexec goes on with ranges that it makes up, so that it can measure: such a plan answers nonsense.
        message = (
            f"{precision} needs the ranges of the model's values: it has no Q/DQ nodes, and there is no calibration"
        )
        yield ("precision",), message, "calibration: ./calibration.cache, or precision: fp16"


def _shape_rule(case: Case) -> Iterator[Fault]:
    known = {tensor.name: tensor for tensor in case.original.inputs}
    for name in case.conversion.shapes:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"its inputs are {', '.join(known)}"
            yield ("shapes", name), f'the model has no input "{name}"', hint
        elif fault := _misfit(known[name], case):
            yield ("shapes", name), *fault
    # trtexec takes 1 for each of them and goes on.
    for tensor in known.values():
        if tensor.dynamic and tensor.name not in case.conversion.shapes:
            message = f'the shape of the input "{tensor.name}" is not fixed, and nothing says what it may be'
            yield ("shapes",), message, f"shapes: {{{tensor.name}: {_example(tensor)}}}"


def _misfit(tensor: Tensor, case: Case) -> tuple[str, str] | None:
    """Why a shape that the recipe gives cannot be that of an input."""
    profile = case.conversion.shapes[tensor.name]
    if re.search(r"[,']", tensor.name):
        return "trtexec cannot be told of an input with a comma or a quote in its name", "rename it in the model"
    if tensor.dims is None:
        return None
    shown = _spelled_dims(tensor.dims)
    if not any(one.dynamic for one in case.original.inputs):
        return f"the shape is fixed in the model, {shown}, so that none can be chosen", "remove shapes"
    if len(profile.opt) != len(tensor.dims):
        return f"it has {len(tensor.dims)} dimensions, {shown}, not {len(profile.opt)}", _example(tensor)
    for dimension, *given in zip(tensor.dims, profile.min, profile.opt, profile.max, strict=True):
        if dimension is not None and {*given} != {dimension}:
            return f"a dimension is fixed to {dimension} in the model, {shown}", _example(tensor)
    return None


def _spelled_dims(dims: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if one is None else str(one) for one in dims)}]"


def _example(tensor: Tensor) -> str:
    """A profile of the right rank, to be edited."""
    parts = (f"{word}: [{', '.join(str(one or free) for one in tensor.dims or (None,))}]" for word, free in _FREE)
    return f"{{{', '.join(parts)}}}"


_FREE: Final = (("min", 1), ("opt", 8), ("max", 32))


def _format_rule(case: Case) -> Iterator[Fault]:
    sides = {"input_formats": case.original.inputs, "output_formats": case.original.outputs}
    for key, tensors in sides.items():
        given = getattr(case.conversion, key)
        if len(given) > 1 and len(given) != len(tensors):
            word = key.partition("_")[0]
            names = ", ".join(tensor.name for tensor in tensors)
            yield (key,), f"there are {len(given)} formats for {len(tensors)} {word}s", f"one for all, or for: {names}"
        for place, one in enumerate(given):
            kind, typed, layout = one.rpartition(":")
            if case.typed and typed:
                message = f"{case.spelled} takes the layout alone: the type is the model's own, not {kind}"
                yield (key, place), message, f"{key}: [{layout}]"
            elif not (case.typed or typed):
                yield (key, place), f"{case.spelled} wants the type too", f'{key}: ["fp32:{layout}"]'


def _workspace_rule(case: Case) -> Iterator[Fault]:
    if case.conversion.workspace is not None and case.conversion.workspace < MIB:
        yield ("workspace",), "TensorRT counts its workspace in MiB, and this is less than one", "workspace: 1GiB"


def _flag_rule(case: Case) -> Iterator[Fault]:
    for name, value in case.conversion.flags.items():
        flag = trtexec.flags().get(name)
        if flag is None:
            near = difflib.get_close_matches(name, trtexec.flags(), 1, 0.6)
            hint = f'did you mean "{near[0]}"?' if near else "flags that only measure are not taken: trtexec --help"
            yield ("flags", name), f'no trtexec has a flag "{name}" that says how to build', hint
        elif flag.key:
            yield ("flags", name), f"--{name} is written by tricompose", f"see the key {flag.key}"
        elif not flag.known_to(case.version):
            yield ("flags", name), f"{case.spelled} has no --{name}", _when(flag, case.version)
        elif wanted := _unfit(flag, value):
            yield ("flags", name), f"--{name} takes {wanted[0]}", f"{name}: {wanted[1]}"


def _when(flag: Flag, version: Version) -> str:
    """Since when there is a flag, or what came after it."""
    if version[:2] < flag.since:
        return f"it came with {'.'.join(map(str, flag.since))}: remove it, or take a newer release"
    return flag.instead or "remove it"


def _unfit(flag: Flag, value: object) -> tuple[str, str] | None:
    """What a flag takes, with an example, where it does not take a value."""
    if isinstance(flag.takes, tuple):
        fits, words = value in flag.takes, f"one of {', '.join(flag.takes)}"
        return None if fits else (words, flag.takes[0])
    kind, words, example = _KINDS[flag.takes]
    number = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    return None if number and not (isinstance(value, int) and value < 0) else (words, example)


_KINDS: Final[Mapping[str, tuple[type | tuple[type, ...], str, str]]] = {
    "switch": (bool, "true, or is not written", "true"),
    "count": (int, "a whole number", "3"),
    "number": ((int, float), "a number", "0.5"),
    "text": (str, "a text", '"..."'),
}

RULES: Final = (
    _gpu_rule,
    _age_rule,
    _same_capability_rule,
    _precision_rule,
    _shape_rule,
    _format_rule,
    _workspace_rule,
    _flag_rule,
)
