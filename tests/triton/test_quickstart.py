"""The quickstart as the README has it, by the command line, on a machine without Docker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from composer.errors import CheckFailed
from tests.command import COMMAND, environment, running, tricompose
from tests.quickstart import IMAGE, Quickstart, assert_serves, lay_out
from tests.services.registry import free_port

pytestmark = pytest.mark.triton

RECIPE = "recipes/quickstart.yaml"
AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""Makes a process that is an ordinary user, whoever we are."""


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def test_from_the_plan_to_an_answer(tmp_path: Path) -> None:
    """Plan, build, run: as a user without any rights, from a cache without anything in it."""
    lay_out(tmp_path)
    planned = json.loads(as_user(tmp_path, "plan", RECIPE, "--scan", "new"))["plans"][0]
    built = json.loads(as_user(tmp_path, "build", RECIPE))["builds"][0]
    image = built["images"][0]
    assert built["delivered"] == ["oci:build/slim:24.10-py3-slim"]
    assert [one["name"] for one in image["kept"]] == ["onnxruntime", "python"]
    assert {"tensorrt", "pytorch", "openvino"} < {one["name"] for one in image["dropped"]}
    assert image["kept"] == planned["kept"]
    assert image["dropped"] == planned["dropped"]
    assert 0.8 < planned["size"] / image["size"] < 1.25, "estimated before the layer was cut"
    assert image["size"] < image["upstream"]["size"] / 3
    assert image["validation"]["ok"] is True
    outcomes = {check["id"]: check["outcome"] for check in image["validation"]["results"]}
    assert outcomes.pop("gpu:visible") == "unverified"
    assert set(outcomes.values()) == {"passed"}
    assert {"image:libraries", "ready", "models", "sum-and-difference", "linear"} < set(outcomes)

    inspected = json.loads(as_user(tmp_path, "inspect", IMAGE))["image"]
    assert inspected["digest"] == built["digest"]
    labels = inspected["images"][0]["config"]["config"]["Labels"]
    assert labels["io.tricompose.validation"] == "passed; gpu unverified"
    again = json.loads(as_user(tmp_path, "plan", RECIPE))["plans"][0]
    assert again["to_read"] == 0
    assert 0.999 < again["size"] / image["size"] < 1.001, "only the models' layers are not known to the byte"


def as_user(folder: Path, *arguments: str) -> str:
    env = environment(folder, TMPDIR=str(folder))
    argv = [*AS_USER, COMMAND, *arguments, "--cache", str(folder / "cache"), "--json"]
    said = subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env, timeout=120, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_run_answers_until_it_is_stopped(quickstart: Quickstart) -> None:
    port = free_port()
    flags = ["--http-port", port, "--grpc-port", free_port(), "--metrics-port", free_port(), "--progress", "none"]
    with running("run", RECIPE, *flags, cwd=quickstart.folder) as process:
        assert process.stdout
        assert process.stdout.readline() == f"ready: http://127.0.0.1:{port}   (Ctrl-C stops it)\n"
        assert_serves(f"http://127.0.0.1:{port}")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


def test_an_image_that_answers_wrongly_is_not_delivered(quickstart: Quickstart, tmp_path: Path) -> None:
    recipe = quickstart.recipe(lambda text: text.replace("values: [4.5, 4.0, 4.0]", "values: [4.5, 4.0, 5.0]"), "wrong")
    said = tricompose(
        "build", recipe, "--cache", quickstart.cache, "-o", f"oci:{tmp_path}/out:1", cwd=quickstart.folder
    )
    assert said.returncode == CheckFailed.status
    (error,) = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: linear: output Y: allclose: at [0, 2] 5 is expected, it is 4 (1 of 3 differ")
    rows = [line.split()[:2] for line in said.stdout.splitlines()]
    for name, outcome in (("ready", "passed"), ("linear", "failed"), ("gpu:visible", "unverified")):
        assert [outcome, name] in rows
    assert not (tmp_path / "out").exists()


def test_the_same_recipe_makes_the_same_image_wherever_it_is_called_from(
    quickstart: Quickstart, tmp_path: Path
) -> None:
    """By digest: another working folder, another spelling of the path, another copy of everything elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(quickstart.folder / "recipes", elsewhere / "recipes")
    (elsewhere / "build").mkdir()
    os.symlink(quickstart.folder / "build/upstream", elsewhere / "build/upstream")
    calls = {
        "the folder of the recipe": (quickstart.folder / "recipes", "quickstart.yaml"),
        "an absolute path": (tmp_path, str(quickstart.folder / RECIPE)),
        "another copy": (elsewhere, RECIPE),
    }
    found = {}
    for name, (cwd, recipe) in calls.items():
        arguments = [recipe, "--no-validate", "--cache", quickstart.cache, "-q", "-o", f"oci:{tmp_path}/{name}:1"]
        said = tricompose("build", *arguments, cwd=cwd)
        assert said.returncode == 0, said.stderr
        found[name] = said.stdout.strip()
    assert found == dict.fromkeys(calls, quickstart.built["digest"])
