"""What a release needs of a GPU and its driver: drivers.toml, which says where it is known from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from composer.releases import RELEASES
from composer.releases.book import read

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNeeds:
    """What a release needs. `cuda` is its CUDA's version, or that of the last release before it that is known.

    `driver` is the oldest that can do, by what NVIDIA calls minor version compatibility; with one older than `own` (the
    first that had this CUDA) some features are missing. With a driver that is older still, data center GPUs may do, by
    forward compatibility: the image brings the libraries for it. None is what is not known.
    """

    cuda: str | None
    driver: str | None
    own: str | None
    compute_capability: str | None


def gpu_needs(release: str | None) -> GpuNeeds:
    """What is known of a release's needs; nothing of one that is not known."""
    cuda = _cuda(release) if release else None
    numbers = parsed(cuda or "")
    least = _facts()["least"].get(str(numbers[0])) if numbers else None
    own = _facts()["own"].get(".".join(map(str, numbers[:2])))
    return GpuNeeds(
        cuda=cuda,
        # CUDA 11.0 runs with the driver that it came with, which others of CUDA 11 do not.
        driver=min((one for one in (least, own) if one), key=parsed, default=None),
        own=own,
        compute_capability=_last(_facts()["compute_capability"], release) if release else None,
    )


def parsed(version: str) -> Version:
    """The numbers that a version begins with: (11, 7) of `11.7 Update 1`."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _cuda(release: str) -> str | None:
    known = {**{name: one.cuda for name, one in RELEASES.items() if one.cuda}, **_facts()["cuda"]}
    return _last(known, release)


def _last(known: Mapping[str, str], release: str) -> str | None:
    """What holds for a release of what is known by the release it began with."""
    return next((known[name] for name in sorted(known, reverse=True) if name <= release), None)


@cache
def _facts() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(read("drivers.toml"))
