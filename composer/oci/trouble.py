"""What it means in the user's words when a connection does not work out."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3

from composer.errors import Unreachable
from composer.oci.names import spellings
from composer.oci.obstacles import Obstructed, Tried, Unconnected, Unresolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A connection that did not work out: `kind` for us, `error` for the user."""

    kind: str
    error: Unreachable

    @property
    def way_out(self) -> str | None:
        """The hint, where it is of use for any host and not for registries alone."""
        hint = self.error.hint or ""
        return hint if self.kind in ("untrusted", "proxy") or "network: {" in hint else None


def diagnose(error: BaseException, place: str) -> Trouble:
    """Tell apart what went wrong from the chain of exceptions that requests and urllib3 make of it."""
    chain = tuple(_causes(error))
    for known, explain in _KNOWN:
        for cause in chain:
            if isinstance(cause, known):
                return explain(cause, place)
    for types, kind, message, hint in _SIGNS:
        for cause in chain:
            if isinstance(cause, types):
                words = message.format(place=place, why=_why(cause))
                return _trouble(kind, words, hint.format(place=place, host=_name(place)))
    return _trouble("cut", f"the connection to {place} was cut", None)


def _trouble(kind: str, message: str, hint: str | None) -> Trouble:
    return Trouble(kind=kind, error=Unreachable(message, hint=hint))


def _unresolved(cause: Unresolved, place: str) -> Trouble:
    host = _name(place)
    message = f"the name of {place} could not be resolved (DNS: {_list(cause.tried)})"
    registry = spellings(host)[0] if place == host else f'"{place}"'
    ways = (f"hosts: {{{host}: ADDRESS}}", "dns: [NAMESERVER]", f"mirrors: {{{registry}: [HOST/PATH]}}")
    hint = f"network: {{{'}, or {'.join(ways)}}}; to see what would help: tricompose doctor, getent hosts {host}"
    return _trouble("slow" if cause.errno == socket.EAI_AGAIN else "nowhere", message, hint)


def _unconnected(cause: Unconnected, place: str) -> Trouble:
    shown = f"TCP: {_list(cause.tried)}"
    if all(one.why == "refused" for one in cause.tried):
        hint = f"check the port, and that the registry is running: curl -v https://{place}/v2/"
        return _trouble("refused", f"{place} refused the connection: nothing listens there ({shown})", hint)
    if any(one.passing for one in cause.tried):
        hint = f"a firewall may drop it: curl -v https://{place}/v2/; or network: {{proxy: ..., mirrors: ...}}"
        return _trouble("slow", f"{place} did not take a connection in time ({shown})", hint)
    hint = "is this machine connected? ip route; or network: {proxy: ..., mirrors: ...}"
    return _trouble("slow", f"there is no way to {place} ({shown})", hint)


def _obstructed(cause: Obstructed, place: str) -> Trouble:
    if cause.status == 407:
        message = f"the proxy {cause.proxy} on the way to {place} wants a login, or another one (407)"
        hint = "network: {proxy: {https: '${PROXY}'}}, or HTTPS_PROXY: http://NAME:PASSWORD@HOST:PORT, with %40 for @"
        return _trouble("proxy", message, hint)
    message = f"the proxy {cause.proxy} on the way to {place} does not let us through: {cause.why}"
    return _trouble("proxy", message, "check network.proxy, or HTTPS_PROXY and NO_PROXY")


def _untrusted(cause: ssl.SSLCertVerificationError, place: str) -> Trouble:
    why = _why(cause)
    message = f"the TLS certificate of {place} is not trusted ({why})"
    if "not yet valid" in why:
        message += f": the clock of this machine may be slow, it says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return _trouble("untrusted", message, "date; timedatectl set-ntp true")
    if "expired" in why:
        message += f": here it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return _trouble("untrusted", message, f"date; if that is right, whoever runs {place} has to renew it")
    if "ismatch" in why:
        hint = f"another server answers there: network.hosts, a proxy, or DNS may be wrong: getent hosts {_name(place)}"
        return _trouble("untrusted", message, hint)
    trust = "--ca-bundle FILE, or network: {ca_bundle: FILE}, with the PEM file of the authority that signed it"
    hint = f"{trust}; or --insecure {place}, if you must"
    return _trouble("untrusted", message, hint)


def _tls(cause: ssl.SSLError, place: str) -> Trouble:
    reason = cause.reason or ""
    own = f"network: {{certs_d: DIR}}, with DIR/{place}/client.cert and client.key"
    if isinstance(cause, ssl.SSLEOFError):
        message = (
            f"{place} hung up in the middle of TLS: a firewall may not let it through, or a client certificate lacks"
        )
        return _trouble("tls", message, f"curl -v https://{place}/v2/; or {own}")
    if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        message = f"{place} wants a client certificate, or another one (TLS: {reason})"
        return _trouble("tls", message, own)
    message = f"{place} does not speak TLS on this port ({_why(cause)})"
    return _trouble("tls", message, f"for a registry without TLS: --insecure {place}")


_KNOWN: Final[tuple[tuple[type[BaseException], Callable[[Any, str], Trouble]], ...]] = (
    (Obstructed, _obstructed),
    (Unresolved, _unresolved),
    (Unconnected, _unconnected),
    (ssl.SSLCertVerificationError, _untrusted),
    (ssl.SSLError, _tls),
)
"""Exceptions that say more than their class, in the order of how much they explain."""

_SIGNS: Final[tuple[tuple[type | tuple[type, ...], str, str, str], ...]] = (
    (
        requests.exceptions.ProxyError,
        "proxy",
        "the proxy on the way to {place} does not let us through ({why})",
        "check network.proxy, or HTTPS_PROXY and NO_PROXY",
    ),
    (
        (urllib3.exceptions.ConnectTimeoutError, requests.exceptions.ConnectTimeout),
        "slow",
        "{place} did not take a connection in time",
        "a firewall may drop it: curl -v https://{place}/v2/",
    ),
    (
        (TimeoutError, urllib3.exceptions.TimeoutError),
        "slow",
        "{place} sent nothing for too long",
        "the network or the registry stalls: try again",
    ),
    (
        OSError,
        "cut",
        "the connection to {place} broke ({why})",
        "the network or the registry is unsteady: try again",
    ),
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The innermost first: that is the one that says what happened."""
    seen: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        current = queue.pop(0)
        if isinstance(current, BaseException) and current not in seen:
            seen.append(current)
            queue += [getattr(current, "reason", None), current.__cause__, current.__context__, *current.args]
    yield from reversed(seen)


def _list(tried: Sequence[Tried]) -> str:
    return "; ".join(map(str, tried))


def _why(cause: BaseException) -> str:
    text = getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or type(cause).__name__
    return str(text)


def _name(place: str) -> str:
    return urlsplit(f"//{place}").hostname or place
