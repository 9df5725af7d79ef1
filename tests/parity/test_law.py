"""The law of the direct engine: unpack(result) == unpack(full) - dropped, judged by umoci."""

from __future__ import annotations

import dataclasses
import gzip
import io
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from composer.errors import Corrupt
from composer.oci.layer import Cut, cut, loses, scan, script
from composer.oci.tree import Tree
from tests.parity.image import Raw, Seen, digest, snapshot, tar, unpack, write_layout

PARTS = ("a", "b", "d")


def component_of(path: str) -> str:
    steps = path.split("/")
    return f"c/{steps[1]}" if len(steps) > 1 and steps[0] == "c" and steps[1] in PARTS else ""


class Memory(io.BytesIO):
    """An incoming blob that stays in memory, and knows whether it was committed."""

    committed = False

    def commit(self, digest: str, size: int) -> None:
        assert (len(self.getvalue()), _sha(self.getvalue())) == (size, digest)
        self.committed = True

    def close(self) -> None:
        """Stays readable after the context that it was written in."""


_sha = digest


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def rewrite(tars: Sequence[bytes], dropped: frozenset[str], max_size: int, piece: int = 4099) -> list[Raw]:
    """What the direct engine does: reuse what loses nothing, cut the rest, list the wanted parts."""
    how = Cut(component_of=component_of, wanted=lambda name: name not in dropped, max_size=max_size)
    lower, result = Tree(), []
    for data in tars:
        entries = scan(pieces(data, piece), origin="layer")
        below = lower.copy()
        if loses(entries, lower.apply(entries), how):
            result += cut_one(data, how, below, piece)
        else:
            result.append(Raw(gzip.compress(data, 1), digest(data)))
    return result


def cut_one(data: bytes, how: Cut, below: Tree, piece: int) -> list[Raw]:
    def once(script_: object) -> tuple[object, list[Raw]]:
        made: list[Memory] = []

        def create() -> Memory:
            made.append(Memory())
            return made[-1]

        outcome = cut(pieces(data, piece), how, origin="layer", create=create, script=script_)  # type: ignore[arg-type]
        blobs = {digest(blob.getvalue()): blob.getvalue() for blob in made if blob.committed}
        raws = [Raw(blobs[part.blob.digest], part.blob.diff_id) for part in outcome.parts]
        for raw in raws:
            plain = gzip.decompress(raw.blob)
            assert digest(plain) == raw.diff_id
            well_formed(plain)
        return outcome, raws

    online, raws = once(None)
    entries = online.entries  # type: ignore[attr-defined]
    _, scripted = once(script(entries, how, below))
    if online.irregular is None:  # type: ignore[attr-defined]
        assert [raw.diff_id for raw in raws] == [raw.diff_id for raw in scripted]
    return scripted


