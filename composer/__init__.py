"""tricompose: slim NVIDIA Triton Inference Server images from a recipe.

    import os
    from pathlib import Path
    import composer

    recipe = composer.load_recipe(Path("recipe.yaml"), environ=os.environ)
    place = composer.Workplace.from_environment(os.environ, home=Path.home(), recipe=recipe)
    outcome = composer.build(recipe, place, outputs=[composer.parse_reference("oci:slim:1")], how=composer.Proving())

Names are imported when they are first used, so that `import composer` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer.checks import Report
    from composer.errors import TricomposeError
    from composer.moving import copy, inspect
    from composer.oci.image import Platform
    from composer.oci.names import Reference, parse_reference
    from composer.pipeline import Outcome, build, validate, write_dockerfile
    from composer.pipeline import plan as plans
    from composer.plan import Plan
    from composer.recipe import Recipe, load_recipe
    from composer.with_server import Proving
    from composer.workplace import Workplace

__all__ = [
    "Outcome",
    "Plan",
    "Platform",
    "Proving",
    "Recipe",
    "Reference",
    "Report",
    "TricomposeError",
    "Workplace",
    "build",
    "copy",
    "inspect",
    "load_recipe",
    "parse_reference",
    "plans",
    "validate",
    "write_dockerfile",
]

_HOMES = {
    "Outcome": "composer.pipeline",
    "Plan": "composer.plan",
    "Platform": "composer.oci.image",
    "Proving": "composer.with_server",
    "Recipe": "composer.recipe",
    "Reference": "composer.oci.names",
    "Report": "composer.checks",
    "TricomposeError": "composer.errors",
    "Workplace": "composer.workplace",
    "build": "composer.pipeline",
    "copy": "composer.moving",
    "inspect": "composer.moving",
    "load_recipe": "composer.recipe",
    "parse_reference": "composer.oci.names",
    "plans": "composer.pipeline",
    "validate": "composer.pipeline",
    "write_dockerfile": "composer.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'composer' has no attribute {name!r}")
    # `plan` is a module here, so the function has another name.
    return getattr(import_module(_HOMES[name]), "plan" if name == "plans" else name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
