"""What was checked and what came of it: passed, failed, or not checked and why. Nothing passes by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Outcome = Literal["passed", "failed", "error", "skipped", "unverified"]
"""`failed`: it is not as the recipe says. `error`: the check itself could not be done. `skipped`: there was no reason
to do it. `unverified`: it could not be seen on this machine, and may be wrong elsewhere."""

SCHEMA: Final = 1
"""The version of the report's JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check. `message` is for people; `evidence` holds what it was judged by, as JSON values; time in seconds."""

    id: str
    outcome: Outcome
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether an image with this result may be delivered."""
        return self.outcome not in ("failed", "error")

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "id": self.id,
            "outcome": self.outcome,
            "message": self.message,
            "evidence": dict(self.evidence),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of one proof, in the order in which they came. `server` is what the server called itself."""

    results: Sequence[Result]
    server: str = ""

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing failed. A proof of nothing is none."""
        return any(result.outcome == "passed" for result in self.results) and all(result.ok for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "server": self.server,
            "results": [result.to_json() for result in self.results],
        }
