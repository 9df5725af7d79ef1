"""The recipe that `init` writes: commented, and ready to be planned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from composer.errors import NotFound, Unplannable
from composer.models.repository import ModelRepository, needed_backends, survey
from composer.oci.layout import room
from composer.server import FLAGS_OF

NAME: Final = "recipe.yaml"
_TEMPLATE: Final = "recipe.yaml.j2"


def write_starter(folder: Path, *, models: Path | None) -> Path:
    """Write a recipe into `folder`, for the models of a repository if one is given. Returns its path.

    Raises `Unplannable` where there is a recipe already, `RecipeError` for models that no server would load.
    """
    path = folder / NAME
    repository = survey(models) if models else None
    text = _render(folder, repository)
    with room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise Unplannable(f"{path} is there already", hint=f"tricompose init {folder / 'another'}") from error
    return path


def _render(folder: Path, repository: ModelRepository | None) -> str:
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    values = {
        "release": FLAGS_OF,
        "path": os.path.relpath(repository.path, folder) if repository else None,
        "models": repository.models if repository else (),
        "backends": needed_backends([repository]) if repository else ("onnxruntime", "python"),
    }
    return environment.from_string(_template()).render(starter=values)


def _template() -> str:
    """Where the project is installed, templates lie in the package; in a checkout, beside it."""
    here = Path(__file__).parent
    for folder in (here / "templates", here.parent / "templates"):
        if (folder / _TEMPLATE).is_file():
            return (folder / _TEMPLATE).read_text(encoding="utf-8")
    raise NotFound(f"tricompose lacks its {_TEMPLATE}", hint="pip install --force-reinstall tricompose")
