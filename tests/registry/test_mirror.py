"""`tricompose mirror` between real registries: what moves, what does not, and who finds the images by the rules."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from composer.errors import Unplannable
from composer.mirroring import Destination, Manner, Mirrored, Wanted, failure, mirror, of_recipe
from composer.network.rules import read
from composer.network.writing import write, written
from composer.oci.image import OCI_MANIFEST, Descriptor, Manifest, Platform, canonical_json, parse_manifest
from composer.oci.names import parse_reference
from composer.oci.registry import RegistryStore
from composer.recipe import load_recipe, parse_recipe
from composer.workplace import Workplace
from tests.command import COMMAND, environment, running, tricompose
from tests.conftest import require
from tests.images import AMD64, Picture, index_of, picture, put
from tests.parity.place import BASE, Place, file, packed, server
from tests.services.proxy import Answer, Proxy, Stall
from tests.services.registry import PASSWORD, USERNAME, Registry, login, running_registry, store_at

pytestmark = pytest.mark.registry

ARM64 = Platform(os="linux", architecture="arm64")


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that asks for name and password, without TLS."""
    require("docker-registry")
    with running_registry(tmp_path_factory.mktemp("asking"), basic=True) as running:
        yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """From one registry to another that asks for a login, both behind proxies that count."""

    near: Proxy
    far: Proxy
    source: Registry
    target: Registry
    name: str
    path: Path

    def put(self, repository: str, image: Picture, tag: str | None) -> str:
        """Put an image into the source. What it is called there."""
        put(self.upstream(repository), image, tag)
        return self.called(repository, tag or "")

    def upstream(self, repository: str) -> RegistryStore:
        return store_at(f"{self.source.host}/{self.name}/{repository}")

    def called(self, repository: str, tag: str) -> str:
        return f"docker://{self.near.host}/{self.name}/{repository}:{tag}"

    def mirrored(self, repository: str) -> RegistryStore:
        """The repository of the target that images of one of the source go to."""
        place = f"{self.target.host}/{self.name}/m/{self.near.host.replace(':', '_')}/{self.name}/{repository}"
        return store_at(place, credentials=login(self.path / "judge", self.target.host))

    @property
    def to(self) -> str:
        return f"docker://{self.far.host}/{self.name}/m"

    def workplace(self) -> Workplace:
        environ = {"DOCKER_CONFIG": str(self.path / ".docker")}
        return Workplace.from_environment(environ, home=self.path, cache=self.path / "cache")

    def run(self, *names: str, watch: bool = False, platforms: Sequence[Platform] | None = None) -> list[Mirrored]:
        place = self.workplace()
        wanted = [Wanted(reference=parse_reference(name), place=place) for name in names]
        manner = Manner(watch=watch, platforms=platforms)
        return list(mirror(wanted, Destination.parse(self.to), manner, jobs=4, emit=place.emit))

    def command(self, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        more = ("--cache", self.path / "cache", "--progress", "plain")
        return tricompose("mirror", *arguments, "--to", self.to, *more, cwd=self.path, timeout=timeout)

    def asked(self) -> list[str]:
        """What was asked of both since the last time, but for what was refused for want of a login."""
        found = [f"{one.method} {one.path}" for one in self.near.requests]
        found += [f"{one.method} {one.path}" for one in self.far.requests if "Authorization" in one.headers]
        self.near.requests.clear()
        self.far.requests.clear()
        return found

    def moved(self) -> tuple[int, int]:
        """Bytes that were fetched of blobs, and bytes that were sent, since the beginning."""
        return self.near.bytes_to_client, self.far.bytes_to_upstream


@pytest.fixture
def way(registry: Registry, asking: Registry, repository: str, tmp_path: Path) -> Iterator[Way]:
    with Proxy(registry.port) as near, Proxy(asking.port) as far:
        login(tmp_path / ".docker", far.host)
        yield Way(near=near, far=far, source=registry, target=asking, name=repository, path=tmp_path)


def actions(found: Sequence[Mirrored]) -> list[str]:
    return [one.action for one in found]


def signature(subject: Descriptor | None, seed: int = 1) -> Picture:
    """A signature as an artifact: of a subject, or as cosign has it, by its tag alone."""
    image = picture(layers=1, seed=seed)
    document = {**json.loads(image.manifest.raw), "artifactType": "application/vnd.example.signature"}
    if subject:
        document["subject"] = subject.to_json()
    raw = canonical_json(document)
    manifest = parse_manifest(raw, OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    return Picture(manifest=manifest, data={**image.data, manifest.descriptor.digest: raw})


# -- what moves ---------------------------------------------------------------------------------------------------


def test_a_second_run_asks_twice_for_each_image_and_moves_nothing(way: Way) -> None:
    names = [way.put("app", picture(seed=seed, filler=200_000), f"{seed}") for seed in (1, 2, 3)]
    first = way.run(*names)
    assert actions(first) == ["copied"] * 3
    assert [way.mirrored("app").resolve(str(seed)).digest for seed in (1, 2, 3)] == [one.digest for one in first]
    way.asked()
    second = way.run(*names)
    assert actions(second) == ["unchanged"] * 3
    assert [one.size.moved for one in second] == [0, 0, 0]
    assert len(way.asked()) == 2 * len(names)


def test_what_images_have_in_common_moves_once(way: Way) -> None:
    """One large layer in ten images of five repositories: fetched once, sent once, mounted in four."""
    size = 400_000
    images = [picture(seed=7, filler=size, layers=1 + count) for count in range(5)]
    common = {images[0].manifest.layers[0].digest}
    assert all(common <= {layer.digest for layer in image.manifest.layers} for image in images)
    names = [way.put(f"app{number % 5}", images[number // 2], f"{number}") for number in range(10)]
    found = way.run(*names)
    assert actions(found) == ["copied"] * 10
    fetched, sent = way.moved()
    assert fetched < 1.2 * size
    assert sent < 1.2 * size
    assert sum(one.size.moved for one in found) < 1.2 * size
    assert sum(one.size.mounted + one.size.skipped for one in found) >= 9 * size


def test_an_image_that_fails_leaves_no_tag_and_keeps_no_other(way: Way) -> None:
    good, bad = picture(seed=1, filler=100_000, layers=3), picture(seed=1, filler=100_000, layers=4)
    names = [way.put("bad", bad, "1"), way.put("good", good, "1"), way.called("none", "1")]
    way.near.rules.append(Answer(path=f"/blobs/{bad.manifest.config.digest}", status=404))
    found = way.run(*names)
    assert actions(found) == ["failed", "copied", "failed"]
    assert way.mirrored("good").resolve("1") == good.root
    assert _tags(way.mirrored("bad")) == []
    error = failure(found)
    assert error is not None
    assert "2 of 3 images could not be mirrored" in error.message
    assert (error.status, error.code) == (5, "not-found")
    way.near.rules.clear()
    assert actions(way.run(*names)) == ["copied", "unchanged", "failed"]


def _tags(store: RegistryStore) -> list[str]:
    try:
        return store._tags()
    except Exception:  # noqa: BLE001 - no such repository
        return []


def test_a_run_that_was_killed_is_gone_on_with(way: Way) -> None:
    """What had come is not fetched again; the image that was under way has no tag before it is whole."""
    small, large = picture(seed=1, filler=300_000), picture(seed=2, filler=2_000_000)
    names = [way.put("small", small, "1"), way.put("large", large, "1")]
    stall = Stall(path=f"/blobs/{large.manifest.layers[0].digest}", at=1_000_000)
    way.near.rules.append(stall)
    with running("mirror", *names, "--to", way.to, cwd=way.path) as process:
        _until(lambda: way.near.bytes_to_client > 1_000_000 and _tags(way.mirrored("small")) == ["1"])
        process.send_signal(signal.SIGKILL)
    assert _tags(way.mirrored("large")) == []
    way.near.rules.clear()
    before = way.near.bytes_to_client
    assert way.command(*names).returncode == 0
    assert way.near.bytes_to_client - before < 2_100_000
    assert way.mirrored("large").resolve("1") == large.root


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def test_ctrl_c_gives_up_the_upload_and_leaves_no_tag(way: Way) -> None:
    name = way.put("app", picture(seed=3, filler=2_000_000), "1")
    way.near.rules.append(Stall(at=1_000_000))
    with running("mirror", name, "--to", way.to, cwd=way.path) as process:
        _until(lambda: way.near.bytes_to_client > 1_000_000)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert _tags(way.mirrored("app")) == []
    assert way.far.count("PATCH", "/blobs/uploads/") == 1, "the layer's, which was under way"
    assert way.far.count("DELETE", "/blobs/uploads/") == 1


def test_two_mirrors_at_once_come_to_the_same(way: Way) -> None:
    names = [
        way.put(f"app{seed}", picture(seed=seed % 3 + 1, filler=500_000, layers=seed), "1") for seed in range(1, 6)
    ]
    argv = [COMMAND, "mirror", *names, "--to", way.to, "--cache", str(way.path / "cache"), "--json"]
    both = [
        subprocess.Popen(argv, env=environment(way.path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert actions(way.run(*names)) == ["unchanged"] * 5


def test_the_mirror_itself_is_not_taken_for_the_source(way: Way) -> None:
    """With rules in force by which images are in the mirror, it still is filled from where they are."""
    old, new = picture(seed=1), picture(seed=2)
    name = way.put("app", old, "1")
    way.run(name)
    way.put("app", new, "1")
    mirror_of = f"{way.far.host}/{way.name}/m/{way.near.host.replace(':', '_')}"
    rules = way.path / "network.yaml"
    rules.write_text(f'network: {{mirrors: {{"{way.near.host}": ["{mirror_of}"]}}}}')
    assert way.command(name, "--network", rules).returncode == 0
    assert way.mirrored("app").resolve("1") == new.root


# -- tags, platforms, signatures ----------------------------------------------------------------------------------


def test_a_tag_that_moved_is_taken_over(way: Way) -> None:
    old, new = picture(seed=1), picture(seed=2)
    name = way.put("app", old, "1")
    way.run(name)
    way.put("app", new, "1")
    said = way.command(name, "--watch-tags", "--json")
    assert said.returncode == 0
    answer = json.loads(said.stdout)["mirrored"]
    (image,) = answer["images"]
    assert (image["action"], image["digest"], image["previous"]) == ("copied", new.root.digest, old.root.digest)
    assert (answer["changed"], answer["unchanged"], answer["failed"]) == (1, 0, 0)
    assert actions(way.run(name, watch=True)) == ["unchanged"]


def test_a_lock_says_what_a_tag_means_unless_tags_are_watched(way: Way) -> None:
    old, new = picture(seed=1), picture(seed=2)
    name = way.put("up", old, "full")
    (way.path / "recipe.yaml").write_text(f"upstream: {{full: '{name}'}}\nbackends: [python]\n")
    pin = {"digest": old.root.digest, "size": old.root.size, "media_type": old.root.media_type}
    (way.path / "recipe.lock.json").write_text(json.dumps({"schema": 1, "images": {name: pin}}))
    way.put("up", new, "full")
    recipe = load_recipe(way.path / "recipe.yaml", environ={})
    place = Workplace.from_environment({"DOCKER_CONFIG": str(way.path / ".docker")}, home=way.path, recipe=recipe)
    for pins, image in ((True, old), (False, new)):
        wanted = list(of_recipe(recipe, place, pins=pins))
        assert actions(mirror(wanted, Destination.parse(way.to), Manner(), jobs=4, emit=place.emit)) == ["copied"]
        assert way.mirrored("up").resolve("full") == image.root


def test_a_min_image_that_only_follows_from_a_release_may_be_absent(way: Way) -> None:
    recipe = parse_recipe('triton: "24.10"\nbackends: [python]\n', path=way.path / "recipe.yaml", environ={})
    needed = {str(one.reference): one.needed for one in of_recipe(recipe, way.workplace(), pins=True)}
    assert needed == {
        "docker://nvcr.io/nvidia/tritonserver:24.10-py3": True,
        "docker://nvcr.io/nvidia/tritonserver:24.10-py3-min": False,
    }
    place = way.workplace()
    wanted = [Wanted(reference=parse_reference(way.called("none", "1")), place=place, needed=False)]
    found = mirror(wanted, Destination.parse(way.to), Manner(), jobs=4, emit=place.emit)
    assert actions(found) == ["absent"]
    assert failure(found) is None


def test_an_index_comes_whole_or_by_platform(way: Way) -> None:
    store = way.upstream("app")
    images = [picture(seed=1, platform=AMD64), picture(seed=2, platform=ARM64)]
    for image in images:
        put(store, image, None)
    index = index_of((images[0], AMD64), (images[1], ARM64))
    store.publish(index.raw, index.media_type, "1")
    (one,) = way.run(way.called("app", "1"), platforms=[ARM64])
    assert (one.action, one.digest) == ("copied", images[1].root.digest)
    (again,) = way.run(way.called("app", "1"), platforms=[ARM64])
    assert again.action == "unchanged"
    (whole,) = way.run(way.called("app", "1"))
    assert (whole.digest, whole.previous) == (index.descriptor.digest, images[1].root.digest)
    assert way.mirrored("app").resolve("1").digest == index.descriptor.digest


def test_an_image_by_digest_alone_gets_a_tag_of_it(way: Way) -> None:
    image = picture(seed=1)
    way.put("app", image, "1")
    (found,) = way.run(f"docker://{way.near.host}/{way.name}/app@{image.root.digest}")
    assert found.action == "copied"
    assert way.mirrored("app").resolve(f"digest-{image.root.digest[7:19]}") == image.root


def test_signatures_come_with_the_image_and_later_ones_when_tags_are_watched(way: Way) -> None:
    image = picture(seed=1)
    name = way.put("app", image, "1")
    store = way.upstream("app")
    by_tag, by_subject, of_signature = signature(None, 2), signature(image.root, 3), signature(None, 4)
    prefix = image.root.digest.replace(":", "-")
    put(store, by_tag, f"{prefix}.sig")
    put(store, by_subject, None)
    (first,) = way.run(name)
    assert (first.action, first.attached) == ("copied", 2)
    copied = way.mirrored("app")
    assert copied.resolve(f"{prefix}.sig") == by_tag.root
    assert [one.digest for one in copied.referrers(image.root)] == [by_subject.root.digest]
    put(store, of_signature, f"{by_subject.root.digest.replace(':', '-')}.sig")
    assert way.run(name)[0].action == "unchanged"
    (late,) = way.run(name, watch=True)
    assert (late.action, late.attached, late.previous) == ("copied", 1, late.digest)
    assert way.run(name, watch=True)[0].action == "unchanged"


def test_a_signature_that_came_without_its_place_in_the_list_is_listed(way: Way) -> None:
    """As where a run was killed between the two: this registry keeps no list itself."""
    image = picture(seed=1)
    name = way.put("app", image, "1")
    signed = signature(image.root)
    put(way.upstream("app"), signed, None)
    way.run(name)
    copied = way.mirrored("app")
    listed = copied.resolve(image.root.digest.replace(":", "-"))
    address = f"http://{way.target.host}/v2/{copied.repository}/manifests/{listed.digest}"
    assert requests.delete(address, auth=(USERNAME, PASSWORD), timeout=10).status_code == 202
    assert way.mirrored("app").referrers(image.root) == ()
    assert way.run(name, watch=True)[0].attached == 1
    assert [one.digest for one in way.mirrored("app").referrers(image.root)] == [signed.root.digest]


def test_two_images_of_one_name_are_refused_before_anything_moves(way: Way) -> None:
    names = [f"oci:{way.path}/a/up:1", f"oci:{way.path}/b/up:1"]
    with pytest.raises(Unplannable, match="would both be"):
        way.run(*names)
    assert way.asked() == []


# -- what is asked for --------------------------------------------------------------------------------------------


def test_lists_name_images_too(way: Way) -> None:
    names = [way.put("app", picture(seed=seed), str(seed)) for seed in (1, 2, 3)]
    (way.path / "images.txt").write_text(f"# ours\n\n{names[0].removeprefix('docker://')}   # the first\n")
    (way.path / "images.yaml").write_text(f"images:\n  - {names[1]}\n")
    argv = [COMMAND, "mirror", "images.txt", "--list", "images.yaml", "--list", "-", "--to", way.to, "--json"]
    argv += ["--insecure", way.far.host, "--insecure", "elsewhere.example.com"]
    env = environment(way.path)
    said = subprocess.run(argv, input=names[2], text=True, capture_output=True, cwd=way.path, env=env, check=True)
    answer = json.loads(said.stdout)["mirrored"]
    assert [one["source"] for one in answer["images"]] == names
    assert answer["changed"] == 3
    mirror_of = f"{way.far.host}/{way.name}/m/{way.near.host.replace(':', '_')}"
    assert answer["rules"]["network"] == {"mirrors": {way.near.host: [mirror_of]}, "insecure": [way.far.host]}


def test_a_dry_run_says_what_would_move_and_moves_nothing(way: Way) -> None:
    image = picture(seed=1, filler=100_000)
    names = [way.put(f"app{number}", image, "1") for number in range(2)]
    said = way.command(*names, "--dry-run", "--json", "--rules", "rules")
    assert said.returncode == 0
    answer = json.loads(said.stdout)["mirrored"]
    assert [one["action"] for one in answer["images"]] == ["pending", "pending"]
    assert sum(one["moved"] for one in answer["images"]) == image.manifest.config.size + sum(
        layer.size for layer in image.manifest.layers
    )
    assert not (way.path / "rules").exists()
    assert not [line for line in way.asked() if line.split()[0] not in ("HEAD", "GET")]


def test_what_failed_is_told_and_the_status_says_so(way: Way) -> None:
    bare = way.command(way.called("app", "1").removeprefix("docker://"))
    assert bare.returncode == 2
    assert f"hint: {way.called('app', '1')}" in bare.stderr
    said = way.command(way.put("app", picture(seed=1), "1"), way.called("none", "1"), "--json")
    assert said.returncode == 5
    answer = json.loads(said.stdout)
    assert [one["action"] for one in answer["mirrored"]["images"]] == ["copied", "failed"]
    assert answer["mirrored"]["images"][1]["error"]["code"] == "not-found"
    assert answer["error"]["code"] == "not-found"
    assert way.called("none", "1") in said.stderr
    assert PASSWORD not in said.stdout + said.stderr


def test_rules_of_somebody_else_are_not_written_over(way: Way) -> None:
    (way.path / "rules").mkdir()
    (way.path / "rules/registries.conf").write_text("unqualified-search-registries = []\n")
    said = way.command(way.put("app", picture(seed=1), "1"), "--rules", "rules")
    assert said.returncode == 7
    assert "was not written by tricompose mirror" in said.stderr
    assert [line for line in way.asked() if "/m/" in line] == []


# -- who finds the images by the rules ----------------------------------------------------------------------------


@contextmanager
def mirrored_and_gone(path: Path, guarded: Registry, fill: Any, what: Sequence[str], repository: str) -> Iterator[str]:
    """Mirror `what` of a registry that `fill` fills, with the rules in `path/rules`; it is stopped after that."""
    login(path / ".docker", guarded.host)
    with running_registry(path / "gone") as gone:
        names = fill(gone)
        target = f"docker://{guarded.host}/{repository}"
        more = ("--to", target, "--rules", "rules", "--ca-bundle", guarded.certificate, "--cache", path / "cache")
        said = tricompose("mirror", *(what or names), *more, cwd=path)
        assert said.returncode == 0, said.stderr
    yield gone.host


@pytest.fixture
def upstream_gone(tmp_path: Path, guarded: Registry, repository: str) -> Iterator[str]:
    def fill(gone: Registry) -> list[str]:
        put(store_at(f"{gone.host}/nvidia/server"), picture(seed=1), "24.10")
        return [f"docker://{gone.host}/nvidia/server:24.10"]

    with mirrored_and_gone(tmp_path, guarded, fill, (), repository) as host:
        yield host


def test_a_build_goes_by_the_rules_with_the_upstream_gone(tmp_path: Path, guarded: Registry, repository: str) -> None:
    made = Place(tmp_path)
    made.upstream(BASE, packed([file("base")]), packed(server("onnxruntime", "python")), base=2)

    def fill(gone: Registry) -> list[str]:
        for tag in ("full", "min"):
            target = f"docker://{gone.host}/nvidia/up:{tag}"
            command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{tmp_path}/upstream:{tag}", target]
            subprocess.run(command, check=True)
        up = f"docker://{gone.host}/nvidia/up"
        recipe = f"upstream: {{full: '{up}:full', min: '{up}:min'}}\nbackends: [python]\n"
        (tmp_path / "recipe.yaml").write_text(recipe)
        return []

    with mirrored_and_gone(tmp_path, guarded, fill, ["recipe.yaml"], repository):
        build = ("build", "recipe.yaml", "--no-validate", "-o", f"oci:{tmp_path}/slim:1", "--cache", tmp_path / "fresh")
        without = tricompose(*build, cwd=tmp_path)
        assert without.returncode == 9, without.stderr
        said = tricompose(*build, "--network", "rules/network.yaml", cwd=tmp_path)
        assert said.returncode == 0, said.stderr


def test_whoever_goes_by_the_rules_finds_the_images(upstream_gone: str, tmp_path: Path, guarded: Registry) -> None:
    """With the registry gone that they come from: ourselves by each of the files, skopeo, containerd."""
    name = f"docker://{upstream_gone}/nvidia/server:24.10"
    for rules in ("registries.conf", "certs.d"):
        trusting = ("--ca-bundle", guarded.certificate) if rules == "registries.conf" else ()
        said = tricompose("inspect", name, "--network", f"rules/{rules}", *trusting, cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert "warning" not in said.stderr
    assert guarded.certificate
    blocked = replace(read(tmp_path / "rules/registries.conf").routes, blocked=frozenset({upstream_gone}))
    write(tmp_path / "blocked", written(blocked, {guarded.host: guarded.certificate.read_text()}))
    with _running_containerd(tmp_path / "containerd") as address:
        for folder in ("rules", "blocked"):
            _copy_by_skopeo(name, tmp_path, folder, guarded)
            _fetch_by_containerd(name.removeprefix("docker://"), tmp_path / folder, address)


@pytest.mark.parametrize("seed", range(5))
def test_a_registries_conf_means_to_us_what_it_means_to_skopeo(seed: int, tmp_path: Path) -> None:
    """Whom skopeo asks for an image that nobody has, in order: prefixes within prefixes, mirrors, other locations."""
    require("skopeo")
    drawn = random.Random(seed)
    with _nobodies(3) as (hosts, asked):
        name = f"docker://{hosts[0]}/a/b/c:1"
        for _ in range(5):
            text = _conf(drawn, hosts)
            (tmp_path / "registries.conf").write_text(text)
            argv = [
                "skopeo",
                "--registries-conf",
                str(tmp_path / "registries.conf"),
                "inspect",
                "--tls-verify=false",
                name,
            ]
            asked.clear()
            subprocess.run(argv, capture_output=True, timeout=60, check=False)
            places = read(tmp_path / "registries.conf").routes.places(parse_reference(name))
            assert list(dict.fromkeys(asked)) == [one.place for one in places], text


def _conf(drawn: random.Random, hosts: Sequence[str]) -> str:
    """Rules for the first host and parts of it. Only shorter prefixes than the image itself may be a bare host."""
    lines = []
    prefixes = [hosts[0], f"{hosts[0]}/a", f"{hosts[0]}/a/b", f"{hosts[0]}/x", hosts[1]]
    for prefix in drawn.sample(prefixes, drawn.randrange(1, 5)):
        location = drawn.choice([prefix, prefix, drawn.choice(hosts) + drawn.choice(["", "/m", "/m/n"])])
        lines += ["[[registry]]", f'prefix = "{prefix}"', f'location = "{location}"', "insecure = true"]
        lines += ["mirror-by-digest-only = true"] if drawn.random() < 0.1 else []
        for _ in range(drawn.randrange(4)):
            place = drawn.choice(hosts) + drawn.choice(["", "/m", "/m/n"])
            lines += ["[[registry.mirror]]", f'location = "{place}"', "insecure = true"]
    return "\n".join(lines) + "\n"


@contextmanager
def _nobodies(number: int) -> Iterator[tuple[list[str], list[str]]]:
    """Registries in which there is nothing: their hosts, and a list that every repository is added to that is asked."""
    asked: list[str] = []

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/manifests/" in self.path:
                repository = self.path.removeprefix("/v2/").partition("/manifests/")[0]
                assert isinstance(self.server, ThreadingHTTPServer)
                asked.append(f"127.0.0.1:{self.server.server_port}/{repository}")
            self.send_response(200 if self.path == "/v2/" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...  # noqa: A002 - its name there

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Empty) for _ in range(number)]
    for server_ in servers:
        threading.Thread(target=server_.serve_forever, daemon=True).start()
    try:
        yield [f"127.0.0.1:{one.server_port}" for one in servers], asked
    finally:
        for server_ in servers:
            server_.shutdown()
            server_.server_close()


def _copy_by_skopeo(name: str, path: Path, folder: str, guarded: Registry) -> None:
    require("skopeo")
    # skopeo reads the certificates of a host in a folder, which here is not /etc/containers/certs.d.
    argv = ["skopeo", "--registries-conf", str(path / folder / "registries.conf"), "copy", "-q", "--preserve-digests"]
    argv += ["--authfile", str(path / ".docker/config.json")]
    argv += ["--src-cert-dir", str(path / folder / "certs.d" / guarded.host), name, f"oci:{path}/copied-by-{folder}:1"]
    subprocess.run(argv, check=True, timeout=120)
    (entry,) = json.loads((path / f"copied-by-{folder}/index.json").read_text())["manifests"]
    assert entry["digest"] == picture(seed=1).root.digest


def _fetch_by_containerd(name: str, rules: Path, address: str) -> None:
    """Fetch an image into a namespace of its own, in which there is nothing yet."""
    ctr = ["ctr", "--address", address, "--namespace", rules.name, "content"]
    argv = [*ctr, "fetch", "--hosts-dir", str(rules / "certs.d"), "--user", f"{USERNAME}:{PASSWORD}", name]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    listed = subprocess.run([*ctr, "ls", "-q"], capture_output=True, text=True, check=True)
    assert picture(seed=1).root.digest in listed.stdout.split()


@contextmanager
def _running_containerd(folder: Path) -> Iterator[str]:
    require("containerd", "ctr")
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    address = str(folder / "sock")
    argv = ["containerd", "--config", str(config), "--root", str(folder / "root"), "--state", str(folder / "state")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*argv, "--address", address], stdout=log, stderr=log, start_new_session=True)
    try:
        _until(lambda: os.path.exists(address))
        yield address
    finally:
        process.terminate()
        process.wait(20)
