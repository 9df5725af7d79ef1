"""What looks at this machine are given: the recipes, where things are kept, and what the visits have found before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from composer.doctor.remedies import Remedies
from composer.doctor.visit import Visit
from composer.pipeline import needs_docker
from composer.recipe import Recipe
from composer.workplace import Workplace


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """This machine, and what it is to do. Without recipes it is looked at as it is."""

    recipes: Sequence[Recipe]
    place: Workplace
    remedies: Remedies
    visits: Sequence[Visit] = field(default_factory=tuple)

    @property
    def builds_in_docker(self) -> bool:
        """Whether a recipe cannot be built, or not be delivered, without a Docker Engine."""
        outputs = [output.transport for recipe in self.recipes for output in recipe.outputs]
        return "docker-daemon" in outputs or any(map(needs_docker, self.recipes))

    @property
    def proves(self) -> bool:
        """Whether a server is started."""
        return any(recipe.validation is not None for recipe in self.recipes)
