"""Servers in a real Docker Engine. Whatever happens, no container, volume or image of ours stays in it."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.models.containers import ContainerCollection

from composer.checks import prove
from composer.errors import CheckFailed, TricomposeError, Unplannable
from composer.events import Event, Logged, ignore
from composer.oci.daemon import DaemonTarget
from composer.oci.image import Image
from composer.oci.names import parse_reference
from composer.recipe import Run
from composer.runners import pick
from composer.runners.docker import LABEL, DockerRunner
from composer.runners.ports import free_ports
from tests.services.dockerd import Dockerd
from tests.triton.conftest import bench  # noqa: F401 - a fixture
from tests.triton.images import Bench, python_model
from tests.triton.test_rootfs import ADD, SUM, result, validation

pytestmark = pytest.mark.docker

NO_GPU = Run(gpus="none")
KEPT = "tricompose-test:1"


@pytest.fixture(scope="module")
def warm(docker_engine: Dockerd, bench: Bench) -> Iterator[Dockerd]:  # noqa: F811
    """An engine that has the layers of the real server: under a name that is none of ours and must stay."""
    docker_engine.remove_everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", docker_engine.host)
        target = DaemonTarget(parse_reference(f"docker-daemon:{KEPT}"))
        target.receive(bench.store, script(bench, "true").manifest.descriptor, "1", emit=ignore, jobs=1)
        target.close()
    yield docker_engine
    docker_engine.remove_everything()


@pytest.fixture
def engine(warm: Dockerd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    """An engine in which nothing may be left behind, and nothing be missing."""
    monkeypatch.setenv("DOCKER_HOST", warm.host)
    yield warm
    client = warm.client()
    try:
        assert client.containers.list(all=True) == []
        assert client.volumes.list() == []
        assert [image.tags for image in client.images.list()] == [[KEPT]]
    finally:
        client.close()


def script(bench: Bench, text: str) -> Image:  # noqa: F811
    return bench.image({}, command=("/bin/sh", "-c", text))


@pytest.mark.triton
def test_a_good_image_is_proved(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    run = Run(gpus="none", shm_size=1 << 27)
    with DockerRunner().start(bench.image(ADD), bench.store, run, emit=ignore) as running:
        report = prove(running, validation(SUM), ["add"], base=Path(), emit=ignore)
        assert "nv_inference_request_success" in requests.get(running.metrics, timeout=5).text
        with socket.create_connection(tuple(running.grpc.split(":")), 5):  # type: ignore[arg-type]
            pass
        client = engine.client()
        (container,) = client.containers.list(filters={"label": LABEL})
        assert container.attrs["HostConfig"]["ShmSize"] == 1 << 27
        bindings = [one for ports in container.attrs["NetworkSettings"]["Ports"].values() for one in ports or ()]
        assert {one["HostIp"] for one in bindings} == {"127.0.0.1"}
        client.close()
        running.stop()
        assert running.exit_code() == 0
        assert "All models are stopped, unloading models" in running.logs()
    assert report.ok
    assert result(report, "gpu").outcome == "unverified"


@pytest.mark.triton
def test_the_ports_that_are_wanted_and_those_of_the_image(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    ports = free_ports()
    image = bench.image(ADD, "--http-port=9000", "--metrics-port", "9002")
    with DockerRunner().start(image, bench.store, NO_GPU, emit=ignore, ports=ports) as running:
        assert running.http == f"http://127.0.0.1:{ports['http']}"
        assert prove(running, validation(SUM), ["add"], base=Path(), emit=ignore).ok
        with (
            pytest.raises(Unplannable, match="a port that the recipe wants is taken"),
            DockerRunner().start(image, bench.store, NO_GPU, emit=ignore, ports=ports),
        ):
            pytest.fail("two servers on one port")


def test_auto_goes_on_without_a_gpu_and_says_so(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    events: list[Event] = []
    with DockerRunner().start(script(bench, "sleep 600"), bench.store, Run(), emit=events.append) as running:
        assert running.exit_code() is None
    said = [event.text for event in events if isinstance(event, Logged)]
    assert [text for text in said if text.startswith("started without a GPU: Docker cannot give the container a GPU")]


@pytest.mark.parametrize("gpus", ["all", 1, ("GPU-1",)])
def test_a_gpu_that_is_wanted_and_cannot_be_had(bench: Bench, engine: Dockerd, gpus: object) -> None:  # noqa: F811
    run = Run.model_validate({"gpus": gpus})
    with (
        pytest.raises(Unplannable, match="Container Toolkit is not set up") as raised,
        DockerRunner().start(script(bench, "sleep 600"), bench.store, run, emit=ignore),
    ):
        pytest.fail("it started")
    assert "nvidia-ctk runtime configure" in (raised.value.hint or "")


def test_a_command_that_is_not_there(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    image = bench.image({}, entrypoint=("/no/such/server",))
    with (
        pytest.raises(CheckFailed, match=r"cannot start the image: .*/no/such/server"),
        DockerRunner().start(image, bench.store, NO_GPU, emit=ignore),
    ):
        pytest.fail("it started")


@pytest.mark.parametrize(("end", "code"), [("exit 3", 3), ("exit 139", 139)])
def test_a_server_that_ends(bench: Bench, engine: Dockerd, end: str, code: int) -> None:  # noqa: F811
    image = script(bench, f"echo out; echo err >&2; {end}")
    with DockerRunner().start(image, bench.store, NO_GPU, emit=ignore) as running:
        deadline = time.monotonic() + 30
        while running.exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.exit_code() == code
        assert {"out", "err"} <= set(running.logs().splitlines())
        report = prove(running, validation(SUM), ["add"], base=Path(), emit=ignore)
    assert result(report, "ready").message.startswith("the server ended ")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, CheckFailed("no")])
def test_whatever_happens_meanwhile(bench: Bench, engine: Dockerd, error: BaseException) -> None:  # noqa: F811
    image = script(bench, "sleep 600")
    with (
        pytest.raises((KeyboardInterrupt, ValueError, TricomposeError)),
        DockerRunner().start(image, bench.store, NO_GPU, emit=ignore),
    ):
        raise error


def test_an_interruption_while_the_image_is_on_its_way(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    sent = threading.Lock()

    def interrupt(event: Event) -> None:
        # Once: a second signal could arrive when nobody here expects it any more, and end the whole test run.
        if sent.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)

    image = bench.image({"big/1/model.bin": random.Random(1).randbytes(1 << 22).hex()}, command=("true",))
    with (
        pytest.raises(KeyboardInterrupt),
        DockerRunner().start(image, bench.store, NO_GPU, emit=interrupt),
    ):
        pytest.fail("it started")


def test_an_interruption_while_the_container_is_made(
    bench: Bench,  # noqa: F811
    engine: Dockerd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine goes on making it, whoever is gone."""
    create = ContainerCollection.create

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        made = create(*arguments, **settings)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        return made

    monkeypatch.setattr(ContainerCollection, "create", interrupted)
    with (
        pytest.raises(KeyboardInterrupt),
        DockerRunner().start(script(bench, "true"), bench.store, NO_GPU, emit=ignore),
    ):
        pytest.fail("it started")


