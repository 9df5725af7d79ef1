"""Copies that are killed, stopped or cut off, and run again: what was here is not fetched once more.

The figures are those of `make bench`'s larger runs, scaled down; the ratios are the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.cache import clear, look
from composer.errors import Corrupt
from composer.events import Event, Transferred, ignore
from composer.oci import partials
from composer.oci.copy import copy
from composer.oci.layout import LayoutStore
from tests.command import COMMAND, environment, tricompose
from tests.conftest import require
from tests.images import Picture, picture, put
from tests.services.proxy import Answer, Cut, Flip, IgnoreRange, Proxy, Rules, Slow
from tests.services.registry import Registry, running_registry, store_at

pytestmark = pytest.mark.registry

MIB = 1 << 20
SIZE = 48 * MIB
SPARE = 8 * MIB
"""Bytes on their way when a process dies: what sockets and pipes hold. The law is 16 MiB."""

IMAGE: Picture = picture(layers=3, filler=SIZE, seed=11)
LARGE = IMAGE.manifest.layers[0]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    require("docker-registry", "skopeo")
    with running_registry(tmp_path_factory.mktemp("source")) as running:
        put(store_at(f"{running.host}/source/image"), IMAGE, "1")
        yield running


def begun(proxy: Proxy, tmp_path: Path) -> subprocess.Popen[bytes]:
    argv = [COMMAND, "copy", f"docker://{proxy.host}/source/image:1", "oci:layout:1", "--progress", "none"]
    return subprocess.Popen(argv, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE)


def stopped_at(proxy: Proxy, process: subprocess.Popen[bytes], size: int, sent: signal.Signals) -> None:
    deadline = time.monotonic() + 30
    while proxy.bytes_to_client < size and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(sent)
    process.communicate(timeout=30)


def whole(layout: Path) -> str:
    """The digest under the tag, once another tool has read all of it."""
    argv = ["skopeo", "copy", "-q", f"oci:{layout}:1", f"dir:{layout}.checked"]
    subprocess.run(argv, check=True, capture_output=True)
    return LayoutStore(layout).resolve("1").digest


def kept(layout: Path) -> list[str]:
    return sorted(path.name for path in (layout / "partial").glob("*"))


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_the_next_run_goes_on_in_the_middle(
    registry: Registry, tmp_path: Path, sent: signal.Signals, share: float
) -> None:
    with Proxy(registry.port, [Slow(path=LARGE.digest, rate=120 * MIB)]) as proxy:
        process = begun(proxy, tmp_path)
        stopped_at(proxy, process, int(SIZE * share), sent)
        assert process.returncode == (-9 if sent == signal.SIGKILL else 130)
        assert kept(tmp_path / "layout") == [LARGE.digest.replace(":", "-")]
        assert not LayoutStore(tmp_path / "layout").has(LARGE)
        proxy.rules.clear()
        before = proxy.bytes_to_client
        said = tricompose("copy", f"docker://{proxy.host}/source/image:1", "oci:layout:1", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert proxy.bytes_to_client - before <= SIZE - before + SPARE
        assert before >= SIZE * share
    assert whole(tmp_path / "layout") == IMAGE.root.digest
    assert sorted(path.name for path in (tmp_path / "layout").iterdir()) == [
        "blobs",
        "index.json",
        "index.json.lock",
        "ingest",
        "oci-layout",
    ]


def half(registry: Registry, layout: Path) -> None:
    """Leave the large layer half there, as a registry does that goes away."""
    rules = [Answer(path=LARGE.digest, status=503, after=1), Cut(path=LARGE.digest, at=SIZE // 2)]
    with Proxy(registry.port, rules) as proxy, pytest.raises(Exception, match="503"):
        pull(proxy, layout, patience=0.5)
    assert kept(layout) == [LARGE.digest.replace(":", "-")]


def pull(proxy: Proxy, layout: Path, *, patience: float = 20, events: list[Event] | None = None) -> None:
    source = store_at(f"{proxy.host}/source/image", patience=patience)
    emit = events.append if events is not None else ignore
    copy(source, "1", LayoutStore(layout), "1", platforms=None, emit=emit, jobs=3)


def test_what_was_here_is_told(registry: Registry, tmp_path: Path) -> None:
    half(registry, tmp_path)
    events: list[Event] = []
    with Proxy(registry.port) as proxy:
        pull(proxy, tmp_path, events=events)
    of_it = [event for event in events if isinstance(event, Transferred) and event.digest == LARGE.digest]
    assert {event.resumed for event in of_it} == {SIZE // 2}
    assert of_it[0].done == SIZE // 2
    assert of_it[-1].done == LARGE.size


@pytest.mark.parametrize("rules", [[IgnoreRange()], []], ids=["no ranges", "ranges"])
def test_wrong_bytes_of_an_earlier_run_are_healed(registry: Registry, tmp_path: Path, rules: list[Rules]) -> None:
    half(registry, tmp_path)
    file = tmp_path / "partial" / LARGE.digest.replace(":", "-")
    with file.open("r+b") as opened:
        opened.write(b"\0" * MIB)
    with Proxy(registry.port, rules) as proxy:
        pull(proxy, tmp_path)
    assert whole(tmp_path) == IMAGE.root.digest
    assert kept(tmp_path) == []


def test_a_partial_that_is_too_long_is_begun_again(registry: Registry, tmp_path: Path) -> None:
    half(registry, tmp_path)
    file = tmp_path / "partial" / LARGE.digest.replace(":", "-")
    with file.open("r+b") as opened:
        opened.truncate(LARGE.size + 1)
    with Proxy(registry.port) as proxy:
        pull(proxy, tmp_path)
    assert whole(tmp_path) == IMAGE.root.digest


def test_bytes_that_stay_wrong_leave_nothing(registry: Registry, tmp_path: Path) -> None:
    half(registry, tmp_path)
    with Proxy(registry.port, [Flip(path=LARGE.digest, at=MIB)]) as proxy, pytest.raises(Corrupt, match=LARGE.digest):
        pull(proxy, tmp_path)
    assert kept(tmp_path) == []
    assert not LayoutStore(tmp_path).has(LARGE)


def test_two_at_once_do_not_mix_their_bytes(registry: Registry, tmp_path: Path) -> None:
    half(registry, tmp_path / "layout")
    with Proxy(registry.port, [Slow(path=LARGE.digest, rate=60 * MIB)]) as proxy:
        processes = [begun(proxy, tmp_path) for _ in range(3)]
        said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert whole(tmp_path / "layout") == IMAGE.root.digest
    assert kept(tmp_path / "layout") == []


def test_leftovers_are_no_blobs_and_go_when_nobody_comes_back(registry: Registry, tmp_path: Path) -> None:
    half(registry, tmp_path)
    file = tmp_path / "partial" / LARGE.digest.replace(":", "-")
    LayoutStore.ensure(tmp_path)
    assert file.exists()
    old = time.time() - partials.STALE - 60
    os.utime(file, (old, old))
    LayoutStore.ensure(tmp_path)
    assert not (tmp_path / "partial").exists()


def test_a_cache_counts_them_and_lets_go_of_them(registry: Registry, tmp_path: Path) -> None:
    half(registry, tmp_path)
    assert look(tmp_path).size >= SIZE // 2
    assert look(tmp_path).blobs == 3
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_blob_of_which_little_came_is_not_kept(registry: Registry, tmp_path: Path) -> None:
    rules = [Answer(path=LARGE.digest, status=503, after=1), Cut(path=LARGE.digest, at=MIB // 2)]
    with Proxy(registry.port, rules) as proxy, pytest.raises(Exception, match="503"):
        pull(proxy, tmp_path, patience=0.5)
    assert kept(tmp_path) == []


def test_the_sums_of_json_progress_add_up(registry: Registry, tmp_path: Path) -> None:
    """One blob is here already, one is half here, the rest moves, and one of them twice: never a step back."""
    half(registry, tmp_path / "layout")
    flip = Flip(path=IMAGE.manifest.layers[1].digest, at=5, times=1)
    with Proxy(registry.port, [flip, Cut(path=LARGE.digest, at=10 * MIB)]) as proxy:
        source = f"docker://{proxy.host}/source/image:1"
        said = tricompose("copy", source, "oci:layout:1", "--progress", "json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    moves = [line for line in lines if line["event"] == "transferred"]
    last = {move["digest"]: move for move in moves}
    for digest in last:
        steps = [move["done"] for move in moves if move["digest"] == digest]
        assert steps == sorted(steps)
    blobs = (IMAGE.manifest.config, *IMAGE.manifest.layers)
    assert sum(move["done"] for move in last.values()) == sum(blob.size for blob in blobs)
    assert last[LARGE.digest]["resumed"] == SIZE // 2
    assert {move["action"] for move in last.values()} == {"copied", "skipped"}


def test_what_has_not_changed_costs_two_requests(registry: Registry, tmp_path: Path) -> None:
    with Proxy(registry.port) as near, Proxy(registry.port) as far:
        command = ("copy", f"docker://{near.host}/source/image:1", f"docker://{far.host}/unchanged/image:1")
        assert tricompose(*command, cwd=tmp_path).returncode == 0
        near.requests.clear()
        far.requests.clear()
        said = tricompose(*command, cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert [(request.method, request.path) for request in near.requests] == [
            ("HEAD", "/v2/source/image/manifests/1")
        ]
        assert [(request.method, request.path) for request in far.requests] == [
            ("HEAD", "/v2/unchanged/image/manifests/1")
        ]


def test_of_a_changed_image_only_the_changed_layer_moves(registry: Registry, tmp_path: Path) -> None:
    """The next build of the same image: its large layer stays."""
    changed = picture(layers=3, filler=SIZE, seed=11, environment=("CHANGED=1",))
    put(store_at(f"{registry.host}/source/image"), changed, "2")
    with Proxy(registry.port) as near, Proxy(registry.port) as far:
        for tag in ("1", "2"):
            before = near.bytes_to_client, far.bytes_to_upstream
            names = f"docker://{near.host}/source/image:{tag}", f"docker://{far.host}/changed/image:{tag}"
            assert tricompose("copy", *names, cwd=tmp_path).returncode == 0
        assert near.bytes_to_client - before[0] < 20_000
        assert far.bytes_to_upstream - before[1] < 20_000


@pytest.mark.parametrize(
    ("transport", "sent"),
    [("oci-archive:image.tar:1", signal.SIGKILL), ("docker-archive:image.tar:some/image:1", signal.SIGINT)],
    ids=["oci, killed", "docker, interrupted"],
)
def test_an_archive_is_gone_on_with_too(
    registry: Registry, tmp_path: Path, transport: str, sent: signal.Signals
) -> None:
    with Proxy(registry.port, [Slow(path=LARGE.digest, rate=120 * MIB)]) as proxy:
        command = ("copy", f"docker://{proxy.host}/source/image:1", transport)
        process = subprocess.Popen([COMMAND, *command], cwd=tmp_path, env=environment(tmp_path), stderr=-1)
        stopped_at(proxy, process, SIZE // 2, sent)
        assert len(list(tmp_path.glob(".image.tar.part-*"))) == 1
        proxy.rules.clear()
        before = proxy.bytes_to_client
        assert tricompose(*command, cwd=tmp_path).returncode == 0
        assert proxy.bytes_to_client - before <= SIZE - before + SPARE
        assert tricompose(*command[:2], transport.replace("image.tar", "sound.tar"), cwd=tmp_path).returncode == 0
    assert list(tmp_path.glob(".*.part-*")) == []
    kind = transport.partition(":")[0]
    subprocess.run(["skopeo", "copy", "-q", f"{kind}:{tmp_path}/image.tar", f"dir:{tmp_path}/checked"], check=True)
    assert (tmp_path / "image.tar").stat().st_size == (tmp_path / "sound.tar").stat().st_size


def test_the_archive_of_another_image_is_not_gone_on_with(registry: Registry, tmp_path: Path) -> None:
    other = picture(layers=3, filler=SIZE, seed=12)
    put(store_at(f"{registry.host}/source/image"), other, "other")
    with Proxy(registry.port, [Slow(path=LARGE.digest, rate=120 * MIB)]) as proxy:
        source = f"docker://{proxy.host}/source/image"
        process = subprocess.Popen(
            [COMMAND, "copy", f"{source}:1", "oci-archive:image.tar:1"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
        )
        stopped_at(proxy, process, SIZE // 2, signal.SIGKILL)
        assert tricompose("copy", f"{source}:other", "oci-archive:image.tar:1", cwd=tmp_path).returncode == 0
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci-archive:{tmp_path}/image.tar:1", f"dir:{tmp_path}/checked"], check=True
    )
    assert list(tmp_path.glob(".*.part-*")) == []
    manifest = json.loads((tmp_path / "checked/manifest.json").read_text())
    assert manifest["config"]["digest"] == other.manifest.config.digest


def test_a_copy_takes_little_memory_and_no_disk(registry: Registry, tmp_path: Path) -> None:
    """What it takes does not depend on the image: so this holds what is loaded, too."""
    names = f"docker://{registry.host}/source/image:1", f"docker://{registry.host}/small/image:1"
    with Proxy(registry.port) as far:
        # By another name of the same registry, so that nothing can be mounted.
        target = names[1].replace(registry.host, far.host)
        env = environment(tmp_path, TMPDIR=str(tmp_path))
        argv = [COMMAND, "copy", names[0], target, "--progress", "none", "--cache", str(tmp_path / "cache")]
        process = subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.PIPE)
        peak = 0
        while process.poll() is None:
            peak = max(peak, highest(process.pid))
            time.sleep(0.002)
        assert process.returncode == 0
        assert far.bytes_to_upstream > SIZE
    assert 20 * MIB < peak <= 64 * MIB
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 100_000


def highest(pid: int) -> int:
    """The most memory that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
