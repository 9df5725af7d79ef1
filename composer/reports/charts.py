"""Drawings as SVG. Colours come from the page (`--s1` to `--s6`), so that they fit its light and its dark face; lines
are told apart by dashes and marks too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from composer import words
from composer.reports.evidence import Run
from composer.reports.summary import sent_as
from composer.words import plain

MOST: Final = 6
"""Lines in one drawing: more cannot be told apart."""

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44
_TICKS: Final = 3
_NEAR: Final = 0.004
"""Points nearer to the last one than this share of the width are not drawn: nobody could see them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """`place` says where a value stands, from 0 to 1; `ticks` are values and their names."""

    title: str
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line, and the points on it that have a mark: where, and what is said there."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[tuple[float, float, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing: `svg` is markup, all else text. `legend` names the lines in their order."""

    title: str
    note: str
    svg: str
    legend: Sequence[str]


# -- what is drawn of load --------------------------------------------------------------------------------------------


def load_charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """What can be drawn of each run of one load check."""
    drawn, left = runs[:MOST], len(runs) - MOST
    note = f"{words.count(left, 'more run')} not drawn" if left > 0 else ""
    curves = [(run, _curve(run)) for run in drawn]
    if lines := [_percentile_line(run, curve) for run, curve in curves if curve]:
        x = _percentiles(max(run.sent or 0 for run, curve in curves if curve))
        times = [time for line in lines for _, time in line.points]
        yield _chart("Latency by percentile", note, lines, x, _logarithmic("latency", times))
    if lines := [line for run in drawn if len((line := _line_in_time(run)).points) > 2]:
        seconds = [second for line in lines for second, _ in line.points]
        rates = [rate for line in lines for _, rate in line.points]
        x = _linear("seconds", min(seconds), max(seconds))
        yield _chart("Requests a second, over time", note, lines, x, _linear("requests/s", 0, max(rates)))


def compared(runs: Sequence[Run]) -> Iterator[Chart]:
    """Throughput and p99 by concurrency, or by rate, where there are several: a line for each load and protocol."""
    of_concurrency = [(run.concurrency, run) for run in runs if run.concurrency is not None]
    of_rate = [(run.rate, run) for run in runs if run.concurrency is None and run.rate is not None]
    kinds = (("concurrency", "requests at once", of_concurrency), ("rate", "requests/s asked for", of_rate))
    for name, title, found in kinds:
        strengths = sorted({strength for strength, _ in found})
        if len(strengths) < 2:
            continue
        x = _steps(title, strengths)
        if lines := list(_grouped(found, lambda run: run.throughput, lambda rate: f"{words.digits(rate)}/s")):
            high = max(y for line in lines for _, y in line.points)
            yield _chart(f"Throughput by {name}", "", lines, x, _linear("requests/s", 0, high))
        if lines := list(
            _grouped(found, lambda run: run.latency.get("p99"), lambda time: f"p99 {words.latency(time)}")
        ):
            times = [y for line in lines for _, y in line.points]
            yield _chart(f"p99 by {name}", "", lines, x, _logarithmic("p99", times))


def _grouped(
    found: Sequence[tuple[float, Run]], value: Callable[[Run], float | None], said: Callable[[float], str]
) -> Iterator[Line]:
    names = list(dict.fromkeys((run.label, run.protocol) for _, run in found))
    alike = {only for part in zip(*names, strict=True) if len(set(part)) == 1 for only in part}
    for name in names[:MOST]:
        of_it = sorted((one for one in found if (one[1].label, one[1].protocol) == name), key=lambda one: one[0])
        points = [(strength, y) for strength, run in of_it if (y := value(run)) is not None]
        marks = [(x, y, f"{words.digits(x)}: {said(y)}") for x, y in points]
        if points:
            shown = ", ".join(part for part in name if part not in alike)
            yield Line(name=shown or ", ".join(name), points=points, marks=marks)


def _curve(run: Run) -> list[tuple[float, float]]:
    """Shares of the requests, and the time that so many took at most: of the histogram, or of what percentiles there
    are."""
    total, seen = sum(many for _, many in run.histogram), 0.0
    if total > 0:
        found = []
        for upper, many in run.histogram:
            seen += many
            found.append((min(seen / total, 1 - 0.5 / total), upper))
        return [(share, upper) for share, upper in found if upper > 0]
    named = [(float(name[1:]) / 100, time) for name, time in run.latency.items() if _is_percentile(name)]
    return sorted((share, time) for share, time in named if time > 0)


def _is_percentile(name: str) -> bool:
    return name.startswith("p") and name[1:].replace(".", "", 1).isdigit() and float(name[1:]) < 100


def _percentile_line(run: Run, curve: Sequence[tuple[float, float]]) -> Line:
    named = [(float(name[1:]) / 100, time, name) for name, time in run.latency.items() if _is_percentile(name)]
    name = sent_as(run) or run.label
    marks = [(share, time, f"{name}: {which} {words.latency(time)}") for share, time, which in named if time > 0]
    return Line(name=name, points=curve, marks=marks)


