"""Lint says error exactly where the real server does not serve: held against recorded verdicts, of two releases."""

from __future__ import annotations

import pytest

from .agreement import PAGE, PART, SUMMARY, Judged, enough, judged, report, summary, table
from .server import RELEASES


@pytest.fixture(scope="module")
def found() -> Judged:
    return judged(RELEASES)


@pytest.mark.parametrize("release", RELEASES)
def test_lint_agrees_with_the_server(found: Judged, release: str) -> None:
    corpus, mutations = found[(release, "corpus")], found[(release, "mutations")]
    assert len(corpus) >= 300
    assert enough(corpus, mutated=False), "\n".join(table(corpus))
    assert len(mutations) == 1000
    assert enough(mutations, mutated=True), "\n".join(table(mutations))


def test_nothing_that_is_served_is_called_an_error(found: Judged) -> None:
    served = [one for some in found.values() for one in some if one.record.good]
    assert len(served) > 1000
    assert [one.entry.name for one in served if one.errors] == []


def test_the_pages_say_so(found: Judged) -> None:
    assert PAGE.read_text() == report(found), "python -m tests.judge report"
    part = PART.search(SUMMARY.read_text())
    assert part
    assert part[0] == part[1] + summary(found) + part[2], "python -m tests.judge report"
    shares = [sum(one.agreed for one in some) / len(some) for (_, title), some in found.items() if title == "mutations"]
    readme = (SUMMARY.parents[1] / "README.md").read_text()
    assert f"[all of the first and {100 * min(shares):.1f} % of the second]" in " ".join(readme.split())
