"""Bundles whose making or loading is stopped at any moment, or runs out of room: whole or not there, and resumed."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.bundle.checking import check_parts
from composer.bundle.document import Found
from composer.bundle.reading import BundleStore
from composer.events import ignore
from composer.oci.layout import LayoutStore
from tests.command import COMMAND, environment, tricompose
from tests.images import picture, put
from tests.parity.place import BASE, HOME, Place, file, packed, server
from tests.repositories import put_model
from tests.services.proxy import CutUpload, Proxy
from tests.services.registry import Registry, running_registry, store_at

SIZE = 6_000_000
IMAGES = 4
PART = 5_000_000

# Writes a bundle of the images in a layout, slowly, and tells how many bytes it has read for it.
WRITER = f"""
import sys, time
from pathlib import Path
from composer.bundle.draft import Thing, draft
from composer.bundle.writing import Supply, write
from composer.events import ignore
from composer.oci.copy import survey
from composer.oci.layout import LayoutStore

class Slow(LayoutStore):
    moved = 0
    def read(self, descriptor):
        for chunk in super().read(descriptor):
            time.sleep(0.04)
            Slow.moved += len(chunk)
            yield chunk

store = Slow(Path(sys.argv[1]))
things = [Thing(name=tag, kind="x", contents=survey(store, store.resolve(tag)), source=store) for tag in store.tags()]
Slow.moved = 0
print("begun", flush=True)
made = draft(things, (), {{}}, tool="t")
write(made, Supply(things, ()), Path(sys.argv[2]), "b", part_size={PART}, finish=lambda _: None, emit=ignore, jobs=2)
print(Slow.moved)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with images whose layers share nothing."""
    store = LayoutStore.ensure(tmp_path_factory.mktemp("images"))
    for number in range(IMAGES):
        put(store, picture(filler=SIZE, seed=number + 1, layers=1), f"image-{number}")
    return store.path


def writer(images: Path, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    line = [sys.executable, "-c", WRITER, str(images), str(folder)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    return process


def test_killed_at_any_moment_the_next_run_reads_what_is_missing(images: Path, tmp_path: Path) -> None:
    said, told = writer(images, tmp_path / "sound").communicate(timeout=60)
    assert int(said) >= IMAGES * SIZE, told
    sound = {path.name: path.read_bytes() for path in (tmp_path / "sound").iterdir()}
    chance = random.Random(11)
    saved = 0
    for number in range(3):
        folder = tmp_path / f"killed-{number}"
        process = writer(images, folder)
        time.sleep(chance.uniform(0.05, 0.6))
        process.kill()
        process.communicate()
        if (folder / "b.bundle.json").exists():
            assert check_parts(BundleStore(Found.at(folder / "b")), (), emit=ignore) == ()
        whole = sum(written for written in whole_blobs(folder, sound))
        said, told = writer(images, folder).communicate(timeout=60)
        assert int(said) <= IMAGES * (SIZE + 100_000) - whole, told
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == sound
        saved += whole
    assert saved, "no run was killed when a blob was there"


def whole_blobs(folder: Path, sound: dict[str, bytes]) -> Iterator[int]:
    """The sizes of the layers that a killed run has written whole, by what their places hold."""
    document = json.loads(sound["b.bundle.json"])
    names = [part["name"] for part in document["parts"]]
    whole = b"".join(sound[name] for name in names)
    files = [folder / ".b.bundle.part" / name for name in names]
    if not all(path.exists() for path in files):
        return
    there = b"".join(path.read_bytes() for path in files)
    for blob in document["blobs"]:
        # A blob counts only if its header is there too, which is written last.
        begin, end = blob["offset"] - 512, blob["offset"] + blob["size"]
        if there[begin:end] == whole[begin:end]:
            yield blob["size"]


# -- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that was built before: making its bundle takes as long as writing does."""
    made = Place(tmp_path_factory.mktemp("project"))
    noise = random.Random(3)
    extra = [file(f"{HOME}/backends/{name}/weights", noise.randbytes(20_000_000)) for name in ("python", "tensorrt")]
    made.upstream(BASE, packed(server("python", "tensorrt", extra=extra)), base=1)
    model = put_model(made.path / "models" / "one", "python")
    (model / "1" / "weights").write_bytes(noise.randbytes(SIZE))
    (made.path / "recipe.yaml").write_text(f"{made.origin}\nbackends: [python]\nmodels: [{{path: ./models}}]\n")
    done = create(made.path, made.path / "out/b")
    assert done.returncode == 0, done.stderr
    return made.path


def line(project: Path, out: Path) -> list[str]:
    more = ["--no-validate", "--part-size", "9MB", "--cache", str(project / "cache"), "--progress", "plain"]
    return [COMMAND, "bundle", "create", str(project / "recipe.yaml"), "-o", str(out), *more]


def create(project: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line(project, out), capture_output=True, text=True, env=environment(project), check=False)


def begun(process: subprocess.Popen[str], stage: str) -> None:
    """Wait until a command says that it is at a stage."""
    assert process.stderr
    for said in process.stderr:
        if said.startswith(f"{stage}:"):
            return
    raise AssertionError(f"it never came to {stage}")


