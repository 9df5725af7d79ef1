"""The case that a recipe makes: what its models are to run with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from composer.models.configuration import Place
from composer.models.lint.rule import Case
from composer.models.repository import ModelRepository, read_repository
from composer.recipe import CPU, Recipe
from composer.releases import LATEST, RELEASES


def case_of(recipe: Recipe) -> Case:
    """What the models of a recipe are to run with. They are baked in, so what tools leave behind does not count."""
    own = {one.name for one in recipe.custom_backends}
    return Case(
        release=RELEASES.get(recipe.triton or ""),
        backends=None if recipe.backends == "auto" else frozenset({*recipe.backends, *own}),
        repoagents=frozenset(recipe.repoagents),
        caches=frozenset(recipe.caches),
        files=frozenset(file.target for file in recipe.files),
        server=recipe.server,
        server_at=_server_at(recipe),
        gpus=_gpus(recipe),
        shm_size=recipe.run.shm_size,
        packages=frozenset(_distribution(line) for line in recipe.packages.pip),
        apt=frozenset(name.partition("=")[0] for name in recipe.packages.apt),
        env=recipe.env,
        architecture=recipe.platforms[0].architecture,
        max_layer_size=recipe.max_layer_size,
        baked=True,
    )


def ignored_by(recipe: Recipe) -> Mapping[str, str]:
    """The rules that a recipe passes over, with the reasons."""
    return {name: reason for source in recipe.models for name, reason in source.ignore.items()}


def repositories_of(recipe: Recipe) -> tuple[ModelRepository, ...]:
    """The model repositories that a recipe names, as they are baked in."""
    name = config_name(case_of(recipe))
    paths = (recipe.base / one.path for one in recipe.models if one.path is not None)
    return tuple(read_repository(_without_detours(path), baked=True, config=name) for path in paths)


def _without_detours(path: Path) -> Path:
    """`serving/../models` as `models`, if that is the same: people see it in every finding."""
    short = Path(os.path.normpath(path))
    return short if short.resolve() == path.resolve() else path


def config_name(case: Case) -> str | None:
    """The config that the server's flag asks for, in place of config.pbtxt."""
    name = case.server.get("model-config-name")
    return name if isinstance(name, str) else None


def case_for(release: str | None) -> Case:
    """The case of a folder that belongs to no recipe: the latest release, where none is named."""
    return Case(release=RELEASES.get(release or LATEST))


def _server_at(recipe: Recipe) -> Mapping[str, tuple[Path, Place]]:
    """Where the recipe has each of the server's flags, and under "" all of them."""
    origin = recipe._origin
    if origin is None:
        return {}
    keys = {"": ("server",), **{name: ("server", name) for name in recipe.server}}
    spots = {name: (*origin.document.place(key, key=True), name or "server") for name, key in keys.items()}
    return {
        name: (origin.path, Place(line=line, column=column, length=len(word)))
        for name, (line, column, word) in spots.items()
    }


def _gpus(recipe: Recipe) -> int | None:
    if recipe.variant == CPU or recipe.run.gpus == "none":
        return 0
    if isinstance(recipe.run.gpus, int):
        return recipe.run.gpus
    return len(recipe.run.gpus) if isinstance(recipe.run.gpus, tuple) else None


def _distribution(line: str) -> str:
    """The name of the distribution that a requirement asks for, as PyPI normalizes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;@]", line.strip(), maxsplit=1)[0]).lower()
