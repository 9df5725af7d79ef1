"""Images in a Docker Engine: `docker-daemon:name:tag`.

Taking one out is a `docker save`. Putting one in is a pull: the engine is told to pull by digest from a registry
that lives on the loopback for as long as that lasts and serves straight from the source, so layers that the engine
has are not moved again. An engine that is elsewhere cannot reach that loopback, and is given an archive to load.

The engine reports errors within streams that began well; they are raised like all others.
Source: the Docker Engine API 1.41.
"""

from __future__ import annotations

import base64
import difflib
import io
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self

import docker
import requests
from docker.errors import APIError, DockerException
from urllib3.exceptions import HTTPError

from composer.disk import begin_file, room, sweep, write_all
from composer.errors import BuildFailed, Corrupt, Denied, NoRoom, NotFound, TricomposeError, Unreachable
from composer.events import Emit, Logged, Transferred
from composer.oci.archive import open_docker_archive, plan_archive, stream_archive
from composer.oci.copy import Contents, Held, Stack, choose, moved, survey, told
from composer.oci.credentials import HUB_KEY, Credential
from composer.oci.image import INDEXES, Descriptor, Platform
from composer.oci.layout import LayoutReader
from composer.oci.names import DOCKER_HUB, Reference, is_host, within
from composer.oci.steps import explain
from composer.oci.store import CHUNK, Store

_SILENCE: Final = 1800
"""Seconds that an engine may work without a word: before `docker save` begins, it writes the whole image to disk."""

_REPOSITORY: Final = "tricompose"
_SPOOL: Final = "docker-save-"
_ASKED: Final = re.compile(rf"/v2/{_REPOSITORY}/(manifests|blobs)/(sha256:[0-9a-f]{{64}})")
_ATTEMPTS: Final = 2
"""How often a blob may come corrupt before the pull is given up; the engine itself asks again."""

_TURNS: Final = 5
_TURN: Final = 0.2
"""Seconds after which a name is taken away once more that the engine was at fault with."""


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
                found: Mapping[str, Any] = self._client.api.inspect_image(name)  # type: ignore[no-untyped-call]
                return found
        except NotFound as error:
            near = difflib.get_close_matches(name, self._names(), n=1, cutoff=0.5)
            hint = f"did you mean docker-daemon:{near[0]}?" if near else "docker images"
            raise NotFound(f"the Docker Engine has no image {name}", hint=hint) from error

    def save(self, name: str) -> Iterator[bytes]:
        """The archive of an image, as it comes."""
        with self._ask("GET", "images/get", {"names": name}) as said:
            yield from said.iter_content(CHUNK)

    def pull(
        self, name: str, *, platform: Platform | None = None, credential: Credential | None = None
    ) -> Generator[Mapping[str, Any]]:
        """Let the engine pull `name:tag` or `name@digest`, and give what it says meanwhile. Closed early, it stops."""
        repository, tag = _parted(name)
        wanted = {"fromImage": repository, "tag": tag} | ({"platform": str(platform)} if platform else {})
        headers = {"X-Registry-Auth": _encoded(_login(credential))} if credential else {}
        with self._ask("POST", "images/create", wanted, headers=headers) as said:
            yield from _events(said)

    def offers_buildkit(self) -> bool:
        """Whether it builds by BuildKit unless asked otherwise; it is trusted to know."""
        with self._ask("GET", "_ping", {}) as said:
            return said.headers.get("Builder-Version") == "2"

    def build(
        self,
        context: Iterator[bytes],
        parameters: Mapping[str, str | Sequence[str]],
        credentials: Mapping[str, Credential],
    ) -> Generator[Mapping[str, Any]]:
        """Let the engine build from a tar, with the API's own parameters, and give what it says, its failure too.

        `credentials` are by registry. Closed early, it stops and leaves no container.
        """
        logins = {_key(host): _login(credential) for host, credential in credentials.items()}
        headers = {"Content-Type": "application/x-tar", "X-Registry-Config": _encoded(logins)}
        with self._ask("POST", "build", parameters, context, headers=headers) as said:
            yield from _messages(said)

    def load(self, archive: Iterator[bytes]) -> Generator[Mapping[str, Any]]:
        """Give the engine an archive. Raises what it reports, and what `archive` raises."""
        with self._ask("POST", "images/load", {}, archive) as said:
            yield from _events(said)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Name an image; the name is taken from whatever had it."""
        with self._errors():
            self._client.api.tag(image, repository, tag)

    def forget(self, name: str) -> None:
        """Remove a name if it is there, and the image too if that was its last.

        Of two who take away the last names of an image at once, the engine tells one that it does not know the image.
        """
        for turn in range(1, _TURNS + 1):
            try:
                with suppress(NotFound), self._errors():
                    self._client.api.remove_image(name, noprune=True)
                return
            except BuildFailed:
                if turn == _TURNS and self.has(name):
                    raise
                time.sleep(_TURN)

    def has(self, name: str) -> bool:
        """Whether the engine has an image by that name or ID."""
        try:
            with self._errors():
                self._client.api.inspect_image(name)  # type: ignore[no-untyped-call]
        except NotFound:
            return False
        return True

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def _names(self) -> list[str]:
        with self._errors():
            return [name for image in self._client.api.images() for name in image.get("RepoTags") or ()]

    @contextmanager
    def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | Sequence[str]],
        data: Iterator[bytes] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        """An answer that streams. The SDK has these calls too, but no way to end one early."""
        api = self._client.api
        url = f"{api.base_url}/v{api.api_version}/{path}"
        with self._errors():
            said = api.request(
                method, url, params=parameters, data=data, headers=headers, stream=True, timeout=_SILENCE
            )
            with closing(said):
                if said.status_code >= 400:
                    raise APIError(said.reason, response=said, explanation=_explanation(said))
                yield said

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
        hint = _mend() if self.local else f"is {self._host} right? DOCKER_HOST names it"
        reason = next((str(cause) for cause in _causes(error) if isinstance(cause, OSError) and cause.errno), "")
        return Unreachable(
            f"the Docker Engine at {self._host} cannot be reached: {_line(reason or str(error))}", hint=hint
        )


_INSTALL: Final[Mapping[str, str]] = {
    "debian": "sudo apt-get install -y docker.io",
    "ubuntu": "sudo apt-get install -y docker.io",
    "fedora": "sudo dnf install -y moby-engine && sudo systemctl enable --now docker",
    "rhel": "sudo dnf install -y docker-ce && sudo systemctl enable --now docker",
    "suse": "sudo zypper install -y docker && sudo systemctl enable --now docker",
    "arch": "sudo pacman -S docker && sudo systemctl enable --now docker",
    "alpine": "sudo apk add docker && sudo rc-service docker start",
}
"""How this machine gets a Docker Engine, by the distribution's ID or what it is like (os-release(5))."""