@pytest.mark.parametrize(("sent", "moment"), [(signal.SIGINT, 0.0), (signal.SIGINT, 0.1), (signal.SIGTERM, 0.05)])
def test_interrupted_nothing_is_left(project: Path, tmp_path: Path, sent: signal.Signals, moment: float) -> None:
    out = tmp_path / "out"
    pipe = subprocess.PIPE
    process = subprocess.Popen(line(project, out / "b"), stdout=pipe, stderr=pipe, text=True, env=environment(project))
    begun(process, "bundle")
    time.sleep(moment)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    if process.returncode:
        assert process.returncode == 130, said
        assert not out.exists() or list(out.iterdir()) == []
    else:
        assert check_parts(BundleStore(Found.at(out / "b")), (), emit=ignore) == ()
    assert "Traceback" not in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB, which is less than a bundle needs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tricompose-test", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_room_is_told_before_anything_is_written(project: Path, small_disk: Path) -> None:
    done = create(project, small_disk / "b")
    assert done.returncode == 13, done.stderr
    assert "bundle:" not in done.stderr, "it is known before the first byte"
    assert list(small_disk.iterdir()) == []
    loaded = tricompose("bundle", "load", project / "out/b", "--to", f"oci:{small_disk}/x", cwd=project)
    assert loaded.returncode == 13, loaded.stderr
    assert LayoutStore(small_disk / "x").tags() == ()
    assert sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file()) < 10_000


def test_parts_that_a_file_system_cannot_hold(project: Path, tmp_path: Path) -> None:
    """As FAT32 takes no file of 4 GiB: the limit of this process is another, and the error the same."""
    limited = ["prlimit", "--fsize=8000000", *line(project, tmp_path / "out/b")]
    done = subprocess.run(limited, capture_output=True, text=True, env=environment(project), check=False)
    assert done.returncode == 13, done.stderr
    assert "--part-size" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


# -- loading ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def load_line(project: Path, place: str) -> list[str]:
    more = ["--cache", str(project / "far"), "--progress", "plain"]
    return [COMMAND, "bundle", "load", str(project / "out/b"), "--to", f"docker://{place}", *more]


def load(project: Path, place: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        load_line(project, place), capture_output=True, text=True, env=environment(project), check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def images_of(project: Path) -> dict[str, str]:
    """The images of the bundle by where they go, below the prefix."""
    items = Found.at(project / "out/b").bundle.items
    places = {"composed": "{}", "upstream": "local/{}", "base": "local/{}"}
    return {places[item.kind].format(item.name): item.digest for item in items if item.kind in places}


def tags_there(registry: Registry, prefix: str) -> set[str]:
    found = registry.storage.glob(f"docker/registry/v2/repositories/{prefix}/**/_manifests/tags/*/current/link")
    return {str(path.parents[1]) for path in found}


def layers_there(registry: Registry, prefix: str) -> set[str]:
    """The digests of the blobs that repositories below a prefix have."""
    found = registry.storage.glob(f"docker/registry/v2/repositories/{prefix}/**/_layers/sha256/*/link")
    return {f"sha256:{path.parent.name}" for path in found}


@pytest.mark.parametrize("number", range(3))
def test_killed_loading_is_gone_on_with(project: Path, registry: Registry, tmp_path: Path, number: int) -> None:
    prefix = f"killed-{number}"
    with Proxy(registry.port) as proxy:
        place = f"{proxy.host}/{prefix}"
        process = subprocess.Popen(
            load_line(project, place), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        begun(process, "load")
        goal = random.Random(number).randrange(1, 40_000_000)
        while proxy.bytes_to_upstream < goal and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        if tags_there(registry, prefix):
            assert proxy.bytes_to_upstream > 40_000_000, "no tag before all blobs"
        before, there = proxy.settled(), layers_there(registry, prefix)
        load(project, place)
        blobs = {blob.digest: blob.size for blob in Found.at(project / "out/b").bundle.blobs}
        missing = sum(size for digest, size in blobs.items() if digest not in there)
        assert proxy.bytes_to_upstream - before <= missing + (1 << 20)
    for name, digest in images_of(project).items():
        repository, _, tag = name.rpartition(":")
        assert store_at(f"{registry.host}/{prefix}/{repository}").resolve(tag).digest == digest


def test_uploads_that_are_cut(project: Path, tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as registry, Proxy(registry.port) as proxy:
        proxy.rules[:] = [CutUpload(at=3_000_000, times=3)]
        load(project, f"{proxy.host}/cut")
        for name, digest in images_of(project).items():
            repository, _, tag = name.rpartition(":")
            assert store_at(f"{registry.host}/cut/{repository}").resolve(tag).digest == digest


def test_a_bad_part_leaves_no_tag_and_a_good_one_heals_it(project: Path, registry: Registry, tmp_path: Path) -> None:
    carried = tmp_path / "carried"
    shutil.copytree(project / "out", carried)
    part = carried / "b.tar.003"
    good = part.read_bytes()
    part.write_bytes(good[:1000] + bytes([good[1000] ^ 4]) + good[1001:])
    argv = [
        COMMAND,
        "bundle",
        "load",
        str(carried / "b"),
        "--to",
        f"docker://{registry.host}/bad",
        "--progress",
        "plain",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert done.returncode == 10
    assert set(re.findall(r"b\.tar\.[0-9]+", done.stderr)) == {"b.tar.003"}
    assert tags_there(registry, "bad") == set()
    part.write_bytes(good)
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert done.returncode == 0, done.stderr
    assert len(tags_there(registry, "bad")) == len(images_of(project))
