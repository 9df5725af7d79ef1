"""Batching, queues, response cache, transaction policy, metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.models.lint import Case
from composer.releases import RELEASES
from tests.modelfiles import node, onnx_model

from . import PLAIN, Files, assert_finds, assert_silent, model

STREAMING = PLAIN.replace("return []", "return None")

BASE = """name: "m"
backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
FLAT = BASE.replace("max_batch_size: 4", "max_batch_size: 0")
SEQUENCES = BASE + "sequence_batching { }\n"
STRATEGY = 'parameters { key: "TRITON_BATCH_STRATEGY_PATH" value: { string_value: "PATH" } }\n'


def batching(fields: str) -> str:
    """A config with dynamic batching."""
    return f"{BASE}dynamic_batching {{ {fields} }}\n"


def metric(fields: str) -> str:
    """A config that says something of metrics."""
    return f"{BASE}model_metrics {{ {fields} }}\n"


FAMILY = 'metric_identifier { family: "nv_inference_first_response_histogram_ms" }'
BUCKETS = "histogram_options { buckets: [ 1, 2 ] }"
CONTROL = f"metric_control {{ {FAMILY} {BUCKETS} }}"

RULES = [
    ("BAT001", batching("preferred_batch_size: [ 2, ^8 ]"), batching("preferred_batch_size: [ 2, 4 ]")),
    ("BAT001", FLAT + "dynamic_batching { preferred_batch_size: ^1 }", batching("preferred_batch_size: 1")),
    ("BAT002", batching("preferred_batch_size: [ ^0 ]"), batching("preferred_batch_size: [ 1 ]")),
    ("BAT003", FLAT + "^dynamic_batching { }", batching("")),
    (
        "BAT004",
        batching("priority_levels: 3 default_priority_level: ^4"),
        batching("priority_levels: 3 default_priority_level: 3"),
    ),
    ("BAT004", batching("priority_levels: 3").replace("dyn", "^dyn"), batching("default_priority_level: 3")),
    (
        "BAT005",
        batching("priority_levels: 2 default_priority_level: 1 ^priority_queue_policy { key: 3 value: { } }"),
        batching("priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 2 value: { } }"),
    ),
    (
        "BAT012",
        batching("default_queue_policy { default_timeout_microseconds: ^5 }"),
        batching("default_queue_policy { default_timeout_microseconds: 500 }"),
    ),
    (
        "BAT012",
        batching("default_queue_policy { timeout_action: REJECT default_timeout_microseconds: ^100 }"),
        batching("default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 }"),
    ),
    (
        "BAT006",
        batching("preserve_ordering: ^true priority_levels: 2 default_priority_level: 1"),
        batching("preserve_ordering: true priority_levels: 1 default_priority_level: 1"),
    ),
    (
        "BAT007",
        batching(
            "preserve_ordering: true default_queue_policy { timeout_action: ^DELAY default_timeout_microseconds: 9 }"
        ),
        batching("preserve_ordering: true default_queue_policy { timeout_action: DELAY }"),
    ),
    (
        "BAT007",
        batching(
            "preserve_ordering: true priority_levels: 1 default_priority_level: 1 priority_queue_policy "
            "{ key: 1 value: { timeout_action: ^DELAY default_timeout_microseconds: 9 } }"
        ),
        batching("default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9 }"),
    ),
    ("BAT008", batching("max_queue_delay_microseconds: ^1000000"), batching("max_queue_delay_microseconds: 999999")),
    ("BAT011", SEQUENCES + "^" + STRATEGY, SEQUENCES),
    ("BAT011", BASE + "^" + STRATEGY.replace('"PATH"', '""'), BASE),
    (
        "CCH001",
        BASE + "response_cache { enable: ^true }\nmodel_transaction_policy { decoupled: true }\n",
        BASE + "response_cache { enable: true }\nmodel_transaction_policy { decoupled: false }\n",
    ),
    (
        "CCH002",
        SEQUENCES + "response_cache { enable: ^true }\n",
        SEQUENCES + "response_cache { enable: false }\n",
    ),
    (
        "DEC001",
        BASE + "model_transaction_policy { decoupled: ^true }\n",
        BASE + "model_transaction_policy { decoupled: false }\n",
    ),
    ("MET001", metric("^metric_control { " + BUCKETS + " }"), metric(CONTROL)),
    ("MET002", metric("metric_control { ^metric_identifier { } " + BUCKETS + " }"), metric(CONTROL)),
    ("MET003", metric("^metric_control { " + FAMILY + " }"), metric(CONTROL)),
    ("MET004", metric("metric_control { " + FAMILY + " ^histogram_options { } }"), metric(CONTROL)),
    ("MET005", metric(CONTROL.replace('"nv_inference_first', '^"nv_inference_last')), metric(CONTROL)),
]


