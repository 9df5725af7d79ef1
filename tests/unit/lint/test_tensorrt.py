"""TensorRT plans: their versions, and instances, profiles and graphs of the config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from composer.models.lint import Case
from composer.models.lint.rule import RULES
from composer.releases import RELEASES
from tests.modelfiles import plan, ultralytics_plan

from . import Files, assert_finds, assert_finds_at, assert_silent, model

R2409 = Case(release=RELEASES["24.09"])
HAS = (10, 4, 0, 26)
CONFIG = """name: "m"
backend: "tensorrt"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


def test_the_release_of_these_tests_has_this_tensorrt() -> None:
    assert RELEASES["24.09"].tensorrt == ".".join(map(str, HAS))


def one(data: bytes | None = None) -> Files:
    return {"1/model.plan": plan(HAS) if data is None else data}


# -- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [plan(magic=b"ptrt"), b"hello, world" * 9, plan()[:20]])
def test_no_plan(tmp_path: Path, data: bytes) -> None:
    assert_finds_at(tmp_path, "TRT001", "1/model.plan", CONFIG, one(data), R2409)


def test_a_plan(tmp_path: Path) -> None:
    assert_silent(tmp_path, "TRT001", CONFIG, one(), R2409)


@pytest.mark.parametrize("version", [(10, 5, 0, 18), (10, 4, 1, 1), (8, 6, 1, 6)])
def test_a_plan_of_another_tensorrt(tmp_path: Path, version: tuple[int, int, int, int]) -> None:
    found = assert_finds_at(tmp_path, "TRT002", "1/model.plan", CONFIG, one(plan(version)), R2409)
    made = ".".join(map(str, version[:3]))
    assert f"expecting library version 10.4.0 got {made}, please rebuild" in found.says
    assert f"TensorRT {made}.{version[3]} made this plan, and 24.09 has 10.4.0.26" in found.message


@pytest.mark.parametrize(
    ("data", "case"),
    [
        (plan((10, 4, 0, 11)), R2409),
        (plan((8, 6, 1, 6)), Case()),
        (plan((8, 6, 1, 6)), Case(release=replace(RELEASES["24.09"], tensorrt=None))),
        (plan((99, 6, 1, 6), second=7), R2409),
        (plan((10, 1, 0, 1)), replace(R2409, server={"backend-config": "tensorrt,version-compatible=true"})),
    ],
    ids=["another build", "no release", "not known", "an unknown layout", "made to outlive a version"],
)
def test_versions_that_will_do_or_are_not_known(tmp_path: Path, data: bytes, case: Case) -> None:
    assert_silent(tmp_path, "TRT002", CONFIG, one(data), case)


def test_nothing_outlives_a_major_version(tmp_path: Path) -> None:
    case = replace(R2409, server={"backend-config": "tensorrt,version-compatible=true"})
    assert_finds_at(tmp_path, "TRT002", "1/model.plan", CONFIG, one(plan((8, 6, 1, 6))), case)


def test_plans_for_kinds_of_gpus(tmp_path: Path) -> None:
    text = CONFIG + 'cc_model_filenames [ { key: "8.6" value: "a.plan" } ]\n'
    files: Files = {"1/model.plan": plan(HAS), "1/a.plan": plan((8, 6, 1, 6))}
    found = [one for one in model(tmp_path, text, files, R2409) if one.rule.id == "TRT002"]
    assert [(one.path.name, one.severity) for one in found] == [("a.plan", "warning")]


def test_what_ultralytics_writes(tmp_path: Path) -> None:
    data = ultralytics_plan(plan(HAS))
    found = assert_finds_at(tmp_path, "TRT005", "1/model.plan", CONFIG, one(data), R2409)
    at = data.index(b"ftrt") + 1
    assert found.fix.startswith(f"tail -c +{at} ")


# -- instances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["KIND_CPU", "KIND_MODEL"])
def test_instances_that_are_not_on_gpus(tmp_path: Path, kind: str) -> None:
    assert_finds(tmp_path, "TRT006", CONFIG + f"instance_group [ {{ kind: ^{kind} }} ]\n", one(), R2409)


