"""What is said of real images that are not started: nothing of good ones, the right thing of broken ones.

The real loader of the GNU C library is the judge of how libraries are found: it is asked inside the image's own files.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from composer.checks.image import check_image
from composer.checks.image.libraries import files_of, library_path
from composer.checks.image.loader import CACHE, Process, read_cache
from composer.checks.image.notes import Notes
from composer.checks.image.reading import read_layers
from composer.checks.image.subject import Layer, Still
from composer.checks.report import Result
from composer.elf import read_elf
from composer.events import ignore
from composer.inventory import HOME
from composer.knowledge import Knowledge
from composer.oci.image import (
    OCI_CONFIG,
    OCI_LAYER,
    Descriptor,
    Image,
    canonical_json,
    make_manifest,
    parse_image,
    sha256,
)
from composer.oci.layout import LayoutStore
from composer.oci.tar import FILE, Entry
from composer.oci.unpack import unpack
from tests.elves import elf
from tests.quickstart import Quickstart
from tests.triton.images import read_image
from tests.unit.test_image_checks import At, Files, packed

LOADER = "/lib64/ld-linux-x86-64.so.2"
PACKAGES = "usr/local/lib/python3.11/dist-packages"
ROUNDS = 25


@dataclass(frozen=True)
class Bench:
    """The quickstart's image and its upstream, what is known of their layers, and the image's files unpacked."""

    slim: Image
    full: Image
    store: LayoutStore
    upstream: LayoutStore
    knowledge: Knowledge
    root: Path

    def look(self, image: Image, store: LayoutStore, *models: str) -> dict[str, Result]:
        found = check_image(image, store, None, knowledge=self.knowledge, models=models, emit=ignore)
        return {one.id.removeprefix("image:"): one for one in found}

    def with_layer(self, files: Files, **config: object) -> Image:
        """The slim image with one layer more, and another config."""
        tar = packed(files)
        blob = gzip.compress(tar, 1, mtime=0)
        said = {
            **self.slim.config,
            "config": {**self.slim.config["config"], **config},
            "rootfs": {"type": "layers", "diff_ids": [*self.slim.diff_ids, sha256(tar)]},
        }
        raw = canonical_json(said)
        layers = [*self.slim.layers, self._write(blob, f"{OCI_LAYER}+gzip")]
        manifest = make_manifest(self.slim.manifest.media_type, self._write(raw, OCI_CONFIG), layers)
        return parse_image(manifest, raw)

    def _write(self, data: bytes, kind: str) -> Descriptor:
        descriptor = Descriptor.of(data, kind)
        self.store.write(descriptor, lambda: iter([data]))
        return descriptor


@pytest.fixture(scope="module")
def made(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("static")
    slim, source = read_image(quickstart.image)
    full, upstream = read_image(f"oci:{quickstart.folder / 'build/upstream'}:24.10-py3")
    root = folder / "root"
    unpack(slim, source, root, emit=ignore)
    store = LayoutStore.ensure(folder / "store")
    for layer in slim.layers:
        store.write(layer, lambda layer=layer: source.read(layer))  # type: ignore[misc]
    knowledge = Knowledge(LayoutStore.ensure(folder / "cache"), published=None, emit=ignore)
    return Bench(slim=slim, full=full, store=store, upstream=upstream, knowledge=knowledge, root=root)


def outcomes(found: Mapping[str, Result]) -> dict[str, str]:
    return {name: one.outcome for name, one in found.items()}


def test_nothing_is_wrong_with_the_real_ones(made: Bench) -> None:
    found = made.look(made.slim, made.store, "add_sub", "linear_onnx")
    assert set(outcomes(found).values()) == {"passed"}, outcomes(found)
    assert found["python"].evidence["numpy"].startswith("1.")
    assert found["layers"].evidence["read"] == len(made.slim.layers)
    full = made.look(made.full, made.upstream)
    assert outcomes(full).pop("models") == "skipped"
    assert {*outcomes(full).values()} == {"passed", "skipped"}, outcomes(full)
    again = made.look(made.slim, made.store, "add_sub", "linear_onnx")
    assert again["layers"].evidence["read"] == 0
    assert outcomes(again) == outcomes(found)


@pytest.mark.parametrize(
    ("files", "config", "look", "says"),
    [
        (
            {"usr/lib/x86_64-linux-gnu/.wh.libpython3.11.so.1.0": ""},
            {},
            "libraries",
            "backends/python/triton_python_backend_stub needs libpython3.11.so.1.0, which the image does not have",
        ),
        ({f"{PACKAGES}/numpy/.wh.__init__.py": ""}, {}, "", ""),
        (
            {f"{PACKAGES}/numpy-2.0.2.dist-info/METADATA": "", f"{PACKAGES}/.wh.numpy-1.26.4.dist-info": ""},
            {},
            "python",
            "NumPy 2.0.2 beside the Python backend of 24.10",
        ),
        ({"opt/nvidia/nvidia_entrypoint.sh": "#!/bin/bash\n"}, {}, "start", "may not be executed by root"),
        ({}, {"User": "somebody"}, "start", "the user somebody is not in the image's /etc/passwd"),
        ({"models/add_sub/1/.wh.model.py": ""}, {}, "models", "the model add_sub has no file in /models/add_sub/1"),
        ({"models/add_sub/1/x.py": At(link="gone.py")}, {}, "links", "is a link to gone.py"),
        ({"root/.netrc": "machine h login me password s3cr3t-7"}, {}, "secrets", "a password in /root/.netrc, line 1"),
    ],
)
def test_a_real_one_that_is_broken(
    made: Bench, files: Files, config: Mapping[str, object], look: str, says: str
) -> None:
    found = made.look(made.with_layer(files, **config), made.store, "add_sub", "linear_onnx")
    failed = {name: one.message for name, one in found.items() if one.outcome != "passed"}
    assert look in failed or not look
    assert {*failed} <= {look}
    assert says in failed.get(look, "")


# -- the loader ---------------------------------------------------------------------------------------------------


def test_libraries_are_found_where_the_real_loader_finds_them(made: Bench) -> None:
    """Every file of the image that is loaded dynamically: a library more or less, or at another place, is a fault."""
    still = _still(made)
    paths = [entry.path for entry in still.tree.walk("") if entry.kind == FILE and still.binary(entry.path)]
    assert len(paths) > 500
    assert {path: answer for path in paths if (answer := _disagreement(made, still, path))} == {}


def test_libraries_that_are_gone_are_those_that_the_real_loader_misses(made: Bench) -> None:
    """Some libraries are taken away, at random, and everything of the server is asked again."""
    still, draw = _still(made), random.Random(1)
    house = [entry.path for entry in still.files(HOME) if still.binary(entry.path)]
    lost = 0
    libraries = sorted({path for one in house for path in _loaded(still, one).loaded.values() if "/ld-" not in path})
    for _ in range(ROUNDS):
        gone = [still.file(path) for path in draw.sample(libraries, 3)]
        paths = [entry.path for entry in gone if entry and not entry.path.endswith("libc.so.6")]
        poorer, left = _without(still, paths), [path for path in house if path not in paths]
        with _away(made.root, paths):
            assert {path: answer for path in left if (answer := _disagreement(made, poorer, path))} == {}, paths
        lost += sum(bool(_loaded(poorer, path).lacks) for path in left)
    assert lost > ROUNDS


def test_a_cache_that_ldconfig_made(made: Bench) -> None:
    """What NVIDIA's images have, and the stand-in has not: a cache that leads the loader to CUDA's libraries."""
    cache, program = made.root / CACHE, made.root / f"{HOME}/needy.so"
    still = _still(made)
    data = elf("libcudart.so.12")
    binary = read_elf(io.BytesIO(data), origin="needy.so")
    assert binary
    as_root = ["unshare", "--user", "--map-root-user", "/sbin/ldconfig", "-r", str(made.root)]
    try:
        program.write_bytes(data)
        subprocess.run(as_root, check=True, capture_output=True)
        printed = subprocess.run([*as_root, "-p"], check=True, capture_output=True, text=True).stdout
        told = {tuple(re.split(r" \(.*?\) => ", line.strip())) for line in printed.splitlines()[1:] if "=>" in line}
        text = read_cache(cache.read_bytes())
        assert {tuple(line.split(" ")) for line in text.splitlines()} == told
        entries = [Entry(path, FILE, 0o755, 0, 0, 0, 0) for path in (f"{HOME}/needy.so", CACHE)]
        notes = Notes(binaries={f"{HOME}/needy.so": binary}, texts={CACHE: text})
        richer = replace(still, layers=[*still.layers, Layer(digest="", entries=entries, notes=notes)])
        assert _disagreement(made, richer, f"{HOME}/needy.so") is None
        assert _loaded(richer, f"{HOME}/needy.so").loaded["libcudart.so.12"].startswith("usr/local/cuda")
        assert not _loaded(richer, f"{HOME}/needy.so").late
        cache.unlink()
        bare = replace(still, layers=[*still.layers, Layer(digest="", entries=entries[:1], notes=notes)])
        assert _loaded(bare, f"{HOME}/needy.so").late == [("libcudart.so.12", f"{HOME}/needy.so")]
        assert _asked(made, bare, f"{HOME}/needy.so")[1] == {"libcudart.so.12"}
    finally:
        cache.unlink(missing_ok=True)
        program.unlink(missing_ok=True)


def _still(made: Bench) -> Still:
    reading = read_layers(made.slim, made.store, made.knowledge, frozenset(), ignore)
    return Still(image=made.slim, layers=reading.layers)


def _without(still: Still, paths: Sequence[str]) -> Still:
    marks = [
        Entry(f"{path.rpartition('/')[0]}/.wh.{path.rpartition('/')[2]}", FILE, 0o644, 0, 0, 0, 0) for path in paths
    ]
    return replace(still, layers=[*still.layers, Layer(digest="", entries=marks, notes=Notes())])


class _away:  # noqa: N801
    """Files that are somewhere else for a while."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._files = [root / path for path in dict.fromkeys(paths)]

    def __enter__(self) -> None:
        for file in self._files:
            file.rename(file.with_name(f"{file.name}~"))

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.with_name(f"{file.name}~").rename(file)


