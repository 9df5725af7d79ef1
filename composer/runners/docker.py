"""Start a server in Docker: the image goes into the engine under a name of its own, and nothing of it stays there.

Ports are published on the loopback of the engine's machine, so the engine must be on this one.
Source of the calls: the Docker Engine API 1.41.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import docker
import requests
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, Mount, Ulimit

from composer.containers import temporary_container
from composer.diagnosis import of_engine
from composer.errors import CheckFailed, TricomposeError, Unplannable, Unreachable
from composer.events import Emit, Logged
from composer.interruptions import Shield, shielded
from composer.oci.daemon import DaemonTarget, Engine
from composer.oci.image import Image
from composer.oci.names import Reference
from composer.oci.store import Store
from composer.runners import ports as port_rules
from composer.runners.ending import GRACE, PROVED, asked_to_end
from composer.runners.mounts import Mounted, mounted
from composer.runners.owner import is_gone, ourselves

if TYPE_CHECKING:
    from composer.recipe import Run

PLACE: Final = "tricompose-validate"
"""The repository that images are put under, with a random tag, while they are proved."""

LABEL: Final = "tricompose.validate"
"""The label of containers that we started."""

_KILLED: Final = 137
"""The exit status of what SIGKILL has ended."""

_KILLING: Final = 10
"""Seconds until a container that was killed has ended."""

_JOBS: Final = 4
_OF_THE_IMAGE: Final = ("program-not-in-image", "program-not-executable", "image-of-another-platform")
"""Classes of failure that are the image's own. Of all others it is this machine that cannot start it."""

_T = TypeVar("_T")
_NO_NETWORK: Final = re.compile(r"network (\S+) not found")


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
        self,
        image: Image,
        store: Store,
        run: Run,
        *,
        emit: Emit,
        ports: Mapping[str, int] | None = None,
        base: Path = Path(),
    ) -> Iterator[_Server]:
        """See `Runner.start`. Raises `CheckFailed` if the engine cannot start what the image names as its command."""
        given = mounted(run, base)
        with shielded() as shield, ExitStack() as stack:
            inner, network = _network(image, run, ports, stack)
            client = docker.from_env()
            stack.callback(client.close)
            with _explained():
                _sweep(client, emit)
            name = _put(image, store, client, stack, shield, emit)
            settings = {"image": name, "labels": {LABEL: name}, **network, **_options(run, given)}
            container = _started(client, settings, run, stack, emit)
            grace = GRACE if ports else PROVED
            server = _running(container, inner, grace, published="ports" in network, engine=_version(client))
            stack.callback(server.ask_to_stop)
            with shield.lowered():
                yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """A server in a container."""

    http: str
    grpc: str
    metrics: str
    grace: float
    engine: str
    container: Container

    def logs(self) -> str:
        with _explained():
            try:
                return str(self.container.logs().decode(errors="replace"))
            except NotFound:
                return ""

    def exit_code(self) -> int | None:
        with _explained():
            try:
                self.container.reload()
            except NotFound:  # somebody has removed it
                return _KILLED
            state = self.container.attrs["State"]
        return int(state["ExitCode"]) if state["Status"] in ("exited", "dead") else None

    def oom_killed(self) -> bool:
        return bool(self.container.attrs["State"].get("OOMKilled")) if self.exit_code() is not None else False

    def pids(self) -> Sequence[int]:
        with _explained():
            try:
                shown = self.container.top()
            except APIError as error:
                return _unless_over(error, ())
            column = shown["Titles"].index("PID")
            return [int(row[column]) for row in shown["Processes"]]

    def stop(self) -> None:
        if not self.ask_to_stop():
            with _explained():
                try:
                    self.container.kill()
                    self.container.wait(timeout=_KILLING)
                except APIError as error:
                    _unless_over(error, None)

    def ask_to_stop(self) -> bool:
        """The part of `stop` that is gentle, for a container that is removed next. False if it goes on."""
        with _explained():
            try:
                return asked_to_end(self, lambda: self.container.kill("SIGTERM"))
            except APIError as error:
                return _unless_over(error, other=True)


def _unless_over(error: APIError, other: _T) -> _T:
    """`other` where an error says no more than that the container has ended, or is gone."""
    if error.status_code not in (404, 409):
        raise error
    return other


# -- what the engine is told --------------------------------------------------------------------------------------