def test_a_server_without_gpus(tmp_path: Path) -> None:
    no_gpu = replace(R2409, gpus=0)
    found = [one.rule.id for one in model(tmp_path, CONFIG, one(), no_gpu) if one.severity == "error"]
    assert found == ["TRT006"]
    (tmp_path / "good").mkdir()
    assert_silent(tmp_path / "good", "TRT006", CONFIG, one(), replace(R2409, gpus=1))
    (tmp_path / "said").mkdir()
    text = CONFIG + "instance_group [ { kind: KIND_GPU } ]\n"
    found = [one.rule.id for one in model(tmp_path / "said", text, one(), no_gpu) if one.severity == "error"]
    assert found == ["INS001"]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ('^"a"', "unable to parse 'a': stoi"),
        ('"0", ^"-1"', "specifies invalid profile -1. The field should"),
        ('^""', "profile name must not be empty"),
    ],
)
def test_odd_profiles(tmp_path: Path, profile: str, words: str) -> None:
    text = CONFIG + f"instance_group [ {{ kind: KIND_GPU profile: [ {profile} ] }} ]\n"
    assert words in assert_finds(tmp_path, "TRT007", text, one(), R2409).says


def test_profiles(tmp_path: Path) -> None:
    text = CONFIG + 'instance_group [ { kind: KIND_GPU profile: [ "0", "1 and more" ] } ]\n'
    assert_silent(tmp_path, "TRT007", text, one(), R2409)


def test_profiles_of_others(tmp_path: Path) -> None:
    text = CONFIG.replace("tensorrt", "python") + 'instance_group [ { kind: KIND_CPU ^profile: [ "0" ] } ]\n'
    found = assert_finds(tmp_path, "TRT007", text, None, R2409)
    assert "specifies profile field which is only supported for TensorRT models" in found.says


def test_cores_for_deep_learning(tmp_path: Path) -> None:
    group = "instance_group [ { kind: KIND_GPU secondary_devices [ ^{ kind: KIND_NVDLA device_id: 1 } ] } ]\n"
    found = assert_finds(tmp_path, "TRT012", CONFIG + group, one(), R2409)
    assert "DLA Core ID: 1," in found.says
    (tmp_path / "arm").mkdir()
    arm = replace(R2409, architecture="arm64")
    assert_silent(tmp_path / "arm", "TRT012", CONFIG + group.replace("^", ""), one(), arm)


# -- settings -------------------------------------------------------------------------------------


def test_strategies(tmp_path: Path) -> None:
    new = Case(release=RELEASES["25.05"])
    text = CONFIG + 'parameters { key: "execution_context_allocation_strategy" value { string_value: ^"static" } }\n'
    assert "'static' for model instance 'm'" in assert_finds(tmp_path, "TRT013", text, one(), new).says
    for folder, good, case in (
        ("old", text, R2409),
        ("good", text.replace("static", "STATIC"), new),
        ("too", text.replace("static", "ON_PROFILE_CHANGE"), new),
    ):
        (tmp_path / folder).mkdir()
        assert_silent(tmp_path / folder, "TRT013", good.replace("^", ""), one(), case)


def graphs(spec: str, batch: int = 4) -> str:
    text = CONFIG.replace("max_batch_size: 4", f"max_batch_size: {batch}")
    return f"{text}optimization {{ cuda {{ graphs: true graph_spec [ {{ {spec} }} ] }} }}\n"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("batch_size: ^5", "graph spec expects 'batch_size' to be >= 1 and <= 4"),
        ("batch_size: ^0", "graph spec expects 'batch_size' to be >= 1 and <= 4"),
        ("batch_size: 2 graph_lower_bound { batch_size: ^9 }", None),
        ("batch_size: 2 graph_lower_bound { batch_size: ^3 }", "graph lower bound spec expects 'batch_size' to be <="),
    ],
)
def test_odd_graphs(tmp_path: Path, spec: str, words: str | None) -> None:
    if words is None:
        found = model(tmp_path, graphs(spec).replace("^", ""), one(), R2409)
        assert {one.rule.id for one in found if one.severity == "error"} == {"TRT014"}
    else:
        assert words in assert_finds(tmp_path, "TRT014", graphs(spec), one(), R2409).says


def test_graphs(tmp_path: Path) -> None:
    strict = replace(R2409, server={"disable-auto-complete-config": True})
    for number, (text, case) in enumerate(
        [
            (graphs("batch_size: 4 graph_lower_bound { batch_size: 1 }"), R2409),
            (graphs("batch_size: 5").replace("graphs: true", ""), R2409),
            (graphs("batch_size: 5", batch=0), R2409),
            (graphs("batch_size: 0", batch=0), strict),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        assert_silent(tmp_path / str(number), "TRT014", text, one(), case)
    (tmp_path / "strict").mkdir()
    assert_finds(tmp_path / "strict", "TRT014", graphs("batch_size: ^5", batch=0), one(), strict)


def test_every_rule_says_where_it_is_from() -> None:
    own = [one for name, one in RULES.items() if name.startswith("TRT")]
    assert len(own) == 8
    assert all(one.source and one.fix for one in own)
