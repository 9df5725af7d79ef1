"""Check model repositories as the server would: every rule a small function, in a file for each family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from composer.models.configuration import Place
from composer.models.lint import (
    answers,
    batching,
    calls,
    configuration,
    ensembles,
    environments,
    instances,
    layout,
    members,
    onnx,
    other_backends,
    python,
    pytorch,
    sequences,
    server,
    tensorrt,
    tensors,
    warmup,
)
from composer.models.lint.rule import RULES, Case, Finding, Found, Repositories, Rule, Severity
from composer.models.repository import Model, ModelRepository

__all__ = [
    "FAMILIES",
    "RULES",
    "Case",
    "Finding",
    "Repositories",
    "Rule",
    "Severity",
    "lint",
    "passed_over",
    "refusals",
]

FAMILIES: Final = (
    layout,
    configuration,
    tensors,
    batching,
    sequences,
    instances,
    warmup,
    server,
    ensembles,
    members,
    calls,
    python,
    answers,
    environments,
    onnx,
    pytorch,
    tensorrt,
    other_backends,
)
"""Importing a family puts its rules into the table."""

_ORDER: Final = {"error": 0, "warning": 1, "info": 2}

_COMMENT: Final = re.compile(r"#\s*tricompose:\s*ignore\[([A-Z0-9, ]+)\](.*)")


def lint(
    repositories: Sequence[ModelRepository],
    case: Case,
    *,
    ignored: Mapping[str, str] | None = None,
    only: tuple[str, ...] = ("",),
) -> tuple[Finding, ...]:
    """All that rules find, in the order of files and lines. `ignored` are rules to pass over, with the reason why.

    What a comment in config.pbtxt passes over, or `ignored`, is among them, with the reason as `suppressed`. Only rules
    are asked whose ids begin as one of `only` does.
    """
    every = Repositories(all=tuple(repositories))
    rules = [one for one in RULES.values() if one.holds(case) and one.id.startswith(only)]
    found = [*_of_all(rules, every, case)]
    for repository in repositories:
        for model in repository.models:
            found += _suppressed(model, _of_model(rules, model, case))
    reasons = ignored or {}
    marked = (replace(one, suppressed=one.suppressed or reasons.get(one.rule.id)) for one in found)
    return tuple(sorted(marked, key=_position))


def refusals(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The errors among findings that nobody wants passed over."""
    return tuple(one for one in findings if one.severity == "error" and not one.suppressed)


def _position(one: Finding) -> tuple[str, int, int, int, str]:
    place = one.place or Place(line=0, column=0)
    return str(one.path), place.line, place.column, _ORDER[one.severity], one.rule.id


def _of_all(rules: Sequence[Rule], every: Repositories, case: Case) -> Iterator[Finding]:
    for one in rules:
        if one.check_all:
            for found in one.check_all(every, case):
                yield _finding(one, found, _owner(every, found.path))


def _of_model(rules: Sequence[Rule], model: Model, case: Case) -> Iterator[Finding]:
    for one in rules:
        if one.check and (model.configuration.readable or one.unreadable_too):
            for found in one.check(model, case):
                yield _finding(one, found, model.name)


def _owner(every: Repositories, path: Path) -> str | None:
    return next((model.name for model in every.models.values() if path.is_relative_to(model.folder)), None)


def _finding(one: Rule, found: Found, model: str | None) -> Finding:
    words = {"model": model or "", **found.says}
    return Finding(
        rule=one,
        severity=found.severity or one.severity,
        model=model,
        path=found.path,
        place=found.place,
        message=found.message,
        says=re.sub(r"\{(\w+)\}", lambda match: str(words.get(match[1], match[0])), one.says),
        fix=found.fix or one.fix,
        edit=found.edit,
    )


# -- what someone wants passed over ---------------------------------------------------------------


def _suppressed(model: Model, found: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, those that a comment in config.pbtxt passes over with its reason."""
    text = model.configuration.text
    wishes = _wishes(text) if text else {}
    for one in found:
        reason = wishes.get((one.rule.id, one.place.line if one.place else 0)) or wishes.get((one.rule.id, 0))
        yield replace(one, suppressed=reason) if reason and one.rule.id != "CFG040" else one


def passed_over(model: Model) -> Mapping[str, str]:
    """The rules that comments in a model's config.pbtxt pass over, on whatever line, with the reasons."""
    wishes = _wishes(model.configuration.text or "")
    return {name: reason for (name, _), reason in wishes.items() if reason}


def _wishes(text: str) -> Mapping[tuple[str, int], str]:
    """Reasons by rule and line. A comment on a line of its own is for the next; before all fields, for the model."""
    found: dict[tuple[str, int], str] = {}
    begun = False
    for number, line in enumerate(text.split("\n"), 1):
        code, reason = line.partition("#")[0].strip(), ""
        begun = begun or bool(code)
        if match := _COMMENT.search(line):
            reason = match[2].strip()
            target = number if code else number + 1 if begun else 0
            for name in match[1].replace(",", " ").split():
                found[(name, target)] = reason
    return found
