"""Proofs that are interrupted, that are killed, and that go on at the same time: nothing is left, nobody is disturbed.

`make interrupt` interrupts 200 of them: see INTERRUPTED.md. Here it is a few.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.services.dockerd import Dockerd
from tests.triton.images import Bench
from tests.triton.interrupting import Case, Lane, faults, interrupted, left, make_cases, start, undisturbed, warm

pytestmark = [pytest.mark.triton, pytest.mark.docker]

SECONDS = 10.0
"""What an end may take while other tests run beside this one. `make interrupt` is stricter."""

MOMENTS = [
    (kind, sent, random.Random(kind).uniform(0.5, 4))
    for kind, sent in {
        "healthy": signal.SIGINT,
        "slow": signal.SIGTERM,
        "hung": signal.SIGINT,
        "silent": signal.SIGTERM,
    }.items()
]


@pytest.fixture(scope="module")
def engine(docker_engine: Dockerd, bench: Bench) -> Iterator[Dockerd]:
    """An engine that has the layers of the server."""
    docker_engine.remove_everything()
    warm(bench, docker_engine)
    yield docker_engine
    docker_engine.remove_everything()


@pytest.fixture(scope="module")
def cases(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Case]:
    return {case.kind: case for case in make_cases(bench, tmp_path_factory.mktemp("cases"))}


@pytest.fixture(params=["rootfs", "docker"])
def lane(request: pytest.FixtureRequest, engine: Dockerd) -> Iterator[Lane]:
    """A runner, of which nothing may be left after each test."""
    made = new_lane(request.param, engine)
    yield made
    assert list(left(made)) == []
    made.scratch.rmdir()


def new_lane(runner: str, engine: Dockerd) -> Lane:
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir="/dev/shm"))
    return Lane(runner=runner, scratch=scratch, engine=engine if runner == "docker" else None)


@pytest.mark.parametrize(("kind", "sent", "moment"), MOMENTS, ids=[kind for kind, _, _ in MOMENTS])
def test_interrupted(lane: Lane, cases: Mapping[str, Case], kind: str, sent: signal.Signals, moment: float) -> None:
    ended = interrupted(cases[kind], lane, sent, moment)
    assert faults(ended, lane, SECONDS) == [], ended.said


def test_a_server_that_hangs_is_gone_soon_after_its_deadline(lane: Lane, cases: Mapping[str, Case]) -> None:
    ended = undisturbed(cases["hung"], lane)
    assert faults(ended, lane, SECONDS) == [], ended.said
    assert ended.after > 0, ended.said


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it never said {words!r}")


def test_what_a_killed_one_leaves_is_removed_by_the_next_and_nothing_else(
    lane: Lane, cases: Mapping[str, Case]
) -> None:
    """One is killed while another goes on; a third clears up after the first, and lets the second be."""
    killed, other = start(cases["hung"], lane), start(cases["silent"], lane)
    try:
        wait_for(killed, "started without a GPU" if lane.engine else "starting on the host's network")
        time.sleep(1)
        killed.kill()
        killed.wait()
        assert list(left(lane)) != []
        third = undisturbed(cases["healthy"], lane)
        assert (third.status, "that was killed" in third.said) == (0, True), third.said
        said = other.communicate(timeout=60)[1]
        assert "check: failed: same: no answer within 2 s" in said
        assert "Traceback" not in said
    finally:
        for process in (killed, other):
            process.kill()
            process.wait()


def test_several_at_once_do_not_disturb_each_other(engine: Dockerd, cases: Mapping[str, Case]) -> None:
    """The same image, the same recipe and the same cache, in both runners, twice each."""
    lanes = [new_lane(runner, engine) for runner in ("rootfs", "docker")]
    processes = [start(cases["healthy"], lane) for lane in lanes * 2]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0, 0], said
    for lane in lanes:
        assert list(left(lane)) == []
        shutil.rmtree(lane.scratch)
