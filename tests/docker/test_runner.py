"""Servers in a real Docker Engine. Whatever happens, no container, volume or image of ours stays in it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.models.containers import ContainerCollection

from composer.checks import Terms, prove
from composer.errors import CheckFailed, NotFound, TricomposeError, Unplannable
from composer.events import Event, Logged, ignore
from composer.oci.daemon import DaemonTarget
from composer.oci.names import parse_reference
from composer.recipe import Run
from composer.runners import owner, pick
from composer.runners.docker import LABEL, PLACE, DockerRunner
from composer.runners.ports import free_ports
from composer.runners.printed import Printable, printed
from tests.conftest import require
from tests.services.dockerd import DOCKER, Dockerd
from tests.triton.conftest import bench  # noqa: F401 - a fixture
from tests.triton.images import Bench, python_model
from tests.triton.test_rootfs import ADD, SUM, TELL, assert_told, options, result, script, told, validation

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


@pytest.mark.triton
def test_a_good_image_is_proved(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    run = Run(gpus="none", shm_size=1 << 27)
    with DockerRunner().start(bench.image(ADD), bench.store, run, emit=ignore, ports=free_ports()) as running:
        report = prove(running, Terms(validation=validation(SUM), models=["add"], base=Path()), emit=ignore)
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
    assert result(report, "gpu:visible").outcome == "unverified"


@pytest.mark.triton
def test_the_ports_that_are_wanted_and_those_of_the_image(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    ports = free_ports()
    image = bench.image(ADD, "--http-port=9000", "--metrics-port", "9002")
    with DockerRunner().start(image, bench.store, NO_GPU, emit=ignore, ports=ports) as running:
        assert running.http == f"http://127.0.0.1:{ports['http']}"
        assert prove(running, Terms(validation=validation(SUM), models=["add"], base=Path()), emit=ignore).ok
        with (
            pytest.raises(Unplannable, match="a port that the recipe names is taken"),
            DockerRunner().start(image, bench.store, NO_GPU, emit=ignore, ports=ports),
        ):
            pytest.fail("two servers on one port")


def test_auto_goes_on_without_a_gpu_and_says_so(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    events: list[Event] = []
    with DockerRunner().start(script(bench, "sleep 600"), bench.store, Run(), emit=events.append) as running:
        assert running.exit_code() is None
    said = [event.text for event in events if isinstance(event, Logged)]
    assert [
        text for text in said if text.startswith("started without a GPU: the engine cannot give the container a GPU")
    ]


@pytest.mark.parametrize("gpus", ["all", 1, ("GPU-1",)])
def test_a_gpu_that_is_wanted_and_cannot_be_had(bench: Bench, engine: Dockerd, gpus: object) -> None:  # noqa: F811
    run = Run.model_validate({"gpus": gpus})
    with (
        pytest.raises(Unplannable, match="the engine cannot give the container a GPU") as raised,
        DockerRunner().start(script(bench, "sleep 600"), bench.store, run, emit=ignore),
    ):
        pytest.fail("it started")
    assert "nvidia-ctk runtime configure" in (raised.value.hint or "")


def test_a_command_that_is_not_there(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    image = bench.image({}, entrypoint=("/no/such/server",))
    with (
        pytest.raises(CheckFailed, match="the image has no /no/such/server"),
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
        report = prove(running, Terms(validation=validation(SUM), models=["add"], base=Path()), emit=ignore)
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


# -- everything that a recipe can say of it -----------------------------------------------------------------------


def test_options(bench: Bench, engine: Dockerd, tmp_path: Path) -> None:  # noqa: F811
    run = options(tmp_path)
    with DockerRunner().start(script(bench, TELL), bench.store, run, emit=ignore, base=tmp_path) as running:
        assert_told(told(running), tmp_path)
        assert running.engine == f"docker {engine.docker('version', '--format', '{{.Server.Version}}').strip()}"
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in running.pids()]
        assert names == ["sh\n", "sleep\n"]


def test_a_mount_that_is_not_there(bench: Bench, engine: Dockerd, tmp_path: Path) -> None:  # noqa: F811
    run = Run.model_validate({"mounts": ({"source": Path("nothing"), "target": "/data"},)})
    with (
        pytest.raises(NotFound, match=f"{tmp_path}/nothing, to be mounted at /data, is not there"),
        DockerRunner().start(script(bench, "true"), bench.store, run, emit=ignore, base=tmp_path),
    ):
        pytest.fail("it started")


def test_networks(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    image = script(bench, "sleep 600")
    with (
        pytest.raises(Unplannable, match=r"no network back, which run\.network names") as raised,
        DockerRunner().start(image, bench.store, Run(gpus="none", network="back"), emit=ignore),
    ):
        pytest.fail("it started")
    assert raised.value.hint == "docker network create back"
    engine.docker("network", "create", "back")
    try:
        with DockerRunner().start(image, bench.store, Run(gpus="none", network="back"), emit=ignore) as running:
            (inspected,) = json.loads(engine.docker("inspect", engine.docker("ps", "--quiet").strip()))
            assert list(inspected["NetworkSettings"]["Networks"]) == ["back"]
            assert int(running.http.rpartition(":")[2]) > 0
    finally:
        engine.docker("network", "rm", "back")
    with (
        pytest.raises(Unplannable, match="without a network cannot be asked"),
        DockerRunner().start(image, bench.store, Run(network="none"), emit=ignore),
    ):
        pytest.fail("it started")


@pytest.mark.triton
def test_the_host_s_network(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    """Nothing can be published there: the server is told where to listen. It is killed then, by somebody else."""
    run = Run(gpus="none", network="host")
    with DockerRunner().start(bench.image(ADD), bench.store, run, emit=ignore) as running:
        report = prove(running, Terms(validation=validation(SUM), models=["add"], base=Path()), emit=ignore)
        assert report.ok
        for pid in running.pids():
            with suppress(ProcessLookupError):  # it has died with the first of them
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while running.exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.exit_code() == 137
        assert list(running.pids()) == []
        begun = time.monotonic()
    assert time.monotonic() - begun < 5


def test_a_container_that_somebody_removes(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    with DockerRunner().start(script(bench, "sleep 600"), bench.store, NO_GPU, emit=ignore) as running:
        engine.docker("rm", "--force", engine.docker("ps", "--quiet").strip())
        assert (running.exit_code(), running.logs(), running.pids()) == (137, "", ())
        running.stop()


def test_marks_of_others_are_left_alone(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    """Only what was certainly ours, and of a process that certainly has ended, is removed at the next start."""
    dead = f"{PLACE}:999999-1-{owner.ourselves().split('-', 2)[2]}-abc"
    alive, strange = f"{PLACE}:{owner.ourselves()}-abc", f"{PLACE}:somebody-else"
    elsewhere = f"{PLACE}:1-1-1-00000000-abc"
    for name in (dead, alive, strange, elsewhere):
        engine.docker("tag", KEPT, name)
        engine.docker("create", "--label", f"{LABEL}={name}", KEPT)
    try:
        with DockerRunner().start(script(bench, "true"), bench.store, NO_GPU, emit=ignore) as running:
            there = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
            ours = running.container.attrs["Config"]["Image"]
            assert set(there) == {KEPT, alive, strange, elsewhere, ours}
    finally:
        for container in engine.docker("ps", "--all", "--quiet").split():
            engine.docker("rm", container)
        for name in (alive, strange, elsewhere):
            engine.docker("rmi", name)


# -- written out --------------------------------------------------------------------------------------------------


@pytest.fixture
def printable(bench: Bench, engine: Dockerd) -> Iterator[Printable]:  # noqa: F811
    """A server in the engine, under a name of the user's own, to be started by what is written out."""
    image = bench.image(ADD)
    target = DaemonTarget(parse_reference("docker-daemon:printed:1"))
    target.receive(bench.store, image.manifest.descriptor, "1", emit=ignore, jobs=1)
    target.close()
    ports = dict(zip(("http", "grpc", "metrics"), free_ports().values(), strict=True))
    run = Run.model_validate({"gpus": "none", "ports": ports, "env": {"ONE": "it's $HOME"}})
    reference = parse_reference("docker-daemon:printed:1")
    yield Printable(reference=reference, digest="", image=image, run=run, base=Path(), deadline=60, models=["add"])
    for container in engine.docker("ps", "--all", "--quiet").split():
        engine.docker("rm", "--force", container)
    engine.docker("rmi", "printed:1")


