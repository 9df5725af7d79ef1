"""The files that a config names, whether the server will find them; and ONNX files, read once for all rules."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from composer.models.onnx import FILE, OnnxModel, read_onnx
from composer.models.opening import Unreadable
from composer.models.repository import Entry, Model


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
    path = posixpath.normpath("/".join(part.lstrip("/") for part in parts))
    if path.startswith(".."):
        return Named(path=path, kind="unknown")
    if path == ".":
        return Named(path=path, kind="folder")
    for above in reversed(Path(path).parents[:-1]):
        entry = model.by_path.get(above.as_posix())
        if entry is None or entry.kind == "file":
            return Named(path=path, kind="missing")
        if entry.kind != "folder":
            return Named(path=path, kind="unknown")
    return _there(path, model.by_path.get(path))


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
    if model.backend != "onnxruntime" or model.config.runtime:
        return
    for entry in model.model_files:
        file = model.by_path.get(f"{entry.path}/{FILE}") if entry.kind == "folder" else entry
        if file is not None and file.kind == "file":
            info = file.source.stat()
            read = _read(file.source, (info.st_mtime_ns, info.st_size, info.st_ino))
            if isinstance(read, OnnxModel):
                yield read


@lru_cache(maxsize=4096)
def _read(path: Path, state: tuple[int, ...]) -> OnnxModel | Unreadable:
    """Read it once, however many ask, as long as it is the same: `state` says so."""
    return read_onnx(path)
