"""Connections that go by our names, proxies and trust, for requests and urllib3.

The name in a URL stays what TLS and `Host` say; only where the connection goes is ours to choose. Of urllib3 that takes
`HTTPConnection._new_conn`, `_dns_host` and `_tunnel`, which are its own affair: a test tells when they change. That a
refusal is heard while bytes are still sent takes that it reads the answer after `BrokenPipeError`.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError
from urllib3.util.wait import wait_for_read

from composer.network.addresses import Address
from composer.network.names import Names
from composer.network.proxies import address_for, login_header, parse_proxy
from composer.network.trust import Trust
from composer.oci.obstacles import Obstructed, Unconnected, Unresolved

_POOL: Final = 16
_DRIP: Final = 2.0
_PATIENT: Final = 30.0
_REFUSAL: Final = re.compile(r"Tunnel connection failed: (\d+) ?(.*)", re.DOTALL)


class Session(requests.Session):
    """A session that leaves redirects to whoever asked not to have them followed.

    requests would look into them all the same, and read their bodies to the end, of whatever size, into memory.
    """

    def resolve_redirects(self, *given: Any, **how: Any) -> Iterator[requests.Response]:  # noqa: ANN401
        """Those that are followed; what would only be prepared is not looked at."""
        return iter(()) if how.get("yield_requests") else super().resolve_redirects(*given, **how)


class _Named:
    """What plain and TLS connections have in common: where they go, and that they hear an answer while they send."""

    names: ClassVar[Names]
    deaf: ClassVar[set[str]]
    """Hosts that say something before they have heard all, and it is no answer."""

    _met = False
    _cut_short = False

    def _new_conn(self: Any) -> socket.socket:
        try:
            made: socket.socket = self.names.connect(
                self._dns_host, self.port, timeout=self.timeout, source=self.source_address,
                options=self.socket_options or (),
            )  # fmt: skip
        except (Unresolved, Unconnected) as error:
            if self.proxy is not None:
                raise Obstructed(_shown(self), error.why) from error
            if isinstance(error, Unresolved):
                raise NameResolutionError(self.host, self, error) from error
            raise
        return made

    def send(self: Any, data: Any) -> None:  # noqa: ANN401
        """Pass bytes on, unless there is an answer already: a refusal, for which the rest need not be sent.

        urllib3 then reads it, as it does for a server that closed its end. What TLS says after its handshake is no
        answer: it is out of the way once something was received.
        """
        if self._met and self.sock is not None and self.host not in self.deaf and wait_for_read(self.sock, timeout=0.0):
            self._cut_short = True
            raise BrokenPipeError
        super().send(data)  # type: ignore[misc]

    @property
    def is_connected(self: Any) -> bool:
        """Whether it can be used again: not where the server still waits for the rest of a request."""
        return not self._cut_short and super().is_connected  # type: ignore[misc]

    def close(self: Any) -> None:
        """As it was before it was connected."""
        super().close()  # type: ignore[misc]
        self._met = self._cut_short = False

    def getresponse(self: Any) -> Any:  # noqa: ANN401
        """The head of an answer must be whole in twice the time that a read may take: one that drips is cut off."""
        guard = threading.Timer(_DRIP * (self.timeout or _PATIENT), _cut, (self.sock,))
        guard.daemon = True
        guard.start()
        try:
            answer = super().getresponse()  # type: ignore[misc]
            self._met = True
            return answer
        except BaseException:
            if self._cut_short:
                self.deaf.add(self.host)
            raise
        finally:
            guard.cancel()


def _cut(sock: socket.socket) -> None:
    """Whoever waits for it sees its end. TLS is left out: it would be taken apart under the hands of the reader."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Plain(_Named, HTTPConnection):
    pass


