"""The world of the manual: a stand-in for NVIDIA's registry, a company's own, people at machines that reach little."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import require
from tests.far.pages import Person
from tests.parity.place import BASE, Place, packed, server
from tests.services.namespaces import Machine
from tests.services.registry import Registry, login, running_registry
from tests.turns import in_turn
from tests.upstream import make

RECIPES = Path(__file__).parents[2] / "recipes"
TRITON = "nvidia/tritonserver"

NGC, HARBOR, PROXY = "nvcr.io", "harbor.example.com", "proxy.example.com"
PLANT = "registry.plant.example.com"
ADDRESSES = {NGC: "203.0.113.10", HARBOR: "10.0.0.5", PROXY: "10.0.0.7", PLANT: "192.168.7.5"}
"""Where these are, for those who know. Source of the first: RFC 5737, addresses for documentation."""


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    require("docker-registry", "openssl", "skopeo", "nsenter", "unshare", "ip")
    if os.geteuid() != 0:
        pytest.fail("these tests make network namespaces, which needs root", pytrace=False)


@pytest.fixture(scope="session")
def ngc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that proves to be nvcr.io, with an image that has a real Triton in it."""
    folder = tmp_path_factory.mktemp("ngc")
    with in_turn("upstream"):
        make(folder / "upstream")
    with running_registry(folder / "registry", tls=True, name=NGC) as running:
        _push(f"{folder}/upstream:24.10-py3", running, "24.10-py3")
        _push(f"{folder}/upstream:24.10-py3-min", running, "24.10-py3-min")
        yield running


@pytest.fixture(scope="session")
def small_ngc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The same with an image that is quickly composed, and that nobody can start."""
    place = Place(tmp_path_factory.mktemp("small-ngc"))
    place.upstream(BASE, packed(server("onnxruntime", "python", "tensorrt")), base=1)
    with running_registry(place.path / "registry", tls=True, name=NGC) as running:
        _push(f"{place.path}/upstream:full", running, "24.10-py3")
        _push(f"{place.path}/upstream:min", running, "24.10-py3-min")
        yield running


def _push(layout: str, to: Registry, tag: str) -> None:
    """By another tool than ours."""
    line = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{to.host}/{TRITON}:{tag}"]
    subprocess.run(line, check=True)


@pytest.fixture
def harbor(tmp_path: Path) -> Iterator[Registry]:
    """A company's registry, empty: it asks for a login, and its certificate is the company's own."""
    with running_registry(tmp_path / "harbor", basic=True, tls=True, name=HARBOR) as running:
        yield running


@pytest.fixture
def person(tmp_path: Path) -> Callable[..., Person]:
    """Makes somebody at a machine, logged in at one registry, who has the models of the quickstart.

    `corp-ca.pem` has the certificates of the registries that are `known`.
    """

    def sits_at(machine: Machine, name: str, *known: Registry, at: str = HARBOR) -> Person:
        folder, home = tmp_path / name, tmp_path / f"home-of-{name}"
        folder.mkdir()
        home.mkdir()
        login(home / ".docker", at)
        shutil.copytree(RECIPES / "models", folder / "model_repository")
        (folder / "corp-ca.pem").write_text("".join(one.certificate.read_text() for one in known if one.certificate))
        return Person(machine=machine, folder=folder, environ=_environ(home))

    return sits_at


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def _environ(home: Path) -> dict[str, str]:
    """What a person's shell knows: nothing of the machine that the tests run on but where programs are."""
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