def wait_until_it_serves(printable: Printable) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(requests.RequestException):
            if requests.get(f"http://127.0.0.1:{printable.run.ports.http}/v2/models/add/ready", timeout=2).ok:
                return
        time.sleep(0.1)
    pytest.fail("it does not serve")


def environment(engine: Dockerd) -> dict[str, str]:
    """Docker's own client of the engine's package: another may come first."""
    return {"DOCKER_HOST": engine.host, "PATH": f"{Path(DOCKER).parent}:/bin", "HOME": str(engine.root)}


@pytest.mark.triton
def test_the_command_that_is_written_out(printable: Printable, engine: Dockerd) -> None:
    process = subprocess.Popen(
        ["sh", "-c", printed("docker", printable)], env=environment(engine), stdout=subprocess.PIPE
    )
    try:
        wait_until_it_serves(printable)
        container = engine.docker("ps", "--quiet").strip()
        assert "ONE=it's $HOME\n" in engine.docker("exec", container, "env")
        engine.docker("stop", container)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert engine.docker("ps", "--all", "--quiet") == ""


@pytest.mark.triton
def test_the_compose_file_that_is_written_out(printable: Printable, engine: Dockerd, tmp_path: Path) -> None:
    require("docker-compose")
    file = tmp_path / "compose.yaml"
    file.write_text(printed("compose", printable))

    def compose(*words: str) -> str:
        line = ["docker-compose", "--file", str(file), "--project-name", "printed", *words]
        return subprocess.run(line, env=environment(engine), check=True, capture_output=True, text=True).stdout

    assert "image: printed:1" in compose("config")
    compose("up", "--detach", "--no-color")
    try:
        wait_until_it_serves(printable)
        container = engine.docker("ps", "--quiet").strip()
        assert "ONE=it's $HOME\n" in engine.docker("exec", container, "env")
        (inspected,) = json.loads(engine.docker("inspect", container))
        asked = inspected["Config"]["Healthcheck"]["Test"][1:]
        assert subprocess.run([DOCKER, "--host", engine.host, "exec", container, *asked], check=False).returncode == 0
    finally:
        compose("down", "--timeout", "30")
    assert engine.docker("network", "ls", "--filter", "type=custom", "--quiet") == ""


def test_models_of_a_server_in_docker_fail_alike(bench: Bench, engine: Dockerd) -> None:  # noqa: F811
    bad = python_model("bad", "def initialize(self, args):\n    import not_there", {"X": "FP32 [2]"}, {"Y": "FP32 [2]"})
    with DockerRunner().start(bench.image(ADD | bad), bench.store, NO_GPU, emit=ignore) as running:
        report = prove(running, Terms(validation=validation(SUM), models=["add", "bad"], base=Path()), emit=ignore)
    assert "No module named 'not_there'" in result(report, "ready").message
