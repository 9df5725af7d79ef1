"""HTTP/2 as bytes: frames, settings, header blocks. Nothing here remembers anything of a connection.

Header blocks need no memory because we announce a dynamic table of size 0: every block then says all there is to it,
and equal blocks mean the same. Source: RFC 9113, sections 4 and 6; RFC 7541, sections 4.2 and 6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME: Final = struct.Struct(">HBBBI")
"""The head of a frame: length (upper 16 bits, lower 8), type, flags, stream."""

HEAD: Final = FRAME.size
WINDOW: Final = (1 << 31) - 1
"""The largest window of flow control."""

FIRST_WINDOW: Final = (1 << 16) - 1
FRAME_SIZE: Final = 1 << 14
"""Window and size of frames until settings say otherwise."""

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 2, 3, 4, 5
CANCEL, REFUSED_STREAM = 8, 7


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A whole frame."""
    return FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in values.items()))


def read_settings(payload: bytes) -> dict[int, int]:
    """What a SETTINGS frame says. Raises `struct.error` if it is none."""
    return dict(struct.iter_unpack(">HI", payload))


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and priority."""
    if flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & PRIORITY else payload


def header_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as literals that nobody is to remember, so that the block can be sent any number of times."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    return _length(len(data)) + data


def _length(count: int) -> bytes:
    """An integer with a prefix of 7 bits."""
    if count < 0x7F:
        return bytes([count])
    found, count = bytearray([0x7F]), count - 0x7F
    while count >= 0x80:
        found.append(count & 0x7F | 0x80)
        count >>= 7
    return bytes([*found, count])


def read_headers(block: bytes) -> dict[str, str]:
    """The headers of a block. Raises `ValueError` if it is none, or relies on what was said before."""
    from hpack import Decoder
    from hpack.exceptions import HPACKError

    decoder = Decoder()
    decoder.header_table_size = 0
    # A block may begin with the change of the table's size that we asked for; the size may not grow again.
    decoder.max_allowed_table_size = 0
    try:
        found = decoder.decode(block, raw=True)
    except HPACKError as error:
        raise ValueError(f"no header block: {error}") from error
    return {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in found}
