"""gRPC calls of one message each way, over HTTP/2: many at once on a connection, all of the same bytes.

Source: RFC 9113; gRPC's PROTOCOL-HTTP2.md (how a call, its messages and its status travel).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from composer.load import frames
from composer.load.connection import UNSENT, Address, Connection, Done

PLACES: Final = 16
"""Calls that share a connection."""

STATUSES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""Names of gRPC's status codes, by number."""

_LAST_STREAM: Final = (1 << 31) - 3
_RETURN: Final = 1 << 24
"""Bytes after which the server is told that there is room for as many more."""

_KNOWN: Final = 1000
"""Blocks of headers of which the meaning is kept. A server has a handful, but for refusals that tell the time."""

_Meanings = dict[tuple[int, bytes], str]

_PADDED: Final = frames.PADDED
_UNUSUAL: Final = frames.PADDED | frames.PRIORITY
_NONE: Final = "the server does not speak HTTP/2"
_GONE: Final = "the server closed the connection"
_BODY, _LAST = frames.DATA, frames.END_STREAM
_SETTINGS: Final = {frames.TABLE_SIZE: 0, frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW: frames.WINDOW}
_GREETING: Final = (
    frames.PREFACE + frames.settings(_SETTINGS) + frames.window_update(0, frames.WINDOW - frames.FIRST_WINDOW)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcWire:
    """A call of `path` (`/package.Service/Method`) with `message`."""

    address: tuple[str, int]
    path: str
    message: bytes
    places: int = PLACES
    _meanings: _Meanings = field(default_factory=dict, repr=False)

    def connect(self, address: Address) -> Connection:
        """Begin to make a connection."""
        host, port = self.address
        block = frames.header_block(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", self.path),
                (":authority", f"{f'[{host}]' if ':' in host else host}:{port}"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
        )
        return _GrpcConnection(address, block, self.message, self.places, self._meanings)


class _GrpcConnection(Connection):
    """Carries up to `places` calls at once. It is open once the server has sent its settings."""

    def __init__(self, address: Address, block: bytes, message: bytes, places: int, meanings: _Meanings) -> None:
        super().__init__(address, _GREETING)
        self.room = places
        self._message = b"\x00" + struct.pack(">I", len(message)) + message
        self._headers = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, block)
        self._data = frames.frame(_BODY, _LAST, 0, self._message) if len(self._message) <= frames.FRAME_SIZE else b""
        self._meanings = meanings
        self._settled = False
        self._stream = 1
        self._streams: dict[int, float] = {}
        self._bodies: dict[int, list[bytes]] = {}
        self._block: tuple[int, int, bytes] | None = None
        self._rest = b""
        self._eaten = 0
        self._window = frames.FIRST_WINDOW
        self._each = frames.FIRST_WINDOW
        self._frame = frames.FRAME_SIZE
        self._waiting: deque[_Sending] = deque()

    # -- asking ------------------------------------------------------------------------------------

    def send(self, started: float) -> None:
        stream, self._stream = self._stream, self._stream + 2
        self._streams[stream] = started
        number = stream.to_bytes(4, "big")
        size = len(self._message)
        if self._data and size <= self._window and size <= self._each and not self._waiting:
            self._window -= size
            headers, data = self._headers, self._data
            self._queue(b"".join((headers[:5], number, headers[9:], data[:5], number, data[9:])))
        else:
            self._queue(b"".join((self._headers[:5], number, self._headers[9:])))
            self._waiting.append(_Sending(stream=stream, window=self._each))
            self._pump()
        if self._stream > _LAST_STREAM:
            self.open = False

    def _pump(self) -> None:
        """Send of the messages that wait what the windows allow. One that waits for its own lets others pass."""
        for sending in [*self._waiting]:
            while self._window > 0 and sending.window > 0 and sending.at < len(self._message):
                size = min(self._window, sending.window, self._frame, len(self._message) - sending.at)
                piece = self._message[sending.at : sending.at + size]
                sending.at += size
                sending.window -= size
                self._window -= size
                last = _LAST if sending.at == len(self._message) else 0
                self._queue(frames.frame(_BODY, last, sending.stream, piece))
            if sending.at == len(self._message):
                self._waiting.remove(sending)

    def expire(self, before: float, reason: str) -> Sequence[Done]:
        late = [stream for stream, started in self._streams.items() if started <= before]
        for stream in late:
            self._queue(frames.frame(frames.RST_STREAM, 0, stream, struct.pack(">I", frames.CANCEL)))
        return [self._over(stream, reason) for stream in late]

    def pending(self) -> Sequence[float]:
        return tuple(self._streams.values())

    def _greeted(self) -> None:
        """Nothing yet: the server's settings come first."""

    # -- answers -----------------------------------------------------------------------------------

    def _take(self, data: bytes) -> Sequence[Done]:
        done: list[Done] = []
        if not data:
            self.broken = _GONE + (" without an answer" if self._streams else "")
            return done
        try:
            self._read(self._rest + data if self._rest else data, done)
        except (struct.error, IndexError):
            self.broken = _NONE
        if self._eaten > _RETURN:
            self._queue(frames.window_update(0, self._eaten))
            self._eaten = 0
        return done

    def _read(self, data: bytes, done: list[Done]) -> None:
        """What the frames are that are whole. The rest waits for what comes."""
        at, end, unpack = 0, len(data), frames.FRAME.unpack_from
        while end - at >= frames.HEAD:
            upper, lower, kind, flags, stream = unpack(data, at)
            begin = at + frames.HEAD
            after = begin + (upper << 8 | lower)
            if after - begin > frames.FRAME_SIZE:
                self.broken = _NONE
                break
            if after > end:
                break
            at = after
            if kind == frames.DATA:
                self._eaten += after - begin
                if stream in self._streams:
                    payload = frames.unpadded(flags, data[begin:after]) if flags & _PADDED else data[begin:after]
                    self._bodies.setdefault(stream, []).append(payload)
                    if flags & _LAST:
                        done.append(self._over(stream, "the server ended the call without a status"))
            elif kind == frames.HEADERS and flags & frames.END_HEADERS and not flags & _UNUSUAL:
                self._meant(stream, flags, data[begin:after], done)
            else:
                self._odd(kind, flags, stream, data[begin:after], done)
        self._rest = data[at:]

    def _meant(self, stream: int, flags: int, block: bytes, done: list[Done]) -> None:
        """Headers before an answer, or after it: these are its end."""
        if stream not in self._streams:
            return
        last = flags & _LAST
        failure = self._meanings.get((last, block))
        if failure is None:
            try:
                failure = read_status(frames.read_headers(block), last=bool(last))
            except ValueError:
                self.broken = "the server sends headers that cannot be read"
                return
            if len(self._meanings) < _KNOWN:
                self._meanings[last, block] = failure
        if last or failure:
            done.append(self._over(stream, failure))

    def _over(self, stream: int, failure: str) -> Done:
        started = self._streams.pop(stream)
        parts = self._bodies.pop(stream, ())
        if self._waiting:
            self._waiting = deque(one for one in self._waiting if one.stream != stream)
        if not self.open and not self._streams:
            self.broken = _GONE
        if failure:
            return started, failure, b"", b""
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
            return started, "the answer is not one message", b"", b""
        return started, "", b"", body[5:]

    # -- all else ----------------------------------------------------------------------------------

    def _odd(self, kind: int, flags: int, stream: int, payload: bytes, done: list[Done]) -> None:
        """Frames that come now and then."""
        if kind == frames.HEADERS or (kind == frames.CONTINUATION and self._block):
            self._collect(kind, flags, stream, payload, done)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._settle(frames.read_settings(payload))
        elif kind == frames.WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big"))
        elif kind == frames.PING and not flags & frames.ACK:
            self._queue(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.RST_STREAM and stream in self._streams:
            code = int.from_bytes(payload, "big")
            refused = code == frames.REFUSED_STREAM
            done.append(self._over(stream, UNSENT if refused else f"the server reset the call (HTTP/2 error {code})"))
        elif kind == frames.GOAWAY:
            self._leave(payload, done)

    def _collect(self, kind: int, flags: int, stream: int, payload: bytes, done: list[Done]) -> None:
        """Headers in several frames, or with padding."""
        if kind == frames.HEADERS:
            self._block = (stream, flags & _LAST, frames.unpadded(flags, payload))
        else:
            assert self._block
            stream, last, before = self._block
            self._block = (stream, last, before + payload)
        if flags & frames.END_HEADERS:
            stream, last, block = self._block
            self._block = None
            self._meant(stream, last, block, done)

    def _settle(self, values: Mapping[int, int]) -> None:
        """Take the server's settings. The first make the connection ready for requests."""
        if frames.INITIAL_WINDOW in values:
            more, self._each = values[frames.INITIAL_WINDOW] - self._each, values[frames.INITIAL_WINDOW]
            for sending in self._waiting:
                sending.window += more
        self._frame = values.get(frames.MAX_FRAME, self._frame)
        self._queue(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
        if not self._settled:
            self._settled = self.open = True
            self.room = min(self.room, values.get(frames.MAX_STREAMS, self.room))
        self._pump()

    def _widen(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        for sending in self._waiting:
            if sending.stream == stream:
                sending.window += more
        self._pump()

    def _leave(self, payload: bytes, done: list[Done]) -> None:
        """The server takes no more calls here. Those that it has not looked at can be sent elsewhere."""
        last = int.from_bytes(payload[:4], "big") & frames.WINDOW
        done += [self._over(stream, UNSENT) for stream in [*self._streams] if stream > last]
        self.open = False
        if not self._streams:
            self.broken = _GONE


@dataclass(slots=True, kw_only=True)
class _Sending:
    """A message that flow control has not let through yet: how far it is, and how much its stream may still send."""

    stream: int
    window: int
    at: int = 0


def read_status(headers: Mapping[str, str], *, last: bool) -> str:
    """Why a call failed, by its headers; "" if nothing in them says so."""
    code = headers.get("grpc-status")
    if code is None and headers.get(":status", "200") != "200":
        return f"HTTP {headers[':status']} instead of a gRPC answer"
    if code is None:
        return "the server ended the call without a status" if last else ""
    if code == "0":
        return ""
    name = STATUSES[int(code)] if code.isdecimal() and int(code) < len(STATUSES) else f"status {code}"
    return f"{name}: {unquote(headers.get('grpc-message', ''))}"
