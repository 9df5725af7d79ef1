"""Into and out of a real Docker Engine."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from composer.errors import BuildFailed, Corrupt, Denied, NotFound, Unreachable
from composer.events import Event, Logged, Transferred, ignore
from composer.oci.archive import ArchiveTarget, open_docker_archive
from composer.oci.copy import copy
from composer.oci.daemon import DaemonStore, DaemonTarget
from composer.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    Descriptor,
    Manifest,
    Platform,
    canonical_json,
    make_manifest,
    parse_manifest,
    sha256,
)
from composer.oci.layout import LayoutStore
from composer.oci.names import parse_reference
from composer.oci.store import Store
from tests.images import AMD64, Picture, index_of, picture, put
from tests.services.dockerd import Dockerd

pytestmark = pytest.mark.docker

ARM64 = Platform(os="linux", architecture="arm64")


class Meddled:
    """A layout whose reads can be made to go wrong, and are counted."""

    def __init__(self, inner: LayoutStore) -> None:
        self.inner = inner
        self.label = inner.label
        self.read_digests: list[str] = []
        self.meddle: Callable[[Descriptor, Iterator[bytes]], Iterator[bytes]] = lambda _, chunks: chunks
        self.resolve, self.manifest, self.has, self.close = inner.resolve, inner.manifest, inner.has, inner.close

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        self.read_digests.append(descriptor.digest)
        return self.meddle(descriptor, self.inner.read(descriptor))


@pytest.fixture
def source(tmp_path: Path) -> Meddled:
    return Meddled(LayoutStore.ensure(tmp_path / "store"))


def load(source: Store, root: Descriptor, text: str, emit: Callable[[Event], None] = ignore) -> Descriptor:
    reference = parse_reference(text)
    target = DaemonTarget(reference)
    try:
        return target.receive(source, root, reference.name, emit=emit, jobs=4)
    finally:
        target.close()


def saved(text: str, scratch: Path) -> DaemonStore:
    return DaemonStore(parse_reference(text), scratch=scratch, emit=ignore)


def names(dockerd: Dockerd) -> list[str]:
    """Every name the engine knows, temporary ones too."""
    client = dockerd.client()
    try:
        images = client.api.images(all=True)
    finally:
        client.close()
    return sorted(name for image in images for name in (image["RepoTags"] or []) + (image["RepoDigests"] or []))


class Relay(socketserver.BaseRequestHandler):
    """One connection from TCP to the socket of an engine."""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self.server.path)  # type: ignore[attr-defined]
            threading.Thread(target=pass_on, args=(self.request, engine), daemon=True).start()
            pass_on(engine, self.request)


def pass_on(origin: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while data := origin.recv(65536):
            destination.sendall(data)
    with suppress(OSError):
        destination.shutdown(socket.SHUT_WR)


class RelayServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def forwarded(dockerd: Dockerd) -> Iterator[str]:
    """The engine at a TCP port, as if it were on another machine."""
    with RelayServer(("127.0.0.1", 0), Relay) as server:
        server.path = str(dockerd.root / "sock")  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def broken_picture() -> Picture:
    """An image whose layer is what its descriptor says, and no tar."""
    noise = b"this is no tar" * 1000
    config = canonical_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(noise)]},
        }
    )
    layer = gzip.compress(noise, mtime=0)
    described = Descriptor.of(layer, DOCKER_LAYER_GZIP)
    manifest = make_manifest(DOCKER_MANIFEST, Descriptor.of(config, DOCKER_CONFIG), [described])
    return Picture(manifest=manifest, data={sha256(raw): raw for raw in (config, layer, manifest.raw)})


def image_id(dockerd: Dockerd, name: str) -> str:
    return dockerd.docker("image", "inspect", "--format", "{{.Id}}", name).strip()


# -- in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["oci", "docker"])
def test_an_image_is_pulled_from_us_under_its_name_alone(dockerd: Dockerd, source: Meddled, family: str) -> None:
    image = picture(family=family, layers=3, filler=3_000_000)
    put(source.inner, image, "a")
    events: list[Event] = []
    assert load(source, image.root, "docker-daemon:team/triton:24.09", events.append) == image.root
    assert names(dockerd) == ["team/triton:24.09"]
    assert image_id(dockerd, "team/triton:24.09") == image.manifest.config.digest
    assert not [event for event in events if isinstance(event, Logged)]
    done = {event.digest: event.done for event in events if isinstance(event, Transferred)}
    assert done == {blob.digest: blob.size for blob in (image.manifest.config, *image.manifest.layers)}


def test_layers_that_the_engine_has_are_not_sent_again(dockerd: Dockerd, source: Meddled) -> None:
    first, second = picture(layers=2, filler=100_000), picture(layers=4, filler=100_000)
    for image in (first, second):
        put(source.inner, image, None)
    load(source, first.root, "docker-daemon:triton:1")
    source.read_digests.clear()
    events: list[Event] = []
    load(source, second.root, "docker-daemon:triton:2", events.append)
    shared = {layer.digest for layer in first.manifest.layers}
    assert shared.isdisjoint(source.read_digests)
    skipped = {event.digest for event in events if isinstance(event, Transferred) and event.action == "skipped"}
    assert skipped == shared
    assert names(dockerd) == ["triton:1", "triton:2"]


def test_a_loaded_image_runs(dockerd: Dockerd, source: Meddled) -> None:
    program = Path("/usr/bin/docker-init").resolve().read_bytes()
    image = picture(program=program)
    put(source.inner, image, "a")
    load(source, image.root, "docker-daemon:triton")
    assert "tini version" in dockerd.docker("run", "--rm", "triton:latest", "--version")


def test_the_engine_takes_its_own_platform_of_an_index(dockerd: Dockerd, source: Meddled) -> None:
    amd, arm = picture(), picture(platform=ARM64, seed=1)
    for image in (amd, arm):
        put(source.inner, image, None)
    index = index_of((arm, ARM64), (amd, AMD64))
    source.inner.publish(index.raw, index.media_type, "all")
    assert load(source, index.descriptor, "docker-daemon:triton:1").digest == amd.root.digest
    assert image_id(dockerd, "triton:1") == amd.manifest.config.digest
    only_arm = index_of((arm, ARM64))
    source.inner.publish(only_arm.raw, only_arm.media_type, "arm")
    with pytest.raises(NotFound, match="linux/amd64"):
        load(source, only_arm.descriptor, "docker-daemon:triton:2")


def test_an_engine_elsewhere_is_sent_an_archive(
    dockerd: Dockerd, source: Meddled, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(layers=3, filler=2_000_000)
    put(source.inner, image, "a")
    with forwarded(dockerd) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        events: list[Event] = []
        load(source, image.root, "docker-daemon:triton:1", events.append)
    assert names(dockerd) == ["triton:1"]
    assert image_id(dockerd, "triton:1") == image.manifest.config.digest
    done = {event.digest: event.done for event in events if isinstance(event, Transferred)}
    assert done == {blob.digest: blob.size for blob in (image.manifest.config, *image.manifest.layers)}


def test_an_engine_that_cannot_reach_us_is_sent_an_archive(
    dockerd: Dockerd, source: Meddled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Docker Desktop and rootless engines: the socket is here, the loopback is another one."""
    image = picture()
    put(source.inner, image, "a")
    monkeypatch.setattr("composer.oci.daemon._Loopback.name", f"127.0.0.1:1/tricompose@{image.root.digest}")
    events: list[Event] = []
    load(source, image.root, "docker-daemon:triton:1", events.append)
    assert names(dockerd) == ["triton:1"]
    assert any(isinstance(event, Logged) and "cannot reach" in event.text for event in events)


