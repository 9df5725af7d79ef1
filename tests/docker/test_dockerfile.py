"""The dockerfile engine on a real Docker Engine: what it builds is what the direct engine composes."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import environment, tricompose
from tests.parity.image import Seen, snapshot, unpack
from tests.quickstart import Quickstart, assert_serves, wait_until_ready
from tests.services.dockerd import Dockerd, running_dockerd
from tests.services.registry import free_port, running_registry

pytestmark = [pytest.mark.docker, pytest.mark.triton]


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Dockerd]]:
    """Engines without and with BuildKit."""
    with running_dockerd() as classic, running_dockerd(buildkit=True) as buildkit:
        yield {"classic": classic, "buildkit": buildkit}


@pytest.fixture(scope="module")
def warm(engines: dict[str, Dockerd], quickstart: Quickstart) -> dict[str, Dockerd]:
    """The same, when they have the layers of the upstream: a build need not give them each time anew."""
    for engine in engines.values():
        env = environment(quickstart.folder, DOCKER_HOST=engine.host)
        for tag in ("24.10-py3-min", "24.10-py3"):
            argv = ("copy", f"oci:build/upstream:{tag}", f"docker-daemon:kept:{tag}")
            said = tricompose(*argv, cwd=quickstart.folder, env=env)
            assert said.returncode == 0, said.stderr
    return engines


def dockerfile_recipe(quickstart: Quickstart, name: str, change: Callable[[str], str] = lambda text: text) -> Path:
    """The quickstart's recipe for the other engine, with an output of its own."""

    def changed(text: str) -> str:
        text = text.replace("oci:../build/slim:24.10-py3-slim", f"oci:../build/{name}:1")
        return change(text + "engine: dockerfile\n")

    return quickstart.recipe(changed, name)


def build(quickstart: Quickstart, recipe: Path, engine: Dockerd, *arguments: str) -> dict[str, Any]:
    said = tricompose(
        *("build", recipe, "--cache", "cache", "--json", *arguments),
        cwd=quickstart.folder,
        env=environment(quickstart.folder, DOCKER_HOST=engine.host),
        timeout=500,
    )
    assert said.returncode == 0, said.stderr
    built: dict[str, Any] = json.loads(said.stdout)["builds"][0]
    return built


def seen(layout: Path, tag: str, bundle: Path) -> dict[str, Seen]:
    """The tree of an image, without times, and without hard links that only share what is equal."""
    found = snapshot(unpack(layout, tag, bundle))
    shutil.rmtree(bundle)
    return {path: dataclasses.replace(one, mtime=0) for path, one in found.items()}


