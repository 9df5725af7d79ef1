"""Paths and `file://`: what lies on this machine is used where it lies, and hashed. Git LFS pointers are followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from composer.errors import NotFound
from composer.models.repository import MOST_LINKED
from composer.models.sources import lfs
from composer.models.sources.remote import Here, Listing, Remote
from composer.models.sources.way import Way

_LEFT_OUT: Final = (".git", "__pycache__")


def look(source: str, way: Way) -> Listing:
    """A file, or a folder with all that is below it. Raises `NotFound`."""
    path = way.base / (unquote(urlsplit(source).path) if source.startswith("file://") else Path(source).expanduser())
    try:
        if path.is_dir():
            files = tuple(_below(path, way))
            if not files:
                raise NotFound(f"there are no files in {path}", hint=f"ls -l {path}")
            return Listing(uri=source, files=files, folder=True)
        return Listing(uri=source, files=(_file(path, path.name, way),), folder=False)
    except OSError as error:
        raise NotFound(f"{error.filename or path} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error


def _below(top: Path, way: Way) -> Iterator[Here | Remote]:
    root = Path(os.path.realpath(top))
    links = 0
    left: list[tuple[Path, str, tuple[Path, ...]]] = [(top, "", ())]
    while left:
        folder, prefix, above = left.pop()
        linked = folder.is_symlink()
        links += linked
        # Asking each time where a folder really lies takes long in deep ones.
        real = above[-1] / folder.name if above and not linked else Path(os.path.realpath(folder))
        if linked and real in above:
            raise NotFound(f"{folder} is a link that leads back to a folder that it is in", hint=f"rm {folder}")
        if links > MOST_LINKED:
            raise NotFound(f"too many links to folders lead to {folder}", hint=f"rm {folder}")
        for entry in sorted(folder.iterdir()):
            if entry.name in _LEFT_OUT:
                continue
            _hold_within(root, entry)
            if entry.is_dir():
                left.append((entry, f"{prefix}{entry.name}/", (*above, real)))
            else:
                yield _file(entry, f"{prefix}{entry.name}", way)


def _hold_within(root: Path, entry: Path) -> None:
    if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
        raise NotFound(
            f"{entry} is a link that leads out of {root}",
            hint=f"cp -rL --remove-destination $(readlink -f {entry}) {entry}",
        )


def _file(file: Path, path: str, way: Way) -> Here | Remote:
    info = file.stat()
    if not stat.S_ISREG(info.st_mode):
        raise NotFound(f"{file} is neither a file nor a folder", hint=f"ls -l {file}")
    if pointer := lfs.pointer_in(file):
        return lfs.behind(pointer, file, path, way)
    return Here(path=path, place=file, size=info.st_size)
