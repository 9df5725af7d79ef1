"""From the registry to the server as people have it: what `tricompose` pushed, Docker Compose pulls and starts."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_docker.plugin import Services, get_docker_services

from tests.command import tricompose
from tests.conftest import require
from tests.quickstart import Quickstart, assert_serves, is_ready
from tests.services.dockerd import Dockerd
from tests.services.registry import free_port

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.triton]

FILES = Path(__file__).with_name("compose")
BASE = "docker-daemon:tricompose-test-base:1"


@pytest.fixture(scope="module")
def engine(docker_engine: Dockerd, quickstart: Quickstart) -> Iterator[Dockerd]:
    """An engine that has what the registry's image is built from, and nothing else."""
    docker_engine.remove_everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", docker_engine.host)
        said = tricompose("copy", "oci:build/upstream:24.10-py3-min", BASE, cwd=quickstart.folder)
        assert said.returncode == 0, said.stderr
        yield docker_engine
    docker_engine.remove_everything()


@pytest.fixture(scope="module")
def docker_compose_command() -> str:
    require("docker-compose")
    return "docker-compose"


@pytest.fixture(scope="module")
def docker_compose_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The project, with the program that goes into the registry's image beside it."""
    require("docker-registry")
    folder = tmp_path_factory.mktemp("compose") / "project"
    shutil.copytree(FILES, folder)
    shutil.copy(shutil.which("docker-registry") or "", folder)
    return str(folder / "docker-compose.yml")


@pytest.fixture(scope="module")
def docker_services(
    engine: Dockerd, docker_compose_command: str, docker_compose_file: str, docker_compose_project_name: str
) -> Iterator[Services]:
    """The registry; the server cannot be started yet, as there is no image of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRY_PORT", str(free_port()))
        with get_docker_services(
            docker_compose_command,
            docker_compose_file,
            docker_compose_project_name,
            "up --build --detach registry",
            "down --volumes --timeout 5",
        ) as services:
            yield services


@pytest.fixture(scope="module")
def registry(docker_services: Services, docker_ip: str) -> str:
    host = f"{docker_ip}:{docker_services.port_for('registry', 5000)}"
    docker_services.wait_until_responsive(lambda: answers(f"http://{host}/v2/"), timeout=20, pause=0.1)
    return host


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def test_what_was_pushed_is_pulled_and_serves(
    engine: Dockerd,
    registry: str,
    quickstart: Quickstart,
    docker_services: Services,
    docker_compose_command: str,
    docker_compose_file: str,
    docker_compose_project_name: str,
    docker_ip: str,
) -> None:
    name = f"{registry}/tools/quickstart:24.10-slim"
    said = tricompose("copy", quickstart.image, f"docker://{name}", "--json", cwd=quickstart.folder)
    assert said.returncode == 0, said.stderr
    digest = json.loads(said.stdout)["copied"]["digest"]
    assert digest == quickstart.built["digest"]

    project = [docker_compose_command, "-f", docker_compose_file, "-p", docker_compose_project_name]
    started = subprocess.run([*project, "up", "--detach", "triton"], capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    http = f"http://{docker_ip}:{docker_services.port_for('triton', 8000)}"
    docker_services.wait_until_responsive(lambda: is_ready(http), timeout=60, pause=0.2)
    assert_serves(http)
    pulled = engine.docker("images", "--digests", "--format", "{{.Digest}}", name.rpartition(":")[0])
    assert pulled.strip() == digest