# -- what goes wrong on the way in ---------------------------------------------------------------


def breaking(times: int, error: Exception | None = None) -> Callable[[Descriptor, Iterator[bytes]], Iterator[bytes]]:
    """Reads of large blobs break after their first piece."""
    left = [times]

    def meddle(descriptor: Descriptor, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            yield chunk
            if descriptor.size > 1_000_000 and left[0]:
                left[0] -= 1
                raise error or Corrupt("a bit flipped")

    return meddle


@pytest.mark.parametrize("error", [Corrupt("a bit flipped"), Unreachable("the registry went away")])
def test_a_source_that_fails_is_what_is_raised_and_nothing_is_left(
    dockerd: Dockerd, source: Meddled, error: Exception
) -> None:
    image = picture(filler=5_000_000)
    put(source.inner, image, "a")
    source.meddle = breaking(99, error)
    started = time.monotonic()
    with pytest.raises(type(error), match=str(error)):
        load(source, image.root, "docker-daemon:triton:1")
    assert time.monotonic() - started < 20
    assert names(dockerd) == []


def test_one_corrupt_read_is_read_again(dockerd: Dockerd, source: Meddled) -> None:
    image = picture(filler=5_000_000)
    put(source.inner, image, "a")
    source.meddle = breaking(1)
    load(source, image.root, "docker-daemon:triton:1")
    assert names(dockerd) == ["triton:1"]


def test_what_the_engine_refuses_is_raised(dockerd: Dockerd, source: Meddled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors come within streams that began with 200."""
    image = broken_picture()
    put(source.inner, image, "a")
    with pytest.raises(BuildFailed, match="the Docker Engine failed"):
        load(source, image.root, "docker-daemon:triton:1")
    with forwarded(dockerd) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(BuildFailed, match="the Docker Engine failed"):
            load(source, image.root, "docker-daemon:triton:1")
    assert names(dockerd) == []


def test_a_name_is_taken_over_only_when_all_is_there(dockerd: Dockerd, source: Meddled) -> None:
    old, new = picture(), picture(filler=5_000_000, seed=2)
    for image in (old, new):
        put(source.inner, image, None)
    load(source, old.root, "docker-daemon:triton:1")
    source.meddle = breaking(99)
    with pytest.raises(Corrupt):
        load(source, new.root, "docker-daemon:triton:1")
    assert image_id(dockerd, "triton:1") == old.manifest.config.digest
    source.meddle = lambda _, chunks: chunks
    load(source, new.root, "docker-daemon:triton:1")
    assert image_id(dockerd, "triton:1") == new.manifest.config.digest


INTERRUPTED = """
import sys, time
from pathlib import Path
from composer.events import ignore
from composer.oci.daemon import DaemonTarget
from composer.oci.layout import LayoutStore
from composer.oci.names import parse_reference
from tests.docker.test_daemon import Meddled

source = Meddled(LayoutStore(Path(sys.argv[1])))

def slow(descriptor, chunks):
    for chunk in chunks:
        yield chunk
        if descriptor.size > 1000000:
            sys.stdout.write("moving\\n")
            sys.stdout.flush()
            time.sleep(1)

source.meddle = slow
target = DaemonTarget(parse_reference("docker-daemon:triton:1"))
target.receive(source, source.resolve("a"), "1", emit=ignore, jobs=4)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_load_leaves_nothing_in_the_engine(
    dockerd: Dockerd, source: Meddled, sign: signal.Signals
) -> None:
    put(source.inner, picture(filler=20_000_000), "a")
    argv = [sys.executable, "-c", INTERRUPTED, str(source.inner.path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "moving\n"
        started = time.monotonic()
        os.kill(process.pid, sign)
        _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    if sign == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")
    time.sleep(1)
    assert names(dockerd) == []


# -- out -----------------------------------------------------------------------------------------


def test_what_went_in_comes_out(dockerd: Dockerd, source: Meddled, tmp_path: Path) -> None:
    image = picture(layers=3)
    put(source.inner, image, "a")
    load(source, image.root, "docker-daemon:triton:1")
    scratch = tmp_path / "scratch"
    for text in ("docker-daemon:triton:1", f"docker-daemon:{image.manifest.config.digest}"):
        there, out = saved(text, scratch), LayoutStore(tmp_path / "out")
        copy(there, parse_reference(text).name, out, "again", platforms=None, emit=ignore, jobs=2)
        there.close()
        root = out.resolve("again")
        manifest = parse_manifest(out.manifest(root), root.media_type)
        assert isinstance(manifest, Manifest)
        assert manifest.config.digest == image.manifest.config.digest
        config = json.loads(b"".join(out.read(manifest.config)))
        assert [layer.digest for layer in manifest.layers] == config["rootfs"]["diff_ids"]
    assert list(scratch.iterdir()) == []


def test_layers_that_docker_save_links_are_found(dockerd: Dockerd, source: Meddled, tmp_path: Path) -> None:
    """Engine 20.10 writes a layer that two images of an archive share once, and links to it."""
    for number, layers in enumerate((2, 3)):
        image = picture(layers=layers)
        put(source.inner, image, None)
        load(source, image.root, f"docker-daemon:triton:{number}")
    dockerd.docker("save", "-o", str(tmp_path / "both.tar"), "triton:0", "triton:1")
    there = open_docker_archive(tmp_path / "both.tar")
    for number in (0, 1):
        out = LayoutStore(tmp_path / str(number))
        copy(there, f"triton:{number}", out, "x", platforms=None, emit=ignore, jobs=2)


def test_an_image_that_is_not_there_names_the_nearest(dockerd: Dockerd, source: Meddled, tmp_path: Path) -> None:
    put(source.inner, picture(), "a")
    load(source, picture().root, "docker-daemon:triton:24.09")
    store = saved("docker-daemon:triton:24.08", tmp_path)
    with pytest.raises(NotFound, match=r"no image triton:24\.08") as caught:
        store.resolve("24.08")
    assert caught.value.hint == "did you mean docker-daemon:triton:24.09?"
    store.close()


# -- engines that are not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "like", "command"),
    [
        ("debian", "", "apt-get install -y docker.io"),
        ("linuxmint", "ubuntu debian", "apt-get install -y docker.io"),
        ("rocky", "rhel centos fedora", "dnf install -y docker-ce"),
        ("plan9", "", "https://docs.docker.com/engine/install/"),
    ],
)
def test_an_engine_that_is_not_installed_is_installed_as_the_distribution_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, like: str, command: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'nothing.sock'}")
    monkeypatch.setattr("shutil.which", lambda tool, path=None: None)
    monkeypatch.setattr("distro.id", lambda: name)
    monkeypatch.setattr("distro.like", lambda: like)
    with pytest.raises(Unreachable) as caught:
        DaemonTarget(parse_reference("docker-daemon:x:1"))
    assert command in (caught.value.hint or "")


def test_no_engine_is_unreachable_with_the_command_that_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'nothing.sock'}")
    with pytest.raises(Unreachable, match="No such file") as caught:
        DaemonTarget(parse_reference("docker-daemon:x:1"))
    assert caught.value.hint == "sudo systemctl start docker"
    assert "\n" not in caught.value.message
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(Unreachable, match="refused") as caught:
        DaemonTarget(parse_reference("docker-daemon:x:1"))
    assert "DOCKER_HOST" in str(caught.value.hint)


def test_a_user_outside_the_group_is_denied(dockerd: Dockerd) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            DaemonTarget(parse_reference("docker-daemon:x:1"))
        except Denied as error:
            os.write(write, str(error.hint).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as said:
        assert "usermod -aG docker" in said.read()


# -- archives, as this engine loads them ---------------------------------------------------------


@pytest.mark.parametrize("family", ["oci", "docker"])
@pytest.mark.parametrize("docker", [True, False])
def test_docker_load_takes_both_archives(
    dockerd: Dockerd, source: Meddled, tmp_path: Path, family: str, docker: bool
) -> None:
    image, path = picture(family=family, layers=3), tmp_path / "triton.tar"
    put(source.inner, image, "a")
    name = "triton:24.09" if docker else "24.09"
    ArchiveTarget(path, docker=docker).receive(source, image.root, name, emit=ignore, jobs=2)
    assert dockerd.docker("load", "-i", str(path)).strip().endswith("Loaded image: triton:24.09")
    assert image_id(dockerd, "triton:24.09") == image.manifest.config.digest
