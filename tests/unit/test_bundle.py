"""The format of bundles: parts, their document, what damage does, what is resumed, what is signed."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from rich.console import Console

from composer.bundle.artifacts import FileStore, Piece, files_of, folders_of, lay_out, make_artifact, require_free
from composer.bundle.checking import check_parts
from composer.bundle.document import Found, Item, document_of, is_part, parse
from composer.bundle.draft import Draft, Loose, Thing, draft
from composer.bundle.reading import BundleStore, Damage, refused
from composer.bundle.signing import Trust, require_signature, sign
from composer.bundle.slices import Slices, cut
from composer.bundle.writing import Supply, write
from composer.bundling import kinds
from composer.bundling.folders import folder_of
from composer.bundling.having import Inventory, known_by
from composer.bundling.loading import Loaded, Outcome
from composer.bundling.reports import report_of
from composer.bundling.toolkit import own_wheel
from composer.bundling.yards import manifest_of
from composer.cli_bundle import _bytes_of
from composer.command import Usage
from composer.console.bundles import bundle_text, loaded_text
from composer.errors import Corrupt, Denied, NoRoom, NotFound, RecipeError, Unplannable, Unreachable
from composer.events import Event, Warned, ignore
from composer.oci.archive import open_docker_archive, open_oci_archive
from composer.oci.copy import survey
from composer.oci.image import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    canonical_json,
    make_index,
    make_manifest,
    sha256,
)
from composer.oci.layout import LayoutStore
from composer.oci.names import parse_reference
from composer.oci.store import Store
from composer.recipe import load_recipe, parse_recipe
from tests.images import Picture, picture, put
from tests.proofs import long_winded, passing

PART = 70_000
TOOL = Loose(path="tool/readme", source=b"read me", size=7, digest=sha256(b"read me"))


@dataclass(slots=True)
class Shop:
    """A layout with images in it, and a folder for bundles."""

    path: Path
    store: LayoutStore
    images: dict[str, Picture] = field(default_factory=dict)

    def image(self, name: str, *, filler: int = 200_000, seed: int = 1, layers: int = 2) -> Picture:
        made = picture(filler=filler, seed=seed, layers=layers)
        put(self.store, made, None)
        self.images[name] = made
        return made

    def things(self, *names: str, source: Store | None = None) -> list[Thing]:
        return [
            Thing(
                name=name,
                kind=kinds.COMPOSED,
                contents=survey(self.store, self.images[name].root),
                source=source or self.store,
                docker=name,
            )
            for name in names or self.images
        ]

    def draft(
        self, *names: str, known: Mapping[str, tuple[str, ...]] | None = None, loose: Sequence[Loose] = ()
    ) -> Draft:
        return draft(self.things(*names), loose, known or {}, tool="tricompose test")

    def write(
        self,
        *names: str,
        called: str = "out",
        part_size: int | None = PART,
        known: Mapping[str, tuple[str, ...]] | None = None,
        source: Store | None = None,
        jobs: int = 4,
    ) -> Found:
        made = draft(self.things(*names), [TOOL], known or {}, tool="tricompose test")
        supply = Supply(self.things(*names, source=source), [TOOL])
        folder = self.path / "bundles"
        folder.mkdir(exist_ok=True)
        write(made, supply, folder, called, part_size=part_size, finish=lambda _: None, emit=ignore, jobs=jobs)
        return Found.at(folder / called)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path, LayoutStore.ensure(tmp_path / "store"))
    made.image("first:1", seed=1)
    made.image("second:1", seed=2, filler=100_000)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def joined(found: Found) -> bytes:
    return b"".join((found.folder / part.name).read_bytes() for part in found.bundle.parts)


def damaged(found: Found, *only: str) -> tuple[Damage, ...]:
    return check_parts(BundleStore(found), only, emit=ignore)


# -- writing ------------------------------------------------------------------------------------------------------


def test_parts_have_exactly_their_size_and_make_one_plain_archive(shop: Shop, tmp_path: Path) -> None:
    found = shop.write()
    sizes = [(found.folder / part.name).stat().st_size for part in found.bundle.parts]
    assert set(sizes[:-1]) == {PART}
    assert 0 < sizes[-1] <= PART
    assert [part.name for part in found.bundle.parts] == [f"out.tar.{number:03}" for number in range(1, len(sizes) + 1)]
    whole = tmp_path / "whole.tar"
    whole.write_bytes(joined(found))
    store = open_oci_archive(whole)
    for name, image in shop.images.items():
        assert store.resolve(name) == replace(image.root, annotations=store.resolve(name).annotations)
        for layer in image.manifest.layers:
            assert b"".join(store.read(layer)) == image.data[layer.digest]
    assert {"first:1", "second:1"} <= set(open_docker_archive(whole).tags())
    with tarfile.open(whole) as tar:
        members = tar.getmembers()
    assert members[0].name == "tool/readme"
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}


def test_one_part_where_no_size_is_given(shop: Shop) -> None:
    found = shop.write(part_size=None)
    assert sorted(contents(found.folder)) == ["out.bundle.json", "out.tar"]


def test_the_same_things_give_the_same_bytes(shop: Shop) -> None:
    first = contents(shop.write().folder)
    shutil.rmtree(shop.path / "bundles")
    assert contents(shop.write().folder) == first


def test_parts_of_an_earlier_run_do_not_stay(shop: Shop) -> None:
    many = shop.write(part_size=30_000)
    (many.folder / "out.bundle.json.sig").write_text("of the earlier one")
    (many.folder / "out.tar").write_text("of one before that")
    (many.folder / "outer.tar.001").write_text("of somebody else")
    few = shop.write(part_size=150_000)
    expected = {part.name for part in few.bundle.parts} | {"out.bundle.json", "outer.tar.001"}
    assert set(contents(few.folder)) == expected
    assert damaged(few) == ()


def test_every_blob_is_there_once(shop: Shop) -> None:
    shop.image("third:1", seed=1, layers=3)
    found = shop.write()
    blobs = [blob.digest for blob in found.bundle.blobs]
    assert len(blobs) == len(set(blobs))
    assert shop.images["first:1"].manifest.layers[0].digest in found.bundle.contents["third:1"]
    payload = sum(blob.size for blob in (*found.bundle.blobs, *found.bundle.manifests))
    assert found.bundle.size < payload * 1.01 + 30_000


def test_two_things_of_one_name_are_refused(shop: Shop) -> None:
    with pytest.raises(Unplannable, match=r"first:1"):
        draft([*shop.things(), *shop.things("first:1")], (), {}, tool="t")


class Failing:
    """A store that has read all that it gives after so many blobs. `read_blobs` are those that were asked for."""

    def __init__(self, store: Store, after: int, error: Exception) -> None:
        self.store, self.after, self.error = store, after, error
        self.read_blobs: list[str] = []
        self.label = store.label
        self.resolve, self.manifest, self.has, self.close = store.resolve, store.manifest, store.has, store.close

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        self.read_blobs.append(descriptor.digest)
        if len(self.read_blobs) > self.after:
            raise self.error
        return self.store.read(descriptor)


def test_after_a_network_that_failed_only_the_rest_is_read(shop: Shop) -> None:
    whole = contents(shop.write().folder)
    shutil.rmtree(shop.path / "bundles")
    failing = Failing(shop.store, 3, Unreachable("gone"))
    with pytest.raises(Unreachable):
        shop.write(source=failing, jobs=1)  # type: ignore[arg-type]
    assert [file.name for file in (shop.path / "bundles").iterdir()] == [".out.bundle.part"]
    again = Failing(shop.store, 100, Unreachable("gone"))
    assert contents(shop.write(source=again).folder) == whole  # type: ignore[arg-type]
    assert len(again.read_blobs) <= len(survey(shop.store, shop.images["first:1"].root).blobs) * 2 - 3
    assert not set(again.read_blobs) & set(failing.read_blobs[:3])


def test_what_was_begun_and_changed_since_is_written_anew(shop: Shop) -> None:
    whole = contents(shop.write().folder)
    shutil.rmtree(shop.path / "bundles")
    with pytest.raises(Unreachable):
        shop.write(source=Failing(shop.store, 3, Unreachable("gone")))  # type: ignore[arg-type]
    for part in (shop.path / "bundles/.out.bundle.part").glob("out.tar.*"):
        data = bytearray(part.read_bytes())
        data[::5000] = bytes(len(data[::5000]))
        part.write_bytes(data)
    assert contents(shop.write().folder) == whole


def test_after_any_other_failure_nothing_is_left(shop: Shop) -> None:
    with pytest.raises(Corrupt):
        shop.write(source=Failing(shop.store, 2, Corrupt("bad")))  # type: ignore[arg-type]
    assert list((shop.path / "bundles").iterdir()) == []


def test_a_bundle_that_is_there_stays_if_the_next_fails(shop: Shop) -> None:
    before = contents(shop.write("first:1").folder)
    with pytest.raises(Corrupt):
        shop.write(source=Failing(shop.store, 2, Corrupt("bad")))  # type: ignore[arg-type]
    assert contents(shop.path / "bundles") == before


def test_two_processes_do_not_write_one_bundle(shop: Shop) -> None:
    place = shop.path / "bundles/.out.bundle.part"
    place.mkdir(parents=True)
    with subprocess.Popen(
        ["flock", "-o", place / "lock", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(Unplannable, match="another process"):
            shop.write()
        subprocess.run(["pkill", "-P", str(other.pid)], check=True)
        other.wait()
    assert damaged(shop.write()) == ()


@pytest.mark.parametrize(("size", "part", "sizes"), [(10, None, [10]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3])])
def test_cutting(size: int, part: int | None, sizes: list[int]) -> None:
    slices = cut("n", size, part)
    assert [one.size for one in slices] == sizes
    assert [one.start for one in slices] == [sum(sizes[:number]) for number in range(len(sizes))]


def test_more_than_999_parts_sort_by_their_names() -> None:
    names = [one.name for one in cut("n", 1200, 1)]
    assert names == sorted(names)
    assert names[0] == "n.tar.0001"


@pytest.mark.parametrize(
    ("text", "size"), [("700MB", 700_000_000), ("4GiB", 4 << 30), ("1.5 GB", 1_500_000_000), ("70000", 70_000)]
)
def test_sizes_of_parts(text: str, size: int) -> None:
    assert _bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "many", "10", "-4GB", "4 parsecs"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(Usage):
        _bytes_of(text)


# -- reading, and damage ------------------------------------------------------------------------------------------


def load(found: Found, into: Path) -> LayoutStore:
    """Bring everything into a layout as `bundle load` does."""
    from composer.bundling.loading import load as bring
    from composer.network import session
    from composer.network.routes import Routes
    from composer.oci.credentials import Credentials
    from composer.oci.transports import Access
    from composer.pipeline import Workplace

    access = Access(
        session=lambda: session(Routes()),
        credentials=Credentials(files=()),
        insecure=frozenset(),
        scratch=into,
        emit=ignore,
    )
    place = Workplace(cache=into / "cache", access=access, jobs=4, epoch=None, knowledge=None, emit=ignore)
    bring(found, f"oci:{into / 'layout'}", place, into=None, trust=None)
    return LayoutStore(into / "layout")


def test_images_are_read_from_parts_as_they_lie(shop: Shop, tmp_path: Path) -> None:
    found = shop.write(part_size=9_999)
    layout = load(found, tmp_path / "far")
    assert layout.tags() == ("first:1", "second:1")
    for name, image in shop.images.items():
        assert layout.resolve(name).digest == image.root.digest
        for layer in image.manifest.layers:
            assert b"".join(layout.read(layer)) == image.data[layer.digest]


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_one_flipped_byte_anywhere_is_refused_by_its_part(shop: Shop, tmp_path: Path) -> None:
    found = shop.write()
    places = range(0, found.bundle.size, 4_999)
    for number, place in enumerate([*places, *range(1024, 4096, 256), found.bundle.size - 1]):
        part = found.bundle.parts[place // PART]
        flip(found.folder / part.name, place % PART)
        far = tmp_path / f"far-{number}"
        with pytest.raises(Corrupt) as raised:
            load(found, far)
        told = [one.name for one in found.bundle.parts if one.name in raised.value.message]
        assert told == [part.name], f"byte {place}"
        assert LayoutStore(far / "layout").tags() == ()
        flip(found.folder / part.name, place % PART)
        shutil.rmtree(far, ignore_errors=True)
    assert load(found, tmp_path / "far").tags() == ("first:1", "second:1")


def gone(part: Path, other: Path) -> None:
    part.unlink()


def shorter(part: Path, other: Path) -> None:
    os.truncate(part, part.stat().st_size - 1)


def longer(part: Path, other: Path) -> None:
    os.truncate(part, part.stat().st_size + 1)


def flipped(part: Path, other: Path) -> None:
    flip(part, part.stat().st_size // 2)


def copied_over(part: Path, other: Path) -> None:
    part.write_bytes(other.read_bytes())


def renamed(part: Path, other: Path) -> None:
    part.rename(part.with_name(f"{part.name} (1)"))


@pytest.mark.parametrize("harm", [gone, shorter, longer, flipped, copied_over, renamed])
def test_verify_names_exactly_the_bad_part(shop: Shop, harm: Callable[[Path, Path], None]) -> None:
    found = shop.write()
    names = [part.name for part in found.bundle.parts]
    for number, name in enumerate(names):
        path = found.folder / name
        good = path.read_bytes()
        other = found.folder / names[(number + 1) % len(names)]
        affected = items_in(found, number)
        harm(path, other)
        told = damaged(found)
        assert [one.part for one in told] == [name]
        assert told[0].items == affected
        assert [one.part for one in damaged(found, name)] == [name]
        assert damaged(found, names[number - 1]) == ()
        if harm is renamed:
            assert f"{name} (1) has its bytes" in told[0].wrong
            (found.folder / f"{name} (1)").unlink()
        if harm is copied_over and number + 1 < len(names) - 1:
            assert told[0].wrong == f"it has the bytes of {other.name}"
        path.write_bytes(good)
        assert damaged(found) == (), "replacing that part alone heals the bundle"


def test_parts_that_only_have_other_names_are_named_back(shop: Shop) -> None:
    found = shop.write()
    names = [part.name for part in found.bundle.parts]
    for name in names:
        (found.folder / name).rename(found.folder / f"{name} (1)")
    hint = refused(list(damaged(found))).hint or ""
    subprocess.run(hint, shell=True, check=True)
    assert damaged(found) == ()


def items_in(found: Found, number: int) -> tuple[str, ...]:
    """The images that have bytes in a part, worked out from the archive itself."""
    hit = set()
    with tarfile.open(fileobj=io.BytesIO(joined(found))) as tar:
        for member in tar.getmembers():
            first, last = member.offset_data // PART, (member.offset_data + max(member.size, 1) - 1) // PART
            if first <= number <= last:
                hit.add(member.name.rpartition("/")[2])
    return tuple(
        item.name
        for item in found.bundle.items
        if any(digest.removeprefix("sha256:") in hit for digest in found.bundle.contents[item.name])
    )


def test_parts_are_verified_about_as_fast_as_bytes_are_hashed(shop: Shop) -> None:
    """On two cores two parts are hashed at once; here it is enough that nothing much is done beside hashing."""
    shop.image("large:1", filler=30_000_000, seed=9)
    found = shop.write("large:1", part_size=4_000_000)
    began = time.thread_time()
    for part in found.bundle.parts:
        sha256((found.folder / part.name).read_bytes())
    plain = time.thread_time() - began
    began = time.process_time()
    assert damaged(found) == ()
    assert time.process_time() - began < 2 * plain + 0.1


def test_what_means_a_bundle(tmp_path: Path) -> None:
    for name in ("b", "b.tar", "b.tar.001", "b.tar.1000", "b.bundle.json"):
        assert document_of(tmp_path / name) == tmp_path / "b.bundle.json"
    assert [is_part(Path(name)) for name in ("b", "b.tar", "b.tar.002", "b.bundle.json")] == [False, True, True, False]
    with pytest.raises(NotFound, match="no bundle"):
        Found.at(tmp_path / "b")
    for nameless in (".", "..", "/", ""):
        with pytest.raises(NotFound, match="is a folder, and names no bundle in it"):
            document_of(Path(nameless))


def test_names_in_a_bundle_that_a_terminal_would_obey(shop: Shop) -> None:
    found = shop.write()
    found.path.write_bytes(
        rewritten(found, lambda document: document["items"][0].update(name="\x1b[2Jx", platforms=["\x1b]0;y\x07"]))  # type: ignore[index]
    )
    read = Found.at(found.path)
    shown = io.StringIO()
    terminal = Console(file=shown, width=200)
    loaded = Loaded(name=read.bundle.items[0].name, kind="composed", place="here", digest=read.bundle.items[0].digest)
    outcome = Outcome(signer=None, loaded=(loaded,), left=(), recipes=(), rules=None)
    for one in (*bundle_text(read.bundle, read.path), *loaded_text(outcome, (), "")):
        terminal.print(one)
    assert "\x1b" not in shown.getvalue()
    assert "\x07" not in shown.getvalue()


# -- the document -------------------------------------------------------------------------------------------------


def rewritten(found: Found, change: Callable[[dict[str, object]], object]) -> bytes:
    document = json.loads(found.raw)
    document.pop("checksum")
    change(document)
    return json.dumps({**document, "checksum": sha256(canonical_json(document))}).encode()


def test_the_document_survives_its_own_spelling(shop: Shop) -> None:
    found = shop.write()
    assert parse(found.bundle.raw(), "x") == found.bundle
    assert rewritten(found, lambda document: None) != found.raw
    assert parse(rewritten(found, lambda document: None), "x") == found.bundle


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["parts"][0].update(name="../../etc/passwd"),
        lambda document: document["parts"][0].update(name=".."),
        lambda document: document["parts"][0].update(size=1),
        lambda document: document["parts"].clear(),
        lambda document: document["blobs"][0].update(offset=document["size"]),
        lambda document: document["blobs"][0].update(offset=-1),
        lambda document: document["blobs"][0].update(digest="sha256:short"),
        lambda document: document["members"][0].update(path="/etc/passwd"),
        lambda document: document.update(schema=2),
        lambda document: document.update(more=1),
    ],
)
def test_documents_that_make_no_sense_are_refused(shop: Shop, change: Callable[[dict[str, object]], object]) -> None:
    with pytest.raises(Corrupt):
        parse(rewritten(shop.write(), change), "x")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000])
def test_files_that_are_no_documents(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        parse(raw, "x")


def test_a_document_that_was_changed_is_refused(shop: Shop) -> None:
    found = shop.write()
    for place in range(0, len(found.raw), 97):
        changed = bytearray(found.raw)
        changed[place] ^= 1
        with pytest.raises(Corrupt):
            parse(bytes(changed), "x")


def test_a_document_of_other_parts_is_told(shop: Shop, tmp_path: Path) -> None:
    """Offsets that lead elsewhere: every part is whole, and yet nothing of it is believed."""
    found = shop.write()
    found.path.write_bytes(
        rewritten(found, lambda document: document["blobs"][0].update(offset=document["blobs"][0]["offset"] - 512))  # type: ignore[index]
    )
    with pytest.raises(Corrupt):
        load(Found.at(found.path), tmp_path / "far")
    assert LayoutStore(tmp_path / "far/layout").tags() == ()


# -- only what is lacking -----------------------------------------------------------------------------------------


def test_what_is_known_stays_out_and_is_needed(shop: Shop, tmp_path: Path) -> None:
    first = shop.write("first:1")
    load(first, tmp_path / "far")
    known = known_by(first.path)
    assert set(known) == {blob.digest for blob in first.bundle.blobs}
    made = picture(filler=200_000, seed=1, layers=3)
    put(shop.store, made, None)
    shop.images["third:1"] = made
    delta = shop.write("third:1", called="delta", known=known)
    assert not {blob.digest for blob in delta.bundle.blobs} & set(known)
    shared = {layer.digest for layer in made.manifest.layers} & set(known)
    assert {need.digest for need in delta.bundle.needs} == shared
    assert {need.items for need in delta.bundle.needs} == {("third:1",)}
    assert {need.at for need in delta.bundle.needs} == {("bundle:first:1",)}
    assert json.loads(tar_member(delta, "manifest.json")) == [], "docker load would fail halfway"
    layout = load(delta, tmp_path / "far")
    for layer in made.manifest.layers:
        assert b"".join(layout.read(layer)) == made.data[layer.digest]


def tar_member(found: Found, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(joined(found))) as tar:
        file = tar.extractfile(name)
        assert file
        return file.read()


def test_a_place_that_lacks_what_is_needed_is_told_all_of_it(shop: Shop, tmp_path: Path) -> None:
    known = known_by(shop.write("first:1").path)
    delta = shop.write(called="delta", known=known)
    with pytest.raises(NotFound) as raised:
        load(delta, tmp_path / "far")
    for need in delta.bundle.needs:
        assert need.digest in raised.value.message
    assert not (tmp_path / "far").exists()


def test_inventories_are_read_back(tmp_path: Path) -> None:
    digest = sha256(b"x")
    made = Inventory(places=("docker://h.example/a",), sizes={digest: 1}, at={digest: ("docker://h.example/a",)})
    made.write(tmp_path / "have.json")
    assert known_by(tmp_path / "have.json") == {digest: ("docker://h.example/a",)}
    assert [file.name for file in tmp_path.iterdir()] == ["have.json"]
    (tmp_path / "broken.json").write_text('{"kind": "tricompose-inventory", "blobs": [1]}')
    (tmp_path / "none.json").write_text("{")
    for name in ("broken.json", "none.json"):
        with pytest.raises(Corrupt):
            known_by(tmp_path / name)


def test_what_only_a_base_has_need_not_be_there(shop: Shop, tmp_path: Path) -> None:
    """An image of which only the manifest is wanted has its layers where others bring them, and else says so."""
    lower = shop.images["first:1"]
    config = Descriptor.of(b'{"architecture":"amd64","os":"linux"}', lower.manifest.config.media_type)
    shop.store.write(config, lambda: iter([b'{"architecture":"amd64","os":"linux"}']))
    slight = make_manifest(OCI_MANIFEST, config, lower.manifest.layers[:1])
    shop.store.publish(slight.raw, OCI_MANIFEST, "slight")

    def items(*names: str) -> Mapping[str, tuple[str, ...]]:
        thing = Thing(
            name="base", kind=kinds.BASE, contents=survey(shop.store, slight.descriptor), source=shop.store, slight=True
        )
        return {one.name: one.lacks for one in draft([thing, *shop.things(*names)], (), {}, tool="t").bundle.items}

    assert items("first:1")["base"] == ()
    assert items("second:1")["base"] == (lower.manifest.layers[0].digest,)


# -- signatures ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    lines = []
    for name in ("mine", "yours"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        lines.append(f"{name}@example.com {(folder / f'{name}.pub').read_text()}")
    (folder / "both").write_text("".join(lines))
    (folder / "only-yours").write_text(lines[1])
    (folder / "other-use").write_text(lines[0].replace(" ssh-", ' namespaces="git" ssh-', 1))
    return folder


def test_a_signature_is_over_the_document(shop: Shop, keys: Path) -> None:
    found = shop.write()
    assert require_signature(found, None) is None
    with pytest.raises(Denied, match="not signed"):
        require_signature(found, Trust(allowed=keys / "both"))
    sign(found.path, keys / "mine")
    assert require_signature(found, None) is None
    assert require_signature(found, Trust(allowed=keys / "both")) == "mine@example.com"
    assert require_signature(found, Trust(allowed=keys / "both", signer="mine@example.com")) == "mine@example.com"
    assert require_signature(found, Trust(key=keys / "mine.pub")) == str(keys / "mine.pub")
    refusing = [
        Trust(allowed=keys / "only-yours"),
        Trust(allowed=keys / "both", signer="yours@example.com"),
        Trust(allowed=keys / "other-use"),
        Trust(key=keys / "yours.pub"),
    ]
    for trust in refusing:
        with pytest.raises(Denied):
            require_signature(found, trust)
    with pytest.raises(NotFound, match="private"):
        require_signature(found, Trust(key=keys / "mine"))
    with pytest.raises(NotFound, match=r"there is no file .*nobody"):
        require_signature(found, Trust(allowed=keys / "nobody"))


def test_a_signature_of_other_bytes_is_refused_whoever_asks(shop: Shop, keys: Path) -> None:
    found = shop.write()
    sign(found.path, keys / "mine")
    other = replace(found, raw=rewritten(found, lambda document: document.update(tool="another")))
    for trust in (None, Trust(allowed=keys / "both"), Trust(key=keys / "mine.pub")):
        with pytest.raises(Corrupt):
            require_signature(other, trust)
    found.signature.write_text("-----BEGIN SSH SIGNATURE-----\nnonsense\n")
    with pytest.raises(Corrupt):
        require_signature(found, None)


def test_a_key_that_is_none(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    with pytest.raises(Denied):
        sign(shop.write().path, tmp_path / "key")
    with pytest.raises(NotFound):
        sign(shop.write().path, tmp_path / "absent")


# -- files --------------------------------------------------------------------------------------------------------


def piece(path: str, data: bytes, mode: int = 0o644) -> Piece:
    return Piece(path=path, source=data, size=len(data), digest=sha256(data), mode=mode)


def test_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    pieces = [piece("a/b.txt", b"text"), piece("run", b"#!", 0o755), piece("a/same", b"text", 0o444)]
    made, store = make_artifact("application/x", pieces, ["empty/1"], {"note": "yes"})
    assert isinstance(made.root, Manifest)
    lay_out(made.root, store, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*")}
    assert sorted(found) == ["a", "a/b.txt", "a/same", "empty", "empty/1", "run"]
    assert found["a/b.txt"].read_bytes() == b"text"
    assert [found[name].stat().st_mode & 0o777 for name in ("a/b.txt", "run", "a/same")] == [0o644, 0o755, 0o444]
    lay_out(made.root, store, tmp_path / "out")
    found["run"].write_bytes(b"mine")
    with pytest.raises(NoRoom, match="another file"):
        lay_out(made.root, store, tmp_path / "out")
    assert found["run"].read_bytes() == b"mine"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a//b", "./a", "a/."])
def test_files_do_not_leave_their_folder(path: str) -> None:
    made, _ = make_artifact("application/x", [piece(path, b"x")], [], {})
    assert isinstance(made.root, Manifest)
    with pytest.raises(Corrupt):
        files_of(made.root)
    folders, _ = make_artifact("application/x", [piece("a", b"x")], [path], {})
    assert isinstance(folders.root, Manifest)
    with pytest.raises(Corrupt):
        folders_of(folders.root)


def test_files_of_others_stay_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    made, store = make_artifact("application/x", [piece("x", b"x")], [], {})
    assert isinstance(made.root, Manifest)
    (tmp_path / ".bundle-notes").write_text("mine")
    (tmp_path / ".bundle-0123456789abcdef").write_text("half")
    lay_out(made.root, store, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".bundle-notes", "x"]


def test_an_index_is_no_folder_of_files(shop: Shop) -> None:
    index = make_index(OCI_INDEX, [shop.images["first:1"].root])
    root = shop.store.publish(index.raw, OCI_INDEX, None)
    item = Item(name="recipe/x", kind=kinds.RECIPE, media_type=root.media_type, digest=root.digest, size=root.size)
    with pytest.raises(Corrupt, match="recipe/x"):
        manifest_of(shop.store, item)


def test_links_on_the_way_are_not_followed(tmp_path: Path) -> None:
    made, _ = make_artifact("application/x", [piece("a/x", b"x")], [], {})
    assert isinstance(made.root, Manifest)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoRoom, match="link"):
        require_free(made.root, tmp_path / "out")
    (tmp_path / "out/a").unlink()
    (tmp_path / "out/a").mkdir()
    (tmp_path / "out/a/x").symlink_to(tmp_path / "elsewhere/x")
    (tmp_path / "elsewhere/x").write_bytes(b"x")
    with pytest.raises(NoRoom):
        require_free(made.root, tmp_path / "out")


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"after")
    blob = Descriptor.of(b"befor", "x")
    with pytest.raises(Corrupt, match="changed while it was read"):
        list(FileStore({blob.digest: tmp_path / "f"}).read(blob))


# -- recipes ------------------------------------------------------------------------------------------------------


def test_a_recipe_goes_with_all_files_that_it_names(tmp_path: Path) -> None:
    base = tmp_path / "project/recipes"
    files = {
        "models/one/config.pbtxt": b"a",
        "models/one/1/model.py": b"b",
        "data/x.npy": b"c",
        "data/golden.npy": b"d",
        "data/golden.npy.json": b"e",
        "etc/motd": b"f",
        "needs.txt": b"numpy==1.26.4 --hash=sha256:" + b"0" * 64 + b"\n-r more.txt\n",
        "more.txt": b"",
        "ca.pem": b"g",
        "certs/h.example/client.key": b"secret",
        "other/unnamed": b"h",
    }
    for name, data in files.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_bytes(data)
    (tmp_path / "project/models/two/1").mkdir(parents=True)
    base.mkdir(exist_ok=True)
    (base / "mine.yaml").write_text(
        """
