"""Uploads that do not end the first time, and bytes that need not be sent: by the command line where a process dies."""

from __future__ import annotations

import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from composer import command
from composer.cli import tricompose
from composer.errors import Corrupt, Denied, Unreachable
from composer.oci import upload
from composer.oci.copy import copy
from composer.oci.image import OCI_LAYER, Descriptor
from composer.oci.journal import FOLDER, Journal
from composer.oci.layout import LayoutStore
from composer.oci.store import Store
from tests.images import Picture, picture, put
from tests.services.keeping import Keeping
from tests.services.others import Other, running_other
from tests.services.proxy import Answer, Proxy, Redirect, StallUpload
from tests.services.registry import Registry, store_at
from tests.services.tokens import TokenService

pytestmark = pytest.mark.registry

MIB = 1 << 20
IMAGE: Picture = picture(filler=40 * MIB, seed=60)
LAYER = IMAGE.manifest.layers[0]
REST = sum(blob.size for blob in (IMAGE.manifest.config, *IMAGE.manifest.layers)) - LAYER.size + 4096
"""The bytes of all that is not the large layer, manifest and all."""


@pytest.fixture(scope="module")
def keeper() -> Iterator[Other]:
    """A registry that keeps what came of an upload that was cut."""
    with running_other("cue") as running:
        yield running


@pytest.fixture(scope="module")
def source(registry: Registry) -> str:
    """Where the image is."""
    put(store_at(f"{registry.host}/uploads/source"), IMAGE, "1")
    return f"{registry.host}/uploads/source"


class Copying:
    """`tricompose copy` in a process of its own, from a counting proxy to another."""

    def __init__(self, source: Proxy, target: Proxy, repository: str, cache: Path) -> None:
        places = [f"docker://{source.host}/uploads/source:1", f"docker://{target.host}/{repository}:1"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "composer", "copy", *places, "--cache", str(cache), "-v"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._target = target

    def wait_for(self, size: int) -> None:
        """Until the target has so many bytes."""
        deadline = time.monotonic() + 60
        while self._target.bytes_to_upstream < size:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.05)

    def end(self) -> str:
        said, _ = self.process.communicate(timeout=120)
        return said


def entries(cache: Path) -> list[Path]:
    folder = cache / FOLDER / "uploads"
    return list(folder.iterdir()) if folder.exists() else []


def settled(registry: Registry, repository: str) -> list[Path]:
    """The sessions that are left in a registry, once it has seen that a connection is gone."""
    deadline = time.monotonic() + 10
    while (found := registry.sessions(repository)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


# -- in a new process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_an_upload_goes_on_in_a_new_process(
    keeper: Other, registry: Registry, source: str, repository: str, tmp_path: Path, how: signal.Signals
) -> None:
    """Nothing that the registry has is sent again, or fetched again from the source."""
    at, cache = 30 * MIB, tmp_path / "cache"
    with Proxy(registry.port) as near, Proxy(keeper.port, [StallUpload(at=at, times=1)]) as far:
        first = Copying(near, far, repository, cache)
        first.wait_for(at)
        (entry,) = entries(cache)
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600
        assert stat.S_IMODE(entry.parent.stat().st_mode) == 0o700
        first.process.send_signal(how)
        said = first.end()
        assert first.process.returncode == (130 if how == signal.SIGINT else -9), said
        assert far.count("DELETE", "/uploads/") == 0
        sent, fetched = far.bytes_to_upstream, near.bytes_to_client
        second = Copying(near, far, repository, cache)
        said = second.end()
        assert second.process.returncode == 0, said
        assert "still has 31457280 bytes" in said
        assert far.bytes_to_upstream - sent <= LAYER.size - at + REST
        assert near.bytes_to_client - fetched <= LAYER.size - at + REST
    assert entries(cache) == []
    assert b"".join(store_at(f"{keeper.host}/{repository}").read(LAYER)) == IMAGE.data[LAYER.digest]


def test_where_the_registry_forgets_only_that_blob_is_sent_again(
    registry: Registry, source: str, repository: str, tmp_path: Path
) -> None:
    """distribution 2.8 knows nothing of a session that was cut, not even to cancel it: it sweeps them by itself."""
    at, cache = 30 * MIB, tmp_path / "cache"
    target = f"{repository}-copy"
    with Proxy(registry.port) as near, Proxy(registry.port, [StallUpload(at=at, times=1)]) as far:
        first = Copying(near, far, target, cache)
        first.wait_for(at)
        first.process.kill()
        first.end()
        sent = far.bytes_to_upstream
        second = Copying(near, far, target, cache)
        said = second.end()
        assert second.process.returncode == 0, said
        assert far.bytes_to_upstream - sent <= LAYER.size + REST
        assert far.count("PATCH", "/uploads/") == 2
    assert entries(cache) == []
    assert len(registry.sessions(target)) == 1


