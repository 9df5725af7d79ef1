"""Bad recipes in, the problems they have out: every message, hint, line and column that people will see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from composer.errors import Problem, RecipeError
from composer.recipe import load_recipe, refuse_unbuilt

CASES = sorted(path.parent for path in Path(__file__).parent.glob("recipes/*/recipe.yaml"))
ENVIRON = {"REGISTRY": "harbor.example.com", "EMPTY": "", "TRICKY": "${REGISTRY} $$ {"}


def shown(problem: Problem) -> str:
    hint = f"    hint: {problem.hint}\n" if problem.hint else ""
    return f"{problem.where}: {problem.message}\n{hint}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_problems(case: Path, golden: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    with pytest.raises(RecipeError) as caught:
        refuse_unbuilt(load_recipe(Path("recipe.yaml"), environ=ENVIRON))
    golden(case / "problems.txt", "".join(shown(problem) for problem in caught.value.problems))


def test_there_are_cases() -> None:
    assert len(CASES) > 20
