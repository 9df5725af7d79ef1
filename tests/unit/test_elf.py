"""What shared objects need: real ones, made ones, and such as make no sense."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest

from composer.elf import Binary, decode, encode, read_elf
from composer.errors import Corrupt
from tests.elves import elf


def read(data: bytes) -> Binary | None:
    return read_elf(io.BytesIO(data), origin="lib.so")


def test_a_real_library() -> None:
    """NumPy's wheel brings a library that is led to others beside it."""
    (path,) = Path(np.__file__).parent.glob("_core/_multiarray_umath*.so")
    with path.open("rb") as stream:
        found = read_elf(stream, origin=str(path))
    assert found
    assert {"libc.so.6", "libm.so.6"} < {*found.needed}
    assert any("openblas" in name for name in found.needed)
    assert [folder for folder in found.search if folder.startswith("$ORIGIN/")]
    assert (2, 17) <= found.versions["GLIBC"] < (3,)
    assert found.machine in ("amd64", "arm64")


def test_made_ones() -> None:
    versions = {
        "libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.4", "GLIBC_PRIVATE"],
        "libstdc++.so.6": ["GLIBCXX_3.4.9"],
    }
    assert read(elf("libc.so.6", "liba.so", machine="arm64", runpath="$ORIGIN:/opt/x", versions=versions)) == Binary(
        machine="arm64",
        needed=("libc.so.6", "liba.so"),
        search=("$ORIGIN", "/opt/x"),
        versions={"GLIBC": (2, 34), "GLIBCXX": (3, 4, 9)},
    )
    both = read(elf(runpath="/new", rpath="/old"))
    assert both
    assert both.search == ("/new",), "RUNPATH counts, and then RPATH does not"


def test_what_is_none() -> None:
    assert read(b"") is None
    assert read(b"#!/bin/sh") is None
    assert read(b"\x7fEL") is None


def test_what_makes_no_sense_is_corrupt_and_nothing_else() -> None:
    """Neither another exception, nor a loop that does not end."""
    draw = random.Random(1)
    whole = elf("libc.so.6", runpath="$ORIGIN", versions={"libc.so.6": ["GLIBC_2.4"]})
    refused = 0
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 3, 20))):
            data[draw.randrange(4, len(data))] = draw.randrange(256)
        try:
            read(bytes(data[: draw.randrange(4, len(data))] if draw.random() < 0.2 else data))
        except Corrupt:
            refused += 1
    assert refused > 100


def test_a_table_that_never_ends() -> None:
    data = bytearray(elf("libc.so.6", versions={"libc.so.6": ["GLIBC_2.4"]}))
    at = data.index((0x6FFFFFFE).to_bytes(4, "little")) + 40
    data[at : at + 4] = b"\xff\xff\xff\xff"
    found = read(bytes(data))
    assert found
    assert found.versions == {"GLIBC": (2, 4)}


def test_what_is_kept_comes_back() -> None:
    one = read(elf("libc.so.6", runpath="$ORIGIN", versions={"libc.so.6": ["GLIBC_2.34"]}))
    assert one
    assert decode(encode({"a/b.so": one})) == {"a/b.so": one}
    for broken in (b"", b"[]", b'{"a": 1}', b'{"a": [1, 2, 3, 4]}', b'{"a": [1, [], [], {"x": 1}]}'):
        with pytest.raises(Corrupt, match="cannot be read"):
            decode(broken)
