"""A build that is stopped at any moment leaves nothing half-made, and goes on when it is run again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.place import BASE, HOME, Place, file, packed, server
from tests.repositories import put_model

COMMAND = str(Path(sys.executable).with_name("tricompose"))
SIZE = 24_000_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An upstream that takes about a second to cut, and a model repository."""
    made = Place(tmp_path_factory.mktemp("interrupted"))
    names = ("onnxruntime", "python", "tensorrt")
    noise = random.Random(3)
    extra = [file(f"{HOME}/backends/{name}/weights", noise.randbytes(SIZE)) for name in names]
    made.upstream(BASE, packed(server(*names, extra=extra)), base=1)
    model = put_model(made.path / "models" / "one", "python")
    (model / "1" / "weights").write_bytes(noise.randbytes(SIZE // 4))
    (made.path / "recipe.yaml").write_text(
        f"{made.origin}\nbackends: [onnxruntime, python]\nmodels: [{{path: ./models}}]\noutputs: ['oci:result:slim']\n"
    )
    return made


def arguments(place: Place, cache: Path, output: str) -> list[str]:
    recipe = str(place.path / "recipe.yaml")
    return [COMMAND, "build", recipe, "-o", output, "--no-validate", "--cache", str(cache), "--progress", "plain"]


def run(place: Place, cache: Path, output: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments(place, cache, output), capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def sound(place: Place) -> tuple[str, float]:
    """What the build says when nothing disturbs it, and how many seconds it takes."""
    began = time.monotonic()
    done = run(place, place.path / "sound-cache", f"oci:{place.path}/sound:slim")
    assert done.returncode == 0, done.stderr
    return digest_at(place.path / "sound"), time.monotonic() - began


def digest_at(layout: Path) -> str:
    done = subprocess.run(
        ["skopeo", "inspect", "--format", "{{.Digest}}", f"oci:{layout}:slim"], capture_output=True, text=True
    )
    return done.stdout.strip()


MOMENTS = [
    *((signal.SIGINT, number) for number in range(16)),
    *((sent, number) for sent in (signal.SIGTERM, signal.SIGKILL) for number in range(0, 16, 4)),
]


@pytest.mark.parametrize(("sent", "number"), MOMENTS, ids=[f"{sent.name}-{number}" for sent, number in MOMENTS])
def test_stopped_at_any_moment(
    place: Place, sound: tuple[str, float], tmp_path: Path, sent: signal.Signals, number: int
) -> None:
    whole, duration = sound
    output, cache = f"oci:{tmp_path}/result:slim", tmp_path / "cache"
    process = subprocess.Popen(
        arguments(place, cache, output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # Before Python itself has started nobody can catch a signal.
    time.sleep(0.3 + duration * number / 16)
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    if process.returncode == 0:
        assert digest_at(tmp_path / "result") == whole
    else:
        assert digest_at(tmp_path / "result") in ("", whole), "a stopped build shows no image, or the whole one"
        assert "Traceback" not in said
        if sent != signal.SIGKILL:
            assert process.returncode == 130, said
            assert not half_made(tmp_path), "what was half-made is gone"
    again = run(place, cache, output)
    assert again.returncode == 0, again.stderr
    assert digest_at(tmp_path / "result") == whole
    assert not half_made(tmp_path)


def half_made(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.parent.name == "ingest" or ".tmp" in path.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB, which is less than the layers need."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tricompose-test", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_under_the_cache(place: Place, small_disk: Path, tmp_path: Path) -> None:
    done = run(place, small_disk / "cache", f"oci:{tmp_path}/result:slim")
    assert_no_room(done)
    assert digest_at(tmp_path / "result") == ""
    assert not half_made(small_disk)


@pytest.mark.parametrize("transport", ["oci:{}/result:slim", "oci-archive:{}/result.tar:slim"])
def test_a_full_disk_under_the_output(place: Place, small_disk: Path, tmp_path: Path, transport: str) -> None:
    done = run(place, tmp_path / "cache", transport.format(small_disk))
    assert_no_room(done)
    assert not half_made(small_disk)
    assert not list(small_disk.glob("*.tar*"))


def assert_no_room(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 13, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-2].startswith("error: ")
    assert lines[-1].startswith("hint: ")
    assert "Traceback" not in done.stderr


def test_two_builds_share_a_cache(place: Place, sound: tuple[str, float], tmp_path: Path) -> None:
    """Started at once over one cache that is empty, both end well and with the same image."""
    commands = [arguments(place, tmp_path / "cache", f"oci:{tmp_path}/{name}:slim") for name in ("one", "two", "three")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert {digest_at(tmp_path / name) for name in ("one", "two", "three")} == {sound[0]}


def test_a_target_without_permission(place: Place, tmp_path: Path) -> None:
    """As a user who may not write there: root may write anywhere."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o755)
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in (tmp_path, cache, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in path.parents:
            os.chmod(path, 0o777 if path == cache else 0o755)
    os.chmod(place.path, 0o755)
    command = arguments(place, cache / "c", f"oci:{locked}/result:slim")
    demoted = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    done = subprocess.run(
        demoted, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": "/nonexistent"}
    )
    assert_no_room(done)
