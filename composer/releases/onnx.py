"""What ONNX Runtime takes, and what Triton's backend for it knows, by release: onnx.toml, which names its sources."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from composer.releases.book import read

Takes = Literal["number", "size", "switch", "text", "precision"]
"""What the text of a parameter must be: `number` has 32 bits, `size` has 64 and no sign."""

FIRST_CHECKED: Final = "21.06"
"""The release since which the backend looks at parameters of the TensorRT accelerator at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The highest versions that an ONNX Runtime takes: of the IR, and of opsets by domain, `""` being ONNX's own."""

    ir_version: int
    opsets: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter, known since a release. `among` is all that its number may be: since `refused` others are refused.

    `gpu`: it only counts where an instance is on a GPU. `pool`: it does not count where all models share their threads.
    """

    name: str
    takes: Takes
    since: str
    among: tuple[int, ...] = ()
    refused: str | None = None
    gpu: bool = False
    pool: bool = False


def limits(onnxruntime: str) -> Limits | None:
    """What a version such as "1.19.2" takes; None where that is not known."""
    entry = _table()["limits"].get(".".join(onnxruntime.split(".")[:2]))
    if entry is None:
        return None
    opsets = {"": entry["opset"], "ai.onnx.ml": entry["ml"], **_table()["domains"]}
    return Limits(ir_version=entry["ir"], opsets=opsets)


@cache
def parameters() -> tuple[Parameter, ...]:
    """The parameters of a model that the backend looks at."""
    return tuple(_parameter(name, entry) for name, entry in _table()["parameters"].items())


@cache
def tensorrt_parameters() -> Mapping[str, Parameter]:
    """The parameters of the TensorRT accelerator, by name."""
    return {name: _parameter(name, entry) for name, entry in _table()["tensorrt"].items()}


def precisions() -> Mapping[str, str]:
    """The values of the TensorRT accelerator's `precision_mode`, with the first release of each."""
    return dict(_table()["precisions"])


def accelerators(field: str) -> Mapping[str, str]:
    """The names that a field of `execution_accelerators` may hold, with the first release of each."""
    return dict(_table()["accelerators"][field])


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(read("onnx.toml"))


def _parameter(name: str, entry: Mapping[str, Any]) -> Parameter:
    return Parameter(
        name=name,
        takes=entry["takes"],
        since=entry["since"],
        among=tuple(entry.get("among", ())),
        refused=entry.get("refused"),
        gpu=entry.get("gpu", False),
        pool=entry.get("pool", False),
    )
