"""What it means in the user's words when a connection does not work out."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import requests
import urllib3

from composer.errors import Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A connection that did not work out: `kind` for us, `error` for the user."""

    kind: str
    error: Unreachable


def diagnose(error: BaseException, place: str) -> Trouble:
    """Tell apart what went wrong from the chain of exceptions that requests and urllib3 make of it."""
    chain = tuple(_causes(error))
    for types, kind, message, hint in _SIGNS:
        for cause in chain:
            if isinstance(cause, types):
                unsure = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
                words, advice = (
                    message.format(place=place, why=_why(cause)),
                    hint.format(place=place, host=_name(place)),
                )
                return Trouble(kind="slow" if unsure else kind, error=Unreachable(words, hint=advice))
    return Trouble(kind="cut", error=Unreachable(f"the connection to {place} was cut"))


_SIGNS: Final[tuple[tuple[type | tuple[type, ...], str, str, str], ...]] = (
    (
        requests.exceptions.ProxyError,
        "proxy",
        "the proxy on the way to {place} does not let us through",
        "check HTTPS_PROXY and NO_PROXY",
    ),
    (
        socket.gaierror,
        "nowhere",
        "the name of {place} could not be resolved (DNS: {why})",
        "check the spelling, then the name server: getent hosts {host}",
    ),
    (
        ssl.SSLCertVerificationError,
        "untrusted",
        "the TLS certificate of {place} is not trusted ({why})",
        "ca_bundle: the PEM file of the authority that signed it; or --insecure {place}, if you must",
    ),
    (
        ssl.SSLError,
        "tls",
        "{place} does not speak TLS on this port ({why})",
        "for a registry without TLS: --insecure {place}",
    ),
    (
        ConnectionRefusedError,
        "refused",
        "{place} refused the connection: nothing listens there",
        "check the port, and that the registry is running: curl -v https://{place}/v2/",
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


def _why(cause: BaseException) -> str:
    text = getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or type(cause).__name__
    return str(text)


def _name(place: str) -> str:
    return urlsplit(f"//{place}").hostname or place
