"""Goldens from a real server: recorded over every protocol, compared again, and refused when something has changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composer.checks import Report, Terms, prove
from composer.checks.inference.goldens import Recorder, model_digests, sidecar
from composer.errors import CheckFailed
from composer.events import ignore
from composer.models.repository import read_repository
from composer.recipe import Validate, parse_recipe
from tests.gpu.models import write_models
from tests.gpu.scenarios import HIDDEN
from tests.gpu.server import Native, prepare, started

pytestmark = pytest.mark.triton

RECIPE = """
triton: "24.10"
backends: [python]
validate:
  checks:
    - id: twice
      model: on_cpu
      repeat: 3
      request: {inputs: {X: {dtype: FP32, shape: [4], random: {seed: 7, low: -1, high: 1}}}}
      expect: {outputs: {Y: {golden: goldens/y.npy}}}
    - id: other
      model: on_cpu
      request: {inputs: {X: {dtype: FP32, shape: [4], data: [1, 2, 3, 4]}}}
      expect: {outputs: {Y: {equals: [2, 4, 6, 8]}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    folder = tmp_path_factory.mktemp("goldens")
    kit = prepare(folder)
    write_models(folder / "models", ["on_cpu"])
    with started(kit, folder, (), HIDDEN) as running:
        yield running


def validation(text: str = RECIPE) -> Validate:
    found = parse_recipe(text, path=Path("recipe.yaml"), environ={}).validation
    assert found
    return found


def terms(server: Native, base: Path) -> Terms:
    digests = model_digests([read_repository(server.log.parent / "models")])
    return Terms(validation=validation(), models=("on_cpu",), base=base, release="24.10", digests=digests)


def golden(report: Report) -> tuple[str, str]:
    found = next(result for result in report.results if result.id == "twice")
    return found.outcome, found.message


def test_recorded_and_compared(server: Native, tmp_path: Path) -> None:
    wanted = terms(server, tmp_path)
    nothing = prove(server, wanted, emit=ignore)
    assert golden(nothing)[0] == "error"
    assert "nothing was recorded yet" in golden(nothing)[1]

    recorder = Recorder()
    report = prove(server, replace(wanted, recorder=recorder), emit=ignore)
    assert report.ok
    (path,) = recorder.write(tmp_path, report)
    drawn = (-1 + 2 * np.random.default_rng(7).random(4)).astype(np.float32)
    assert np.array_equal(np.load(path), 2 * drawn)
    said = json.loads(sidecar(path).read_text())
    assert (said["model"], said["version"], said["output"], said["device"]) == ("on_cpu", "1", "Y", "cpu")
    assert said["server"] == "triton 2.51.0"

    compared = prove(server, wanted, emit=ignore)
    assert golden(compared)[0] == "passed"
    evidence = next(result.evidence for result in compared.results if result.id == "twice")
    assert set(evidence["ways"]) == {"http-json", "http-binary", "grpc"}
    assert all(way["outputs"]["Y"]["max_abs"] == 0 for way in evidence["ways"].values())

    changed = replace(wanted, digests={"on_cpu": "0" * 64})
    outcome, message = golden(prove(server, changed, emit=ignore))
    assert outcome == "failed"
    assert message.endswith("output Y: golden: the files of on_cpu have changed since y.npy was recorded")
    assert golden(prove(server, replace(changed, allow_stale=True), emit=ignore))[0] == "passed"
    other = replace(wanted, validation=validation(RECIPE.replace("seed: 7", "seed: 8")))
    assert golden(prove(server, other, emit=ignore))[1].endswith("golden: y.npy was recorded for another request")


def test_a_check_that_fails_keeps_all_goldens_from_being_recorded(server: Native, tmp_path: Path) -> None:
    recorder = Recorder()
    wrong = validation(RECIPE.replace("[2, 4, 6, 8]", "[2, 4, 6, 9]"))
    report = prove(server, replace(terms(server, tmp_path), validation=wrong, recorder=recorder), emit=ignore)
    assert recorder.files == (Path("goldens/y.npy"),)
    with pytest.raises(CheckFailed, match="nothing was recorded"):
        recorder.write(tmp_path, report)
    assert list(tmp_path.iterdir()) == []
