"""`python -m tests.bench.load`: our load beside two tools that share nothing with it, on one real server.

HTTP is compared with ab, gRPC with h2load, both of Debian. They take turns with ours, each with the same request in the
same number, and medians are compared. Writes tests/bench/LOAD.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests

from composer.events import ignore
from composer.load import Closed, GrpcWire, HttpWire, Measured, Open, Shape, Wire, measure
from composer.load.records import percentile
from composer.protocol import grpc, http
from composer.protocol.messages import Request
from composer.protocol.service import INFER
from composer.protocol.tensors import Tensor
from composer.recipe import Run
from composer.runners import Running
from composer.runners.rootfs import RootfsRunner
from tests.bench.machine import cpu_name
from tests.triton.images import Bench, make_bench, python_model

RESULTS: Final = Path(__file__).parent / "LOAD.md"
ALLOWED: Final = 0.05
"""How far ours may be from another tool's."""

PACED: Final = python_model(
    "paced",
    """\
def initialize(self, args):
    self.count = 0

def execute(self, requests):
    found = []
    for request in requests:
        self.count += 1
        time.sleep(0.1 if self.count % 5 == 0 else 0.02)
        found.append(answer(Y=tensor(request, 'X') * 2))
    return found
""",
    {"X": "FP32 [4]"},
    {"Y": "FP32 [4]"},
)
"""20 ms for an answer, and 100 ms for one in five: percentiles that are known, far above what the machine adds."""

INSTANCES: Final = 8
MODELS: Final = {
    path: text.replace("kind: KIND_CPU", f"kind: KIND_CPU count: {INSTANCES}") for path, text in PACED.items()
}
CACHED: Final = {
    path.replace("paced", "cached"): f"{text}\nresponse_cache {{ enable: true }}" if path.endswith(".pbtxt") else text
    for path, text in PACED.items()
}
"""Answers from the server's own cache: Python is asked once, so that the server can keep up with us."""

