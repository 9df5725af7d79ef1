"""Reports of proofs, kept by what was proved: what is proved again the same way is told in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from composer.checks.report import Report
from composer.disk import room
from composer.oci.image import sha256
from composer.reports import Target
from composer.reports import write as write_report

KEPT: Final = "reports"
"""The folder of the cache that they are kept in."""


def report_of(cache: Path, recipe: bytes, image: str, reports: Mapping[str, Report]) -> bytes:
    """The report of an image, as JSON: the first that was made of it by this recipe, so that bundles stay the same."""
    kept = cache / KEPT / f"{sha256(recipe + image.encode()).removeprefix('sha256:')}.json"
    if not kept.is_file():
        with room(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
        write_report(tuple(reports.values()), Target(kind="json", path=kept))
    return kept.read_bytes()
