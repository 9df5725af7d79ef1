"""What the doctor says of a real Docker Engine, and of one that is there no more."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from composer.doctor.gpus import toolkit
from composer.doctor.remedies import Remedies
from composer.doctor.subject import Subject
from composer.pipeline import Workplace
from tests.command import environment, tricompose
from tests.services.dockerd import Dockerd

pytestmark = pytest.mark.docker

RECIPE = "upstream: oci:nowhere\nbackends: [python]\nengine: dockerfile\n"


def found(dockerd_host: str, folder: Path, **more: str) -> dict[str, dict[str, object]]:
    """What is said of the engine, by id."""
    (folder / "recipe.yaml").write_text(RECIPE)
    env = environment(folder, DOCKER_HOST=dockerd_host, **more)
    said = tricompose("doctor", "recipe.yaml", "--json", cwd=folder, env=env)
    groups = {one["name"]: one["findings"] for one in json.loads(said.stdout)["doctor"]["groups"]}
    return {one["id"]: one for one in groups["Docker"]}


def test_an_engine_is_described_as_it_describes_itself(dockerd: Dockerd, tmp_path: Path) -> None:
    found_here = found(dockerd.host, tmp_path)
    client = dockerd.client()
    info, version = client.info(), client.version()
    client.close()
    facts = found_here["docker.ok"]["facts"]
    assert isinstance(facts, dict)
    assert (facts["version"], facts["api"]) == (version["Version"], version["ApiVersion"])
    assert (facts["driver"], facts["root"]) == (info["Driver"], info["DockerRootDir"])
    assert facts["runtimes"] == sorted(info["Runtimes"])
    assert ("docker.storage" in found_here) == (info["Driver"] in ("vfs", "devicemapper", "aufs"))
    assert {"docker.room", "docker.full"} & set(found_here)
    assert "docker.proxy" not in found_here


def test_a_proxy_that_only_this_shell_knows(dockerd: Dockerd, tmp_path: Path) -> None:
    proxy = {"HTTPS_PROXY": "http://me:secret@proxy.example:3128", "NO_PROXY": "*"}
    said = found(dockerd.host, tmp_path, **proxy)["docker.proxy"]
    assert said["level"] == "warning"
    assert "proxy.example:3128" in str(said["saw"])
    assert "secret" not in str(said)


def test_a_socket_where_nobody_listens(dockerd: Dockerd, tmp_path: Path) -> None:
    gone = found(f"unix://{tmp_path}/none.sock", tmp_path)
    assert [(one["id"], one["level"]) for one in gone.values()] == [("docker.stopped", "problem")]


def test_a_container_toolkit_that_this_engine_does_not_know(
    dockerd: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-ctk"
    tool.write_text("#!/bin/sh\necho NVIDIA Container Toolkit CLI version 1.17.4\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = Workplace.from_environment({"DOCKER_HOST": dockerd.host}, home=tmp_path, cache=tmp_path / "cache")
    (found,) = toolkit(Subject(recipes=(), place=place, remedies=Remedies(family="debian")))
    assert found.id == "toolkit.not-configured"
    assert found.fix.startswith("sudo nvidia-ctk runtime configure --runtime=docker")
