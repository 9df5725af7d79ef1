"""Git LFS: a pointer that lies where the model should be, and the file that it stands for.

The file is taken from the clone's own store, or asked for over the batch API of its remote.

Source: the Git LFS specification, docs/spec.md and docs/api/batch.md.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from composer.errors import Denied, NotFound, TricomposeError, Unreachable
from composer.models.sources import web
from composer.models.sources.remote import Here, Remote, Stream
from composer.models.sources.way import Way, shown

_MOST: Final = 1024
"""A pointer has less bytes."""

_JSON: Final = "application/vnd.git-lfs+json"
_POINTER: Final = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\r?\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\r?\nsize ([0-9]+)\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What a pointer stands for: `digest` and bytes."""

    digest: str
    size: int

    @property
    def oid(self) -> str:
        """The digest as Git LFS writes it."""
        return self.digest.removeprefix("sha256:")


def pointer_in(file: Path) -> Pointer | None:
    """What a file stands for, if it is a pointer."""
    with file.open("rb") as opened:
        head = opened.read(_MOST)
    found = _POINTER.fullmatch(head) if len(head) < _MOST else None
    return Pointer(digest=f"sha256:{found[1].decode()}", size=int(found[2])) if found else None


def behind(pointer: Pointer, file: Path, path: str, way: Way) -> Here | Remote:
    """The file that a pointer stands for. Raises `NotFound` where no repository can be asked."""
    clone = _clone(file)
    if clone is None:
        raise NotFound(
            f"{file} is a Git LFS pointer, and in no clone of its repository", hint=_PULL.format(file.parent)
        )
    kept = clone.store / "lfs" / "objects" / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
    if kept.is_file() and kept.stat().st_size == pointer.size:
        return Here(path=path, place=kept, size=pointer.size)
    server = _server(clone)
    if server is None:
        raise NotFound(
            f"{file} is a Git LFS pointer, and its repository has no remote that can be asked over HTTP",
            hint=_PULL.format(file.parent),
        )
    return _remote(pointer, server, file, path, way)


_PULL: Final = "git -C {} lfs pull"


class _Wire(web.Wire):
    """Says what to do where the server wants to know who asks: git knows how to tell it."""

    def refusal(self, status: int, host: str, what: str) -> TricomposeError:
        if status in (401, 403):
            return Denied(f"{host} does not give us {what}: {status}", hint=_PULL.format("."))
        return NotFound(f"{host} knows no Git LFS for {what} ({status})", hint=_PULL.format("."))


def _remote(pointer: Pointer, server: str, file: Path, path: str, way: Way) -> Remote:
    def opened(place: int, version: str | None) -> Stream:
        # An address is good for some minutes only: it is asked for anew each time.
        url, headers = _address(pointer, server, file, way)
        where = web.Wire(way, headers)
        return where.download(url, place, version, fixed=pointer.digest, page=True)

    address = f"{shown(server)}/{pointer.oid}"
    return Remote(path=path, address=address, open=opened, size=pointer.size, sha256=pointer.digest)


def _address(pointer: Pointer, server: str, file: Path, way: Way) -> tuple[str, Mapping[str, str]]:
    """Where the server has a file now, and what it wants to be told there."""
    asked = {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": pointer.oid, "size": pointer.size}],
    }
    said = _Wire(way, {}).ask("POST", f"{server}/objects/batch", file.name, asked, accept=_JSON)
    one = _first(said)
    download = one.get("actions", {}).get("download", {}) if isinstance(one.get("actions"), dict) else {}
    if isinstance(download.get("href"), str):
        return download["href"], {str(name): str(value) for name, value in (download.get("header") or {}).items()}
    problem = one.get("error") if isinstance(one.get("error"), dict) else {}
    if problem:
        raise NotFound(
            f"{shown(server)} has no {file.name} ({problem.get('code')}: {str(problem.get('message'))[:200]})",
            hint=_PULL.format(file.parent),
        )
    raise Unreachable(f"{shown(server)} does not say where {file.name} is", hint=_PULL.format(file.parent))


def _first(said: object) -> dict[str, Any]:
    objects = said.get("objects") if isinstance(said, dict) else None
    found = objects[0] if isinstance(objects, list) and objects else {}
    return found if isinstance(found, dict) else {}


# -- the clone ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clone:
    """A clone of a repository: its folder, and where git keeps what belongs to it."""

    root: Path
    store: Path


def _clone(file: Path) -> _Clone | None:
    for folder in file.absolute().parents:
        git = folder / ".git"
        if git.is_dir():
            return _Clone(root=folder, store=git)
        if git.is_file():
            return _Clone(root=folder, store=_linked(git))
    return None


def _linked(git: Path) -> Path:
    """Where a worktree or a submodule keeps its things: those of Git LFS are common to all worktrees."""
    inner = git.parent / git.read_text("utf-8", "replace").removeprefix("gitdir:").strip()
    common = inner / "commondir"
    return inner / common.read_text("utf-8", "replace").strip() if common.is_file() else inner


def _server(clone: _Clone) -> str | None:
    """The address of the LFS server: as configured, or as it follows from the remote's."""
    settings = {**_settings(clone.root / ".lfsconfig"), **_settings(clone.store / "config")}
    for url in _named(settings):
        if urlsplit(url).scheme in ("http", "https"):
            return url.rstrip("/")
    return None


def _named(settings: Mapping[str, str]) -> Iterator[str]:
    remote = "origin"
    if url := settings.get("lfs.url"):
        yield url
    if url := settings.get(f"remote.{remote}.lfsurl"):
        yield url
    if url := settings.get(f"remote.{remote}.url"):
        plain = _over_http(url).rstrip("/")
        yield f"{plain if plain.endswith('.git') else f'{plain}.git'}/info/lfs"


def _over_http(url: str) -> str:
    """`git@host:owner/repo` and `ssh://git@host/owner/repo`, as hosts of git have them over HTTPS too."""
    if found := re.fullmatch(r"(?:[^@/]+@)?([^:/]+):(?!//)(.+)", url):
        return f"https://{found[1]}/{found[2]}"
    parts = urlsplit(url)
    if parts.scheme in ("ssh", "git+ssh", "git"):
        return f"https://{parts.hostname}/{parts.path.lstrip('/')}"
    return url


def _settings(file: Path) -> Mapping[str, str]:
    """A file of git's settings, as `section.name`. What cannot be read says nothing."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, inline_comment_prefixes=("#", ";"))
    try:
        text = file.read_text("utf-8")
        parser.read_string("\n".join(line.strip() for line in text.splitlines()))
    except (OSError, ValueError, configparser.Error):
        return {}
    found: dict[str, str] = {}
    for section in parser.sections():
        kind, _, name = section.partition(" ")
        key = f"{kind.lower()}.{name.strip(chr(34))}".rstrip(".")
        found |= {f"{key}.{option}": value.strip('"') for option, value in parser.items(section) if value}
    return found
