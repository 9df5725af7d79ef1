"""Goldens: a directory is a test. `pytest tests/golden --update-golden` writes what is expected anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the expected files of the golden tests anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare a text with the file that holds what is expected, or write it there with `--update-golden`."""

    def compare(expected: Path, text: str) -> None:
        if request.config.getoption("--update-golden", default=False):
            expected.write_text(text)
        assert expected.exists(), f"no {expected.name}: run pytest tests/golden --update-golden, and read what it wrote"
        assert text == expected.read_text()

    return compare
