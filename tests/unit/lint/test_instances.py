"""Instance groups, rate limits, repository agents."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path

import pytest

from composer.models.lint import Case, lint
from composer.models.repository import read_repository

from . import PLAIN, Files, assert_finds, assert_silent, model, write

BASE = """name: "m"
backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
LIMITED = Case(server={"rate-limit": "execution_count"})


def group(fields: str) -> str:
    """A config with one instance group."""
    return f"{BASE}instance_group [ {{ {fields} }} ]\n"


def needs(resources: str) -> str:
    """A config with an instance group that needs resources."""
    return group(f"kind: KIND_CPU rate_limiter {{ resources [ {resources} ] }}")


RULES = [
    ("INS001", group("kind: ^KIND_GPU"), Case(gpus=0), group("kind: KIND_GPU"), Case(gpus=1)),
    (
        "INS002",
        group("kind: KIND_GPU gpus: [ 0, ^1 ]"),
        Case(gpus=1),
        group("kind: KIND_GPU gpus: [ 1 ]"),
        Case(gpus=2),
    ),
    ("INS002", group("kind: KIND_GPU gpus: [ ^-1 ]"), Case(), group("kind: KIND_GPU gpus: [ 7 ]"), Case()),
    ("INS003", group("kind: KIND_CPU ^gpus: [ 0 ]"), Case(), group("kind: KIND_CPU"), Case()),
    ("INS003", group("^gpus: [ 0 ]"), Case(gpus=0), group("gpus: [ 0 ]"), Case(gpus=1)),
    ("INS003", group("^gpus: [ 0, 1 ]"), Case(gpus=1), group("gpus: [ 0, 1 ]"), Case()),
    ("INS004", group("kind: KIND_MODEL ^gpus: [ 0 ]"), Case(gpus=1), group("kind: KIND_MODEL"), Case(gpus=0)),
    ("INS006", group("count: ^0"), Case(), group("kind: KIND_CPU"), Case()),
    ("INS006", group("count: ^-3"), Case(), group("count: 1"), Case()),
    ("INS007", group("passive: ^true"), Case(), group("passive: true }, { kind: KIND_CPU"), Case()),
    (
        "INS008",
        group('host_policy: ^"near"'),
        Case(),
        group('host_policy: "near"'),
        Case(server={"host-policy": {"near": {"numa-node": 0}}}),
    ),
    ("INS010", group("^secondary_devices { device_id: 1 }"), Case(), group(""), Case()),
    (
        "RL001",
        needs('{ name: "R" global: true count: 1 } ]  } }, { rate_limiter { resources [ ^{ name: "R" count: 1 }'),
        LIMITED,
        needs('{ name: "R" global: true count: 1 }, { name: "S" count: 1 }'),
        LIMITED,
    ),
    (
        "RL002",
        needs('{ name: "R" count: ^3 }'),
        Case(server={"rate-limit": "execution_count", "rate-limit-resource": ("R:2", "R:9:1")}),
        needs('{ name: "R" count: 3 }'),
        Case(server={"rate-limit": "execution_count", "rate-limit-resource": ("R:2", "R:9:0")}),
    ),
    (
        "RL002",
        needs('{ name: "R" count: ^3 }'),
        Case(server={"rate-limit": "execution_count", "rate-limit-resource": "S:2"}),
        needs('{ name: "R" count: 3 global: true }'),
        Case(server={"rate-limit": "execution_count", "rate-limit-resource": "R:3:7"}),
    ),
    ("AGT003", BASE + "^model_repository_agents { }\n", Case(), BASE, Case()),
    (
        "AGT001",
        BASE + 'model_repository_agents { agents [ { name: ^"checksum" } ] }\n',
        Case(repoagents=frozenset()),
        BASE + 'model_repository_agents { agents [ { name: "checksum" } ] }\n',
        Case(),
    ),
]


@pytest.mark.parametrize(("rule", "bad", "case", "good", "other"), RULES)
def test_finds_one_thing_in_its_place(tmp_path: Path, rule: str, bad: str, case: Case, good: str, other: Case) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    assert_finds(tmp_path / "bad", rule, bad, case=case)
    assert_silent(tmp_path / "good", rule, good, case=other)


def test_nobody_counts_what_is_off(tmp_path: Path) -> None:
    for number, (rule, bad, *_) in enumerate(RULES):
        if rule.startswith("RL"):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert_silent(folder, rule, bad.replace("^", ""))


def test_resources_are_those_of_all_models(tmp_path: Path) -> None:
    for name, resource in (("m", '{ name: "R" count: 1 }'), ("n", '{ name: "R" count: 1 global: true }')):
        write(tmp_path / name / "config.pbtxt", needs(resource).replace('name: "m"', f'name: "{name}"'))
        write(tmp_path / name / "1/model.py", PLAIN)
    found = [one for one in lint([read_repository(tmp_path)], LIMITED) if one.rule.id == "RL001"]
    assert [one.model for one in found] == ["n"]


def test_the_name_that_the_server_gives_a_group_is_in_its_words(tmp_path: Path) -> None:
    found = assert_finds(tmp_path, "INS001", group("kind: ^KIND_GPU"), case=Case(gpus=0))
    assert found.says == "instance group m_0 of model m has kind KIND_GPU but no GPUs are available"


def test_a_gpu_that_nobody_asks_for(tmp_path: Path) -> None:
    config = BASE.replace("python", "pytorch").replace('"X"', '"X__0"').replace('"Y"', '"Y__0"')
    found = model(tmp_path, config, {"1/model.pt": b""}, Case(gpus=1))
    assert [one.severity for one in found if one.rule.id == "INS005"] == ["info"]


def test_two_secondary_devices(tmp_path: Path) -> None:
    config = BASE.replace('backend: "python"', 'platform: "tensorrt_plan"')
    config += "instance_group [ { secondary_devices { device_id: 0 } secondary_devices { device_id: 1 } } ]\n"
    found = model(tmp_path, config, {"1/model.plan": b"ftrt" + bytes(60)})
    assert [one.severity for one in found if one.rule.id == "INS010"] == ["error"]


CHECKSUM = 'model_repository_agents {{ agents [ {{ name: "checksum" parameters {{ key: "{0}" value: ^"{1}" }} }} ] }}\n'
GOOD = md5(PLAIN.encode(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("key", "value"),
    [("MD5:1/model.py", "0" * 32), ("MD5:1/none.py", GOOD), ("SHA1:1/model.py", GOOD), ("1/model.py", GOOD)],
)
def test_checksums_that_the_agent_refuses(tmp_path: Path, key: str, value: str) -> None:
    assert_finds(tmp_path, "AGT002", BASE + CHECKSUM.format(key, value))


@pytest.mark.parametrize("way", ["MD5", "md5"])
def test_a_checksum_that_is_right(tmp_path: Path, way: str) -> None:
    files: Files = {"1/model.py": PLAIN}
    assert_silent(tmp_path, "AGT002", BASE + CHECKSUM.format(f"{way}:1/model.py", GOOD).replace("^", ""), files)
