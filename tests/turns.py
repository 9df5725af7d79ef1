"""What the two lanes of a test run, each a process of its own, may not do at once."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_turn(name: str) -> Iterator[None]:
    """One process of this machine is within at a time; the others wait, and find what it has made."""
    with (Path(tempfile.gettempdir()) / f"tricompose-tests-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
