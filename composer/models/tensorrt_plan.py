"""What a TensorRT plan says of itself, without TensorRT: which version wrote it.

    bytes 0-3    "ftrt"
          4-7    a word that is 0 in every layout known
          8-11   the version of the serialization, a number that goes up with TensorRT
          24-27  the version of TensorRT: major, minor, patch, build, a byte each

Source: NVIDIA/TensorRT, samples/common/sampleEngines.cpp (printPlanVersion) for all but the serialization's version,
which is what users saw (NVIDIA/TensorRT issue 3073) and what the runtime's own words name. The rest of a plan, such as
the GPU that it was built for, is not documented and not read. Not verified on plans of TensorRT older than 8.6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from composer.models.opening import Broken, Unreadable, look_into

FILE: Final = "model.plan"
MAGIC: Final = b"ftrt"

_HEADER: Final = 28
_MOST_METADATA: Final = 1 << 20
_MAJORS: Final = range(5, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtPlan:
    """A plan. `version` is that of the TensorRT which wrote it, None where the header is laid out in an unknown way.

    `metadata` is not None where JSON stands before the plan, as Ultralytics exports it: TensorRT, and so the server,
    cannot read such a file; the plan begins at byte `offset` of it.
    """

    version: tuple[int, int, int, int] | None
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    offset: int = 0


def read_plan(path: Path) -> TensorRtPlan | Unreadable:
    """What the header says, or why it cannot be told. Never raises; reads 28 bytes, or as many behind the JSON."""
    return look_into(path, lambda file, _: _read(file))


def _read(file: IO[bytes]) -> TensorRtPlan:
    head = file.read(_HEADER)
    if head.startswith(MAGIC):
        return _plan(head, None, 0)
    length = int.from_bytes(head[:4], "little")
    if not 2 <= length <= _MOST_METADATA or head[4:5] != b"{":
        raise Broken("garbage", 'is no TensorRT plan: it does not begin with "ftrt"')
    file.seek(4)
    metadata = _metadata(file.read(length))
    return _plan(file.read(_HEADER), metadata, 4 + length)


def _metadata(text: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Broken("garbage", 'is no TensorRT plan: it does not begin with "ftrt"') from error
    return told if isinstance(told, dict) else {}


def _plan(head: bytes, metadata: Mapping[str, Any] | None, offset: int) -> TensorRtPlan:
    if not head.startswith(MAGIC):
        raise Broken("garbage", 'is no TensorRT plan: "ftrt" is missing, behind the JSON too')
    if len(head) < _HEADER:
        raise Broken("truncated", f"ends in the middle, after {offset + len(head)} bytes")
    second = int.from_bytes(head[4:8], "little")
    version = (head[24], head[25], head[26], head[27])
    known = second == 0 and version[0] in _MAJORS
    return TensorRtPlan(
        version=version if known else None,
        metadata=metadata,
        offset=offset,
    )
