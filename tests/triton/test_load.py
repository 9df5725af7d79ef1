"""Load on a real server: as another tool measures it, and what the check says of models that do not bear it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.checks.load import load
from composer.checks.report import Result
from composer.checks.subject import Subject, Terms
from composer.events import ignore
from composer.load import Closed, Open, Shape, measure
from composer.protocol.http import Client
from composer.recipe import Validate, parse_recipe
from composer.runners import Running
from tests.bench.load import CACHE_FLAG, CACHED, INSTANCES, MODELS, WAYS, compare, fast, serving, wire
from tests.triton.images import Bench, python_model

pytestmark = pytest.mark.triton

INPUT, OUTPUT = {"X": "FP32 [4]"}, {"Y": "FP32 [4]"}
DOUBLE = "[answer(Y=tensor(request, 'X') * 2) for request in requests]"
ZEROS = "[answer(Y=np.zeros(4, np.float32))]"
COUNTED = "def initialize(self, args):\n    self.count = 0\n\ndef execute(self, requests):\n    self.count += 1\n"
SLOW_BATCHES = f"def execute(self, requests):\n    time.sleep(0.005)\n    return {DOUBLE}"


def model(name: str, body: str, more: str = "", batch: int = 0) -> dict[str, str]:
    files = python_model(name, body, INPUT, OUTPUT, batch)
    return {path: f"{text}\n{more}" if path.endswith(".pbtxt") else text for path, text in files.items()}


ILL = {
    **model("lies", f"{COUNTED}    return {ZEROS} if self.count % 10 == 0 else {DOUBLE}"),
    **model("refuses", f"{COUNTED}    assert self.count % 4, 'not now'\n    return {DOUBLE}"),
    **model("dies", f"{COUNTED}    if self.count > 30:\n        os._exit(3)\n    return {DOUBLE}"),
    **model("silent", f"{COUNTED}    return None if self.count > 5 else {DOUBLE}"),
    **model("single", SLOW_BATCHES, batch=8),
    **model("batched", SLOW_BATCHES, "dynamic_batching { }", batch=8),
}  # fmt: skip


@pytest.fixture(scope="module")
def running(bench: Bench) -> Iterator[Running]:
    with serving(bench, {**MODELS, **CACHED, **ILL}, CACHE_FLAG, "--exit-timeout-secs=1") as server:
        yield server


# -- as others measure it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "shape"),
    [
        ("http-binary", Closed(concurrency=INSTANCES)),
        ("grpc", Closed(concurrency=INSTANCES)),
        ("grpc", Open(rate=100)),
    ],
)
def test_it_agrees_with_another_tool(running: Running, way: str, shape: Shape) -> None:
    """`make load` measures longer, and writes down what came of it."""
    count = 400 if isinstance(shape, Closed) else 200
    found = compare(running, way, shape, count=count, rounds=3, most=9)
    assert found.agrees, found
    assert 20 < found.ours.p50 < 30
    assert 100 < found.ours.p99 < 125


@pytest.mark.parametrize("way", WAYS)
def test_one_core_sends_thousands_of_requests(running: Running, way: str) -> None:
    found = fast(running, way, concurrency=8, seconds=1)
    assert (found.errors, found.stopped) == ({}, "")
    assert found.ok / found.cpu_seconds > 5000


def test_a_rate_that_the_model_does_not_bear_shows_in_the_latencies(running: Running) -> None:
    """Eight instances that take 36 ms on average bear 222 requests a second."""
    found = measure(wire(running, "paced", "http-binary"), Open(rate=400), seconds=1)
    assert found.ok == 400
    assert found.percentile(90) > 0.3
    assert found.throughput < 300


# -- the check ----------------------------------------------------------------------------------------------------


def results(running: Running, *loads: str, name: str = "", shape: str = "[4]") -> list[Result]:
    """The results of loads, each written without its id and check, on one model."""
    values = "data: [1, 2, 3, 4]"
    entries = "".join(f"    - {{id: load-{number}, check: right, {text}}}\n" for number, text in enumerate(loads))
    recipe = f"""\
