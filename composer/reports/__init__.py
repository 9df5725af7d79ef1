"""Reports as files: JSON, JUnit XML, Markdown, and one HTML page that needs nothing else."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from composer.checks.report import Report
from composer.disk import room
from composer.errors import NotFound
from composer.reports.document import json_text, report_schema
from composer.reports.junit import junit_text
from composer.reports.markdown import markdown_text

__all__ = ["KINDS", "Kind", "Target", "report_schema", "target", "text_of", "write", "write_all"]

Kind = Literal["json", "junit", "markdown", "html"]


def _page(reports: Sequence[Report]) -> str:
    from composer.reports.page import page_text

    return page_text(reports)


KINDS: Final[Mapping[Kind, Callable[[Sequence[Report]], str]]] = {
    "json": json_text,
    "junit": junit_text,
    "markdown": markdown_text,
    "html": _page,
}
"""Every kind of report, and what writes it."""

_SUFFIXES: Final[Mapping[str, Kind]] = {
    "json": "json",
    "xml": "junit",
    "md": "markdown",
    "markdown": "markdown",
    "html": "html",
    "htm": "html",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A file that a report is to be written to."""

    kind: Kind
    path: Path


def target(text: str) -> Target:
    """What `KIND=PATH` means, or a `PATH` whose suffix says the kind.

    Raises `NotFound` where there is no such kind or folder, so that it is known before anything is started.
    """
    name, _, rest = text.partition("=")
    named = bool(rest) and name.isalpha()
    path = Path(rest if named else text)
    kind = _kind(name if named else path.suffix.removeprefix("."))
    if kind is None:
        hint = f"one of: {', '.join(f'{kind}={path}' for kind in KINDS)}"
        what = f"there is no kind of report {name!r}" if named else f"{text} does not say what kind of report it is"
        raise NotFound(what, hint=hint)
    _require_folder(path)
    return Target(kind=kind, path=path)


def _kind(name: str) -> Kind | None:
    known: dict[str, Kind] = {**{kind: kind for kind in KINDS}, **_SUFFIXES}
    return known.get(name.lower())


def _require_folder(path: Path) -> None:
    if path.is_dir():
        raise NotFound(f"{path} is a folder, and a report is a file", hint=f"name a file in it: {path / 'report.html'}")
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent} for the report", hint=f"mkdir -p {path.parent}")


def text_of(reports: Sequence[Report], kind: Kind) -> str:
    """The reports, in the order given, as one text of that kind."""
    return KINDS[kind](reports)


def write(reports: Sequence[Report], to: Target) -> None:
    """Write the reports at once, in place of what was there. Nothing is left half-written.

    Raises `NoRoom` where nothing can be written, and `NotFound` where the folder has gone.
    """
    # A text may hold halves of letters, which came from a server: JSON can write them so, and no other kind has them.
    data = text_of(reports, to.kind).encode("utf-8", "backslashreplace")
    _require_folder(to.path)
    with room(to.path):
        if to.path.exists() and not to.path.is_file():
            to.path.write_bytes(data)  # a pipe or a terminal stays what it is
        else:
            _replace(Path(os.path.realpath(to.path)), data)


def write_all(reports: Iterable[Report], to: Sequence[Target]) -> None:
    """Write the reports to each of some files. Where there are no reports there is nothing to write."""
    if found := tuple(reports):
        for one in to:
            write(found, one)


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name[:50]}-{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o7777)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
