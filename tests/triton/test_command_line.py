"""`tricompose validate` and `run` with a real server: what they say, how they exit, and that nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from composer import command
from composer.cli import tricompose
from composer.runners.ports import free_ports
from tests.triton.images import Bench, python_model

pytestmark = pytest.mark.triton

ADD = python_model(
    "add",
    "def execute(self, requests):\n"
    "    return [answer(Y=tensor(request, 'A') + tensor(request, 'B')) for request in requests]",
    {"A": "INT32 [2]", "B": "INT32 [2]"},
    {"Y": "INT32 [2]"},
)
RECIPE = """\
upstream: oci:nowhere
models: [{path: ./models}]
validate:
  startup: {deadline: 60s, stall: 30s}
  checks:
    - id: sum
      model: add
      request: {inputs: {A: {dtype: INT32, shape: [2], data: [1, 2]}, B: {dtype: INT32, shape: [2], data: [3, 4]}}}
      expect: {outputs: {Y: {equals: [4, 6]}}}
"""
PROGRAM = [sys.executable, "-m", "composer"]


@pytest.fixture
def image(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image with one model; we are in a folder with the recipe that it is proved by."""
    for path, text in ADD.items():
        file = tmp_path / "models" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRICOMPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return f"oci:{bench.store.path}@{bench.image(ADD).manifest.descriptor.digest}"


@contextmanager
def serving(image: str, ports: dict[str, int], *more: str) -> Iterator[subprocess.Popen[str]]:
    flags = [f"--{name}-port={port}" for name, port in ports.items()]
    line = [*PROGRAM, "run", image, "--runner", "rootfs", *flags, *more]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line_of(process: subprocess.Popen[str], name: str, pattern: str) -> str:
    """Wait for a line; fail with what was said where it never comes."""
    said = []
    for line in getattr(process, name):
        if re.search(pattern, line):
            return str(line)
        said.append(line)
    pytest.fail(f"no {pattern!r} in:\n{''.join(said)}")


def test_run_serves_until_it_is_interrupted(image: str, tmp_path: Path) -> None:
    ports = free_ports()
    with serving(image, ports, "--progress", "plain") as process:
        line = first_line_of(process, "stdout", "ready")
        assert line == f"ready: http://127.0.0.1:{ports['http']}   (Ctrl-C stops it)\n"
        assert requests.get(f"http://127.0.0.1:{ports['http']}/v2", timeout=5).json()["name"] == "triton"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.search(r"^server: .*successfully loaded 'add'", err, re.MULTILINE), "its log is shown"
    assert f"start: done: http://127.0.0.1:{ports['http']} is ready" in err
    assert "Traceback" not in err
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{ports['http']}/v2", timeout=5)


def test_run_says_where_it_serves_as_json(image: str) -> None:
    ports = free_ports()
    with serving(image, ports, "--json", "-q") as process:
        first_line_of(process, "stdout", r"^\{")
        text = "{"
        while not text.endswith("\n}\n"):
            text += process.stdout.readline() if process.stdout else ""
        process.send_signal(signal.SIGTERM)
        rest, err = process.communicate(timeout=60)
    document: dict[str, Any] = json.loads(text)
    assert document["schema"] == 1
    assert document["server"]["http"] == f"http://127.0.0.1:{ports['http']}"
    assert document["server"]["grpc"] == f"127.0.0.1:{ports['grpc']}"
    assert (process.returncode, rest, err) == (0, "", "")


def test_run_that_is_interrupted_before_it_is_ready(image: str, tmp_path: Path) -> None:
    with serving(image, free_ports(), "--progress", "plain") as process:
        first_line_of(process, "stderr", "starting on the host's network")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("right", [True, False], ids=["passes", "fails"])