triton: "24.10"
backends: [python]
validate:
  checks:
    - id: right
      model: {name}
      request: {{inputs: {{X: {{dtype: FP32, shape: {shape}, {values}}}}}, timeout: 1s}}
      expect: {{outputs: {{Y: {{equals: [2, 4, 6, 8]}}}}}}
  load:
{entries}"""
    validation = parse_recipe(recipe, path=Path("recipe.yaml"), environ={}).validation
    assert isinstance(validation, Validate)
    client = Client(running.http)
    terms = Terms(validation=validation, models=None, base=Path())
    try:
        return list(load(Subject(running=running, terms=terms, client=client, emit=ignore)))
    finally:
        client.close()


def test_a_model_that_bears_it(running: Running) -> None:
    loads = [
        "protocol: http, encoding: json, concurrency: [1, 8], requests: 60, verify_every: 5",
        "protocol: http, encoding: binary, rate: [100], duration: 1s",
        "protocol: grpc, concurrency: [8], requests: 160, slo: {p50: 100ms, p99: 500ms, min_throughput: 50}",
    ]
    found = results(running, *loads, name="paced")
    assert [one.outcome for one in found] == ["passed"] * 3, found
    runs = [run for one in found for run in one.evidence["runs"]]
    assert [(run["protocol"], run.get("concurrency"), run.get("rate")) for run in runs] == [
        ("http-json", 1, None),
        ("http-json", 8, None),
        ("http-binary", None, 100.0),
        ("grpc", 8, None),
    ]
    assert [run["sent"] for run in runs] == [60, 60, 100, 160]
    assert [run["verified"] for run in runs] == [12, 12, 10, 16]
    assert [run["wrong"] for run in runs] == [0] * 4
    assert [run["batches"]["sizes"] for run in runs] == [{"1": run["sent"]} for run in runs]
    for run in runs:
        latency = run["latency"]
        assert 0.02 < latency["min"] < latency["p50"] < latency["p99"] <= latency["max"] < 0.5
        assert sum(count for _, count in run["histogram"]) == run["ok"]
        assert [second for second, *_ in run["timeline"]] == [*range(len(run["timeline"]))]
        assert run["throughput"] == pytest.approx(run["ok"] / run["seconds"])
        if "concurrency" in run:  # Little's law; in the end there are fewer under way
            assert 0.75 < run["throughput"] * latency["mean"] / run["concurrency"] < 1.01


def test_objectives_that_are_missed(running: Running) -> None:
    slo = "slo: {p50: 1ms, p99: 2s, min_throughput: 5000}"
    (found,) = results(running, f"concurrency: [2, 4], requests: 40, {slo}", name="paced")
    assert found.outcome == "failed"
    one, two, three, four = found.message.split("; ")
    assert one.startswith("p50 2")
    assert one.endswith("ms, at most 1 ms (concurrency 2)")
    assert two.endswith(" answers a second, at least 5,000 (concurrency 2)")
    assert (three[-15:], four[-15:]) == ("(concurrency 4)",) * 2


@pytest.mark.parametrize(
    ("name", "load", "message"),
    [
        (
            "lies",
            "requests: 100, verify_every: 1",
            "10 of 100 verified answers are wrong: output Y: equals: at [0] 2 is expected, it is 0",
        ),
        ("refuses", "requests: 100, protocol: grpc", "25 of 100 requests failed: 25 x INTERNAL: Failed to process"),
        ("refuses", "requests: 100", "25 of 100 requests failed: 25 x HTTP 500: Failed to process the request(s)"),
        ("silent", "requests: 40, protocol: grpc, concurrency: [4]", "given up: nothing was answered for 3 s"),
    ],
)
def test_models_that_do_not_bear_it(running: Running, name: str, load: str, message: str) -> None:
    begun = time.monotonic()
    (found,) = results(running, f"warmup: 0, {load}", name=name)
    assert time.monotonic() - begun < 8
    assert found.outcome == "failed"
    assert found.message.startswith(message), found.message


def test_a_model_that_dies_under_load(running: Running) -> None:
    (found,) = results(running, "requests: 200, concurrency: [2]", name="dies")
    assert found.outcome == "failed"
    assert "Stub process 'dies_0_0' is not healthy" in found.message
    assert Client(running.http).get("/v2/health/ready").status == 200


def test_failures_that_are_allowed(running: Running) -> None:
    allowed, too_many = results(
        running, "requests: 40, slo: {error_rate: 0.3}", "requests: 40, slo: {error_rate: 0.2}", name="refuses"
    )
    assert allowed.outcome == "passed"
    assert too_many.message.startswith("10 of 40 requests failed, at most 20 %: ")


def test_whether_it_batches(running: Running) -> None:
    batching = "concurrency: [1, 16], requests: 96, protocol: grpc, expect_batching: {min_avg_batch: 2}"
    (batched,) = results(running, batching, name="batched", shape="[1, 4]")
    (single,) = results(running, batching, name="single", shape="[1, 4]")
    assert (batched.outcome, single.outcome) == ("passed", "failed")
    assert single.message == "1.00 inferences in one execution on average, at least 2 (concurrency 16)"
    alone, together = (run["batches"] for run in batched.evidence["runs"])
    assert alone == {"average": 1.0, "sizes": {"1": 96}}
    assert sum(int(size) * count for size, count in together["sizes"].items()) == 96
    assert together["average"] == 96 / sum(together["sizes"].values()) > 4
    throughput = [one.evidence["runs"][1]["throughput"] for one in (batched, single)]
    assert throughput[0] > 3 * throughput[1]


def test_a_server_that_ends_under_load(bench: Bench) -> None:
    with serving(bench, model("echo", f"def execute(self, requests):\n    return {DOUBLE}")) as running:
        threading.Timer(1, running.stop).start()
        begun = time.monotonic()
        (found,) = results(running, "duration: 60s, concurrency: [4], protocol: grpc", name="echo")
        assert time.monotonic() - begun < 20
    assert found.outcome == "failed"
    assert found.message.startswith("given up: ")
    assert found.evidence["runs"][0]["ok"] > 100


def test_a_model_that_is_not_there(running: Running) -> None:
    (found,) = results(running, "requests: 3", name="nowhere")
    assert found.outcome in ("failed", "error")
    assert "nowhere" in found.message
