"""Names of images, spelled as skopeo users know them: `transport:place[:tag][@digest]`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from typing import Final

from composer.errors import NotFound

TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive", "docker-daemon")
SPELLINGS = (
    "docker://host/repo:tag, oci:dir:tag, oci-archive:file.tar:tag, docker-archive:file.tar[:name:tag], "
    "docker-daemon:name:tag"
)

DOCKER_HUB: Final = "docker.io"
"""What images call Docker Hub."""
_HUB_HOST: Final = "registry-1.docker.io"
"""Where it answers."""
_HUB_NAMES: Final = (DOCKER_HUB, "index.docker.io", _HUB_HOST)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_FULL_NAME = re.compile(rf"(?:{_HOST.pattern}/)?{_REPOSITORY.pattern}(?::{_TAG.pattern})?")
_PATH_DIGEST = re.compile(rf"(.*?)(?:@({_DIGEST.pattern}))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image in a place. Which fields mean what depends on `transport`:

    * `docker`: `place` is `host/repository` (see `host`, `repository`); `tag` or `digest`, or both (digest wins).
    * `oci`, `oci-archive`: `place` is a path; `tag` is the `org.opencontainers.image.ref.name`.
    * `docker-archive`: `place` is a path; `tag` is a full `name:tag` inside the archive, if one is given.
    * `docker-daemon`: `place` is the repository as Docker shows it; `tag` or an image ID in `digest`.
    """

    transport: str
    place: str
    tag: str | None = None
    digest: str | None = None

    @property
    def host(self) -> str:
        """The registry's `host[:port]` of a `docker` reference, as written."""
        return self.place.split("/", 1)[0]

    @property
    def repository(self) -> str:
        """The repository's path within its registry, of a `docker` reference."""
        return self.place.split("/", 1)[1]

    @property
    def name(self) -> str:
        """What a store resolves: the digest if there is one, else the tag.

        Where none was written it is `latest`, or for files the empty name: the only image in there.
        """
        nothing = "latest" if self.transport in ("docker", "docker-daemon") else ""
        return self.digest or self.tag or nothing

    def at(self, name: str) -> Reference:
        """The same place, another tag or digest."""
        if _DIGEST.fullmatch(name):
            return replace(self, digest=name)
        return replace(self, tag=name, digest=None)

    def __str__(self) -> str:
        slashes = "//" if self.transport == "docker" else ""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"{'@' if self.place else ''}{self.digest}" if self.digest else ""
        return f"{self.transport}:{slashes}{self.place}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """Read one name. Raises `NotFound` with the spelling that was probably meant.

    Source of the spellings: containers-transports(5).
    """
    transport, colon, rest = text.partition(":")
    if not colon or transport not in TRANSPORTS:
        raise NotFound(f"{text!r} does not name an image", hint=_likely_spelling(text))
    if rest.endswith(":"):
        raise NotFound(f"{text!r} ends in a colon", hint=f"{text}<tag>")
    if transport == "docker":
        return _parse_docker(text, rest)
    if transport == "docker-daemon":
        return _parse_daemon(text, rest)
    return _parse_path(transport, text, rest)


def spellings(host: str) -> tuple[str, ...]:
    """All names of a registry, that by which images call it first: Docker Hub has three."""
    return _HUB_NAMES if host in _HUB_NAMES else (host,)


def asked_at(host: str) -> str:
    """Where a registry answers: Docker Hub at none of the names by which images call it."""
    return _HUB_HOST if host in _HUB_NAMES else host


def within(host: str, repository: str) -> str:
    """The path of a repository in its registry: Docker Hub keeps images of one-part names below `library`."""
    return f"library/{repository}" if host in _HUB_NAMES and "/" not in repository else repository


def is_host(head: str) -> bool:
    """Whether the first part of an image's name is a registry, as Docker tells it from a repository's."""
    return "." in head or ":" in head or head == "localhost"


def is_docker_name(text: str) -> bool:
    """Whether Docker takes it as `[host/]name[:tag]`."""
    return bool(_FULL_NAME.fullmatch(text))


def _likely_spelling(text: str) -> str:
    if text.endswith(".tar"):
        return f"oci-archive:{text}"
    if _HOST.match(text) and "/" in text and not text.startswith((".", "/")):
        return f"docker://{text}"
    if text.startswith((".", "/")):
        return f"oci:{text}"
    transport, colon, rest = text.partition(":")
    if colon and (near := difflib.get_close_matches(transport, TRANSPORTS, n=1, cutoff=0.8)):
        return f"did you mean {near[0]}:{rest}?"
    return f"one of {SPELLINGS}"


def _parse_docker(text: str, rest: str) -> Reference:
    if not rest.startswith("//"):
        raise NotFound(f"{text!r} lacks the two slashes", hint=f"docker://{rest.lstrip('/')}")
    body, digest = _split_digest(text, rest[2:])
    head, slash, tail = body.partition("/")
    if not slash or not is_host(head):
        raise NotFound(f"{text!r} names no registry host", hint=f"docker://docker.io/{body}")
    repository, _, tag = tail.partition(":")
    if not _HOST.fullmatch(head) or not _REPOSITORY.fullmatch(repository):
        raise NotFound(f"{text!r} is not a registry name", hint="docker://host[:port]/path/in/lower-case:tag")
    return Reference(transport="docker", place=f"{head}/{repository}", tag=_checked_tag(text, tag), digest=digest)


def _parse_daemon(text: str, rest: str) -> Reference:
    body, digest = _split_digest(text, rest)
    if _DIGEST.fullmatch(body):
        return Reference(transport="docker-daemon", place="", digest=body)
    place, colon, tag = body.rpartition(":")
    if not colon or "/" in tag:
        place, tag = body, ""
    if not is_docker_name(f"{place}:{tag or 'latest'}"):
        raise NotFound(f"{text!r} has a name that Docker does not take", hint="docker-daemon:name:tag, in lower case")
    return Reference(transport="docker-daemon", place=place, tag=_checked_tag(text, tag), digest=digest)


def _parse_path(transport: str, text: str, rest: str) -> Reference:
    path, _, tag = rest.partition(":")
    if transport == "docker-archive":
        _require_path(transport, text, path)
        if tag and not is_docker_name(tag):
            raise NotFound(f"{text!r} has a name that Docker does not take", hint=f"{transport}:{path}:name:tag")
        return Reference(transport=transport, place=path, tag=tag or None)
    body, digest = _PATH_DIGEST.fullmatch(rest).groups()  # type: ignore[union-attr]  # it matches anything
    path, _, tag = body.partition(":")
    _require_path(transport, text, path)
    return Reference(transport=transport, place=path, tag=_checked_tag(text, tag), digest=digest)


def _require_path(transport: str, text: str, path: str) -> None:
    if not path:
        raise NotFound(f"{text!r} names no path", hint=f"{transport}:path:tag")


def _split_digest(text: str, body: str) -> tuple[str, str | None]:
    head, at, digest = body.partition("@")
    if not at:
        return body, None
    if not _DIGEST.fullmatch(digest):
        raise NotFound(f"{text!r} does not end in a sha256 digest", hint="name@sha256:<64 hex digits>")
    return head, digest


def _checked_tag(text: str, tag: str) -> str | None:
    if tag and not _TAG.fullmatch(tag):
        raise NotFound(f"{text!r} has a tag that no registry takes", hint="letters, digits, '_', '.', '-'; 128 at most")
    return tag or None
