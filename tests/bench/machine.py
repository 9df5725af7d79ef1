"""The machine that was measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.services.dockerd import DOCKER, DOCKERD


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What numbers depend on. `memory` is in bytes; `load` the load average of a minute, before and after."""

    date: str
    cpu: str
    cores: int
    memory: int
    kernel: str
    python: str
    isal: str
    docker: str
    storage: str
    unpigz: bool
    load: tuple[float, float]


def describe(storage: str, load_before: float) -> Machine:
    """This machine, now; `storage` is the storage driver of the engine that was used."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        python=platform.python_version(),
        isal=version("isal"),
        docker=_docker(),
        storage=storage,
        unpigz=shutil.which("unpigz") is not None,
        load=(load_before, os.getloadavg()[0]),
    )


def cpu_name() -> str:
    """What the processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _docker() -> str:
    said = [subprocess.run([one, "--version"], capture_output=True, text=True, check=True) for one in (DOCKER, DOCKERD)]
    return said[1].stdout.split(",")[0].removeprefix("Docker version ").strip()
