"""One blob on its way into a registry: a session is opened, bytes follow, a digest closes it.

Source: the OCI distribution specification 1.1, "Pushing blobs". What a cut costs is up to the registry: some keep
what they have (distribution 3, olareg), some forget the whole session (distribution 2.8): we ask, and obey. A session
that is worth it is written down, so that another process can go on with it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import requests

from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unreachable
from composer.oci.image import Descriptor
from composer.oci.journal import Entry, Journal
from composer.oci.patience import Interrupted, Patience
from composer.oci.store import from_place
from composer.oci.tokens import Scopes
from composer.oci.wire import Wire, detail, discard
from composer.words import natural

_PIECE: Final = 1 << 16
"""Bytes handed to the socket at once: its time limit is for all of them, and slow lines are no stalled ones."""

_STEP: Final = 16 << 20
"""Bytes in one request, once a registry or a proxy before it has said that a whole blob is too much."""

_SMALL: Final = 1 << 16
"""Bytes of a blob that goes whole, with its digest: a cut costs nothing then, and requests are what counts."""

_WORTH: Final = 1 << 20
"""Bytes that a session must have to be kept for another process, and not cancelled."""

_COMMIT_RATE: Final = 8 << 20
"""Bytes a second by which registries hash a blob, or move it, before they answer that an upload is closed."""

_CONNECT: Final = 15.0
_ANSWER: Final = 30.0

_FAREWELL: Final = (5.0, 5.0)
"""Seconds to connect, and for an answer, when we only tidy up."""

_LOST: Final = frozenset({404, 410, 416})
_UNSUPPORTED: Final = frozenset({405, 411, 415, 501})
"""How registries refuse a way to upload that they do not know."""


@dataclass(slots=True, kw_only=True)
class Manners:
    """What has been learned of how a registry takes uploads."""

    posts: bool = True
    patches: bool = True
    step: int | None = None


class Upload:
    """The upload of one blob. What the registry holds of it so far, and where to go on."""

    def __init__(
        self, wire: Wire, repository: str, descriptor: Descriptor, manners: Manners, journal: Journal | None = None
    ) -> None:
        self._wire = wire
        self._repository = repository
        self._descriptor = descriptor
        self._manners = manners
        self._journal = journal if descriptor.size > _WORTH else None
        self._entry: Entry | None = None
        self._scopes: Scopes = (f"repository:{repository}:pull,push",)
        self._what = f"an upload of {descriptor.digest} to {repository}"
        self._session: str | None = None
        self._place = 0
        self._furthest = 0
        self._closing = False
        self._tape: _Tape | None = None

    def open(self) -> None:
        """Begin a session: the registry says now whether we may upload at all."""
        self._wire.persist(lambda: self._begin("", self._scopes))

    def mount(self, repository: str) -> bool:
        """Ask for the blob of another repository. Where that is not granted, the session that came of it is kept."""
        self.cancel()
        scopes = (*self._scopes, f"repository:{repository}:pull")
        patience = self._wire.patience()
        while True:
            try:
                return self._begin(f"?mount={self._descriptor.digest}&from={repository}", scopes)
            except (Denied, NotFound, Unreachable):
                return False
            except Interrupted as cut:
                if cut.after is None:
                    return False
                # To wait as we are asked to is cheaper than to send the blob.
                with contextlib.suppress(Unreachable):
                    patience.wait(cut)
                    continue
                return False

    def send(self, content: Callable[[], Iterator[bytes]]) -> None:
        """Upload the blob. It is in the repository once this returns.

        If this raises, the session is cancelled, unless it holds so much that another try should go on with it.
        """
        tape = self._tape = _Tape(content, self._descriptor)
        patience = self._wire.patience()
        try:
            if self._descriptor.size <= _SMALL:
                tape.load()
            done = self._take_up()
            while not done:
                done = self._advance(tape, patience)
            self._session = None
            self._forget()
        except BaseException as error:
            self.leave(error)
            raise
        finally:
            tape.close()

    def leave(self, error: BaseException | None = None) -> None:
        """Break off. A session that holds much is left for another process, unless what it holds is wrong."""
        keep = self._entry and not isinstance(error, Corrupt | Denied) and self._is_worth_keeping()
        entry, self._entry = self._entry, None
        if keep:
            self._session = None
        else:
            self.cancel()
        if entry:
            if not keep:
                entry.drop()
            entry.close()

    def cancel(self) -> None:
        """Ask the registry to forget the session, if there is one. It need not agree."""
        session, self._session, self._place = self._session, None, 0
        if session:
            self._delete(session)

    def _delete(self, session: str) -> None:
        gone = (200, 202, 204, 404)
        with contextlib.suppress(TricomposeError, Interrupted):
            self._wire.attempt("DELETE", session, scopes=self._scopes, what=self._what, accept=gone, timeout=_FAREWELL)

    def _take_up(self) -> bool:
        """Go on with what another process left here, if the registry still has it. Whether the blob is there."""
        if self._journal and not self._entry:
            self._entry = self._journal.upload(self._wire.host, self._repository, self._descriptor.digest)
        location = self._entry.location if self._entry else None
        if not location:
            self._note_down()
            return False
        if self._wire.persist(self._is_there):
            self.cancel()
            return True
        begun, self._session = self._session, location
        held = None
        with contextlib.suppress(TricomposeError, Interrupted):
            held = self._held()
        if held is None:
            self._session = begun
        else:
            self._place = held
            self._wire.note(f"{self._wire.host} still has {held} bytes of {self._descriptor.digest}")
            if begun:
                self._delete(begun)
        self._note_down()
        return False

    def _note_down(self) -> None:
        """Write down where the upload is, for whoever goes on with it."""
        if self._entry and self._session:
            self._entry.keep(self._session)

    def _forget(self) -> None:
        entry, self._entry = self._entry, None
        if entry:
            entry.drop()
            entry.close()

    def _is_worth_keeping(self) -> bool:
        """Whether the session holds much, or soon will: some of what was sent may still be on its way.

        If the registry cannot be asked the session stays: nobody can cancel it either.
        """
        if not self._session:
            return False
        try:
            held = self._held(timeout=_FAREWELL)
        except (TricomposeError, Interrupted):
            return True
        return held is not None and max(held, self._tape.place if self._tape else 0) > _WORTH

    def _advance(self, tape: _Tape, patience: Patience) -> bool:
        """Go as far as it goes; whether the blob is there now."""
        try:
            if self._session is None:
                return self._wire.persist(lambda: self._open(tape, patience), patience)
            if self._manners.patches and self._descriptor.size > _SMALL and self._place < self._descriptor.size:
                self._patch(tape, patience)
                return False
            return self._close(tape, patience)
        except Interrupted as cut:
            if tape.failure:
                raise tape.failure from cut
            patience.wait(cut)
            return self._wire.persist(lambda: self._take_stock(patience), patience)

    def _open(self, tape: _Tape, patience: Patience) -> bool:
        """Begin, and be done with it at once where the blob is small and the registry can."""
        if not self._manners.posts or self._descriptor.size > _SMALL:
            return self._begin("", self._scopes)
        try:
            return self._post(tape, patience)
        except Interrupted as cut:
            if cut.after is not None:
                raise
            self._manners.posts = False
            return False

    def _post(self, tape: _Tape, patience: Patience) -> bool:
        """The whole blob in one request. A registry that does not know that begins a session, or says so."""
        response = self._wire.attempt(
            "POST",
            f"{self._repository}/blobs/uploads/?digest={self._descriptor.digest}",
            scopes=self._scopes,
            what=self._what,
            accept=(201, 202, 400, 404, *_UNSUPPORTED),
            headers={"Content-Type": "application/octet-stream"},
            body=lambda: _Body(tape, 0, self._descriptor.size, patience),
        )
        self._manners.posts = response.status_code == 201
        if response.status_code == 202:
            self._session, self._place = self._wire.location(response), 0
        return self._manners.posts

    def _begin(self, query: str, scopes: Scopes) -> bool:
        """Open a session. True if there is no need for one, as the blob has been mounted."""
        response = self._wire.attempt(
            "POST", f"{self._repository}/blobs/uploads/{query}", scopes=scopes, what=self._what, accept=(201, 202)
        )
        if response.status_code == 201:
            return True
        self._session, self._place = self._wire.location(response), 0
        least = natural(response.headers.get("OCI-Chunk-Min-Length", ""))
        if self._manners.step and least:
            self._manners.step = max(self._manners.step, least)
        self._note_down()
        return False

    def _patch(self, tape: _Tape, patience: Patience) -> None:
        """Send what is missing, in one request unless the registry wants it in steps."""
        self._closing = False
        rest = self._descriptor.size - self._place
        length = min(self._manners.step or rest, rest)
        response = self._wire.attempt(
            "PATCH",
            self._session or "",
            scopes=self._scopes,
            what=self._what,
            accept=(201, 202, 204, 413, *_UNSUPPORTED, *_LOST),
            headers=self._headers(length),
            body=lambda: _Body(tape, self._place, length, patience),
        )
        self._understand(response, length, patience)

    def _headers(self, length: int) -> dict[str, str]:
        """Those of a request with `length` bytes from where we are."""
        headers = {"Content-Type": "application/octet-stream"}
        if 0 < length < self._descriptor.size:
            headers["Content-Range"] = f"{self._place}-{self._place + length - 1}"
        return headers

    def _understand(self, response: requests.Response, length: int, patience: Patience) -> None:
        status = response.status_code
        if status in _UNSUPPORTED:
            self._manners.patches = False
            self.cancel()
        elif status == 413:
            if self._manners.step:
                raise Denied(f"{self._wire.host} refused {self._what}: {length} bytes are too much for one request")
            self._manners.step = _STEP
            self.cancel()
        elif status in _LOST:
            raise Interrupted(Unreachable(f"{self._wire.host} lost {self._what}"))
        else:
            self._session = self._wire.location(response)
            self._place += length
            self._note_down()
            self._came_to(self._place, patience)

    def _close(self, tape: _Tape, patience: Patience) -> bool:
        """Name the digest, after which the blob is there. What is missing goes with it, where PATCH is no way."""
        self._closing = True
        tape.finish()
        url = self._session or ""
        url += ("&" if "?" in url else "?") + f"digest={self._descriptor.digest}"
        rest = self._descriptor.size - self._place
        response = self._wire.attempt(
            "PUT",
            url,
            scopes=self._scopes,
            what=self._what,
            accept=(200, 201, 204, 400, *_LOST),
            headers=self._headers(rest),
            body=(lambda: _Body(tape, self._place, rest, patience)) if rest else None,
            timeout=(_CONNECT, _ANSWER + self._descriptor.size / _COMMIT_RATE),
            stream=True,
        )
        if response.status_code == 400:
            raise Corrupt(f"{self._wire.host} did not take {self._descriptor.digest} (400{detail(response)})")
        discard(response)
        if response.status_code in _LOST:
            raise Interrupted(Unreachable(f"{self._wire.host} lost {self._what}"))
        return True

    def _take_stock(self, patience: Patience) -> bool:
        """After a cut: what does the registry have? The blob, a part of it, or nothing."""
        if self._closing and self._is_there():
            return True
        if self._session is None:
            return False
        held = self._held()
        if held is None or held > self._descriptor.size:
            self.cancel()
            return False
        self._place = held
        self._came_to(held, patience)
        return False

    def _came_to(self, place: int, patience: Patience) -> None:
        """The registry has the blob up to there. It may forget: that is a gain only where it never had as much."""
        if place > self._furthest:
            self._furthest = place
            patience.gained()

    def _held(self, timeout: tuple[float, float] | None = None) -> int | None:
        """How many bytes the registry has of the session; None where it does not know it, or does not say."""
        response = self._wire.attempt(
            "GET",
            self._session or "",
            scopes=self._scopes,
            what=self._what,
            accept=(200, 202, 204, 400, 405, *_LOST),
            timeout=timeout,
        )
        found = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", response.headers.get("Range", ""))
        if response.status_code != 204 or not found:
            return None
        if "Location" in response.headers:
            self._session = self._wire.location(response)
        # distribution says 0-0 of nothing as well as of one byte.
        return int(found[1]) + 1 if int(found[1]) else 0

    def _is_there(self) -> bool:
        return present(self._wire, self._repository, self._descriptor, self._scopes)


def present(wire: Wire, repository: str, descriptor: Descriptor, scopes: Scopes) -> bool:
    """Whether a repository has a blob, whole. One attempt; some registries want GET, of which nothing is read."""
    path, what = f"{repository}/blobs/{descriptor.digest}", f"blob {descriptor.digest} of {repository}"
    response = wire.attempt("HEAD", path, scopes=scopes, what=what, accept=(200, 404, 405, 501))
    if response.status_code in (405, 501):
        response = wire.attempt("GET", path, scopes=scopes, what=what, accept=(200, 404))
    length = response.headers.get("Content-Length", str(descriptor.size))
    return response.status_code == 200 and length == str(descriptor.size)


class _Tape:
    """The bytes of a blob from any place on: reads on where it can, begins again where it must."""

    def __init__(self, content: Callable[[], Iterator[bytes]], descriptor: Descriptor) -> None:
        self.failure: OSError | None = None
        self._content = content
        self._size = descriptor.size
        self._name = descriptor.digest
        self._chunks: Iterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._place = 0

    @property
    def place(self) -> int:
        """How far the blob was read."""
        return self._place

    def read(self, place: int, length: int) -> Iterator[memoryview]:
        """`length` bytes from `place`. Raises `Corrupt` where the source ends before."""
        if self._chunks is None or place < self._place:
            self._rewind(place)
        self._skip(place)
        end = place + length
        while self._place < end:
            piece = self._rest[: min(_PIECE, end - self._place)] or self._fill()[: min(_PIECE, end - self._place)]
            self._rest = self._rest[len(piece) :]
            self._place += len(piece)
            yield piece

    def finish(self) -> None:
        """See the source end, which is where it finds out that its bytes are not those of the digest: `Corrupt`."""
        if self._place == self._size and (self._rest or self._next() is not None):
            raise Corrupt(f"there is more of {self._name} than its {self._size} bytes")

    def close(self) -> None:
        """Let go of the source."""
        if close := getattr(self._chunks, "close", None):
            close()
        self._chunks = None

    def load(self) -> None:
        """Read all of it into memory, once. Raises `Corrupt` as its source does."""
        whole = b"".join(self.read(0, self._size))
        self.finish()
        self.close()
        self._content = lambda: iter((whole,))

    def _rewind(self, place: int) -> None:
        self.close()
        self._chunks = from_place(self._content, place) if place else self._content()
        self._rest = memoryview(b"")
        self._place = place

    def _skip(self, place: int) -> None:
        while self._place < place:
            passed = (self._rest or self._fill())[: place - self._place]
            self._rest = self._rest[len(passed) :]
            self._place += len(passed)

    def _fill(self) -> memoryview:
        chunk = self._next()
        if chunk is None:
            raise Corrupt(f"there are only {self._place} of the {self._size} bytes of {self._name}")
        self._rest = memoryview(chunk)
        return self._rest

    def _next(self) -> bytes | None:
        """The next piece that is not empty. What goes wrong with our own files must not look like a cut line."""
        try:
            return next((chunk for chunk in self._chunks or () if chunk), None)
        except OSError as error:
            self.failure = error
            raise


class _Body:
    """A part of the blob, of known length, so that it is not sent in HTTP chunks."""

    def __init__(self, tape: _Tape, place: int, length: int, patience: Patience) -> None:
        self._tape = tape
        self._place = place
        self._length = length
        self._patience = patience

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[memoryview]:
        for piece in self._tape.read(self._place, self._length):
            yield piece
            self._patience.moved()
