"""What the load check says of what was measured. The measuring itself is in test_load.py."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from composer.checks.load.batches import Batches, batches
from composer.checks.report import Result
from composer.checks.subject import Subject, Terms
from composer.events import ignore
from composer.load import Closed, GrpcWire, HttpWire, Measured, Open
from composer.load.records import Second
from composer.protocol import grpc, http
from composer.protocol.messages import NoAnswer, Request, Response
from composer.protocol.tensors import Tensor
from composer.recipe import parse_recipe

module = import_module("composer.checks.load")  # its package has a function of that name

FAST = tuple(0.001 * number for number in range(1, 101))
WELL = Measured(
    sent=100,
    ok=100,
    seconds=2.0,
    latencies=FAST,
    timeline=[Second(number=0, answers=100, p99=0.099)],
    verified=10,
    cpu_seconds=0.1,
)


@dataclass
class Server:
    """A server that runs, or ended."""

    http: str = "http://127.0.0.1:8000/prefix"
    grpc: str = "127.0.0.1:8001"
    ended: int | None = None
    stats: Iterator[Any] = field(default_factory=lambda: iter(()))

    def exit_code(self) -> int | None:
        return self.ended

    def get(self, path: str) -> http.Answer:
        assert path == "/v2/models/m/versions/2/stats"
        found = next(self.stats)
        return http.Answer(status=200 if "model_stats" in found else 400, headers={}, body=json.dumps(found).encode())


X = "{X: {dtype: FP32, shape: [1], fill: 1}}"
REQUEST = Request(model="m", version="2", inputs={"X": Tensor(datatype="FP32", shape=(1,), values=[1.0])})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Measured]:
    """What comes of the runs to come, and of every further one the last."""
    found = [WELL]

    def measure(wire: Any, shape: Any, **options: Any) -> Measured:
        calls.append((wire, shape, options))
        options["warmed"]()
        return found.pop(0) if len(found) > 1 else found[0]

    calls.clear()
    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "requests_of", lambda subject, check: [REQUEST])
    monkeypatch.setattr(module, "expected", lambda subject, check: lambda answer: list(judged(answer)))
    monkeypatch.setattr(module, "batches", lambda subject, model, version: Batches())
    return found


calls: list[tuple[Any, Any, dict[str, Any]]] = []


def judged(answer: Any) -> Iterator[str]:
    if isinstance(answer, Response) and answer.outputs["X"].values[0] != 1.0:
        yield "output X: it is not 1"


def results(text: str, *, server: Server | None = None, check: str = "", off: tuple[str, ...] = ()) -> list[Result]:
    check = check or f"request: {{inputs: {X}, timeout: 3s}}, expect: {{outputs: {{X: {{equals: [1]}}}}}}"
    recipe = f"""\
triton: "24.10"
backends: [python]
validate:
  checks: [{{id: right, model: m, version: 2, {check}}}]
  load: [{{id: many, check: right, {text}}}]
