"""What `models lint` found: for people with the line and a caret below the spot, for programs in five formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as Xml

from rich.console import RenderableType
from rich.text import Text

from composer import words
from composer.console.tables import table
from composer.models.lint import RULES, Finding, Rule
from composer.models.repository import Model

_COLOURS: Final = {"error": "bold red", "warning": "bold yellow", "info": "bold blue"}


def count_of(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning`; `nothing` where there is nothing."""
    numbers = {one: sum(f.severity == one and not f.suppressed for f in findings) for one in _COLOURS}
    told = [words.count(number, "note" if name == "info" else name) for name, number in numbers.items() if number]
    hushed = sum(bool(one.suppressed) for one in findings)
    return ", ".join(told + ([f"{hushed} passed over"] if hushed else [])) or "nothing to complain of"


# -- for people -----------------------------------------------------------------------------------


def findings_text(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """Each finding: where, what, the line, what the server would say, what to do."""
    for one in findings:
        if not one.suppressed:
            yield from _finding_text(one)
            yield Text()


def _finding_text(one: Finding) -> Iterator[Text]:
    head = (one.severity, _COLOURS[one.severity]), (f"[{one.rule.id}] ", "bold")
    yield Text.assemble(_line_of(f"{_where(one)}: "), *head, _line_of(one.message))
    yield from _excerpt(one)
    if one.says:
        yield Text.assemble(("  Triton: ", "dim"), (_line_of(one.says), "dim"))
    yield Text.assemble(("  fix: ", "bold"), _line_of(one.fix) + ("   (--fix does it)" if one.edit else ""))


def _line_of(text: str) -> str:
    """A text as one line, without what a terminal would obey: names of files and values may hold anything."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _where(one: Finding) -> str:
    place = f":{one.place.line}:{one.place.column}" if one.place else ""
    return f"{one.path}{place}"


def _excerpt(one: Finding) -> Iterator[Text]:
    """The line that a finding is about, and carets below the spot."""
    line = _line(one.path, one.place.line) if one.place else None
    if one.place is None or line is None:
        return
    start = one.place.column - 1
    shown, offset = _window(line, start)
    yield Text(f"    {shown}")
    length = max(1, min(one.place.length, len(shown) - (start - offset)))
    yield Text.assemble("    " + " " * (start - offset), ("^" * length, _COLOURS[one.severity]))


_WIDE: Final = 100


def _window(line: str, start: int) -> tuple[str, int]:
    """As much of a line as can be shown, and where that begins. What a terminal would obey is shown as a dot."""
    offset = max(0, start - _WIDE // 2) if len(line) > _WIDE else 0
    shown = line[offset : offset + _WIDE]
    return "".join(each if each.isprintable() else " " if each == "\t" else "." for each in shown), offset


def _line(path: Path, number: int) -> str | None:
    try:
        with path.open("rb") as file:
            text = file.read(8 << 20).decode("utf-8", "replace")
    except OSError:
        return None
    lines = text.split("\n")
    return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else None


def rule_text(rule: Rule) -> Iterator[RenderableType]:
    """A rule at length."""
    yield Text.assemble((f"{rule.id} ", "bold"), (rule.severity, _COLOURS[rule.severity]), f"  {rule.title}")
    if rule.says:
        yield Text(f"\nTriton says: {rule.says}")
    yield Text(f"\nfix: {rule.fix}\nsource: {rule.source}")
    if rule.since or rule.until:
        yield Text(f"holds for: {rule.since or 'the first release'} to {rule.until or 'the last'}")


def rules_text(rules: Sequence[Rule]) -> RenderableType:
    """A table of rules."""
    made = table("RULE", "SEVERITY", "RELEASES", "WHAT IT IS ABOUT")
    for one in rules:
        since, until = one.since or "", one.until or ""
        span = (
            f"{since} to {until}" if since and until else f"from {since}" if since else f"to {until}" if until else ""
        )
        made.add_row(one.id, Text(one.severity, style=_COLOURS[one.severity]), span, Text(one.title))
    return made


def models_text(models: Sequence[Model]) -> RenderableType:
    """A table of models."""
    made = table("MODEL", "BACKEND", "VERSIONS", "SERVED", "BATCH", "SIZE", numbers=("SIZE", "BATCH"))
    for one in models:
        backend = "(ensemble)" if one.is_ensemble else one.backend or "?"
        versions = ", ".join(map(str, one.versions)) or "none"
        served = ", ".join(map(str, one.served)) or "none"
        row = (one.name, backend, versions, served, str(one.max_batch_size), words.size(one.size))
        made.add_row(*(Text(_line_of(cell)) for cell in row))
    return made


# -- for programs ---------------------------------------------------------------------------------


def finding_json(one: Finding) -> dict[str, Any]:
    """A finding as a JSON object."""
    return {
        "rule": one.rule.id,
        "severity": one.severity,
        "model": one.model,
        "path": str(one.path),
        "line": one.place.line if one.place else None,
        "column": one.place.column if one.place else None,
        "message": one.message,
        "triton": one.says or None,
        "fix": one.fix,
        "fixable": one.edit is not None,
        "suppressed": one.suppressed,
    }


def model_json(one: Model) -> dict[str, Any]:
    """A model as a JSON object. `size` is in bytes."""
    return {
        "name": one.name,
        "path": str(one.folder),
        "backend": one.backend,
        "ensemble": one.is_ensemble,
        "members": list(one.members),
        "configured": one.configured,
        "versions": list(one.versions),
        "served": list(one.served),
        "max_batch_size": one.max_batch_size,
        "size": one.size,
    }


def rule_json(rule: Rule) -> dict[str, Any]:
    """A rule as a JSON object."""
    return {
        "id": rule.id,
        "severity": rule.severity,
        "title": rule.title,
        "triton": rule.says or None,
        "fix": rule.fix,
        "source": rule.source,
        "since": rule.since,
        "until": rule.until,
    }


def sarif(findings: Sequence[Finding], *, version: str) -> str:
    """SARIF 2.1.0, as code hosts take it. Source: OASIS, Static Analysis Results Interchange Format."""
    driver = {
        "name": "tricompose",
        "version": version,
        "rules": [_sarif_rule(RULES[name]) for name in sorted({one.rule.id for one in findings})],
    }
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_sarif_result(one) for one in findings]}],
    }
    return json.dumps(log, indent=2) + "\n"


_LEVELS: Final = {"error": "error", "warning": "warning", "info": "note"}


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "help": {"text": f"{rule.fix}\n\nTriton says: {rule.says}" if rule.says else rule.fix},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _sarif_result(one: Finding) -> dict[str, Any]:
    location: dict[str, Any] = {"artifactLocation": {"uri": _uri(one.path)}}
    if one.place:
        start = {"startLine": one.place.line, "startColumn": one.place.column}
        location["region"] = {**start, "endColumn": one.place.column + one.place.length}
    result = {
        "ruleId": one.rule.id,
        "level": _LEVELS[one.severity],
        "message": {"text": f"{one.message}. Fix: {one.fix}"},
        "locations": [{"physicalLocation": location}],
    }
    if one.suppressed:
        result["suppressions"] = [{"kind": "inSource", "justification": one.suppressed}]
    return result


def _uri(path: Path) -> str:
    """The path as an address: relative ones stay so, which is what code hosts look for."""
    from urllib.parse import quote

    return quote(bytes(path)) if not path.is_absolute() else path.as_uri()


def junit(findings: Sequence[Finding], models: Sequence[str]) -> str:
    """JUnit's XML: a test for each model, and what is wrong with it as its failures."""
    of: Mapping[str | None, list[Finding]] = {name: [] for name in (*models, None)}
    for one in findings:
        if not one.suppressed:
            of.get(one.model, of[None]).append(one)
    failed = sum(any(one.severity == "error" for one in some) for some in of.values())
    suite = Xml.Element("testsuite", name="tricompose models lint", tests=str(len(of)), failures=str(failed))
    for name, some in of.items():
        _junit_case(suite, name or "(repository)", some)
    Xml.indent(suite)
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _junit_case(suite: Xml.Element, name: str, some: Sequence[Finding]) -> None:
    case = Xml.SubElement(suite, "testcase", classname="models", name=_clean(name))
    told = "\n".join(_clean(f"{_where(one)}: {one.severity}[{one.rule.id}] {one.message}") for one in some)
    if errors := [one for one in some if one.severity == "error"]:
        failure = Xml.SubElement(case, "failure", message=_clean(errors[0].message), type=errors[0].rule.id)
        failure.text = told
    elif some:
        Xml.SubElement(case, "system-out").text = told


def _clean(text: str) -> str:
    """The text without what XML cannot hold, nor a terminal should see."""
    return "".join(each if each in "\t\n\r" or each.isprintable() else "?" for each in text)


def github(findings: Sequence[Finding]) -> str:
    """Commands that GitHub Actions turn into annotations. Source: docs.github.com, workflow commands."""
    return "".join(f"{_annotation(one)}\n" for one in findings if not one.suppressed)


def _annotation(one: Finding) -> str:
    level = {"error": "error", "warning": "warning", "info": "notice"}[one.severity]
    about = {"file": str(one.path), "title": one.rule.id}
    if one.place:
        about |= {"line": str(one.place.line), "col": str(one.place.column)}
    properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in about.items())
    return f"::{level} {properties}::{_escaped(f'{one.message}. Fix: {one.fix}', '')}"


def _escaped(text: str, more: str) -> str:
    return "".join(f"%{ord(each):02X}" if each in "%\r\n" + more else each for each in _clean(text))
