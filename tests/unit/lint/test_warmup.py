"""Warmup samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import FILLING, PLAIN, Files, assert_finds, assert_silent, model

BASE = """name: "m"
backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


def sample(inputs: str, batch: str = "batch_size: 1") -> str:
    """A config with one warmup sample."""
    return f'{BASE}model_warmup [ {{ name: "w" {batch} {inputs} }} ]\n'


def data(fields: str, name: str = "X") -> str:
    """An input of a sample."""
    return f'inputs {{ key: "{name}" value: {{ {fields} }} }}'


FINE = sample(data("data_type: TYPE_FP32 dims: [ 2 ] zero_data: true"))

RULES = [
    ("WRM001", sample(data("data_type: TYPE_FP32 dims: [ ^-1 ] zero_data: true"))),
    ("WRM001", sample(data("data_type: TYPE_FP32 dims: [ ^-2 ] zero_data: true")).replace("[ 2 ]", "[ -1 ]", 1)),
    ("WRM002", sample("^" + data("data_type: TYPE_FP32 dims: [ 2 ]"))),
    ("WRM003", sample(data('data_type: TYPE_FP32 dims: [ 2 ] input_data_file: ^"x"'))),
    ("WRM005", sample(data("data_type: ^TYPE_INT32 dims: [ 2 ] zero_data: true"))),
    ("WRM006", sample(data("data_type: TYPE_FP32 ^dims: [ 5 ] zero_data: true"))),
    ("WRM006", sample(data("data_type: TYPE_FP32 ^dims: [ 1, 2 ] zero_data: true"))),
    ("WRM007", sample("").replace("[ {", "[ ^{", 3).replace("put [ ^{", "put [ {")),
    ("WRM008", FINE.replace("batch_size: 1", "batch_size: ^5")),
    ("WRM009", FINE.replace("batch_size: 1", "batch_size: ^0")),
    ("WRM012", FINE.replace("inputs", "^" + data("dims: [ 1 ] zero_data: true", "U") + " inputs")),
    (
        "WRM012",
        sample(
            data("data_type: TYPE_FP32 dims: [ 2 ] zero_data: true") + " ^" + data("dims: [ 1 ] zero_data: true", "")
        ),
    ),
    (
        "WRM010",
        sample(data("data_type: TYPE_INT64 dims: [ 2 ] random_data: ^true")).replace("TYPE_FP32", "TYPE_INT64", 1),
    ),
]


@pytest.mark.parametrize(("rule", "bad"), RULES)
def test_finds_one_thing_in_its_place(tmp_path: Path, rule: str, bad: str) -> None:
    assert_finds(tmp_path, rule, bad)


@pytest.mark.parametrize(
    "config",
    [
        FINE,
        FINE.replace("batch_size: 1", "batch_size: 4"),
        sample(data("data_type: TYPE_FP32 dims: [ 2 ] random_data: true")),
        FINE.replace("dims: [ 2 ] } ]", "dims: [ -1 ] } ]", 1),
        FINE.replace("inputs", data("data_type: TYPE_FP32 dims: [ 9 ] zero_data: false", "START") + " inputs"),
        sample(data("data_type: TYPE_FP32 dims: [ 0 ] zero_data: true")).replace("dims: [ 2 ]", "dims: [ -1 ]", 1),
    ],
)
def test_samples_that_the_server_runs(tmp_path: Path, config: str) -> None:
    found = model(tmp_path, config)
    assert not [one for one in found if one.rule.id.startswith("WRM")]


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES if rule not in ("WRM009", "WRM010")])
def test_nobody_warms_up_what_is_passive(tmp_path: Path, rule: str) -> None:
    bad = next(bad for known, bad in RULES if known == rule)
    found = model(tmp_path, bad.replace("^", "") + "instance_group [ { passive: true } ]\n")
    assert rule not in {one.rule.id for one in found}


@pytest.mark.parametrize("rule", ["WRM007", "WRM008"])
def test_what_the_model_itself_may_fill_in_is_not_held_against_it(tmp_path: Path, rule: str) -> None:
    bad = next(bad for known, bad in RULES if known == rule)
    found = model(tmp_path, bad.replace("^", ""), {"1/model.py": FILLING})
    assert rule not in {one.rule.id for one in found}


@pytest.mark.parametrize(("size", "short"), [(7, True), (8, False), (9, False)])
def test_the_file_of_a_sample(tmp_path: Path, size: int, short: bool) -> None:
    files: Files = {"1/model.py": PLAIN, "warmup/x": bytes(size)}
    config = sample(data('data_type: TYPE_FP32 dims: [ 2 ] input_data_file: ^"x"'))
    if short:
        found = assert_finds(tmp_path, "WRM004", config, files)
        assert found.says == "warmup setting expects 8 bytes, but the data provided from xonly has 7 bytes"
    else:
        assert_silent(tmp_path, "WRM004", config.replace("^", ""), files)


def test_the_server_s_words_for_what_is_missing(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "WRM007", dict(RULES)["WRM007"])
    assert found.says == (
        "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['X']."
    )


def test_a_model_without_batches_takes_one(tmp_path: Path) -> None:
    flat = FINE.replace("max_batch_size: 4", "max_batch_size: 0")
    assert_silent(tmp_path, "WRM008", flat)


def test_an_optional_input_makes_up_for_a_required_one(tmp_path: Path) -> None:
    optional = 'input { name: "Z" data_type: TYPE_FP32 dims: [ 2 ] optional: true }\n'
    found = model(tmp_path, FINE.replace('key: "X"', 'key: "Z"') + optional)
    assert [one.severity for one in found if one.rule.id == "WRM007"] == ["warning"]


def test_a_sample_wants_some_input(tmp_path: Path) -> None:
    bad = dict(RULES)["WRM007"].replace("dims: [ 2 ] } ]", "dims: [ 2 ] optional: true } ]", 1)
    assert_finds(tmp_path, "WRM007", bad)


@pytest.mark.parametrize(
    ("strings", "count"),
    [(b"\1\0\0\0a\0\0\0\0", 2), (b"\1\0\0\0a", 1), (b"\1\0\0\0a\2\0\0\0b", -1), (b"", 0)],
)
def test_strings_are_counted(tmp_path: Path, strings: bytes, count: int) -> None:
    config = sample(data('data_type: TYPE_STRING dims: [ 2 ] input_data_file: ^"x"'))
    config = config.replace("TYPE_FP32", "TYPE_STRING", 1)
    files: Files = {"1/model.py": PLAIN, "warmup/x": strings}
    if count == 2:
        assert_silent(tmp_path, "WRM011", config.replace("^", ""), files)
    else:
        assert f"got {count}" in assert_finds(tmp_path, "WRM011", config, files).says