def _loaded(still: Still, path: str) -> Process:
    process = Process(files=files_of(still), library_path=library_path(still))
    process.load(path)
    return process


def _disagreement(made: Bench, still: Still, path: str) -> object:
    """What our rules and the real loader say of a file, where they differ."""
    ours, (found, missing) = _loaded(still, path), _asked(made, still, path)
    where = {name: still.file(place) for name, place in ours.loaded.items()}
    wrong = {name: (place, where.get(name)) for name, place in found.items() if still.file(place) != where.get(name)}
    lacks = {one.library for one in ours.lacks if not one.version}
    versions = [one.version for one in ours.lacks if one.version]
    return (wrong, lacks, missing, versions) if wrong or lacks != missing or versions else None


def _asked(made: Bench, still: Still, path: str) -> tuple[dict[str, str], set[str]]:
    """Where the real loader finds the libraries of a file, and those that it does not find, as ldd asks it."""
    enter = ["unshare", "--user", "--map-root-user", f"--root={made.root}"]
    # The image's own env sets what would have the loader trace the programs on the way too.
    trace = ["/usr/bin/env", "LD_TRACE_LOADED_OBJECTS=1", f"LD_LIBRARY_PATH={still.env['LD_LIBRARY_PATH']}"]
    said = subprocess.run([*enter, *trace, LOADER, f"/{path}"], capture_output=True, text=True, check=False)
    lines = [line.split() for line in said.stdout.splitlines()]
    found = {line[0]: line[2] for line in lines if len(line) > 3 and line[1] == "=>" and line[2].startswith("/")}
    missing = {line[0] for line in lines if line[1:] == ["=>", "not", "found"]}
    missing |= set(re.findall(r"error while loading shared libraries: (\S+): cannot open", said.stderr))
    assert "version" not in said.stderr, said.stderr
    return found, missing
