"""Passwords and tokens: what to write into `Authorization` for one registry.

Source: distribution.github.io/distribution/spec/auth/token, and its oauth2 page for identity tokens.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from composer.errors import Corrupt, Denied, Unreachable
from composer.oci.credentials import Credential

Scopes = tuple[str, ...]
Ask = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]
"""Method, URL, headers, body; gives the status and the body of the answer."""

_MARGIN: Final = 10.0
"""Seconds before its end at which a token is no longer used."""

_SHORTEST: Final = 60.0
"""Seconds that a token is good for where its service does not say, or says less."""


class Keys:
    """The `Authorization` headers that a registry wants, kept for each set of scopes until they run out."""

    def __init__(self, host: str, find: Callable[[], Credential | None], ask: Ask) -> None:
        self._host = host
        self._find = find
        self._ask = ask
        self._lock = threading.Lock()
        self._challenge: _Challenge | None = None
        self._credential: Credential | None = None
        self._tokens: dict[Scopes, tuple[str, float]] = {}

    def header(self, scopes: Scopes) -> str | None:
        """What to send, as far as the registry has said that it wants something."""
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._credential.basic if self._credential else None
            return self._kept(scopes) or self._fetch(self._challenge, scopes)

    def renew(self, headers: Mapping[str, str], scopes: Scopes, *, refused: str | None, what: str) -> str:
        """What to send instead of what was `refused`. Raises `Denied` if there is nothing else."""
        with self._lock:
            if self._challenge is None:
                self._credential = self._find()
            self._challenge = _read_challenge(headers)
            if self._challenge and self._challenge.scheme == "bearer":
                kept = self._kept(scopes)
                return kept if kept and kept != refused else self._fetch(self._challenge, scopes)
            basic = self._credential.basic if self._challenge and self._credential else None
            if basic is None or basic == refused:
                raise self.denied(401, what)
            return basic

    def denied(self, status: int, what: str, words: str = "") -> Denied:
        """A refusal in the user's words, with whose credentials were shown."""
        whose = f"with the credentials {self._credential.source}" if self._credential else "to anonymous users"
        login = f"docker login {self._host}"
        if self._host == "nvcr.io":
            login += " --username '$oauthtoken'   # the password is an NGC API key"
        return Denied(f"{self._host} refused {what} {whose} ({status}{words})", hint=login)

    def _kept(self, scopes: Scopes) -> str | None:
        header, until = self._tokens.get(scopes, ("", 0.0))
        return header if time.monotonic() < until else None

    def _fetch(self, challenge: _Challenge, scopes: Scopes) -> str:
        status, body = self._ask(*_request(challenge, scopes, self._credential))
        if status in (400, 401, 403):
            raise self.denied(status, "a token", spoken(body))
        if status != 200:
            raise Unreachable(f"the token service of {self._host} answers {status}")
        try:
            answer = json.loads(body)
            header = _header(str(answer.get("token") or answer["access_token"]))
            lifetime = max(float(answer.get("expires_in") or 0), _SHORTEST)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Corrupt(f"the token service of {self._host} sent an answer without a token") from error
        self._tokens[scopes] = (header, time.monotonic() + lifetime - _MARGIN)
        return header


@dataclass(frozen=True, slots=True, kw_only=True)
class _Challenge:
    """What a 401 asks for: `basic` or `bearer`, and where tokens are to be had."""

    scheme: str
    realm: str
    service: str


def _read_challenge(headers: Mapping[str, str]) -> _Challenge | None:
    """Read `WWW-Authenticate`, which may offer several ways: a token is the better one."""
    text = headers.get("WWW-Authenticate", "")
    if found := re.search(r"\bBearer\s+(.*)", text, re.IGNORECASE):
        fields = {name.lower(): value for name, value in re.findall(r'(\w+)="([^"]*)"', found[1])}
        if fields.get("realm"):
            return _Challenge(scheme="bearer", realm=fields["realm"], service=fields.get("service", ""))
    if re.search(r"\bBasic\b", text, re.IGNORECASE):
        return _Challenge(scheme="basic", realm="", service="")
    return None


def _request(
    challenge: _Challenge, scopes: Scopes, credential: Credential | None
) -> tuple[str, str, Mapping[str, str], bytes | None]:
    """How to ask for a token: with an identity token by a form, else by a query."""
    if credential and credential.identity:
        form = {
            "grant_type": "refresh_token",
            "service": challenge.service,
            "client_id": "tricompose",
            "scope": " ".join(scopes),
            "refresh_token": credential.secret,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return "POST", challenge.realm, headers, urlencode(form).encode()
    query = [("service", challenge.service), *(("scope", scope) for scope in scopes)]
    if credential:
        query.insert(0, ("account", credential.username))
    url = challenge.realm + ("&" if "?" in challenge.realm else "?") + urlencode(query)
    return "GET", url, {"Authorization": credential.basic} if credential else {}, None


def _header(token: str) -> str:
    """What is sent with a token. Raises `ValueError` for one that no header takes."""
    if not (token.isascii() and token.isprintable()):
        raise ValueError("a token has characters that no token has")
    return f"Bearer {token}"


def spoken(body: bytes) -> str:
    """A registry's own words for an error, if it has any: `: DENIED: requested access is denied`."""
    try:
        error = json.loads(body)["errors"][0]
        words = f"{error.get('code', '')}: {error.get('message', '')}".strip(": ")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return ""
    words = "".join(character if character.isprintable() else " " for character in words)[:200]
    return f": {words}" if words else ""
