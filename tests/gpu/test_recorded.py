"""What was seen on GPUs is judged as it was then; and on a machine without one, that nothing can be said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from composer.checks import Terms
from composer.checks.gpu import baseline, gpu
from composer.checks.gpu import evidence as gpu_evidence
from composer.checks.gpu.nvml import look
from composer.checks.subject import Subject
from composer.events import ignore
from composer.protocol.http import Client
from tests.gpu.models import write_models
from tests.gpu.recording import GPU, gpu_outcomes, look_of, patched, processes_of, recorded, watched, write
from tests.gpu.scenarios import SCENARIOS
from tests.gpu.server import RELEASE, Kit, prepare, started
from tests.unit.test_gpu import serving


def again(document: Mapping[str, Any]) -> dict[str, str]:
    """The outcomes that come of what was seen then."""
    seen, scenario = document["seen"], SCENARIOS[document["scenario"]]
    looks, metrics, processes = map(iter, (seen["looks"], seen["metrics"], seen["processes"]))
    pages = {f"/v2/models/{name}/config": json.dumps(config) for name, config in seen["configs"].items()}
    terms = Terms(validation=scenario.validation(), models=scenario.models, base=Path(), release=RELEASE)
    with serving({**pages, "/metrics": "recorded"}) as server:
        server.log, server.numbers = seen["log"], seen["pids"]
        subject = Subject(running=server, terms=terms, client=Client(server.http), emit=ignore)
        read = gpu_evidence.read_metrics
        replayed = {"look": lambda: look_of(next(looks)), "read_metrics": lambda _: read(next(metrics, ""))}
        with (
            patched(gpu_evidence, **replayed),
            patched(GPU, processes=lambda _: processes_of(next(processes)), _POLL=0),
        ):
            subject = Subject(running=server, terms=terms, client=subject.client, emit=ignore, before=baseline(subject))
            return {result.id: result.outcome for result in gpu(subject)}


def test_what_was_recorded_on_gpus_is_judged_as_it_was() -> None:
    for path in recorded():
        document = json.loads(path.read_bytes())
        assert again(document) == SCENARIOS[document["scenario"]].outcomes, path.name


def test_without_a_gpu_it_ends_with_a_plain_error() -> None:
    if look().gpus:
        pytest.fail("this machine has a GPU: run `make gpu` here, and keep what it records")
    ran = subprocess.run([sys.executable, "-m", "tests.gpu"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: there is no GPU here: this machine has no NVIDIA driver")
    assert "hint: " in ran.stderr


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return prepare(tmp_path_factory.mktemp("gpu"))


@pytest.mark.triton
@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if not scenario.gpu])
def test_a_real_server_that_sees_none(kit: Kit, tmp_path: Path, name: str) -> None:
    """What can be tried of `make gpu` without a GPU; and what was seen is judged alike when it is read again."""
    scenario = SCENARIOS[name]
    write_models(tmp_path / "models", scenario.models)
    with started(kit, tmp_path, scenario.flags, scenario.env) as server:
        report, seen = watched(server, scenario)
    assert [result.outcome for result in report.results if result.kind == "inference"] == ["passed"]
    assert gpu_outcomes(report) == scenario.outcomes
    document = json.loads(write(name, {}, report, seen, tmp_path / "recorded").read_bytes())
    assert again(document) == scenario.outcomes
