"""The tar parser against GNU tar and Python's tarfile, and against bytes that are no tar."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import Corrupt
from composer.oci import tar


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(data: bytes, size: int = 1 << 20) -> list[tuple[tar.Entry, bytes]]:
    found: list[tuple[tar.Entry, bytearray]] = []
    for item in tar.read_tar(pieces(data, size), origin="it"):
        if isinstance(item, tar.Entry):
            found.append((item, bytearray()))
        else:
            found[-1][1].extend(item)
    return [(entry, bytes(content)) for entry, content in found]


def write(entries: list[tuple[tar.Entry, bytes]]) -> bytes:
    blocks = [tar.header(entry) + content + bytes(-len(content) % tar.BLOCK) for entry, content in entries]
    return b"".join(blocks) + tar.END


@pytest.fixture
def sparse(tmp_path: Path) -> bytes:
    """A file of 3 MiB with holes before, between and after its two stretches of data, as content."""
    with (tmp_path / "sparse").open("wb") as file:
        for at in (1 << 20, 2 << 20):
            file.seek(at)
            file.write(os.urandom(5000))
        file.truncate(3 << 20)
    return (tmp_path / "sparse").read_bytes()


@pytest.mark.parametrize(
    "form",
    [
        "--format=gnu",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax --sparse-version=1.0",
    ],
)
def test_sparse_files_are_filled_in(tmp_path: Path, sparse: bytes, form: str) -> None:
    command = ["tar", "--create", "--sparse", *form.split(), "-C", str(tmp_path), "sparse"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(data) < 100_000, "GNU tar did not find the holes, so this would prove nothing"
    for size in (1 << 20, 511, 10_000):
        ((entry, content),) = read(data, size)
        assert (entry.path, entry.size, content) == ("sparse", len(sparse), sparse)


def test_a_sparse_file_with_many_holes(tmp_path: Path) -> None:
    """More stretches than fit in the header, so that the map goes on in blocks of its own."""
    with (tmp_path / "holey").open("wb") as file:
        for number in range(60):
            file.seek(number << 17)
            file.write(b"%d" % number)
    command = ["tar", "--create", "--sparse", "--format=gnu", "-C", str(tmp_path), "holey"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(data) < 2_000_000
    assert read(data)[0][1] == (tmp_path / "holey").read_bytes()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["plain", "d" * 90 + "/" + "n" * 60, "ümläut/é", "sp ace\n"])
def test_names_of_every_format(form: int, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    ((entry, content),) = read(out.getvalue())
    assert (entry.path, content) == (name, b"abc")
    assert read(write([(entry, content)])) == [(entry, content)]


def test_names_that_are_not_utf8_keep_their_bytes() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("caf\xe9"))
    ((entry, _),) = read(out.getvalue())
    assert os.fsencode(entry.path) == b"caf\xe9"
    assert read(write([(entry, b"")]))[0][0] == entry


@given(
    path=st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1).filter(
        lambda name: name not in (".", "..")
    ),
    mode=st.integers(0, 0o7777),
    owner=st.integers(0, 1 << 40),
    mtime=st.integers(-(10**20), 10**20),
    xattr=st.binary(max_size=40),
    kind=st.sampled_from([tar.FILE, tar.DIRECTORY, tar.SYMLINK, tar.FIFO]),
)
def test_what_is_written_reads_back(path: str, mode: int, owner: int, mtime: int, xattr: bytes, kind: str) -> None:
    link = path * 3 if kind == tar.SYMLINK else ""
    entry = tar.Entry(path, kind, mode, owner, owner // 3, 0, mtime, link, xattrs=(("security.capability", xattr),))
    assert read(write([(entry, b"")])) == [(entry, b"")]
    with tarfile.open(fileobj=io.BytesIO(write([(entry, b"")])), errors="surrogateescape") as archive:
        assert archive.getnames() == [path]


def test_sizes_over_eight_gigabytes_are_written_as_others_read_them() -> None:
    entry = tar.Entry("big", tar.FILE, 0o644, 0, 0, 9 << 30, 0)
    with tarfile.open(fileobj=io.BytesIO(tar.header(entry))) as archive:
        member = archive.next()
    assert member is not None
    assert member.size == 9 << 30


def test_labels_of_selinux_and_overlay_are_left_out_and_capabilities_kept() -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {
        "SCHILY.xattr.security.selinux": "label",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.mine": "1",
        "atime": "5",
    }
    ((entry, _),) = read(info.tobuf(tarfile.PAX_FORMAT) + tar.END)
    assert entry.xattrs == (("user.mine", b"1"),)


def test_global_headers_change_nothing() -> None:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x", "path": "evil"}
    ) as it:
        it.addfile(tarfile.TarInfo("real"))
    assert [entry.path for entry, _ in read(out.getvalue())] == ["real"]


@pytest.mark.parametrize("path", ["../etc/passwd", "a/../../b", "/../x", ".."])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.LNKTYPE])
def test_paths_out_of_the_image_are_refused(path: str, kind: bytes) -> None:
    info = tarfile.TarInfo(path if kind == tarfile.REGTYPE else "fine")
    info.type, info.linkname = kind, path if kind == tarfile.LNKTYPE else ""
    with pytest.raises(Corrupt, match="leads out of the image"):
        read(info.tobuf(tarfile.PAX_FORMAT) + tar.END)


def test_leading_slashes_and_dots_mean_the_root() -> None:
    data = b"".join(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT) for name in ("/a", "./b", ".//c", "./")) + tar.END
    assert [entry.path for entry, _ in read(data)] == ["a", "b", "c", ""]


def test_every_cut_of_a_tar_is_noticed() -> None:
    content = os.urandom(2000)
    whole = write(
        [
            (tar.Entry("p" * 150, tar.FILE, 0o644, 0, 0, 2000, 5), content),
            (tar.Entry("q", tar.FILE, 0, 0, 0, 0, 0), b""),
        ]
    )
    sound = read(whole)
    for length in range(1, len(whole) - len(tar.END), 97):
        try:
            got = read(whole[:length])
        except Corrupt:
            continue
        # A tar that ends between two entries is whole for every reader; what it gives must be right.
        assert got == sound[: len(got)]
        assert length % tar.BLOCK == 0 or not got


@pytest.mark.parametrize("at", [0, 100, 124, 150, 156])
def test_a_damaged_header_is_noticed(at: int) -> None:
    data = bytearray(write([(tar.Entry("x", tar.FILE, 0o644, 0, 0, 0, 0), b"")]))
    data[at] ^= 0x11
    with pytest.raises(Corrupt, match="it is not a tar"):
        read(bytes(data))


@given(st.binary(max_size=3000))
def test_noise_never_gets_past_the_parser(noise: bytes) -> None:
    """Whatever comes, it is a list of entries or `Corrupt`: no other error, no endless loop."""
    with suppress(Corrupt):
        read(noise)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 1500))
def test_flipped_bytes_never_get_past_the_parser(noise: bytes, at: int) -> None:
    data = bytearray(
        write([(tar.Entry("n" * 130, tar.FILE, 0o644, 1 << 30, 0, 3, 5, xattrs=(("user.a", b"b"),)), b"abc")])
    )
    data[at : at + len(noise)] = noise
    with suppress(Corrupt):
        read(bytes(data))


@pytest.mark.parametrize(
    "record", [b"11 path=abc\n\0\0\0\0", b"11 path=abc\n-5 path=x\n", b"11 path=abc\n path=x\n", b"0 \n"]
)
def test_a_record_without_a_length_is_no_endless_loop(record: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    with pytest.raises(Corrupt, match="damaged PAX header"):
        read(info.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512) + tar.END)
