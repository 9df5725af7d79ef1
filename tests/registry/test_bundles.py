"""`tricompose bundle` between real registries, with a far side that reaches its own registry and nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from composer.oci.image import OCI_INDEX, Manifest, Platform, make_index, parse_manifest
from composer.oci.layout import LayoutStore
from tests.command import COMMAND, Said, environment, tricompose
from tests.conftest import require
from tests.images import AMD64, entry, picture, put
from tests.parity.place import BASE, HOME, Place, file, link, packed, server
from tests.repositories import put_model
from tests.services.dockerd import Dockerd
from tests.services.namespaces import Machine, machine
from tests.services.proxy import Proxy
from tests.services.registry import PASSWORD, USERNAME, Registry, login, running_registry, store_at
from tests.services.web import web
from tests.services.wheels import PipIndex

pytestmark = pytest.mark.registry

ARM64 = Platform(os="linux", architecture="arm64")
BACKEND = 3_000_000
WEIGHTS = 1_500_000
PYTHON = [file("usr/bin/python3.10", b"", 0o755), link("usr/bin/python3", "python3.10", tarfile.SYMTYPE)]
FAR = "harbor.far.example:5000"
ADDRESS = "10.0.0.5"
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """The side with a network: a registry with an upstream, and recipes. All of it is made once."""

    path: Path
    registry: Registry

    @property
    def upstream(self) -> str:
        return f"{self.registry.host}/nvidia/tritonserver"

    def recipe(
        self, folder: Path, backends: str, *, name: str = "recipe", output: str = "tools/slim:1", more: str = ""
    ) -> Path:
        """A recipe with its models, in a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "models").exists():
            shutil.copytree(self.path / "models", folder / "models")
        path = folder / f"{name}.yaml"
        origin = f"upstream: {{full: 'docker://{self.upstream}:full', min: 'docker://{self.upstream}:min'}}"
        path.write_text(
            f"{origin}\nbackends: [{backends}]\nmodels: [{{path: ./models}}]\n"
            f"network: {{insecure: ['{self.registry.host}']}}\noutputs: ['docker://{FAR}/{output}']\n{more}"
        )
        return path

    def create(self, folder: Path, *arguments: object, recipe: Path, out: str = "out/tri") -> Said:
        said = run("create", recipe, "-o", folder / out, "--no-validate", *arguments, cwd=folder)
        assert said.returncode == 0, said.stderr
        return said


def run(command: str, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Said:
    more = ("--progress", "plain", *(() if command in ("verify", "inspect") else ("--cache", cwd / "cache")))
    given = () if "--cache" in arguments else more
    return tricompose("bundle", command, *arguments, *given, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Near]:
    require("docker-registry", "skopeo")
    path = tmp_path_factory.mktemp("near")
    noise = random.Random(5)
    names = ("onnxruntime", "python", "tensorrt")
    extra = [file(f"{HOME}/backends/{name}/weights", noise.randbytes(BACKEND)) for name in names]
    place = Place(path)
    place.upstream(BASE, packed(PYTHON), packed(server(*names, extra=extra)), base=1)
    for name in ("one", "two"):
        model = put_model(path / "models" / name, "python")
        (model / "1" / "weights").write_bytes(noise.randbytes(WEIGHTS))
    with running_registry(path / "registry") as registry:
        made = Near(path=path, registry=registry)
        for tag in ("full", "min"):
            skopeo("copy", "--dest-tls-verify=false", f"oci:{path}/upstream:{tag}", f"docker://{made.upstream}:{tag}")
        yield made


@pytest.fixture
def far(tmp_path: Path, registry: Registry) -> Iterator[Machine]:
    """A machine that reaches a registry by name, and nobody else."""
    with (
        machine(tmp_path / "machine", names={FAR.partition(":")[0]: ADDRESS}) as made,
        made.door((ADDRESS, 5000), ("127.0.0.1", registry.port)),
    ):
        yield made


def skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def over_there(far: Machine, *arguments: object, cwd: Path) -> Said:
    cwd.mkdir(exist_ok=True)
    more = ("--insecure", FAR, "--cache", cwd / "cache", "--progress", "plain")
    return far.run(COMMAND, *arguments, *more, cwd=cwd, env=environment(cwd))


def document(folder: Path, out: str = "out/tri") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{out}.bundle.json").read_text())
    return found


def items(folder: Path, out: str = "out/tri") -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in document(folder, out)["items"]}


