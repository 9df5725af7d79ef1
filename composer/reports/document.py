"""Reports as JSON, and the schema of it, which is published."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from composer.checks.report import SCHEMA, Report

_SCHEMA: Final = Path(__file__).parent / "report.schema.json"


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `json_text` writes; `$defs/report` is one report."""
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def json_text(reports: Sequence[Report]) -> str:
    """The reports as one JSON object, however many they are."""
    document = {
        "schema": SCHEMA,
        "ok": bool(reports) and all(report.ok for report in reports),
        "reports": [report.to_json() for report in reports],
    }
    return json.dumps(jsonable(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def jsonable(value: object) -> object:
    """A value as JSON can hold it: numbers that are none become texts, and so does what JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(name): jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(one) for one in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
