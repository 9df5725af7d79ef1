from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.errors import Corrupt, NoRoom, NotFound
from composer.events import Transferred, ignore
from composer.oci import layout as module
from composer.oci.copy import Held, Stack
from composer.oci.image import OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json, make_index
from composer.oci.layout import REF_NAME, LayoutStore, blob_path
from tests.images import Picture, picture, put


@pytest.fixture
def store(tmp_path: Path) -> LayoutStore:
    return LayoutStore.ensure(tmp_path / "layout")


def skopeo(*arguments: str) -> str:
    ran = subprocess.run(["skopeo", "--insecure-policy", *arguments], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def ingest(store: LayoutStore) -> list[Path]:
    return list((store.path / "ingest").iterdir())


# -- what others read and write ----------------------------------------------------------------


def test_skopeo_and_umoci_read_what_we_write(store: LayoutStore, tmp_path: Path) -> None:
    image = picture()
    put(store, image, "24.09")
    skopeo("copy", f"oci:{store.path}:24.09", f"dir:{tmp_path / 'copied'}")
    assert (tmp_path / "copied" / "manifest.json").read_bytes() == image.manifest.raw
    unpack = ["umoci", "unpack", "--rootless", "--image", f"{store.path}:24.09", str(tmp_path / "bundle")]
    subprocess.run(unpack, check=True)
    assert (tmp_path / "bundle/rootfs/layer-0").read_text() == "layer 0"


def test_skopeo_reads_docker_manifests_in_a_layout_when_it_is_given_no_tag(store: LayoutStore, tmp_path: Path) -> None:
    image = picture(family="docker")
    put(store, image, "24.09")
    skopeo("copy", f"oci:{store.path}", f"dir:{tmp_path / 'copied'}")
    assert (tmp_path / "copied" / "manifest.json").read_bytes() == image.manifest.raw


def test_we_read_what_skopeo_wrote(store: LayoutStore, tmp_path: Path) -> None:
    image = picture()
    put(store, image, "24.09")
    skopeo("copy", f"oci:{store.path}:24.09", f"oci:{tmp_path / 'theirs'}:again")
    theirs = LayoutStore(tmp_path / "theirs")
    assert theirs.resolve("again").digest == image.root.digest
    assert theirs.resolve("").digest == image.root.digest
    assert theirs.tags() == ("again",)


def test_we_read_and_extend_what_umoci_wrote(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    subprocess.run(["umoci", "init", "--layout", str(path)], check=True)
    subprocess.run(["umoci", "new", "--image", f"{path}:empty"], check=True)
    theirs = LayoutStore.ensure(path)
    assert theirs.resolve("empty").media_type == OCI_MANIFEST
    put(theirs, picture(), "ours")
    listed = subprocess.run(["umoci", "ls", "--layout", str(path)], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["empty", "ours"]


def test_a_layout_without_names_has_one_image(store: LayoutStore, tmp_path: Path) -> None:
    put(store, picture(), "24.09")
    skopeo("copy", f"oci:{store.path}:24.09", f"oci:{tmp_path / 'theirs'}")
    assert LayoutStore(tmp_path / "theirs").resolve("").digest == picture().root.digest


def test_a_name_in_a_nested_index_is_found(store: LayoutStore) -> None:
    image = picture()
    put(store, image, "24.09")
    inner = make_index(OCI_INDEX, [Descriptor.of(image.manifest.raw, OCI_MANIFEST)])
    named = inner.descriptor.to_json() | {"annotations": {REF_NAME: "deep"}}
    outer = canonical_json({"schemaVersion": 2, "manifests": [named]})
    for raw in (inner.raw, outer):
        store.publish(raw, OCI_INDEX, None)
    entry = Descriptor.of(outer, OCI_INDEX).to_json()
    (store.path / "index.json").write_bytes(canonical_json({"schemaVersion": 2, "manifests": [entry]}))
    assert store.resolve("deep").digest == inner.descriptor.digest
    assert store.resolve("").digest == Descriptor.of(outer, OCI_INDEX).digest


# -- names -------------------------------------------------------------------------------------


def test_a_missing_layout_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no image layout at oci:.*/nowhere"):
        LayoutStore(tmp_path / "nowhere").resolve("24.09")
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_tag_names_the_nearest(store: LayoutStore) -> None:
    put(store, picture(), "24.09-py3")
    with pytest.raises(NotFound) as caught:
        store.resolve("24.09-py")
    assert caught.value.hint == "did you mean '24.09-py3'?"


def test_without_a_tag_two_images_are_too_many_unless_one_is_latest(store: LayoutStore) -> None:
    put(store, picture(), "a")
    put(store, picture(layers=3), "b")
    with pytest.raises(NotFound, match="2 images"):
        store.resolve("")
    put(store, picture(layers=4), "latest")
    assert store.resolve("") == store.resolve("latest")


def test_a_digest_names_an_image_that_is_not_listed(store: LayoutStore) -> None:
    image = picture(family="docker")
    put(store, image, None)
    assert store.resolve(image.root.digest) == image.root
    with pytest.raises(NotFound, match="not an image"):
        store.resolve(image.manifest.layers[0].digest)
    with pytest.raises(NotFound, match="no image"):
        store.resolve("sha256:" + "0" * 64)


def test_an_image_without_media_type_is_known_by_its_shape(store: LayoutStore) -> None:
    document = json.loads(picture().manifest.raw)
    del document["mediaType"]
    raw = canonical_json(document)
    store.publish(raw, OCI_MANIFEST, None)
    assert store.resolve(Descriptor.of(raw, "").digest).media_type == OCI_MANIFEST


def test_a_tag_moves_and_goes_and_foreign_words_stay(store: LayoutStore) -> None:
    put(store, picture(), "a")
    index = json.loads((store.path / "index.json").read_bytes())
    (store.path / "index.json").write_bytes(canonical_json(index | {"annotations": {"theirs": "kept"}}))
    put(store, picture(layers=3), "a")
    put(store, picture(), "b")
    assert store.resolve("a").digest == picture(layers=3).root.digest
    assert len(json.loads((store.path / "index.json").read_bytes())["manifests"]) == 2
    store.remove("a")
    assert store.tags() == ("b",)
    assert json.loads((store.path / "index.json").read_bytes())["annotations"] == {"theirs": "kept"}
    with pytest.raises(NotFound):
        store.remove("a")


# -- bytes -------------------------------------------------------------------------------------


def test_a_flipped_bit_is_corrupt_and_writing_heals_it(store: LayoutStore) -> None:
    image = picture()
    put(store, image, "a")
    layer = image.manifest.layers[0]
    file = store.path / blob_path(layer.digest)
    good = file.read_bytes()
    file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(Corrupt, match=layer.digest):
        list(store.read(layer))
    store.write(layer, lambda: iter([good]))
    assert b"".join(store.read(layer)) == good


def test_what_is_written_must_be_what_was_named(store: LayoutStore) -> None:
    named = Descriptor.of(b"right", "x")
    for wrong in ([b"wrong"], [b"righ"], [b"right", b"er"]):
        with pytest.raises(Corrupt):
            store.write(named, lambda wrong=wrong: iter(wrong))
    assert not store.has(named)
    assert ingest(store) == []


def test_a_blob_that_is_not_there_is_not_found(store: LayoutStore) -> None:
    with pytest.raises(NotFound, match="has no blob"):
        next(iter(store.read(Descriptor.of(b"x", "x"))))


def test_an_incoming_blob_is_there_when_committed_and_never_else(store: LayoutStore) -> None:
    blob = Descriptor.of(b"hello", "x")
    with store.incoming() as incoming:
        incoming.write(b"hel")
        incoming.write(memoryview(b"lo"))
        assert not store.has(blob)
        incoming.commit(blob.digest, 5)
    assert store.has(blob)
    other = Descriptor.of(b"other", "x")
    with store.incoming() as incoming:
        incoming.write(b"oth")
        with pytest.raises(Corrupt, match="3 bytes"):
            incoming.commit(other.digest, 5)
    assert not store.has(other)
    assert ingest(store) == []


def test_closing_removes_what_a_hanging_thread_had_begun(store: LayoutStore) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hanging() -> Iterator[bytes]:
        yield b"begun"
        begun.set()
        go_on.wait()

    thread = threading.Thread(target=lambda: store.write(Descriptor.of(b"begun", "x"), hanging), daemon=True)
    thread.start()
    assert begun.wait(10)
    assert len(ingest(store)) == 1
    store.close()
    assert ingest(store) == []
    threading.excepthook, hook = lambda _: None, threading.excepthook
    go_on.set()
    thread.join()
    threading.excepthook = hook
    assert not store.has(Descriptor.of(b"begun", "x"))


# -- several at once, and crashes --------------------------------------------------------------


WRITER = """
import sys
from pathlib import Path
from composer.oci.layout import LayoutStore
from composer.oci.image import OCI_INDEX, make_index, canonical_json
store = LayoutStore.ensure(Path(sys.argv[1]))
for number in range(20):
    raw = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": {"n": number}})
    store.publish(raw, OCI_INDEX, f"{sys.argv[2]}-{number}")
"""


def test_processes_lose_no_tag_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert len(LayoutStore(path).tags()) == 80
    assert ingest(LayoutStore(path)) == []


CRASHER = """
import os, sys
from pathlib import Path
from composer.oci.layout import LayoutStore
incoming = LayoutStore.ensure(Path(sys.argv[1])).incoming()
incoming.__enter__().write(b"half")
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_writer_left_is_swept_and_a_living_one_is_left_alone(store: LayoutStore) -> None:
    subprocess.run([sys.executable, "-c", CRASHER, str(store.path)], check=False)
    assert len(ingest(store)) == 1
    with store.incoming() as alive:
        alive.write(b"still here")
        LayoutStore.ensure(store.path)
        assert len(ingest(store)) == 1
        alive.commit(Descriptor.of(b"still here", "x").digest, 10)
    assert store.has(Descriptor.of(b"still here", "x"))


# -- room --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_said_before_the_first_byte(small_disk: Path, store: LayoutStore) -> None:
    big = picture(filler=1 << 20)
    put(store, big, "big")
    events: list[object] = []
    with pytest.raises(NoRoom, match=r"needs \d+ bytes, and \d+ are free"):
        LayoutStore(small_disk / "out").receive(store, big.root, "big", emit=events.append, jobs=2)
    assert events == []


def test_a_disk_that_fills_up_names_the_place_and_leaves_nothing(small_disk: Path) -> None:
    store = LayoutStore.ensure(small_disk / "out")
    noise = os.urandom(1_000_000)
    with pytest.raises(NoRoom, match=f"no space left for {small_disk}.*bytes are free"):
        store.write(Descriptor.of(noise, "x"), lambda: iter([noise]))
    assert ingest(store) == []


def test_a_read_only_place_is_no_room(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], check=True)
    try:
        with pytest.raises(NoRoom, match="may not be written: Read-only"):
            LayoutStore.ensure(tmp_path / "out")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_blobs_are_not_strewn_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(NoRoom, match="holds files"):
        LayoutStore.ensure(tmp_path)
    with pytest.raises(NoRoom, match="in the way"):
        LayoutStore.ensure(tmp_path / "thesis.tex")
    assert [child.name for child in tmp_path.iterdir()] == ["thesis.tex"]


# -- receiving ---------------------------------------------------------------------------------


def actions(events: list[object]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for event in events:
        assert isinstance(event, Transferred)
        found.setdefault(event.action, set()).add(event.digest)
    return found


def blobs(image: Picture) -> set[str]:
    return {image.manifest.config.digest, *(layer.digest for layer in image.manifest.layers)}


def test_a_layout_of_the_same_disk_is_linked_not_copied(store: LayoutStore, tmp_path: Path) -> None:
    image = picture()
    put(store, image, "a")
    target = LayoutStore(tmp_path / "target")
    events: list[object] = []
    assert target.receive(Stack(Held({}), store), image.root, "b", emit=events.append, jobs=2) == image.root
    assert actions(events) == {"mounted": blobs(image)}
    layer = blob_path(image.manifest.layers[0].digest)
    assert (store.path / layer).samefile(target.path / layer)
    events.clear()
    target.receive(store, image.root, "b", emit=events.append, jobs=2)
    assert actions(events) == {"skipped": blobs(image)}


def test_a_corrupt_blob_is_not_linked(store: LayoutStore, tmp_path: Path) -> None:
    image = picture()
    put(store, image, "a")
    layer = store.path / blob_path(image.manifest.layers[0].digest)
    layer.write_bytes(layer.read_bytes()[:-1] + b"!")
    with pytest.raises(Corrupt):
        LayoutStore(tmp_path / "target").receive(store, image.root, "b", emit=ignore, jobs=2)
    with pytest.raises(NotFound):
        LayoutStore(tmp_path / "target").resolve("b")


def test_across_file_systems_bytes_are_copied(store: LayoutStore, small_disk: Path) -> None:
    image = picture()
    put(store, image, "a")
    events: list[object] = []
    LayoutStore(small_disk / "out").receive(store, image.root, "b", emit=events.append, jobs=2)
    assert set(actions(events)) == {"copied"}


def test_links_refused_by_the_file_system_are_no_error(
    store: LayoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "protected_hardlinks")

    monkeypatch.setattr(module.os, "link", refuse)
    put(store, picture(), "a")
    target = LayoutStore(tmp_path / "target")
    target.receive(store, picture().root, "b", emit=ignore, jobs=1)
    assert target.resolve("b").digest == store.resolve("a").digest


def test_an_interruption_while_a_file_is_begun_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LayoutStore.ensure(tmp_path / "layout")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt), store.incoming():
        pass
    monkeypatch.undo()
    assert list((tmp_path / "layout/ingest").iterdir()) != []
    store.close()
    assert list((tmp_path / "layout/ingest").iterdir()) == []
