"""Layers become a folder as a runtime would show them, and nothing is written outside it."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

from composer.errors import Corrupt, NoRoom
from composer.events import Event, Transferred, ignore
from composer.oci.image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Image,
    canonical_json,
    make_manifest,
    parse_image,
    sha256,
)
from composer.oci.layout import LayoutStore
from composer.oci.unpack import unpack

MTIME = 1_700_000_000.25
AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""Makes a process that is an ordinary user, whoever we are."""


def entry(path: str, content: str | None = None, **fields: object) -> tuple[tarfile.TarInfo, bytes | None]:
    member = tarfile.TarInfo(path)
    member.mtime, member.mode = MTIME, 0o644
    if content is not None:
        member.size = len(content.encode())
    for name, value in fields.items():
        setattr(member, name, value)
    return member, content.encode() if content is not None else None


def folder(path: str, mode: int = 0o755, **fields: object) -> tuple[tarfile.TarInfo, None]:
    return entry(path, type=tarfile.DIRTYPE, mode=mode, **fields)[0], None


def symlink(path: str, target: str) -> tuple[tarfile.TarInfo, None]:
    return entry(path, type=tarfile.SYMTYPE, linkname=target, mode=0o777)[0], None


def hardlink(path: str, target: str) -> tuple[tarfile.TarInfo, None]:
    return entry(path, type=tarfile.LNKTYPE, linkname=target)[0], None


def layer(*members: tuple[tarfile.TarInfo, bytes | None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content) if content is not None else None)
    return buffer.getvalue()


def write(store: LayoutStore, data: bytes, media_type: str) -> Descriptor:
    descriptor = Descriptor.of(data, media_type)
    store.write(descriptor, lambda: iter([data]))
    return descriptor


def image_of(
    store: LayoutStore,
    *tars: bytes,
    compress: Callable[[bytes], bytes] = lambda data: data,
    diff_ids: Sequence[str] = (),
) -> Image:
    kind = f"{OCI_LAYER}+gzip" if compress is gzip.compress else OCI_LAYER
    layers = [write(store, compress(tar), kind) for tar in tars]
    ids = list(diff_ids) or [sha256(tar) for tar in tars]
    raw = canonical_json({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}})
    manifest = make_manifest(OCI_MANIFEST, write(store, raw, OCI_CONFIG), layers)
    store.publish(manifest.raw, manifest.media_type, "it")
    return parse_image(manifest, raw)


