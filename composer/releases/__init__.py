"""What is known of Triton's releases: what is in their images, and what their Dockerfiles need. Facts, no policy.

The facts are in releases.toml, which says where they come from. What is not known is None.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from composer.errors import UnknownRelease
from composer.releases.book import Entry, entries
from composer.releases.flags import changed_flags
from composer.releases.needs import EXTRAS, Apt, Dcgm, Pip, Requirements, Variable, requirements_of

__all__ = [
    "EXTRAS",
    "KINDS",
    "LATEST",
    "RELEASES",
    "Apt",
    "Dcgm",
    "Pip",
    "Release",
    "Requirements",
    "Variable",
    "absent",
    "changes",
    "release",
    "requirements",
]

KINDS: Final = ("backends", "repoagents", "caches")
"""What the full image has a folder for each of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release, by the tag of its images. Versions are those of its py3 image, None where they are not known.

    `backends`, `repoagents` and `caches` are the folders in that image. `variants` are the tags besides py3 that are
    known: `24.09-vllm-python-py3` is `vllm-python-py3`. `composed` says whether the release had a compose.py: only
    then is it known what its Dockerfile needs.
    """

    name: str
    triton: str
    ubuntu: str | None
    python: str | None
    cuda: str | None
    cudnn: str | None
    tensorrt: str | None
    onnxruntime: str | None
    openvino: str | None
    dcgm: str | None
    backends: tuple[str, ...] | None
    repoagents: tuple[str, ...] | None
    caches: tuple[str, ...] | None
    variants: tuple[str, ...]
    composed: bool


def _release(name: str, entry: Entry) -> Release:
    return Release(
        name=name,
        triton=str(entry.values["triton"]),
        ubuntu=entry.text("ubuntu"),
        python=entry.text("python"),
        cuda=entry.text("cuda"),
        cudnn=entry.text("cudnn"),
        tensorrt=entry.text("tensorrt"),
        onnxruntime=entry.text("onnxruntime"),
        openvino=entry.text("openvino"),
        dcgm=entry.text("dcgm"),
        backends=_sorted(entry.lists.get("backends")),
        repoagents=_sorted(entry.lists.get("repoagents")),
        caches=_sorted(entry.lists.get("caches")),
        variants=entry.lists.get("variants", ()),
        composed=bool(entry.values.get("composed")),
    )


def _sorted(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(names))


RELEASES: Final[Mapping[str, Release]] = MappingProxyType(
    {name: _release(name, entry) for name, entry in entries().items()}
)
"""All releases that are known, oldest first."""

LATEST: Final = max(RELEASES)
"""The newest release that is known."""


def release(name: str) -> Release:
    """A release by its name. Raises `UnknownRelease` with the nearest that is known."""
    if name not in RELEASES:
        nearest = next((one for one in RELEASES if one > name), LATEST)
        hint = f'triton: "{nearest}"' if name < LATEST else f"upstream: docker://nvcr.io/nvidia/tritonserver:{name}-py3"
        raise UnknownRelease(f"nothing is known of release {name}: the newest that is known is {LATEST}", hint=hint)
    return RELEASES[name]


def requirements(
    release: Release, *, backends: Collection[str], gpu: bool, architecture: str, extras: Collection[str]
) -> Requirements:
    """What a release's Dockerfile needs with these backends, for `amd64` or `arm64`, with CUDA or without.

    `extras` are what is brought although no server needs it, of `EXTRAS`: with all of them the packages are those of
    compose.py. Raises `UnknownRelease` for a release that had no compose.py.
    """
    if not release.composed:
        oldest = next(one.name for one in RELEASES.values() if one.composed)
        raise UnknownRelease(
            f"it is not known what a Dockerfile of {release.name} needs: compose.py came with {oldest}",
            hint="engine: direct",
        )
    return requirements_of(release.name, backends=backends, gpu=gpu, architecture=architecture, extras=extras)


# -- what a release lacks -----------------------------------------------------------------------------------------

_FAMILIES: Final = (
    ("tensorflow", "tensorflow1", "tensorflow2"),
    ("openvino", "openvino_2021_2", "openvino_2021_4"),
)
"""Names of one backend in different releases."""

_VARIANTS: Final = {"vllm": "vllm-python-py3", "tensorrtllm": "trtllm-python-py3"}
"""Backends that were never in the py3 image, and the image that they are in."""

_NICKNAMES: Final = {"trtllm": "tensorrtllm", "trt": "tensorrt", "torch": "pytorch", "libtorch": "pytorch"}


def absent(release: Release, kind: str, name: str) -> str | None:
    """Why a release has no `name` among its `backends`, `repoagents` or `caches`, as a hint.

    None if it has it, and where nothing is known of it.
    """
    present: tuple[str, ...] | None = getattr(release, kind)
    if present is None or name in present:
        return None
    return next(reason for reason in _reasons(release, kind, name, present) if reason)


def _reasons(release: Release, kind: str, name: str, present: tuple[str, ...]) -> Iterator[str | None]:
    """What may be the reason, the most telling first."""
    if kind == "backends":
        yield _inside(release, name)
        yield _renamed(release, name)
        yield _elsewhere(release, name)
    yield _gone(release, kind, name)
    yield _nearest(release, present, name)


def _inside(release: Release, name: str) -> str | None:
    if name in entries()[release.name].lists.get("inside", ()):
        return f"in {release.name} {name} is part of the server itself: leave it out"
    return None


def _renamed(release: Release, name: str) -> str | None:
    family = next((family for family in _FAMILIES if name in family), ())
    now = [one for one in family if one in (release.backends or ())]
    return f"{release.name} calls it {' and '.join(now)}" if now else None


def _elsewhere(release: Release, name: str) -> str | None:
    backend = _NICKNAMES.get(name, name)
    variant = _VARIANTS.get(backend)
    if not variant:
        return None
    if variant in release.variants:
        return f"{backend}: only in the image {release.name}-{variant}: variant: {variant}"
    return f"{backend}: only in images of its own, which are known since {_first(variant, _variants())}"


def _gone(release: Release, kind: str, name: str) -> str | None:
    """Since when there is none any more, or when it came."""
    family = next((family for family in _FAMILIES if name in family), (name,))
    having = [one.name for one in RELEASES.values() if set(family) & set(getattr(one, kind) or ())]
    if not having:
        return None
    if later := next((one for one in having if one > release.name), None):
        return f"{name} came with {later}"
    return f"removed in {next(one for one in RELEASES if one > having[-1])}: the last with it is {having[-1]}"


def _variants() -> Mapping[str, tuple[str, ...]]:
    return {one.name: one.variants for one in RELEASES.values()}


def _first(wanted: str, held: Mapping[str, Iterable[str]]) -> str:
    return next(name for name, has in held.items() if wanted in has)


def _nearest(release: Release, present: tuple[str, ...], name: str) -> str:
    meant = _NICKNAMES.get(name, name)
    # "onnx" for "onnxruntime" is about as far as a wrong name goes and can still be recognized.
    near = [meant] if meant in present else difflib.get_close_matches(meant.lower().replace("-", "_"), present, 1, 0.5)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"{release.name} has {', '.join(present)}" if present else f"{release.name} has none"


# -- what changed -------------------------------------------------------------------------------------------------


def changes(name: str) -> tuple[tuple[str, str, str], ...]:
    """What is different in a release from the one before it: what it is about, what was, what is; "" for nothing."""
    older = [one for one in RELEASES if one < name]
    if not older:
        return ()
    before, after = entries()[older[-1]], entries()[name]
    flags = (("server flags", was, now) for was, now in changed_flags(older[-1], name))
    return (*_changed_values(before, after), *_changed_lists(before, after), *flags)


def _changed_values(before: Entry, after: Entry) -> Iterator[tuple[str, str, str]]:
    for key in dict.fromkeys((*before.values, *after.values)):
        was, now = before.values.get(key), after.values.get(key)
        # Where one of the two is not known, neither is it known whether it changed.
        if was != now and (key == "composed" or (was is not None and now is not None)):
            yield key, _said(was), _said(now)


def _said(value: str | bool | None) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


def _changed_lists(before: Entry, after: Entry) -> Iterator[tuple[str, str, str]]:
    for key in dict.fromkeys((*before.lists, *after.lists)):
        was, now = before.lists.get(key, ()), after.lists.get(key, ())
        yield from ((key, one, "") for one in was if one not in now)
        yield from ((key, "", one) for one in now if one not in was)
