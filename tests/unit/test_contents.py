"""Files of a layer, looked into while it streams by, however it is cut."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from composer.errors import Corrupt
from composer.oci.contents import IN_MEMORY, contents
from composer.oci.tar import Entry


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        made.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("step", [1, 3, 511, 4096, 1 << 20])
def test_what_is_wanted_is_whole_and_what_is_not_is_not_there(step: int, tmp_path: Path) -> None:
    draw = random.Random(step)
    small = {f"{number}": draw.randbytes(draw.choice((0, 1, 3, 4, 5, 600))) for number in range(12)}
    files = {**small, "large": b"large" + draw.randbytes(300_000), "other": draw.randbytes(400_000), "end": b"e"}
    data = tar(files)
    chunks = (data[at : at + step] for at in range(0, len(data), step))

    def wanted(entry: Entry, head: bytes) -> bool:
        assert len(head) >= min(4, entry.size), entry
        assert files[entry.path].startswith(head)
        return entry.path != "other"

    found = [
        (entry.path, held and held.read())
        for entry, held in contents(chunks, origin="x", scratch=tmp_path, wanted=wanted)
    ]
    assert found == [
        ("folder", None),
        *((name, (data or None) if name != "other" else None) for name, data in files.items()),
    ]


def test_large_ones_one_after_another(tmp_path: Path) -> None:
    """One that is longer than the next leaves nothing behind."""
    files = {"a": b"a" * (IN_MEMORY + 5), "b": b"b" * 300_000, "c": b"c" * (IN_MEMORY + 1)}
    held = [
        stream.read()
        for _, stream in contents([tar(files)], origin="x", scratch=tmp_path, wanted=lambda *_: True)
        if stream
    ]
    assert held == list(files.values())
    assert not list(tmp_path.iterdir())


def test_one_that_is_cut(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="x ends in the middle"):
        list(contents([tar({"a": b"a" * 5000})[:2000]], origin="x", scratch=tmp_path, wanted=lambda *_: True))