@pytest.fixture
def store(tmp_path: Path) -> LayoutStore:
    return LayoutStore.ensure(tmp_path / "layout")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def tree(root: Path) -> dict[str, str]:
    """Every path below root: what a file holds, where a link leads, `/` for a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = os.readlink(path) if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


def applied(store: LayoutStore, root: Path, *layers: Sequence[tuple[tarfile.TarInfo, bytes | None]]) -> dict[str, str]:
    unpack(image_of(store, *(layer(*members) for members in layers)), store, root, emit=ignore)
    return tree(root)


def test_things_look_as_the_layer_says(store: LayoutStore, root: Path) -> None:
    members = [
        folder("opt", 0o750),
        entry("opt/tool", "#!", mode=0o4755, uid=12, gid=34),
        symlink("opt/link", "tool"),
        hardlink("opt/same", "opt/tool"),
        entry("opt/pipe", type=tarfile.FIFOTYPE),
        entry("./deep/without/parents", "x"),
    ]
    unpack(image_of(store, layer(*members)), store, root, emit=ignore)
    tool = (root / "opt/tool").stat()
    assert (root / "opt/tool").read_text() == "#!"
    assert stat.S_IMODE(tool.st_mode) == 0o4755
    assert tool.st_mtime == MTIME
    assert (root / "opt/same").stat().st_ino == tool.st_ino
    assert os.readlink(root / "opt/link") == "tool"
    assert (root / "opt/link").lstat().st_mtime == MTIME
    assert stat.S_ISFIFO((root / "opt/pipe").stat().st_mode)
    assert stat.S_IMODE((root / "opt").stat().st_mode) == 0o750
    assert (root / "opt").stat().st_mtime == MTIME
    assert stat.S_IMODE((root / "deep/without").stat().st_mode) == 0o755
    owner = (12, 34) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    assert (tool.st_uid, tool.st_gid) == owner


@pytest.mark.parametrize(
    "compress",
    [
        lambda data: data,
        gzip.compress,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        zstandard.compress,
    ],
    ids=["plain", "gzip", "members", "zstd"],
)
def test_any_compression(store: LayoutStore, root: Path, compress: Callable[[bytes], bytes]) -> None:
    content = random.Random(1).randbytes(3_000_000).hex()
    unpack(image_of(store, layer(entry("big", content)), compress=compress), store, root, emit=ignore)
    assert (root / "big").read_text() == content


def test_marks_hide_what_lies_below_and_only_that(store: LayoutStore, root: Path) -> None:
    below = [
        folder("d"),
        entry("d/old", "old"),
        entry("gone", "x"),
        folder("sub"),
        entry("sub/old", "x"),
        entry("b", "x"),
    ]
    above = [
        entry("d/new", "new"),
        entry("d/.wh..wh..opq", ""),  # after its sibling
        entry("b", "again"),
        entry(".wh.b", ""),
        entry(".wh.gone", ""),
        entry("sub/new", "new"),
        entry(".wh.sub", ""),
        entry(".wh.never-there", ""),
        entry(".wh..wh.plnk/1.2", "aufs"),
    ]
    assert applied(store, root, below, above) == {
        "b": "again",
        "d": "/",
        "d/new": "new",
        "sub": "/",
        "sub/new": "new",
    }


def test_an_opaque_mark_reaches_into_folders_that_merge(store: LayoutStore, root: Path) -> None:
    below = [folder("a"), folder("a/b"), entry("a/b/old", "x"), folder("a/c"), entry("a/c/old", "x")]
    above = [folder("a"), folder("a/b"), entry("a/b/new", "new"), entry("a/.wh..wh..opq", "")]
    assert applied(store, root, below, above) == {"a": "/", "a/b": "/", "a/b/new": "new"}


def test_what_replaces_what(store: LayoutStore, root: Path) -> None:
    below = [
        folder("merged", 0o755),
        entry("merged/kept", "kept"),
        folder("folder"),
        entry("folder/x", "x"),
        entry("file", "old"),
        symlink("link", "merged"),
        folder("linked"),
    ]
    above = [
        folder("merged", 0o700),
        entry("folder", "now a file"),
        folder("file"),
        entry("file/x", "x"),
        folder("link"),
        entry("link/x", "x"),
        symlink("linked", "merged"),
    ]
    assert applied(store, root, below, above) == {
        "file": "/",
        "file/x": "x",
        "folder": "now a file",
        "link": "/",
        "link/x": "x",
        "linked": "merged",
        "merged": "/",
        "merged/kept": "kept",
    }
    assert stat.S_IMODE((root / "merged").stat().st_mode) == 0o700


def test_a_hard_link_is_replaced_alone(store: LayoutStore, root: Path) -> None:
    assert applied(store, root, [entry("a", "both"), hardlink("b", "a")], [entry("a", "new")]) == {
        "a": "new",
        "b": "both",
    }


def test_an_image_may_have_the_same_name_twice(store: LayoutStore, root: Path) -> None:
    assert applied(store, root, [entry("a", "first"), entry("a", "last")]) == {"a": "last"}


@pytest.mark.parametrize("up", ["", "../../../../../../../../../..", "x/../../../.."])
def test_links_lead_nowhere_outside(store: LayoutStore, root: Path, tmp_path: Path, up: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    inside = str(outside)[1:]
    layers = [
        [folder("x"), symlink("way", f"{up}{outside}")],
        [entry("way/file", "x"), entry("way/.wh.victim", ""), entry("way/.wh..wh..opq", ""), folder("way/d", 0o700)],
        [hardlink("stolen", "way/file"), entry("way", "x")],
    ]
    found = applied(store, root, *layers)
    assert tree(outside) == {"victim": "safe"}
    assert found[f"{inside}/file"] == "x"
    assert found["stolen"] == "x"


def test_a_hard_link_to_a_link_is_to_the_link(store: LayoutStore, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("safe")
    applied(store, root, [symlink("a", str(secret)), hardlink("b", "a"), entry("b", "overwritten")])
    assert secret.read_text() == "safe"
    assert (root / "b").read_text() == "overwritten"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([entry("../x", "x")], "leads out of the image"),
        ([entry("a/../../x", "x")], "leads out of the image"),
        ([hardlink("a", "../x")], "leads out of the image"),
        ([entry("a/.wh...", "")], "names nothing"),
        ([entry("a/.wh..", "")], "names nothing"),
        ([entry("a/.wh.", "")], "names nothing"),
        ([symlink(".", "/tmp")], "root folder"),
        ([symlink("a", "b"), symlink("b", "a"), entry("a/x", "x")], "goes round"),
        ([entry("a", "x"), entry("a/b", "x")], "through a file"),
        ([hardlink("a", "nowhere")], "cannot be linked to"),
        ([entry("a/" * 300 + "x", "x")], "folders deep"),
        ([entry("x" * 300, "x")], "File name too long"),
    ],
)  # fmt: skip
def test_what_no_image_may_do(
    store: LayoutStore, root: Path, tmp_path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes | None]], words: str
) -> None:
    with pytest.raises(Corrupt, match=words):
        applied(store, root, members)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "root"]


def test_a_layer_that_is_not_its_diff_id(store: LayoutStore, root: Path) -> None:
    image = image_of(store, layer(entry("a", "x")), diff_ids=[sha256(b"another")])
    with pytest.raises(Corrupt, match="where the image config says"):
        unpack(image, store, root, emit=ignore)


def test_a_layer_that_is_cut(store: LayoutStore, root: Path) -> None:
    whole = layer(entry("a", "x" * 5000))
    with pytest.raises(Corrupt, match="ends in the middle of a file"):
        unpack(image_of(store, whole[:2048]), store, root, emit=ignore)


def test_a_folder_that_holds_something(store: LayoutStore, root: Path) -> None:
    root.mkdir()
    (root / "mine").write_text("mine")
    with pytest.raises(NoRoom, match="not empty"):
        applied(store, root, [entry(".wh.mine", "")])
    assert (root / "mine").exists()


def test_no_room(store: LayoutStore, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", small], check=True)
    try:
        with pytest.raises(NoRoom, match="No space left"):
            applied(store, small / "root", [entry("a", "x" * 1_000_000)])
    finally:
        subprocess.run(["umount", small], check=True)


def test_extended_attributes(store: LayoutStore, root: Path) -> None:
    odd = entry("a", "x", pax_headers={"SCHILY.xattr.user.mark": "v\n1", "SCHILY.xattr.bogus": "never mind"})
    applied(store, root, [odd])
    assert os.getxattr(root / "a", "user.mark") == b"v\n1"


def test_progress_is_of_the_bytes_read(store: LayoutStore, root: Path) -> None:
    events: list[Event] = []
    image = image_of(store, layer(entry("a", "x")), layer(entry("b", "y" * 3_000_000)))
    unpack(image, store, root, emit=events.append)
    last = {event.digest: event for event in events if isinstance(event, Transferred)}
    assert {digest: (event.done, event.total) for digest, event in last.items()} == {
        one.digest: (one.size, one.size) for one in image.layers
    }


def test_without_root(store: LayoutStore, tmp_path: Path) -> None:
    """Folders that may not be written to are still filled by upper layers; owners and devices are let be."""
    below = [
        folder("locked", 0o555),
        entry("locked/a", "a", uid=7, gid=7),
        entry("null", type=tarfile.CHRTYPE, devmajor=1),
    ]
    image_of(store, layer(*below), layer(entry("locked/b", "b", mode=0o400)))
    script = f"""
