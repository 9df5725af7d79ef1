"""Which proxy is asked for a URL: what was given, else what the environment says.

`no_proxy` is a list of hosts, each with a port or without: a name stands for itself and for all names within it (with
or without a dot or `*.` before it), an address for itself, a network (`10.0.0.0/8`) for its addresses, `*` for all.

Source of the variables: curl(1), ENVIRONMENT; Python's urllib.request.getproxies.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

from composer.errors import Unreachable
from composer.network.addresses import is_address, joined, plain

NAMES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
"""The variables of the environment, in lower case."""

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy. `secure`: it is itself spoken to with TLS. `login` is a name and a password, as they are."""

    host: str
    port: int
    secure: bool
    login: tuple[str, str] | None

    @property
    def shown(self) -> str:
        """Its address, without the login."""
        return f"{'https' if self.secure else 'http'}://{joined(self.host, self.port)}"


def from_environment(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables that are set, by their names in lower case, which beat those in capitals."""
    found = {name: environ.get(name) or _capitals(name, environ) for name in NAMES}
    return {name: value for name, value in found.items() if value}


def _capitals(name: str, environ: Mapping[str, str]) -> str | None:
    # In a CGI script HTTP_PROXY is what a visitor sent as a header.
    return None if name == "http_proxy" and "REQUEST_METHOD" in environ else environ.get(name.upper())


def address_for(url: str, given: Mapping[str, str] | None) -> str | None:
    """The address of the proxy for a URL, with its login, or None. Without `given` the environment's hold."""
    said = from_environment(os.environ) if given is None else given
    parts = urlsplit(url)
    if passes(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0), said.get("no_proxy", "")):
        return None
    found = said.get(f"{parts.scheme}_proxy") or said.get("all_proxy")
    return found if found is None or "://" in found else f"http://{found}"


def parse_proxy(address: str) -> Proxy:
    """What an address says of a proxy. Raises `Unreachable` where it is none that speaks HTTP."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise Unreachable("the address of a proxy makes no sense", hint=_HINT) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        kind = parts.scheme if parts.hostname else "nothing"
        raise Unreachable(f"a proxy that speaks {kind} is of no use: only HTTP proxies are", hint=_HINT)
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return Proxy(
        host=parts.hostname, port=port or (443 if parts.scheme == "https" else 80),
        secure=parts.scheme == "https", login=login,
    )  # fmt: skip


def login_header(proxy: Proxy) -> dict[str, str]:
    """`Proxy-Authorization`, where a proxy has a login, of any letters."""
    if proxy.login is None:
        return {}
    return {"Proxy-Authorization": "Basic " + base64.b64encode(":".join(proxy.login).encode()).decode()}


_HINT: Final = "network: {proxy: {https: http://HOST:PORT}}, or the variable HTTPS_PROXY"


def passes(host: str, port: int, no_proxy: str) -> bool:
    """Whether a host is reached without a proxy."""
    return any(_covers(entry, plain(host), port) for entry in _entries(no_proxy))


def _entries(text: str) -> Iterator[str]:
    yield from (entry for part in text.split(",") for entry in part.split())


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if (network := _within(entry, host)) is not None:
        return network
    name, own = _split(entry)
    if own is not None and own != port:
        return False
    name = name.removeprefix("*").removeprefix(".")
    return bool(name) and (host == name or (not is_address(host) and host.endswith(f".{name}")))


def _within(entry: str, host: str) -> bool | None:
    """Whether an address is in a network, or None where none of both is such."""
    if "/" not in entry:
        return None
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False


def _split(entry: str) -> tuple[str, int | None]:
    """The host of an entry, and its port, if it has one."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        entry, colon, port = name, rest[:1], rest[1:]
    elif entry.count(":") == 1:
        entry, colon, port = entry.partition(":")
    else:
        colon, port = "", ""
    return plain(entry), int(port) if colon and port.isdecimal() else None
