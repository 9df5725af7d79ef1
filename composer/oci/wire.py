"""One registry over HTTP: who we are to it, what is worth trying again, and what to say when it will not.

An exchange ends in an answer, in `Interrupted` (it may end well another time), or in an error for the user.
Messages never hold URLs with queries, headers or bodies of ours: those carry secrets.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import requests
import urllib3

from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unreachable
from composer.events import Emit, Logged
from composer.oci.credentials import DOCKER_HUB, Credential, Credentials

Result = TypeVar("Result")
Scopes = tuple[str, ...]
Body = bytes | Iterable[bytes | memoryview]

HUB_HOST: Final = "registry-1.docker.io"
_READ: Final = 1 << 18
_SMALL: Final = 1 << 16
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_FIRST_CONTACT: Final = 10.0
_LONGEST_PAUSE: Final = 15.0
_VAIN_TRIES: Final = 5
_TOKEN_MARGIN: Final = 10.0


class Interrupted(Exception):
    """An exchange broke off that may end well another time: `error` is what it comes to if we give up.

    `after` is how many seconds the other side asked us to wait. `unmet`: that host has never answered yet.
    """

    def __init__(self, error: Unreachable, *, after: float | None = None, unmet: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after
        self.unmet = unmet


class _NotTls(Interrupted):
    """A registry that may do without TLS does: from now on we speak plain HTTP to it."""


class Patience:
    """How long one piece of work is tried again: some seconds since it last gained something.

    Moving the same bytes over and over is no gain: it stops the clock, but is allowed a few times only.
    """

    def __init__(self, seconds: float, pause: Callable[[float], None], report: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._pause = pause
        self._report = report
        self._since = time.monotonic()
        self._tries = 0
        self._vain = 0
        self._moving = False

    def gained(self) -> None:
        """Something new is there, and safe."""
        self._since = time.monotonic()
        self._tries = self._vain = 0
        self._moving = False

    def moved(self) -> None:
        """Bytes are moving; whether it was worth it will be seen."""
        self._since = time.monotonic()
        self._moving = True

    def wait(self, cut: Interrupted) -> None:
        """Sleep before the next try. Raises the error of `cut` if there is to be none."""
        self._tries += 1
        self._vain += self._moving
        self._moving = False
        delay = cut.after if cut.after is not None else min(0.1 * 2**self._tries, _LONGEST_PAUSE)
        delay *= random.uniform(1.0, 1.1) if cut.after is not None else random.uniform(0.5, 1.0)
        limit = min(self._seconds, _FIRST_CONTACT) if cut.unmet else self._seconds
        if self._vain > _VAIN_TRIES or time.monotonic() + delay - self._since > limit:
            raise cut.error from cut
        if delay >= 1:
            self._report(f"{cut.error.message}: trying again in {delay:.0f} s")
        self._pause(delay)


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
    ) -> None:
        self.host = host
        self.authority = HUB_HOST if host in (DOCKER_HUB, f"index.{DOCKER_HUB}") else host
        self._session = session
        self._insecure = insecure
        self._emit = emit
        self._seconds = patience
        self._scheme = "https"
        self._met: set[str] = set()
        self._shut: dict[str, float] = {}
        self._closing = threading.Event()
        self._keys = _Keys(self, lambda: credentials.find(host, repository))

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
            sent = {"Accept-Encoding": "identity", **(headers or {})}
            try:
                return self._follow(method, self.url(path), sent, authorization, body, timeout)
            except _NotTls:
                return self._follow(method, self.url(path), sent, authorization, body, timeout)

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

    def url(self, path: str) -> str:
        """The URL of a path below `/v2/`. A whole URL stays as it is."""
        return path if "://" in path else f"{self._scheme}://{self.authority}/v2/{path}"

    def location(self, response: requests.Response) -> str:
        """Where the answer says to go on; its query is state of the registry's and is kept as it is.

        A registry behind a proxy that ends TLS may say `http` of itself: we stay with what we came by.
        """
        target = urljoin(response.url, response.headers.get("Location", ""))
        parts = urlsplit(target)
        return urlunsplit(parts._replace(scheme=self._scheme)) if parts.netloc == self.authority else target

    def pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it comes in, not waiting for a full buffer, so that nothing is lost when it breaks off."""
        try:
            while piece := response.raw.read1(_READ, decode_content=False):
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

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        timeout: tuple[float, float] | None = None,
    ) -> requests.Response:
        """One request and its answer, whatever it is, unless it is one to come back for later."""
        place = urlsplit(url).netloc
        self._wait_for(place)
        try:
            response = self._session.request(
                method,
                url,
                headers=headers,
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

    def denied(self, status: int, what: str, detail: str = "") -> Denied:
        """The refusal in the user's words, with whose credentials were used."""
        login = f"docker login {self.host}"
        if self.host == "nvcr.io":
            login += " --username '$oauthtoken'   # the password is an NGC API key"
        return Denied(f"{self.host} refused {what} {self._keys.whose()} ({status}{detail})", hint=login)

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        body: Callable[[], Body] | None,
        timeout: tuple[float, float] | None,
    ) -> requests.Response:
        """Go where a registry sends readers. Only the registry itself is told who we are."""
        for _ in range(6):
            ours = {"Authorization": authorization} if authorization and self._ours(url) else {}
            response = self.exchange(method, url, {**headers, **ours}, body() if body else None, timeout)
            moved = response.status_code in _REDIRECTS and "Location" in response.headers
            if not moved or method not in ("GET", "HEAD"):
                return response
            discard(response)
            url = self.location(response)
        raise Unreachable(f"{self.host} sends us from one place to the next without end")

    def _ours(self, url: str) -> bool:
        return url.startswith(f"{self._scheme}://{self.authority}/")

    def _wait_for(self, place: str) -> None:
        """Keep out of a host that asked for a pause, whichever thread it asked."""
        while (left := self._shut.get(place, 0.0) - time.monotonic()) > 0:
            self.pause(left)

    def _busy(self, response: requests.Response, place: str) -> Interrupted:
        after = _retry_after(response.headers)
        if after is not None:
            self._shut[place] = max(self._shut.get(place, 0.0), time.monotonic() + after)
        status = f"{response.status_code} {response.reason or ''}".strip()
        asked = f" and asks to wait {after:.0f} s" if after else ""
        discard(response)
        hint = (
            "try again later; logging in raises the limit of many registries" if response.status_code == 429 else None
        )
        return Interrupted(Unreachable(f"{place} answers {status}{asked}", hint=hint), after=after)

    def _refusal(self, response: requests.Response, what: str, method: str) -> Exception:
        place, status = urlsplit(response.url).netloc, response.status_code
        words = detail(response)
        if method == "GET" and not self._ours(response.url):
            # A signed URL of a content network that has run out: the registry gives a new one.
            return Interrupted(Unreachable(f"{place}, where {self.host} sent us for {what}, answers {status}"))
        if status in (401, 403):
            return self.denied(status, what, words)
        if status == 404:
            return NotFound(f"{self.host} has no {what}{words}")
        return Denied(f"{self.host} refused {what} ({status}{words})")

    def _trouble(self, error: Exception, url: str) -> Exception:
        trouble = _diagnose(error, urlsplit(url).netloc)
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