from pathlib import Path
from tests.triton.images import read_image
from composer.events import ignore
from composer.oci.unpack import unpack
image, store = read_image("oci:{tmp_path}/layout:it")
unpack(image, store, Path("{tmp_path}/root"), emit=ignore)
"""
    subprocess.run([*AS_USER, sys.executable, "-c", script], check=True)
    assert tree(tmp_path / "root") == {"locked": "/", "locked/a": "a", "locked/b": "b"}
    assert stat.S_IMODE((tmp_path / "root/locked").stat().st_mode) == 0o555


@pytest.mark.parametrize("seed", range(12))
def test_the_tree_is_the_one_that_umoci_makes(store: LayoutStore, root: Path, tmp_path: Path, seed: int) -> None:
    assert shutil.which("umoci"), "apt-get install umoci"
    image = image_of(store, *_random_layers(random.Random(seed)), compress=gzip.compress)
    unpack(image, store, root, emit=ignore)
    theirs = tmp_path / "theirs"
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{tmp_path}/layout:it", theirs], check=True, capture_output=True
    )
    assert _described(root) == _described(theirs)


def _random_layers(draw: random.Random) -> list[bytes]:
    """Layers that fill, replace, link and hide at random, in a small space of names so that they meet."""
    known: dict[str, str] = {}
    return [_random_layer(draw, known) for _ in range(4)]


def _random_layer(draw: random.Random, known: dict[str, str]) -> bytes:
    members, mine, below = [], {}, dict(known)
    for _ in range(14):
        parents = ["", *(f"{path}/" for path, kind in (below | mine).items() if kind == "folder")]
        path = draw.choice(parents) + draw.choice("abcd")
        if path in mine or any(mine.get(str(above)) not in (None, "folder") for above in Path(path).parents):
            continue
        hidden = f"{path.rpartition('/')[0]}/.wh.{path.rpartition('/')[2]}".lstrip("/")
        if path in below and draw.random() < 0.3 and not any(other.startswith(f"{path}/") for other in mine):
            members.append(entry(hidden, ""))
            below = _without(below, path)
            continue
        kind = draw.choice(["file", "file", "folder", "folder", "link", "hard"])
        if any(other.startswith(f"{path}/") for other in mine) and kind != "folder":
            continue
        files = [other for other, found in mine.items() if found == "file"]
        if kind == "hard" and not files:
            continue
        made = _random_member(draw, kind, path, files)
        members.append(made)
        mine[path] = kind
        if kind != "folder":
            below = _without(below, path)
    known.clear()
    known.update(below | mine)
    return layer(*members)


def _without(paths: dict[str, str], gone: str) -> dict[str, str]:
    return {path: kind for path, kind in paths.items() if path != gone and not path.startswith(f"{gone}/")}


def _random_member(
    draw: random.Random, kind: str, path: str, files: Sequence[str]
) -> tuple[tarfile.TarInfo, bytes | None]:
    if kind == "file":
        return entry(path, path * draw.randrange(40), mode=draw.choice([0o644, 0o755, 0o600]))
    if kind == "folder":
        return folder(path, draw.choice([0o755, 0o700]), uid=draw.randrange(3))
    if kind == "link":
        return symlink(path, draw.choice(["a", "/b", "../c", "nowhere"]))
    return hardlink(path, draw.choice(files))


def _described(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        owner = (facts.st_mode, facts.st_uid, facts.st_gid, None if path.is_dir() else facts.st_mtime)
        links = facts.st_nlink if path.is_file() else 0
        found[str(path.relative_to(root))] = (*owner, links, content)
    return json.loads(json.dumps(found))
