"""Locks: what a recipe's names meant stays what they mean, and what is here by digest is asked of nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.lockfile import lock_path
from tests.command import Said, tricompose
from tests.parity.place import BASE, Place, file, link, packed, server
from tests.services.proxy import Proxy
from tests.services.registry import Registry
from tests.services.web import web
from tests.services.wheels import PipIndex

pytestmark = pytest.mark.registry

PYTHON = [file("usr/bin/python3.10", b"", 0o755), link("usr/bin/python3", "python3.10", tarfile.SYMTYPE)]


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with Proxy(registry.port) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, registry: Registry, proxy: Proxy, repository: str) -> Place:
    """An upstream in a registry, and a recipe of it in `recipe.yaml`."""
    made = Place(tmp_path)
    put_upstream(made, registry, repository)
    up = f"docker://127.0.0.1:{proxy.port}/{repository}/up"
    made.origin = f"upstream: {{full: '{up}:full', min: '{up}:min'}}"
    return made


def put_upstream(place: Place, registry: Registry, repository: str) -> None:
    shutil.rmtree(place.path / "upstream", ignore_errors=True)
    layers = packed(server("onnxruntime", "python", extra=[file("weights", os.urandom(100_000))]))
    place.upstream(BASE, packed(PYTHON), layers, base=1)
    for tag in ("full", "min"):
        put(place, f"{registry.host}/{repository}/up:{tag}", tag)


def put(place: Place, name: str, tag: str) -> None:
    command = [
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        f"oci:{place.path}/upstream:{tag}",
        f"docker://{name}",
    ]
    subprocess.run(command, check=True)


def write(place: Place, text: str) -> Path:
    path = place.path / "recipe.yaml"
    path.write_text(f"{place.origin}\n{text}\noutputs: ['oci:result:slim']\n")
    return path


def run(place: Place, *arguments: str) -> Said:
    return tricompose(*arguments, "--cache", "cache", "--progress", "none", cwd=place.path)


def built(place: Place, *arguments: str) -> str:
    done = run(place, "build", "recipe.yaml", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["builds"][0]["digest"])


def test_a_tag_that_moves_is_what_it_was(place: Place, registry: Registry, repository: str) -> None:
    recipe = write(place, "backends: [python]")
    assert run(place, "lock", "recipe.yaml").returncode == 0
    first = built(place)
    put_upstream(place, registry, repository)
    assert built(place) == first
    assert built(place, "--locked") == first
    checked = run(place, "lock", "recipe.yaml", "--check")
    assert checked.returncode == 15
    assert checked.stdout.count("  changed") == 1, checked.stdout
    assert "hint: tricompose lock recipe.yaml" in checked.stderr
    before = lock_path(recipe).read_bytes()
    assert run(place, "lock", "recipe.yaml").returncode == 0
    assert lock_path(recipe).read_bytes() != before
    assert run(place, "lock", "recipe.yaml", "--check").returncode == 0
    assert built(place) != first


def test_a_dockerfile_is_pinned_by_the_lock(place: Place, registry: Registry, repository: str) -> None:
    write(place, "triton: '24.10'\nbackends: [python]")
    assert run(place, "lock", "recipe.yaml").returncode == 0
    meant = [pin["digest"] for pin in json.loads((place.path / "recipe.lock.json").read_text())["images"].values()]
    put_upstream(place, registry, repository)
    done = run(place, "plan", "recipe.yaml", "--dockerfile", "folder", "--pin")
    assert done.returncode == 0, done.stderr
    text = (place.path / "folder/Dockerfile").read_text()
    assert len(meant) == 2
    assert all(f"@{digest}" in text for digest in meant), text


def test_what_is_in_the_cache_is_asked_of_nobody(place: Place, proxy: Proxy) -> None:
    """All blobs of the upstream here by digest, and a lock: another set of backends is composed with no registry."""
    write(place, "backends: [python]")
    assert run(place, "lock", "recipe.yaml").returncode == 0
    for tag in ("full", "min"):
        assert run(place, "copy", f"oci:upstream:{tag}", f"oci:cache:{tag}").returncode == 0
    write(place, "backends: [onnxruntime, python]")
    before = len(proxy.requests)
    built(place, "--locked")
    assert len(proxy.requests) == before


def test_a_min_image_that_was_not_there_is_not_looked_for(place: Place, registry: Registry) -> None:
    """It follows from the release only: offline its absence must be as certain as the presence of others."""
    put(place, f"{registry.host}/nvidia/tritonserver:24.10-py3", "full")
    with Proxy(registry.port) as nvcr:
        address = f"127.0.0.1:{nvcr.port}"
        place.origin = f"triton: '24.10'\nnetwork: {{hosts: {{nvcr.io: '{address}'}}, insecure: [nvcr.io]}}"
        write(place, "backends: [python]")
        done = run(place, "lock", "recipe.yaml")
        assert done.returncode == 0, done.stderr
        lock = json.loads((place.path / "recipe.lock.json").read_text())
        assert lock["images"]["docker://nvcr.io/nvidia/tritonserver:24.10-py3-min"] is None
        assert run(place, "copy", "oci:upstream:full", "oci:cache:full").returncode == 0
        before = len(nvcr.requests)
        built(place, "--locked")
        assert len(nvcr.requests) == before


def test_a_lock_must_know_everything_where_that_is_asked_for(place: Place) -> None:
    write(place, "backends: [python]")
    done = run(place, "build", "recipe.yaml", "--locked")
    assert (done.returncode, "hint: tricompose lock recipe.yaml" in done.stderr) == (5, True), done.stderr
    (place.path / "recipe.lock.json").write_text('{"schema": 1}')
    done = run(place, "plan", "recipe.yaml", "--locked")
    assert (done.returncode, "does not say what" in done.stderr) == (7, True), done.stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "Invalid JSON"),
        ('{"schema": 2}', "schema: Input should be 1"),
        ('{"schema": 1, "images": {"a": {"digest": "latest", "size": 1, "media_type": "x"}}}', "images.a.digest"),
        ('{"schema": 1, "more": 1}', "more"),
    ],
)
def test_a_lock_that_is_none_is_named(place: Place, text: str, word: str) -> None:
    write(place, "backends: [python]")
    (place.path / "recipe.lock.json").write_text(text)
    done = run(place, "build", "recipe.yaml")
    assert done.returncode == 3
    assert "recipe.lock.json: " in done.stderr
    assert word in done.stderr


def test_models_and_wheels_are_locked_too(place: Place, tmp_path: Path) -> None:
    """A model that changes is refused with both digests; wheels are found again without an index."""
    folder = tmp_path / "web"
    folder.mkdir()
    index = PipIndex(folder=folder)
    index.add("dependable", "1.0")
    (folder / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests):\n        return []\n")
    with web(folder) as served:
        source = f"{served.url}/model.py"
        write(
            place,
            f"backends: [python]\nmodels: [{{name: one, source: '{source}', config: ./config.pbtxt}}]\n"
            f"packages: {{pip: [dependable]}}\nnetwork: {{pip_index: '{served.url}/simple'}}",
        )
        (place.path / "config.pbtxt").write_text('backend: "python"\nmax_batch_size: 0\n')
        done = run(place, "lock", "recipe.yaml")
        assert done.returncode == 0, done.stderr
        lock = json.loads((place.path / "recipe.lock.json").read_text())
        assert list(lock["models"]) == [source]
        [[wheel]] = lock["wheels"].values()
        assert (wheel["name"], wheel["version"]) == ("dependable", "1.0")
        first = built(place)
        index.add("dependable", "1.1")
        served.asked.clear()
        assert built(place) == first
        assert served.asked == []
        (folder / "model.py").write_text("another one")
        done = tricompose("build", "recipe.yaml", "--cache", "other", "--progress", "none", cwd=place.path)
        assert done.returncode == 10
        assert lock["models"][source]["digest"] in done.stderr