def _network(
    image: Image, run: Run, ports: Mapping[str, int] | None, stack: ExitStack
) -> tuple[Mapping[str, int], Mapping[str, Any]]:
    """The ports at which the server is found, and what makes it so."""
    command = port_rules.command_of(image)
    if run.network == "none":
        raise Unplannable("a server without a network cannot be asked anything", hint="leave out run.network")
    if run.network == "host":
        # No engine can publish a port there: as without Docker, the server is told where to listen.
        words, chosen = stack.enter_context(port_rules.placed(command, ports))
        entrypoint = (image.config.get("config") or {}).get("Entrypoint") or ()
        return chosen, {"network_mode": "host", "command": words[len(entrypoint) :]}
    inner = port_rules.listened(command)
    published = {f"{port}/tcp": (port_rules.HOST, (ports or {}).get(name)) for name, port in inner.items()}
    return inner, {"ports": published} | ({"network": run.network} if run.network else {})


def _options(run: Run, given: Sequence[Mounted]) -> Mapping[str, Any]:
    """The rest of `run:` but for the GPUs."""
    return {
        "shm_size": run.shm_size,
        "environment": dict(run.env),
        "extra_hosts": dict(run.extra_hosts),
        "ulimits": [Ulimit(name=name, soft=one.soft, hard=one.hard) for name, one in run.ulimits.items()],
        "mounts": [Mount(one.target, one.source, type="bind", read_only=one.read_only) for one in given],
    }


def _put(image: Image, store: Store, client: docker.DockerClient, stack: ExitStack, shield: Shield, emit: Emit) -> str:
    """Give the engine the image for as long as `stack` lasts. Returns what it is called there."""
    tag = "-".join(part for part in (ourselves(), secrets.token_hex(6)) if part)
    name = f"{PLACE}:{tag}"
    target = DaemonTarget(Reference(transport="docker-daemon", place=PLACE, tag=tag))
    stack.callback(target.close)
    stack.callback(_forget, client, name)
    with shield.lowered():
        target.receive(store, image.manifest.descriptor, tag, emit=emit, jobs=_JOBS)
    return name


def _sweep(client: docker.DockerClient, emit: Emit) -> None:
    """Remove what a run has left that was killed: its mark is in the name of the image, and so on the container."""
    for found in client.api.containers(all=True, filters={"label": LABEL}):
        if is_gone(found["Labels"][LABEL]):
            emit(Logged(text=f"removing the container of a run that was killed: {found['Id'][:12]}", source="docker"))
            with suppress(NotFound):
                client.api.remove_container(found["Id"], force=True, v=True)
    for name in (name for found in client.api.images(PLACE) for name in found["RepoTags"] or ()):
        if is_gone(name):
            with suppress(NotFound):
                client.api.remove_image(name)


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
    """A container that was started and lasts as long as `stack`. One that cannot be started is gone at once."""
    with _explained(), ExitStack() as attempt:
        container = attempt.enter_context(temporary_container(client, settings))
        container.start()
        stack.push(attempt.pop_all())
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


def _running(container: Container, inner: Mapping[str, int], grace: float, *, published: bool, engine: str) -> _Server:
    """Where the engine has published the ports, or on the host's network has left them."""
    with _explained():
        container.reload()
        # A container that has ended already has no ports; its exit status says the rest.
        bound = container.attrs["NetworkSettings"]["Ports"] or {}
    at = {}
    for name, port in inner.items():
        bindings = bound.get(f"{port}/tcp") or [{"HostPort": "0"}]
        at[name] = f"{port_rules.HOST}:{bindings[0]['HostPort'] if published else port}"
    return _Server(
        http=f"http://{at['http']}",
        grpc=at["grpc"],
        metrics=f"http://{at['metrics']}/metrics",
        grace=grace,
        engine=engine,
        container=container,
    )


def _version(client: docker.DockerClient) -> str:
    with _explained():
        return f"docker {client.version()['Version']}"


def _forget(client: docker.DockerClient, name: str) -> None:
    with suppress(NotFound):
        client.images.remove(name)


@contextmanager
def _explained() -> Iterator[None]:
    """Say what the engine's errors mean, as far as they are known."""
    try:
        yield
    except APIError as error:
        raise _meaning(" ".join(str(error.explanation or error).split())) from error
    except requests.RequestException as error:
        raise Unreachable(f"the Docker Engine does not answer: {error}", hint="docker info") from error


def _meaning(words: str) -> TricomposeError:
    if missing := _NO_NETWORK.search(words):
        message = f"Docker has no network {missing[1]}, which run.network names"
        return Unplannable(message, hint=f"docker network create {missing[1]}")
    found = of_engine(words)
    if not found:
        return CheckFailed(f"Docker cannot start the image: {words}", hint="docker info")
    kind = CheckFailed if found.id in _OF_THE_IMAGE else Unplannable
    return kind(f"{found.title} (Docker says: {words})", hint=found.fix)
