"""The command `tricompose` as its users start it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("tricompose"))

Said = subprocess.CompletedProcess[str]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of this process, without what would change a command's words, and with a home that knows no registry."""
    kept = {name: value for name, value in os.environ.items() if name not in ("SOURCE_DATE_EPOCH", "FORCE_COLOR")}
    return {**kept, "HOME": str(home), "DOCKER_CONFIG": str(home / ".docker"), **more}


def tricompose(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 120) -> Said:
    """Run it to its end, with `cwd` as its home too."""
    argv = [COMMAND, *map(str, arguments)]
    environ = env or environment(cwd)
    return subprocess.run(argv, capture_output=True, text=True, cwd=cwd, env=environ, timeout=timeout, check=False)


@contextmanager
def running(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Begin it; at the end it is gone, whatever a test found."""
    argv = [COMMAND, *map(str, arguments)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=environment(cwd))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
