"""`http://` and `https://`: files on the web, and what the other kinds ask over HTTP.

Downloads go on where they broke off, if the server says that the file is still the same one (RFC 9110, sections 13.1.5
and 14). Who we are is told to the host that was named, and to none that it sends us on to.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3

from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unreachable
from composer.events import Logged
from composer.models.sources.remote import Listing, Remote, Stream
from composer.models.sources.way import Way, shown
from composer.oci.patience import Interrupted, Patience, retry_after
from composer.oci.store import CHUNK
from composer.oci.trouble import diagnose
from composer.words import natural

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 10
_LARGEST_ANSWER: Final = 64 << 20
_PAGE: Final = "text/html"


def look(source: str, way: Way) -> Listing:
    """One file. Nothing is asked yet."""
    require_address(source)
    name = unquote(urlsplit(source).path.rpartition("/")[2]).replace("/", "_")
    return Listing(uri=shown(source), files=(remote(source, name, way),), folder=False)


def remote(
    url: str, path: str, way: Way, *, headers: Mapping[str, str] | None = None, size: int | None = None,
    sha256: str | None = None, fixed: str | None = None, page: bool = False,
) -> Remote:  # fmt: skip
    """A file at a URL. `fixed` is what its bytes are known by where they can never be others; with `page` it may be
    HTML.
    """
    wire = Wire(way, headers or {})

    def opened(place: int, version: str | None) -> Stream:
        return wire.download(url, place, version, fixed=fixed, page=page or name_is_page(path))

    return Remote(path=path, address=fixed or shown(url), open=opened, size=size, sha256=sha256)


def require_address(url: str) -> None:
    """Raise `NotFound` for what is no address of a file."""
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname and parts.path.rpartition("/")[2] and parts.port != 0)
    except ValueError:
        sound = False
    if not sound:
        raise NotFound(f"{shown(url)!r} is no address of a file", hint="https://host/path/model.onnx")


def name_is_page(path: str) -> bool:
    """Whether a file of this name is expected to be HTML."""
    return path.lower().endswith((".html", ".htm"))


class Wire:
    """One way of asking: `headers`, such as a token, are for the host that is asked first, and for no other."""

    def __init__(self, way: Way, headers: Mapping[str, str]) -> None:
        self._way = way
        self._headers = headers
        self._met: set[str] = set()

    def download(self, url: str, place: int, version: str | None, *, fixed: str | None, page: bool) -> Stream:
        """A file from `place` on, if it is still of `version`. Raises `Interrupted`, `Denied`, `NotFound`."""
        ask = {"Range": f"bytes={place}-"} if place else {}
        if place and version and not fixed:
            ask["If-Range"] = version
        response = self._exchange("GET", url, ask, None)
        if place and response.status_code == 416:
            response.close()
            if _whole(response) == place:
                return Stream(start=place, total=place, version=version, pieces=iter(()))
            return self.download(url, 0, None, fixed=fixed, page=page)
        self._refuse(response, url)
        if not page:
            _refuse_page(response, shown(url))
        start = _start(response, place)
        pieces = self._pieces(response, _host(response.url), start)
        return Stream(start=start, total=_total(response, start), version=fixed or _version(response), pieces=pieces)

    def ask(self, method: str, url: str, what: str, body: object = None, accept: str = "application/json") -> Any:  # noqa: ANN401
        """The JSON that a service answers, and its headers; what passes is tried again."""
        return self.ask_page(method, url, what, body, accept)[0]

    def ask_page(
        self, method: str, url: str, what: str, body: object = None, accept: str = "application/json"
    ) -> tuple[Any, requests.Response]:
        """The JSON that a service answers, and the answer itself."""
        patience = Patience(self._way.patience, time.sleep, lambda text: self._way.emit(Logged(text=text)))
        while True:
            try:
                return self._asked(method, url, what, body, accept)
            except Interrupted as cut:
                patience.wait(cut)

    def _asked(self, method: str, url: str, what: str, body: object, accept: str) -> tuple[Any, requests.Response]:
        given = {"Accept": accept} | ({"Content-Type": accept} if body is not None else {})
        response = self._exchange(method, url, given, None if body is None else json.dumps(body).encode())
        self._refuse(response, url, what)
        raw = b"".join(self._pieces(response, _host(url), 0, most=_LARGEST_ANSWER))
        try:
            return json.loads(raw), response
        except (ValueError, RecursionError) as error:
            raise Corrupt(
                f"{_host(url)} answers nonsense when asked for {what}", hint="is it the right host?"
            ) from error

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> requests.Response:
        """One answer, wherever it comes from."""
        first = _origin(url)
        for _ in range(_MOST_REDIRECTS):
            ours = self._headers if _origin(url) == first else {}
            response = self._send(method, url, {**headers, **ours}, body, known=_origin(url) == first)
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                return response
            response.close()
            url = _onward(url, response.headers["Location"])
            if first[0] == "https" and not url.startswith("https:") and not self._way.trusts(url):
                raise Denied(
                    f"{_host(url)} would send the file without TLS", hint=f"network: {{insecure: ['{_host(url)}']}}"
                )
        raise Unreachable(f"{first[1]} sends us from one place to the next without end")

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, known: bool
    ) -> requests.Response:
        place, login = _plain(url)
        try:
            response = self._way.access.session().request(
                method,
                place,
                headers=dict(headers),
                data=body,
                stream=True,
                allow_redirects=False,
                auth=login if known and "Authorization" not in headers else None,
                verify=not self._way.trusts(url),
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise NotFound(f"{shown(url)!r} is no address", hint="https://host/path/model.onnx") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._trouble(error, _host(url)) from error
        self._met.add(_host(url))
        return response

    def _trouble(self, error: Exception, host: str) -> Exception:
        trouble = diagnose(error, host)
        unmet = host not in self._met
        hint = trouble.way_out or "network: {proxy: {https: ...}, ca_bundle: ..., mirrors: ...}"
        told = Unreachable(trouble.error.message, hint=hint)
        if trouble.kind == "untrusted" or (unmet and trouble.kind in ("tls", "nowhere", "proxy")):
            return told
        return Interrupted(told, unmet=unmet)

    def _refuse(self, response: requests.Response, url: str, what: str | None = None) -> None:
        status, host = response.status_code, _host(response.url)
        if status in (200, 206):
            return
        response.close()
        what = what or shown(url)
        if status in _PASSING:
            after = retry_after(response.headers)
            asked = f" and asks to wait {after:.0f} s" if after else ""
            error = Unreachable(f"{host} answered {status} for {what}{asked}", hint="try again later")
            raise Interrupted(error, after=after)
        raise self.refusal(status, host, what)

    def refusal(self, status: int, host: str, what: str) -> TricomposeError:
        """What an answer that says no means to the user."""
        if status in (401, 403):
            used = "the login given" if self._headers else "no login, or the one in the address,"
            hint = (
                "https://${USER}:${PASSWORD}@host/...: variables of the environment stand in a recipe, secrets do not"
            )
            return Denied(f"{host} does not give us {what}: {status} ({used} was used)", hint=hint)
        return NotFound(f"{host} has no {what} ({status})", hint="open the address in a browser: is it spelled right?")

    def _pieces(
        self, response: requests.Response, host: str, start: int, *, most: int | None = None
    ) -> Iterator[bytes]:
        encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        length = natural(response.headers.get("Content-Length", ""))
        expected, done = (None if encoded else length), 0
        try:
            for piece in response.raw.stream(CHUNK, decode_content=encoded):
                done += len(piece)
                if most is not None and done > most:
                    raise Corrupt(f"{host} answers more than {most} bytes", hint="is it the right host?")
                yield piece
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._trouble(error, host) from error
        finally:
            response.close()
        if expected is not None and done != expected:
            raise Interrupted(Unreachable(f"{host} sent {start + done} of {start + expected} bytes"))


def _onward(url: str, place: str) -> str:
    """Where an answer sends us. Raises `Unreachable` where that is nowhere."""
    try:
        onward = urljoin(url, place)
        if urlsplit(onward).hostname and urlsplit(onward).port != 0:
            return onward
    except ValueError:
        pass
    raise Unreachable(f"{_host(url)} sends us to what is no address", hint="name the address of the file itself")


def _refuse_page(response: requests.Response, address: str) -> None:
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _PAGE:
        response.close()
        raise Corrupt(f"{address} answers with a page for people, not with a file", hint=_file_behind(address))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _host(url: str) -> str:
    return _origin(url)[1]


def _plain(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its login, and the login."""
    parts = urlsplit(url)
    login, mark, place = parts.netloc.rpartition("@")
    if not mark:
        return url, None
    name, _, password = login.partition(":")
    return parts._replace(netloc=place).geturl(), (unquote(name), unquote(password))


def _version(response: requests.Response) -> str | None:
    """What tells this file from a later one: a weak ETag does not, and what was compressed for us cannot go on."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _start(response: requests.Response, place: int) -> int:
    """The place in the file that an answer begins at: 0 where the server does not know ranges, or the file changed."""
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    if found and int(found[1]) == place:
        return place
    response.close()
    raise Corrupt(f"{_host(response.url)} sent another part of a file than was asked for", hint="try another mirror")


def _total(response: requests.Response, start: int) -> int | None:
    length = natural(response.headers.get("Content-Length", ""))
    encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
    return None if length is None or encoded else start + length


def _whole(response: requests.Response) -> int | None:
    """The size of a file of which a part was asked for that it does not have."""
    found = re.match(r"bytes \*/([0-9]{1,18})", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _file_behind(url: str) -> str:
    """What is meant by the address of a page, where that is known."""
    if "/blob/" in url:
        return url.replace("/blob/", "/resolve/" if "huggingface.co" in url else "/raw/")
    return "name the address that the download itself has"
