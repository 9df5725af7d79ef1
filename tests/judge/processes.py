"""What the processes of one server are doing, from /proc: whether it still works on something, or waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")


@dataclass(slots=True)
class Stillness:
    """How long the session of a process has done nothing: no thread ran, and no tick of CPU time was used.

    A server that starts on a loaded machine is not still: its threads wait for a CPU, which the kernel calls running.
    """

    session: int
    since: float = field(default_factory=time.monotonic)
    ticks: int = -1

    def seconds(self) -> float:
        """Look now. Of use only if called a few times a second."""
        busy, ticks = _state(self.session)
        if busy or ticks > self.ticks + 1 or self.ticks < 0:
            self.since, self.ticks = time.monotonic(), ticks
        return time.monotonic() - self.since


def _state(session: int) -> tuple[bool, int]:
    """Whether a thread of the session runs, waits for a CPU or for a disk; and the CPU time of all, in ticks."""
    busy, ticks = False, 0
    for process in members(session):
        for task in _listed(PROC / str(process) / "task"):
            state, used = _stat(task)
            busy = busy or state in {"R", "D"}
            ticks += used
    return busy, ticks


def members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    return [int(path.name) for path in _listed(PROC) if path.name.isdecimal() and _session(path) == session]


def _listed(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _fields(path: Path) -> list[str]:
    try:
        return (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _session(path: Path) -> int:
    fields = _fields(path)
    return int(fields[3]) if fields and fields[0] != "Z" else 0


def _stat(task: Path) -> tuple[str, int]:
    fields = _fields(task)
    return (fields[0], int(fields[11]) + int(fields[12])) if fields else ("", 0)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started, at once."""
    for pid in {process.pid, *members(process.pid)}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
