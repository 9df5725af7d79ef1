"""One image through every transport, each as source and as target, from name to name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from composer.errors import Unplannable
from composer.events import ignore
from composer.oci.copy import copy
from composer.oci.credentials import Credentials
from composer.oci.image import Descriptor, Manifest, parse_manifest
from composer.oci.layout import LayoutStore
from composer.oci.names import TRANSPORTS as NAMES
from composer.oci.names import parse_reference
from composer.oci.transports import TRANSPORTS, Access, open_source, open_target
from tests.conftest import require
from tests.images import picture, put
from tests.services.dockerd import Dockerd
from tests.services.registry import Registry, running_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    require("docker-registry")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def access(registry: Registry, tmp_path: Path) -> Access:
    return Access(
        session=requests.Session,
        credentials=Credentials(files=()),
        insecure=frozenset({registry.host}),
        scratch=tmp_path / "scratch",
        emit=ignore,
    )


def move(source: str, target: str, access: Access) -> Descriptor:
    origin, destination = parse_reference(source), parse_reference(target)
    there, here = open_source(origin, access), open_target(destination, access)
    try:
        return copy(there, origin.name, here, destination.name, platforms=None, emit=ignore, jobs=3)
    finally:
        there.close()
        here.close()


def config_of(text: str, access: Access) -> str:
    reference = parse_reference(text)
    store = open_source(reference, access)
    root = store.resolve(reference.name)
    parsed = parse_manifest(store.manifest(root), root.media_type)
    store.close()
    assert isinstance(parsed, Manifest)
    return parsed.config.digest


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.parametrize("family", ["oci", "docker"])
def test_an_image_goes_from_anywhere_to_anywhere(
    registry: Registry, dockerd: Dockerd, access: Access, tmp_path: Path, family: str
) -> None:
    image = picture(family=family, layers=3, filler=200_000)
    put(LayoutStore.ensure(tmp_path / "first"), image, "1")
    stops = [
        f"docker://{registry.host}/{family}/triton:1",
        f"oci-archive:{tmp_path}/triton.tar:1",
        f"docker-archive:{tmp_path}/docker.tar:triton:1",
        f"oci:{tmp_path}/second:1",
        "docker-daemon:triton:1",
    ]
    places = [f"oci:{tmp_path}/first:1", *stops]
    for source, target in zip(places, stops, strict=False):
        assert move(source, target, access) == image.root
    for place in places:
        assert config_of(place, access) == image.manifest.config.digest
    for number, target in enumerate(stops[:4]):
        # What an engine saves is another manifest, with layers that are not compressed, of the same image.
        again = target.replace("triton", f"again{number}").replace("second", "third")
        move("docker-daemon:triton:1", again, access)
        assert config_of(again, access) == image.manifest.config.digest
        move(again, "docker-daemon:back:1", access)
        assert config_of("docker-daemon:back:1", access) == image.manifest.config.digest
    assert list((tmp_path / "scratch").iterdir()) == []


def test_every_transport_that_can_be_named_can_be_opened() -> None:
    assert set(TRANSPORTS) == set(NAMES)


def test_a_target_is_not_named_by_a_digest(access: Access) -> None:
    digest = "sha256:" + "0" * 64
    with pytest.raises(Unplannable) as caught:
        open_target(parse_reference(f"docker://h.io/a:1@{digest}"), access)
    assert caught.value.hint == "docker://h.io/a:1"


def test_files_need_no_client_of_anything() -> None:
    program = (
        "import sys; from composer.oci.transports import *; from composer.oci.names import parse_reference\n"
        "open_source(parse_reference('oci:x:1'), None); open_target(parse_reference('oci-archive:x.tar:1'), None)\n"
        "print(sorted({'requests', 'docker', 'urllib3', 'rich', 'pydantic'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
