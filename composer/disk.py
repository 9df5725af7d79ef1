"""Files on a disk that may be full or closed to us: whole or not at all, and swept up after those who were killed.

with room(path):                    # what a failed write means, in the user's words
    write_whole(path, data)
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from composer.errors import NoRoom

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    """Write to an unbuffered file, which may take less than it is given at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Say what a failed write means: `NoRoom` with the path and, on a full disk, the space that is left."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoRoom(
                f"no space left for {path}: {free_bytes(path)} bytes are free", hint=f"df -h {path}"
            ) from error
        if error.errno in _FORBIDDEN:
            raise NoRoom(f"{error.filename or path} may not be written: {error.strerror}", hint=_owner(path)) from error
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            raise NoRoom(f"{path} is in the way: it is no directory", hint="name another place") from error
        raise NoRoom(f"{path} could not be written: {error.strerror}") from error


def require_room(path: Path, needed: int) -> None:
    """Raise `NoRoom` now, rather than after an hour, where `needed` bytes will not fit."""
    if (free := free_bytes(path)) < needed:
        raise NoRoom(f"{path} needs {needed} bytes, and {free} are free", hint=f"df -h {path}")


def require_writable(path: Path) -> None:
    """Raise `NoRoom` now where nothing can be put at `path`, which need not exist yet."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NoRoom(f"{place} is in the way: it is no directory", hint="name another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise NoRoom(f"{place} may not be written: Permission denied", hint=_owner(place))


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write in the file system of `path`, which need not exist yet."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _owner(path: Path) -> str:
    return f"ls -ld {path}; another place, or the rights to write there, are needed"


def begin_file(folder: Path, prefix: str = "", *, announce: Callable[[Path], object] | None = None) -> tuple[int, Path]:
    """A new file, open for writing. The lock on it tells `sweep`, in whatever container, that its writer is alive.

    `announce` is told of its path before the file is made.
    """
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}"
        if announce:
            announce(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            os.fchmod(handle, 0o644)
            return handle, path
        os.close(handle)  # swept before it was locked


def beside(file: Path) -> Path:
    """The folder of a writer who needs one, by the file of `begin_file` that it goes with: both are swept at once."""
    return file.with_name(f"{file.name}.d")


@contextmanager
def temporary_folder(place: Path, prefix: str = "", *, mode: int = 0o777) -> Iterator[Path]:
    """An empty folder in `place`, gone in the end. That of a process that is killed goes with the next `sweep`."""
    with room(place):
        place.mkdir(parents=True, exist_ok=True)
        handle, file = begin_file(place, prefix)
    folder = beside(file)
    try:
        with room(place):
            folder.mkdir(mode=mode)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        file.unlink(missing_ok=True)
        os.close(handle)


def sweep(files: Iterable[Path]) -> None:
    """Remove files that `begin_file` made for writers that are gone: nobody holds their locks. Folders go with them."""
    for file in files:
        with suppress(FileNotFoundError, BlockingIOError, IsADirectoryError):
            handle = os.open(file, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(beside(file), ignore_errors=True)
                file.unlink()
            finally:
                os.close(handle)


def begun(folder: Path, prefix: str) -> Iterator[Path]:
    """The files in a folder that `begin_file` made with a prefix, and none that a user may have called so."""
    name = re.compile(rf"{re.escape(prefix)}[0-9a-f]{{16}}")
    yield from (file for file in folder.iterdir() if name.fullmatch(file.name))


def write_whole(path: Path, data: bytes) -> None:
    """Give a file its contents all at once, and sweep up what others left who were killed at it. Raises `NoRoom`."""
    prefix = f".{path.name}-"
    with room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(begun(path.parent, prefix))
        handle, fresh = begin_file(path.parent, prefix)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.replace(fresh, path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
