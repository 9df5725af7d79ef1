"""What it means in the user's words when uv has no answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import unquote, urlsplit

from composer.errors import BuildFailed, Denied, Problem, RecipeError, TricomposeError, Unreachable
from composer.recipe import Recipe
from composer.wheels.asking import Question, Unanswered
from composer.wheels.sources import Sources, without_login
from composer.wheels.target import Target

LOGIN: Final = "a login in ~/.netrc, or in pip's index-url: https://NAME:PASSWORD@HOST/simple"
"""What to do where an index wants to know who asks."""

_DENIED: Final = re.compile(r"\b40[13] (Unauthorized|Forbidden)|lack of valid authentication")
_UNREACHED: Final = re.compile(r"Failed to fetch|Request failed|error sending request|Could not connect")
_ABSENT: Final = re.compile(r"([\w.-]+) was not found in the (?:package registry|provided)")
_LAST_LINES: Final = 12


def failure(recipe: Recipe, question: Question, error: Unanswered, again: Callable[[Question], str]) -> TricomposeError:
    """The error for the user. `again` asks a question once more, and raises `Unanswered`."""
    sources = question.sources
    told = _plain(error.told, sources)
    if denying := _denying(question, told, again):
        return Denied(f"the package index did not let us in: {denying}", hint=LOGIN)
    if "No solution found" in told:
        return RecipeError([_unsolved(recipe, question, told)])
    if error.unreached:
        host, first = next(iter(error.unreached.items()))
        return Unreachable(f"the packages could not be looked up at {host}: {first.message}", hint=first.hint)
    if _UNREACHED.search(told):
        reason = told.rpartition("cause: ")[2].strip().replace("\n", " ")
        hint = "network: {pip_index: https://..., proxy: {https: ...}, ca_bundle: ...}"
        return Unreachable(f"the packages could not be looked up at {_shown(sources)}: {reason}", hint=hint)
    lines = told.strip().splitlines()[-_LAST_LINES:]
    return BuildFailed(f"the packages could not be resolved: {' '.join(lines)}", detail=lines)


def _shown(sources: Sources) -> str:
    return ", ".join(sources.public) or "no index"


def _plain(told: str, sources: Sources) -> str:
    """uv's words without logins, and without the warnings before."""
    for url in (*sources.indexes, *sources.find_links):
        parts = urlsplit(url)
        for secret in (parts.password, unquote(parts.password or "")):
            told = told.replace(secret, "****") if secret else told
    return told[told.find("error: ") :] if "error: " in told else told


def _denying(question: Question, told: str, again: Callable[[Question], str]) -> str | None:
    """The index that wants a login, if it is that. Where several are asked at once, uv keeps it to itself."""
    indexes = question.sources.indexes
    if _DENIED.search(told):
        return ", ".join(map(without_login, indexes))
    if len(indexes) > 1 and _ABSENT.search(told):
        return next((without_login(index) for index in indexes if _denies(question, index, again)), None)
    return None


def _denies(question: Question, index: str, again: Callable[[Question], str]) -> bool:
    try:
        again(replace(question, sources=replace(question.sources, indexes=(index,))))
    except Unanswered as error:
        return _DENIED.search(error.told) is not None
    return False


def _unsolved(recipe: Recipe, question: Question, told: str) -> Problem:
    causes, _, _ = told.partition("\n\nhint:")
    reason = " ".join(causes.partition("cause: ")[2].split())
    reason = reason.removesuffix(", we can conclude that your requirements are unsatisfiable.")
    culprit = next((one for one in question.requirements.wanted if _mentions(reason, one.name)), None)
    return Problem(
        where=culprit.where if culprit else recipe.where("packages", "pip", key=True),
        message=f"for {question.target} this cannot be met: {reason}",
        hint=_way_out(reason, question.target, question.sources),
    )


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text) is not None


def _way_out(reason: str, target: Target, sources: Sources) -> str:
    if found := re.search(r"([\w.-]+?)(==[^\s,]+)? has no (?:usable )?wheels", reason):
        name = found[1] + (found[2] or "")
        return f"build one where Python is {target.python}: pip wheel --no-deps {name}   (then name the .whl)"
    held = [f"{name}=={text}" for name, text in sorted(target.installed.items()) if f"{name}=={text}" in reason]
    if held:
        return f"the image has {', '.join(held)}, which must stay as it is: pin what goes with it"
    if found := _ABSENT.search(reason):
        return f"check the spelling of {found[1]}; the packages came from {_shown(sources)}"
    return "ask for other versions"
