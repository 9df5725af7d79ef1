"""A newcomer's first hour: a folder with three models in a mess, and what the commands say until one answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.command import Said, tricompose
from tests.examples import RECIPES, classifier
from tests.quickstart import Quickstart

pytestmark = pytest.mark.triton

CLASSIFIER: Final = """\
name: "classifier_v2"
platform: "onnxruntime"
max_batch_size: 8
input [ { name: "X", data_type: TYPE_FLOAT32, dims: [ 4 ] } ]
output [ { name: "Y", data_type: TYPE_FLOAT32, dims: [ 3 ], label_filename: "classes.txt" } ]
"""
STANDARDIZE: Final = """\
\N{BYTE ORDER MARK}name: "standardize"
backend: "Python"
max_batch_size: 8
input [ { name: "RAW", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "X", data_type: TYPE_FP32, dims: [ 4 ] } ]
"""
PIPELINE: Final = """\
platform: "ensemble"
max_batch_size: 8
input [ { name: "RAW", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "Y", data_type: TYPE_FP32, dims: [ 3 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "standardize" model_version: -1
      input_map { key: "RAW" value: "RAW" } output_map { key: "X" value: "clean" }
    },
    {
      model_name: "classifier" model_version: -1
      input_map { key: "X" value: "clean" } output_map { key: "Y" value: "Y" }
    }
  ]
}
"""
MESS: Final[Mapping[str, bytes]] = {
    ".git/HEAD": b"ref: refs/heads/main\n",
    ".git/config": b"[core]\n\tbare = false\n",
    ".DS_Store": b"\0\0\0\1Bud1",
    "README.md": b"# Our models\n",
    "classifier/config.txt": CLASSIFIER.encode(),
    "classifier/01/model.onnx": classifier(),
    "standardize/config.pbtxt": STANDARDIZE.replace("\n", "\r\n").encode(),
    "standardize/model.py": (RECIPES / "models-tuned/standardize/1/model.py").read_bytes(),
    "standardize/__pycache__/model.cpython-310.pyc": b"\x6f\x0d\x0d\x0a",
    "pipeline/config.pbtxt": PIPELINE.encode(),
}
"""Misnamed, in the wrong place, in others' words, and with what git, a Mac, Windows and Python leave behind."""

CHECKS: Final = """\
  checks:
    - id: answer
      model: pipeline
      request: {inputs: {RAW: {dtype: FP32, shape: [1, 4], data: [1, 1, 3, 3]}}}
      expect: {outputs: {Y: {allclose: {values: [0.5, -1.0, -1.5]}}}}
"""
"""In place of the first line of what `init` has written there as a comment."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for path, data in MESS.items():
        (tmp_path / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / path).write_bytes(data)
    return tmp_path


def lint(home: Path, *arguments: str) -> tuple[Said, list[tuple[str, str]]]:
    """Check; returns what was said, and of each error the rule and the path."""
    said = tricompose("models", "lint", *arguments, "--json", cwd=home)
    found = [one for one in json.loads(said.stdout)["findings"] if one["severity"] == "error"]
    return said, sorted((one["rule"], one["path"]) for one in found)


def test_from_a_mess_to_an_answer(home: Path, quickstart: Quickstart) -> None:
    begun = tricompose("init", "serving", "--from-models", "models", cwd=home)
    assert begun.returncode == 0
    assert "\n  tricompose models lint serving/recipe.yaml\n" in begun.stdout
    recipe = home / "serving/recipe.yaml"
    assert "\nbackends: auto\n" in recipe.read_text(), "model.py is not where it tells of its backend"
    upstream = quickstart.folder / "build/upstream"
    recipe.write_text(f"{recipe.read_text()}\nupstream: {{full: 'oci:{upstream}:24.10-py3'}}\n")

    # Nothing is made of it as it is.
    refused = tricompose("build", recipe, "--cache", quickstart.cache, cwd=home)
    assert refused.returncode == 3
    assert "models/classifier/01: the server ignores a version called 01 [LAY011]" in refused.stderr
    said, errors = lint(home, "serving/recipe.yaml")
    assert said.returncode == 1
    assert errors == [
        ("CFG006", "models/standardize/config.pbtxt"),
        ("LAY011", "models/classifier/01"),
        ("LAY017", "models/standardize/model.py"),
        ("LAY021", "models/pipeline"),
    ]
    assert "hint: tricompose models lint serving/recipe.yaml --fix   (mends 4 of them)\n" in said.stderr

    # One is left over, with what to do about it: what the classes are called is not for a tool to guess.
    said, errors = lint(home, "serving/recipe.yaml", "--fix")
    assert (said.returncode, errors) == (1, [("IO025", "models/classifier/config.pbtxt")])
    (home / "models/classifier/classes.txt").write_text("small\nmiddling\nlarge\n")
    said, errors = lint(home, "serving/recipe.yaml", "--fail-on", "warning")
    assert (said.returncode, errors) == (0, [])

    # What the pipeline must answer is worked out by hand: [-1, -1, 1, 1] W + B.
    recipe.write_text(recipe.read_text().replace("#  checks:\n", CHECKS, 1))
    made = tricompose("build", recipe, "--cache", quickstart.cache, "--runner", "rootfs", "--json", cwd=home)
    assert made.returncode == 0, made.stderr
    (image,) = json.loads(made.stdout)["builds"][0]["images"]
    assert [one["name"] for one in image["kept"]] == ["onnxruntime", "python"]
    outcomes = {check["id"]: check["outcome"] for check in image["validation"]["results"]}
    assert [outcomes[one] for one in ("ready", "models", "answer")] == ["passed"] * 3


def test_what_is_no_model_is_not_mended(home: Path) -> None:
    """Where no recipe says that they are baked in, the server would see all folders: what tools keep stays theirs."""
    said, errors = lint(home, "models", "--fix")
    assert said.returncode == 1
    assert ("LAY005", "models/.git") in errors
    left = {path: home / "models" / path for path in (".git/HEAD", ".git/config", ".DS_Store", "README.md")}
    assert {path: file.read_bytes() for path, file in left.items()} == {path: MESS[path] for path in left}
