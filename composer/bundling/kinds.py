"""What kinds of things are in our bundles, and what they are called in there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from composer.oci.names import Reference, is_docker_name
from composer.recipe import Recipe

UPSTREAM: Final = "upstream"
BASE: Final = "base"
"""A `-min` image: its manifest and config, and of its layers those that others bring."""
COMPOSED: Final = "composed"
ATTACHED: Final = "attached"
"""A signature, or another thing about an image."""
IMAGES: Final = (UPSTREAM, BASE, COMPOSED, ATTACHED)

RECIPE: Final = "recipe"
SHELF: Final = "shelf"
"""Fetched models and wheels, by the paths that they have in a cache."""
REPORT: Final = "report"

NAME: Final = "org.tricompose.name"
"""The annotation that says which recipe an artifact is of."""
RECIPE_PATH: Final = "org.tricompose.recipe"
"""The annotation that says which of an artifact's files is the recipe."""
LAYOUTS: Final = "org.tricompose.layouts"
"""The annotation that says which image layouts a recipe starts from: {path: {tag: name of the image in the bundle}}."""

_TYPE: Final = "application/vnd.tricompose.{}.v1"


def artifact_type(kind: str) -> str:
    """The artifact type of a kind."""
    return _TYPE.format(kind)


def name_of(reference: Reference) -> str:
    """What an image is called in a bundle: by its full name, or where it is in a file by that file's."""
    if reference.transport == "docker":
        return str(reference.at(reference.name)).removeprefix("docker://")
    return f"{_word(Path(reference.place).name.removesuffix('.tar'))}:{_tag(reference)}"


def source_of(reference: Reference) -> str:
    """What an image was called where it came from; of a path of this machine only the end is told."""
    if reference.transport == "docker":
        return str(reference.at(reference.name))
    place = Path(reference.place).name if reference.transport != "docker-daemon" else reference.place
    return str(Reference(transport=reference.transport, place=place, tag=reference.tag, digest=reference.digest))


def composed_name(recipe: Recipe) -> str:
    """What a recipe's image is called: as its first output in a registry or an engine, else as the recipe."""
    for one in recipe.outputs:
        if one.transport in ("docker", "docker-daemon") and one.place:
            place = one.repository if one.transport == "docker" else one.place
            return f"{place}:{_tag(one)}"
    tags = [one.tag for one in recipe.outputs if one.tag and one.transport != "docker-archive"]
    return f"{stem_of(recipe)}:{tags[0] if tags else 'latest'}"


def stem_of(recipe: Recipe) -> str:
    """A recipe's name as a part of paths and of images' names."""
    named = "name" in recipe.model_fields_set or recipe.path is None
    return _word(recipe.name if named or recipe.path is None else recipe.path.stem)


def docker_name(name: str) -> str | None:
    """What `docker load` may call an image, if it can be called so."""
    return name if is_docker_name(name) else None


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "image"


def _tag(reference: Reference) -> str:
    if reference.tag:
        return reference.tag.rpartition(":")[2]
    return f"digest-{reference.digest[7:19]}" if reference.digest else "latest"
