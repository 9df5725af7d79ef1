"""From compressed layers to tar bytes, and back to gzip.

Reading takes gzip (of many members, with trailing zeros), zstd and plain tar, told apart by their first bytes:
media types of real images are not always true. Writing is gzip, level 1 of ISA-L in fixed pieces, which gives the
same bytes on every x86-64 CPU and for every thread count; without the `isal` package zlib writes other bytes for
the same tar, so the blob's digest differs while the diff ID is the same. `CODEC` names which of the two it was.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import zstandard

from composer.errors import Corrupt

fast: Any
try:
    from isal import isal_zlib as fast
except ImportError:  # a platform without the wheel: slower, and other blob digests
    fast = zlib

CODEC: Final = "zlib-1" if fast is zlib else "isal-1"
"""Which compressor makes our blobs: part of what names a component layer."""

BLOCK: Final = 1 << 20
"""The compressor is fed pieces of exactly this many bytes, as its output depends on how it is fed."""

BOMB_RATIO: Final = 250
BOMB_FLOOR: Final = 1 << 30
"""A layer that grows past both is refused. Real layers reach 3 to 20; one of zeros reaches 1000, but is small."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW: Final = 1 << 27
_OUTPUT: Final = 1 << 20
_BROKEN: Final = (zlib.error, fast.error)


class Deflater(Protocol):
    """A gzip stream in the making."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """Take tar bytes, give what gzip bytes are ready."""
        ...

    def flush(self) -> bytes:
        """The rest of the stream, trailer and all."""
        ...


def deflater() -> Deflater:
    """A compressor whose header carries no time and no name. Feed it `BLOCK` bytes at a time."""
    return _Gzip()


class _Gzip:
    """A gzip member around raw deflate, with a header of our own: mtime 0, no name, OS unknown (255)."""

    _HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"

    def __init__(self) -> None:
        self._deflate = fast.compressobj(1, zlib.DEFLATED, -15)
        self._pending = self._HEADER
        self._crc = 0
        self._size = 0

    def compress(self, data: bytes | memoryview, /) -> bytes:
        self._crc = fast.crc32(data, self._crc)
        self._size += len(data)
        ready: bytes = self._pending + self._deflate.compress(data)
        self._pending = b""
        return ready

    def flush(self) -> bytes:
        trailer = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        ready: bytes = self._pending + self._deflate.flush() + trailer
        return ready


def inflate(chunks: Iterable[bytes], *, origin: str) -> Iterator[bytes]:
    """The tar bytes of a layer, in pieces of a few MiB at most, whatever it was compressed with.

    Raises `Corrupt` naming `origin` for a stream that is broken, cut, or a decompression bomb.
    """
    source = iter(chunks)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= 4:
            break
    stream = _chain(head, source)
    if head.startswith(_GZIP_MAGIC):
        return _gunzip(stream, origin)
    if head.startswith(_ZSTD_MAGIC):
        return _unzstd(stream, origin)
    return stream


def _chain(head: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


class _Meter:
    """Counts bytes in and out, and refuses a bomb while it is still small in memory and on disk."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.read = 0
        self._made = 0

    def made(self, piece: bytes) -> bytes:
        self._made += len(piece)
        if self._made > BOMB_FLOOR and self._made > self.read * BOMB_RATIO:
            raise Corrupt(
                f"{self._origin} grows to more than {BOMB_RATIO} times its size: it looks like a decompression bomb",
                hint="check where this image comes from",
            )
        return piece


def _gunzip(chunks: Iterable[bytes], origin: str) -> Iterator[bytes]:
    meter = _Meter(origin)
    member = fast.decompressobj(31)
    begun = False
    source = iter(chunks)
    try:
        for chunk in source:
            meter.read += len(chunk)
            data, full = chunk, False
            # A full piece may hide more behind it although all input is taken.
            while data or full:
                if not begun and data[0] != _GZIP_MAGIC[0]:
                    _drain(source)
                    return
                begun = True
                piece = member.decompress(data, _OUTPUT)
                full = len(piece) == _OUTPUT
                if piece:
                    yield meter.made(piece)
                data = member.unconsumed_tail
                if member.eof:
                    data, begun, full = member.unused_data, False, False
                    member = fast.decompressobj(31)
    except _BROKEN as error:
        # A source that verifies says at its end what is really wrong: that these are not the bytes asked for.
        _drain(source)
        raise Corrupt(f"{origin} is not whole gzip: {error}") from error
    if begun:
        raise Corrupt(f"{origin} ends in the middle of its gzip stream")


def _drain(source: Iterable[bytes]) -> None:
    """Read on without use: what comes is of no interest, but its digest counts. Noise after gzip is no error."""
    for _ in source:
        pass


def _unzstd(chunks: Iterable[bytes], origin: str) -> Iterator[bytes]:
    meter = _Meter(origin)
    frame = _zstd_frame()
    begun = False
    source = iter(chunks)
    try:
        for chunk in source:
            meter.read += len(chunk)
            data = chunk
            while data:
                begun = True
                piece = frame.decompress(data)
                for start in range(0, len(piece), _OUTPUT):
                    yield meter.made(piece[start : start + _OUTPUT])
                data = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame, begun = _zstd_frame(), False
    except zstandard.ZstdError as error:
        _drain(source)
        raise Corrupt(f"{origin} is not whole zstd: {error}") from error
    if begun:
        raise Corrupt(f"{origin} ends in the middle of its zstd stream")


def _zstd_frame() -> zstandard.ZstdDecompressionObj:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
