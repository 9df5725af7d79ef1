"""What every test can ask for. A tool that is missing fails the tests that need it: a skip would prove nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from composer.checks.report import Report
from tests import proofs
from tests.quickstart import Quickstart, make_quickstart
from tests.services.dockerd import DOCKER, DOCKERD, Dockerd, running_dockerd

# In CI the same cases every time, so that main passes or fails by what was changed; elsewhere new ones at each run.
# `make soak` looks for more, for an hour.
# No case has a deadline: how long one takes says more of the machine than of the code.
settings.register_profile("plain", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "plain"))


HERE = Path(__file__).parent
QUICK = ("unit/", "golden/", "compose/")
LONG = (
    *("docker/test_network.py", "docker/test_on_top.py", "docker/test_dockerfile.py", "parity/test_law.py"),
    *("triton/test_rootfs.py", "triton/test_load.py", "docker/test_quoting.py", "triton/test_quickstart.py"),
    *("far/test_lives.py", "far/test_credentials.py", "faults/test_storms.py"),
    *("triton/test_interrupted.py", "triton/test_silent.py", "docker/test_runner.py"),
    *("faults/test_bad_input.py", "faults/test_interruptions.py", "triton/test_command_line.py"),
    *("registry/test_mirror.py", "faults/test_bundle_faults.py", "registry/test_builds.py"),
    *("registry/test_leaks.py", "registry/test_doctor_network.py"),
    *("faults/test_resumed.py", "faults/test_hanging.py", "faults/test_build_resumed.py"),
)
"""The modules that take longest, the longest first."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are no names: archives hold the time that they were made, and both lanes must call each test the same."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest module first, then the quick ones, then the rest from long to short.

    `make test` has two lanes, and each takes the next module when it is done with one: so one is at the longest while
    the other soon tells what simple thing is broken, and they end at about the same time.
    """
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    name = item.path.relative_to(HERE).as_posix()
    if name.startswith(QUICK):
        return 1
    place = LONG.index(name) if name in LONG else len(LONG)
    return place + 2 if place else 0


@pytest.fixture(autouse=True)
def reports_are_as_their_schema_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every report that a test comes by against the published schema."""
    made = Report.__init__

    def checked(self: Report, **what: Any) -> None:
        made(self, **what)
        proofs.require_valid(self)

    monkeypatch.setattr(Report, "__init__", checked)


def require(*tools: str) -> None:
    """Fail the test that calls this unless every tool is installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"these tests need {', '.join(missing)}: apt-get install docker.io skopeo umoci", pytrace=False)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Dockerd]:
    require(DOCKERD, DOCKER, "ip", "containerd", "runc")
    if os.geteuid() != 0:
        pytest.fail("these tests start a Docker Engine, which needs root", pytrace=False)
    with running_dockerd() as engine:
        yield engine


@pytest.fixture
def dockerd(docker_engine: Dockerd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    """A Docker Engine without containers and images, the one that DOCKER_HOST names."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    docker_engine.remove_everything()
    yield docker_engine
    docker_engine.remove_everything()


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """The image of the README's quickstart, built once and not proved. Nobody changes it."""
    return make_quickstart(tmp_path_factory.mktemp("quickstart"))
