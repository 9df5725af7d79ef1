"""What `run.mounts` brings into a container: whether it is there, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import NotFound

if TYPE_CHECKING:
    from composer.recipe import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A file or folder of this machine, by its absolute path, and its path in the container."""

    source: str
    target: str
    read_only: bool


def mounted(run: Run, base: Path) -> tuple[Mounted, ...]:
    """The mounts of a recipe whose paths start from `base`, outer ones first. Raises `NotFound`."""
    found = []
    for mount in sorted(run.mounts, key=lambda mount: mount.target.count("/")):
        source = (base / mount.source.expanduser()).absolute()
        if not source.exists():
            raise NotFound(f"{source}, to be mounted at {mount.target}, is not there", hint=f"ls -d {source.parent}")
        found.append(Mounted(source=str(source), target=mount.target, read_only=mount.read_only))
    return tuple(found)
