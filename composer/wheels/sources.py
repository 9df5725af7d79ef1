"""Where packages come from, and by what way: as the recipe says, else as this machine's pip is set up.

A recipe that names an index asks that one alone. Else pip's own settings hold, from its files and from `PIP_*`:
`index-url`, `extra-index-url`, `find-links`, `no-index`, `trusted-host`, `proxy`, `cert`, `timeout`. Nothing else
of pip's is looked at, and nothing of uv's: what is resolved should not depend on more than that.

Source: pip's user guide, "Configuration".
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from requests.utils import get_netrc_auth

from composer.errors import NotFound, Problem, RecipeError
from composer.network.proxies import from_environment
from composer.network.routes import Routes
from composer.network.trust import Trust
from composer.recipe import Recipe

PYPI: Final = ""
"""Stands for the index that pip and uv ask where nobody names another."""

_KEYS: Final = (
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "timeout",
)  # fmt: skip
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where packages come from. The first of `indexes` is the default one; without any only `find_links` are looked at.

    `routes` are the way there: with what pip's settings say of proxies, certificates and hosts to be trusted, where
    nothing else says so. `timeout` is in seconds.
    """

    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    routes: Routes
    timeout: int

    @property
    def public(self) -> tuple[str, ...]:
        """All of them without the logins in them."""
        return tuple(without_login(url) for url in (*self.indexes, *self.find_links))

    def login(self, url: str) -> tuple[str, str] | None:
        """Name and password for a URL: those of an index at the same host, else those in ~/.netrc."""
        host = urlsplit(url).netloc.rpartition("@")[2]
        for parts in map(urlsplit, (url, *self.indexes, *self.find_links)):
            if parts.username and parts.netloc.rpartition("@")[2] == host:
                return unquote(parts.username), unquote(parts.password or "")
        return get_netrc_auth(url)

    def trusts(self, url: str) -> bool:
        """Whether its host may be spoken to without TLS, or with a certificate that nobody knows."""
        return _is_among(urlsplit(url), self.routes.insecure)

    def authorities(self) -> str:
        """All certificates that are trusted, as PEM: the indexes' own too. Raises `NotFound` for an unreadable file."""
        trust = Trust(self.routes.ca_bundle, self.routes.certs)
        return trust.pem(url for url in self.indexes if url != PYPI)


def without_login(url: str) -> str:
    """A URL that may be shown and kept; a word for the one that needs no name."""
    if url == PYPI:
        return "PyPI"
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def find_sources(recipe: Recipe, environ: Mapping[str, str], routes: Routes) -> Sources:
    """What recipe, environment and pip's files say; `routes` are what is said of the network besides.

    Raises `RecipeError` for an index without TLS that nobody said may be trusted.
    """
    said = recipe.network
    settings = _pip_settings(environ)
    found = Sources(
        indexes=(said.pip_index,) if said.pip_index else _indexes(settings),
        find_links=() if said.pip_index else tuple(settings.get("find-links", "").split()),
        routes=replace(
            routes,
            insecure=routes.insecure | frozenset(settings.get("trusted-host", "").split()),
            ca_bundle=routes.ca_bundle or _path(settings.get("cert")),
            proxies=_proxies(settings, environ) if routes.proxies is None else routes.proxies,
        ),
        timeout=_seconds(settings.get("timeout")),
    )
    problems = [_untrusted(recipe, url) for url in found.indexes if not _is_safe(urlsplit(url), found.routes.insecure)]
    if problems:
        raise RecipeError(problems)
    return found


def _indexes(settings: Mapping[str, str]) -> tuple[str, ...]:
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return ()
    return (settings.get("index-url") or PYPI, *settings.get("extra-index-url", "").split())


def _is_safe(parts: SplitResult, insecure: Collection[str]) -> bool:
    return parts.scheme != "http" or parts.hostname in _LOOPBACK or _is_among(parts, insecure)


def _is_among(parts: SplitResult, hosts: Collection[str]) -> bool:
    return parts.hostname in hosts or f"{parts.hostname}:{parts.port}" in hosts


def _untrusted(recipe: Recipe, url: str) -> Problem:
    host = urlsplit(url).netloc.rpartition("@")[2]
    where = recipe.where("network", "pip_index") if recipe.network.pip_index else recipe.where("packages", "pip")
    return Problem(
        where=where,
        message=f"{without_login(url)} has no TLS: on the way anybody could put other packages in its place",
        hint=f"https://..., or network: {{insecure: ['{host}']}}",
    )


def _proxies(settings: Mapping[str, str], environ: Mapping[str, str]) -> Mapping[str, str]:
    """Proxies by their names in lower case: pip's, else the environment's."""
    proxy = settings.get("proxy")
    return {**from_environment(environ), **({"http_proxy": proxy, "https_proxy": proxy} if proxy else {})}


# -- pip's own settings -------------------------------------------------------------------------------------------


def _pip_settings(environ: Mapping[str, str]) -> Mapping[str, str]:
    """pip's settings that are known here: of the files, the later beat the earlier, and the environment beats all."""
    found: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise NotFound(
                f"pip's settings in {path} cannot be read: {error}", hint=f"pip config debug; or mend {path}"
            ) from error
        for section in ("global", "install"):
            items = parser.items(section) if parser.has_section(section) else ()
            found |= {name.replace("_", "-"): value for name, value in items}
    found |= {key: environ[name] for key in _KEYS if (name := "PIP_" + key.upper().replace("-", "_")) in environ}
    return {key: found[key].strip() for key in _KEYS if found.get(key, "").strip()}


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        return
    home = Path(environ.get("HOME") or Path.home())
    for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
        yield Path(folder, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")
    yield Path(sys.prefix, "pip.conf")
    if named := environ.get("PIP_CONFIG_FILE"):
        yield Path(named)


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _seconds(text: str | None) -> int:
    try:
        return int(float(text or 30))
    except ValueError:
        return 30
