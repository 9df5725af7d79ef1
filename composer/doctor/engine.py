"""The Docker Engine: whether it is there and lets us in, what it is, how much room it has, and its own network.

Source: the Docker Engine API 1.41, SystemInfo and SystemPing.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from composer import words
from composer.doctor.finding import Finding, Level
from composer.doctor.subject import Subject
from composer.network.proxies import from_environment

SOCKET: Final = "unix:///var/run/docker.sock"
_LEAST: Final = (1, 41)
_SECONDS: Final = 5
_ROOM: Final = 20 << 30
"""Bytes that building in Docker takes at least: the full image, unpacked."""

_SLOW: Final = {
    "vfs": "it copies an image whole for each of its layers: a full Triton takes hundreds of GB",
    "devicemapper": "Docker has given it up: newer engines do not start with it",
    "aufs": "Docker has given it up: newer engines do not start with it",
}


def docker(subject: Subject) -> Iterator[Finding]:
    """Everything of the engine that DOCKER_HOST names, or that of this machine. Where nothing needs it, it is told."""
    host = subject.place.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_HOST") or SOCKET
    if trouble := _shut(subject, host):
        yield trouble
        return
    try:
        info, about, ping = _ask(host)
    except Exception as error:  # noqa: BLE001 - the SDK raises whatever came to it
        said = words.masked(str(error).splitlines()[0] if str(error) else type(error).__name__)
        yield _lacking(subject, "docker.failing", f"the Docker Engine at {host} does not answer well: {said}", "")
        return
    yield from _of_engine(subject, host, info, about, ping)
    yield from _room(subject, host, info)
    yield from _proxies(subject, info)


def _shut(subject: Subject, host: str) -> Finding | None:
    """Why a socket does not let us in, if so."""
    if not host.startswith("unix://"):
        return None
    path, fix = Path(host.removeprefix("unix://")), subject.remedies
    there = shutil.which("dockerd") or shutil.which("docker")
    if not path.exists():
        if there:
            saw = f"Docker is installed and does not run: there is no {path}"
            return _lacking(subject, "docker.stopped", saw, fix.command("start-docker"))
        return _lacking(subject, "docker.absent", "there is no Docker on this machine", fix.install("docker"))
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as made:
            made.settimeout(_SECONDS)
            made.connect(str(path))
    except PermissionError:
        saw = f"{path} may not be used by this account"
        return _lacking(subject, "docker.denied", saw, fix.command("join-docker"))
    except OSError as error:
        saw = f"nobody listens at {path}: {error.strerror or error}"
        return _lacking(subject, "docker.stopped", saw, fix.command("start-docker"))
    return None


def _lacking(subject: Subject, kind: str, saw: str, fix: str) -> Finding:
    if subject.builds_in_docker:
        why = "the recipe is built by Docker, or goes into it"
        return Finding(id=kind, level="problem", saw=saw, why=why, fix=fix)
    why = "nothing here needs it: images are made without it, and started without it where namespaces are allowed"
    return Finding(id=kind, level="ok", saw=saw, why=why, fix=fix)


def _ask(host: str) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, str]]:
    import docker as sdk

    client = sdk.DockerClient(base_url=host, timeout=_SECONDS, version="auto") if not _by_environment(host) else (
        sdk.from_env(timeout=_SECONDS)
    )  # fmt: skip
    with closing(client):
        api = client.api
        said = api.get(f"{api.base_url}/_ping")
        return client.info(), client.version(), said.headers


def _by_environment(host: str) -> bool:
    """Whether it is the engine that the SDK finds by itself: with TLS, that is in variables of their own."""
    return os.environ.get("DOCKER_HOST") == host


def _of_engine(
    subject: Subject, host: str, info: Mapping[str, Any], about: Mapping[str, Any], ping: Mapping[str, str]
) -> Iterator[Finding]:
    buildkit = ping.get("Builder-Version") == "2"
    driver = str(info.get("Driver", ""))
    facts = {
        "host": words.masked(host),
        "version": about.get("Version"),
        "api": about.get("ApiVersion"),
        "driver": driver,
        "root": info.get("DockerRootDir"),
        "buildkit": buildkit,
        "runtimes": sorted(info.get("Runtimes") or ()),
    }
    builder = "BuildKit" if buildkit else "its classic builder"
    saw = f"Docker {about.get('Version')} (API {about.get('ApiVersion')}) keeps images by {driver}, builds by {builder}"
    yield Finding(id="docker.ok", level="ok", saw=saw, facts=facts)
    api = tuple(int(part) for part in str(about.get("ApiVersion", "0")).split(".") if part.isdigit())
    if api < _LEAST:
        saw = f"its API is {about.get('ApiVersion')}, and {'.'.join(map(str, _LEAST))} is needed (Docker 20.10)"
        yield Finding(
            id="docker.old",
            level="problem" if subject.builds_in_docker else "warning",
            saw=saw,
            why="what it lacks shows as errors in the middle of a build",
            fix=subject.remedies.install("docker"),
        )
    if why := _SLOW.get(driver):
        settings = """echo '{"storage-driver": "overlay2"}' | sudo tee /etc/docker/daemon.json"""
        fix = f"{settings} && {subject.remedies.command('restart-docker')}"
        yield Finding(id="docker.storage", level="warning", saw=f"its storage driver is {driver}", why=why, fix=fix)


def _room(subject: Subject, host: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    root = Path(str(info.get("DockerRootDir") or ""))
    if not host.startswith("unix://") or not root.is_absolute():
        return
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        yield Finding(
            id="docker.room", level="unknown", saw=f"how much room is left in {root} cannot be seen from here"
        )
        return
    facts = {"free": free, "root": str(root)}
    if free >= _ROOM or not subject.builds_in_docker:
        yield Finding(id="docker.room", level="ok", saw=f"{words.size(free)} are free in {root}", facts=facts)
        return
    saw = f"only {words.size(free)} are free in {root}"
    why = f"building in Docker unpacks the full image there: {words.size(_ROOM)} are wanted"
    fix = "docker system df; docker system prune   (removes what no container uses)"
    yield Finding(id="docker.full", level="problem", saw=saw, why=why, fix=fix, facts=facts)


def _proxies(subject: Subject, info: Mapping[str, Any]) -> Iterator[Finding]:
    """Proxies that this shell knows and the engine does not, or the other way round: each goes by its own."""
    ours = from_environment(subject.place.environ).get("https_proxy", "")
    theirs = str(info.get("HttpsProxy") or "")
    if _place(ours) == _place(theirs):
        return
    shown = {name: _place(value) or "none" for name, value in (("this shell", ours), ("Docker", theirs))}
    saw = f"the HTTPS proxy of this shell is {shown['this shell']}, that of the Docker Engine {shown['Docker']}"
    fix = "" if not ours else (
        "sudo systemctl edit docker   ([Service] Environment=HTTPS_PROXY=... NO_PROXY=...; then: "
        + subject.remedies.command("restart-docker") + ")"
    )  # fmt: skip
    level: Level = "warning" if subject.builds_in_docker else "ok"
    yield Finding(id="docker.proxy", level=level, saw=saw, why="the engine pulls by its own settings", fix=fix)


def _place(address: str) -> str:
    """A proxy without its login."""
    if not address:
        return ""
    return urlsplit(address if "://" in address else f"http://{address}").netloc.rpartition("@")[2]
