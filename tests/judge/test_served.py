"""What validation says of models that the real server serves: nothing, but of those that are odd in some way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from composer.checks.health.silent import Fault, Served, faults
from composer.models.repository import Model, read_repository
from tests.judge.corpus import Entry, entries
from tests.judge.served import recorded

RELEASE: Final = "24.10"
ODD: Final = {
    "batching/dynamic-unbatched": "BAT003",
    "batching/dynamic-unbatched-python": "BAT003",
    "batching/filled-in": "BAT009",
    "io/labels-binary": "IO028",
    "io/labels-bom": "IO028",
    "io/labels-crlf": "IO028",
    "layout/config-capital": "LAY018",
    "layout/config-in-version": "LAY018",
    "layout/config-in-version-python": "LAY018",
    "layout/config-prototxt": "LAY018",
    "layout/config-txt": "LAY018",
    "layout/specific-missing": "CFG031",
    "python/completes-larger-batches": "BAT009",
}
"""The entries of which something is said, and the rule of lint that says the same: but that lint does not run programs,
and one of them asks for larger batches than its config."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Fault]]:
    folder, known = tmp_path_factory.mktemp("served"), recorded(RELEASE)
    served = [entry for entry in entries(RELEASE) if entry.name in known]
    return {entry.name: list(_faults(entry, known[entry.name]["models"], folder / entry.digest)) for entry in served}


def _faults(entry: Entry, configs: dict[str, dict[str, object]], folder: Path) -> Iterator[Fault]:
    local = {model.name: model for path in entry.write(folder) for model in read_repository(path).models}
    for name, config in configs.items():
        yield from faults(Served(name=name, config=config, versions=_versions(local.get(name)), local=local.get(name)))


def _versions(model: Model | None) -> tuple[int, ...]:
    return model.served if model else (1,)


def test_what_was_judged_is_what_is_there() -> None:
    known = recorded(RELEASE)
    there = {entry.name: entry.digest for entry in entries(RELEASE)}
    old = [name for name, one in known.items() if there.get(name) != one["digest"]]
    assert not old, "run: python -m tests.judge.served"
    assert sum(len(one["models"]) for one in known.values()) > 400


def test_nothing_is_said_of_models_that_are_well(said: dict[str, list[Fault]]) -> None:
    spoken = {name: found for name, found in said.items() if found}
    assert {name: [fault.rule for fault in found] for name, found in spoken.items()} == {
        name: [rule] for name, rule in ODD.items()
    }
