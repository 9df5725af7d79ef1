"""Builds from a registry whose layers are read and cut while they come: killed on a slow line, and run again."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import COMMAND, environment, tricompose
from tests.conftest import require
from tests.parity.image import digest
from tests.parity.place import BASE, HOME, Place, file, packed, server
from tests.services.proxy import Flip, Proxy, Slow
from tests.services.registry import Registry, running_registry

pytestmark = pytest.mark.registry

MIB = 1 << 20
SIZE = 96 * MIB
STOPPED = 18 * MIB
SLOW = Slow(at=12 * MIB, rate=1.5 * MIB)
"""After 16 MiB a line that needs more than ten seconds for the rest is taken for a slow one."""

SPARE = 3 * MIB
RECIPE = """upstream: {{full: 'docker://{host}/up:full', min: 'docker://{host}/up:min'}}
backends: [python]
outputs: ['oci:result:slim']
"""
UPPER = packed(
    server("python", "tensorrt", extra=[file(f"{HOME}/backends/python/weights", random.Random(5).randbytes(SIZE))])
)
BUILD = ("build", "recipe.yaml", "--no-validate", "--max-wait", "5", "--progress", "plain")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    require("docker-registry", "skopeo")
    place = Place(tmp_path_factory.mktemp("upstream"))
    place.upstream(BASE, UPPER, base=1)
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        for tag in ("full", "min"):
            names = f"oci:{place.path}/upstream:{tag}", f"docker://{running.host}/up:{tag}"
            subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", *names], check=True)
        yield running


def write_recipe(folder: Path, proxy: Proxy) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.format(host=proxy.host))


def result(folder: Path) -> str:
    """The layers: the config names the upstream, and with it the port of a proxy."""
    argv = ["skopeo", "inspect", "--format", "{{.Layers}}", f"oci:{folder}/result:slim"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def sound(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The result when nothing disturbs it. On a fast line nothing is kept."""
    folder = tmp_path_factory.mktemp("sound")
    with Proxy(registry.port) as proxy:
        write_recipe(folder, proxy)
        said = tricompose(*BUILD, "--cache", "cache", cwd=folder)
    assert said.returncode == 0, said.stderr
    assert not (folder / "cache/partial").exists()
    return result(folder)


def test_a_build_goes_on_in_the_middle_of_a_layer(registry: Registry, tmp_path: Path, sound: str) -> None:
    with Proxy(registry.port, [SLOW]) as proxy:
        write_recipe(tmp_path, proxy)
        argv = [COMMAND, *BUILD, "--cache", "cache"]
        process = subprocess.Popen(argv, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while proxy.bytes_to_client < STOPPED and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.communicate(timeout=30)
        (partial,) = (tmp_path / "cache/partial").iterdir()
        assert partial.stat().st_size > STOPPED - SPARE
        proxy.rules.clear()
        before = proxy.bytes_to_client
        said = tricompose(*BUILD, "--cache", "cache", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert proxy.bytes_to_client - before <= SIZE - before + SPARE
    assert result(tmp_path) == sound
    assert not (tmp_path / "cache/partial").exists()


def test_wrong_bytes_of_an_earlier_run_are_fetched_once_more(registry: Registry, tmp_path: Path, sound: str) -> None:
    """As a machine leaves them that lost its power."""
    partial = tmp_path / "cache/partial" / digest(UPPER.blob).replace(":", "-")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(UPPER.blob[: 5 * MIB] + bytes(STOPPED))
    with Proxy(registry.port) as proxy:
        write_recipe(tmp_path, proxy)
        said = tricompose(*BUILD, "--cache", "cache", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert proxy.count("GET", digest(UPPER.blob)) == 2
    assert result(tmp_path) == sound
    assert not (tmp_path / "cache/partial").exists()


@pytest.mark.parametrize("times", [1, float("inf")], ids=["once", "always"])
def test_a_flipped_byte_in_a_layer_that_is_cut(registry: Registry, tmp_path: Path, sound: str, times: float) -> None:
    with Proxy(registry.port, [Flip(at=SIZE // 2, times=times)]) as proxy:
        write_recipe(tmp_path, proxy)
        said = tricompose(*BUILD, "--cache", "cache", cwd=tmp_path)
    assert said.returncode == (0 if times == 1 else 10), said.stderr
    assert not (tmp_path / "cache/partial").exists()
    assert times > 1 or result(tmp_path) == sound