@pytest.mark.parametrize("error", [Unreachable("the source is gone"), Corrupt("wrong bytes")], ids=["gone", "wrong"])
def test_what_is_kept_when_a_source_fails(keeper: Other, repository: str, tmp_path: Path, error: Exception) -> None:
    """A session with much in it, unless that is wrong."""
    data = random.Random(1).randbytes(20 * MIB)
    blob = Descriptor.of(data + b"end", f"{OCI_LAYER}+gzip")

    def failing() -> Iterator[bytes]:
        yield data
        raise error

    with Proxy(keeper.port) as proxy:
        with pytest.raises(type(error)):
            store_at(f"{proxy.host}/{repository}", journal=tmp_path).write(blob, failing)
        wrong = isinstance(error, Corrupt)
        assert proxy.count("DELETE", "/uploads/") == wrong
        assert len(list((tmp_path / "uploads").iterdir())) == (not wrong)
        again = store_at(f"{proxy.host}/{repository}", journal=tmp_path)
        before = proxy.settled()
        again.write(blob, lambda: iter([data, b"end"]))
        assert proxy.bytes_to_upstream - before == (blob.size if wrong else 3)
        assert again.has(blob)


def test_what_was_kept_may_be_wrong(keeper: Other, repository: str, tmp_path: Path) -> None:
    """The registry finds it out, by the digest; the next try begins from the first byte."""
    data = random.Random(2).randbytes(20 * MIB)
    blob = Descriptor.of(data + b"end", f"{OCI_LAYER}+gzip")

    def lying() -> Iterator[bytes]:
        yield b"x" + data[1:]
        raise Unreachable("the source is gone")

    store = store_at(f"{keeper.host}/{repository}", journal=tmp_path)
    with pytest.raises(Unreachable, match="source is gone"):
        store.write(blob, lying)
    with pytest.raises(Corrupt, match="did not take"):
        store.write(blob, lambda: iter([data, b"end"]))
    store.write(blob, lambda: iter([data, b"end"]))
    assert store.has(blob)