"""
    validation = parse_recipe(recipe, path=Path("recipe.yaml"), environ={}).validation
    assert validation
    terms = Terms(validation=validation, models=None, base=Path(), off=off)
    server = server or Server()
    subject = Subject(running=server, terms=terms, client=server, emit=ignore)  # type: ignore[arg-type]
    return list(module.load(subject))


def only(*arguments: Any, **options: Any) -> Result:
    (found,) = results(*arguments, **options)
    return found


# -- what is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("requests: 5", [Closed(concurrency=1)]),
        ("concurrency: [1, 8]", [Closed(concurrency=1), Closed(concurrency=8)]),
        ("rate: [10, 2.5]", [Open(rate=10), Open(rate=2.5)]),
    ],
)
def test_each_number_is_a_run(measured: list[Measured], text: str, shapes: list[Any]) -> None:
    assert only(text).outcome == "passed"
    assert [shape for _, shape, _ in calls] == shapes


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("warmup: 3", {"requests": 100, "seconds": None, "warmup": 3, "verify_every": 10, "timeout": 3.0}),
        ("requests: 7, verify_every: 2", {"requests": 7, "seconds": None, "warmup": 10, "verify_every": 2}),
        ("duration: 2s", {"requests": None, "seconds": 2.0}),
    ],
)
def test_how_much_is_asked(measured: list[Measured], text: str, options: dict[str, Any]) -> None:
    only(text)
    assert {key: value for key, value in calls[0][2].items() if key in options} == options


def test_it_is_asked_over_http(measured: list[Measured]) -> None:
    only("encoding: json")
    only("encoding: binary")
    first, second = (call[0] for call in calls)
    assert isinstance(first, HttpWire)
    assert (first.address, first.path) == (("127.0.0.1", 8000), "/prefix/v2/models/m/versions/2/infer")
    assert first.headers == {"Content-Type": "application/json"}
    assert second.body == http.encode(REQUEST, True)[2]


def test_it_is_asked_over_grpc(measured: list[Measured]) -> None:
    only("protocol: grpc")
    wire = calls[0][0]
    assert isinstance(wire, GrpcWire)
    assert (wire.address, wire.message) == (("127.0.0.1", 8001), grpc.encode(REQUEST))


def test_answers_are_judged_as_the_check_has_it(measured: list[Measured]) -> None:
    only("encoding: binary")
    only("protocol: grpc")
    over_http, over_grpc = (call[2]["verify"] for call in calls)
    document = {"outputs": [{"name": "X", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    assert over_http(head, json.dumps(document).encode()) is None
    document["outputs"][0]["data"] = [2.0]
    assert over_http(head, json.dumps(document).encode()) == "output X: it is not 1"
    assert over_http(head, b"oops").startswith("the answer makes no sense: ")
    sized = b"HTTP/1.1 200 OK\r\ninference-header-content-length: 91\r\n\r\n"
    tail = b'{"outputs":[{"name":"X","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}'
    assert len(tail) == 92
    assert over_http(sized.replace(b"91", b"92"), tail + b"\0\0\x80\x3f") is None
    assert over_grpc(b"", b"\xff").startswith("the answer makes no sense: ")


@pytest.mark.parametrize(
    ("text", "options", "outcome", "message"),
    [
        ("protocol: grpc", {"off": ("grpc",)}, "unverified", "no load over grpc: the server was told not to speak it"),
        ("protocol: grpc", {"server": Server(grpc="")}, "unverified", "no load over gRPC: where the server answers it"),
        ("protocol: http", {"server": Server(http="https://h")}, "unverified", "no load over https: it would measure"),
        (
            "protocol: http",
            {"check": f"request: {{inputs: {X}}}, expect: {{status: {{error: {{code: 400}}}}}}"},
            "error",
            "right is no check of one request and one answer",
        ),
        (
            "protocol: grpc",
            {"check": f"mode: stream, request: {{inputs: {X}}}, expect: {{responses: {{min: 1}}}}"},
            "error",
            "right is no check of one request and one answer",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done(
    measured: list[Measured], text: str, options: dict[str, Any], outcome: str, message: str
) -> None:
    found = only(text, **options)
    assert (found.outcome, calls) == (outcome, [])
    assert found.message.startswith(message)


# -- what is said -------------------------------------------------------------------------------------------------


def test_all_is_well(measured: list[Measured]) -> None:
    found = only("concurrency: [1, 8], slo: {p50: 50ms, p99: 99ms, min_throughput: 50}")
    assert (found.outcome, found.hint) == ("passed", "")
    assert found.message == (
        "concurrency 1: 50/s, p50 50 ms, p99 99 ms; concurrency 8: 50/s, p50 50 ms, p99 99 ms"
    )  # fmt: skip
    first, second = found.evidence["runs"]
    assert (first["label"], first["protocol"], first["concurrency"], second["concurrency"]) == (
        "many",
        "http-binary",
        1,
        8,
    )
    assert first["latency"] == pytest.approx(
        {"min": 0.001, "mean": 0.0505, "p50": 0.05, "p90": 0.09, "p95": 0.095, "p99": 0.099, "p99.9": 0.1, "max": 0.1}
    )
    assert first["timeline"] == [[0, 100, 0.099]]
    assert json.loads(json.dumps(found.evidence, allow_nan=False)) == found.evidence


@pytest.mark.parametrize(
    ("text", "result", "message"),
    [
        ("slo: {p99: 40ms}", WELL, "p99 99 ms, at most 40 ms (concurrency 1)"),
        (
            "rate: [7], slo: {p50: 40ms, p90: 1ms, p95: 2ms, min_throughput: 60.5}",
            WELL,
            "p50 50 ms, at most 40 ms (7 a second); p90 90 ms, at most 1 ms (7 a second); "
            "p95 95 ms, at most 2 ms (7 a second); 50 answers a second, at least 60.5 (7 a second)",
        ),
        (
            "requests: 10",
            Measured(sent=10, ok=7, errors={'HTTP 500: {"error":"no"}': 1, "no answer within 3 s": 2}, latencies=FAST),
            "3 of 10 requests failed: 2 x no answer within 3 s, 1 x HTTP 500: no (concurrency 1)",
        ),
        (
            "slo: {error_rate: 0.25}",
            Measured(sent=10, ok=7, errors={"why": 3}, latencies=FAST),
            "3 of 10 requests failed, at most 25 %: 3 x why (concurrency 1)",
        ),
        (
            "slo: {error_rate: 1}",
            Measured(sent=3, errors={"why": 3}, seconds=1.0),
            "no request was answered (concurrency 1)",
        ),
        (
            "requests: 3",
            Measured(sent=3, ok=3, latencies=FAST, verified=3, wrong={"output X: it is not 1": 2}),
            "2 of 3 verified answers are wrong: output X: it is not 1 (concurrency 1)",
        ),
        (
            "requests: 3",
            Measured(stopped="the server refuses connections"),
            "given up: the server refuses connections (concurrency 1)",
        ),
    ],
)
def test_what_is_missed(measured: list[Measured], text: str, result: Measured, message: str) -> None:
    measured[:] = [result]
    found = only(text)
    assert (found.outcome, found.message) == ("failed", message)
    json.dumps(found.evidence, allow_nan=False)


def test_after_a_run_that_was_given_up_none_follows(measured: list[Measured]) -> None:
    measured[:] = [Measured(stopped="the server refuses connections")]
    found = only("concurrency: [1, 2, 3]", server=Server(ended=139))
    assert len(calls) == 1
    assert found.message.endswith("(concurrency 1): the server ended by SIGSEGV")


def test_what_is_allowed(measured: list[Measured]) -> None:
    measured[:] = [Measured(sent=10, ok=7, errors={"why": 3}, latencies=FAST, seconds=1.0)]
    assert only("slo: {error_rate: 0.3}").outcome == "passed"


@pytest.mark.parametrize(
    ("result", "hint"),
    [
        ({"cpu_seconds": 0.95}, "The core that sent the requests was busy"),
        ({"late": (0.0,) * 9 + (0.5,)}, "One request in a hundred left 500 ms"),
    ],
)
def test_what_else_bounds_the_figures_is_said(measured: list[Measured], result: dict[str, Any], hint: str) -> None:
    measured[:] = [replace(WELL, seconds=1.0, **result)]
    assert only("requests: 1").hint.startswith(hint)


# -- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "average", "message"),
    [
        ("concurrency: [8]", 2.0, ""),
        ("concurrency: [8]", 1.9, "1.90 inferences in one execution on average, at least 2 (concurrency 8)"),
        ("concurrency: [1, 8]", 1.0, "1.00 inferences in one execution on average, at least 2 (concurrency 8)"),
        ("concurrency: [1]", 1.0, "1.00 inferences in one execution on average, at least 2 (concurrency 1)"),
        ("concurrency: [1]", 4.0, ""),
        ("rate: [5]", 1.0, "1.00 inferences in one execution on average, at least 2 (5 a second)"),
        ("rate: [5]", None, "the server counts no execution of the model (5 a second)"),
    ],
)
def test_whether_it_batched(
    measured: list[Measured], monkeypatch: pytest.MonkeyPatch, text: str, average: float | None, message: str
) -> None:
    begun, ended = Batches(), Batches(inferences=int(10 * (average or 0)), executions=10 if average else 0)
    counts = iter([begun, begun, begun if average is None else Batches(inferences=1), ended, ended] * 2)
    monkeypatch.setattr(module, "batches", lambda subject, model, version: next(counts))
    found = only(f"{text}, expect_batching: {{min_avg_batch: 2}}")
    assert (found.outcome, found.message if message else "") == ("failed" if message else "passed", message)


def stats(inferences: int, executions: int, **sizes: int) -> dict[str, Any]:
    rows = [{"batch_size": int(size[1:]), "compute_infer": {"count": count}} for size, count in sizes.items()]
    return {"model_stats": [{"inference_count": inferences, "execution_count": executions, "batch_stats": rows}]}


def subject_with(*found: Any) -> Subject:
    server = Server(stats=iter(found))
    terms = Terms(validation=None, models=None, base=Path())  # type: ignore[arg-type]
    return Subject(running=server, terms=terms, client=server, emit=ignore)  # type: ignore[arg-type]


def test_batches_are_those_between_two_looks() -> None:
    subject = subject_with(stats(10, 4, _1=2, _4=2), stats(50, 10, _1=2, _4=4, _8=4))
    before, after = (batches(subject, "m", "2") for _ in range(2))
    found = after.since(before)
    assert found == Batches(inferences=40, executions=6, sizes={4: 2, 8: 4})
    assert found.to_json() == {"average": pytest.approx(40 / 6), "sizes": {"4": 2, "8": 4}}
    assert after.since(after).to_json() == {"average": None, "sizes": {}}


def test_what_cannot_be_known_is_not_taken_for_well(measured: list[Measured], monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*arguments: Any) -> Batches:
        raise NoAnswer("no", waited=False)

    monkeypatch.setattr(module, "batches", silent)
    assert only("concurrency: [8]").outcome == "passed"
    found = only("concurrency: [8], expect_batching: {min_avg_batch: 2}")
    assert found.message == "whether the server batches is not known: it gave no statistics (concurrency 8)"


def test_a_timeline_is_of_whole_seconds_but_for_the_last(measured: list[Measured]) -> None:
    line = [Second(number=0, answers=60, p99=0.1), Second(number=1, answers=0, p99=math.nan)]
    for seconds, last in ((2.5, [2, 80.0, 0.2]), (2.1, None), (2.25, [2, 160.0, 0.2])):
        measured[:] = [replace(WELL, seconds=seconds, timeline=[*line, Second(number=2, answers=40, p99=0.2)])]
        found = only("requests: 100").evidence["runs"][0]["timeline"]
        assert found == [[0, 60, 0.1], [1, 0, None], *([last] if last else [])]
    measured[:] = [replace(WELL, seconds=0.1, timeline=[Second(number=0, answers=100, p99=0.1)])]
    assert only("requests: 100").evidence["runs"][0]["timeline"] == [[0, 1000.0, 0.1]]


def test_a_server_without_statistics() -> None:
    with pytest.raises(NoAnswer, match="the server has no statistics of m: no"):
        batches(subject_with({"error": "no"}), "m", "2")
