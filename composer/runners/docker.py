"""Start a server in Docker: the image goes into the engine under a name of its own, and nothing of it stays there.

Ports are published on the loopback of the engine's machine, so the engine must be on this one.
Source of the calls: the Docker Engine API 1.41.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import docker
import requests
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest

from composer.containers import temporary_container
from composer.errors import CheckFailed, TricomposeError, Unplannable, Unreachable
from composer.events import Emit, Logged
from composer.oci.daemon import DaemonTarget, Engine
from composer.oci.image import Image
from composer.oci.names import Reference
from composer.oci.store import Store
from composer.runners import ports as port_rules

if TYPE_CHECKING:
    from composer.recipe import Run

PLACE: Final = "tricompose-validate"
"""The repository that images are put under, with a random tag, while they are proved."""

LABEL: Final = "tricompose.validate"
"""The label of containers that we started."""

GRACE: Final = 10
"""Seconds from SIGTERM to SIGKILL: Triton unloads its models meanwhile."""

_JOBS: Final = 4
_TOOLKIT: Final = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
_MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    "could not select device driver": (
        "Docker cannot give the container a GPU: the NVIDIA Container Toolkit is not set up",
        f"install nvidia-container-toolkit, then: {_TOOLKIT}",
    ),
    "nvidia-container-cli": ("the NVIDIA driver cannot be brought into the container", "nvidia-smi"),
    "port is already allocated": ("a port that the recipe wants is taken", "docker ps"),
    "address already in use": ("a port that the recipe wants is taken", "ss -ltnp"),
}
"""What engines say, what it means, and what to do."""


class DockerRunner:
    """The runner for machines with Docker: the only one that gives a server a GPU."""

    name = "docker"

    def refusal(self) -> str | None:
        """Asks the engine who it is."""
        try:
            engine = Engine()
            try:
                engine.platform()
                if not engine.local:
                    return "the Docker Engine is on another machine: run tricompose there, or unset DOCKER_HOST"
            finally:
                engine.close()
        except TricomposeError as error:
            return f"{error.message}; {error.hint}" if error.hint else error.message
        return None

    @contextmanager
    def start(
        self, image: Image, store: Store, run: Run, *, emit: Emit, ports: Mapping[str, int] | None = None
    ) -> Iterator[_Server]:
        """See `Runner.start`. Raises `CheckFailed` if the engine cannot start what the image names as its command."""
        inner = port_rules.listened(port_rules.command_of(image))
        published = {f"{port}/tcp": (port_rules.HOST, (ports or {}).get(name)) for name, port in inner.items()}
        with ExitStack() as stack:
            client = docker.from_env()
            stack.callback(client.close)
            name = _put(image, store, client, stack, emit)
            settings = {"image": name, "shm_size": run.shm_size, "ports": published, "labels": {LABEL: name}}
            container = _started(client, settings, run, stack, emit)
            yield _running(container, inner)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """A server in a container."""

    http: str
    grpc: str
    metrics: str
    container: Container

    def logs(self) -> str:
        with _explained():
            return str(self.container.logs().decode(errors="replace"))

    def exit_code(self) -> int | None:
        with _explained():
            self.container.reload()
            state = self.container.attrs["State"]
        return int(state["ExitCode"]) if state["Status"] in ("exited", "dead") else None

    def stop(self) -> None:
        with _explained():
            self.container.stop(timeout=GRACE)


def _put(image: Image, store: Store, client: docker.DockerClient, stack: ExitStack, emit: Emit) -> str:
    """Give the engine the image for as long as `stack` lasts. Returns what it is called there."""
    tag = secrets.token_hex(6)
    name = f"{PLACE}:{tag}"
    target = DaemonTarget(Reference(transport="docker-daemon", place=PLACE, tag=tag))
    stack.callback(target.close)
    stack.callback(_forget, client, name)
    target.receive(store, image.manifest.descriptor, tag, emit=emit, jobs=_JOBS)
    return name


def _started(
    client: docker.DockerClient, settings: Mapping[str, Any], run: Run, stack: ExitStack, emit: Emit
) -> Container:
    """A container that was started, with the GPUs that the recipe wants; for `auto` without, where there are none."""
    requested = _gpus(run)
    try:
        return _launched(client, {**settings, "device_requests": requested}, stack)
    except TricomposeError as error:
        if run.gpus != "auto":
            raise
        emit(Logged(text=f"started without a GPU: {error.message}", source="docker"))
        return _launched(client, settings, stack)


def _launched(client: docker.DockerClient, settings: Mapping[str, Any], stack: ExitStack) -> Container:
    with _explained():
        container = stack.enter_context(temporary_container(client, settings))
        container.start()
    return container


def _gpus(run: Run) -> list[DeviceRequest]:
    """What `docker run --gpus` would ask for."""
    if run.gpus == "none":
        return []
    wanted: dict[str, Any] = {"count": -1}
    if isinstance(run.gpus, int):
        wanted = {"count": run.gpus}
    elif isinstance(run.gpus, tuple):
        wanted = {"device_ids": list(run.gpus)}
    return [DeviceRequest(capabilities=[["gpu"]], **wanted)]


def _running(container: Container, inner: Mapping[str, int]) -> _Server:
    """Where the engine has published the ports."""
    with _explained():
        container.reload()
        # A container that has ended already has no ports; its exit status says the rest.
        published = container.attrs["NetworkSettings"]["Ports"] or {}
    at = {}
    for name, port in inner.items():
        bindings = published.get(f"{port}/tcp") or [{"HostPort": "0"}]
        at[name] = f"{port_rules.HOST}:{bindings[0]['HostPort']}"
    return _Server(
        http=f"http://{at['http']}", grpc=at["grpc"], metrics=f"http://{at['metrics']}/metrics", container=container
    )


def _forget(client: docker.DockerClient, name: str) -> None:
    with suppress(NotFound):
        client.images.remove(name)


@contextmanager
def _explained() -> Iterator[None]:
    """Say what the engine's errors mean."""
    try:
        yield
    except APIError as error:
        raise _meaning(" ".join(str(error.explanation or error).split())) from error
    except requests.RequestException as error:
        raise Unreachable(f"the Docker Engine does not answer: {error}", hint="docker info") from error


def _meaning(words: str) -> TricomposeError:
    for sign, (message, hint) in _MEANINGS.items():
        if sign in words:
            return Unplannable(f"{message} (Docker says: {words})", hint=hint)
    return CheckFailed(f"Docker cannot start the image: {words}", hint="docker info")
