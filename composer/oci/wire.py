"""One registry over HTTP: who we are to it, what is worth trying again, and what to say when it will not.

An exchange ends in an answer, in `Interrupted` (it may end well another time), or in an error for the user.
Messages never hold URLs with queries, headers or bodies of ours: those carry secrets.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3

from composer.errors import Corrupt, Denied, NotFound, Unreachable
from composer.events import Emit, Logged
from composer.oci.credentials import Credentials
from composer.oci.gates import Gates
from composer.oci.names import asked_at
from composer.oci.patience import LEAST_RATE, Interrupted, Patience, retry_after
from composer.oci.tokens import Keys, Scopes, spoken
from composer.oci.trouble import diagnose

Result = TypeVar("Result")
Body = bytes | Iterable[bytes | memoryview]

_READ: Final = 1 << 18
_SMALL: Final = 1 << 16
_SOON: Final = 5.0
"""Seconds for what is read only to be polite, or for its words."""

_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_REPEATED: Final = frozenset({307, 308})
"""The redirects that leave a request what it is, body and all."""

_LARGEST_TOKEN: Final = 1 << 20

DRIP: Final = 60.0
"""Seconds after which a body is looked at for whether it only drips."""


class _NotTls(Interrupted):
    """A registry that may do without TLS does: from now on we speak plain HTTP to it."""


class Wire:
    """The way to one repository of one registry. May be used by several threads."""

    def __init__(
        self,
        *,
        host: str,
        repository: str,
        session: requests.Session,
        credentials: Credentials,
        insecure: frozenset[str],
        emit: Emit,
        patience: float,
        gates: Gates,
    ) -> None:
        self.host = host
        self.repository = repository
        self.authority = asked_at(host)
        self._session = session
        self._insecure = insecure
        self._emit = emit
        self._seconds = patience
        self._scheme = "https"
        self._met: set[tuple[str, str | None, int]] = set()
        self._gates = gates
        self._closing = threading.Event()
        self._keys = Keys(host, lambda: credentials.find(host, repository), self._ask_for_token)

    def close(self) -> None:
        """Wake up whoever is waiting to try again. Nothing more is tried."""
        self._closing.set()

    def patience(self) -> Patience:
        """A fresh budget for one piece of work."""
        return Patience(self._seconds, self.pause, self.note)

    def note(self, text: str) -> None:
        """Tell what is going on."""
        self._emit(Logged(text=text, source=self.host))

    def pause(self, seconds: float) -> None:
        """Sleep, unless everything is being stopped."""
        if self._closing.wait(seconds):
            raise Unreachable(f"the connection to {self.host} was closed")

    def persist(self, action: Callable[[], Result], patience: Patience | None = None) -> Result:
        """Do something until it is not interrupted, or patience runs out."""
        patience = patience or self.patience()
        while True:
            try:
                return action()
            except Interrupted as cut:
                patience.wait(cut)

    def attempt(
        self,
        method: str,
        path: str,
        *,
        scopes: Scopes,
        what: str,
        accept: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Body] | None = None,
        timeout: tuple[float, float] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """One exchange, with a new token if the old one has run out. `path` is below `/v2/`, or a whole URL.

        `what` is what we are after, for messages. `body` is called once for each time the body has to be sent.
        `stream` leaves the answer's body to be read; without it the answer is only looked at.
        Answers whose status is not in `accept` are raised: `Denied`, `NotFound`, `Interrupted`.
        """

        def ask(authorization: str | None) -> requests.Response:
            # What went wrong with TLS must not count among the causes of what goes wrong without it.
            with contextlib.suppress(_NotTls):
                return self._follow(method, self._url(path), headers or {}, authorization, body, timeout)
            return self._follow(method, self._url(path), headers or {}, authorization, body, timeout)

        authorization = self._keys.header(scopes)
        response = ask(authorization)
        if response.status_code == 401 and self._ours(response.url):
            discard(response)
            response = ask(self._keys.renew(response.headers, scopes, refused=authorization, what=what))
        if response.status_code in accept:
            if not stream:
                discard(response)
            return response
        raise self._refusal(response, what, method)

    def _url(self, path: str) -> str:
        """The URL of a path below `/v2/`. A whole URL stays as it is."""
        return path if "://" in path else f"{self._scheme}://{self.authority}/v2/{path}"

    def location(self, response: requests.Response) -> str:
        """Where the answer says to go on; its query is state of the registry's and is kept as it is.

        A registry behind a proxy that ends TLS may say `http` of itself: we stay with what we came by.
        """
        target = self._sound(lambda: urljoin(response.url, response.headers.get("Location", "")))
        stayed = urlsplit(target)._replace(scheme=self._scheme)
        return urlunsplit(stayed) if self._ours(urlunsplit(stayed)) else target

    def _sound(self, said: Callable[[], str]) -> str:
        """A URL that the registry said. Raises `Unreachable` for one that leads nowhere, or out of HTTP."""
        try:
            url = said()
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                return url
        except ValueError:
            pass
        hint = f"it, or a proxy before it, is set up wrongly: curl -v {self._scheme}://{self.authority}/v2/"
        raise Unreachable(f"{self.host} sends us to an address that is none of the web's", hint=hint)

    def pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it comes in, not waiting for a full buffer, so that nothing is lost when it breaks off.

        One that only drips is as good as dead: `Interrupted`.
        """
        flow = _Flow(urlsplit(response.url).netloc)
        try:
            while piece := flow.timed(lambda: response.raw.read1(_READ, decode_content=False)):
                yield piece
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._trouble(error, response.url) from error
        finally:
            response.close()

    def whole(self, response: requests.Response, limit: int) -> bytes:
        """The body of an answer that is small. Raises `Corrupt` where it is larger than `limit`."""
        body = bytearray()
        for piece in self.pieces(response):
            body += piece
            if len(body) > limit:
                raise Corrupt(f"{self.host} sent an answer of more than {limit} bytes where a short one was due")
        return bytes(body)

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        timeout: tuple[float, float] | None = None,
    ) -> requests.Response:
        """One request and its answer, whatever it is, unless it is one to come back for later."""
        gate = self._gates.of(urlsplit(url).netloc)
        gate.enter()
        answered = False
        try:
            response = self._send(method, url, headers, body, timeout)
            answered = True
        finally:
            gate.leave(answered=answered)
        return response

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        timeout: tuple[float, float] | None,
    ) -> requests.Response:
        place = urlsplit(url).netloc
        try:
            response = self._session.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **headers},
                data=body,  # type: ignore[arg-type]  # urllib3 sends views as they are
                stream=True,
                allow_redirects=False,
                verify=place not in self._insecure,
                timeout=timeout,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._trouble(error, url) from error
        self._met.add(_origin(url))
        if response.status_code in _BUSY:
            raise self._busy(response, place)
        return response

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        body: Callable[[], Body] | None,
        timeout: tuple[float, float] | None,
    ) -> requests.Response:
        """Go where a registry sends us, uploads as well. Only the registry itself is told who we are."""
        for _ in range(6):
            ours = {"Authorization": authorization} if authorization and self._ours(url) else {}
            response = self._exchange(method, url, {**headers, **ours}, body() if body else None, timeout)
            moved = response.status_code in _REDIRECTS and "Location" in response.headers
            if not moved or (method not in ("GET", "HEAD") and response.status_code not in _REPEATED):
                return response
            discard(response)
            url = self.location(response)
        raise Unreachable(f"{self.host} sends us from one place to the next without end")

    def _ours(self, url: str) -> bool:
        return _origin(url) == _origin(self._url(""))

    def _ask_for_token(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        self._sound(lambda: url)
        if self._scheme == "https" and not url.startswith("https://"):
            raise Denied(f"{self.host} wants credentials to be sent to a token service without TLS")

        def ask() -> tuple[int, bytes]:
            response = self._exchange(method, url, headers, body)
            return response.status_code, self.whole(response, _LARGEST_TOKEN)

        return self.persist(ask)

    def _busy(self, response: requests.Response, place: str) -> Interrupted:
        discard(response)
        after = retry_after(response.headers)
        asked = f" and asks to wait {after:.0f} s" if after else ""
        limited = response.status_code == 429
        error = Unreachable(
            f"{place} answers {response.status_code} {response.reason or ''}".rstrip() + asked,
            hint="try again later; many registries allow more to those who log in" if limited else None,
        )
        if not (limited or after):
            return Interrupted(error)
        wait = self._gates.of(place).shut(error, after)
        if wait >= 1:
            self.note(f"waiting {wait:.0f} s for {place}, which answers {response.status_code}")
        return Interrupted(error, after=wait, told=True)

    def _refusal(self, response: requests.Response, what: str, method: str) -> Exception:
        place, status = urlsplit(response.url).netloc, response.status_code
        words = detail(response)
        if method == "GET" and not self._ours(response.url):
            # A signed URL of a content network that has run out: the registry gives a new one.
            return Interrupted(Unreachable(f"{place}, where {self.host} sent us for {what}, answers {status}"))
        if status in (401, 403):
            return self._keys.denied(status, what, words)
        if status == 404:
            if method in ("GET", "HEAD"):
                return NotFound(f"{self.host} has no {what.removeprefix('the ')}{words}")
            hint = "some registries want a project or a repository to be made there first: is its name right?"
            return NotFound(f"{self.host} has no place for {what} (404{words})", hint=hint)
        return Denied(f"{self.host} refused {what} ({status}{words})")

    def _trouble(self, error: Exception, url: str) -> Exception:
        trouble = diagnose(error, urlsplit(url).netloc)
        unmet = _origin(url) not in self._met
        if unmet and trouble.kind in ("tls", "slow", "cut") and self._may_be_plain(url):
            self._scheme = "http"
            return _NotTls(trouble.error, after=0.0)
        if trouble.kind == "untrusted" or (unmet and trouble.kind in ("tls", "nowhere", "refused", "proxy")):
            return trouble.error
        return Interrupted(trouble.error, unmet=unmet)

    def _may_be_plain(self, url: str) -> bool:
        place = urlsplit(url).netloc
        ours = url.startswith("https://") and place == self.authority
        return ours and (place in self._insecure or _is_loopback(place))


class _Flow:
    """How fast a body comes. Only waiting for it counts, not what is done with it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._size = 0
        self._seconds = 0.0

    def timed(self, read: Callable[[], bytes]) -> bytes:
        """Read a piece. Raises `Interrupted` where less came than a line that is alive brings."""
        began = time.monotonic()
        piece = read()
        self._size += len(piece)
        self._seconds += time.monotonic() - began
        if self._seconds >= DRIP:
            if self._size < LEAST_RATE * self._seconds:
                said = f"{self._place} sent only {self._size} bytes in {self._seconds:.0f} s"
                raise Interrupted(Unreachable(said, hint="the network or the registry stalls: try again"))
            self._size, self._seconds = 0, 0.0
        return piece


def _origin(url: str) -> tuple[str, str | None, int]:
    """Scheme, host and port: `https://HOST:443` is the same place as `https://host`."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _name(place: str) -> str:
    return urlsplit(f"//{place}").hostname or place


def _is_loopback(place: str) -> bool:
    name = _name(place)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def discard(response: requests.Response) -> None:
    """Have done with an answer. What is short is read to its end, so that the connection can be used again."""
    left = response.raw.length_remaining
    if left is not None and left <= _SMALL:
        _short(response)
    response.close()


def detail(response: requests.Response) -> str:
    """The registry's own words in an answer that is an error."""
    try:
        return spoken(_short(response))
    finally:
        response.close()


def _short(response: requests.Response) -> bytes:
    """The first bytes of an answer, as far as they come soon and without trouble."""
    body, until = bytearray(), time.monotonic() + _SOON
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
        while len(body) < _SMALL and time.monotonic() < until:
            piece = response.raw.read1(_SMALL, decode_content=False)
            if not piece:
                break
            body += piece
    return bytes(body)
