"""Images that a Docker Engine builds from a folder with a Dockerfile.

BuildKit does it where the engine offers it, the classic builder elsewhere. What the Dockerfile is FROM is pulled
beforehand, as an image of its own: with its credentials, which BuildKit takes from nobody but a client that speaks its
session protocol, and with progress. What else needs a session falls back to the classic builder.
Source: the Docker Engine API 1.41, `POST /build`; BuildKit without a session was found to work on engine 20.10.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from composer.errors import BuildFailed, NotFound, TricomposeError
from composer.events import Emit, Logged, Transferred
from composer.oci.context import context_size, stream_context
from composer.oci.credentials import Credential, Credentials
from composer.oci.daemon import Engine, host_of
from composer.oci.image import Platform
from composer.oci.steps import BuildKitListener, ClassicListener, Listener, PullListener, explain

_BUILDKIT_NETWORKS: Final = (None, "default", "host", "none")
_NO_SESSION: Final = "no active session"


class _NeedsSession(Exception):
    """BuildKit asked its client for something: a login, a secret."""


def build(
    engine: Engine,
    context: Path,
    *,
    dockerfile: str = "Dockerfile",
    platform: Platform,
    hosts: Mapping[str, str],
    arguments: Mapping[str, str],
    tag: str | None,
    network: str | None,
    use_cache: bool,
    pull: bool,
    classic: bool,
    credentials: Credentials | None,
    emit: Emit,
) -> str:
    """Build the folder `context`, and return the ID of the image, `sha256:...`.

    `hosts` are addresses by name, known to every RUN; `arguments` are what ARGs get; `network` is where RUNs are
    (`host`, `none`, a network's name; None: as the engine has it). `pull` asks registries again for images that the
    engine has; `classic` does without BuildKit.

    Raises `BuildFailed` with the step and its last lines, `NoRoom`; for an image that the Dockerfile is FROM
    `NotFound`, `Denied`, `Unreachable`; for the context as `stream_context`. Interrupted, it leaves no container.
    """
    images = base_images(_read(context / dockerfile))
    for name in images:
        if pull or not has_image(engine, name, platform):
            pull_image(engine, name, platform=platform, credentials=credentials, emit=emit)
    parameters: dict[str, str | Sequence[str]] = {
        "dockerfile": dockerfile,
        "platform": str(platform),
        "extrahosts": [f"{host}:{address}" for host, address in hosts.items()],
        "buildargs": json.dumps(arguments),
        "rm": "1",
        "forcerm": "1",
    }
    parameters |= {"t": tag} if tag else {}
    parameters |= {"networkmode": network} if network else {}
    parameters |= {} if use_cache else {"nocache": "1"}
    logins = _logins(images, credentials)
    if not classic and network in _BUILDKIT_NETWORKS and engine.offers_buildkit():
        try:
            return _run(engine, context, {**parameters, "version": "2"}, logins, BuildKitListener(emit), emit)
        except _NeedsSession:
            emit(Logged(text="BuildKit asks for what only docker build has: building without it", source="docker"))
    return _run(engine, context, {**parameters, "version": "1"}, logins, ClassicListener(emit), emit)


def pull_image(engine: Engine, name: str, *, platform: Platform, credentials: Credentials | None, emit: Emit) -> None:
    """Have the engine pull an image, as Docker names it. Raises `NotFound`, `Denied`, `Unreachable`, `NoRoom`."""
    emit(Logged(text=f"pulling {name}", source="docker"))
    listener = PullListener(emit)
    credential = credentials.find(*host_of(name)) if credentials else None
    try:
        with closing(engine.pull(name, platform=platform, credential=credential)) as messages:
            for message in messages:
                listener.hear(message)
    except TricomposeError as error:
        raise type(error)(f"{name} cannot be pulled: {error.message}", hint=error.hint) from error


def base_images(dockerfile: str) -> tuple[str, ...]:
    """The images that a Dockerfile is FROM or copies from, as it names them, each once.

    Left out are its own stages, and what is known only while it is built: names with a variable, or for another
    platform than the build's.
    """
    stages, images = {"scratch"}, dict[str, None]()
    for line in _instructions(dockerfile):
        if found := _FROM.fullmatch(line):
            flags, name, stage = found.groups()
            wanted = () if flags else (name,)
            stages |= {stage.lower()} if stage else set()
        else:
            wanted = tuple(_COPY_FROM.findall(line))
        images |= {name: None for name in wanted if not _inner(name, stages)}
    return tuple(images)


_FROM: Final = re.compile(r"FROM\s+(--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_COPY_FROM: Final = re.compile(r"^COPY\s+(?:--\S+\s+)*?--from=(\S+)", re.IGNORECASE)
_HEREDOC: Final = re.compile(r"""(?:RUN|COPY|ADD)\s+(?!\[).*?<<-?["']?(\w+)""", re.IGNORECASE)


def _instructions(dockerfile: str) -> Iterator[str]:
    """Each instruction in one line, without comments, and without the documents that follow a `<<`."""
    whole, until = "", ""
    # Lines end as builders have it: to Python a line also ends where a quoted value has a U+2028 or a form feed.
    for line in (line.strip() for line in dockerfile.split("\n")):
        if until:
            until = "" if line == until else until
        elif line and not line.startswith("#"):
            whole += line
            if line.endswith("\\"):
                whole = whole[:-1]
                continue
            yield whole
            until = found[1] if (found := _HEREDOC.match(whole)) else ""
            whole = ""


def _inner(name: str, stages: set[str]) -> bool:
    return "$" in name or name.isdigit() or name.lower() in stages


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path.parent}") from error


def has_image(engine: Engine, name: str, platform: Platform) -> bool:
    """Whether the engine has an image by that name, for that platform."""
    try:
        found = engine.inspect(name)
    except NotFound:
        return False
    return (found["Os"], found["Architecture"]) == (platform.os, platform.architecture)


def _logins(images: Sequence[str], credentials: Credentials | None) -> dict[str, Credential]:
    if credentials is None:
        return {}
    places = dict(host_of(name) for name in images)
    found = {host: credentials.find(host, repository) for host, repository in places.items()}
    return {host: credential for host, credential in found.items() if credential}


def _run(
    engine: Engine,
    context: Path,
    parameters: Mapping[str, str | Sequence[str]],
    logins: Mapping[str, Credential],
    listener: Listener,
    emit: Emit,
) -> str:
    with closing(engine.build(_told(context, emit), parameters, logins)) as messages:
        for message in messages:
            if "error" in message:
                _give_up(listener, str(message["error"]))
            listener.hear(message)
    if not listener.image:
        raise BuildFailed("the Docker Engine ended the build without an image", hint="journalctl -u docker")
    return listener.image


def _give_up(listener: Listener, message: str) -> None:
    listener.fail()
    if _NO_SESSION in message:
        raise _NeedsSession
    raise explain(listener.failing, message)


def _told(context: Path, emit: Emit) -> Iterator[bytes]:
    """The context on its way. Its size is that of its files: headers are not counted."""
    total, done = context_size(context), 0
    for chunk in stream_context(context):
        yield chunk
        if done < total:
            done = min(total, done + len(chunk))
            emit(Transferred(digest="context", title="build", action="copied", done=done, total=total))
