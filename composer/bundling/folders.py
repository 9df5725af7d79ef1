"""A recipe with all files of this machine that it names, as they must lie to each other elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from composer.bundle.artifacts import Piece
from composer.bundle.writing import digest_of
from composer.bundling.kinds import name_of
from composer.errors import Problem, RecipeError
from composer.events import Emit, Warned
from composer.files import local_files, unreadable
from composer.lockfile import SUFFIX
from composer.models.sources import scheme_of
from composer.oci.image import sha256
from composer.oci.names import Reference
from composer.recipe import Golden, Recipe
from composer.wheels import read_requirements

_FILE_OPTIONS: Final = ("-r", "--requirement", "-c", "--constraint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The files of a recipe, by their paths below a folder that holds all of them; `recipe` is its own path there.

    `layouts` are the image layouts that it starts from, by their paths: the images in there by their tags.
    """

    recipe: str
    pieces: tuple[Piece, ...]
    folders: tuple[str, ...]
    layouts: Mapping[str, Mapping[str, str]]


def folder_of(recipe: Recipe, lock: bytes, emit: Emit) -> Folder:
    """The recipe's file, its lock, and every file and folder that it names.

    What it names by an absolute path cannot go along, and that is told. Raises `RecipeError` for what cannot be read.
    """
    assert recipe.path
    base = Path(os.path.abspath(recipe.base))
    named = list(dict.fromkeys(path for path in _relative(recipe, emit)))
    places = [Path(os.path.normpath(base / path)) for path in named]
    images = [recipe.place(one) for one in _local_images(recipe)]
    around = [place.parent for place in (*places, *(Path(os.path.abspath(one.place)) for one in images))]
    root = Path(os.path.commonpath([base, *around]))
    own = (base / recipe.path.name).relative_to(root).as_posix()
    pieces: dict[str, Piece] = {}
    folders: list[str] = []
    for place in places:
        for piece, folder in _taken(recipe, place, place.relative_to(root).as_posix()):
            pieces |= {piece.path: piece} if piece else {}
            folders += [folder] if folder else []
    for path, data in ((own, recipe.path.read_bytes()), (f"{own.removesuffix(recipe.path.suffix)}{SUFFIX}", lock)):
        pieces[path] = Piece(path=path, source=data, size=len(data), digest=sha256(data))
    return Folder(
        recipe=own,
        pieces=tuple(pieces.values()),
        folders=tuple(_empty(folders, pieces)),
        layouts=_layouts(images, root),
    )


def _local_images(recipe: Recipe) -> Iterator[Reference]:
    """The images that a recipe takes from layouts that lie by it."""
    given = [recipe.upstream.full, recipe.upstream.min] if recipe.upstream else []
    for one in (*given, *(backend.image for backend in recipe.custom_backends)):
        if one and one.transport == "oci" and not os.path.isabs(one.place):
            yield one


def _layouts(images: Iterable[Reference], root: Path) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for one in images:
        path = Path(os.path.abspath(one.place)).relative_to(root).as_posix()
        found.setdefault(path, {})[one.tag or "latest"] = name_of(one)
    return found


def _taken(recipe: Recipe, place: Path, target: str) -> Iterator[tuple[Piece | None, str]]:
    """A file, or all that is in a folder, links followed; or the folder itself, which may be empty."""
    try:
        for file in local_files(place, target):
            if file.source is None:
                yield None, file.target
            else:
                piece = Piece(
                    path=file.target,
                    source=file.source,
                    size=file.size,
                    digest=digest_of(file.source),
                    mode=file.source.stat().st_mode & 0o755 | 0o400,
                )
                yield piece, ""
    except OSError as error:
        raise RecipeError([unreadable(str(recipe.path), error, place)]) from error


def _empty(folders: Iterable[str], pieces: Iterable[str]) -> Iterator[str]:
    """Those folders that no file is in."""
    filled = {parent for path in pieces for parent in _parents(path)}
    yield from (folder for folder in dict.fromkeys(folders) if folder not in filled and folder != ".")


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _relative(recipe: Recipe, emit: Emit) -> Iterator[Path]:
    """Every path that a recipe names and that is there, from its own folder."""
    for path in (*_paths(recipe), *_others(recipe)):
        if path.is_absolute() and path.exists():
            message = f"{path} is not in the bundle: the recipe names it by its absolute path"
            emit(Warned(message=message, hint="name it by its path from the recipe's folder"))
        elif not path.is_absolute() and (recipe.base / path).exists():
            yield path


def _paths(value: object) -> Iterator[Path]:
    """The paths in a recipe or in a part of it, wherever they stand."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Golden):
        yield from (value.file, Path(f"{value.file}.json"))
    elif isinstance(value, BaseModel):
        # Folders of certificates hold private keys.
        for name in type(value).model_fields.keys() - {"certs_d"}:
            yield from _paths(getattr(value, name))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _paths(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)


def _others(recipe: Recipe) -> Iterator[Path]:
    """The paths that a recipe has as texts, and those that follow from others."""
    for index, model in enumerate(recipe.models):
        if model.config not in (None, "auto"):
            yield Path(str(model.config))
        if model.source and scheme_of(model.source) == "":
            yield Path(model.source)
        elif model.source and scheme_of(model.source) == "file":
            where = recipe.where("models", index, "source")
            message, hint = "a file:// address leads nowhere on another machine", "source: a path from the recipe"
            raise RecipeError([Problem(where=where, message=message, hint=hint)])
    if recipe.packages.pip:
        yield from _requirements(recipe)


def _requirements(recipe: Recipe) -> Iterator[Path]:
    """Files of requirements, those that these include, and wheels that lie here."""
    base = Path(os.path.abspath(recipe.base))
    wanted = read_requirements(recipe)
    wheels = (one.file for one in (*wanted.wanted, *wanted.constraints) if one.file)
    yield from (Path(os.path.relpath(os.path.abspath(file), base)) for file in (*wanted.files, *wheels))
