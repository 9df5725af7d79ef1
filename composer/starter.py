"""The recipe that `init` writes: commented, and ready to be planned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from composer.disk import room
from composer.errors import NotFound, Unplannable
from composer.models.needs import SharedMemory, needs_of, upstream_packages
from composer.models.repository import Model, read_repository
from composer.releases import RELEASES
from composer.rendering import render

NAME: Final = "recipe.yaml"
_TEMPLATE: Final = "recipe.yaml.j2"

PROPOSED: Final = "24.10"
"""The release of the newest real server that all this was tried on."""


def write_starter(folder: Path, *, models: Path | None) -> Path:
    """Write a recipe into `folder`, for the models of a repository if one is given. Returns its path.

    What the models need is read off them, also where the server would not load them as they are: that is for lint to
    say. Raises `Unplannable` where there is a recipe already.
    """
    path = folder / NAME
    text = render(_TEMPLATE, "starter", _starter(folder, models) if models else Starter())
    write_new(path, text, instead=f"tricompose init {folder / 'another'}")
    return path


def write_new(path: Path, text: str, *, instead: str) -> None:
    """Write a file that is not there yet, and its folder. Raises `Unplannable` with `instead` where it is there."""
    with room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise Unplannable(f"{path} is there already", hint=instead) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """What the template is given. `shared` is what the models' Python instances take of shared memory at least.

    `backends` is None where not every model says yet what it needs.
    """

    release: str = PROPOSED
    path: str | None = None
    models: Sequence[Model] = ()
    backends: Sequence[str] | None = ("onnxruntime", "python")
    pip: Sequence[str] = ()
    apt: Sequence[str] = ()
    gpu: Mapping[str, str] = field(default_factory=dict)
    shared: SharedMemory | None = None

    @property
    def shm_size(self) -> str:
        """What `run` is to say of it: 1 GiB, unless the models need more."""
        return f"{max(self.shared.advised >> 20 if self.shared else 0, 1024)}m"


def _starter(folder: Path, path: Path) -> Starter:
    repository = read_repository(path, baked=True)
    if repository.fault:
        raise NotFound(f"there is no model repository {path} that can be read", hint=f"ls -ld {path}")
    release = RELEASES[PROPOSED]
    needs = needs_of([repository], release=release)
    return Starter(
        path=os.path.relpath(path, folder),
        models=repository.models,
        backends=tuple(needs.backends) if all(one.backend or one.is_ensemble for one in repository.models) else None,
        pip=needs.pip(upstream_packages(release)),
        apt=needs.apt,
        gpu=needs.gpu,
        shared=needs.shared_memory if needs.shared_memory.instances else None,
    )