def test_a_short_upload_is_cancelled_and_not_kept(keeper: Other, repository: str, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(20 * MIB)
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")

    def failing() -> Iterator[bytes]:
        yield data[: MIB // 2]
        raise Unreachable("the source is gone")

    with Proxy(keeper.port) as proxy:
        with pytest.raises(Unreachable):
            store_at(f"{proxy.host}/{repository}", journal=tmp_path).write(blob, failing)
        assert proxy.count("DELETE", "/uploads/") == 1
    assert list((tmp_path / "uploads").iterdir()) == []


def test_two_do_not_go_on_with_one_upload(keeper: Other, repository: str, tmp_path: Path) -> None:
    """The second one begins its own, and neither spoils the other's."""
    data = random.Random(4).randbytes(20 * MIB)
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")
    with Proxy(keeper.port) as proxy:
        stores = [store_at(f"{proxy.host}/{repository}", journal=tmp_path) for _ in range(2)]

        def content() -> Iterator[bytes]:
            yield data[: 17 * MIB]
            stores[1].write(blob, lambda: iter([data]))
            yield data[17 * MIB :]

        stores[0].write(blob, content)
        assert proxy.count("POST", "/uploads/") == 2
    assert list((tmp_path / "uploads").iterdir()) == []


# -- mounts -------------------------------------------------------------------------------------------------------


def moved(source: Store, target: Store) -> None:
    copy(source, "1", target, "1", platforms=None, emit=lambda event: None, jobs=4)  # type: ignore[arg-type]


def test_a_blob_is_mounted_from_wherever_it_was_pushed_before(
    registry: Registry, keeper: Other, repository: str, tmp_path: Path
) -> None:
    """The source is elsewhere; the target's registry has the blobs, in another repository."""
    image = picture(filler=MIB, seed=61)
    put(store_at(f"{registry.host}/{repository}"), image, "1")
    with Proxy(keeper.port) as proxy:
        for name in ("one", "two", "three"):
            moved(
                store_at(f"{registry.host}/{repository}"),
                store_at(f"{proxy.host}/{repository}-{name}", journal=tmp_path),
            )
            if name == "one":
                sent = proxy.bytes_to_upstream
        assert proxy.bytes_to_upstream - sent == 2 * len(image.manifest.raw)


def test_a_blob_is_mounted_from_where_it_was_pulled(registry: Registry, repository: str, tmp_path: Path) -> None:
    image = picture(filler=MIB, seed=62)
    put(store_at(f"{registry.host}/{repository}"), image, "1")
    with Proxy(registry.port) as proxy:
        pulled = store_at(f"{proxy.host}/{repository}", journal=tmp_path)
        pulled.manifest(pulled.resolve("1"))
        target = store_at(f"{proxy.host}/{repository}-new", journal=tmp_path)
        put(store_at(f"{registry.host}/{repository}-new"), picture(seed=63), "1")
        assert target.mount(image.manifest.layers[0], store_at(f"127.0.0.1:1/{repository}"))
        assert proxy.bytes_to_upstream == 0


def test_a_blob_is_mounted_from_where_the_user_says(
    registry: Registry, keeper: Other, repository: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a registry of which nothing is known here: 0 bytes of blobs are sent."""
    image = picture(filler=MIB, seed=64)
    put(store_at(f"{keeper.host}/{repository}-old"), image, "1")
    put(store_at(f"{registry.host}/{repository}"), image, "1")
    with Proxy(keeper.port) as proxy:
        places = [f"docker://{registry.host}/{repository}:1", f"docker://{proxy.host}/{repository}-new:1"]
        shared = ["--mount-from", f"{proxy.host}/nothing/here", "--mount-from", f"{proxy.host}/{repository}-old"]
        status = command.run(tricompose, ["copy", *places, *shared, "--cache", str(tmp_path / "cache")])
        assert status == 0, capfd.readouterr().err
        assert proxy.bytes_to_upstream == len(image.manifest.raw)
    assert command.run(tricompose, ["copy", *places, "--mount-from", "Not A Name"]) == 5


@pytest.mark.parametrize("status", [202, 401, 403, 404, 405, 429, 500])
def test_a_mount_that_is_not_granted_is_no_failure(
    registry: Registry, repository: str, tmp_path: Path, status: int
) -> None:
    """And is not asked for again, by whoever comes next."""
    image = picture(filler=200_000, seed=65)
    put(store_at(f"{registry.host}/{repository}"), image, "1")
    refusal = Answer(method="POST", path="mount=", status=status, times=99 if status != 429 else 1)
    with Proxy(registry.port, [] if status == 202 else [refusal]) as proxy:
        Journal(tmp_path).learn(proxy.host, "somebody/elses", [image.manifest.layers[0].digest])
        for name in ("one", "two"):
            target = store_at(f"{proxy.host}/{repository}-{name}", journal=tmp_path)
            moved(store_at(f"{registry.host}/{repository}"), target)
            assert proxy.count("POST", "from=somebody/elses") == (2 if status == 429 else 1)
    assert store_at(f"{registry.host}/{repository}-two").resolve("1") == image.root
    assert settled(registry, f"{repository}-two") == []


def test_what_is_remembered_is_part_of_the_cache(registry: Registry, repository: str, tmp_path: Path) -> None:
    """Also where there is nothing else in it: a layout can be begun beside it, and it goes with the rest."""
    put(store_at(f"{registry.host}/{repository}"), picture(seed=72), "1")
    places = [f"docker://{registry.host}/{repository}{suffix}:1" for suffix in ("", "-copy")]
    for _ in range(2):
        assert command.run(tricompose, ["copy", *places, "--cache", str(tmp_path / "cache")]) == 0
        assert (tmp_path / "cache" / FOLDER).is_dir()
        assert command.run(tricompose, ["cache", "clear", "--yes", "--cache", str(tmp_path / "cache")]) == 0
        assert list((tmp_path / "cache").iterdir()) == []
        put(store_at(f"{registry.host}/{repository}"), picture(seed=73), "1")
    assert command.run(tricompose, ["copy", *places, "--cache", str(tmp_path / "cache")]) == 0
    assert not LayoutStore.ensure(tmp_path / "cache").tags()


# -- on the way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_an_upload_goes_where_the_registry_sends_it(registry: Registry, repository: str, method: str) -> None:
    data = random.Random(5).randbytes(MIB)
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")
    with Proxy(registry.port) as other:
        rule = Redirect(method=method, path="/uploads/", port=other.port)
        with Proxy(registry.port, [rule]) as proxy:
            store_at(f"{proxy.host}/{repository}").write(blob, lambda: iter([data]))
            assert other.count(method, "/uploads/") == 1
    assert store_at(f"{registry.host}/{repository}").has(blob)


def test_a_token_that_runs_out_between_two_steps(
    registry: Registry, repository: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only the step that was refused is sent again."""
    monkeypatch.setattr(upload, "_STEP", MIB)
    data = random.Random(6).randbytes(4 * MIB)
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")
    with TokenService(tmp_path, {"": frozenset({"pull", "push"})}) as tokens:
        challenge = (("WWW-Authenticate", f'Bearer realm="{tokens.realm}",service="tests"'),)
        rules = [
            Answer(method="PATCH", path="", status=413, times=1),
            Answer(method="PATCH", path="", status=401, headers=challenge, after=2, times=1),
        ]
        with Proxy(registry.port, rules) as proxy:
            store_at(f"{proxy.host}/{repository}").write(blob, lambda: iter([data]))
            # Once too much, then in steps, one twice: refusals are heard while we still send.
        assert blob.size <= proxy.bytes_to_upstream <= blob.size + blob.size + MIB
        assert len(tokens.asked) == 1
    assert store_at(f"{registry.host}/{repository}").has(blob)


def test_a_registry_that_does_not_say_what_it_has_gets_all_again() -> None:
    data = random.Random(7).randbytes(3 * MIB)
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")
    with Keeping(cuts=1, cut_at=2 * MIB, status=False) as keeper:
        store_at(f"{keeper.host}/a/b").write(blob, lambda: iter([data]))
        assert keeper.blobs[blob.digest] == data
        assert keeper.count("POST") == 2
        assert keeper.sessions == {}


@pytest.mark.parametrize("status", [201, 202, 204])
def test_registries_differ_in_how_they_take_a_part(status: int) -> None:
    """201 is Amazon's, 204 that of go-containerregistry."""
    data = random.Random(8).randbytes(3 * MIB)
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")
    with Keeping(patched_with=status, cuts=1, cut_at=2 * MIB) as keeper:
        store_at(f"{keeper.host}/a/b").write(blob, lambda: iter([data]))
        assert keeper.blobs[blob.digest] == data
        assert keeper.received == blob.size


# -- what is there in the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "exits"),
    [
        ("POST", "/uploads/", 401, 8),
        ("POST", "/uploads/", 403, 8),
        ("PATCH", "/uploads/", 403, 8),
        ("PUT", "/uploads/", 400, 10),
        ("PUT", "/manifests/", 401, 8),
        ("PUT", "/manifests/", 403, 8),
        ("PUT", "/manifests/", 404, 5),
        ("PUT", "/manifests/", 500, 9),
        ("PUT", "/manifests/", 400, 8),
    ],
)
def test_a_push_that_is_refused_fails(
    registry: Registry,
    repository: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    method: str,
    path: str,
    status: int,
    exits: int,
) -> None:
    put(store_at(f"{registry.host}/{repository}"), picture(filler=100_000, seed=66), "1")
    with Proxy(registry.port, [Answer(method=method, path=path, status=status)]) as proxy:
        places = [f"docker://{registry.host}/{repository}:1", f"docker://{proxy.host}/{repository}-copy:1"]
        said = command.run(tricompose, ["copy", *places, "--max-wait", "1", "--cache", str(tmp_path / "cache")])
        assert said == exits, capfd.readouterr().err
    assert not (registry.storage / f"docker/registry/v2/repositories/{repository}-copy/_manifests/tags").exists()
    assert settled(registry, f"{repository}-copy") == []


def test_a_tag_that_means_something_else_after_the_push_is_told(registry: Registry, repository: str) -> None:
    first, second = picture(seed=67), picture(seed=68)
    put(store_at(f"{registry.host}/{repository}"), first, "1")
    header = (("Docker-Content-Digest", first.root.digest),)
    with Proxy(registry.port, [Answer(method="HEAD", path="/manifests/1", status=200, headers=header)]) as proxy:
        store = store_at(f"{proxy.host}/{repository}")
        with pytest.raises(Corrupt, match=f"{first.root.digest} as .*:1, where {second.root.digest} was pushed"):
            put(store, second, "1")


def test_who_may_push_and_not_pull_is_believed(registry: Registry, repository: str) -> None:
    with Proxy(registry.port, [Answer(method="HEAD|GET", path="/manifests/", status=403)]) as proxy:
        image = picture(seed=69)
        assert put(store_at(f"{proxy.host}/{repository}"), image, "1") == image.root
        with pytest.raises(Denied):
            store_at(f"{proxy.host}/{repository}").resolve("1")


def test_a_tag_that_moves_during_a_copy_is_not_mixed(registry: Registry, repository: str) -> None:
    first, second = picture(seed=70, filler=MIB), picture(seed=71, filler=MIB)
    source, target = store_at(f"{registry.host}/{repository}"), store_at(f"{registry.host}/{repository}-copy")
    put(source, first, "1")
    left = [second]

    class Moving:
        """Pushes another image under the tag, as soon as something of the first was read."""

        label = source.label
        resolve, manifest, has, close = source.resolve, source.manifest, source.has, source.close

        def read(self, descriptor: Descriptor) -> Iterator[bytes]:
            with suppress(IndexError):
                put(store_at(f"{registry.host}/{repository}"), left.pop(), "1")
            return source.read(descriptor)

    moved(Moving(), target)
    assert target.resolve("1") == first.root
    assert store_at(f"{registry.host}/{repository}").resolve("1") == second.root