# -- there and back -----------------------------------------------------------------------------------------------


def test_a_bundle_is_loaded_and_built_from_where_nobody_else_is_reached(
    near: Near, far: Machine, registry: Registry, repository: str, tmp_path: Path
) -> None:
    recipe = near.recipe(tmp_path / "project", "onnxruntime, python")
    near.create(tmp_path, "--part-size", "1MB", recipe=recipe)
    parts = sorted((tmp_path / "out").glob("tri.tar.*"))
    assert {part.stat().st_size for part in parts[:-1]} == {1_000_000}
    carried = tmp_path / "usb"
    shutil.copytree(tmp_path / "out", carried)
    assert not far.reaches(("127.0.0.1", near.registry.port), within=0.5)

    verified = far.run(COMMAND, "bundle", "verify", carried / "tri", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    home = tmp_path / "home"
    to = f"docker://{FAR}/{repository}"
    loaded = over_there(far, "bundle", "load", carried / "tri", "--to", to, "--rules", home / "rules", cwd=home)
    assert loaded.returncode == 0, loaded.stderr
    assert set(far.asked) <= {FAR.partition(":")[0]}

    place = f"{registry.host}/{repository}"
    mirrored = f"{place}/{near.registry.host.replace(':', '_')}/nvidia/tritonserver"
    assert store_at(mirrored).resolve("full").digest == store_at(near.upstream).resolve("full").digest
    assert store_at(mirrored).resolve("min").digest == store_at(near.upstream).resolve("min").digest
    composed = items(tmp_path)["tools/slim:1"]["digest"]
    assert store_at(f"{place}/tools/slim").resolve("1").digest == composed
    skopeo("copy", "--src-tls-verify=false", f"docker://{place}/tools/slim:1", f"dir:{tmp_path}/pulled")

    # Into the cache, and then composed again, of other backends, by the lock alone.
    loaded = over_there(far, "bundle", "load", carried / "tri", "--into", home / "projects", cwd=home)
    assert loaded.returncode == 0, loaded.stderr
    there = home / "projects/recipe"
    assert not subprocess.run(["diff", "-r", tmp_path / "project/models", there / "models"], check=False).returncode
    other = there / "other.yaml"
    other.write_text((there / "recipe.yaml").read_text().replace("[onnxruntime, python]", "[python, tensorrt]"))
    shutil.copy(there / "recipe.lock.json", there / "other.lock.json")
    built = over_there(far, "build", other, "--locked", "--no-validate", "-o", f"{to}/tools/slim:other", cwd=home)
    assert built.returncode == 0, built.stderr
    recipe = near.recipe(tmp_path / "project", "python, tensorrt", name="other")
    more = ("--no-validate", "-o", f"oci:{tmp_path}/judge:x", "--cache", tmp_path / "other-cache")
    at_home = tricompose("build", recipe, *more, cwd=tmp_path)
    assert at_home.returncode == 0, at_home.stderr
    assert (
        store_at(f"{place}/tools/slim").resolve("other").digest == LayoutStore(tmp_path / "judge").resolve("x").digest
    )

    # And from the registry there, by the rules that were written, without the cache.
    (there / "third.yaml").write_text((there / "recipe.yaml").read_text())
    built = far.run(
        COMMAND, "build", there / "third.yaml", "--no-validate", "-o", f"oci:{home}/third:x",
        "--network", home / "rules/network.yaml", "--cache", home / "empty", cwd=home, env=environment(home),
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert LayoutStore(home / "third").resolve("x").digest == composed


def test_the_same_again_is_the_same_and_moves_nothing(
    near: Near, registry: Registry, repository: str, tmp_path: Path
) -> None:
    recipe = near.recipe(tmp_path / "project", "python")
    near.create(tmp_path, "--part-size", "1MB", recipe=recipe)
    near.create(tmp_path, "--part-size", "1MB", recipe=recipe, out="again/tri")
    first, second = ({one.name: one.read_bytes() for one in (tmp_path / name).iterdir()} for name in ("out", "again"))
    assert first == second
    with Proxy(registry.port) as proxy:
        to = ("--to", f"docker://{proxy.host}/{repository}")
        assert run("load", tmp_path / "out/tri", *to, cwd=tmp_path).returncode == 0
        sent = proxy.bytes_to_upstream
        payload = sum(blob["size"] for blob in document(tmp_path)["blobs"])
        assert sent < payload + MIB
        assert run("load", tmp_path / "out/tri", *to, cwd=tmp_path).returncode == 0
        assert proxy.bytes_to_upstream - sent < 20_000


def test_others_read_it_too(near: Near, tmp_path: Path) -> None:
    near.create(tmp_path, "--part-size", "4MB", recipe=near.recipe(tmp_path / "project", "python"))
    whole = tmp_path / "whole.tar"
    whole.write_bytes(b"".join(part.read_bytes() for part in sorted((tmp_path / "out").glob("tri.tar.*"))))
    for name, item in items(tmp_path).items():
        if item["kind"] != "recipe":
            skopeo("copy", f"oci-archive:{whole}:{name}", f"oci:{tmp_path}/copied:{item['kind']}")
            assert LayoutStore(tmp_path / "copied").resolve(item["kind"]).digest == item["digest"]
    with tarfile.open(whole) as tar:
        loadable = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert [one["RepoTags"] for one in loadable] == [["tools/slim:1"]]


@pytest.mark.docker
def test_docker_takes_it(near: Near, dockerd: Dockerd, tmp_path: Path) -> None:
    near.create(tmp_path, "--images-only", recipe=near.recipe(tmp_path / "project", "python"))
    dockerd.docker("load", stdin=(tmp_path / "out/tri.tar").read_bytes())
    loaded = dockerd.client().images.get("tools/slim:1")
    dockerd.remove_everything()
    env = {**environment(tmp_path), "DOCKER_HOST": dockerd.host}
    said = run("load", tmp_path / "out/tri", "--to", "docker-daemon:", cwd=tmp_path, env=env)
    assert said.returncode == 0, said.stderr
    assert dockerd.client().images.get("tools/slim:1").id == loaded.id


def test_only_the_layers_of_the_platforms_that_are_wanted(
    near: Near, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """Of an upstream for two platforms the other one's layers stay at home; the lock holds over there all the same."""
    repo = f"{near.registry.host}/{repository}"
    store = store_at(repo)
    skopeo("copy", "--dest-tls-verify=false", f"oci:{near.path}/upstream:full", f"docker://{repo}:amd")
    native = store.resolve("amd")
    other = picture(platform=ARM64, filler=MIB, seed=77)
    put(store, other, None)
    root = store.publish(
        make_index(OCI_INDEX, [replace(native, platform=AMD64), entry(other, ARM64)]).raw, OCI_INDEX, "full"
    )
    recipe = near.recipe(tmp_path / "project", "python")
    recipe.write_text(recipe.read_text().replace(f"{near.upstream}:full", f"{repo}:full"))
    near.create(tmp_path, recipe=recipe)
    held = {blob["digest"] for blob in document(tmp_path)["blobs"]}
    assert not held & {layer.digest for layer in other.manifest.layers}
    name = f"{repo}:full"
    assert items(tmp_path)[name]["digest"] == native.digest != root.digest
    said = run(
        "load", tmp_path / "out/tri", "--into", tmp_path / "there", "--cache", tmp_path / "far-cache", cwd=tmp_path
    )
    assert said.returncode == 0, said.stderr
    line = ["unshare", "--net", COMMAND, "build", tmp_path / "there/recipe/recipe.yaml", "--locked", "--no-validate"]
    line += ["-o", f"oci:{tmp_path}/built:x", "--cache", tmp_path / "far-cache"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert done.returncode == 0, done.stderr
    composed = items(tmp_path)["tools/slim:1"]["digest"]
    assert LayoutStore(tmp_path / "built").resolve("x").digest == composed
    # The lock holds too where only the registry over there has been loaded.
    to = ("--to", f"docker://{registry.host}/{repository}/m", "--rules", tmp_path / "rules")
    assert run("load", tmp_path / "out/tri", *to, cwd=tmp_path).returncode == 0
    more = ("--locked", "--no-validate", "-o", f"oci:{tmp_path}/by-rules:x", "--cache", tmp_path / "empty")
    network = ("--network", tmp_path / "rules/network.yaml")
    done = tricompose("build", tmp_path / "there/recipe/recipe.yaml", *more, *network, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert LayoutStore(tmp_path / "by-rules").resolve("x").digest == composed


def test_signatures_go_along(near: Near, registry: Registry, repository: str, tmp_path: Path) -> None:
    repo = f"{near.registry.host}/{repository}"
    store = store_at(repo)
    skopeo("copy", "--dest-tls-verify=false", f"oci:{near.path}/upstream:full", f"docker://{repo}:full")
    subject = store.resolve("full")
    cosign = picture(layers=1, seed=88)
    put(store, cosign, f"{subject.digest.replace(':', '-')}.sig")
    base = picture(layers=1, seed=89)
    raw = json.dumps(
        {**json.loads(base.manifest.raw), "artifactType": "application/vnd.example.sbom", "subject": subject.to_json()}
    )
    made = parse_manifest(raw.encode(), base.manifest.media_type)
    assert isinstance(made, Manifest)
    for blob in (made.config, *made.layers):
        store.write(blob, lambda blob=blob: iter([base.data[blob.digest]]))
    store.publish(made.raw, made.media_type, None)
    recipe = near.recipe(tmp_path / "project", "python")
    recipe.write_text(recipe.read_text().replace(f"{near.upstream}:full", f"{repo}:full"))
    near.create(tmp_path, recipe=recipe)
    said = run("load", tmp_path / "out/tri", "--to", f"docker://{registry.host}/{repository}/m", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    there = store_at(f"{registry.host}/{repository}/m/{repo.replace(':', '_')}")
    assert there.resolve("full").digest == subject.digest
    assert [one.digest for one in there.attached(subject).values()] == [cosign.root.digest]
    assert [one.digest for one in there.referrers(subject)] == [made.descriptor.digest]


# -- only what is lacking -----------------------------------------------------------------------------------------


def test_a_delta_by_what_the_far_side_really_holds(
    near: Near, registry: Registry, repository: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    near.create(tmp_path, "--images-only", recipe=near.recipe(project, "python"))
    to = f"docker://{registry.host}/{repository}"
    assert run("load", tmp_path / "out/tri", "--to", to, cwd=tmp_path).returncode == 0
    mirrored = f"{to}/{near.registry.host.replace(':', '_')}/nvidia/tritonserver"
    said = run("inventory", f"{to}/tools/slim", mirrored, "-o", tmp_path / "have.json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr

    weights = random.Random(6).randbytes(WEIGHTS)
    (project / "models/two/1/weights").write_bytes(weights)
    recipe = near.recipe(project, "python", output="tools/slim:2")
    near.create(tmp_path, "--images-only", "--since", tmp_path / "have.json", recipe=recipe, out="delta/tri")
    have = {blob["digest"] for blob in json.loads((tmp_path / "have.json").read_text())["blobs"]}
    delta = document(tmp_path, "delta/tri")
    assert not have & {blob["digest"] for blob in delta["blobs"]}
    assert (tmp_path / "delta/tri.tar").stat().st_size <= WEIGHTS * 1.01 + MIB

    with Proxy(registry.port) as proxy:
        to = f"docker://{proxy.host}/{repository}"
        done = run("load", tmp_path / "delta/tri", "--to", to, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert proxy.bytes_to_upstream < WEIGHTS + MIB
    digest = items(tmp_path, "delta/tri")["tools/slim:2"]["digest"]
    place = f"{registry.host}/{repository}/tools/slim"
    assert store_at(place).resolve("2").digest == digest
    skopeo("copy", "--src-tls-verify=false", f"docker://{place}:2", f"dir:{tmp_path}/pulled")


def test_a_registry_that_lacks_a_base_is_refused_before_anything_is_sent(
    near: Near, repository: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    near.create(tmp_path, recipe=near.recipe(project, "python"))
    recipe = near.recipe(project, "python, tensorrt")
    near.create(tmp_path, "--since", tmp_path / "out/tri.bundle.json", recipe=recipe, out="delta/tri")
    needs = document(tmp_path, "delta/tri")["needs"]
    wanted = [need for need in needs if any("/" in name and ":" in name for name in need["items"])]
    assert wanted
    with running_registry(tmp_path / "empty") as empty:
        done = run("load", tmp_path / "delta/tri", "--to", f"docker://{empty.host}/x", "--json", cwd=tmp_path)
        assert done.returncode == 5
        said = json.loads(done.stdout)["error"]["message"]
        assert [need for need in wanted if need["digest"] not in said] == []
        assert empty.blobs() == set()
        assert list(empty.storage.rglob("_uploads")) == []
        # With the earlier one there, its images in other repositories are base enough.
        assert run("load", tmp_path / "out/tri", "--to", f"docker://{empty.host}/x", cwd=tmp_path).returncode == 0
        done = run("load", tmp_path / "delta/tri", "--to", f"docker://{empty.host}/x", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        slim = store_at(f"{empty.host}/x/tools/slim")
        assert slim.resolve("1").digest == items(tmp_path, "delta/tri")["tools/slim:1"]["digest"]


# -- models and wheels --------------------------------------------------------------------------------------------


def test_fetched_models_and_wheels_come_along(near: Near, tmp_path: Path) -> None:
    """Over there nobody has the web or an index: another set of backends is built with the same models and wheels."""
    site, project = tmp_path / "web", tmp_path / "project"
    site.mkdir()
    index = PipIndex(folder=site)
    index.add("dependable", "1.0")
    (site / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests):\n        return []\n")
    recipe = near.recipe(project, "python")
    (project / "config.pbtxt").write_text('backend: "python"\nmax_batch_size: 0\n')
    with web(site) as served:
        text = recipe.read_text().replace(
            "models: [", f"models: [{{name: fetched, source: '{served.url}/model.py', config: ./config.pbtxt}}, "
        )
        text = text.replace(
            "network: {", f"packages: {{pip: [dependable]}}\nnetwork: {{pip_index: '{served.url}/simple', "
        )
        recipe.write_text(text)
        near.create(tmp_path, recipe=recipe)
        assert {item["kind"] for item in items(tmp_path).values()} >= {"shelf", "recipe"}
        other = project / "other.yaml"
        other.write_text(text.replace("[python]", "[onnxruntime, python]"))
        more = ("--no-validate", "-o", f"oci:{tmp_path}/judge:x", "--cache", tmp_path / "cache")
        at_home = tricompose("build", other, *more, cwd=tmp_path)
        assert at_home.returncode == 0, at_home.stderr
    cache = ("--cache", tmp_path / "far-cache")
    done = run("load", tmp_path / "out/tri", "--into", tmp_path / "there", *cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = tmp_path / "there/recipe"
    shutil.copy(other, there / "other.yaml")
    shutil.copy(there / "recipe.lock.json", there / "other.lock.json")
    argv = ["unshare", "--net", COMMAND, "build", there / "other.yaml", "--locked", "--no-validate", *cache]
    argv += ["-o", f"oci:{tmp_path}/built:x"]
    built = subprocess.run(argv, capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert built.returncode == 0, built.stderr
    assert LayoutStore(tmp_path / "built").resolve("x").digest == LayoutStore(tmp_path / "judge").resolve("x").digest


# -- the rest -----------------------------------------------------------------------------------------------------


def test_a_recipe_whose_upstream_lies_in_a_folder(near: Near, tmp_path: Path) -> None:
    project = tmp_path / "project"
    recipe = near.recipe(project, "python")
    shutil.copytree(near.path / "upstream", project / "upstream")
    text = recipe.read_text().replace(f"docker://{near.upstream}", "oci:upstream")
    recipe.write_text(text)
    near.create(tmp_path, recipe=recipe)
    assert {"upstream:full", "upstream:min", "tools/slim:1"} <= set(items(tmp_path))
    assert str(tmp_path) not in (tmp_path / "out/tri.bundle.json").read_text()
    done = run(
        "load", tmp_path / "out/tri", "--into", tmp_path / "there", "--cache", tmp_path / "far-cache", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    line = ["unshare", "--net", COMMAND, "build", tmp_path / "there/recipe/recipe.yaml", "--no-validate"]
    line += ["-o", f"oci:{tmp_path}/built:x", "--cache", tmp_path / "far-cache"]
    built = subprocess.run(line, capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert built.returncode == 0, built.stderr
    assert LayoutStore(tmp_path / "built").resolve("x").digest == items(tmp_path)["tools/slim:1"]["digest"]


def test_a_login_is_used_and_left_nowhere(near: Near, guarded: Registry, repository: str, tmp_path: Path) -> None:
    near.create(tmp_path, recipe=near.recipe(tmp_path / "project", "python"))
    login(tmp_path / ".docker", guarded.host)
    to = ("--to", f"docker://{guarded.host}/{repository}", "--ca-bundle", str(guarded.certificate))
    done = run("load", tmp_path / "out/tri", *to, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    secret = json.loads((tmp_path / ".docker/config.json").read_text())["auths"][guarded.host]["auth"]
    said = done.stdout + done.stderr
    assert not any(word in said for word in (PASSWORD, secret))
    for made in (path for path in tmp_path.rglob("*") if path.is_file() and ".docker" not in path.parts):
        data = made.read_bytes()
        assert PASSWORD.encode() not in data, made
        assert secret.encode() not in data, made
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    refused = run("load", tmp_path / "out/tri", *to, cwd=nobody)
    assert refused.returncode == 8, USERNAME


def test_tricompose_itself_comes_along(near: Near, far: Machine, tmp_path: Path) -> None:
    """What the first part begins with is enough to install it, where there is Python and nothing else."""
    near.create(tmp_path, "--part-size", "60MB", "--with-tool", recipe=near.recipe(tmp_path / "project", "python"))
    carried = tmp_path / "out"
    first = next(iter(sorted(carried.glob("tri.tar*"))))
    there = tmp_path / "there"
    there.mkdir()
    install = f"tar xf {first} tool; PYTHON={sys.executable} sh tool/install.sh ./venv"
    script = f"{install} && ./venv/bin/tricompose bundle verify {carried}/tri"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    done = far.run("sh", "-c", script, cwd=there, env={**env, "HOME": str(there)})
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout
    ours = subprocess.run(
        [there / "venv/bin/tricompose", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert ours == subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True).stdout


def test_what_is_in_it_is_told_by_the_document_alone(near: Near, tmp_path: Path) -> None:
    near.create(tmp_path, recipe=near.recipe(tmp_path / "project", "python"))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "out/tri.bundle.json", alone)
    said = run("inspect", alone / "tri", "--json", cwd=tmp_path)
    found = json.loads(said.stdout)["bundle"]
    assert {item["kind"] for item in found["items"]} == {"upstream", "base", "composed", "recipe"}
    assert found["parts"] == document(tmp_path)["parts"]
    assert "tools/slim:1" in run("inspect", alone / "tri", cwd=tmp_path).stdout
    missing = run("load", alone / "tri", cwd=tmp_path)
    assert missing.returncode == 10
    assert "tri.tar: it is missing" in missing.stderr
