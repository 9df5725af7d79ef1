"""The part of the story that models play: read where they lie, fetched, and checked before a layer moves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from composer.errors import Problem, RecipeError
from composer.events import Emit, Logged, Warned
from composer.inventory import Inventory
from composer.models.bringing import bring
from composer.models.lint import Finding, lint, refusals
from composer.models.lint.case import case_of, ignored_by, repositories_of
from composer.models.needs import programs
from composer.models.repository import ModelRepository, is_left_out
from composer.models.sources.way import Way
from composer.oci.layout import LayoutStore
from composer.oci.tree import Tree
from composer.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Model repositories, and what lint finds in them."""

    repositories: tuple[ModelRepository, ...]
    findings: tuple[Finding, ...]


def read_models(recipe: Recipe) -> Checked:
    """The repositories that lie on this machine.

    Raises `RecipeError` for what the server would refuse in them, so that nothing is fetched, converted or asked of a
    registry before. What names other models is judged later, where some are still to be fetched or converted.
    """
    checked = _checked(recipe, repositories_of(recipe))
    later = NAMING if any(model.path is None for model in recipe.models) else ()
    _refuse(one for one in checked.findings if not one.rule.id.startswith(later))
    return checked


NAMING: Final = ("ENS", "SRV")
"""The rules that look for models by their names begin so: steps of ensembles, calls of programs, `load-model`."""


def fetch_models(recipe: Recipe, cache: Path, way: Way) -> tuple[ModelRepository, ...]:
    """The repositories of the models that a recipe names by their source, fetched into the folder of a cache."""
    if not any(model.source for model in recipe.models):
        return ()
    LayoutStore.ensure(cache).close()
    return bring(recipe, into=cache / "models", way=way)


def check_models(recipe: Recipe, own: Checked, more: Sequence[ModelRepository], emit: Emit) -> Checked:
    """All models together. Raises `RecipeError` for what the server would refuse; says what else there is to say."""
    checked = _checked(recipe, (*own.repositories, *more)) if more else own
    _refuse(checked.findings)
    _warn(checked.findings, emit)
    for repository in checked.repositories:
        _tell_left_out(repository, emit)
    return checked


def check_imports(
    recipe: Recipe, repositories: Sequence[ModelRepository], inventory: Inventory, added: Iterable[str], emit: Emit
) -> None:
    """What Python models import, and the image lacks, now that it is known what that has. `added` are paths of files.

    Raises `RecipeError` where a model would not load, if every layer is known; else it is only said.
    """
    if not any(programs(model) for repository in repositories for model in repository.models):
        return
    tree = inventory.tree()
    whole = not inventory.unread() and not recipe.steps and not recipe.packages.apt
    case = replace(case_of(recipe), modules=_modules([*_packages(tree), *added]), all_packages=whole)
    missing = lint(repositories, case, ignored=ignored_by(recipe), only=(IMPORTS,))
    _refuse(missing)
    _warn(missing, emit)


IMPORTS: Final = "PY006"
"""The rule of what Python models import."""

_PACKAGES: Final = re.compile(r"(?:.+/)?lib/python3(?:\.[0-9]+)?/(?:site|dist)-packages/([^/]+)(?:/.*)?")


def _packages(tree: Tree) -> Iterator[str]:
    """The paths of what lies in folders that Python looks for packages in."""
    for root in ("usr/lib", "usr/local/lib"):
        for name in tree.children(root):
            for kind in ("dist-packages", "site-packages"):
                folder = f"{root}/{name}/{kind}"
                if name.startswith("python3"):
                    yield from (f"{folder}/{one}" for one in tree.children(tree.resolve(folder)))


def _modules(paths: Iterable[str]) -> frozenset[str]:
    """The modules that files and folders at these paths make, by the first part of their names."""
    names = (match[1] for path in paths if (match := _PACKAGES.fullmatch(path)))
    return frozenset(name.partition(".")[0] for name in names if not name.endswith((".dist-info", ".egg-info")))


def _checked(recipe: Recipe, repositories: Sequence[ModelRepository]) -> Checked:
    # Which backends there are is for the plan to say, which sees the image; and what its Python can import.
    case = replace(case_of(recipe), backends=None)
    found = lint(repositories, case, ignored=ignored_by(recipe))
    seen = tuple(one for one in found if one.rule.id != IMPORTS or recipe.engine == "dockerfile")
    return Checked(repositories=tuple(repositories), findings=seen)


def _warn(findings: Iterable[Finding], emit: Emit) -> None:
    for one in findings:
        if one.severity == "warning" and not one.suppressed:
            problem = _problem(one)
            emit(Warned(message=f"{problem.where}: {problem.message}", hint=problem.hint))


def _refuse(findings: Iterable[Finding]) -> None:
    if refused := refusals(findings):
        raise RecipeError([_problem(one) for one in refused])


def _problem(one: Finding) -> Problem:
    place = f":{one.place.line}:{one.place.column}" if one.place else ""
    return Problem(where=f"{one.path}{place}", message=f"{one.message} [{one.rule.id}]", hint=one.fix)


def _tell_left_out(repository: ModelRepository, emit: Emit) -> None:
    inner = [
        f"{model.name}/{entry.path}"
        for model in repository.models
        for entry in model.entries
        if is_left_out(entry.name) and not any(map(is_left_out, entry.folder.split("/")))
    ]
    names = [*(entry.path for entry in repository.left_out), *inner]
    if names:
        more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        told = ", ".join(names[:_TOLD])
        emit(Logged(text=f"left out of {repository.path}: {told}{more}", source="models"))


_TOLD: Final = 5
"""As many are named; of the others only how many there are."""
