"""Reading gzip, zstd and plain streams of every cut; writing gzip that is always the same."""

from __future__ import annotations

import gzip
import importlib
import random
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import Corrupt
from composer.oci import compression

DATA = random.Random(7).randbytes(300_000) + b"a" * 5_000_000 + random.Random(8).randbytes(99)
HALF = len(DATA) // 2


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def inflate(data: bytes, size: int) -> bytes:
    return b"".join(compression.inflate(pieces(data, size), origin="it"))


SOUND = {
    "gzip": gzip.compress(DATA),
    "many members": gzip.compress(DATA[:1000]) + gzip.compress(b"") + gzip.compress(DATA[1000:]),
    "zeros after": gzip.compress(DATA) + bytes(2000),
    "noise after": gzip.compress(DATA) + b"noise",
    "zstd": zstandard.compress(DATA),
    "zstd frames": zstandard.compress(DATA[:HALF]) + zstandard.compress(DATA[HALF:]),
    "plain": DATA,
}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("size", [997, 65_536, 1 << 20, 1 << 26])
def test_every_kind_of_layer_is_read(kind: str, size: int) -> None:
    assert inflate(SOUND[kind], size) == DATA


def test_single_bytes_are_enough() -> None:
    assert inflate(gzip.compress(b"hello") + gzip.compress(b"!") + b"\0", 1) == b"hello!"


@pytest.mark.parametrize("kind", ["gzip", "many members", "zstd"])
@pytest.mark.parametrize("lost", [1, 5, 100_000])
def test_a_cut_stream_is_noticed(kind: str, lost: int) -> None:
    with pytest.raises(Corrupt, match=r"^it "):
        inflate(SOUND[kind][:-lost], 65_536)


@given(st.integers(10, len(SOUND["gzip"]) - 1))
def test_a_flipped_bit_is_noticed(at: int) -> None:
    damaged = bytearray(SOUND["gzip"])
    damaged[at] ^= 4
    with suppress(Corrupt):
        # In a run of equal bytes another distance may mean the same: then nothing was damaged.
        assert inflate(bytes(damaged), 1 << 20) == DATA


def test_a_bomb_is_refused_while_it_is_small() -> None:
    squeeze, block = zlib.compressobj(9, wbits=31), bytes(1 << 20)
    bomb = b"".join(squeeze.compress(block) for _ in range(1500)) + squeeze.flush()
    sizes: list[int] = []
    with pytest.raises(Corrupt, match="decompression bomb"):
        sizes.extend(map(len, compression.inflate(pieces(bomb, 1 << 16), origin="it")))
    assert sum(sizes) <= compression.BOMB_FLOOR


def test_a_large_file_of_zeros_is_no_bomb() -> None:
    assert len(inflate(gzip.compress(bytes(64 << 20)), 1 << 20)) == 64 << 20


def blob(data: bytes) -> bytes:
    deflate = compression.deflater()
    return b"".join(deflate.compress(piece) for piece in pieces(data, compression.BLOCK)) + deflate.flush()


def test_written_gzip_is_sound_and_carries_neither_time_nor_name() -> None:
    assert gzip.decompress(blob(DATA)) == DATA
    assert blob(DATA)[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"


def test_without_isal_the_tar_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform without the wheel reads and writes the same tars, and says that its blobs are others."""
    monkeypatch.setitem(sys.modules, "isal", None)
    try:
        plain = importlib.reload(compression)
        assert plain.CODEC == "zlib-1"
        assert gzip.decompress(blob(DATA)) == DATA
        assert inflate(SOUND["many members"], 997) == DATA
        with pytest.raises(Corrupt):
            inflate(SOUND["gzip"][:-5], 997)
    finally:
        monkeypatch.undo()
        importlib.reload(compression)