class _Secure(_Named, HTTPSConnection):
    """Behind a proxy a host whose address was fixed is asked for by that address; TLS still has its name."""

    _asked: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    _goal: Address | None = None

    def set_tunnel(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Kept, as each try needs it anew."""
        self._asked = (args, options)
        super().set_tunnel(*args, **options)

    def connect(self) -> None:
        """To the first address that can be reached. Raises what urllib3 does, and `Obstructed`."""
        goals: Iterable[Address | None] = (None,)
        if self._tunnel_host and self._tunnel_port:
            goals = self.names.fixed(self._tunnel_host, self._tunnel_port) or goals
        *others, last = goals
        for goal in others:
            try:
                return self._connect(goal)
            except Obstructed as error:
                if error.status is None or error.status in (401, 403, 407):
                    raise
                self.close()
        return self._connect(last)

    def _connect(self, goal: Address | None) -> None:
        self._goal = goal
        if self._asked:
            super().set_tunnel(*self._asked[0], **self._asked[1])
        super().connect()

    def _tunnel(self) -> None:
        name, port = self._tunnel_host, self._tunnel_port
        if self._goal:
            self._tunnel_host, self._tunnel_port = self._goal
        try:
            super()._tunnel()
        except OSError as error:
            if found := _REFUSAL.fullmatch(str(error)):
                why = f"it answers {found[1]} {found[2]}".rstrip()
                raise Obstructed(_shown(self), why, status=int(found[1])) from error
            raise Obstructed(_shown(self), str(error) or type(error).__name__) from error
        finally:
            self._tunnel_host, self._tunnel_port = name, port

    def _connect_tls_proxy(self, hostname: str, sock: socket.socket) -> ssl.SSLSocket:
        try:
            return super()._connect_tls_proxy(hostname, sock)
        except OSError as error:
            why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or type(error).__name__
            raise Obstructed(_shown(self), f"TLS with it fails ({why})") from error


def _shown(connection: HTTPConnection) -> str:
    proxy = connection.proxy
    return f"{proxy.scheme}://{connection.host}:{connection.port}" if proxy else connection.host


class Adapter(HTTPAdapter):
    """Gives every connection our names, proxies, trust and time limits. `verify=False` on a call trusts anybody."""

    def __init__(
        self, names: Names, proxies: Mapping[str, str] | None, trust: Trust, *, timeout: tuple[float, float]
    ) -> None:
        self._proxies = proxies
        self._trust = trust
        self._timeout = timeout
        known = {"names": names, "deaf": set[str]()}
        plain, secure = type("Plain", (_Plain,), known), type("Secure", (_Secure,), known)
        self._pools = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        super().__init__(pool_connections=_POOL, pool_maxsize=_POOL, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """The pools of our connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> PoolManager:  # noqa: ANN401
        """As above, by way of a proxy, which is itself held to our trust."""
        asked = parse_proxy(proxy)
        made: PoolManager = super().proxy_manager_for(
            proxy, proxy_ssl_context=self._trust.context(asked.host, asked.port), **options
        )
        made.pool_classes_by_scheme = self._pools
        return made

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """The login of a proxy, of any letters."""
        return login_header(parse_proxy(proxy))

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: object, cert: object = None
    ) -> tuple[Any, Any]:
        """The context goes with the host."""
        host, pool = super().build_connection_pool_key_attributes(request, bool(verify))
        secure = host["scheme"] == "https"
        # Plain HTTP may go to a proxy over TLS, and that one is never believed blindly.
        context = self._trust.context(
            str(host["host"]) if secure else "", host["port"] or 443, blind=secure and not verify
        )
        return host, {**pool, "ssl_context": context}

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """Nothing to add: the context says it all, and loading certifi once more for each connection is slow."""

    def send(  # type: ignore[override]
        self,
        request: requests.PreparedRequest,
        *,
        timeout: tuple[float, float] | None = None,
        proxies: object = None,
        **options: Any,  # noqa: ANN401
    ) -> requests.Response:
        """The proxy is chosen for each request, so that `no_proxy` holds after a redirect too."""
        url = request.url or ""
        address = address_for(url, self._proxies)
        chosen = {url.partition(":")[0].lower(): address} if address else {}
        response = super().send(request, timeout=timeout or self._timeout, proxies=chosen, **options)
        if response.status_code == 407 and address:
            response.close()
            raise requests.exceptions.ProxyError(
                Obstructed(parse_proxy(address).shown, "it answers 407", status=407), request=request
            )
        return response
