from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from composer.errors import Corrupt, NotFound, Unplannable
from composer.events import Transferred, ignore
from composer.oci.copy import Held, Stack, copy, run_all, transfer
from composer.oci.image import OCI_INDEX, Descriptor, Index, Platform, make_index, parse_manifest
from composer.oci.layout import LayoutStore
from composer.oci.store import Store
from tests.images import AMD64, Picture, entry, index_of, picture, put

ARM64 = Platform(os="linux", architecture="arm64")
RISCV = Platform(os="linux", architecture="riscv64")
UNKNOWN = Platform(os="unknown", architecture="unknown")


class Watched:
    """A real layout, with an eye on what is read and written and in which order, and a hand in what is read."""

    def __init__(self, inner: LayoutStore) -> None:
        self.inner = inner
        self.label = inner.label
        self.seen: list[tuple[str, str]] = []
        self.meddle: Callable[[Descriptor, Iterator[bytes]], Iterator[bytes]] = lambda _, chunks: chunks
        self.read_manifests: list[str] = []
        self.resolve, self.close = inner.resolve, inner.close

    def manifest(self, descriptor: Descriptor) -> bytes:
        self.read_manifests.append(descriptor.digest)
        return self.inner.manifest(descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        self.seen.append(("has", descriptor.digest))
        return self.inner.has(descriptor)

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        self.seen.append(("read", descriptor.digest))
        return self.meddle(descriptor, self.inner.read(descriptor))

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        self.inner.write(descriptor, content)
        self.seen.append(("write", descriptor.digest))

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        return False

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        self.seen.append(("publish", Descriptor.of(raw, media_type).digest))
        return self.inner.publish(raw, media_type, name)

    def did(self, what: str) -> list[str]:
        return [digest for action, digest in self.seen if action == what]


@pytest.fixture
def source(tmp_path: Path) -> Watched:
    return Watched(LayoutStore.ensure(tmp_path / "source"))


@pytest.fixture
def sink(tmp_path: Path) -> Watched:
    return Watched(LayoutStore.ensure(tmp_path / "sink"))


@pytest.fixture
def target(tmp_path: Path) -> LayoutStore:
    return LayoutStore(tmp_path / "target")


def several(source: Watched, *images: tuple[Picture, Platform]) -> Index:
    for image, _ in images:
        put(source.inner, image, None)
    index = index_of(*images)
    source.inner.publish(index.raw, index.media_type, "all")
    return index


# -- what moves --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["oci", "docker"])
def test_the_digest_is_the_same_at_the_other_end(source: Watched, target: LayoutStore, family: str) -> None:
    image = picture(family=family)
    put(source.inner, image, "a")
    assert copy(source, "a", target, "b", platforms=None, emit=ignore, jobs=3) == image.root
    assert target.resolve("b").digest == image.root.digest
    assert target.manifest(image.root) == image.manifest.raw
    for blob in (image.manifest.config, *image.manifest.layers):
        assert b"".join(target.read(blob)) == image.data[blob.digest]


def test_manifests_come_after_all_blobs_and_the_root_last(source: Watched, sink: Watched) -> None:
    index = several(source, (picture(), AMD64), (picture(platform=ARM64, seed=1), ARM64))
    transfer(source, index.descriptor, sink, "x", emit=ignore, jobs=4)
    order = [action for action, _ in sink.seen if action in ("write", "publish")]
    assert order == ["write"] * (len(order) - 3) + ["publish"] * 3
    assert sink.did("publish")[-1] == index.descriptor.digest


def test_a_blob_listed_twice_moves_once(source: Watched, sink: Watched) -> None:
    index = several(source, (picture(), AMD64), (picture(environment=("A=1",)), ARM64))
    transfer(source, index.descriptor, sink, "x", emit=ignore, jobs=4)
    assert set(Counter(sink.did("write")).values()) == {1}
    assert len(sink.did("write")) == 4


def test_large_blobs_go_first(source: Watched, sink: Watched) -> None:
    image = picture(filler=100_000)
    put(source.inner, image, "a")
    transfer(source, image.root, sink, "x", emit=ignore, jobs=1)
    sizes = {blob.digest: blob.size for blob in (image.manifest.config, *image.manifest.layers)}
    written = [sizes[digest] for digest in sink.did("write")]
    assert written == sorted(written, reverse=True)


def test_what_is_there_is_skipped_and_every_byte_is_told(source: Watched, sink: Watched) -> None:
    image = picture(filler=3 << 20)
    put(source.inner, image, "a")
    first, second = image.manifest.layers
    sink.inner.write(second, lambda: iter([image.data[second.digest]]))
    events: list[Transferred] = []
    transfer(source, image.root, sink, "x", emit=events.append, jobs=2)  # type: ignore[arg-type]
    assert second.digest not in sink.did("write")
    assert [(event.action, event.done, event.total) for event in events if event.digest == second.digest] == [
        ("skipped", second.size, second.size)
    ]
    steps = [event.done for event in events if event.digest == first.digest]
    assert steps == sorted(steps)
    assert len(steps) > 2
    assert steps[-1] == first.size


# -- platforms ---------------------------------------------------------------------------------


def test_one_platform_of_an_index_is_that_manifest(source: Watched, target: LayoutStore) -> None:
    arm = picture(platform=ARM64, seed=1)
    several(source, (picture(), AMD64), (arm, ARM64))
    assert copy(source, "all", target, "x", platforms=[ARM64], emit=ignore, jobs=2).digest == arm.root.digest
    assert not target.has(picture().manifest.config)


def test_several_platforms_of_an_index_are_a_new_index(source: Watched, target: LayoutStore) -> None:
    images = [(picture(platform=platform, seed=n), platform) for n, platform in enumerate((AMD64, ARM64, RISCV))]
    several(source, *images)
    root = copy(source, "all", target, "x", platforms=[RISCV, AMD64], emit=ignore, jobs=2)
    index = parse_manifest(target.manifest(target.resolve("x")), OCI_INDEX)
    assert isinstance(index, Index)
    assert index.manifests == (entry(images[2][0], RISCV), entry(images[0][0], AMD64))
    assert root.digest == index.descriptor.digest


def test_an_index_is_copied_with_its_attestations(source: Watched, target: LayoutStore) -> None:
    attestation = picture(seed=7)
    index = several(source, (picture(), AMD64), (attestation, UNKNOWN))
    root = copy(source, "all", target, "x", platforms=None, emit=ignore, jobs=2)
    assert root == index.descriptor
    assert target.manifest(attestation.root) == attestation.manifest.raw


def test_a_platform_that_is_not_there_is_not_found(source: Watched, target: LayoutStore) -> None:
    several(source, (picture(), AMD64))
    put(source.inner, picture(), "plain")
    for name in ("all", "plain"):
        with pytest.raises(NotFound, match="arm64") as caught:
            copy(source, name, target, "x", platforms=[ARM64], emit=ignore, jobs=2)
        assert "linux/amd64" in str(caught.value.hint)
    assert copy(source, "plain", target, "x", platforms=[AMD64], emit=ignore, jobs=2).digest == picture().root.digest


# -- what goes wrong ---------------------------------------------------------------------------


def flipping(times: int, digest: str) -> Callable[[Descriptor, Iterator[bytes]], Iterator[bytes]]:
    left = [times]

    def meddle(descriptor: Descriptor, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if descriptor.digest != digest or not left[0]:
            return chunks
        left[0] -= 1
        return (bytes([chunk[0] ^ 1]) + chunk[1:] for chunk in chunks)

    return meddle


def test_a_blob_that_came_corrupt_once_is_read_again(source: Watched, sink: Watched) -> None:
    image = picture()
    put(source.inner, image, "a")
    source.meddle = flipping(1, image.manifest.layers[0].digest)
    transfer(source, image.root, sink, "x", emit=ignore, jobs=2)
    assert source.did("read").count(image.manifest.layers[0].digest) == 2
    assert b"".join(sink.inner.read(image.manifest.layers[0])) == image.data[image.manifest.layers[0].digest]


def test_a_blob_that_stays_corrupt_is_an_error_with_both_digests(source: Watched, sink: Watched) -> None:
    image = picture()
    put(source.inner, image, "a")
    source.meddle = flipping(9, image.manifest.layers[0].digest)
    with pytest.raises(Corrupt, match=rf"sha256:[0-9a-f]{{64}} where {image.manifest.layers[0].digest}"):
        transfer(source, image.root, sink, "x", emit=ignore, jobs=2)
    assert source.did("read").count(image.manifest.layers[0].digest) == 2
    assert sink.did("publish") == []


def test_the_first_error_ends_the_rest_even_one_that_hangs(source: Watched, sink: Watched) -> None:
    image = picture(layers=8, filler=1000)
    put(source.inner, image, "a")
    release = threading.Event()
    broken = image.manifest.layers[3].digest

    def meddle(descriptor: Descriptor, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if descriptor.digest == broken:
            raise NotFound("gone")
        release.wait(30)
        yield from chunks

    source.meddle = meddle
    started = time.monotonic()
    with pytest.raises(NotFound, match="gone"):
        transfer(source, image.root, sink, "x", emit=ignore, jobs=9)
    assert time.monotonic() - started < 5
    sink.close()
    assert not list((sink.inner.path / "ingest").iterdir())
    release.set()
    time.sleep(0.2)
    assert sink.did("publish") == []


def test_what_moves_when_an_error_comes_stops_moving(source: Watched, sink: Watched) -> None:
    image = picture(layers=2)
    put(source.inner, image, "a")
    pieces: list[float] = []

    def meddle(descriptor: Descriptor, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if descriptor.digest == image.manifest.layers[0].digest:
            time.sleep(0.1)
            raise NotFound("gone")
        for chunk in chunks:
            for byte in chunk:
                pieces.append(time.monotonic())
                time.sleep(0.02)
                yield bytes([byte])

    source.meddle = meddle
    with pytest.raises(NotFound, match="gone"):
        transfer(source, image.root, sink, "x", emit=ignore, jobs=3)
    ended = time.monotonic()
    time.sleep(0.3)
    assert pieces
    assert not [piece for piece in pieces if piece > ended]


def test_a_manifest_listed_twice_is_read_once(source: Watched, sink: Watched) -> None:
    image = picture()
    put(source.inner, image, None)
    index = make_index(OCI_INDEX, [image.root, image.root])
    source.inner.publish(index.raw, index.media_type, "twice")
    transfer(source, index.descriptor, sink, "x", emit=ignore, jobs=1)
    assert sink.did("publish") == [image.root.digest, index.descriptor.digest]
    assert source.read_manifests == [index.descriptor.digest, image.root.digest]


def test_work_that_was_not_begun_is_not_begun_after_an_error() -> None:
    begun: list[int] = []

    def task(number: int) -> None:
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        run_all([lambda n=n: task(n) for n in range(50)], jobs=1, stop=threading.Event())
    assert len(begun) < 50


def test_what_is_nearly_done_may_end_after_an_error() -> None:
    """What takes longer is told to stop: the error is not kept back for that."""
    stop, done, begun = threading.Event(), list[str](), threading.Barrier(3)

    def failing() -> None:
        begun.wait()
        raise ValueError("no")

    def soon() -> None:
        begun.wait()
        time.sleep(0.5)
        done.append("soon")

    def long() -> None:
        begun.wait()
        done.append("stopped" if stop.wait(60) else "long")

    began = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        run_all([failing, soon, long], jobs=3, stop=stop)
    assert done == ["soon", "stopped"]
    assert time.monotonic() - began < 10


def test_indexes_within_indexes_have_an_end(source: Watched, sink: Watched) -> None:
    root = put(source.inner, picture(), None)
    for _ in range(7):
        index = make_index(OCI_INDEX, [root])
        root = source.inner.publish(index.raw, index.media_type, None)
    assert transfer(source, root, sink, "x", emit=ignore, jobs=1) == root
    index = make_index(OCI_INDEX, [root])
    root = source.inner.publish(index.raw, index.media_type, None)
    with pytest.raises(Unplannable, match="8 deep"):
        transfer(source, root, sink, "y", emit=ignore, jobs=1)


INTERRUPTED = """
import sys, time
from pathlib import Path
from composer.events import ignore
from composer.oci.layout import LayoutStore
from tests.images import picture, put
from tests.unit.test_copy import Watched

source, target = Watched(LayoutStore.ensure(Path(sys.argv[1]))), LayoutStore.ensure(Path(sys.argv[2]))
image = picture(layers=4, filler=5_000_000)
put(source.inner, image, "a")

def slow(descriptor, chunks):
    for chunk in chunks:
        yield chunk
        sys.stdout.write("moving\\n")
        sys.stdout.flush()
        time.sleep(float(sys.argv[3]))

source.meddle = slow
try:
    target.receive(source, image.root, "x", emit=ignore, jobs=4)
finally:
    target.close()
"""


@pytest.mark.parametrize("pause", ["0.2", "60"])
def test_ctrl_c_ends_it_at_once_and_leaves_nothing_half_made(tmp_path: Path, pause: str) -> None:
    argv = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "source"), str(tmp_path / "target"), pause]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "moving\n"
        started = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert list((tmp_path / "target" / "ingest").iterdir()) == []
    with pytest.raises(NotFound):
        LayoutStore(tmp_path / "target").resolve("x")


# -- stacks ------------------------------------------------------------------------------------


def test_a_stack_takes_each_blob_from_where_it_is(tmp_path: Path, source: Watched, sink: Watched) -> None:
    image = picture()
    cache = LayoutStore.ensure(tmp_path / "cache")
    config, (first, second) = image.manifest.config, image.manifest.layers
    for blob in (first, config):
        cache.write(blob, lambda blob=blob: iter([image.data[blob.digest]]))
    source.inner.write(second, lambda: iter([image.data[second.digest]]))
    stack = Stack(Held({image.root.digest: image.manifest.raw}), cache, source)
    transfer(stack, image.root, sink, "x", emit=ignore, jobs=2)
    assert source.did("read") == [second.digest]
    assert source.did("has") == []
    assert sink.inner.resolve("x").digest == image.root.digest


def test_a_stack_resolves_with_the_first_that_knows(tmp_path: Path, source: Watched) -> None:
    put(source.inner, picture(), "a")
    stack = Stack(LayoutStore.ensure(tmp_path / "cache"), source)
    assert stack.resolve("a").digest == picture().root.digest
    assert stack.has(picture().manifest.config)
    assert not stack.has(Descriptor.of(b"?", ""))
    with pytest.raises(NotFound, match="source"):
        stack.resolve("b")


def test_memory_gives_what_it_holds() -> None:
    held = Held({Descriptor.of(b"data", "").digest: b"data"})
    assert b"".join(held.read(Descriptor.of(b"data", ""))) == b"data"
    with pytest.raises(NotFound):
        held.manifest(Descriptor.of(b"other", ""))
    with pytest.raises(NotFound):
        held.resolve("latest")
