"""Whether an image gives a secret away: in a file of any layer, a variable, a label, its command or its history.

A file that a later layer removes or replaces is still in the layer that has it. No secret is ever part of what is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from composer import words
from composer.checks.image import secrets
from composer.checks.image.problem import Problem, result
from composer.checks.image.subject import Still, shown
from composer.checks.report import Result

_ROTATE: Final = "whoever has the image has it: revoke it; "


def exposed(still: Still) -> Result:
    """All layers, and all that the config says."""
    problems = [
        *_in_layers(still),
        *_in_variables(still),
        *_in_labels(still),
        *_in_commands(still),
        *_in_history(still),
    ]
    good = (
        f"no key, token or password in {words.count(len(still.layers), 'layer')}, nor in what the image says of itself"
    )
    return result("secrets", good, problems, layers=len(still.layers))


def _in_layers(still: Still) -> Iterator[Problem]:
    for number, layer in enumerate(still.layers):
        for leak in layer.notes.leaks:
            if f"/{leak.path}" in still.known_secrets:
                continue
            where = f"{shown(leak.path)}, line {leak.line}, of layer {number + 1} ({words.short(layer.digest)})"
            gone = _gone(still, number, leak.path)
            still_there = ": a later layer hides it, and it is in the image all the same" if gone else ""
            message = f"{leak.what} in {where}{still_there}"
            hint = "leave it out of files: or models:" if not gone else "build without it, rather than remove it later"
            known = f"if it is known to be none: expect: {{image: {{known_secrets: [/{leak.path}]}}}}"
            yield Problem(message=message, hint=f"{_ROTATE}{hint}; tokens for a build: docker build --secret; {known}")


def _gone(still: Still, number: int, path: str) -> bool:
    """Whether a container does not see the file of a layer any more."""
    return still.origin(path) != (number, path)


def _in_variables(still: Still) -> Iterator[Problem]:
    for line in still.settings.get("Env") or ():
        name, _, value = str(line).partition("=")
        if what := _of_pair(name, value):
            hint = f"{_ROTATE}give it when the server starts: run: {{env: {{{name}: ...}}}}"
            yield Problem(message=f"{what} in the variable {name}", hint=hint)


def _of_pair(name: str, value: str) -> str | None:
    return next(secrets.told_by_text(value), None) or secrets.told_by_name(name, value)


def _in_labels(still: Still) -> Iterator[Problem]:
    for name, value in (still.settings.get("Labels") or {}).items():
        for what in secrets.told_by_text(str(value)):
            yield Problem(message=f"{what} in the label {name}", hint=f"{_ROTATE}leave it out of labels:")


def _in_commands(still: Still) -> Iterator[Problem]:
    health = still.settings.get("Healthcheck") or {}
    for name, said in (
        ("entrypoint", still.settings.get("Entrypoint")),
        ("command", still.settings.get("Cmd")),
        ("healthcheck", health.get("Test") if isinstance(health, dict) else None),
    ):
        for what in secrets.told_by_text(" ".join(_strings(said))):
            yield Problem(message=f"{what} in the {name}", hint=f"{_ROTATE}have the program read it from a file")


def _strings(said: Any) -> Sequence[str]:  # noqa: ANN401
    return [str(one) for one in said] if isinstance(said, list) else []


def _in_history(still: Still) -> Iterator[Problem]:
    for number, entry in enumerate(still.image.config.get("history") or ()):
        if not isinstance(entry, dict):
            continue
        for key in ("created_by", "comment"):
            yield from _in_line(still, number, str(entry.get(key) or ""))


def _in_line(still: Still, number: int, text: str) -> Iterator[Problem]:
    """A step of a build, with the arguments that it was given. Variables that the image still has are told already."""
    found = dict.fromkeys(secrets.told_by_text(text))
    for name, value in secrets.assignments(text).items():
        what = secrets.told_by_name(name, value) if still.env.get(name) != value else None
        found |= {f"{what} ({name})": None} if what else {}
    for what in found:
        hint = f"{_ROTATE}build arguments are kept in the history: docker build --secret"
        yield Problem(message=f"{what} in step {number + 1} of the history", hint=hint)