CACHE_FLAG: Final = "--cache-config=local,size=16777216"
WAYS: Final = ("http-json", "http-binary", "grpc")
COMPARED: Final = (
    *(("http-binary", Closed(concurrency=number)) for number in (INSTANCES // 2, INSTANCES, 2 * INSTANCES)),
    *(("grpc", Closed(concurrency=number)) for number in (INSTANCES // 2, INSTANCES, 2 * INSTANCES)),
    ("grpc", Open(rate=100)),
)
"""What is compared: ab knows of no rate. The instances together bear 222 requests a second."""


# -- a server -----------------------------------------------------------------------------------------------------


@contextmanager
def serving(bench: Bench, models: dict[str, str], *flags: str) -> Iterator[Running]:
    """A real server that is ready."""
    with RootfsRunner().start(bench.image(models, *flags), bench.store, Run(), emit=ignore) as running:
        end = time.monotonic() + 120
        while not _ready(running):
            assert running.exit_code() is None, running.logs()
            assert time.monotonic() < end, running.logs()
            time.sleep(0.1)
        yield running


def _ready(running: Running) -> bool:
    try:
        return requests.get(f"{running.http}/v2/health/ready", timeout=2).ok
    except requests.ConnectionError:
        return False


def wire(running: Running, model: str, way: str) -> Wire:
    """The request for one of the models here, in one of `WAYS`."""
    values = [1.0, 2.0, 3.0, 4.0]
    request = Request(model=model, inputs={"X": Tensor(datatype="FP32", shape=(4,), values=values)})
    if way == "grpc":
        place = urlsplit(f"//{running.grpc}")
        return GrpcWire(address=(place.hostname or "", place.port or 0), path=INFER, message=grpc.encode(request))
    url = urlsplit(running.http)
    path, headers, body = http.encode(request, way == "http-binary")
    return HttpWire(address=(url.hostname or "", url.port or 0), path=path, headers=headers, body=body)


# -- the tools ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a tool measured: answers a second, and percentiles of latency in milliseconds."""

    throughput: float
    p50: float
    p90: float
    p99: float


def ours(to: Wire, shape: Shape, count: int) -> Figures:
    """By `composer.load`."""
    found = measure(to, shape, requests=count)
    assert (found.ok, found.stopped) == (count, ""), found
    return Figures(throughput=found.throughput, **{f"p{one}": 1000 * found.percentile(one) for one in (50, 90, 99)})


def ab(to: HttpWire, concurrency: int, count: int) -> Figures:
    """By Apache's ab, with connections that are kept."""
    with tempfile.TemporaryDirectory() as name:
        body, table = Path(name, "body"), Path(name, "table.csv")
        body.write_bytes(to.body)
        headers = {key: value for key, value in to.headers.items() if key != "Content-Type"}
        said = _run(
            *("ab", "-q", "-k", "-c", str(concurrency), "-n", str(count), "-p", str(body), "-e", str(table)),
            *("-T", to.headers["Content-Type"], *(f"-H{key}: {value}" for key, value in headers.items())),
            f"http://{to.address[0]}:{to.address[1]}{to.path}",
        )
        assert re.search(rf"Complete requests: +{count}\n", said), said
        assert re.search(r"Failed requests: +0\n", said), said
        with table.open() as file:
            _, *rows = csv.reader(file)
        taken = {int(percent): float(milliseconds) for percent, milliseconds in rows}
    found = re.search(r"Requests per second: +([\d.]+)", said)
    assert found
    return Figures(throughput=float(found[1]), p50=taken[50], p90=taken[90], p99=taken[99])


def h2load(to: GrpcWire, shape: Shape, count: int) -> Figures:
    """By nghttp2's h2load, on one connection. At a rate it counts a latency from when the request was sent."""
    how = ("-m1000", f"--rps={shape.rate:g}") if isinstance(shape, Open) else (f"-m{shape.concurrency}",)
    with tempfile.TemporaryDirectory() as name:
        body, log = Path(name, "body"), Path(name, "log")
        body.write_bytes(b"\0" + len(to.message).to_bytes(4, "big") + to.message)
        said = _run(
            *("h2load", "-t1", "-c1", *how, f"-n{count}", f"--log-file={log}", f"--data={body}"),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"http://{to.address[0]}:{to.address[1]}{to.path}",
        )
        assert f"{count} succeeded, 0 failed" in said, said
        taken = sorted(int(line.split()[2]) / 1000 for line in log.read_text().splitlines())
    found = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    assert found
    return Figures(throughput=float(found[1]), **{f"p{one}": percentile(taken, one) for one in (50, 90, 99)})


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


# -- side by side -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Medians of runs that took turns."""

    way: str
    tool: str
    shape: Shape
    ours: Figures
    theirs: Figures

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours by theirs, for each figure."""
        return tuple(one / other for one, other in zip(astuple(self.ours), astuple(self.theirs), strict=True))

    @property
    def agrees(self) -> bool:
        """Whether every figure is near enough."""
        return all(abs(ratio - 1) <= ALLOWED for ratio in self.ratios)


def compare(running: Running, way: str, shape: Shape, *, count: int, rounds: int, most: int = 0) -> Comparison:
    """Measure by turns: ours first, then the other first. With `most`, up to so many rounds until they agree."""
    to = wire(running, "paced", way)
    tool = "h2load" if way == "grpc" else "ab"
    ours(to, Closed(concurrency=INSTANCES), 10 * INSTANCES)  # no run is the first
    mine: list[Figures] = []
    theirs: list[Figures] = []
    for number in range(max(rounds, most)):
        for turn in (number % 2, 1 - number % 2):
            if turn == 0:
                mine.append(ours(to, shape, count))
            else:
                theirs.append(_other(to, shape, count))
        found = Comparison(way=way, tool=tool, shape=shape, ours=_median(mine), theirs=_median(theirs))
        if number + 1 >= rounds and found.agrees:
            break
    return found


def _other(to: Wire, shape: Shape, count: int) -> Figures:
    if isinstance(to, GrpcWire):
        return h2load(to, shape, count)
    assert isinstance(to, HttpWire)
    assert isinstance(shape, Closed)
    return ab(to, shape.concurrency, count)


def _median(runs: Sequence[Figures]) -> Figures:
    columns = [statistics.median(column) for column in zip(*map(astuple, runs), strict=True)]
    return Figures(throughput=columns[0], p50=columns[1], p90=columns[2], p99=columns[3])


def fast(running: Running, way: str, concurrency: int, seconds: float) -> Measured:
    """As many requests as go, to a model that answers from the server's cache."""
    return measure(wire(running, "cached", way), Closed(concurrency=concurrency), seconds=seconds, warmup=100)


# -- the results --------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--requests", type=int, default=50, help="of each instance in each run")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tricompose-load-") as folder:
        bench = make_bench(Path(folder))
        with serving(bench, {**MODELS, **CACHED}, CACHE_FLAG) as running:
            compared = [
                compare(running, way, shape, count=options.requests * INSTANCES, rounds=options.rounds)
                for way, shape in COMPARED
            ]
            fastest = [(way, number, fast(running, way, number, 3)) for way in WAYS for number in (1, 8, 64)]
        bench.store.close()
    lines = _markdown(options.rounds, options.requests * INSTANCES, (load, os.getloadavg()[0]), compared, fastest)
    options.results.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _markdown(
    rounds: int,
    count: int,
    load: tuple[float, float],
    compared: Sequence[Comparison],
    fastest: Sequence[tuple[str, int, Measured]],
) -> list[str]:
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        "# Our load beside other tools",
        "",
        f"Made by `make load` on {when}. Do not edit: run it again.",
        "",
        f"{os.cpu_count()} cores ({cpu_name()}), which the server has to share with the tool. Triton 2.51.0, over the",
        f"loopback. Load average {load[0]:.1f} before, {load[1]:.1f} after.",
        "",
        "## The same load, by turns",
        "",
        f"A Python model with {INSTANCES} instances takes 20 ms for an answer, and 100 ms for one in five. Medians of",
        f"{rounds} runs by each tool, in turns, of {count} requests each. In each cell ours : theirs, and",
        "ours by theirs.",
        "",
        "| | answers a second | p50 | p90 | p99 |",
        "|---|---|---|---|---|",
        *(_row(one) for one in compared),
        "",
        "## As much as goes",
        "",
        "A model that answers from the server's cache, asked for 3 s. Requests by CPU second go by the CPU time of the",
        "client alone: what one core could send if the server kept up.",
        "",
        "| | concurrency | answers a second | p50 | p99 | requests by CPU second |",
        "|---|---|---|---|---|---|",
        *(_fast_row(*one) for one in fastest),
    ]  # fmt: skip


def _row(one: Comparison) -> str:
    pairs = zip(astuple(one.ours), astuple(one.theirs), one.ratios, strict=True)
    units = ("", " ms", " ms", " ms")
    cells = (f"{a:.4g} : {b:.4g}{unit} ({ratio:.3f})" for (a, b, ratio), unit in zip(pairs, units, strict=True))
    return f"| {one.way}, {_named(one.shape)}, {one.tool} | {' | '.join(cells)} |"


def _named(shape: Shape) -> str:
    return f"{shape.rate:g} a second" if isinstance(shape, Open) else f"{shape.concurrency} at once"


def _fast_row(way: str, concurrency: int, found: Measured) -> str:
    taken = (f"{1000 * found.percentile(one):.3g} ms" for one in (50, 99))
    return (
        f"| {way} | {concurrency} | {found.throughput:,.0f} | {' | '.join(taken)} "
        f"| {found.ok / found.cpu_seconds:,.0f} |"
    )


if __name__ == "__main__":
    main()
