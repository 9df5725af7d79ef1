"""Opening the files of models: what is no file, what is empty, and what is something else under a model's name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

_LFS: Final = b"version https://git-lfs.github.com/spec/"
_PAGE: Final = re.compile(rb"\s*<(!doctype|html|\?xml|error)", re.IGNORECASE)
_HEAD: Final = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Why nothing can be said of a file. `words` follow its name in a sentence: "is empty".

    `kind` is one of `missing`, `denied`, `not_a_file`, `empty`, `lfs_pointer` (git-lfs left a pointer in place of the
    weights), `web_page` (HTML or XML, as a server sends in place of a file), `truncated`, `garbage`.
    """

    kind: str
    words: str


class Broken(Exception):
    """Bytes that make no sense in the format that they should be in. Does not leave the readers."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.why = Unreadable(kind=kind, words=words)


def look_into(path: Path, read: Callable[[IO[bytes], int], T]) -> T | Unreadable:
    """What `read` makes of the file, given it open at its start, unbuffered, and its size in bytes; or why it cannot.

    Never waits, as opening a FIFO would. `read` may raise `Broken` and `OSError`.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            return _looked_into(file, read)
    except (FileNotFoundError, NotADirectoryError):
        return Unreadable(kind="missing", words="is not there")
    except PermissionError:
        return Unreadable(kind="denied", words="may not be read: Permission denied")
    except IsADirectoryError:
        return _no_file("a folder")
    except (OSError, ValueError) as error:
        return Unreadable(kind="denied", words=f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _looked_into(file: IO[bytes], read: Callable[[IO[bytes], int], T]) -> T | Unreadable:
    said = os.fstat(file.fileno())
    if not stat.S_ISREG(said.st_mode):
        return _no_file("a folder" if stat.S_ISDIR(said.st_mode) else "a device, a FIFO or a socket")
    if not said.st_size:
        return Unreadable(kind="empty", words="is empty")
    if other := _something_else(file.read(_HEAD)):
        return other
    file.seek(0)
    try:
        return read(file, said.st_size)
    except Broken as broken:
        return broken.why


def _no_file(what: str) -> Unreadable:
    return Unreadable(kind="not_a_file", words=f"is {what}, not a file")


def _something_else(head: bytes) -> Unreadable | None:
    if head.startswith(_LFS):
        return Unreadable(kind="lfs_pointer", words="is a pointer of git-lfs, not the file that it stands for")
    if _PAGE.match(head):
        return Unreadable(kind="web_page", words="is a web page or an error message in XML, not a model")
    return None
