"""HTTP as a check needs it: every call ends by a deadline, and no proxy stands between us and our own server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests

TIMEOUT: Final = 10.0
"""Seconds that a call may take as a whole."""

_PIECE: Final = 1 << 16


class NoAnswer(Exception):
    """No whole answer came; the text says why. `waited` is whether it was for want of time."""

    def __init__(self, reason: str, *, waited: bool) -> None:
        super().__init__(reason)
        self.waited = waited


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: status, headers by lower-case name, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401
        """The body as JSON, in which bare NaN and Infinity are numbers, as Triton writes them. Raises `ValueError`."""
        return json.loads(self.body)

    def complaint(self) -> str:
        """Triton's own words for what it refused."""
        try:
            return str(self.json()["error"])
        except (ValueError, KeyError, TypeError):
            return self.body[:200].decode(errors="replace").strip() or "no reason given"


class Client:
    """Speaks to the server at `base`."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._session = requests.Session()
        self._session.trust_env = False
        # A session lets go of kept connections at some later time, and Triton waits for them when it is to end.
        self._session.headers["Connection"] = "close"

    def get(self, path: str, *, timeout: float = TIMEOUT) -> Answer:
        """Ask for `path`. Raises `NoAnswer`."""
        return self._call("GET", path, b"", {}, timeout)

    def post(self, path: str, body: bytes, headers: Mapping[str, str], *, timeout: float = TIMEOUT) -> Answer:
        """Send `body` to `path`. Raises `NoAnswer`."""
        return self._call("POST", path, body, headers, timeout)

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Answer:
        end = time.monotonic() + timeout
        try:
            with self._session.request(
                method, self._base + path, data=body or None, headers=headers, timeout=timeout, stream=True
            ) as response:
                # The timeout of requests is between two pieces: a server that drips would never run into it.
                content = _read(response, end, timeout)
                lowered = {name.lower(): value for name, value in response.headers.items()}
                return Answer(status=response.status_code, headers=lowered, body=content)
        except requests.Timeout as error:
            raise NoAnswer(f"no answer within {timeout:g} s", waited=True) from error
        except requests.RequestException as error:
            raise NoAnswer(_why(error), waited=False) from error


def _read(response: requests.Response, end: float, timeout: float) -> bytes:
    pieces = []
    for piece in response.iter_content(_PIECE):
        pieces.append(piece)
        if time.monotonic() > end:
            raise NoAnswer(f"no whole answer within {timeout:g} s", waited=True)
    return b"".join(pieces)


def _why(error: requests.RequestException) -> str:
    text = str(error)
    if "refused" in text:
        return "the server refuses connections"
    if "reset" in text or "aborted" in text or "without response" in text:
        return "the server closed the connection without an answer"
    return f"the call failed: {text}"