def members_of(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


def well_formed(plain: bytes) -> None:
    """Every rule a layer must keep to be applied alone: no path twice, folders first, links only to itself."""
    seen: dict[str, tarfile.TarInfo] = {}
    for member in members_of(plain):
        name = member.name.strip("/")
        assert name not in seen
        assert not name.startswith(".") or "/" in name or name.startswith(".wh.") or name == "."
        parent = name.rpartition("/")[0]
        assert not parent or seen[parent].isdir()
        if member.islnk():
            assert member.linkname in seen
        seen[name] = member


# -- layers that are hard to get right --------------------------------------------------------------------

NAMES = st.sampled_from(["x", "y", "in", "a", "b", "via", "o", "lib", "é", "n" * 120, "sp ace", "q'uote"])
FOLDERS = st.sampled_from(["", "c", "c/a", "c/b", "c/d", "o", "c/a/in", "o/in", "c/b/in", "via", "c/a/via"])
OWNERS = st.sampled_from([0, 1000, 65534, 2_097_152, 4_000_000_000])
TIMES = st.sampled_from([1, 1_600_000_000, 1_600_000_000.5, 8_589_934_592.0])


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    folder = draw(FOLDERS)
    kind = draw(st.sampled_from("ffffddlhwos"))
    name = draw(NAMES)
    path = f"{folder}/{name}" if folder else name
    member, content = tarfile.TarInfo(path), b""
    member.mtime = draw(TIMES)
    member.uid, member.gid = draw(OWNERS), draw(OWNERS)
    member.mode = draw(st.sampled_from([0o644, 0o755, 0o4755, 0o600, 0o1777]))
    if kind == "f":
        content = draw(st.binary(max_size=700))
        if draw(st.booleans()):
            member.pax_headers = {"SCHILY.xattr.user.note": draw(st.sampled_from(["v", "wörd"]))}
    elif kind == "d":
        member.type, member.name = tarfile.DIRTYPE, draw(st.sampled_from([folder or "o", path]))
        member.mode |= 0o700
    elif kind == "l":
        member.type = tarfile.SYMTYPE
        member.name = draw(st.sampled_from([path, "via", "c/a/via"]))
        member.linkname = draw(st.sampled_from(["/c/b", "c/a", "../o", "o", "/nowhere", "../../x", "b/in"]))
    elif kind == "h":
        member.type, member.linkname = tarfile.LNKTYPE, draw(FOLDERS) + "/" + draw(NAMES)
        member.linkname = member.linkname.strip("/")
    elif kind == "w":
        member.name = f"{folder}/.wh.{name}" if folder else f".wh.{name}"
    elif kind == "o":
        member.name = f"{folder or 'o'}/.wh..wh..opq"
    else:
        member.type = tarfile.FIFOTYPE
    member.size = len(content)
    return member, content


def with_folders(layer: list[tuple[tarfile.TarInfo, bytes]], explicit: bool) -> list[tuple[tarfile.TarInfo, bytes]]:
    """As real layers are: the folders of each path stand before it, unless the layer is to be a strange one."""
    if not explicit:
        return layer
    result, seen = [], set()
    for member, content in layer:
        steps = member.name.split("/")
        for at in range(1, len(steps)):
            folder = "/".join(steps[:at])
            if folder not in seen and not folder.endswith("via"):
                seen.add(folder)
                info = tarfile.TarInfo(folder)
                info.type, info.mode, info.mtime, info.uid = tarfile.DIRTYPE, 0o750, 1_500_000_000 + at, 7
                result.append((info, b""))
        seen.add(member.name)
        result.append((member, content))
    return result


LAYERS = st.lists(st.tuples(st.lists(members(), min_size=1, max_size=12), st.booleans()), min_size=1, max_size=4)
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


def compare(full: dict[str, Seen], result: dict[str, Seen], dropped: frozenset[str], began: int) -> None:
    gone = {path for path in full if component_of(path) in dropped}
    assert set(result) == set(full) - gone
    for path, seen in full.items():
        if path in gone:
            continue
        want, have = dataclasses.replace(seen, twins=seen.twins - gone), result[path]
        # umoci leaves the time of unpacking on folders that it made itself, or changed after giving them their own.
        made_now = want.mtime >= began
        assert have == dataclasses.replace(want, mtime=have.mtime if made_now else want.mtime), path


def judge(tars: Sequence[bytes], dropped: frozenset[str], max_size: int, compress: Callable[[bytes], bytes]) -> bool:
    """True where the law was put to the test; False where umoci itself cannot unpack the input."""
    room, began = Path(tempfile.mkdtemp(prefix="law-")), time.time_ns()
    try:
        write_layout(room / "layout", [Raw(compress(data), digest(data)) for data in tars], "full")
        try:
            full = snapshot(unpack(room / "layout", "full", room / "full"))
        except subprocess.CalledProcessError:
            return False
        try:
            result_layers = rewrite(tars, dropped, max_size)
        except Corrupt:
            return _links_out_of_layer(tars)
        write_layout(room / "layout", result_layers, "result")
        result = snapshot(unpack(room / "layout", "result", room / "result"))
        compare(full, result, dropped, began)
        return True
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _links_out_of_layer(tars: Sequence[bytes]) -> bool:
    """We refuse links to other layers, which umoci alone accepts: nothing to compare, and nothing else is refused."""
    assert any(member.islnk() for data in tars for member in members_of(data))
    return False


@settings(max_examples=max(120, settings.default.max_examples), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    layers=LAYERS,
    dropped=st.sets(st.sampled_from(["c/a", "c/b", "c/d"]), min_size=1),
    format_=FORMATS,
    max_size=st.sampled_from([1, 500, 1 << 30]),
)
def test_unpacked_result_is_unpacked_full_less_dropped(
    layers: list[tuple[list[tuple[tarfile.TarInfo, bytes]], bool]], dropped: set[str], format_: int, max_size: int
) -> None:
    tars = [tar(with_folders(layer, explicit), format_) for layer, explicit in layers]
    for number, data in enumerate(tars):
        note(f"layer {number}: {[(m.name, m.type, m.linkname) for m in members_of(data)]}")
    assume(judge(tars, frozenset(dropped), max_size, lambda data: gzip.compress(data, 1)))


def member(path: str, kind: bytes = tarfile.REGTYPE, to: str = "", mode: int = 0o744) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode, info.mtime = kind, to, mode, 1_500_000_000
    return info, b""


def folders(*paths: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(path, tarfile.DIRTYPE, mode=0o711) for path in paths]


def files(*paths: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(path) for path in paths]


def link(path: str, to: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(path, tarfile.SYMTYPE, to)]


LOWER = [*folders("c", "c/a", "c/b", "o", "o/in"), *files("c/a/x", "c/b/x", "o/x", "o/in/x")]
WHITEOUTS = {
    "a link comes later, to what is dropped": [*files("via/.wh.x"), *folders("c/a"), *link("via", "c/a")],
    "a link comes later, to what is kept": [*files("via/.wh.x"), *folders("c/a"), *link("via", "o")],
    "a link came before, to what is dropped": [*folders("c/a"), *link("via", "c/a"), *files("via/.wh.x")],
    "a link came before, to a folder that is emptied": [*link("via", "c/a"), *files("via/.wh..wh..opq")],
    "by way of what is dropped": files("c/a/to-b/.wh.x"),
    "by way of what is dropped, emptied": files("c/a/to-b/.wh..wh..opq"),
    "by a link that goes": files("c/a/y", "to-o/.wh.x", ".wh.to-o"),
    "by a link that has gone": files("c/a/y", ".wh.to-o", "to-o/.wh.x"),
    "after something came by the link": files("c/a/y", "to-o/y", ".wh.to-o"),
    "after something came by a link in the folder": files("c/a/y", "o/to-in/y", "o/.wh..wh..opq"),
    "after something came into the folder": files("c/a/y", "o/y", ".wh.o"),
    "before something comes into the folder": files("c/a/y", ".wh.o", "o/y"),
    "in a folder that becomes a file": files("c/a/y", "o/.wh.x", "o"),
}


@pytest.mark.parametrize("max_size", [1, 1 << 30])
@pytest.mark.parametrize("layer", WHITEOUTS.values(), ids=WHITEOUTS)
def test_whiteouts_are_taken_in_their_turn(layer: list[tuple[tarfile.TarInfo, bytes]], max_size: int) -> None:
    below = [*LOWER, *link("to-o", "o"), *link("o/to-in", "in"), *link("c/a/to-b", "/c/b")]
    assert judge([tar(below), tar(layer)], frozenset({"c/a"}), max_size, lambda data: gzip.compress(data, 1))


def test_the_judge_would_notice() -> None:
    """The comparison itself fails when one byte, time or link differs."""
    base = Seen(kind=1, mode=0, owner=(0, 0), mtime=5, content="x", device=0, xattrs=(), twins=frozenset({"p", "q"}))
    for change in ({"content": "y"}, {"mtime": 6}, {"twins": frozenset({"p"})}, {"xattrs": (("user.a", b"b"),)}):
        with pytest.raises(AssertionError):
            compare({"p": base}, {"p": dataclasses.replace(base, **change)}, frozenset(), 7)  # type: ignore[arg-type]