@pytest.fixture(scope="module")
def direct(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """The tree of what the direct engine composed."""
    return seen(quickstart.folder / "build/slim", "24.10-py3-slim", tmp_path_factory.mktemp("direct") / "tree")


@pytest.mark.parametrize("builder", ["classic", "buildkit"])
def test_both_engines_give_the_same_tree_and_the_same_answers(
    quickstart: Quickstart, engines: dict[str, Dockerd], builder: str, direct: dict[str, Seen], tmp_path: Path
) -> None:
    engine = engines[builder]
    built = build(quickstart, dockerfile_recipe(quickstart, f"cooked-{builder}"), engine, "--runner", "docker")
    assert {result["outcome"] for result in built["images"][0]["validation"]["results"]} <= {"passed", "unverified"}
    cooked = seen(quickstart.folder / f"build/cooked-{builder}", "1", tmp_path / "cooked")
    differing = {path for path in direct.keys() | cooked.keys() if direct.get(path) != cooked.get(path)}
    assert differing == set()
    least = _layers(quickstart.folder / "build/upstream", "24.10-py3-min")
    assert _layers(quickstart.folder / f"build/cooked-{builder}")[: len(least)] == least, "they need not be moved"


# -- behind a mirror ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mirror(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that has the upstream of the tests under the names that NVIDIA's registry has."""
    with running_registry(tmp_path_factory.mktemp("mirror")) as registry:
        for tag in ("24.10-py3", "24.10-py3-min"):
            name = f"docker://{registry.host}/nvidia/tritonserver:{tag}"
            said = tricompose(
                "copy", f"oci:build/upstream:{tag}", name, "--insecure", registry.host, cwd=quickstart.folder
            )
            assert said.returncode == 0, said.stderr
        yield registry.host


def behind(host: str, more: str = "") -> Callable[[str], str]:
    """The recipe for release 24.10, whose registry is reached by a mirror."""
    upstream = re.compile(r"^upstream:\n(  .*\n)+", re.MULTILINE)
    network = f'network: {{mirrors: {{nvcr.io: ["{host}"]}}, insecure: ["{host}"]}}\n'
    return lambda text: upstream.sub('triton: "24.10"\n', text) + network + more


def serve(engine: Dockerd, image: str, *arguments: str) -> str:
    """Start an image, ask it, stop it. What its log says."""
    port = free_port()
    made = engine.docker("run", "--detach", "--publish", f"127.0.0.1:{port}:8000", *arguments, image).strip()
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        assert_serves(f"http://127.0.0.1:{port}")
        return engine.docker("logs", made)
    finally:
        engine.docker("rm", "--force", "--volumes", made)


@pytest.mark.parametrize("builder", ["classic", "buildkit"])
def test_the_written_folder_builds_with_docker_alone_and_no_network(
    quickstart: Quickstart, warm: dict[str, Dockerd], mirror: str, builder: str
) -> None:
    engine = warm[builder]
    recipe = dockerfile_recipe(quickstart, f"written-{builder}", behind(mirror))
    folder = quickstart.folder / f"folder-{builder}"
    said = tricompose("plan", recipe, "--dockerfile", folder, cwd=quickstart.folder)
    assert said.returncode == 0, said.stderr
    assert f"FROM {mirror}/nvidia/tritonserver:24.10-py3 AS full" in (folder / "Dockerfile").read_text()
    script = ["sh", str(folder / "tricompose/build.sh"), f"written-{builder}:1", "--network", "none"]
    env = {"DOCKER_HOST": engine.host, "PATH": "/usr/bin:/bin", "HOME": str(quickstart.folder)}
    built = subprocess.run(script, capture_output=True, text=True, check=False, env=env, cwd="/")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    serve(engine, f"written-{builder}:1")
    again = tricompose("plan", recipe, "--dockerfile", folder, cwd=quickstart.folder)
    assert again.returncode != 0
    assert "is there already" in again.stderr


def upstream_label(quickstart: Quickstart, image: str, mirror: str) -> str:
    """What an image says it was made of."""
    said = tricompose("inspect", image, "--json", "--insecure", mirror, cwd=quickstart.folder)
    assert said.returncode == 0, said.stderr
    label = re.search(r'"io.tricompose.upstream": "([^"]+)"', said.stdout)
    assert label
    return label[1]


def test_a_mirror_serves_the_direct_engine_too_and_is_not_named(quickstart: Quickstart, mirror: str) -> None:
    recipe = quickstart.recipe(
        lambda text: behind(mirror)(text).replace("slim:24.10-py3-slim", "mirrored:1"), "mirrored"
    )
    said = tricompose("build", recipe, "--no-validate", "--cache", "cache", "--json", cwd=quickstart.folder)
    assert said.returncode == 0, said.stderr
    label = upstream_label(quickstart, f"oci:{quickstart.folder}/build/mirrored:1", mirror)
    assert label.startswith("nvcr.io/nvidia/tritonserver@sha256:")


@pytest.mark.parametrize(("name", "more"), [("slim-1", []), ("slim-2", ["pytorch"])])
def test_the_story_of_the_seed(
    quickstart: Quickstart, warm: dict[str, Dockerd], mirror: str, name: str, more: list[str]
) -> None:
    """onnxruntime, python and tensorrt, then pytorch too, behind a mirror, pushed to a registry of one's own."""
    target = f"{mirror}/tools/tritonserver:24.10-py3-{name}"
    wanted = sorted(["onnxruntime", "python", "tensorrt", *more])

    def change(text: str) -> str:
        text = behind(mirror)(text).replace("[onnxruntime, python]", f"[{', '.join(wanted)}]")
        return text.replace(f"oci:../build/{name}:1", f"docker://{target}")

    built = build(quickstart, dockerfile_recipe(quickstart, name, change), warm["classic"], "--no-validate")
    assert built["delivered"] == [f"docker://{target}"]
    assert upstream_label(quickstart, f"docker://{target}", mirror).startswith("nvcr.io/nvidia/tritonserver@sha256:")
    warm["buildkit"].docker("pull", target)
    serve(warm["buildkit"], target)
    listed = warm["buildkit"].docker("run", "--rm", "--entrypoint", "ls", target, "/opt/tritonserver/backends")
    assert listed.split() == wanted


# -- what only RUN can do -----------------------------------------------------------------------------------------


STEPS = """
steps:
  - |
    printf '%s\\n' "it's \\"quoted\\" \\$HOME `echo ticked`" > /etc/said
    echo second >> /etc/said
  - "rm /usr/local/cuda/version.json; chown 1000:1000 /etc/said; ln -s said /etc/link"
"""


@pytest.mark.parametrize("builder", ["classic", "buildkit"])
def test_steps_on_top_of_a_composed_image_leave_its_layers(
    quickstart: Quickstart, warm: dict[str, Dockerd], builder: str, tmp_path: Path
) -> None:
    def change(text: str) -> str:
        return text.replace("oci:../build/slim:24.10-py3-slim", f"oci:../build/stepped-{builder}:1") + STEPS

    recipe = quickstart.recipe(change, f"stepped-{builder}")
    build(quickstart, recipe, warm[builder], "--runner", "docker")
    layout = quickstart.folder / f"build/stepped-{builder}"
    mine, composed = _layers(layout), _layers(quickstart.folder / "build/slim")
    assert mine[: len(composed)] == composed
    root = unpack(layout, "1", tmp_path / "stepped")
    assert (root / "etc/said").read_text() == 'it\'s "quoted" $HOME ticked\nsecond\n'
    assert (root / "etc/said").stat().st_uid == 1000
    assert not (root / "usr/local/cuda-12.6/version.json").exists()
    assert not (root / "tricompose").exists()
    assert not (root / ".removed").exists()


def _layers(layout: Path, tag: str | None = None) -> list[str]:
    """The digests of an image's layers: of the newest, or of a tag."""

    def blob(digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((layout / "blobs/sha256" / digest.partition(":")[2]).read_text())
        return found

    index = json.loads((layout / "index.json").read_text())
    name = "org.opencontainers.image.ref.name"
    entries = [one for one in index["manifests"] if tag in (None, one.get("annotations", {}).get(name))]
    return [layer["digest"] for layer in blob(entries[-1]["digest"])["layers"]]


def test_a_failing_step_is_told_with_its_last_lines(quickstart: Quickstart, warm: dict[str, Dockerd]) -> None:
    recipe = dockerfile_recipe(
        quickstart, "failing", lambda text: text + 'steps: ["echo nearly there; ls /no/such/folder"]\n'
    )
    said = tricompose(
        *("build", recipe, "--cache", "cache", "--json"),
        cwd=quickstart.folder,
        env=environment(quickstart.folder, DOCKER_HOST=warm["classic"].host),
    )
    assert said.returncode == 11, said.stderr
    error = json.loads(said.stdout)["error"]
    assert "ended with 2" in error["message"]
    assert any("nearly there" in line for line in error["detail"])
    assert not (quickstart.folder / "build/failing").exists()


FRAGMENT = """
steps: |
  # A fragment is what one would write in a Dockerfile.
  ARG WORD=hello
  RUN echo "$WORD" \\
        > /etc/said
  ENV SAID="from a fragment"
  RUN echo "$SAID" >> /etc/said
  LABEL team=tests
"""


def test_a_fragment_runs_aside_and_configures_the_image(
    quickstart: Quickstart, warm: dict[str, Dockerd], tmp_path: Path
) -> None:
    recipe = dockerfile_recipe(quickstart, "fragment", lambda text: text + FRAGMENT)
    build(quickstart, recipe, warm["classic"], "--no-validate")
    root = unpack(quickstart.folder / "build/fragment", "1", tmp_path / "fragment")
    assert (root / "etc/said").read_text() == "hello\nfrom a fragment\n"
    said = tricompose("inspect", f"oci:{quickstart.folder}/build/fragment:1", "--json", cwd=quickstart.folder)
    assert '"team": "tests"' in said.stdout
    assert "hello" not in said.stdout, "what was run is not in the history"


# -- parts of other origin, and images without CUDA ---------------------------------------------------------------


def test_files_and_backends_of_ones_own(quickstart: Quickstart, warm: dict[str, Dockerd], tmp_path: Path) -> None:
    own = quickstart.folder / "recipes/own"
    own.mkdir()
    (own / "model.py").write_text("import triton_python_backend_utils as pb_utils\n")
    (own / "odd [name] $HOME").write_text("odd")
    more = """
custom_backends: [{name: mine, path: ./own}]
files:
  - {source: ./own/model.py, target: /tmp/inner/model.py, mode: "0640"}
  - {source: ./own/model.py, target: /lib/model.py}
"""
    recipe = dockerfile_recipe(quickstart, "own", lambda text: text + more)
    build(quickstart, recipe, warm["buildkit"], "--runner", "docker")
    root = unpack(quickstart.folder / "build/own", "1", tmp_path / "own")
    backend = root / "opt/tritonserver/backends/mine"
    assert sorted(path.name for path in backend.iterdir()) == ["model.py", "odd [name] $HOME"]
    assert (root / "usr/lib/model.py").is_file()
    assert (root / "lib").is_symlink()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_an_image_without_cuda_serves(quickstart: Quickstart, warm: dict[str, Dockerd], tmp_path: Path) -> None:
    recipe = dockerfile_recipe(quickstart, "cpu", lambda text: text + 'variant: cpu-only-py3\ntriton: "24.10"\n')
    built = build(quickstart, recipe, warm["classic"], "--runner", "docker")
    root = unpack(quickstart.folder / "build/cpu", "1", tmp_path / "cpu")
    assert built["images"][0]["validation"]["ok"]
    assert (root / "opt/tritonserver/bin/tritonserver").exists()