class _Keys:
    """The `Authorization` headers that a registry wants, kept for each set of scopes until they run out.

    Source: distribution.github.io/distribution/spec/auth/token, and its oauth2 page for identity tokens.
    """

    def __init__(self, wire: Wire, find: Callable[[], Credential | None]) -> None:
        self._wire = wire
        self._find = find
        self._lock = threading.RLock()
        self._challenge: _Challenge | None = None
        self._credential: Credential | None = None
        self._tokens: dict[Scopes, tuple[str, float]] = {}

    def whose(self) -> str:
        """Whose credentials were sent, for messages."""
        return f"with the credentials {self._credential.source}" if self._credential else "to anonymous users"

    def header(self, scopes: Scopes) -> str | None:
        """What to send, as far as the registry has said that it wants something."""
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._credential.basic if self._credential else None
            token, until = self._tokens.get(scopes, ("", 0.0))
            return token if time.monotonic() < until else self._fetch(self._challenge, scopes)

    def renew(self, headers: Mapping[str, str], scopes: Scopes, *, refused: str | None, what: str) -> str:
        """What to send instead of what was refused. Raises `Denied` if there is nothing else."""
        with self._lock:
            if self._challenge is None:
                self._credential = self._find()
            self._challenge = _challenge(headers)
            if self._challenge and self._challenge.scheme == "bearer":
                token, until = self._tokens.get(scopes, ("", 0.0))
                fresh = token not in ("", refused) and time.monotonic() < until
                return token if fresh else self._fetch(self._challenge, scopes)
            basic = self._credential.basic if self._challenge and self._credential else None
            if basic is None or basic == refused:
                raise self._wire.denied(401, what)
            return basic

    def _fetch(self, challenge: _Challenge, scopes: Scopes) -> str:
        answer = self._wire.persist(lambda: self._ask(challenge, scopes))
        token = answer.get("token") or answer.get("access_token")
        if not token:
            raise Corrupt(f"the token service of {self._wire.host} sent an answer without a token")
        lifetime = max(float(answer.get("expires_in") or 60), 60.0)
        header = f"Bearer {token}"
        self._tokens[scopes] = (header, time.monotonic() + lifetime - _TOKEN_MARGIN)
        return header

    def _ask(self, challenge: _Challenge, scopes: Scopes) -> dict[str, Any]:
        if not challenge.realm.startswith("https://") and self._wire.url("").startswith("https://"):
            raise Denied(f"{self._wire.host} wants credentials sent to a token service without TLS")
        credential = self._credential
        if credential and credential.identity:
            response = self._ask_with_identity(challenge, scopes, credential)
        else:
            query = [("service", challenge.service), *(("scope", scope) for scope in scopes)]
            if credential:
                query.insert(0, ("account", credential.username))
            url = challenge.realm + ("&" if "?" in challenge.realm else "?") + _encoded(query)
            headers = {"Authorization": credential.basic} if credential else {}
            response = self._wire.exchange("GET", url, headers)
        if response.status_code in (400, 401, 403):
            raise self._wire.denied(response.status_code, "a token", detail(response))
        if response.status_code != 200:
            raise Unreachable(f"the token service of {self._wire.host} answers {response.status_code}")
        answer = _json(self._wire.whole(response, 1 << 20))
        return answer if isinstance(answer, dict) else {}

    def _ask_with_identity(self, challenge: _Challenge, scopes: Scopes, credential: Credential) -> requests.Response:
        form = [
            ("grant_type", "refresh_token"),
            ("service", challenge.service),
            ("client_id", "tricompose"),
            ("scope", " ".join(scopes)),
            ("refresh_token", credential.secret),
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._wire.exchange("POST", challenge.realm, headers, _encoded(form).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Challenge:
    """What a 401 asks for: `basic` or `bearer`, and where tokens are to be had."""

    scheme: str
    realm: str
    service: str


def _challenge(headers: Mapping[str, str]) -> _Challenge | None:
    """Read `WWW-Authenticate`, which may offer several ways: a token is the better one."""
    text = headers.get("WWW-Authenticate", "")
    if found := re.search(r"\bBearer\s+(.*)", text, re.IGNORECASE):
        fields = {name.lower(): value for name, value in re.findall(r'(\w+)="([^"]*)"', found[1])}
        if fields.get("realm"):
            return _Challenge(scheme="bearer", realm=fields["realm"], service=fields.get("service", ""))
    if re.search(r"\bBasic\b", text, re.IGNORECASE):
        return _Challenge(scheme="basic", realm="", service="")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """A connection that did not work out: `kind` for us, `error` for the user."""

    kind: str
    error: Unreachable


def _diagnose(error: BaseException, place: str) -> _Trouble:
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
                return _Trouble(kind="slow" if unsure else kind, error=Unreachable(words, hint=advice))
    return _Trouble(kind="cut", error=Unreachable(f"the connection to {place} was cut"))


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


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _name(place: str) -> str:
    return urlsplit(f"//{place}").hostname or place


def _is_loopback(place: str) -> bool:
    name = _name(place)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or from a date. A date counts from the server's own clock, as ours may differ."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    until = _date(text)
    if until is None:
        return None
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return max((until - now).total_seconds(), 0.0)


def _date(text: str) -> datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def discard(response: requests.Response) -> None:
    """Have done with an answer. What is short is read to its end, so that the connection can be used again."""
    left = response.raw.length_remaining
    if left is not None and left <= _SMALL:
        response.raw.drain_conn()
    response.close()


def detail(response: requests.Response) -> str:
    """The registry's own words, if it has any: `: DENIED: requested access is denied`."""
    try:
        body = response.raw.read(_SMALL, decode_content=False)
        error = _json(body)["errors"][0]
        words = f"{error.get('code', '')}: {error.get('message', '')}".strip(": ")
    except (urllib3.exceptions.HTTPError, OSError, TypeError, KeyError, IndexError, AttributeError, TricomposeError):
        words = ""
    finally:
        response.close()
    words = "".join(character if character.isprintable() else " " for character in words)[:200]
    return f": {words}" if words else ""


def _json(body: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(body)
    except ValueError as error:
        raise Corrupt("an answer that should be JSON is not") from error


def _encoded(fields: Iterable[tuple[str, str]]) -> str:
    return urlencode(list(fields))