@pytest.mark.parametrize(("rule", "bad", "good"), RULES)
def test_finds_one_thing_in_its_place(tmp_path: Path, rule: str, bad: str, good: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    files: Files = {"1/model.py": STREAMING if "decoupled: " in bad else PLAIN}
    assert_finds(tmp_path / "bad", rule, bad, files)
    assert_silent(tmp_path / "good", rule, good)


@pytest.mark.parametrize(
    ("rule", "release"), [("CCH001", "22.06"), ("CCH002", "23.08"), ("MET001", "24.10"), ("BAT011", "22.12")]
)
def test_older_releases_do_not_know_it(tmp_path: Path, rule: str, release: str) -> None:
    bad = next(bad for known, bad, _ in RULES if known == rule)
    found = model(tmp_path, bad.replace("^", ""), case=Case(release=RELEASES[release]))
    assert rule not in {one.rule.id for one in found}


# -- ONNX files -----------------------------------------------------------------------------------


def _file(batch: int | str) -> Files:
    nodes = [node("Identity", ["X"], ["Y"])]
    made = onnx_model(inputs={"X": ("FP32", [batch, 2])}, outputs={"Y": ("FP32", [batch, 2])}, nodes=nodes)
    return {"1/model.onnx": made}


ONNX = BASE.replace("python", "onnxruntime")
NOTHING_SAID = 'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: SIZE\n'


def test_the_server_sets_a_batch_of_its_own(tmp_path: Path) -> None:
    assert_finds(tmp_path, "BAT009", NOTHING_SAID.replace("SIZE", "^0"), _file("N"))


@pytest.mark.parametrize(("config", "batch"), [("0", 3), ("4", "N")])
def test_the_server_keeps_what_is_said(tmp_path: Path, config: str, batch: int | str) -> None:
    assert_silent(tmp_path, "BAT009", NOTHING_SAID.replace("SIZE", config), _file(batch))


@pytest.mark.parametrize("config", [NOTHING_SAID.replace("SIZE", "^4"), ONNX.replace(" 4", " ^4")])
def test_batches_of_a_file_that_takes_none(tmp_path: Path, config: str) -> None:
    text = config.replace("^", "")
    found = [one for one in model(tmp_path, text, _file(3)) if one.rule.id == "BAT010"]
    assert {(one.place.line, one.place.column) for one in found if one.place} == {(3, 17)}


def test_batches_of_a_file_that_takes_them(tmp_path: Path) -> None:
    assert_silent(tmp_path, "BAT010", ONNX, _file("N"))


# -- batching strategies --------------------------------------------------------------------------


def test_a_strategy_that_is_no_library(tmp_path: Path) -> None:
    found = model(tmp_path, BASE, {"1/model.py": PLAIN, "batchstrategy.so": "text"})
    assert [(one.rule.id, one.path.name) for one in found if one.severity == "error"] == [
        ("BAT011", "batchstrategy.so")
    ]


def test_a_strategy_that_is_one(tmp_path: Path) -> None:
    assert_silent(tmp_path, "BAT011", BASE, {"1/model.py": PLAIN, "1/batchstrategy.so": b"\x7fELF" + bytes(60)})


@pytest.mark.parametrize(
    ("path", "case", "severity"),
    [
        ("/models/m/1/x.so", Case(), "error"),
        ("/models/m/1/model.py", Case(), None),
        ("/nowhere/x.so", Case(files=frozenset()), "error"),
        ("/nowhere/x.so", Case(), "warning"),
        ("x.so", Case(files=frozenset({"/nowhere"})), "error"),
        ("/nowhere/x.so", Case(files=frozenset({"/nowhere"})), "warning"),
        ("/opt/x.so", Case(files=frozenset()), None),
        ("/opt/x.so", Case(release=RELEASES["26.06"]), "error"),
    ],
)
def test_a_strategy_by_its_path(tmp_path: Path, path: str, case: Case, severity: str | None) -> None:
    found = model(tmp_path, BASE + STRATEGY.replace('"PATH"', f'"{path}"'), case=case)
    assert [one.severity for one in found if one.rule.id == "BAT011"] == [severity] * (severity is not None)
