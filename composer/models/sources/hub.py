"""`hf://owner/repo[@revision]/path`: files of the Hugging Face Hub, and of its mirrors (HF_ENDPOINT).

A revision is resolved to its commit first, of which everything is then asked. Three addresses of the Hub's documented
API are all it takes; its own library brings an HTTP client that knows neither our proxies nor our certificates.

Source: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urljoin

from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unreachable
from composer.models.sources import web
from composer.models.sources.remote import Listing, Remote
from composer.models.sources.way import Way

HUB: Final = "https://huggingface.co"
_KINDS: Final = ("datasets", "spaces")
_LEFT_OUT: Final = (".gitattributes",)
"""What belongs to git, and to no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    """What an address says. `kind` is `models`, `datasets` or `spaces`."""

    kind: str
    repository: str
    revision: str
    path: str

    def at(self, commit: str) -> str:
        """The address of just this."""
        prefix = "" if self.kind == "models" else f"{self.kind}/"
        return f"hf://{prefix}{self.repository}@{commit}/{self.path}".rstrip("/")


def look(source: str, way: Way) -> Listing:
    """A file, a folder, or a whole repository. Raises `NotFound`, `Denied`, `Unreachable`."""
    name = _parse(source)
    *others, last = _endpoints(way)
    for endpoint in others:
        with suppress(NotFound, Denied, Unreachable):
            return _Hub(endpoint, way).listing(name)
    return _Hub(last, way).listing(name)


def _parse(source: str) -> _Name:
    parts = source.removeprefix("hf://").strip("/").split("/")
    kind = parts.pop(0) if parts[0] in _KINDS else "models"
    if len(parts) < 2 or not all(parts):
        raise NotFound(
            f"{source!r} names no repository", hint="hf://owner/repo/model.onnx, hf://owner/repo@revision/path"
        )
    repository, _, revision = "/".join(parts[:2]).partition("@")
    return _Name(kind=kind, repository=repository, revision=unquote(revision) or "main", path="/".join(parts[2:]))


def _endpoints(way: Way) -> list[str]:
    """What is asked: HF_ENDPOINT, else the recipe's mirrors of the Hub, then the Hub itself unless it is blocked."""
    if named := way.setting("HF_ENDPOINT"):
        return [named.rstrip("/")]
    if found := way.routes.addresses(f"{HUB}/"):
        return [address.rstrip("/") for address in found]
    hint = "network: {mirrors: {huggingface.co: [hub.example.com]}}, or HF_ENDPOINT"
    raise Unreachable("huggingface.co may not be asked, and has no mirror", hint=hint)


def _token(way: Way) -> str | None:
    """Who we are to the Hub, found where its own tools keep it."""
    if given := way.setting("HF_TOKEN"):
        return given.strip()
    if not (home := way.setting("HOME")):
        return None
    cache = Path(way.setting("XDG_CACHE_HOME") or Path(home, ".cache"))
    folder = Path(way.setting("HF_HOME") or cache / "huggingface")
    try:
        return Path(way.setting("HF_TOKEN_PATH") or folder / "token").read_text("utf-8").strip() or None
    except (OSError, ValueError):
        return None


class _Wire(web.Wire):
    """Says what the Hub's refusals mean: it hides what is private behind 401."""

    def refusal(self, status: int, host: str, what: str) -> TricomposeError:
        if status in (401, 403):
            used = "the token was not enough" if self._headers else "no token was given"
            hint = f"HF_TOKEN=... ; or accept its terms at https://{host}/; it may not exist either"
            return Denied(f"{host} does not give us {what}: {status} ({used})", hint=hint)
        return super().refusal(status, host, what)


class _Hub:
    """One endpoint."""

    def __init__(self, endpoint: str, way: Way) -> None:
        self._endpoint = endpoint
        self._way = way
        token = _token(way)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._wire = _Wire(way, self._headers)

    def listing(self, name: _Name) -> Listing:
        """What a name means now."""
        api = f"{self._endpoint}/api/{name.kind}/{quote(name.repository)}"
        what = f"{name.repository} at {name.revision}"
        said = self._wire.ask("GET", f"{api}/revision/{quote(name.revision, safe='')}", what)
        commit = said.get("sha") if isinstance(said, dict) else None
        if not isinstance(commit, str):
            raise Corrupt(f"{self._endpoint} does not say which commit {what} is", hint="is HF_ENDPOINT a Hub?")
        entries = self._entries(api, name, commit)
        if len(entries) == 1 and entries[0]["path"] == name.path:
            alone = self._remote(name, commit, entries[0], name.path.rpartition("/")[2])
            return Listing(uri=name.at(commit), files=(alone,), folder=False)
        below = f"{name.path}/" if name.path else ""
        files = tuple(self._remote(name, commit, entry, entry["path"].removeprefix(below)) for entry in entries)
        return Listing(uri=name.at(commit), files=files, folder=True)

    def _entries(self, api: str, name: _Name, commit: str) -> list[dict[str, Any]]:
        """The files at or below the path."""
        if name.path:
            asked = {"paths": [name.path], "expand": False}
            found = list(_files(self._wire.ask("POST", f"{api}/paths-info/{commit}", name.path, asked), all_kinds=True))
            if not found:
                hint = f"{self._endpoint}/{name.repository}/tree/{name.revision}"
                raise NotFound(f"{name.repository} has no {name.path} at {name.revision}", hint=hint)
            if found[0].get("type") == "file":
                return found[:1]
        tree = list(
            self._tree(f"{api}/tree/{commit}/{quote(name.path)}".rstrip("/") + "?recursive=true", name.repository)
        )
        if not tree:
            raise NotFound(
                f"there are no files in {name.repository}/{name.path}", hint=f"{self._endpoint}/{name.repository}"
            )
        return tree

    def _tree(self, url: str | None, what: str) -> Iterator[dict[str, Any]]:
        """All pages of a list of files."""
        while url:
            page, response = self._wire.ask_page("GET", url, what)
            yield from (entry for entry in _files(page) if entry["path"] not in _LEFT_OUT)
            following = response.links.get("next", {}).get("url")
            url = urljoin(url, following) if following else None

    def _remote(self, name: _Name, commit: str, entry: dict[str, Any], path: str) -> Remote:
        prefix = "" if name.kind == "models" else f"{name.kind}/"
        url = f"{self._endpoint}/{prefix}{quote(name.repository)}/resolve/{commit}/{quote(entry['path'])}"
        large = entry.get("lfs") or {}
        return web.remote(
            url,
            path,
            self._way,
            headers=self._headers,
            size=large.get("size") or entry.get("size"),
            sha256=f"sha256:{large['oid']}" if large.get("oid") else None,
            # Of a commit there is one version for all time.
            fixed=f"hf://{prefix}{name.repository}@{commit}/{entry['path']}",
            page=True,
        )


def _is_entry(entry: object) -> bool:
    """Whether it has the shape of an entry in a list of files."""
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return False
    large = entry.get("lfs") or {}
    sizes = [one.get("size") or 0 for one in (entry, large) if isinstance(one, dict)]
    sound = len(sizes) == 2 and all(isinstance(size, int) for size in sizes)
    return sound and (not large or re.fullmatch("[0-9a-f]{64}", str(large.get("oid"))) is not None)


def _files(page: object, *, all_kinds: bool = False) -> Iterator[dict[str, Any]]:
    for entry in page if isinstance(page, list) else ():
        if not _is_entry(entry):
            raise Corrupt("the Hub answers nonsense when asked for its files", hint="is HF_ENDPOINT a Hub?")
        if all_kinds or entry.get("type") == "file":
            yield entry
