"""What the evidence of a result says, as values that can be drawn.

Evidence is JSON that checks give as it comes. Of what has the shapes of `report.schema.json` this makes a value; what
has not is shown as it stands (`rest`). Nothing here raises: a report of an odd proof must still be written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from composer.checks.report import Result
from composer.words import latency, plain

_DRAWN: Final[Mapping[str, frozenset[str]]] = {
    "load": frozenset({"runs"}),
    "gpu": frozenset({"gpus", "models"}),
    "inference": frozenset({"ways"}),
    "image": frozenset({"problems"}),
}
"""What evidence of each kind has a drawing of its own."""
LINES: Final = ("log", "lines")
"""Evidence that is lines of text, as a server wrote them."""
LONGEST: Final = 2_000
"""Letters of a text of which more is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Load of one strength: `concurrency` requests at once, or `rate` a second. Times in seconds; None is not known.

    `latency` by the names that evidence has: `min`, `mean`, `p50` to `p99.9`, `max`. `histogram` holds how many
    requests took up to so many seconds, `timeline` the requests a second and the p99 of each second, `sizes` the
    executions by how many requests they had. `stopped` says why it was given up.
    """

    label: str
    protocol: str
    concurrency: float | None
    rate: float | None
    sent: float | None
    ok: float | None
    errors: Mapping[str, float]
    seconds: float | None
    throughput: float | None
    latency: Mapping[str, float]
    histogram: Sequence[tuple[float, float]]
    timeline: Sequence[tuple[float, float, float | None]]
    verified: float | None
    wrong: float | None
    average_batch: float | None
    sizes: Mapping[str, float]
    stopped: str

    @property
    def failed(self) -> float:
        """How many requests had no answer, or one that says no."""
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of an answer; `max_abs` and `max_rel` are how far it is from what is expected, as texts."""

    name: str
    datatype: str
    shape: str
    max_abs: str
    max_rel: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """An answer over one protocol and encoding: its status, and what was said with it."""

    name: str
    status: str
    seconds: float | None
    outputs: Sequence[Output]

    @property
    def time(self) -> str:
        """How long it took, in words; nothing where that is not known."""
        return "" if self.seconds is None else latency(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that was seen; memory in bytes."""

    uuid: str
    name: str
    memory: float | None
    driver: str
    capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a model had to do with GPUs: how often it was executed on each, and `elsewhere`. `proof` is what else than
    the server's own word says so; empty: nothing."""

    model: str
    kinds: str
    executions: Mapping[str, float]
    elsewhere: float
    proof: str


# -- each kind ------------------------------------------------------------------------------------------------------


def runs(result: Result) -> tuple[Run, ...]:
    """The runs of a load check."""
    found = result.evidence.get("runs") if result.kind == "load" else None
    return tuple(_run(one, result.id) for one in _list(found) if isinstance(one, Mapping))


def _run(one: Mapping[str, Any], check: str) -> Run:
    batches = _map(one.get("batches"))
    return Run(
        label=text(one.get("label")) or check,
        protocol=text(one.get("protocol")),
        concurrency=number(one.get("concurrency")),
        rate=number(one.get("rate")),
        sent=number(one.get("sent")),
        ok=number(one.get("ok")),
        errors=_numbers(one.get("errors")),
        seconds=number(one.get("seconds")),
        throughput=number(one.get("throughput")),
        latency=_numbers(one.get("latency")),
        histogram=tuple((row[0], row[1]) for row in _rows(one.get("histogram"), 2)),
        timeline=tuple(_timeline(one.get("timeline"))),
        verified=number(one.get("verified")),
        wrong=number(one.get("wrong")),
        average_batch=number(batches.get("average")),
        sizes=_numbers(batches.get("sizes")),
        stopped=text(one.get("stopped")),
    )


def _timeline(value: object) -> Iterator[tuple[float, float, float | None]]:
    """Seconds in which nothing was answered have no p99."""
    for row in _list(value):
        second, throughput, slow = ([number(cell) for cell in _list(row)] + [None] * 3)[:3]
        if second is not None and throughput is not None:
            yield second, throughput, slow


def ways(result: Result) -> tuple[Way, ...]:
    """The answers of an inference check."""
    found = result.evidence.get("ways") if result.kind == "inference" else None
    return tuple(
        Way(name=name, status=_status(way), seconds=number(way.get("seconds")), outputs=_outputs(way))
        for name, way in _map(found).items()
        if isinstance(way, Mapping)
    )


def _status(way: Mapping[str, Any]) -> str:
    said = text(way.get("refused")) or text(way.get("silence"))
    responses = number(way.get("responses"))
    counted = f"{responses:.0f} responses" if responses is not None else ""
    return ": ".join(part for part in (text(way.get("status")), said or counted) if part)


def _outputs(way: Mapping[str, Any]) -> tuple[Output, ...]:
    return tuple(
        Output(
            name=name,
            datatype=text(one.get("datatype")),
            shape=text(one.get("shape")),
            max_abs=_error(one.get("max_abs")),
            max_rel=_error(one.get("max_rel")),
        )
        for name, one in _map(way.get("outputs")).items()
        if isinstance(one, Mapping)
    )


def _error(value: object) -> str:
    known = number(value)
    return text(value) if known is None else f"{known:.2g}"


def gpus(result: Result) -> tuple[Gpu, ...]:
    """The GPUs that a check saw."""
    found = result.evidence.get("gpus") if result.kind == "gpu" else None
    return tuple(
        Gpu(
            uuid=text(one.get("uuid")),
            name=text(one.get("name")),
            memory=number(one.get("memory_total")),
            driver=text(one.get("driver")),
            capability=text(one.get("compute_capability")),
        )
        for one in _list(found)
        if isinstance(one, Mapping)
    )


def uses(result: Result) -> tuple[Use, ...]:
    """The models that a check looked for on GPUs."""
    found = result.evidence.get("models") if result.kind == "gpu" else None
    return tuple(
        Use(
            model=text(one.get("model")),
            kinds=text(one.get("kinds")),
            executions=_numbers(one.get("executions")),
            elsewhere=number(one.get("executions_elsewhere")) or 0,
            proof=_proof(one),
        )
        for one in _list(found)
        if isinstance(one, Mapping)
    )


def _proof(one: Mapping[str, Any]) -> str:
    proof = text(one.get("proof"))
    sign = text(_map(one.get("signs")).get(proof)) if proof else ""
    return f"{proof}: {sign}" if sign else proof


def problems(result: Result) -> tuple[str, ...]:
    """What is wrong with an image, a line each, with what to do."""
    found = [one for one in _list(result.evidence.get("problems")) if isinstance(one, Mapping)]
    said = [(text(one.get("message")), text(one.get("hint"))) for one in found]
    return tuple(f"{message} ({hint})" if hint else message for message, hint in said)


def lines(result: Result) -> tuple[str, ...]:
    """The lines of the server that are evidence."""
    found = [line for name in LINES for line in _list(result.evidence.get(name))]
    return tuple(plain(str(line)) for line in found)


def rest(result: Result) -> Iterator[tuple[str, str]]:
    """All other evidence: names, and what is there as a short text."""
    drawn = _DRAWN.get(result.kind, frozenset())
    for name, value in result.evidence.items():
        listed = name in LINES and isinstance(value, list | tuple)
        if not listed and not (name in drawn and _drawable(value)):
            yield plain(str(name)), text(value)


def _drawable(value: object) -> bool:
    inner = list(value.values()) if isinstance(value, Mapping) else _list(value)
    return all(isinstance(one, Mapping) for one in inner) and isinstance(value, Mapping | list | tuple)


# -- values ---------------------------------------------------------------------------------------------------------


def number(value: object) -> float | None:
    """A number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def text(value: object) -> str:
    """A value as people read it: what is flat without brackets, what is deep as JSON. Nothing for None."""
    if value is None:
        return ""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        shown = ", ".join(value)
    elif isinstance(value, Mapping) and all(_is_flat(one) for one in value.values()):
        shown = ", ".join(f"{name}: {text(one)}" for name, one in value.items())
    else:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    shown = plain(shown)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ... ({len(shown)} letters)"


def _is_flat(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _map(value: object) -> Mapping[str, Any]:
    return {plain(str(name)): one for name, one in value.items()} if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _numbers(value: object) -> Mapping[str, float]:
    known = ((name, number(one)) for name, one in _map(value).items())
    return {name: one for name, one in known if one is not None}


def _rows(value: object, width: int) -> Iterator[tuple[float, ...]]:
    for row in _list(value):
        known = [number(cell) for cell in _list(row)[:width]]
        cells = tuple(cell for cell in known if cell is not None)
        if len(cells) == width:
            yield cells