def _line_in_time(run: Run) -> Line:
    """The whole seconds of a run: the last is a part of one."""
    whole = math.floor(run.seconds) if run.seconds is not None else math.inf
    points = [(second, rate) for second, rate, _ in run.timeline if second < whole]
    return Line(name=sent_as(run) or run.label, points=points)


# -- axes -----------------------------------------------------------------------------------------------------------


def _linear(title: str, low: float, high: float) -> Axis:
    if high <= low:
        high = low + 1
    step = _nice((high - low) / 4)
    count = math.ceil((high - low) / step - 1e-9)
    top = low + step * count if low == 0 else high
    ticks = [low + step * number for number in range(count + 1) if low + step * number <= top * (1 + 1e-9)]
    return Axis(
        title=title, place=lambda value: (value - low) / (top - low), ticks=[(t, words.digits(t)) for t in ticks]
    )


def _nice(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 and so on that is not smaller."""
    unit = 10.0 ** math.floor(math.log10(step))
    return next(unit * times for times in (1, 2, 5, 10) if unit * times >= step * (1 - 1e-9))


def _logarithmic(title: str, values: Sequence[float]) -> Axis:
    known = [value for value in values if value > 0] or [1.0]
    low, high = math.log10(min(known)), math.log10(max(known))
    low, high = low - 0.05, max(high + 0.05, low + 0.3)
    ticks = [(tick, words.latency(tick)) for tick in _ticks(low, high)]
    return Axis(title=title, place=lambda value: (math.log10(max(value, 1e-12)) - low) / (high - low), ticks=ticks)


def _ticks(low: float, high: float) -> Sequence[float]:
    """Round numbers between two powers of ten: as few as tell where one is."""
    found: list[float] = []
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + tenth / 10 for tenth in range(90))):
        every = [10.0**power * factor for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
        found = [tick for tick in every if low <= math.log10(tick) <= high]
        if len(found) >= _TICKS:
            break
    return found


def _percentiles(sent: float) -> Axis:
    """Each further nine is as wide as the one before it: what is rare is seen as well as what is not. It ends where
    one of so many requests would not be seen any more."""
    most = min(math.log10(max(2 * sent, 200)), 6.0)
    names = [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
    ticks = [(share, name) for share, name in names if -math.log10(1 - share) <= most]
    title = "so many of the requests took no longer"
    return Axis(title=title, place=lambda share: min(-math.log10(1 - share) / most, 1), ticks=ticks)


def _steps(title: str, values: Sequence[float]) -> Axis:
    """Values at even distances, whatever lies between them."""
    places = {value: (number + 0.5) / len(values) for number, value in enumerate(values)}
    return Axis(title=title, place=places.__getitem__, ticks=[(value, words.digits(value)) for value in values])


# -- SVG ------------------------------------------------------------------------------------------------------------


def _chart(title: str, note: str, lines: Sequence[Line], x: Axis, y: Axis) -> Chart:
    inner = [*_grid(x, y)]
    for number, line in enumerate(lines, 1):
        inner += _drawn(number, line, x, y)
    names = ", ".join(line.name for line in lines)
    label = escape(plain(f"{title}: {names}"))
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    return Chart(title=title, note=note, svg=f"{head}{''.join(inner)}</svg>", legend=[line.name for line in lines])


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value, name in y.ticks:
        at = _y(y.place(value))
        yield f'<path class="grid" d="M{_LEFT} {at}H{right}"/>'
        yield f'<text x="{_LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">{escape(name)}</text>'
    for value, name in x.ticks:
        at = _x(x.place(value))
        yield f'<path class="tick" d="M{at} {bottom}v4"/>'
        yield f'<text x="{at}" y="{bottom + 17}" text-anchor="middle">{escape(name)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>'
    yield f'<text x="{right}" y="{_HEIGHT - 6}" text-anchor="end" class="name">{escape(x.title)}</text>'


def _drawn(number: int, line: Line, x: Axis, y: Axis) -> Iterator[str]:
    places = list(_thinned([(x.place(one), y.place(other)) for one, other in line.points]))
    path = "L".join(f"{_x(one)} {_y(other)}" for one, other in places)
    yield f'<path class="line s{number}" d="M{path}"/>'
    for one, other, said in line.marks:
        at = f"translate({_x(x.place(one))} {_y(y.place(other))})"
        mark = f'<path class="mark s{number}" transform="{at}" d="{MARKS[number - 1]}">'
        yield f"{mark}<title>{escape(plain(said))}</title></path>"


MARKS: Final = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-4.8L4.4 3.2h-8.8z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.8L4.4-3.2h-8.8z",
    "M-4.5-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
)
"""A mark for each line: circle, square, triangle, diamond, triangle on its head, cross."""


def _thinned(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    last = None
    for number, point in enumerate(points):
        if last is None or number == len(points) - 1 or max(abs(point[0] - last[0]), abs(point[1] - last[1])) > _NEAR:
            last = point
            yield point


def _x(share: float) -> str:
    return f"{_LEFT + _held(share) * (_WIDTH - _LEFT - _RIGHT):.1f}"


def _y(share: float) -> str:
    return f"{_HEIGHT - _BOTTOM - _held(share) * (_HEIGHT - _TOP - _BOTTOM):.1f}"


def _held(share: float) -> float:
    return min(max(share, 0.0), 1.0)
