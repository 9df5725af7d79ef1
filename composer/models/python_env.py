"""What is in a packed Python environment (`EXECUTION_ENV_PATH`), from the names in its archive. Nothing is unpacked.

Source of what the server wants of it: the Python backend, pb_env.cc and stub_launcher.cc (GetPythonEnvironment).
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import IO, Final

_MOST: Final = 64 << 20
"""Bytes that are read of an archive, unpacked: names stand all over it, and it may hold gigabytes."""

_NUMPY: Final = re.compile(r"numpy-(\d+)\.[\w.]*\.dist-info(/|$)")
_PYTHON: Final = re.compile(r"(?:^|/)lib/(?:lib)?python(3\.\d+)(?:/|\.so|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonEnv:
    """An environment. `pythons` are the versions it has, "3.10"; `numpy` is the first number of NumPy's.

    `complete` if all names were seen; else what is missing may be there all the same. `leaves` is an entry that would
    be written outside of the folder that it is unpacked to.
    """

    activates: bool
    pythons: tuple[str, ...]
    numpy: int | None
    complete: bool
    leaves: str | None = None


def read_env(path: Path) -> PythonEnv | None:
    """What is in an archive, or in a folder; None for what the server cannot unpack: it takes tar, plain or gzip."""
    try:
        if path.is_dir():
            return _told(_names_below(path), complete=True)
        with path.open("rb") as file:
            return _read(file)
    except OSError:
        return None


def _names_below(path: Path) -> list[str]:
    """The names that count: those of the folder, and of the folders that packages are in."""
    wanted = ("bin/activate", "lib", "lib/*", "lib/python3*/site-packages/numpy-*")
    return [str(one.relative_to(path)) for pattern in wanted for one in path.glob(pattern)]


def _read(file: IO[bytes]) -> PythonEnv | None:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    limited = _Limited(GzipFile(fileobj=file) if packed else file)
    names: list[str] = []
    leaves: str | None = None
    try:
        with tarfile.open(fileobj=limited, mode="r|", errorlevel=0) as tar:
            for member in tar:
                names.append(member.name)
                leaves = leaves or (member.name if _outside(member) else None)
    except (tarfile.TarError, OSError, EOFError, zlib.error, BadGzipFile, ValueError, OverflowError):
        if not names:
            return None
        return _told(names, complete=False, leaves=leaves)
    return _told(names, complete=not limited.ended_early, leaves=leaves)


def _outside(member: tarfile.TarInfo) -> bool:
    return member.name.startswith("/") or ".." in member.name.split("/")


def _told(names: Iterable[str], *, complete: bool, leaves: str | None = None) -> PythonEnv:
    plain = [name.removeprefix("./") for name in names]
    numpy = next((int(found[1]) for name in plain if (found := _NUMPY.search(name))), None)
    pythons = {found[1] for name in plain if (found := _PYTHON.search(name))}
    return PythonEnv(
        activates="bin/activate" in plain,
        pythons=tuple(sorted(pythons)),
        numpy=numpy,
        complete=complete,
        leaves=leaves,
    )


class _Limited(io.RawIOBase):
    """A stream that ends after `_MOST` bytes."""

    def __init__(self, inner: IO[bytes] | GzipFile) -> None:
        super().__init__()
        self._inner, self._left = inner, _MOST
        self.ended_early = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        if self._left <= 0:
            self.ended_early = True
            return b""
        data = self._inner.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data
