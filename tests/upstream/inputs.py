"""What every source of files shares: how programs are run, how things arrive whole, what a failure is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]
"""Takes one line on what is being done."""


class UpstreamError(RuntimeError):
    """The images cannot be made on this machine; the message says what to do."""


def run(argv: Sequence[str]) -> bytes:
    """What the program writes to its standard output. Raises `UpstreamError` with the end of its errors."""
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()[-2000:]
        raise UpstreamError(f"{' '.join(argv[:4])} ... ended with status {done.returncode}:\n{words}")
    return done.stdout


@contextmanager
def workspace(cache: Path) -> Iterator[Path]:
    """A directory on the file system of the cache, gone afterwards: files are finished there, then moved."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=cache) as name:
        yield Path(name)


def sweep(cache: Path) -> None:
    """Remove what killed runs left half-made, once it is a day old and nobody can be working on it."""
    for path in cache.glob(".tmp-*"):
        if time.time() - path.stat().st_mtime > 86_400:
            shutil.rmtree(path, ignore_errors=True)


def settle(source: Path, target: Path) -> Path:
    """Move a finished file to its place in one step: a reader sees all of it or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    return target
