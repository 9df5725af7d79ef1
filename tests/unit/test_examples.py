"""Every example of recipes/ can be built: it loads, asks for nothing unbuilt, and says what it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.lock import references
from composer.recipe import load_recipe, refuse_unbuilt

RECIPES = sorted(Path(__file__).parents[2].joinpath("recipes").glob("*.yaml"))


def test_there_are_examples() -> None:
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_an_example_can_be_built(path: Path) -> None:
    recipe = load_recipe(path, environ={})
    refuse_unbuilt(recipe)
    full, least = references(recipe)
    assert least is not None
    assert (least.transport, least.tag) == (full.transport, f"{full.tag}-min")
    assert recipe.outputs


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_an_example_is_completed_by_editors(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
