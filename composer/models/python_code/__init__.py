"""What a model.py says of itself, parsed and never run: its class, imports, calls of other models, downloads.

What cannot be told from the text is left open (None, or `unsure`), never guessed. Input of any kind and size ends in
`PythonCode` or `Unreadable`.

Source of what the server does with it: the Python backend, pb_stub.cc (StubSetup, Initialize, ProcessRequests).
"""

from __future__ import annotations

import ast
import os
import stat
import sys
import warnings
from functools import lru_cache
from importlib.util import decode_source
from pathlib import Path
from typing import Final

from composer.models.configuration import Place
from composer.models.python_code.facts import (
    CLASS,
    UTILS,
    AutoComplete,
    Call,
    Import,
    Mention,
    Method,
    ModelClass,
    PythonCode,
    Read,
    Return,
    Tensor,
    Unreadable,
)
from composer.models.python_code.reader import read

__all__ = [
    "CLASS",
    "LARGEST",
    "UTILS",
    "AutoComplete",
    "Call",
    "Import",
    "Mention",
    "Method",
    "ModelClass",
    "PythonCode",
    "Read",
    "Return",
    "Tensor",
    "Unreadable",
    "parse_code",
    "read_code",
]

LARGEST: Final = 1 << 20
"""Bytes of the largest file that is parsed. Programs that people write stay far below; parsing takes 100 times that."""

_KEPT: Final = 64 << 10


def read_code(path: Path, *, python: str | None = None) -> PythonCode | Unreadable:
    """Parse a file as the image's Python would, "3.10" for one. Nothing is raised, whatever the path is."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Unreadable(words="it is no regular file")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            source = stream.read(LARGEST + 1)
            return _parse_once(source, python) if len(source) < _KEPT else parse_code(source, python=python)
    except (OSError, ValueError) as error:
        return Unreadable(words=str(getattr(error, "strerror", None) or error))


@lru_cache(maxsize=1024)
def _parse_once(source: bytes, python: str | None) -> PythonCode | Unreadable:
    """Versions of a model often have the same program."""
    return parse_code(source, python=python)


def parse_code(source: bytes, *, python: str | None = None) -> PythonCode | Unreadable:
    """Parse a program as `read_code` does."""
    if len(source) > LARGEST:
        return Unreadable(words=f"it is larger than {LARGEST >> 20} MiB")
    newer = python is not None and _numbers(python) > sys.version_info[:2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, feature_version=None if newer or python is None else _numbers(python))
            # Not to be run: a `return` outside of a function, for one, is only found here.
            compile(tree, "model.py", "exec", dont_inherit=True)
        _count_characters(tree, source)
        return read(tree)
    except SyntaxError as error:
        place = Place(line=error.lineno, column=max(error.offset or 1, 1)) if error.lineno else None
        return Unreadable(words=error.msg or "invalid syntax", place=place, syntax=True, unsure=newer)
    except (ValueError, SystemError) as error:
        # Null bytes, before Python 3.12; and bytes that are no UTF-8 where the parser did not expect them.
        return Unreadable(words=str(error.__cause__ or error), syntax=True)
    except (RecursionError, MemoryError):
        # Brackets or operators in one another, more than the parser has room for. Python itself may take them.
        return Unreadable(words="it is nested too deeply")


def _numbers(python: str) -> tuple[int, int]:
    major, _, minor = python.partition(".")
    return int(major), int(minor)


def _count_characters(tree: ast.Module, source: bytes) -> None:
    """Have the columns of all nodes count characters: `ast` counts the bytes of UTF-8."""
    if source.isascii():
        return
    try:
        lines = [line.encode() for line in decode_source(source).split("\n")]
    except ValueError:
        # Python before 3.12 takes any bytes in comments.
        return
    for node in ast.walk(tree):
        for at, column in (("lineno", "col_offset"), ("end_lineno", "end_col_offset")):
            number = getattr(node, at, None)
            if number and number <= len(lines) and not (line := lines[number - 1]).isascii():
                setattr(node, column, len(line[: getattr(node, column)].decode("utf-8", "replace")))
