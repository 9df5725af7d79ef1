"""What people and programs read of a proof, word for word. `pytest tests/golden --update-golden` writes it anew."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console as Terminal
from rich.text import Text

from composer import reports
from composer.checks.report import About, Report, Result
from composer.console.proofs import report_text
from tests import proofs

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "reports"


def terminal(report: Report, width: int) -> str:
    out = Terminal(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    for one in report_text(report):
        out.print(one, soft_wrap=isinstance(one, str | Text))
    assert isinstance(out.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in out.file.getvalue().splitlines())


@pytest.mark.parametrize("name", ["on-gpu", "failing", "failing-load"])
def test_a_terminal(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(FOLDER / f"{name}.txt", terminal(proofs.ALL[name](), 100))


def test_a_narrow_terminal(golden: Callable[[Path, str], None]) -> None:
    golden(FOLDER / "failing-load-narrow.txt", terminal(proofs.failing_load(), 50))


def test_markdown(golden: Callable[[Path, str], None]) -> None:
    golden(FOLDER / "failing.md", reports.text_of([proofs.failing()], "markdown"))


def test_junit(golden: Callable[[Path, str], None]) -> None:
    golden(FOLDER / "failing.xml", reports.text_of([proofs.failing()], "junit"))


def recorded() -> Report:
    """What a real build of a small image found, under load, on two cores that had other things to do."""
    found = json.loads((ROOT / "tests/unit/data/report.json").read_text())
    results = [Result(**result) for result in found["results"]]
    return Report(results=results, about=About(**found["about"]), diagnoses=found["diagnoses"], log=found["log"])


def test_the_example_of_the_documentation(golden: Callable[[Path, str], None]) -> None:
    golden(ROOT / "docs/report.html", reports.text_of([recorded()], "html"))
