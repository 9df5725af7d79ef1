"""The way to one port of a host, a step at a time: TCP to each address, the proxy before it, TLS.

Each step is made as the tool makes it, with its names, proxies and certificates, and says by an id of its own where the
way ends. What a server shows is read without believing it where it cannot be trusted; nothing is ever sent to it then
that is not for everybody.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final, Literal

from composer.doctor.certificate import Certificate, read_certificate
from composer.doctor.within import within
from composer.network.addresses import joined
from composer.network.proxies import Proxy
from composer.network.trust import Trust
from composer.network.tunnel import tunnel

Fault = Literal["", "refused", "silent", "unreachable", "cut"]

CONNECT: Final = 5.0
"""Seconds for a connection. A host that needs longer is not one to fetch gigabytes from."""

_ADDRESSES: Final = 6
_HEAD: Final = 1 << 14
_EXPIRED, _NOT_YET, _WRONG_NAME, _WRONG_ADDRESS = 10, 9, 62, 64
"""Reasons of OpenSSL's. Source: X509_STORE_CTX_get_error(3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One address, and how many seconds it took to connect, or why it did not."""

    address: tuple[str, int]
    seconds: float = 0.0
    fault: Fault = ""

    @property
    def shown(self) -> str:
        """The address as people write it."""
        return joined(*self.address)


def try_all(addresses: Sequence[tuple[str, int]]) -> tuple[Tried, ...]:
    """Connect to each of these at once, in the order given."""
    some = addresses[:_ADDRESSES]
    tried = within(CONNECT + 1, [partial(_try, one) for one in some])
    return tuple(one or Tried(address=at, fault="silent") for at, one in zip(some, tried, strict=True))


def _try(address: tuple[str, int]) -> Tried:
    begun = time.monotonic()
    try:
        with closing(socket.create_connection(address, timeout=CONNECT)):
            return Tried(address=address, seconds=time.monotonic() - begun)
    except OSError as error:
        return Tried(address=address, fault=_fault(error))


def _fault(error: OSError) -> Fault:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "silent"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM):
        return "unreachable"
    return "cut"


# -- the proxy ----------------------------------------------------------------------------------------------------


def through(made: socket.socket, proxy: Proxy, goal: tuple[str, int], trust: Trust) -> socket.socket:
    """Have a proxy connect us to a host. Raises `Obstructed`, `OSError`. Its login is shown to nobody else."""
    made.settimeout(CONNECT)
    if proxy.secure:
        made = trust.context(proxy.host, proxy.port).wrap_socket(made, server_hostname=proxy.host)
    return tunnel(made, proxy, goal, timeout=CONNECT)


# -- TLS ----------------------------------------------------------------------------------------------------------

TlsFault = Literal["", "untrusted", "expired", "not-yet-valid", "wrong-name", "none", "old", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """How TLS went: the protocol's version, the certificate that was shown, and why it was not taken.

    `skew` is how many seconds the server's clock is ahead of ours, as far as it said; only asked where that matters.
    """

    fault: TlsFault = ""
    words: str = ""
    version: str = ""
    certificate: Certificate | None = None
    skew: float | None = None


def shake(made: socket.socket, name: str, context: ssl.SSLContext) -> Handshake:
    """Speak TLS over a connection, as the tool does. Never raises for what the other side does."""
    made.settimeout(CONNECT)
    try:
        with context.wrap_socket(made, server_hostname=name) as secure:
            return Handshake(version=secure.version() or "", certificate=_shown(secure))
    except ssl.SSLCertVerificationError as error:
        return Handshake(fault=_reason(error), words=str(error.verify_message))
    except ssl.SSLError as error:
        return Handshake(fault=_protocol(error), words=str(error.reason or error.strerror or type(error).__name__))
    except OSError as error:
        return Handshake(fault="cut", words=error.strerror or type(error).__name__)


def wants_certificate(made: socket.socket, name: str, context: ssl.SSLContext) -> bool:
    """Whether a server that hangs up does so for want of a client certificate: TLS 1.3 tells it after the handshake."""
    made.settimeout(CONNECT)
    try:
        with context.wrap_socket(made, server_hostname=name) as secure:
            secure.recv(1)
    except ssl.SSLError as error:
        return "CERTIFICATE_REQUIRED" in str(error.reason)
    except OSError:
        pass
    return False


def answers_plain(made: socket.socket, name: str) -> bool:
    """Whether HTTP without TLS is answered."""
    made.settimeout(CONNECT)
    try:
        made.sendall(f"HEAD / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        return made.recv(5) == b"HTTP/"
    except OSError:
        return False


def _reason(error: ssl.SSLCertVerificationError) -> TlsFault:
    match error.verify_code:
        case code if code == _EXPIRED:
            return "expired"
        case code if code == _NOT_YET:
            return "not-yet-valid"
        case code if code in (_WRONG_NAME, _WRONG_ADDRESS):
            return "wrong-name"
        case _:
            return "untrusted"


def _protocol(error: ssl.SSLError) -> TlsFault:
    reason = str(error.reason or "")
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason or "HTTP_REQUEST" in reason:
        return "none"
    return "old" if "PROTOCOL" in reason or "VERSION" in reason or "LEGACY" in reason else "cut"


def peek(made: socket.socket, name: str) -> Handshake:
    """See what a server shows to anybody: its certificate, its clock. Nothing of it is believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with suppress(ssl.SSLError):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    made.settimeout(CONNECT)
    try:
        with context.wrap_socket(made, server_hostname=name) as secure:
            seen = Handshake(version=secure.version() or "", certificate=_shown(secure))
            with suppress(OSError):
                return Handshake(version=seen.version, certificate=seen.certificate, skew=_skew(secure, name))
            return seen
    except OSError as error:
        return Handshake(fault="cut", words=error.strerror or type(error).__name__)


def _shown(secure: ssl.SSLSocket) -> Certificate | None:
    with suppress(ValueError):
        return read_certificate(secure.getpeercert(binary_form=True) or b"")
    return None


def _skew(made: socket.socket, name: str) -> float | None:
    made.sendall(f"HEAD / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    for line in _head_of(made).decode("latin-1").split("\r\n"):
        key, _, value = line.partition(":")
        if key.lower() == "date":
            return skew_of(value)
    return None


def _head_of(made: socket.socket) -> bytes:
    """An answer up to its empty line, or as much of it as comes."""
    head = bytearray()
    while b"\r\n\r\n" not in head and len(head) < _HEAD:
        piece = made.recv(_HEAD)
        if not piece:
            break
        head += piece
    return bytes(head)


def skew_of(date: str) -> float | None:
    """How many seconds a server's `Date` is ahead of our clock."""
    try:
        found = parsedate_to_datetime(date.strip())
    except (ValueError, OverflowError):
        return None
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()


def left_of(certificate: Certificate) -> timedelta:
    """How long a certificate still holds, by our clock."""
    return certificate.ends - datetime.now(UTC)


def opened(addresses: Sequence[Tried]) -> Iterator[socket.socket]:
    """A connection to the first of those that took one; nothing where that has changed."""
    for one in addresses:
        if not one.fault:
            with suppress(OSError):
                yield socket.create_connection(one.address, timeout=CONNECT)
                return
