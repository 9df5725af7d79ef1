"""Reports as proofs make them, from fixed values: of a server that serves, of one that fails, and of hostile ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from composer.checks.report import About, Report, Result
from composer.reports.document import jsonable, report_schema

SCHEMA = report_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
ONE = Draft202012Validator({"$ref": "#/$defs/report", "$defs": SCHEMA["$defs"]})


def require_valid(report: Report) -> None:
    """Fail where a report is not as the published schema says."""
    wrong = [
        f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in ONE.iter_errors(jsonable(report.to_json()))
    ]
    assert not wrong, f"composer/reports/report.schema.json does not allow this report: {'; '.join(wrong)}"


ABOUT = About(
    tool="tricompose 0.1.0",
    name="quickstart",
    image="docker://registry.example.com/tools/tritonserver:24.10-slim",
    digest=f"sha256:{'4f2a' * 16}",
    size=291_514_880,
    upstream_size=2_142_306_304,
    parts={
        "the upstream's own": 71_303_168,
        "core": 29_360_128,
        "backends/onnxruntime": 162_529_280,
        "backends/python": 6_291_456,
        "model linear_onnx": 20_971_520,
        "model add_sub": 1_048_576,
        "files": 10_752,
    },
    platform="linux/amd64",
    release="24.10",
    models={"linear_onnx": f"sha256:{'0b' * 32}", "add_sub": f"sha256:{'c7' * 32}"},
    server="triton 2.51.0",
    runner="docker",
    engine="Docker Engine 27.3.1",
    started="2026-11-21T17:26:25Z",
    seconds=41.7,
)


def bell(count: int, middle: float, spread: float) -> list[list[float]]:
    """A histogram of latencies, skewed as those of servers are: upper ends in seconds, and how many."""
    uppers = [middle * math.exp(step * spread / 6) for step in range(-12, 31)]
    weights = [math.exp(-(((step + 2) / (5 if step < -2 else 9)) ** 2)) for step in range(-12, 31)]
    counts = [round(count * weight / sum(weights)) for weight in weights]
    return [[upper, many] for upper, many in zip(uppers, counts, strict=True) if many]


def percentiles(histogram: list[list[float]]) -> dict[str, float]:
    total = sum(many for _, many in histogram)

    def at(share: float) -> float:
        seen = 0.0
        for upper, many in histogram:
            seen += many
            if seen >= share * total:
                return upper
        return histogram[-1][0]

    named = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
    mean = sum(upper * many for upper, many in histogram) / total
    found = {"min": histogram[0][0], "mean": mean, **{name: at(share) for name, share in named.items()}}
    return {**found, "max": histogram[-1][0]}


def run(label: str, protocol: str, concurrency: int, throughput: float, **more: Any) -> dict[str, Any]:
    """The evidence of one run of 10 s."""
    middle = concurrency / throughput * 0.9
    histogram = bell(int(throughput * 10), middle, 0.35)
    sent = int(sum(many for _, many in histogram))
    wave = [1 + 0.04 * math.sin(second * 1.7 + concurrency) for second in range(10)]
    found = {
        "label": label,
        "protocol": protocol,
        "concurrency": concurrency,
        "sent": sent,
        "ok": sent,
        "errors": {},
        "seconds": 10.0,
        "throughput": throughput,
        "latency": percentiles(histogram),
        "histogram": histogram,
        "verified": sent // 10,
        "wrong": 0,
        "client_cpu_seconds": 4.2,
        "batches": {"average": min(8.0, 0.6 * concurrency + 0.4), "sizes": {"1": sent // 9, "4": sent // 5, "8": 40}},
        "timeline": [
            [second, throughput * each, percentiles(histogram)["p99"] / each] for second, each in enumerate(wave)
        ],
    }
    return found | more


def answers(off: float | str | None = 1.2e-7) -> dict[str, Any]:
    output = {"Y": {"datatype": "FP32", "shape": [1, 3], "max_abs": off, "max_rel": off}}
    return {
        "ways": {
            "http-json": {"status": 200, "seconds": 0.0021, "outputs": output},
            "http-binary": {"status": 200, "seconds": 0.0012, "outputs": output},
            "grpc": {"status": "OK", "seconds": 0.0009, "outputs": output},
        },
        "request_sha256": "9c" * 32,
    }


def serving() -> list[Result]:
    return [
        Result(id="libraries", kind="image", outcome="passed", message="312 of 312 programs find what they link to"),
        Result(id="ready", kind="health", outcome="passed", message="ready after 2.3 s", seconds=2.31),
        Result(id="models", kind="health", outcome="passed", message="add_sub, linear_onnx are ready", seconds=0.01),
        Result(id="log", kind="logs", outcome="passed", message="no line says error", seconds=0.002),
        Result(
            id="linear",
            kind="inference",
            outcome="passed",
            message="3 ways agree, and are as expected",
            evidence=answers(),
            seconds=0.014,
        ),
        Result(
            id="wrong-shape",
            kind="inference",
            outcome="passed",
            message="refused with 400: \"unexpected shape for input 'X'\"",
            seconds=0.006,
        ),
    ]


LOADED = Result(
    id="linear-load",
    kind="load",
    outcome="passed",
    message="p99 is 3.41 ms (allowed: 40 ms); 8,911 requests/s (at least 5,000)",
    seconds=41.2,
    evidence={
        "runs": [
            run("linear-load", "http-binary", 1, 2140.0),
            run("linear-load", "http-binary", 8, 6320.0),
            run("linear-load", "http-binary", 32, 7105.0),
            run("linear-load", "grpc", 1, 2610.0),
            run("linear-load", "grpc", 8, 8020.0),
            run("linear-load", "grpc", 32, 8911.0),
        ]
    },
)
NO_GPU = Result(
    id="gpu",
    kind="gpu",
    outcome="unverified",
    message="the server sees no GPU, so that it serves on one is not proved",
    hint="run it where a GPU is, or say gpu: off",
)
ON_GPU = Result(
    id="gpu",
    kind="gpu",
    outcome="passed",
    message="linear_onnx ran on NVIDIA H200",
    seconds=0.4,
    evidence={
        "gpus": [
            {
                "uuid": "GPU-5b1e0c4e-9b0a-4d5e-8a66-0a1b2c3d4e5f",
                "name": "NVIDIA H200",
                "memory_total": 150_754_820_096,
                "driver": "550.127.05",
                "compute_capability": "9.0",
            }
        ],
        "models": [
            {
                "model": "linear_onnx",
                "kinds": {"KIND_GPU": 1},
                "gpus": [0],
                "executions": {"GPU-5b1e0c4e-9b0a-4d5e-8a66-0a1b2c3d4e5f": 3120},
                "executions_elsewhere": 12,
                "proof": "memory",
                "signs": {"memory": "1.2 GB more on GPU-5b1e0c4e"},
            }
        ],
    },
)

LOG = (
    'I1121 17:26:27.101 1 model_lifecycle.cc:472] "loading: add_sub:1"',
    'I1121 17:26:27.455 41 pb_stub.cc:366] "Failed to initialize Python stub: '
    "ModuleNotFoundError: No module named 'cv2'\\n\\nAt:\\n  /opt/models/add_sub/1/model.py(3): <module>\\n\"",
    "E1121 17:26:27.460 1 model_lifecycle.cc:642] \"failed to load 'add_sub' version 1: Internal: "
    "ModuleNotFoundError: No module named 'cv2'\"",
)


def passing() -> Report:
    """Everything passed, but that no GPU was there."""
    return Report(results=[*serving(), NO_GPU, LOADED], about=ABOUT)


def on_gpu() -> Report:
    return Report(results=[*serving(), ON_GPU, LOADED], about=ABOUT)


def failing() -> Report:
    """A model that cannot be loaded, an answer that is wrong, and a check that could not be done."""
    results = [
        serving()[0],
        Result(id="ready", kind="health", outcome="failed", message="not ready after 300 s", seconds=300.2),
        Result(
            id="models",
            kind="health",
            outcome="failed",
            message="add_sub is not ready: ModuleNotFoundError: No module named 'cv2'",
            hint="packages: {pip: [opencv-python-headless]}",
            evidence={
                "expected": ["add_sub", "linear_onnx"],
                "index": {"add_sub": "UNAVAILABLE", "linear_onnx": "READY"},
            },
            seconds=0.012,
        ),
        Result(
            id="linear",
            kind="inference",
            outcome="failed",
            message="Y[0, 2] is 4.0 over http-json, and should be 4.5",
            evidence=answers(0.5),
            seconds=0.02,
        ),
        Result(id="from-file", kind="inference", outcome="error", message="input.npy does not exist", hint="ls data"),
        NO_GPU,
        Result(id="linear-load", kind="load", outcome="skipped", message="the server is not ready"),
    ]
    diagnosis = {
        "id": "python-module-missing",
        "title": "a Python model imports a module that the image lacks",
        "why": "add_sub/1/model.py says import cv2, and neither the image nor the model's folder has it.",
        "fix": "packages: {pip: [opencv-python-headless]}",
        "lines": [LOG[2]],
        "model": "add_sub",
    }
    return Report(results=results, about=ABOUT, diagnoses=[diagnosis], log=LOG)


def failing_load() -> Report:
    """A server that gives out under load."""
    runs = [
        run("burst", "grpc", 8, 8020.0),
        run("burst", "grpc", 64, 2100.0, errors={"deadline exceeded after 5 s": 312, "connection reset": 4}, wrong=7),
    ]
    load = Result(
        id="burst",
        kind="load",
        outcome="failed",
        message="316 of 21,000 requests failed (allowed: 0), and 7 of 2,100 answers are wrong",
        hint="raise instance_group.count of linear_onnx, or the limit",
        evidence={"runs": runs},
        seconds=20.4,
    )
    return Report(results=[*serving(), load], about=ABOUT)


def many(count: int = 200) -> Report:
    """A big proof: every seventh check fails, every eleventh is unverified."""
    results = [
        Result(
            id=f"model-{number:03}",
            kind="inference",
            outcome="failed" if number % 7 == 0 else "unverified" if number % 11 == 0 else "passed",
            message="answers are as expected" if number % 7 else f"Y[{number}] is 0.25, and should be 0.75",
            evidence=answers(),
            seconds=number / 1000,
        )
        for number in range(1, count + 1)
    ]
    return Report(results=results, about=ABOUT)


EVIL = (
    "<script>alert('x')</script> | `a` **b** _c_ [d](e) \\ $f$ ~g~ &amp; "
    "\x1b[31mred\x1b[0m \x00\x07\ud800\u202e ]]> -->"
)


def hostile() -> Report:
    """Texts that mean something to every format that a report is written in, wherever a text can stand."""
    about = About(
        name=EVIL, image=EVIL, platform=EVIL, server=EVIL, models={EVIL: EVIL}, runner=EVIL, engine=EVIL, tool=EVIL
    )
    results = [
        Result(
            id=f"{kind} {EVIL}", kind=kind, outcome=outcome, message=f"{EVIL}\n\n{EVIL}", hint=EVIL, evidence=evidence
        )
        for kind, outcome, evidence in _evil_evidence()
    ]
    diagnosis = dict.fromkeys(("id", "title", "why", "fix", "model"), EVIL) | {"lines": [EVIL]}
    return Report(results=results, about=about, diagnoses=[diagnosis], log=[EVIL, "second"])


def _evil_evidence() -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    yield "image", "failed", {EVIL: EVIL, "log": [EVIL]}
    yield "health", "error", {"deep": {EVIL: [EVIL, {EVIL: 1}]}}
    yield "logs", "skipped", {"lines": [EVIL]}
    yield "inference", "failed", {"ways": {EVIL: {"status": EVIL, "outputs": {EVIL: {"datatype": EVIL}}}}}
    yield (
        "gpu",
        "passed",
        {
            "gpus": [{"uuid": EVIL, "name": EVIL}],
            "models": [{"model": EVIL, "proof": "energy", "signs": {"energy": EVIL}}],
        },
    )
    yield "load", "failed", {"runs": [run(EVIL, EVIL, 1, 100.0, errors={EVIL: 3}), run(EVIL, EVIL, 2, 150.0)]}


def long_winded() -> Report:
    """Messages longer than any screen, and a log of thousands of lines."""
    word = "an-image-with-a-very-long-name/" * 12
    results = [
        Result(id="ready", kind="health", outcome="failed", message=f"{word} is not {'there ' * 300}", hint=word),
        Result(id=word, kind="inference", outcome="passed", message="short"),
    ]
    log = [f"line {number}: {'x' * (number % 400)}" for number in range(5000)]
    return Report(results=results, about=ABOUT, log=log)


ALL = {
    "passing": passing,
    "on-gpu": on_gpu,
    "failing": failing,
    "failing-load": failing_load,
    "many": many,
    "hostile": hostile,
    "long-winded": long_winded,
    "empty": lambda: Report(results=[]),
    "unverified": lambda: Report(results=[NO_GPU]),
}
"""Every one of them, by name."""
