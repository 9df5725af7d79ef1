"""The files that a config names, whether the server will find them; and ONNX files, read once for all rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar, cast

from composer.models.onnx import FILE, OnnxModel, read_onnx
from composer.models.opening import Unreadable
from composer.models.repository import Entry, Model

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What lies at a path that a config names, from the model's folder on.

    `unknown` is what other rules speak of (broken links, unreadable files), and what is out of the model's folder.
    """

    path: str
    kind: Literal["file", "folder", "missing", "unknown"]
    entry: Entry | None = None


def named(model: Model, *parts: str) -> Named:
    """Look at a path as the server joins it: it takes the slash off the front of each part."""
    steps = [step for part in parts for step in part.split("/") if step not in ("", ".")]
    place: list[str] = []
    for number, step in enumerate(steps):
        if step == ".." and not place:
            return _beside(model, steps)
        place = place[:-1] if step == ".." else [*place, step]
        found = _there("/".join(place), model.by_path.get("/".join(place))) if place else None
        if found and number < len(steps) - 1 and found.kind != "folder":
            gone = found.kind in ("missing", "file")
            return Named(path="/".join(steps), kind="missing" if gone else "unknown")
        if found and found.kind != "folder":
            return found
    return Named(path="/".join(place) or ".", kind="folder")


def _beside(model: Model, steps: list[str]) -> Named:
    """What is out of the model's folder: all that can be told is that the repository has no such thing."""
    path, rest = "/".join(steps), steps[1:]
    within = steps[0] == ".." and ".." not in rest
    gone = within and not os.path.lexists(model.folder.parent.joinpath(*rest))
    return Named(path=path, kind="missing" if gone else "unknown")


def _there(path: str, entry: Entry | None) -> Named:
    if entry is None:
        return Named(path=path, kind="missing")
    if entry.kind == "file" or entry.kind == "folder":
        return Named(path=path, kind=entry.kind, entry=entry)
    return Named(path=path, kind="unknown", entry=entry)


def cannot_open(model: Model, found: Named) -> str:
    """The server's words for a file that is missing, or is a folder: on the latter it ends."""
    if found.kind == "folder":
        return "terminate called after throwing an instance of 'std::length_error'"
    return f"failed to open text file for read {model.folder / found.path}: No such file or directory"


def onnx_files(model: Model) -> Iterator[OnnxModel]:
    """The ONNX files of the versions that are served by the ONNX Runtime backend, those that can be read."""
    yield from (read for _, read in onnx_readings(model) if isinstance(read, OnnxModel))


def onnx_readings(model: Model) -> Iterator[tuple[Entry, OnnxModel | Unreadable]]:
    """The same with where they are, and those that cannot be read with the reason why."""
    if model.backend != "onnxruntime" or model.config.runtime:
        return
    for entry in model.model_files:
        file = model.by_path.get(f"{entry.path}/{FILE}") if entry.kind == "folder" else entry
        if file is not None and file.kind == "file":
            yield file, reading(file, read_onnx)


def reading(file: Entry, read: Callable[[Path], T]) -> T:
    """What a reader makes of a file. It is read once, however many ask, as long as it is the same."""
    try:
        info = file.source.stat()
    except OSError:  # it was there a moment ago
        return read(file.source)
    return cast(T, _read(read, file.source, (info.st_mtime_ns, info.st_size, info.st_ino)))


@lru_cache(maxsize=8192)
def _read(read: Callable[[Path], object], path: Path, state: tuple[int, ...]) -> object:
    """`state` says whether it is the same."""
    return read(path)
