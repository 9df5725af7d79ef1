"""Some of the storms that `make storm` goes through a thousand of: see storms.py, and STORMS.md for their outcome."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.faults.storms import FLOWS, KILL, READING, WRITING, Passed, Sea, drawn, sea, weather

pytestmark = pytest.mark.registry

NUMBERS = range(32)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sea]:
    require("docker-registry")
    with sea(tmp_path_factory.mktemp("sea")) as made:
        yield made


@pytest.fixture(scope="module")
def passed() -> list[Passed]:
    return []


@pytest.mark.parametrize("number", NUMBERS)
def test_a_storm(where: Sea, tmp_path: Path, passed: list[Passed], number: int) -> None:
    passed.append(weather(drawn(number, where.images), where, tmp_path / "storm"))
    assert not passed[-1].wrong, passed[-1]


def test_little_moved_twice(passed: list[Passed]) -> None:
    """Where less is possible: what the registry's ways cost, or a blob that came wrong, is told in STORMS.md.

    Of a thousand it is less than a twentieth; a few of them scatter more.
    """
    counted = [one for one in passed if not one.apart]
    assert len(counted) > len(NUMBERS) / 3
    assert sum(one.twice for one in counted) <= 0.1 * sum(one.needed for one in counted)


def test_they_are_of_all_kinds(where: Sea) -> None:
    """A thousand have every flow, every fault and every registry in them; the same number is the same storm."""
    thousand = [drawn(number, where.images) for number in range(1000)]
    assert {storm.flow for storm in thousand} == set(FLOWS)
    assert {storm.target for storm in thousand} == set(where.targets)
    assert {fault for storm in thousand for fault in storm.faults} == {*READING, *WRITING, KILL}
    assert drawn(7, where.images).faults == thousand[7].faults
