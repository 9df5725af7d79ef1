"""Images in a Docker Engine: `docker-daemon:name:tag`.

Taking one out is a `docker save`. Putting one in is a pull: the engine is told to pull by digest from a registry
that lives on the loopback for as long as that lasts and serves straight from the source, so layers that the engine
has are not moved again. An engine that is elsewhere cannot reach that loopback, and is given an archive to load.

The engine reports errors within streams that began well; they are raised like all others.
Source: the Docker Engine API 1.41.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final, Self

import docker
import requests
from docker.errors import APIError, DockerException
from urllib3.exceptions import HTTPError

from composer.errors import BuildFailed, Corrupt, Denied, NoRoom, NotFound, TricomposeError, Unreachable
from composer.events import Emit, Logged, Transferred
from composer.oci.archive import open_docker_archive, plan_archive, stream_archive
from composer.oci.copy import Contents, Stack, choose, survey
from composer.oci.image import INDEXES, Descriptor, Platform
from composer.oci.layout import LayoutReader, begin_file, room, sweep, write_all
from composer.oci.names import Reference
from composer.oci.store import CHUNK, Store

_SILENCE: Final = 1800
"""Seconds that an engine may work without a word: before `docker save` begins, it writes the whole image to disk."""

_REPOSITORY: Final = "tricompose"
_SPOOL: Final = "docker-save-"
_ATTEMPTS: Final = 2
"""How often a blob may come corrupt before the pull is given up; the engine itself asks again."""


class Engine:
    """The Docker Engine that DOCKER_HOST names, or that of this machine. Raises `Unreachable`, `Denied`."""

    def __init__(self) -> None:
        self._host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        with self._errors():
            self._client = docker.from_env(timeout=_SILENCE)

    @property
    def local(self) -> bool:
        """Whether it may share our loopback: it listens on a socket of this machine."""
        return self._host.startswith("unix://")

    def platform(self) -> Platform:
        """What the engine runs images of."""
        with self._errors():
            version = self._client.version()
        return Platform(os=version["Os"], architecture=version["Arch"])

    def inspect(self, name: str) -> Mapping[str, Any]:
        """What the engine says of an image. Raises `NotFound` with the nearest name."""
        try:
            with self._errors():
                found: Mapping[str, Any] = self._client.api.inspect_image(name)
                return found
        except NotFound as error:
            near = difflib.get_close_matches(name, self._names(), n=1, cutoff=0.5)
            hint = f"did you mean docker-daemon:{near[0]}?" if near else "docker images"
            raise NotFound(f"the Docker Engine has no image {name}", hint=hint) from error

    def save(self, name: str) -> Iterator[bytes]:
        """The archive of an image, as it comes."""
        with self._errors():
            yield from self._client.api.get_image(name, chunk_size=CHUNK)

    def pull(self, name: str) -> Iterator[Mapping[str, Any]]:
        """Let the engine pull, and give what it says meanwhile. Raises what it reports; ended early, it stops."""
        repository, _, digest = name.partition("@")
        return self._post("images/create", {"fromImage": repository, "tag": digest}, None)

    def load(self, archive: Iterator[bytes]) -> Iterator[Mapping[str, Any]]:
        """Give the engine an archive. Raises what it reports, and what `archive` raises."""
        return self._post("images/load", {}, archive)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Name an image; the name is taken from whatever had it."""
        with self._errors():
            self._client.api.tag(image, repository, tag)

    def forget(self, name: str) -> None:
        """Remove a name if it is there, and the image too if that was its last."""
        with suppress(NotFound), self._errors():
            self._client.api.remove_image(name, noprune=True)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def _names(self) -> list[str]:
        with self._errors():
            return [name for image in self._client.api.images() for name in image.get("RepoTags") or ()]

    def _post(
        self, path: str, parameters: Mapping[str, str], data: Iterator[bytes] | None
    ) -> Iterator[Mapping[str, Any]]:
        """The words of the engine, one by one. The SDK has this too, but no way to end it early."""
        api = self._client.api
        url = f"{api.base_url}/v{api.api_version}/{path}"
        with self._errors(), closing(api.post(url, params=parameters, data=data, stream=True, timeout=_SILENCE)) as said:
            if said.status_code >= 400:
                raise APIError(said.reason, response=said, explanation=_explanation(said))
            for line in said.iter_lines():
                event = json.loads(line)
                if "error" in event:
                    raise _meaning(str(event["error"]))
                yield event

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say what the SDK's errors mean, in a line."""
        try:
            yield
        except APIError as error:
            message = _line(error.explanation or str(error))
            if error.status_code == 404:
                raise NotFound(f"the Docker Engine says: {message}", hint="docker images") from error
            raise _meaning(message) from error
        except (DockerException, requests.RequestException, HTTPError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> TricomposeError:
        if any(isinstance(cause, PermissionError) for cause in _causes(error)):
            hint = "sudo usermod -aG docker $USER, and log in again"
            return Denied(f"this user may not talk to the Docker Engine at {self._host}", hint=hint)
        hint = "sudo systemctl start docker" if self.local else f"is {self._host} right? DOCKER_HOST names it"
        reason = next((str(cause) for cause in _causes(error) if isinstance(cause, OSError) and cause.errno), "")
        return Unreachable(f"the Docker Engine at {self._host} cannot be reached: {_line(reason or str(error))}", hint=hint)


class DaemonStore:
    """An image in the Docker Engine, as a `Store`: saved to a file in `scratch` when it is first asked for."""

    def __init__(self, reference: Reference, *, scratch: Path, emit: Emit) -> None:
        self.label = f"docker-daemon:{reference.place}"
        self._place = reference.place
        self._scratch = scratch
        self._emit = emit
        self._engine = Engine()
        self._saved: dict[str, tuple[Path, LayoutReader]] = {}

    def resolve(self, name: str) -> Descriptor:
        """The image of a tag or an image ID. Saves it, which moves all of its bytes. Raises `NotFound`."""
        full = _full_name(self._place, name)
        if full not in self._saved:
            self._saved[full] = self._save(full)
        return self._saved[full][1].resolve("")

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest of what was resolved. Raises `NotFound`, `Corrupt`."""
        return self._images().manifest(descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is in what was resolved."""
        return bool(self._saved) and self._images().has(descriptor)

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob in pieces, verified. Raises `NotFound`, `Corrupt`."""
        return self._images().read(descriptor)

    def close(self) -> None:
        """Remove what was saved."""
        self._engine.close()
        while self._saved:
            self._saved.popitem()[1][0].unlink(missing_ok=True)

    def _images(self) -> Stack:
        return Stack(*(reader for _, reader in self._saved.values()))

    def _save(self, name: str) -> tuple[Path, LayoutReader]:
        image = self._engine.inspect(name)
        with room(self._scratch):
            self._scratch.mkdir(parents=True, exist_ok=True)
            sweep(file for file in self._scratch.iterdir() if file.name.startswith(_SPOOL))
            handle, path = begin_file(self._scratch, _SPOOL)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                self._spool(image, file)
            return path, open_docker_archive(path, label=f"docker-daemon:{name}")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