def test_a_volume_of_the_image_goes_too(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    image = bench.image({}, command=("sleep", "600"), volumes={"/data": {}})
    with DockerRunner().start(image, bench.store, NO_GPU, emit=ignore):
        client = engine.client()
        assert len(client.volumes.list()) == 1
        client.close()


def test_docker_is_preferred(engine: Dockerd) -> None:
    assert DockerRunner().refusal() is None
    assert pick("auto").name == "docker"


def test_an_engine_elsewhere_is_refused(engine: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_forward, args=(listener, engine.host.removeprefix("unix://")), daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        assert DockerRunner().refusal() == (
            "the Docker Engine is on another machine: run tricompose there, or unset DOCKER_HOST"
        )


def _forward(listener: socket.socket, path: str) -> None:
    """Hand every connection on to the socket at `path`."""
    while True:
        try:
            caller = listener.accept()[0]
        except OSError:
            return
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(path)
        for source, target in ((caller, engine), (engine, caller)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(1 << 16):
        target.sendall(data)
    target.close()


def test_models_of_a_server_in_docker_fail_alike(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    bad = python_model("bad", "def initialize(self, args):\n    import not_there", {"X": "FP32 [2]"}, {"Y": "FP32 [2]"})
    with DockerRunner().start(bench.image(ADD | bad), bench.store, NO_GPU, emit=ignore) as running:
        report = prove(running, validation(SUM), ["add", "bad"], base=Path(), emit=ignore)
    assert "No module named 'not_there'" in result(report, "ready").message
