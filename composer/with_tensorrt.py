"""The part of the story that TensorRT plays: models that are converted, on this machine's GPU or carried here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from composer.disk import require_writable
from composer.engines import dockerfile as engine
from composer.engines import trtexec
from composer.engines.dockerfile import Kitchen
from composer.engines.trtexec import Made
from composer.errors import Denied, Problem, RecipeError, Unplannable, Unreachable
from composer.events import Warned
from composer.lock import pin
from composer.models.repository import ModelRepository, read_repository
from composer.models.tensorrt import decide, expected_version, image_of, same_version, version_of
from composer.models.tensorrt_config import config_text, interface_of
from composer.models.tensorrt_source import survey_original
from composer.oci.image import Platform
from composer.oci.names import Reference
from composer.oci.store import Store
from composer.recipe import Recipe


def plan_here(
    recipe: Recipe,
    index: int,
    server: Mapping[str, Any],
    kitchen: Kitchen,
    open_source: Callable[[Reference], Store],
    *,
    jobs: int,
) -> Made:
    """Convert the model at `index` of the recipe, on this machine's GPU, unless that was done before.

    `server` is the config of the server's image: the plan must be of its TensorRT. Raises `Unplannable` where the
    container has another one, `NoRoom` where the result cannot be put, and what `trtexec.make` raises.
    """
    conversion = recipe.models[index].convert
    if conversion is None:
        raise ValueError(f"models[{index}] is not converted")
    original, extras = survey_original(recipe, index)
    platform = _one_platform(recipe, index)
    if not (has := kitchen.engine.platform()).accepts(platform):
        message = f"a plan for {platform} is made on {platform}, and the Docker Engine runs on {has}"
        raise Unplannable(message, hint=trtexec.elsewhere(str(recipe.models[index].name), conversion.plan))
    pinned = pin(recipe, image_of(recipe, conversion), platform, open_source)
    version = _agreed(recipe, version_of(pinned.image.config), expected_version(recipe, server), pinned.origin)
    job = decide(recipe, index, original, extras, version)
    for written in filter(None, (job.plan, job.timing_cache)):
        require_writable(written.parent)
    for message, hint in job.notes:
        kitchen.emit(Warned(message=message, hint=hint))
    with engine.named([pinned], kitchen, platform, jobs=jobs) as names:
        return trtexec.make(job, names[0], kitchen.cache.path, named=str(pinned.origin), emit=kitchen.emit)


def plan_brought(recipe: Recipe, index: int, server: Mapping[str, Any]) -> Made | None:
    """The plan that was made elsewhere and carried here, None where there is none: no engine and no GPU is asked.

    Raises what `trtexec.carried` raises.
    """
    original, extras = survey_original(recipe, index)
    return trtexec.carried(recipe, index, original, extras, expected_version(recipe, server))


def converted(
    recipe: Recipe,
    server: Mapping[str, Any],
    cache: Path,
    make: Callable[[int], Made] | None,
) -> ModelRepository | None:
    """The models of a recipe that are converted, as a model repository in the cache; None where none is.

    A plan that was carried here is taken; others are made by `make` (see `plan_here`), or without it are those that
    the cache has, for whichever GPU. Raises what `plan_brought` and `make` raise, `Unplannable` where there is no plan,
    and `RecipeError` for a model whose config.pbtxt cannot be told from it.
    """
    indexes = [index for index, model in enumerate(recipe.models) if model.convert]
    other = _or_elsewhere(recipe, make) if make else _kept_plan(recipe, server, cache)
    plans = [plan_brought(recipe, index, server) or other(index) for index in indexes]
    if not plans:
        return None
    configs = [_config(recipe, made) for made in plans]
    told = [(made.job.name, made.record.digest, text) for made, text in zip(plans, configs, strict=True)]
    folder = cache / trtexec.PLANS / "repositories" / hashlib.sha256(json.dumps(told).encode()).hexdigest()
    for made, text in zip(plans, configs, strict=True):
        trtexec.lay_out(made, text, folder)
    found = read_repository(folder, baked=True)
    return replace(found, models=tuple(replace(one, origin="convert: by trtexec") for one in found.models))


def _or_elsewhere(recipe: Recipe, make: Callable[[int], Made]) -> Callable[[int], Made]:
    """`make`, which says what else can be done where there is no engine: then there is no GPU either, as a rule."""

    def tried(index: int) -> Made:
        try:
            return make(index)
        except (Unreachable, Denied) as error:
            model = recipe.models[index]
            plan = recipe.base / model.convert.plan if model.convert and model.convert.plan else None
            hint = f"{error.hint}; or {trtexec.elsewhere(str(model.name), plan)}"
            raise type(error)(error.message, hint=hint) from error

    return tried


def _kept_plan(recipe: Recipe, server: Mapping[str, Any], cache: Path) -> Callable[[int], Made]:
    def find(index: int) -> Made:
        original, extras = survey_original(recipe, index)
        version = expected_version(recipe, server)
        job = decide(recipe, index, original, extras, version) if version else None
        if job and (made := trtexec.kept_for_some_gpu(job, cache)):
            return made
        name = recipe.models[index].name
        raise Unplannable(
            f"{name} was not converted yet, so that it is not known what there will be",
            hint=f"where the GPU is: tricompose models convert RECIPE --only {name}",
        )

    return find


def _config(recipe: Recipe, made: Made) -> str:
    """The config.pbtxt of a converted model: the recipe's own, or what follows from the model."""
    index, source = made.job.index, recipe.models[made.job.index]
    if source.convert is None:
        raise ValueError(f"models[{index}] is not converted")
    if source.config not in (None, "auto"):
        try:
            return (recipe.base / str(source.config)).read_text()
        except (OSError, UnicodeDecodeError) as error:
            message, hint = f"{source.config} cannot be read: {error}", f"ls -l {source.config}"
            raise RecipeError([_problem_at(recipe, index, "config", message, hint)]) from error
    original, _ = survey_original(recipe, index)
    interface = interface_of(original, source.convert, made.job.version)
    if interface is None:
        message = "the model does not say the shapes and types of all inputs and outputs"
        raise RecipeError([_problem_at(recipe, index, "convert", message, "write one: config: ./config.pbtxt")])
    return config_text(made.job.name, interface)


def _problem_at(recipe: Recipe, index: int, key: str, message: str, hint: str) -> Problem:
    return Problem(where=recipe.where("models", index, key), message=message, hint=hint)


def _one_platform(recipe: Recipe, index: int) -> Platform:
    """What the plan is for: TensorRT makes plans for the platform that it runs on."""
    if len(recipe.platforms) > 1:
        message = "a TensorRT plan is for one platform, and the recipe has several"
        raise RecipeError([_problem_at(recipe, index, "convert", message, f"platforms: [{recipe.platforms[0]}]")])
    return recipe.platforms[0]


def _agreed(recipe: Recipe, has: str | None, wanted: str | None, image: Reference) -> str:
    """The version of TensorRT, of which what the container has and what the server has must be spellings."""
    if has and wanted and not same_version(has, wanted):
        raise Unplannable(
            f"{image} has TensorRT {has}, and the server has {wanted}: it could not read a plan of the other",
            hint=f"convert: {{image: docker://nvcr.io/nvidia/tensorrt:{recipe.triton or 'RELEASE'}-py3}}",
        )
    if found := has or wanted:
        return found
    raise Unplannable(
        f"nothing says which TensorRT {image} has: no TRT_VERSION in its config",
        hint="an image of nvcr.io/nvidia/tensorrt: convert: {image: ...}",
    )
