"""What shared objects need: real ones, made ones, and such as make no sense."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

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


def test_real_ones_as_another_reader_has_them() -> None:
    """Every shared object of this Python's packages, against pyelftools, which goes by other tables."""
    folder = Path(np.__file__).parents[1]
    paths = sorted(path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink())[:150]
    assert len(paths) > 30
    for path in paths:
        with path.open("rb") as stream:
            ours = read_elf(stream, origin=str(path))
            stream.seek(0)
            assert ours, path
            assert (ours.soname, ours.needed, ours.search, ours.demands, ours.offers) == by_pyelftools(stream), path


def by_pyelftools(stream: IO[bytes]) -> tuple[object, ...]:
    one = ELFFile(stream)
    tags = list(one.get_section_by_name(".dynamic").iter_tags())
    said = {tag.entry.d_tag: tag for tag in tags}
    folders = getattr(said.get("DT_RUNPATH"), "runpath", None) or getattr(said.get("DT_RPATH"), "rpath", "")
    wanted = one.get_section_by_name(".gnu.version_r")
    offered = one.get_section_by_name(".gnu.version_d")
    return (
        getattr(said.get("DT_SONAME"), "soname", ""),
        tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
        tuple(folder for folder in folders.split(":") if folder),
        {
            need.name: names
            for need, some in (wanted.iter_versions() if wanted else ())
            if (names := tuple(one.name for one in some if not one.entry.vna_flags & 2))
        },
        tuple(
            next(names).name
            for version, names in (offered.iter_versions() if offered else ())
            if not version["vd_flags"] & 1
        ),
    )


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
        demands={library: tuple(names) for library, names in versions.items()},
    )
    both = read(elf(runpath="/new", rpath="/old"))
    assert both
    assert both.search == ("/new",), "RUNPATH counts, and then RPATH does not"
    assert not both.inherited
    program = read(elf(rpath="/old", soname="x.so", interpreter="/lib64/ld.so", offers=["A_1", "A_2"]))
    assert program
    assert (program.inherited, program.soname, program.interpreter) == (True, "x.so", "/lib64/ld.so")
    assert program.offers == ("A_1", "A_2")
    needy = read(elf("a.so", versions={"a.so": ["A_1", "A_2"]}, weak=["A_2"]))
    assert needy
    assert needy.demands == {"a.so": ("A_1",)}, "what is weak may be missing"


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
    at = data.index((0x6FFFFFFF).to_bytes(8, "little")) + 8
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
