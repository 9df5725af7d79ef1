"""What was checked and what came of it: passed, failed, or not checked and why. Nothing passes by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Outcome = Literal["passed", "failed", "error", "skipped", "unverified"]
"""`failed`: it is not as the recipe says. `error`: the check itself could not be done. `skipped`: there was no reason
to do it. `unverified`: it could not be seen on this machine, and may be wrong elsewhere."""

Kind = Literal["image", "health", "logs", "inference", "gpu", "load"]
"""What a check looks at, in the order in which they run."""

SCHEMA: Final = 2
"""The version of the report's JSON. 2: `kind` and `hint` of a result, what was checked, and the diagnoses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check. `message` is for people, `hint` says what to do where that is known; `evidence` holds what it was
    judged by, as JSON values; time in seconds."""

    id: str
    kind: Kind
    outcome: Outcome
    message: str
    hint: str = ""
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
            "kind": self.kind,
            "outcome": self.outcome,
            "message": self.message,
            "hint": self.hint,
            "evidence": dict(self.evidence),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What was checked, by whom and when. What is not known is empty.

    `image` is its name, `digest` that of its manifest, `size` its compressed bytes, `parts` those of its layers by what
    they hold; `models` are digests by name (see `goldens`); `server` and `engine` are what these call themselves;
    `started` is UTC as RFC 3339 writes it, `seconds` how long all of it took.
    """

    tool: str = ""
    name: str = ""
    image: str = ""
    digest: str = ""
    size: int = 0
    upstream_size: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    platform: str = ""
    release: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    server: str = ""
    runner: str = ""
    engine: str = ""
    started: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of one proof, in the order in which they came, and what they are of.

    `diagnoses` say why, where something failed: JSON objects as `composer.diagnosis` makes them. `log` holds the
    server's last lines where it matters.
    """

    results: Sequence[Result]
    about: About = About()
    diagnoses: Sequence[Mapping[str, Any]] = ()
    log: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing failed. A proof of nothing is none."""
        return any(result.outcome == "passed" for result in self.results) and all(result.ok for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object; `reports/report.schema.json` says what is in it."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "about": {**asdict(self.about), "models": dict(self.about.models), "seconds": round(self.about.seconds, 3)},
            "results": [result.to_json() for result in self.results],
            "diagnoses": [dict(diagnosis) for diagnosis in self.diagnoses],
            "log": list(self.log),
        }
