"""What commands cost: their time, memory, disk and traffic, and those of a daemon that works for them.

Everything is read from /proc, so that a daemon is measured as a command is.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.wire import Wire

TICK = 0.1
"""Seconds between two looks at memory."""

DISK_SHARE = 20
"""Looking at the disk may take one part in so many of the time."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class CommandFailed(RuntimeError):
    """A command that was measured failed; the message has the end of what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One step of something measured."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Where to look: the wires that the traffic goes by, the folders that fill up, the daemon that does the work."""

    wires: Sequence[Wire]
    folders: Sequence[Path]
    daemon: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a sequence of commands cost, and the daemon meanwhile.

    `wall` and `cpu` (user and system) are seconds, the others bytes. `memory` is the peak of the RSS of all processes
    together, `daemon_memory` the daemon's part of it; `disk` is the peak above what was there at the beginning.
    `steps` has the wall seconds of each command.
    """

    wall: float
    cpu: float
    memory: int
    daemon_memory: int
    read: int
    written: int
    disk: int
    steps: dict[str, float]

    def then(self, later: Cost) -> Cost:
        """Both, one after the other, where the later one began with all that this one left."""
        return Cost(
            wall=self.wall + later.wall,
            cpu=self.cpu + later.cpu,
            memory=max(self.memory, later.memory),
            daemon_memory=max(self.daemon_memory, later.daemon_memory),
            read=self.read + later.read,
            written=self.written + later.written,
            disk=max(self.disk, later.disk),
            steps=self.steps | later.steps,
        )


def measure(commands: Sequence[Command], probes: Probes, *, log: Path) -> Cost:
    """Run commands one after the other. What they say goes to `log`; raises `CommandFailed`."""
    read, written = _traffic(probes)
    daemon = cpu_of(probes.daemon)
    watch = _Watch(probes)
    watch.start()
    try:
        ran = [_run(command, watch, log) for command in commands]
    finally:
        watch.stop()
    now_read, now_written = _traffic(probes)
    return Cost(
        wall=sum(wall for wall, _ in ran),
        cpu=sum(cpu for _, cpu in ran) + cpu_of(probes.daemon) - daemon,
        memory=watch.memory,
        daemon_memory=watch.daemon_memory,
        read=now_read - read,
        written=now_written - written,
        disk=watch.disk,
        steps={command.name: wall for command, (wall, _) in zip(commands, ran, strict=True)},
    )


def run_json(argv: Sequence[str]) -> Any:
    """What a command prints, as JSON."""
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout)


def _run(command: Command, watch: _Watch, log: Path) -> tuple[float, float]:
    """Seconds of wall and of CPU, those of all its children that it waited for included."""
    began = time.monotonic()
    with log.open("ab") as said:
        process = subprocess.Popen(command.argv, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    watch.client = process.pid
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    wall = time.monotonic() - began
    watch.client = None
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said_last = log.read_text(errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(command.argv)} ended with {process.returncode}:\n{said_last}")
    return wall, usage.ru_utime + usage.ru_stime


def _traffic(probes: Probes) -> tuple[int, int]:
    return sum(wire.to_client for wire in probes.wires), sum(wire.to_server for wire in probes.wires)


class _Watch:
    """Looks at memory and disk until stopped, and keeps the peaks."""

    def __init__(self, probes: Probes) -> None:
        self.client: int | None = None
        self.memory = self.daemon_memory = self.disk = 0
        self._probes = probes
        self._ended = threading.Event()
        self._before = self._occupied()
        self._threads = [threading.Thread(target=look, daemon=True) for look in (self._see_memory, self._see_disk)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._look_at_disk()

    def _see_memory(self) -> None:
        while not self._ended.wait(TICK):
            daemon = memory_of(self._probes.daemon)
            self.daemon_memory = max(self.daemon_memory, daemon)
            self.memory = max(self.memory, daemon + memory_of(self.client))

    def _see_disk(self) -> None:
        pause = 1.0
        while not self._ended.wait(pause):
            pause = max(0.5, self._look_at_disk() * DISK_SHARE)

    def _look_at_disk(self) -> float:
        """Seconds that it took."""
        began = time.thread_time()
        self.disk = max(self.disk, self._occupied() - self._before)
        return time.thread_time() - began

    def _occupied(self) -> int:
        return sum(occupied(folder) for folder in self._probes.folders)


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(one := waiting.pop())
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                waiting += map(int, children.read_text().split())
    return found


def memory_of(pid: int | None) -> int:
    """The RSS of a process and its descendants in bytes; 0 for none."""
    return 0 if pid is None else sum(_field(one, "statm", 1) for one in family(pid)) * _PAGE


def cpu_of(pid: int | None) -> float:
    """Seconds of CPU of a process, its descendants, and those of them that ended; 0 for none."""
    return 0.0 if pid is None else sum(_field(one, "stat", *range(13, 17)) for one in family(pid)) / _TICKS


def _field(pid: int, name: str, *numbers: int) -> int:
    """The sum of some fields of a file in /proc/PID; 0 if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return 0
    # A program's name may hold spaces, and stands in parentheses.
    _, parenthesis, tail = text.rpartition(")")
    fields = ["", "", *tail.split()] if parenthesis else text.split()
    return sum(int(fields[number]) for number in numbers)


def occupied(folder: Path) -> int:
    """Bytes on disk below a folder, without what is mounted there; files with several names count once."""
    seen: set[int] = set()
    total, waiting = 0, [str(folder)]
    device = folder.stat().st_dev if folder.exists() else None
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            with suppress(OSError):
                info = entry.stat(follow_symlinks=False)
                if info.st_dev != device or (info.st_nlink > 1 and info.st_ino in seen):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    seen.add(info.st_ino)
                total += info.st_blocks * 512
    return total
