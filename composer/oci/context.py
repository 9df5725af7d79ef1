"""What a Docker Engine builds from: a folder as a tar, made while it is sent.

No more of it is ever in memory than one piece of one file. The tar is GNU's and begins with the folder itself:
BuildKit takes a stream for a tar only if a whole header is in its first 1024 bytes, and those of PAX and of long names
are longer. Owners are root; modes, links and times are the folder's own.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from composer.errors import Corrupt, NotFound, TricomposeError, Unplannable
from composer.oci.store import CHUNK

_BLOCK: Final = tarfile.BLOCKSIZE
_KINDS: Final = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}


def context_size(folder: Path) -> int:
    """Bytes in all files below `folder`. Raises as `stream_context`."""
    return sum(info.st_size for _, _, info in _walk(folder) if stat.S_ISREG(info.st_mode))


def stream_context(folder: Path) -> Iterator[bytes]:
    """`folder` as a tar: sorted, a folder before what it holds.

    Raises `NotFound` for what cannot be read, `Unplannable` for what is neither file, folder nor link, and `Corrupt`
    for a file that changes meanwhile.
    """
    for name, path, info in _walk(folder):
        if stat.S_ISREG(info.st_mode):
            yield from _file(name, path)
        else:
            yield _header(name, path, info)
    yield bytes(2 * _BLOCK)


def _walk(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    pending = [(".", folder)]
    while pending:
        name, path = pending.pop()
        try:
            # The folder itself may be named by a link; links within it are sent as links.
            info = path.stat() if path == folder else path.lstat()
            below = sorted(os.listdir(path), reverse=True) if stat.S_ISDIR(info.st_mode) else []
        except OSError as error:
            raise _unread(path, error) from error
        yield name, path, info
        prefix = "" if name == "." else f"{name}/"
        pending += [(prefix + one, path / one) for one in below]


def _file(name: str, path: Path) -> Iterator[bytes]:
    """A file's header and content, both by one look at it."""
    try:
        # Not through a link that came meanwhile, and not waiting for a pipe that did.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unread(path, error) from error
    with open(handle, "rb", buffering=0) as file:
        info = os.fstat(handle)
        yield _header(name, path, info)
        left = info.st_size
        try:
            while left and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk
        except OSError as error:
            raise _unread(path, error) from error
    if left:
        raise Corrupt(f"{path} changed while it was read", hint="run the build again when it is at rest")
    yield bytes(-info.st_size % _BLOCK)


def _header(name: str, path: Path, info: os.stat_result) -> bytes:
    kind = _KINDS.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        raise Unplannable(f"{path} is neither file, folder nor link, and cannot be sent", hint=f"rm {path}")
    made = tarfile.TarInfo(name)
    made.type = kind
    made.mode = stat.S_IMODE(info.st_mode)
    made.mtime = int(info.st_mtime)
    made.size = info.st_size if kind == tarfile.REGTYPE else 0
    made.linkname = _target(path) if kind == tarfile.SYMTYPE else ""
    return made.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: OSError) -> TricomposeError:
    """No `OSError`: the HTTP client would take it for one of the connection."""
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{path} went away while it was sent to the Docker Engine", hint="run the build again")
    return NotFound(f"{path} cannot be sent to the Docker Engine: {error.strerror}", hint=f"ls -ld {path}")