triton: "24.10"
backends: [python]
models: [{path: ../models}]
files: [{source: ../etc/motd, target: /etc/motd}, {source: /etc/hostname, target: /etc/x}]
packages: {pip: ["-r ../needs.txt"]}
network: {ca_bundle: ../ca.pem, certs_d: ../certs}
validate:
  checks:
    - id: a
      model: one
      request: {inputs: {X: {npy: ../data/x.npy}}}
      expect: {outputs: {Y: {golden: ../data/golden.npy}}}
"""
    )
    recipe = load_recipe(base / "mine.yaml", environ={})
    seen: list[Event] = []
    folder = folder_of(recipe, b"{}", seen.append)
    assert folder.recipe == "recipes/mine.yaml"
    named = {one.path for one in folder.pieces}
    kept = {name for name in files if not name.startswith(("other/", "certs/"))}
    assert named == kept | {"recipes/mine.yaml", "recipes/mine.lock.json"}
    assert "models/two/1" in folder.folders
    assert [one for one in seen if isinstance(one, Warned) and "/etc/hostname" in one.message]


def test_a_file_address_is_refused_with_its_place(tmp_path: Path) -> None:
    text = 'triton: "24.10"\nbackends: [python]\nmodels: [{name: a, source: "file:///x/model.onnx"}]\n'
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml:3:"):
        folder_of(load_recipe(tmp_path / "r.yaml", environ={}), b"{}", ignore)


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ("[]", "mine:latest"),
        ("['oci:out:24.10-slim']", "mine:24.10-slim"),
        ("['oci:out:x', 'docker://h.example:5000/tools/triton:1']", "tools/triton:1"),
        ("['docker-daemon:slim:2']", "slim:2"),
    ],
)
def test_what_composed_images_are_called(outputs: str, name: str) -> None:
    text = f'triton: "24.10"\nbackends: [python]\noutputs: {outputs}\n'
    assert kinds.composed_name(parse_recipe(text, path=Path("mine.yaml"), environ={})) == name


def test_what_upstreams_are_called() -> None:
    found = [kinds.name_of(parse_reference(one)) for one in ("docker://nvcr.io/nvidia/t:1", "oci:a/b/Up:x", "oci:b")]
    assert found == ["nvcr.io/nvidia/t:1", "up:x", "b:latest"]
    assert kinds.source_of(parse_reference("oci:/home/me/up:x")) == "oci:up:x"


# -- tricompose itself --------------------------------------------------------------------------------------------


def test_our_own_wheel_is_whole_and_always_the_same() -> None:
    name, data = own_wheel()
    assert own_wheel() == (name, data)
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        assert wheel.testzip() is None
        names = set(wheel.namelist())
        record = wheel.read(next(one for one in names if one.endswith("/RECORD"))).decode()
    assert {line.partition(",")[0] for line in record.splitlines()} == names
    package = Path(__file__).parents[2] / "composer"
    modules = {f"composer/{file.relative_to(package)}" for file in package.rglob("*.py")}
    assert modules <= names
    assert {"composer/templates/recipe.yaml.j2", "composer/recipes/quickstart.yaml", "composer/py.typed"} <= names
    assert not [one for one in names if "__pycache__" in one or "/models/add_sub" in one]


def test_slices_are_written_and_read_at_any_place(tmp_path: Path) -> None:
    slices = Slices(tmp_path, cut("n", 100, 7))
    slices.make()
    slices.write(5, bytes(range(90)))
    assert b"".join(slices.read(0, 100)) == bytes(5) + bytes(range(90)) + bytes(5)
    assert b"".join(slices.read(6, 3)) == bytes([1, 2, 3])
    (tmp_path / "n.tar.003").unlink()
    with pytest.raises(Corrupt, match=r"n\.tar\.003"):
        list(slices.read(0, 100))


# -- reports ------------------------------------------------------------------------------------------------------


def test_an_image_that_is_proved_again_has_the_report_it_had(tmp_path: Path) -> None:
    """Times differ from proof to proof, and a bundle of the same image must not."""
    first = report_of(tmp_path, b"recipe", "sha256:1", {"linux/amd64": passing()})
    assert json.loads(first)["ok"] is True
    again = report_of(tmp_path, b"recipe", "sha256:1", {"linux/amd64": long_winded()})
    assert again == first
    others = [
        report_of(tmp_path, *key, {"linux/amd64": long_winded()}) for key in ((b"r", "sha256:1"), (b"recipe", "2"))
    ]
    assert first not in others
