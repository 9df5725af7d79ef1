"""Rules of lint, family by family: for each a model in which it finds one thing, and one in which it finds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from composer.models.lint import Case, Finding, lint
from composer.models.repository import read_repository

MARK = "^"
"""Stands in a config before the place at which something is to be found."""

PLAIN = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
"""A model.py that fills in nothing."""

FILLING = PLAIN + "    @staticmethod\n    def auto_complete_config(config):\n        return fill(config)\n"
"""A model.py that may fill in anything."""

Files = Mapping[str, str | bytes | None]
"""What lies in a model's folder, by path; None is a folder."""


def model(folder: Path, config: str | None, files: Files | None = None, case: Case | None = None) -> list[Finding]:
    """What lint finds in a repository with one model, `m`. Without `files` it is a Python model."""
    place = folder / "m"
    place.mkdir()
    if config is not None:
        (place / "config.pbtxt").write_text(config)
    for path, content in ({"1/model.py": PLAIN} if files is None else files).items():
        write(place / path, content)
    return list(lint([read_repository(folder)], case or Case()))


def write(path: Path, content: str | bytes | None) -> None:
    """Write a file, or make a folder."""
    (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def unmarked(config: str) -> tuple[str, tuple[int, int]]:
    """A config without its mark, and the line and column, from 1, where that stood."""
    before, mark, after = config.partition(MARK)
    assert mark, "the config has no mark"
    return before + after, (before.count("\n") + 1, len(before) - before.rfind("\n"))


def assert_finds(folder: Path, rule: str, config: str, files: Files | None = None, case: Case | None = None) -> Finding:
    """Lint finds this once, in the place that is marked, and no other error. Returns the finding."""
    text, place = unmarked(config)
    found = model(folder, text, files, case)
    own = [one for one in found if one.rule.id == rule]
    assert [(one.place.line, one.place.column) if one.place else None for one in own] == [place], found
    others = [f"{one.rule.id}: {one.message}" for one in found if one.severity == "error" and one.rule.id != rule]
    assert not others
    assert own[0].message
    assert own[0].fix
    assert "{" not in own[0].says.replace("{ ", ""), f"words were left out: {own[0].says}"
    return own[0]


def assert_silent(folder: Path, rule: str, config: str, files: Files | None = None, case: Case | None = None) -> None:
    """Lint does not find this, and no error."""
    found = model(folder, config, files, case)
    assert not [f"{one.rule.id}: {one.message}" for one in found if one.rule.id == rule or one.severity == "error"]


def assert_finds_at(
    folder: Path, rule: str, path: str, config: str | None, files: Files, case: Case | None = None
) -> Finding:
    """Lint finds this once, of a file or folder of the model, and no other error. Returns the finding."""
    found = model(folder, config, files, case)
    own = [one for one in found if one.rule.id == rule]
    assert [one.path for one in own] == [folder / "m" / path], found
    assert own[0].place is None
    others = [f"{one.rule.id}: {one.message}" for one in found if one.severity == "error" and one.rule.id != rule]
    assert not others
    assert own[0].message
    assert own[0].fix
    return own[0]
