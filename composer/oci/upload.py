"""One blob on its way into a registry: a session is opened, bytes follow, a digest closes it.

Source: the OCI distribution specification 1.1, "Pushing blobs". What a cut costs is up to the registry: some keep
what they have (distribution 3, olareg), some forget the whole session (distribution 2.8): we ask, and obey.
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
from composer.oci.patience import Interrupted, Patience
from composer.oci.tokens import Scopes
from composer.oci.wire import Wire, detail, discard

_PIECE: Final = 1 << 16
"""Bytes handed to the socket at once: its time limit is for all of them, and slow lines are no stalled ones."""

_STEP: Final = 16 << 20
"""Bytes in one request, once a registry or a proxy before it has said that a whole blob is too much."""

_COMMIT: Final = (15.0, 900.0)
"""Seconds to connect, and for the answer that closes an upload: registries hash the blob, or move it, before it."""

_LOST: Final = frozenset({404, 410, 416})


@dataclass(slots=True, kw_only=True)
class Manners:
    """What has been learned of how a registry takes uploads."""

    patches: bool = True
    step: int | None = None


class Upload:
    """The upload of one blob. What the registry holds of it so far, and where to go on."""

    def __init__(self, wire: Wire, repository: str, descriptor: Descriptor, manners: Manners) -> None:
        self._wire = wire
        self._repository = repository
        self._descriptor = descriptor
        self._manners = manners
        self._scopes: Scopes = (f"repository:{repository}:pull,push",)
        self._what = f"an upload of {descriptor.digest} to {repository}"
        self._session: str | None = None
        self._place = 0

    def open(self) -> None:
        """Begin a session: the registry says now whether we may upload at all."""
        self._wire.persist(lambda: self._begin("", self._scopes))

    def mount(self, repository: str) -> bool:
        """Ask for the blob of another repository. Where that is not granted, the session that came of it is kept."""
        self.cancel()
        scopes = (*self._scopes, f"repository:{repository}:pull")
        try:
            return self._begin(f"?mount={self._descriptor.digest}&from={repository}", scopes)
        except (Denied, NotFound, Unreachable, Interrupted):
            return False

    def send(self, content: Callable[[], Iterator[bytes]]) -> None:
        """Upload the blob. It is in the repository once this returns; if this raises, the session is closed."""
        tape = _Tape(content, self._descriptor)
        patience = self._wire.patience()
        try:
            while not self._advance(tape, patience):
                pass
        except BaseException:
            self.cancel()
            raise
        finally:
            tape.close()

    def cancel(self) -> None:
        """Ask the registry to forget the session, if there is one. It need not agree."""
        session, self._session, self._place = self._session, None, 0
        if session:
            with contextlib.suppress(TricomposeError, Interrupted):
                gone = (200, 202, 204, 404)
                self._wire.attempt("DELETE", session, scopes=self._scopes, what=self._what, accept=gone, timeout=(5, 5))

    def _advance(self, tape: _Tape, patience: Patience) -> bool:
        """Go as far as it goes; whether the blob is there now."""
        try:
            if self._session is None and self._wire.persist(lambda: self._begin("", self._scopes), patience):
                return True
            if self._manners.patches and self._place < self._descriptor.size:
                self._patch(tape, patience)
                return False
            return self._close(tape, patience)
        except Interrupted as cut:
            if tape.failure:
                raise tape.failure from cut
            patience.wait(cut)
            return self._wire.persist(lambda: self._take_stock(patience), patience)

    def _begin(self, query: str, scopes: Scopes) -> bool:
        """Open a session. True if there is no need for one, as the blob has been mounted."""
        response = self._wire.attempt(
            "POST", f"{self._repository}/blobs/uploads/{query}", scopes=scopes, what=self._what, accept=(201, 202)
        )
        if response.status_code == 201:
            return True
        self._session, self._place = self._wire.location(response), 0
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        if self._manners.step and least.isdigit():
            self._manners.step = max(self._manners.step, int(least))
        return False

    def _patch(self, tape: _Tape, patience: Patience) -> None:
        """Send what is missing, in one request unless the registry wants it in steps."""
        rest = self._descriptor.size - self._place
        length = min(self._manners.step or rest, rest)
        headers = {"Content-Type": "application/octet-stream"}
        if length < self._descriptor.size:
            headers["Content-Range"] = f"{self._place}-{self._place + length - 1}"
        response = self._wire.attempt(
            "PATCH",
            self._session or "",
            scopes=self._scopes,
            what=self._what,
            accept=(201, 202, 204, 405, 413, 501, *_LOST),
            headers=headers,
            body=lambda: _Body(tape, self._place, length, patience),
        )
        self._understand(response, length, patience)

    def _understand(self, response: requests.Response, length: int, patience: Patience) -> None:
        status = response.status_code
        if status in (405, 501):
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
            patience.gained()

    def _close(self, tape: _Tape, patience: Patience) -> bool:
        """Name the digest, after which the blob is there. Where PATCH is refused, the bytes go with it."""
        tape.finish()
        url = self._session or ""
        url += ("&" if "?" in url else "?") + f"digest={self._descriptor.digest}"
        whole = not self._manners.patches and self._descriptor.size > 0
        response = self._wire.attempt(
            "PUT",
            url,
            scopes=self._scopes,
            what=self._what,
            accept=(200, 201, 204, 400, *_LOST),
            headers={"Content-Type": "application/octet-stream"},
            body=(lambda: _Body(tape, 0, self._descriptor.size, patience)) if whole else None,
            timeout=_COMMIT,
            stream=True,
        )
        if response.status_code == 400:
            raise Corrupt(f"{self._wire.host} did not take {self._descriptor.digest} (400{detail(response)})")
        discard(response)
        if response.status_code in _LOST:
            raise Interrupted(Unreachable(f"{self._wire.host} lost {self._what}"))
        self._session = None
        return True

    def _take_stock(self, patience: Patience) -> bool:
        """After a cut: what does the registry have? The blob, a part of it, or nothing."""
        if self._manners.patches and self._session and self._place < self._descriptor.size:
            self._ask_for_place(patience)
            return False
        if self._is_there():
            self._session = None
            return True
        self.cancel()
        return False

    def _ask_for_place(self, patience: Patience) -> None:
        response = self._wire.attempt(
            "GET",
            self._session or "",
            scopes=self._scopes,
            what=self._what,
            accept=(200, 202, 204, 400, 405, *_LOST),
        )
        held = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
        if response.status_code != 204 or not held:
            self.cancel()
            return
        # distribution says 0-0 of nothing as well as of one byte.
        place = int(held[1]) + 1 if int(held[1]) else 0
        if place > self._place:
            patience.gained()
        self._place = place
        if "Location" in response.headers:
            self._session = self._wire.location(response)

    def _is_there(self) -> bool:
        response = self._wire.attempt(
            "HEAD",
            f"{self._repository}/blobs/{self._descriptor.digest}",
            scopes=self._scopes,
            what=self._what,
            accept=(200, 404),
        )
        return response.status_code == 200


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

    def read(self, place: int, length: int) -> Iterator[memoryview]:
        """`length` bytes from `place`. Raises `Corrupt` where the source ends before."""
        if self._chunks is None or place < self._place:
            self._rewind()
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

    def _rewind(self) -> None:
        self.close()
        self._chunks = self._content()
        self._rest = memoryview(b"")
        self._place = 0

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
