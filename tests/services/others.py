"""Registries that are not distribution, on loopback ports: `.ci/registries` makes them, of Debian's libraries.

`cue` keeps what came of an upload that was cut, tells how much, and lists referrers; its locations are relative.
`ggcr`, which crane serves, forgets a cut upload, knows no status of uploads, and mounts nothing. Both are in memory.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BINARY = Path(__file__).parents[2] / "build/registries/registries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """One of them, running."""

    kind: str
    host: str

    @property
    def port(self) -> int:
        return int(self.host.rpartition(":")[2])


@contextmanager
def running_other(kind: str, *, referrers: bool = True, posts: bool = True) -> Iterator[Other]:
    """Start `cue` or `ggcr`; without `referrers` it has no API for them, without `posts` it wants a session."""
    if not BINARY.exists():
        pytest.fail("these tests need other registries: bash .ci/registries", pytrace=False)
    flags = [f"-referrers={str(referrers).lower()}", f"-posts={str(posts).lower()}"]
    process = subprocess.Popen([str(BINARY), kind, *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Other(kind=kind, host=process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait(10)
