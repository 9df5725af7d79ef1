"""The recipe that `init` writes: commented, and ready to be planned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from composer.errors import Unplannable
from composer.models.repository import ModelRepository, needed_backends, read_repository
from composer.oci.layout import room
from composer.rendering import render
from composer.server import FLAGS_OF

NAME: Final = "recipe.yaml"
_TEMPLATE: Final = "recipe.yaml.j2"


def write_starter(folder: Path, *, models: Path | None) -> Path:
    """Write a recipe into `folder`, for the models of a repository if one is given. Returns its path.

    Raises `Unplannable` where there is a recipe already, `RecipeError` for models that no server would load.
    """
    path = folder / NAME
    repository = read_repository(models) if models else None
    text = render(_TEMPLATE, "starter", _values(folder, repository))
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


def _values(folder: Path, repository: ModelRepository | None) -> dict[str, object]:
    return {
        "release": FLAGS_OF,
        "path": os.path.relpath(repository.path, folder) if repository else None,
        "models": repository.models if repository else (),
        "backends": needed_backends([repository]) if repository else ("onnxruntime", "python"),
    }