def _mend() -> str:
    """The command that brings up an engine here: it is started if it is installed, else installed."""
    if shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"):
        return "sudo systemctl start docker"
    import distro

    family = (distro.id(), *distro.like().split())
    return next((_INSTALL[name] for name in family if name in _INSTALL), "https://docs.docker.com/engine/install/")


class DaemonStore:
    """An image in the Docker Engine, as a `Store`: saved to a file in `scratch` when it is first resolved."""

    def __init__(self, reference: Reference, *, scratch: Path, emit: Emit) -> None:
        self.label = f"docker-daemon:{reference.place}"
        self._place = reference.place
        self._scratch = scratch
        self._emit = emit
        self._engine = Engine()
        self._saved: dict[str, tuple[io.FileIO, Path, LayoutReader]] = {}

    def resolve(self, name: str) -> Descriptor:
        """The image of a tag or an image ID. Saves it, which moves all of its bytes. Raises `NotFound`, `NoRoom`."""
        full = _full_name(self._place, name)
        if full not in self._saved:
            self._save(full)
        return self._saved[full][2].resolve("")

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest of what was resolved. Raises `NotFound`, `Corrupt`."""
        return self._images().manifest(descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is in what was resolved."""
        return self._images().has(descriptor)

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob in pieces, verified. Raises `NotFound`, `Corrupt`."""
        return self._images().read(descriptor)

    def close(self) -> None:
        """Remove what was saved."""
        self._engine.close()
        while self._saved:
            file, path, _ = self._saved.popitem()[1]
            path.unlink(missing_ok=True)
            file.close()

    def _images(self) -> Stack:
        return Stack(*(reader for _, _, reader in self._saved.values()), Held({}))

    def _save(self, name: str) -> None:
        image = self._engine.inspect(name)
        with room(self._scratch):
            self._scratch.mkdir(parents=True, exist_ok=True)
            sweep(file for file in self._scratch.iterdir() if file.name.startswith(_SPOOL))
            handle, path = begin_file(self._scratch, _SPOOL)
        file = io.FileIO(handle, "wb")
        try:
            self._spool(name, image, file)
            reader = open_docker_archive(path, label=f"docker-daemon:{name}")
        except BaseException:
            path.unlink(missing_ok=True)
            file.close()
            raise
        self._saved[name] = (file, path, reader)

    def _spool(self, name: str, image: Mapping[str, Any], file: io.FileIO) -> None:
        done, about = 0, int(image["Size"])
        for chunk in self._engine.save(image["Id"]):
            with room(self._scratch):
                write_all(file, chunk)
            done += len(chunk)
            total = max(done, about)
            self._emit(Transferred(digest=image["Id"], title=name, action="read", done=done, total=total))


class DaemonTarget:
    """A name in the Docker Engine for an image to be put under. Of an index the engine takes its own platform."""

    def __init__(self, reference: Reference) -> None:
        self.label = f"docker-daemon:{reference.place}"
        self._place = reference.place
        self._engine = Engine()

    def prepare(self) -> None:
        """Nothing is left to ask: the engine has been reached."""

    def receive(self, source: Store, root: Descriptor, name: str, *, emit: Emit, jobs: int) -> Descriptor:
        """Give the engine the image, all of it or nothing. The engine itself decides how much moves at once."""
        if root.media_type in INDEXES:
            root, _ = choose(source, root, [self._engine.platform()])
        contents = survey(source, root)
        if not (self._engine.local and self._pull(contents, source, name, emit)):
            self._load(contents, source, name, emit)
        return contents.root.descriptor

    def close(self) -> None:
        """Let go of connections."""
        self._engine.close()

    def _pull(self, contents: Contents, source: Store, name: str, emit: Emit) -> bool:
        """Have the engine pull from us. False if it never came: then it is not on this machine after all."""
        with _Loopback(contents, source, emit) as registry:
            try:
                with closing(self._engine.pull(registry.name)) as events:
                    for event in events:
                        registry.watch(event)
                self._engine.tag(registry.name, self._place, name)
            except TricomposeError as error:
                if registry.failure:
                    raise registry.failure from error
                if registry.asked:
                    raise
                emit(Logged(text="the engine cannot reach this process, so all layers are sent", source="docker"))
                return False
            finally:
                with suppress(TricomposeError):
                    self._engine.forget(registry.name)
        return True

    def _load(self, contents: Contents, source: Store, name: str, emit: Emit) -> None:
        archive = plan_archive(contents, tag=name, full_name=_full_name(self._place, name))
        data = stream_archive(archive, contents, lambda blob: told(source.read(blob), blob, emit))
        with closing(self._engine.load(data)) as events:
            for event in events:
                if text := str(event.get("stream") or "").strip():
                    emit(Logged(text=text, source="docker"))


class _Loopback:
    """A registry on the loopback that has one image, and gives each blob from the source when it is asked for.

    `asked` says whether the engine ever came, `failure` what went wrong with the source: the engine would only say
    that an answer broke off.
    """

    def __init__(self, contents: Contents, source: Store, emit: Emit) -> None:
        self.asked = False
        self.failure: BaseException | None = None
        self._root = contents.root.descriptor
        self._manifests = {manifest.descriptor.digest: manifest for manifest in contents.manifests}
        self._blobs = {blob.digest: blob for blob in contents.blobs}
        self._source = source
        self._emit = emit
        self._corrupt: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))

    @property
    def name(self) -> str:
        """What the engine is to pull."""
        return f"127.0.0.1:{self._server.server_port}/{_REPOSITORY}@{self._root.digest}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def watch(self, event: Mapping[str, Any]) -> None:
        """Tell of a layer that the engine has, and raise the source's failure as soon as there is one."""
        if self.failure:
            raise self.failure
        if event.get("status") == "Already exists":
            for blob in self._blobs.values():
                if blob.digest.startswith(f"sha256:{event['id']}"):
                    self._emit(moved(blob, "skipped", blob.size))

    def find(self, kind: str, digest: str) -> Descriptor | None:
        """The descriptor of something that this registry has."""
        if kind == "blobs":
            return self._blobs.get(digest)
        manifest = self._manifests.get(digest)
        return manifest.descriptor if manifest else None

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of what was found. What goes wrong is kept in `failure`; the engine sees a short answer."""
        if manifest := self._manifests.get(descriptor.digest):
            yield manifest.raw
            return
        try:
            yield from told(self._source.read(descriptor), descriptor, self._emit)
        except Corrupt as error:
            self._corrupt[descriptor.digest] += 1
            if self._corrupt[descriptor.digest] >= _ATTEMPTS:
                self.failure = error
        except Exception as error:  # noqa: BLE001 - raised by `watch`, in the thread that asked for the image
            self.failure = error


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    """What an engine asks a registry when it pulls by digest."""

    protocol_version = "HTTP/1.1"
    timeout = 600

    def __init__(self, registry: _Loopback, *arguments: object) -> None:
        self._registry = registry
        super().__init__(*arguments)  # type: ignore[arg-type]  # as the server gives them

    def do_HEAD(self) -> None:
        """What a GET would say of it."""
        self._answer()

    def do_GET(self) -> None:
        """A manifest or a blob by its digest."""
        found = self._answer()
        if found is None:
            return
        left = found.size
        for chunk in self._registry.read(found):
            try:
                self.wfile.write(chunk)
            except OSError:  # the engine went away
                break
            left -= len(chunk)
        self.close_connection = left != 0

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002
        """Say nothing: what matters is raised."""

    def _answer(self) -> Descriptor | None:
        """Send the head of the answer, and give what is to be its body."""
        self._registry.asked = True
        asked = _ASKED.fullmatch(self.path)
        found = self._registry.find(*asked.groups()) if asked else None
        self.send_response(200 if found or self.path == "/v2/" else 404)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        self.send_header("Content-Length", str(found.size if found else 0))
        if found:
            self.send_header("Content-Type", found.media_type)
            self.send_header("Docker-Content-Digest", found.digest)
        self.end_headers()
        return found


def _full_name(place: str, name: str) -> str:
    """What Docker calls it: an image ID stands alone."""
    if name.startswith("sha256:"):
        return f"{place}@{name}" if place else name
    return f"{place}:{name}"


def host_of(name: str) -> tuple[str, str]:
    """The registry of an image as Docker names it, and the repository there."""
    repository, _ = _parted(name)
    host, slash, rest = repository.partition("/")
    if slash and is_host(host):
        return host, rest
    return DOCKER_HUB, within(DOCKER_HUB, repository)


def _parted(name: str) -> tuple[str, str]:
    """The repository, and the tag or digest. It is never empty: the engine would pull all tags there are."""
    repository, at, digest = name.partition("@")
    head, colon, tag = repository.rpartition(":")
    if not colon or "/" in tag:
        head, tag = repository, "latest"
    return head, digest if at else tag


def _key(host: str) -> str:
    return HUB_KEY if host == DOCKER_HUB else host


def _login(credential: Credential) -> Mapping[str, str]:
    if credential.identity:
        return {"identitytoken": credential.secret}
    return {"username": credential.username, "password": credential.secret}


def _encoded(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def _events(said: requests.Response) -> Iterator[Mapping[str, Any]]:
    for event in _messages(said):
        if "error" in event:
            raise _meaning(_line(str(event["error"])))
        yield event


def _messages(said: requests.Response) -> Iterator[Mapping[str, Any]]:
    for line in said.iter_lines():
        if line:
            yield json.loads(line)


def _explanation(said: requests.Response) -> str:
    try:
        return str(said.json()["message"])
    except (ValueError, KeyError, TypeError):
        return said.text or said.reason


def _meaning(message: str) -> TricomposeError:
    """The error that an engine's message stands for. The engine has no codes for these."""
    if "no space left" in message:
        return NoRoom(f"the Docker Engine has no space left: {message}", hint="docker system df; docker image prune")
    if re.search(r"manifest unknown|manifest for .* not found|name unknown|no matching manifest", message):
        return NotFound(f"the Docker Engine found no such image: {message}", hint="check the name, tag and platform")
    if re.search(r"unauthorized|denied|forbidden|no basic auth credentials", message):
        return Denied(f"the Docker Engine was refused: {message}", hint="docker login")
    if re.search(r"dial tcp|i/o timeout|no such host|connection refused", message):
        return Unreachable(f"the Docker Engine could not reach a host: {message}")
    if message.lower().startswith("dockerfile parse error"):
        return explain(None, message)
    return BuildFailed(f"the Docker Engine failed: {message}", hint="its log says more: journalctl -u docker")


def _line(text: str) -> str:
    return " ".join(text.split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and what it was made of, as requests and urllib3 wrap them."""
    while error is not None:
        yield error
        wrapped = (argument for argument in error.args if isinstance(argument, BaseException))
        reason = getattr(error, "reason", None)
        error = next(wrapped, None) or (reason if isinstance(reason, BaseException) else None) or error.__context__
