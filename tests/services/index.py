"""A package index as a folder to be served: `make_index(folder, [make_wheel(folder / "wheels", "probe", "1.0")])`.

The index is at `/simple` below the folder, the wheels beside their pages. `wheels.py` makes more of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.services.wheels import PipIndex, wheel_bytes, wheel_name


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel with one module in it, of its own name, that can be imported."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / wheel_name(name, version)
    path.write_bytes(wheel_bytes(name, version, {f"{name.replace('-', '_')}.py": b""}))
    return path


def make_index(folder: Path, wheels: Iterable[Path]) -> None:
    """List wheels at `folder`/simple, with their digests."""
    index = PipIndex(folder=folder)
    for wheel in wheels:
        index.put(wheel.name, wheel.read_bytes())
