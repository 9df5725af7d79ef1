from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.errors import Corrupt, NoRoom, NotFound, TricomposeError, Unplannable
from composer.events import ignore
from composer.oci.archive import (
    ArchiveTarget,
    open_docker_archive,
    open_oci_archive,
    plan_archive,
    stream_archive,
)
from composer.oci.copy import survey
from composer.oci.image import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    Platform,
    make_manifest,
    parse_manifest,
    sha256,
)
from composer.oci.layout import LayoutStore
from composer.oci.store import Store
from tests.images import AMD64, Picture, index_of, layer_tar, picture, put

ARM64 = Platform(os="linux", architecture="arm64")


@pytest.fixture
def store(tmp_path: Path) -> LayoutStore:
    return LayoutStore.ensure(tmp_path / "store")


def skopeo(*arguments: str) -> str:
    ran = subprocess.run(["skopeo", "--insecure-policy", *arguments], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def write(store: LayoutStore, image: Picture, path: Path, name: str, *, docker: bool = False, jobs: int = 4) -> None:
    put(store, image, None)
    ArchiveTarget(path, docker=docker).receive(store, image.root, name, emit=ignore, jobs=jobs)


def assert_same(there: Store, name: str, image: Picture) -> None:
    root = there.resolve(name)
    assert root.digest == image.root.digest
    assert there.manifest(root) == image.manifest.raw
    for blob in (image.manifest.config, *image.manifest.layers):
        assert b"".join(there.read(blob)) == image.data[blob.digest]


def manifest_of(there: Store) -> Manifest:
    """The manifest of the only image."""
    parsed = parse_manifest(there.manifest(there.resolve("")), "")
    assert isinstance(parsed, Manifest)
    return parsed


def tar_of(path: Path, files: Mapping[str, bytes | str]) -> Path:
    """A tar whose members are bytes, or links where the value is text."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def docker_save(image: Picture, tags: list[str] | None = None) -> dict[str, bytes | str]:
    """The members that Engine 20.10 saves an image as."""
    layers = [gzip.decompress(image.data[layer.digest]) for layer in image.manifest.layers]
    config = image.manifest.config.digest[7:]
    files: dict[str, bytes | str] = {f"{number}/layer.tar": data for number, data in enumerate(layers)}
    files[f"{config}.json"] = image.data[image.manifest.config.digest]
    item = {"Config": f"{config}.json", "RepoTags": tags, "Layers": [f"{n}/layer.tar" for n in range(len(layers))]}
    return {**files, "manifest.json": json.dumps([item]).encode()}


# -- what we write, read by others and by us -----------------------------------------------------


@pytest.mark.parametrize("family", ["oci", "docker"])
@pytest.mark.parametrize("docker", [True, False])
def test_both_archives_can_be_read_as_both(store: LayoutStore, tmp_path: Path, family: str, docker: bool) -> None:
    image, path = picture(family=family, filler=3_000_000), tmp_path / "triton.tar"
    write(store, image, path, "triton:24.09" if docker else "24.09", docker=docker)
    assert_same(open_oci_archive(path), "24.09", image)
    assert_same(open_docker_archive(path), "triton:24.09", image)
    assert_same(open_docker_archive(path), "", image)


def test_skopeo_reads_both(store: LayoutStore, tmp_path: Path) -> None:
    image, path = picture(layers=3), tmp_path / "triton.tar"
    write(store, image, path, "24.09")
    skopeo("copy", f"oci-archive:{path}:24.09", f"dir:{tmp_path / 'oci'}")
    assert (tmp_path / "oci" / "manifest.json").read_bytes() == image.manifest.raw
    skopeo("copy", f"docker-archive:{path}:triton:24.09", f"dir:{tmp_path / 'docker'}")
    found = json.loads((tmp_path / "docker" / "manifest.json").read_bytes())
    assert found["config"]["digest"] == image.manifest.config.digest
    layers = [sha256((tmp_path / "docker" / layer["digest"][7:]).read_bytes()) for layer in found["layers"]]
    assert layers == [sha256(gzip.decompress(image.data[layer.digest])) for layer in image.manifest.layers]


def test_skopeo_reads_docker_manifests_when_it_is_given_no_tag(store: LayoutStore, tmp_path: Path) -> None:
    image, path = picture(family="docker"), tmp_path / "triton.tar"
    write(store, image, path, "24.09")
    skopeo("copy", f"oci-archive:{path}", f"dir:{tmp_path / 'copied'}")
    assert (tmp_path / "copied" / "manifest.json").read_bytes() == image.manifest.raw


def test_an_image_whose_layer_repeats_is_read_by_skopeo(store: LayoutStore, tmp_path: Path) -> None:
    once = picture(layers=1)
    config = json.loads(once.data[once.manifest.config.digest])
    config["rootfs"]["diff_ids"] *= 2
    config["history"] *= 2
    raw = json.dumps(config).encode()
    layers = [*once.manifest.layers, *once.manifest.layers]
    manifest = make_manifest(OCI_MANIFEST, Descriptor.of(raw, OCI_CONFIG), layers)
    twice = Picture(manifest=manifest, data={**once.data, sha256(raw): raw, sha256(manifest.raw): manifest.raw})
    path = tmp_path / "twice.tar"
    write(store, twice, path, "1")
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)) == 6
    skopeo("copy", f"docker-archive:{path}", f"dir:{tmp_path / 'docker'}")
    skopeo("copy", f"oci-archive:{path}:1", f"dir:{tmp_path / 'oci'}")


def test_we_read_what_skopeo_wrote(store: LayoutStore, tmp_path: Path) -> None:
    image = picture()
    put(store, image, "1")
    skopeo("copy", f"oci:{store.path}:1", f"oci-archive:{tmp_path / 'oci.tar'}:again")
    assert_same(open_oci_archive(tmp_path / "oci.tar"), "again", image)
    skopeo("copy", f"oci:{store.path}:1", f"docker-archive:{tmp_path / 'docker.tar'}:triton:24.09")
    theirs = open_docker_archive(tmp_path / "docker.tar")
    assert theirs.resolve("triton:24.09").digest == theirs.resolve("docker.io/library/triton:24.09").digest
    assert manifest_of(theirs).config.digest == image.manifest.config.digest


def test_the_file_is_the_same_whatever_the_threads_do(store: LayoutStore, tmp_path: Path) -> None:
    image = picture(layers=6, filler=2_000_000)
    for jobs in (1, 6, 6):
        write(store, image, tmp_path / f"{jobs}" / "x.tar", "1", jobs=jobs)
    assert (tmp_path / "1/x.tar").read_bytes() == (tmp_path / "6/x.tar").read_bytes()
    contents = survey(store, image.root)
    streamed = stream_archive(plan_archive(contents, tag="1", full_name="x:1"), contents, store.read)
    assert b"".join(streamed) == (tmp_path / "1/x.tar").read_bytes()


def test_members_are_anonymous_and_in_the_manifest_s_order(store: LayoutStore, tmp_path: Path) -> None:
    image, path = picture(layers=3), tmp_path / "x.tar"
    write(store, image, path, "1")
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [(member.mtime, member.uid, member.uname, member.mode) for member in members] == [(0, 0, "", 0o644)] * 8
    digests = [image.root.digest, image.manifest.config.digest, *(layer.digest for layer in image.manifest.layers)]
    names = ["oci-layout", "index.json", "manifest.json", *(f"blobs/sha256/{digest[7:]}" for digest in digests)]
    assert [member.name for member in members] == names
    assert subprocess.run(["tar", "-tf", str(path)], capture_output=True, check=True, text=True).stdout.split() == names


def test_the_names_inside_are_what_each_reader_expects(store: LayoutStore, tmp_path: Path) -> None:
    image = picture()

    def names(path: Path) -> tuple[Any, Any]:
        with tarfile.open(path) as tar:
            documents = [json.load(tar.extractfile(name) or io.BytesIO()) for name in ("manifest.json", "index.json")]
        return documents[0][0]["RepoTags"], documents[1]["manifests"][0].get("annotations")

    cases = [
        (False, "triton.tar", "24.09", ["triton:24.09"], "24.09", "docker.io/library/triton:24.09"),
        (False, "triton.tar", "", ["triton:latest"], "latest", "docker.io/library/triton:latest"),
        (False, "-.tar", "24.09", None, "24.09", None),
        (True, "x.tar", "team/triton:1", ["team/triton:1"], "1", "docker.io/team/triton:1"),
        (True, "x.tar", "h.io:5/triton", ["h.io:5/triton:latest"], "latest", "h.io:5/triton:latest"),
        (True, "x.tar", "", None, None, None),
    ]
    for docker, file, name, repo_tags, ref_name, containerd in cases:
        write(store, image, tmp_path / file, name, docker=docker)
        wanted = {"org.opencontainers.image.ref.name": ref_name, "io.containerd.image.name": containerd}
        annotations = {key: value for key, value in wanted.items() if value} or None
        assert names(tmp_path / file) == (repo_tags, annotations)


def test_an_index_is_whole_in_an_oci_archive_and_too_much_for_a_docker_archive(
    store: LayoutStore, tmp_path: Path
) -> None:
    amd, arm, path = picture(), picture(platform=ARM64, seed=1), tmp_path / "x.tar"
    index = index_of((amd, AMD64), (arm, ARM64))
    for image in (amd, arm):
        put(store, image, None)
    store.publish(index.raw, index.media_type, "all")
    root = ArchiveTarget(path, docker=False).receive(store, index.descriptor, "1", emit=ignore, jobs=2)
    assert root == index.descriptor
    assert open_oci_archive(path).manifest(index.descriptor) == index.raw
    assert_same(open_docker_archive(path), "x:1", amd)
    with tarfile.open(path) as tar:
        assert tar.getnames()[3] == f"blobs/sha256/{index.descriptor.digest[7:]}"
    skopeo("copy", "--all", f"oci-archive:{path}:1", f"dir:{tmp_path / 'copied'}")
    assert (tmp_path / "copied" / "manifest.json").read_bytes() == index.raw
    with pytest.raises(Unplannable, match=r"one platform.*linux/amd64, linux/arm64") as caught:
        ArchiveTarget(tmp_path / "y.tar", docker=True).receive(store, index.descriptor, "x:1", emit=ignore, jobs=2)
    assert "platforms: [linux/amd64]" in str(caught.value.hint)
    assert not (tmp_path / "y.tar").exists()


def test_an_index_of_one_image_and_its_attestation_fits_a_docker_archive(store: LayoutStore, tmp_path: Path) -> None:
    image, note = picture(), picture(seed=5)
    index = index_of((image, AMD64), (note, Platform(os="unknown", architecture="unknown")))
    for each in (image, note):
        put(store, each, None)
    store.publish(index.raw, index.media_type, "all")
    path = tmp_path / "y.tar"
    received = ArchiveTarget(path, docker=True).receive(store, index.descriptor, "x:1", emit=ignore, jobs=2)
    assert received.digest == image.root.digest
    assert_same(open_docker_archive(path), "x:1", image)


# -- what others write ---------------------------------------------------------------------------


def test_layers_of_docker_save_are_known_by_their_diff_ids(tmp_path: Path) -> None:
    image = picture()
    there = open_docker_archive(tar_of(tmp_path / "saved.tar", docker_save(image, ["triton:24.09", "other:latest"])))
    manifest = manifest_of(there)
    config = json.loads(image.data[image.manifest.config.digest])
    assert [layer.digest for layer in manifest.layers] == config["rootfs"]["diff_ids"]
    assert {layer.media_type for layer in manifest.layers} == {DOCKER_LAYER}
    for layer in manifest.layers:
        assert sha256(b"".join(there.read(layer))) == layer.digest
    assert there.resolve("other").digest == there.resolve("other:latest").digest == there.resolve("").digest
    with pytest.raises(NotFound) as caught:
        there.resolve("triton:24.08")
    assert "triton:24.09" in str(caught.value.hint)


def test_a_layer_may_be_a_link_to_another_image_s(tmp_path: Path) -> None:
    files = docker_save(picture(layers=1))
    tar = files.pop("0/layer.tar")
    there = open_docker_archive(
        tar_of(tmp_path / "x.tar", {"0/layer.tar": "../base/layer.tar", "base/layer.tar": tar, **files})
    )
    (layer,) = manifest_of(there).layers
    assert b"".join(there.read(layer)) == tar


def test_layers_that_crane_compressed_are_found_by_what_they_are(tmp_path: Path) -> None:
    image = picture()
    files = docker_save(image)
    compressed = {
        name: gzip.compress(data, mtime=0) if name.endswith("layer.tar") and isinstance(data, bytes) else data
        for name, data in files.items()
    }
    there = open_docker_archive(tar_of(tmp_path / "x.tar", compressed))
    for layer in manifest_of(there).layers:
        assert layer.media_type == DOCKER_LAYER_GZIP
        assert b"".join(there.read(layer)).startswith(b"\x1f\x8b")


def test_a_changed_layer_of_docker_save_is_corrupt(tmp_path: Path) -> None:
    files = docker_save(picture(layers=1))
    there = open_docker_archive(tar_of(tmp_path / "x.tar", {**files, "0/layer.tar": layer_tar({"evil": b"x"})}))
    (layer,) = manifest_of(there).layers
    with pytest.raises(Corrupt):
        list(there.read(layer))


def test_the_other_kind_of_archive_is_named(tmp_path: Path, store: LayoutStore) -> None:
    saved = tar_of(tmp_path / "saved.tar", docker_save(picture()))
    with pytest.raises(NotFound) as caught:
        open_oci_archive(saved)
    assert caught.value.hint == f"docker-archive:{saved}"
    oci = tar_of(tmp_path / "oci.tar", {"oci-layout": b"{}", "index.json": b'{"manifests":[]}'})
    with pytest.raises(NotFound) as caught:
        open_docker_archive(oci)
    assert caught.value.hint == f"oci-archive:{oci}"


# -- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("opener", [open_oci_archive, open_docker_archive])
def test_files_that_are_no_archives(tmp_path: Path, opener: Any) -> None:
    with pytest.raises(NotFound, match="there is no archive"):
        opener(tmp_path / "nothing.tar")
    with pytest.raises(NotFound, match="cannot be read"):
        opener(tmp_path)
    (tmp_path / "noise.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(Corrupt, match="not a whole tar"):
        opener(tmp_path / "noise.tar")
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(b"tar"))
    with pytest.raises(Unplannable, match="compressed") as caught:
        opener(tmp_path / "x.tar.gz")
    assert caught.value.hint == f"gunzip {tmp_path / 'x.tar.gz'}"


def test_a_cut_archive_is_corrupt_wherever_it_was_cut(store: LayoutStore, tmp_path: Path) -> None:
    image, path = picture(filler=5000), tmp_path / "x.tar"
    write(store, image, path, "1")
    whole = path.read_bytes()
    for size in range(1000, len(whole) - 1024, 777):
        path.write_bytes(whole[:size])
        with pytest.raises((Corrupt, NotFound)):
            assert_same(open_oci_archive(path), "1", image)


def test_names_that_lead_outside_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    files = docker_save(picture(layers=1))
    del files["0/layer.tar"]
    for wanted in ("../secret", str(tmp_path / "secret"), "0/layer.tar", "loop"):
        item = json.loads(files["manifest.json"])
        item[0]["Layers"] = [wanted]
        links = {"0/layer.tar": "../../secret", "loop": "loop"}
        path = tar_of(tmp_path / "x.tar", {**files, **links, "manifest.json": json.dumps(item).encode()})
        with pytest.raises(Corrupt, match="there is no"):
            open_docker_archive(path)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[1]",
        b'[{"Config": 1}]',
        b'[{"Config": "c"}]',
        b'[{"Config": "c", "Layers": ["x"]}]',
        b"[" * 100_000,
    ],
)
def test_a_manifest_json_of_the_wrong_shape_is_corrupt(tmp_path: Path, document: bytes) -> None:
    path = tar_of(tmp_path / "x.tar", {"manifest.json": document, "c": b'{"rootfs":{"diff_ids":[]}}'})
    with pytest.raises(Corrupt):
        open_docker_archive(path).resolve("")


def test_a_json_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = 40 << 20
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(Corrupt, match="bytes"):
        open_docker_archive(path)


def test_a_negative_size_leads_in_no_circle(tmp_path: Path) -> None:
    """Source: CVE-2025-8194, where tarfile went back and forth between two headers."""
    path = tar_of(tmp_path / "x.tar", docker_save(picture()))
    whole = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for header in headers:
        damaged = whole.copy()
        damaged[header + 124 : header + 136] = b"\xff" * 10 + b"\xfc\x00"
        damaged[header + 148 : header + 156] = b" " * 8
        damaged[header + 148 : header + 156] = b"%06o\0 " % sum(damaged[header : header + 512])
        path.write_bytes(damaged)
        with pytest.raises(Corrupt):
            open_docker_archive(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_noise_in_headers_is_never_a_bug_or_a_hang(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.tar"
    whole = bytearray(tar_of(path, docker_save(picture(), ["x:1"])).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        block = data.draw(st.integers(0, len(whole) // 512 - 1)) * 512
        field = data.draw(st.sampled_from([0, 124, 148, 156, 157, 257, 345]))
        noise = data.draw(st.binary(min_size=1, max_size=12))
        whole[block + field : block + field + len(noise)] = noise
        head = whole[block : block + 512]
        head[148:156] = b" " * 8
        whole[block + 148 : block + 156] = b"%06o\0 " % sum(head)
    path.write_bytes(whole)
    started = time.monotonic()
    try:
        there = open_docker_archive(path)
        contents = survey(there, there.resolve(""))
        for blob in contents.blobs:
            assert sha256(b"".join(there.read(blob))) == blob.digest
    except TricomposeError:
        pass
    assert time.monotonic() - started < 5


# -- all of it or nothing ------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_archive_and_nothing_else(store: LayoutStore, tmp_path: Path) -> None:
    path = tmp_path / "out" / "x.tar"
    write(store, picture(), path, "1")
    broken = picture(layers=3, seed=3)
    put(store, broken, None)
    layer = store.path / "blobs/sha256" / broken.manifest.layers[2].digest[7:]
    layer.write_bytes(bytes(layer.stat().st_size))
    with pytest.raises(Corrupt):
        ArchiveTarget(path, docker=False).receive(store, broken.root, "1", emit=ignore, jobs=2)
    assert_same(open_oci_archive(path), "1", picture())
    assert list(path.parent.iterdir()) == [path]


KILLED = """
import os, sys
from pathlib import Path
from composer.oci.archive import ArchiveTarget
from composer.oci.layout import LayoutStore
store = LayoutStore(Path(sys.argv[1]))
ArchiveTarget(Path(sys.argv[2]), docker=False).receive(
    store, store.resolve("1"), "1", emit=lambda event: os.kill(os.getpid(), 9), jobs=1
)
"""


def test_what_a_killed_run_left_goes_with_the_next(store: LayoutStore, tmp_path: Path) -> None:
    put(store, picture(), "1")
    path = tmp_path / "out" / "x.tar"
    subprocess.run([sys.executable, "-c", KILLED, str(store.path), str(path)], check=False)
    assert len(list(path.parent.iterdir())) == 1
    assert not path.exists()
    write(store, picture(), path, "1")
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_too_small_is_said_at_once(store: LayoutStore, small_disk: Path) -> None:
    big = picture(filler=1 << 20)
    with pytest.raises(NoRoom, match=r"needs \d+ bytes"):
        write(store, big, small_disk / "x.tar", "1")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(store: LayoutStore, small_disk: Path) -> None:
    image = picture(filler=200_000)
    put(store, image, None)

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def read(self, descriptor: Any) -> Iterator[bytes]:
            with (small_disk / "hog").open("ab") as file:
                file.write(bytes(60_000))
            return store.read(descriptor)

    with pytest.raises(NoRoom, match="no space left"):
        ArchiveTarget(small_disk / "x.tar", docker=False).receive(Late(), image.root, "1", emit=ignore, jobs=1)
    assert [file.name for file in small_disk.iterdir()] == ["hog"]


def test_a_directory_is_not_replaced(store: LayoutStore, tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="is a directory"):
        write(store, picture(), tmp_path, "1")