def test_validate(image: str, right: bool, capfd: pytest.CaptureFixture[str]) -> None:
    if not right:
        Path("recipe.yaml").write_text(RECIPE.replace("[4, 6]", "[4, 7]"))
    files = {"junit": "proof.xml", "html": "proof.html", "markdown": "proof.md"}
    asked = [word for kind, path in files.items() for word in ("--report", f"{kind}={path}")]
    arguments = ["validate", "recipe.yaml", "--image", image, "--runner", "rootfs", *asked]
    status = command.run(tricompose, [*arguments, "--json"])
    document = json.loads(capfd.readouterr().out)
    report = document["report"]
    outcomes = {one["id"]: one["outcome"] for one in report["results"] if one["kind"] != "image"}
    assert outcomes == {
        "ready": "passed",
        "models": "passed",
        "model:add": "passed",
        "sum": "passed" if right else "failed",
        "gpu:visible": "unverified",
    }
    assert report["ok"] is right
    assert report["about"]["server"].startswith("triton ")
    assert (report["about"]["image"], report["about"]["runner"]) == (image, "rootfs")
    assert report["diagnoses"] == [], "a wrong value needs no diagnosis"
    assert (status, "error" in document) == ((0, False) if right else (12, True))
    assert os.listdir("tmp") == []
    for path in files.values():
        assert "sum" in Path(path).read_text(), "a report is written whether it is good or bad"


def validated(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capfd.readouterr()
    status = command.run(tricompose, ["validate", *arguments, "--json"])
    return status, json.loads(capfd.readouterr().out)


def test_an_image_without_a_recipe(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, document = validated(capfd, image, "--runner", "rootfs")
    outcomes = {one["id"]: one["outcome"] for one in document["report"]["results"]}
    assert outcomes["model:add"] == "passed"
    assert status == 0


def test_an_image_that_is_only_looked_at(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, document = validated(capfd, "recipe.yaml", "--image", image, "--static")
    results = document["report"]["results"]
    assert {one["kind"] for one in results} == {"image"}
    assert status == (0 if all(one["outcome"] == "passed" for one in results) else 12)
    assert document["report"]["about"]["server"] == ""


def test_what_is_not_seen_counts_where_it_must(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("recipe.yaml", "--image", image, "--runner", "rootfs")
    status, document = validated(capfd, *arguments, "--require-verified")
    assert (status, document["error"]["code"]) == (14, "unverified")
    assert document["report"]["ok"] is True
    Path("recipe.yaml").write_text(RECIPE.replace("validate:\n", "validate:\n  gpu: required\n"))
    status, document = validated(capfd, *arguments)
    assert (status, document["error"]["code"]) == (7, "unplannable")
    assert document["error"]["hint"].endswith("--runner docker")


def test_goldens_are_recorded_and_hold(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("{equals: [4, 6]}", "{golden: golden/sum.npy}"))
    arguments = ("recipe.yaml", "--image", image, "--runner", "rootfs")
    status, document = validated(capfd, *arguments)
    assert status == 12, "nothing was recorded"
    assert "--record" in next(one for one in document["report"]["results"] if one["id"] == "sum")["hint"]
    status, _ = validated(capfd, *arguments, "--record")
    assert status == 0
    assert sorted(os.listdir("golden")) == ["sum.npy", "sum.npy.json"]
    assert validated(capfd, *arguments)[0] == 0
    Path("models/add/1/model.py").write_text(Path("models/add/1/model.py").read_text() + "# another\n")
    status, document = validated(capfd, *arguments)
    assert status == 12, "the golden is of another model"
    assert "the files of add have changed since sum.npy was recorded" in document["error"]["message"]
    assert validated(capfd, *arguments, "--allow-stale")[0] == 0


def test_goldens_that_cannot_be_written_do_not_lose_the_proof(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("{equals: [4, 6]}", "{golden: recipe.yaml/sum.npy}"))
    status, document = validated(capfd, "recipe.yaml", "--image", image, "--runner", "rootfs", "--record")
    outcomes = {one["id"]: one["outcome"] for one in document["report"]["results"]}
    assert (status, outcomes["sum"], outcomes["record"]) == (12, "passed", "error")


def test_a_server_that_runs_already(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    ports = free_ports()
    with serving(image, ports, "--progress", "plain") as process:
        first_line_of(process, "stdout", "ready")
        at = ":".join(str(port) for port in ports.values())
        status, document = validated(capfd, "recipe.yaml", "--runner", f"remote:127.0.0.1:{at}")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    outcomes = {one["id"]: one["outcome"] for one in document["report"]["results"]}
    assert (status, outcomes["sum"], outcomes["models"]) == (0, "passed", "passed")
    assert process.returncode == 0, "it went on until we stopped it"


def test_a_server_that_is_not_there(image: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("{deadline: 60s, stall: 30s}", "{deadline: 1s}"))
    status, document = validated(capfd, "recipe.yaml", "--runner", "remote:127.0.0.1:1:1:1")
    assert status == 12
    assert "was not ready within 1 s" in document["error"]["message"]
