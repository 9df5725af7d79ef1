"""The processes in which the Python backend runs models, seen from outside: what they really loaded, and who lives.

The server says "ready" of a model whose process is dead, and names an environment as used that has no Python in it. The
kernel knows better. It tells root and the user that started the server; of a server elsewhere nothing can be seen.

Source: python_backend, stub_launcher.cc, and the processes of real servers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SERVER: Final = "tritonserver"
STUB: Final = "triton_python_backend_stub"
PROC: Final = Path("/proc")

_INSTANCE: Final = re.compile(r"(?P<group>.+)_\d+")
_NUMPY: Final = re.compile(r"/numpy/(_?core)/_multiarray_umath\.")
_LIBPYTHON: Final = re.compile(r"/libpython[\d.]+\.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """A process that runs an instance of a model. What may not be seen of it is empty.

    `program` is its own path, `instance` the server's name for what it runs: that of its instance group and a number.
    `libraries` are the shared objects that it has loaded, by their paths in the container; `root` is where this machine
    sees the container's files.
    """

    pid: int
    program: str
    instance: str
    env: Mapping[str, str]
    libraries: frozenset[str]
    root: Path

    @property
    def group(self) -> str:
        """The instance group that it belongs to."""
        found = _INSTANCE.fullmatch(self.instance)
        return found["group"] if found else self.instance

    @property
    def numpy(self) -> int | None:
        """The first number of the version of NumPy that it has loaded: 2 moved what is in `core`."""
        found = next((match for path in sorted(self.libraries) if (match := _NUMPY.search(path))), None)
        return None if found is None else 2 if found[1] == "_core" else 1

    @property
    def python(self) -> str:
        """The path of the Python that it runs; empty where it is not known."""
        return next((path for path in sorted(self.libraries) if _LIBPYTHON.search(path)), "")

    def has(self, folder: str) -> bool:
        """Whether there is a Python in a folder of the container, or anything of it is loaded."""
        if any(path.startswith(f"{folder}/") for path in self.libraries):
            return True
        return self.holds(folder, "bin/python*", "lib/python3*")

    def holds(self, folder: str, *patterns: str) -> bool:
        """Whether something matches one of the patterns in a folder of the container."""
        with suppress(OSError):
            here = self.root / folder.lstrip("/")
            return any(True for pattern in patterns for _ in here.glob(pattern))
        return False


def stubs(pids: Iterable[int], proc: Path = PROC) -> tuple[Stub, ...] | None:
    """Those of a server's processes that run Python models; None where the server itself cannot be seen among them."""
    commands = {pid: _words(proc / str(pid) / "cmdline") for pid in pids}
    if not any(os.path.basename(words[0]) == SERVER for words in commands.values() if words):
        return None
    running = {pid: words for pid, words in commands.items() if words and os.path.basename(words[0]) == STUB}
    return tuple(_stub(pid, words, proc / str(pid)) for pid, words in running.items())


def _stub(pid: int, words: Sequence[str], folder: Path) -> Stub:
    return Stub(
        pid=pid,
        program=words[0],
        instance=_instance(words),
        env=dict(word.split("=", 1) for word in _words(folder / "environ") if "=" in word),
        libraries=_libraries(_read(folder / "maps").decode(errors="replace")),
        root=folder / "root",
    )


def _read(file: Path) -> bytes:
    """What a file of the kernel says; nothing where we may not look, or the process has ended."""
    with suppress(OSError):
        return file.read_bytes()
    return b""


def _words(file: Path) -> list[str]:
    return [word.decode(errors="replace") for word in _read(file).split(b"\0") if word]


def _instance(words: Sequence[str]) -> str:
    """Its place among the arguments is not the same in all releases; that of the handle before it has no letters."""
    names = (word for word in words[3:] if _INSTANCE.fullmatch(word) and "/" not in word)
    return next(names, "")


def _libraries(maps: str) -> frozenset[str]:
    rows = (line.split(None, 5) for line in maps.splitlines())
    return frozenset(row[5] for row in rows if len(row) == 6 and ".so" in row[5])


def of_model(config: Mapping[str, Any], some: Iterable[Stub]) -> tuple[Stub, ...]:
    """The processes that run instances of a model, by the names of its instance groups."""
    groups = {str(group.get("name")) for group in config.get("instance_group") or ()}
    return tuple(stub for stub in some if stub.group in groups)
