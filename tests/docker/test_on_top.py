"""What a recipe asks of a Docker Engine, from the recipe to the image: apt, pip, steps, backends of other origin,
releases that nobody has heard of; what is refused before anything moves, and what is left behind.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from composer import cli, command
from composer.engines import dockerfile
from tests.command import COMMAND, environment, tricompose
from tests.docker.test_network import Site, site_of, texts
from tests.parity.image import Raw, unpack, write_layout
from tests.parity.place import HOME, file, folder, packed
from tests.quickstart import Quickstart
from tests.services.dockerd import running_dockerd
from tests.services.registry import running_registry
from tests.services.web import Web, web
from tests.services.wheels import PipIndex

pytestmark = pytest.mark.docker

BOTH = pytest.mark.parametrize("builder", ["classic", "buildkit"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An engine that offers BuildKit, images without a server in them, and a mirror."""
    with running_dockerd(buildkit=True) as engine, site_of(engine, tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def mirror(site: Site) -> Iterator[Web]:
    with web(site.mirror.folder, address=site.gateway) as running:
        yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A folder to build in. Whatever is done in it leaves nothing in the engine, and nothing half-made in the cache."""

    path: Path
    site: Site

    def recipe(self, text: str, name: str = "recipe", *, upstream: str | None = None) -> Path:
        images = self.site.images
        start = upstream or f'upstream: {{full: "{images.full}", min: "{images.min}"}}'
        path = self.path / f"{name}.yaml"
        path.write_text(f"{start}\n{text}")
        return path

    def arguments(self, recipe: Path, *more: str, builder: str = "buildkit") -> list[str]:
        classic = ["--no-buildkit"] if builder == "classic" else []
        return ["build", str(recipe), "--no-validate", "--cache", "cache", "--json", *classic, *more]

    def environ(self, **more: str) -> dict[str, str]:
        return environment(self.path, DOCKER_HOST=self.site.engine.host, **more)

    def try_(self, recipe: Path, *more: str, **how: Any) -> subprocess.CompletedProcess[str]:
        return tricompose(*self.arguments(recipe, *more, **how), cwd=self.path, env=self.environ(), timeout=240)

    def build(self, recipe: Path, *more: str, **how: Any) -> tuple[dict[str, Any], str]:
        """Build. Returns what came of it, and what was said meanwhile."""
        said = self.try_(recipe, *more, **how)
        assert said.returncode == 0, said.stderr
        built: dict[str, Any] = json.loads(said.stdout)["builds"][0]
        return built, said.stderr

    def refused(self, recipe: Path, *more: str, **how: Any) -> dict[str, Any]:
        said = self.try_(recipe, *more, **how)
        error: dict[str, Any] = json.loads(said.stdout)["error"]
        return {**error, "exit": said.returncode, "said": said.stderr}

    def unpacked(self, layout: str = "out") -> Path:
        return unpack(self.path / layout, "1", self.path / f"{layout}-root")

    def images(self) -> set[str]:
        return set(self.site.engine.docker("images", "--all", "--quiet", "--no-trunc").split())

    def assert_tidy(self) -> None:
        """No container, no name of ours, no folder or file that was for the time of the build only."""
        engine = self.site.engine
        assert engine.docker("ps", "--all", "--quiet") == ""
        assert engine.docker("images", "--quiet", "tricompose/given") == ""
        assert not re.search(r"127\.0\.0\.1:\d+/tricompose\s", engine.docker("images", "--digests"))
        assert [str(path) for path in (self.path / "cache/ingest").glob("*")] == []


@pytest.fixture
def bench(site: Site, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(path=tmp_path, site=site)
    yield made
    made.assert_tidy()


def read_blob(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs/sha256" / digest.partition(":")[2]).read_text())


def described(layout: Path) -> tuple[list[str], dict[str, Any]]:
    """The layers of the newest image of a layout, and its config."""
    entry = json.loads((layout / "index.json").read_text())["manifests"][-1]
    manifest = read_blob(layout, entry["digest"])
    return [layer["digest"] for layer in manifest["layers"]], read_blob(layout, manifest["config"]["digest"])


# -- on top of a composed image -----------------------------------------------------------------------------------


COMPOSED = """\
backends: [python]
user: triton-server
healthcheck: true
env: {SAID: "it's \\"quoted\\" $HOME `x`", EMPTY: ""}
labels: {team: "a # b", empty: ""}
server: {log-verbose: 1}
"""
STEPS = """\
steps:
  - "useradd --uid 1000 triton-server; id -un > /etc/who"
  - rm /usr/share/keyrings/debian-archive-removed-keys.gpg
"""


@BOTH
def test_apt_and_steps_on_top_leave_all_else_as_it_was(bench: Bench, mirror: Web, builder: str) -> None:
    network = f"{{apt_mirror: '{mirror.url}/debian', apt_key: {bench.site.key.armored}}}"
    bench.build(bench.recipe(f"{COMPOSED}outputs: ['oci:composed:1']\n", "composed"))
    more = f"packages: {{apt: [libb64-0d]}}\n{STEPS}network: {network}\noutputs: ['oci:out:1']\n"
    built, _ = bench.build(bench.recipe(COMPOSED + more), builder=builder)
    (below, composed), (layers, config) = described(bench.path / "composed"), described(bench.path / "out")

    assert layers[: len(below)] == below
    assert len(layers) == len(below) + 2, "what was written, and what was removed"
    assert json.dumps(config["config"], sort_keys=True) == json.dumps(composed["config"], sort_keys=True)
    assert config["config"]["User"] == "triton-server"
    assert len([one for one in config["history"] if not one.get("empty_layer")]) == len(layers)
    assert config["history"][: len(composed["history"])] == composed["history"]
    assert built["images"][0]["size"] > 0

    root = bench.unpacked()
    assert (root / "etc/who").read_text() == "root\n"
    assert not (root / "usr/share/keyrings/debian-archive-removed-keys.gpg").exists()
    assert (root / "usr/lib/libb64-0d").read_bytes() == b"a stand-in"
    assert "Package: libb64-0d\nStatus: install ok installed\n" in (root / "var/lib/dpkg/status").read_text()
    everything = list(texts(bench.path / "out"))
    key = bench.site.key.armored.read_bytes().splitlines()[2]
    for trace in (bench.site.gateway.encode(), b"apt-key.gpg", key, b"\0tricompose/", b"apt_mirror"):
        assert not any(trace in text for text in everything), trace
    assert any(b"libb64-0d" in text for text in everything), "the search itself works"


def test_a_fragment_may_say_whom_the_image_runs_as_and_the_recipe_has_the_last_word(bench: Bench, future: str) -> None:
    """Both come before what the upstream says, which is 1000:1000 here."""
    steps = 'steps: |\n  USER 1234\n  RUN id -u > /tmp/who || true\n  ENV MORE="of it"\n'
    for user, expected in (("", "1234"), ("user: '77'\n", "77")):
        bench.build(bench.recipe(f"backends: [python]\n{user}{steps}outputs: ['oci:out:1']\n", upstream=future))
        _, config = described(bench.path / "out")
        assert config["config"]["User"] == expected
        assert "MORE=of it" in config["config"]["Env"]


@pytest.mark.parametrize("engine", ["direct", "dockerfile"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("steps: |\n  COPY a /b\n", "COPY cannot stand in steps"),
        ("packages: {apt: [libx]}\nnetwork: {apt_key: nowhere.asc}\n", "nowhere.asc: No such file"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_composed(
    bench: Bench, engine: str, more: str, message: str
) -> None:
    recipe = bench.recipe(f"engine: {engine}\nbackends: [python]\n{more}")
    before = bench.images()
    error = bench.refused(recipe)
    assert error["exit"] == 3
    assert message in error["message"]
    assert not any(word in error["said"] for word in ("compose:", "give:", "pull:"))
    assert bench.images() == before
    planned = tricompose("plan", recipe, "--cache", "cache", cwd=bench.path)
    if engine == "direct":
        assert planned.returncode == 3
        assert message in planned.stderr


# -- backends of other origin -------------------------------------------------------------------------------------


def write_donor(path: Path, name: str, settings: Mapping[str, object]) -> None:
    """An image with one backend in Python, such as are built on Triton's."""
    inside = f"{HOME}/backends/{name}"
    above = [folder("opt"), folder(HOME), folder(f"{HOME}/backends")]
    layer = packed([*above, folder(inside), file(f"{inside}/model.py", name.encode())])
    write_layout(path, [layer], "1", settings)


def write_model(path: Path, name: str, backend: str) -> None:
    (path / name / "1").mkdir(parents=True)
    (path / name / "config.pbtxt").write_text(f'backend: "{backend}"\n')
    (path / name / "1/weights").write_text(name)


RELEASED = {"Env": ["NVIDIA_TRITON_SERVER_VERSION=24.10"]}
CUSTOM = """\
engine: dockerfile
models: [{{path: ./models}}]
custom_backends:
  - {{name: mine, path: ./mine}}
  - {{name: near, image: "oci:donor:1"}}
  - {{name: far, image: "docker://{host}/donors/far:1"}}
outputs: ["oci:out:1"]
"""


@BOTH
def test_backends_of_a_folder_of_a_layout_and_of_a_registry(bench: Bench, builder: str) -> None:
    for name in ("near", "far"):
        write_donor(bench.path / ("donor" if name == "near" else "elsewhere"), name, RELEASED)
        write_model(bench.path / "models", f"of-{name}", name)
    (bench.path / "mine").mkdir()
    (bench.path / "mine/model.py").write_text("mine")
    with running_registry(bench.path / "registry") as registry:
        far = f"docker://{registry.host}/donors/far:1"
        assert tricompose("copy", "oci:elsewhere:1", far, cwd=bench.path).returncode == 0
        built, said = bench.build(bench.recipe(CUSTOM.format(host=registry.host)), builder=builder)
    kept = [f"{one['kind']}/{one['name']}" for one in built["images"][0]["kept"]]
    assert kept == ["backends/far", "backends/mine", "backends/near", "backends/python"]
    assert f"pull: done: {registry.host}/donors/far@sha256:" in said, "Docker has fetched that one itself"
    _, config = described(bench.path / "out")
    assert config["config"]["Labels"]["io.tricompose.backends"] == "far,mine,near,python"
    backends = bench.unpacked() / HOME / "backends"
    assert sorted(path.name for path in backends.iterdir()) == ["far", "mine", "near", "python"]
    assert [(backends / name / "model.py").read_text() for name in ("far", "mine", "near")] == ["far", "mine", "near"]
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in backends.rglob("*")}
    assert owners == {(1000, 1000)}


@pytest.mark.parametrize("way", [("custom", "python"), ("donor", "python")])
def test_with_backends_auto_python_comes_along_in_what_is_written_too(bench: Bench, way: tuple[str, str]) -> None:
    (bench.path / "mine").mkdir()
    (bench.path / "mine/model.py").write_text("mine")
    write_model(bench.path / "models", "one", "mine")
    origin = "path: ./mine" if way[0] == "custom" else "image: 'docker://example.com/vllm:1'"
    text = f"engine: dockerfile\ncustom_backends: [{{name: mine, {origin}}}]\nmodels: [{{path: ./models}}]\n"
    said = tricompose("plan", bench.recipe(text, upstream='triton: "24.10"'), cwd=bench.path)
    assert said.returncode == 0, said.stderr
    assert "/opt/tritonserver/backends/python" in said.stdout


def test_a_donor_of_another_release_is_refused_before_an_image_moves(bench: Bench) -> None:
    write_donor(bench.path / "donor", "near", {"Env": ["NVIDIA_TRITON_SERVER_VERSION=24.01"]})
    text = "engine: dockerfile\nbackends: [python]\ncustom_backends: [{name: near, image: 'oci:donor:1'}]\n"
    before = bench.images()
    error = bench.refused(bench.recipe(text))
    assert (error["exit"], error["code"]) == (7, "unplannable")
    assert "built for Triton 24.01, and the upstream is 24.10" in error["message"]
    assert bench.images() == before
    assert "give:" not in error["said"]


@pytest.mark.parametrize("text", ["backends: [pythn]", "backends: [python]\nrepoagents: [nothing]"])
def test_a_name_that_the_release_lacks_is_refused_before_an_image_moves(bench: Bench, text: str) -> None:
    before = bench.images()
    error = bench.refused(bench.recipe(f"triton: '24.10'\nengine: dockerfile\n{text}\n"))
    assert (error["exit"], error["code"]) == (5, "not-found")
    assert "Triton 24.10 has no" in error["message"]
    assert bench.images() == before
    assert "give:" not in error["said"]


# -- Python packages ----------------------------------------------------------------------------------------------


def raws(layout: Path, tag: str) -> tuple[list[Raw], dict[str, Any]]:
    """The layers of an image as the tests' own writer takes them, and its settings."""
    name = "org.opencontainers.image.ref.name"
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = read_blob(layout, next(one["digest"] for one in entries if one["annotations"][name] == tag))
    config = read_blob(layout, manifest["config"]["digest"])
    pairs = zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
    blobs = layout / "blobs/sha256"
    found = [Raw((blobs / one["digest"][7:]).read_bytes(), diff, one["mediaType"]) for one, diff in pairs]
    return found, config["config"]


def write_upstream(bench: Bench, *more: Raw, **settings: Any) -> str:
    """The small pair with layers on top of the full image and changes of its settings. Returns the recipe's words."""
    places = [Path(one.partition(":")[2].rpartition(":")[0]) for one in (bench.site.images.full, bench.site.images.min)]
    (full, own), (least, below) = (
        raws(place, one.rpartition(":")[2])
        for place, one in zip(places, (bench.site.images.full, bench.site.images.min), strict=True)
    )
    write_layout(bench.path / "up", [*full, *more], "full", own | settings)
    write_layout(bench.path / "up", least, "min", below)
    return "upstream: {full: 'oci:up:full', min: 'oci:up:min'}"


PACKAGES = "usr/local/lib/python3.11/dist-packages"


def test_python_packages_are_where_the_images_python_looks(bench: Bench) -> None:
    old = "import sys\n__version__ = '1.26.4'\n"
    info = f"{PACKAGES}/numpy-1.26.4.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n"
    layer = packed(
        [
            *(folder(path) for path in (f"{PACKAGES}/numpy", info)),
            *(file(f"{PACKAGES}/numpy/__init__.py", old.encode()), file(f"{info}/METADATA", metadata)),
            file(f"{info}/RECORD", b"numpy/__init__.py,,\n"),
        ]
    )
    index = PipIndex(folder=bench.path / "index")
    index.add("numpy", "2.1.0", {"numpy/__init__.py": b"__version__ = '2.1.0'"})
    index.add("numpy", "1.26.4", {"numpy/__init__.py": b"__version__ = 'of the index'"})
    index.add("greet", "1.0", {"greet/__init__.py": b"import numpy"}, requires=["numpy>=1.20", "helper"])
    index.add("helper", "3.0", {"helper.py": b"VALUE = 7"}, scripts={"helper-tool": "helper:main"})
    with web(index.folder) as served:
        text = (
            "engine: dockerfile\nbackends: [python]\npackages: {pip: ['greet==1.0']}\n"
            f"network: {{pip_index: '{served.url}/simple'}}\noutputs: ['docker-daemon:piped:1', 'oci:out:1']\n"
        )
        bench.build(bench.recipe(text, upstream=write_upstream(bench, layer)))
    command = "import greet, helper, numpy; print(numpy.__version__, helper.VALUE, greet.__file__)"
    docker = bench.site.engine.docker
    printed = docker("run", "--rm", "--entrypoint", "python3", "piped:1", "-c", command)
    assert printed.split() == ["1.26.4", "7", f"/{PACKAGES}/greet/__init__.py"]
    docker("rmi", "piped:1")
    root = bench.unpacked()
    assert sorted(path.name for path in (root / PACKAGES).glob("numpy*")) == ["numpy", "numpy-1.26.4.dist-info"]
    assert (root / "usr/local/bin/helper-tool").stat().st_mode & 0o777 == 0o755
    assert not any(f"127.0.0.1:{served.port}".encode() in text for text in texts(bench.path / "out"))


BACKEND = """\
import greet, json
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        for add, name in ((config.add_input, "X"), (config.add_output, "Y")):
            add({"name": name, "data_type": "TYPE_FP32", "dims": [2]})
        return config

    def execute(self, requests):
        found = (pb.get_input_tensor_by_name(request, "X").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("Y", (one * greet.FACTOR).astype(np.float32))]) for one in found]
"""
SERVED = """
custom_backends: [{name: mine, path: ./mine}]
packages: {pip: [greet]}
models: [{path: ./models-of-mine}]
validate:
  startup: {deadline: 120s, stall: 60s}
  checks:
    - id: times
      model: one
      request: {inputs: {X: {dtype: FP32, shape: [2], data: [1, 2]}}}
      expect: {outputs: {Y: {equals: [10, 20]}}}
"""


@pytest.mark.triton
@pytest.mark.slow
def test_a_backend_in_python_serves_with_its_package(quickstart: Quickstart, site: Site) -> None:
    """`backends: auto` takes the python backend along, whose Python finds the package and the NumPy that it had."""
    index = PipIndex(folder=quickstart.folder / "index-of-mine")
    index.add("greet", "1.0", {"greet.py": b"FACTOR = 10"}, requires=["numpy"])
    index.add("numpy", "2.1.0", {"numpy.py": b"raise ImportError"})
    (quickstart.folder / "recipes/mine").mkdir()
    (quickstart.folder / "recipes/mine/model.py").write_text(BACKEND)
    (quickstart.folder / "recipes/models-of-mine/one/1").mkdir(parents=True)
    config = 'backend: "mine"\ninstance_group [{ kind: KIND_CPU }]\n'
    (quickstart.folder / "recipes/models-of-mine/one/config.pbtxt").write_text(config)
    (quickstart.folder / "recipes/models-of-mine/one/1/.keep").write_text("")

    def change(text: str) -> str:
        kept = text.partition("platforms:")[0] + "platforms: [linux/amd64]\nengine: dockerfile\n"
        return f"{kept}network: {{pip_index: '{served.url}/simple'}}\noutputs: ['oci:../build/mine:1']\n{SERVED}"

    with web(index.folder) as served:
        said = tricompose(
            *("build", quickstart.recipe(change, "mine"), "--runner", "docker", "--cache", "cache", "--json"),
            cwd=quickstart.folder,
            env=environment(quickstart.folder, DOCKER_HOST=site.engine.host),
            timeout=300,
        )
    assert said.returncode == 0, said.stderr
    built = json.loads(said.stdout)["builds"][0]["images"][0]
    assert built["validation"]["ok"], built["validation"]
    assert [one["name"] for one in built["kept"]] == ["mine", "python"]


# -- releases that are not listed ---------------------------------------------------------------------------------


def named_release(name: str, settings: Mapping[str, Any]) -> list[str]:
    kept = [line for line in settings["Env"] if not line.startswith("NVIDIA_TRITON_SERVER_VERSION=")]
    return [*kept, f"NVIDIA_TRITON_SERVER_VERSION={name}", "OF_THE_FUTURE=yes"]


@pytest.fixture
def future(bench: Bench) -> str:
    """An upstream that says that it is of release 27.01, and whom it runs as."""
    place, tag = bench.site.images.full.partition(":")[2].rsplit(":", 1)
    _, settings = raws(Path(place), tag)
    return write_upstream(bench, Env=named_release("27.01", settings), User="1000:1000")


ASSUMED = (
    "release 27.01 is not listed: environment, labels and entrypoint are taken from its image; "
    "packages, owner of files and paths are assumed to be as in 26.08"
)
PLAIN = "engine: dockerfile\nbackends: [python]\noutputs: ['oci:out:1']\n"


def test_a_release_that_is_not_listed_is_built_from_what_its_image_says(bench: Bench, future: str) -> None:
    _, said = bench.build(bench.recipe(PLAIN, upstream=future))
    assert said.count(ASSUMED) == 1
    _, config = described(bench.path / "out")
    assert {"OF_THE_FUTURE=yes", "NVIDIA_TRITON_SERVER_VERSION=27.01"} <= set(config["config"]["Env"])
    assert config["config"]["User"] == "1000:1000", "as the direct engine has it"
    assert (bench.unpacked() / HOME / "bin/tritonserver").is_file()


def test_a_release_that_is_not_listed_comes_through_a_mirror(bench: Bench, future: str) -> None:
    with running_registry(bench.path / "registry") as registry:
        for tag, name in (("full", "27.01-py3"), ("min", "27.01-py3-min")):
            target = f"docker://{registry.host}/nvidia/tritonserver:{name}"
            assert tricompose("copy", f"oci:up:{tag}", target, cwd=bench.path).returncode == 0
        network = f"network: {{mirrors: {{nvcr.io: ['{registry.host}']}}}}\n"
        built, said = bench.build(bench.recipe(PLAIN + network, upstream='triton: "27.01"'))
    assert ASSUMED in said
    assert built["images"][0]["upstream"]["reference"].startswith(
        f"docker://{registry.host}/nvidia/tritonserver:27.01-py3@"
    )


@pytest.mark.parametrize("said_by", ["recipe", "image"])
def test_a_release_that_never_was_is_refused_before_an_image_moves(bench: Bench, said_by: str) -> None:
    place, tag = bench.site.images.full.partition(":")[2].rsplit(":", 1)
    _, settings = raws(Path(place), tag)
    start = write_upstream(bench, Env=named_release("20.04", settings))
    named = "triton: '20.04'\n" if said_by == "recipe" else ""
    before = bench.images()
    error = bench.refused(bench.recipe(named + PLAIN, upstream=start))
    assert (error["exit"], error["code"]) == (4, "release-unknown")
    assert "there was no release 20.04" in error["message"]
    assert error["hint"] == "tricompose releases"
    assert "give:" not in error["said"]
    assert bench.images() == before


# -- what is left -------------------------------------------------------------------------------------------------


def test_a_step_that_fails_leaves_nothing(bench: Bench) -> None:
    for builder in ("classic", "buildkit"):
        for engine in ("direct", "dockerfile"):
            text = f"engine: {engine}\nbackends: [python]\nsteps: ['echo so far so good; exit 7']\n"
            error = bench.refused(bench.recipe(text), builder=builder)
            assert (error["exit"], error["code"]) == (11, "build-failed")
            assert "ended with 7" in error["message"]
            assert "so far so good" in error["detail"]
            bench.assert_tidy()


MOMENTS = [
    ("dockerfile", "classic", signal.SIGINT, "RUN"),
    ("direct", "classic", signal.SIGTERM, "RUN"),
    ("dockerfile", "buildkit", signal.SIGTERM, "RUN"),
    ("direct", "buildkit", signal.SIGINT, "RUN"),
    ("dockerfile", "buildkit", signal.SIGINT, "give"),
    ("direct", "classic", signal.SIGTERM, "read back"),
    ("direct", "buildkit", signal.SIGINT, "read back"),
]


@pytest.mark.parametrize(("engine", "builder", "sent", "moment"), MOMENTS)
def test_stopped_in_the_middle_nothing_goes_on(
    bench: Bench, engine: str, builder: str, sent: signal.Signals, moment: str
) -> None:
    marker = f"{9 if moment == 'RUN' else 0}.{os.getpid()}"
    text = f"engine: {engine}\nbackends: [python]\nsteps: ['sleep {marker}']\noutputs: ['oci:out:1']\n"
    argv = [COMMAND, *bench.arguments(bench.recipe(text), "--progress", "json", builder=builder)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, cwd=bench.path, env=bench.environ())
    try:
        assert any(begins(line, moment, marker) for line in process.stderr or ()), "it never came so far"
        if moment == "RUN":
            wait_for(lambda: running(marker), 15)
        began = time.monotonic()
        process.send_signal(sent)
        printed, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert json.loads(printed)["error"]["code"] == "interrupted"
    assert time.monotonic() - began < 15
    assert "Traceback" not in said
    wait_for(lambda: not running(marker), 15)
    wait_for(lambda: bench.site.engine.docker("ps", "--all", "--quiet") == "", 15)
    assert not (bench.path / "out/index.json").exists()
    bench.assert_tidy()


def test_what_a_killed_build_has_left_is_no_hindrance_and_swept_by_the_next(bench: Bench) -> None:
    recipe = bench.recipe(f"backends: [python]\nsteps: ['sleep 1.{os.getpid()}']\noutputs: ['oci:out:1']\n")
    argv = [COMMAND, *bench.arguments(recipe, "--progress", "json")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, cwd=bench.path, env=bench.environ())
    try:
        assert any(begins(line, "RUN", f"1.{os.getpid()}") for line in process.stderr or ())
    finally:
        process.kill()
        process.communicate()
    assert min(path.name for path in (bench.path / "cache/ingest").iterdir()).startswith("build-")
    bench.build(recipe)
    docker = bench.site.engine.docker
    (name,) = docker("images", "--format", "{{.Repository}}:{{.Tag}}", "tricompose/given").split()
    docker("rmi", name)


def begins(line: str, moment: str, marker: str) -> bool:
    """Whether a line of progress says that this stage begins, or the step that sleeps."""
    told = json.loads(line)
    if moment == "RUN":
        return told.get("state") == "begun" and marker in told["text"]
    return bool(told["event"] == "stage-started" and told["stage"] == moment)


def running(marker: str) -> list[str]:
    """The processes of this machine, those in containers too, that sleep for `marker` seconds."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", marker.encode()]:
            found.append(path.parent.name)
    return found


def wait_for(happened: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not come about in {seconds:.0f} s"
        time.sleep(0.05)


def test_an_image_that_somebody_has_named_stays(bench: Bench) -> None:
    """Who builds the same with Docker's own command gets the very image that is built here."""
    recipe = bench.recipe("engine: dockerfile\nbackends: [python]\noutputs: ['oci:out:1']\n")
    _, said = bench.build(recipe, "--progress", "json", builder="classic")
    image = next(one["detail"] for one in events(said) if one.get("stage") == "read back")
    docker = bench.site.engine.docker
    docker("tag", image, "theirs:1")
    bench.build(recipe, builder="classic")
    assert docker("images", "--quiet", "--no-trunc", "theirs:1").strip() == image
    docker("rmi", "theirs:1")


def test_builds_of_one_recipe_at_once_do_not_take_away_each_others_images(bench: Bench) -> None:
    recipe = bench.recipe("engine: dockerfile\nbackends: [python]\n")
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [COMMAND, *bench.arguments(recipe, "-o", f"oci:{bench.path}/out{number}:1")],
            stdout=pipe,
            stderr=pipe,
            text=True,
            cwd=bench.path,
            env=bench.environ(),
        )
        for number in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(said)


def test_an_image_that_another_build_took_away_is_built_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = bench.recipe("engine: dockerfile\nbackends: [python]\n")
    built: list[str] = []
    cook = dockerfile._cook

    def robbed(*given: Any) -> str:
        built.append(cook(*given))
        if len(built) == 1:
            bench.site.engine.docker("rmi", built[0])
        return built[-1]

    for name, value in bench.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(bench.path)
    monkeypatch.setattr(dockerfile, "_cook", robbed)
    assert command.run(cli.tricompose, bench.arguments(recipe, "-o", "oci:out:1")) == 0
    assert len(built) == 2


# -- outputs, and the cache ---------------------------------------------------------------------------------------


def events(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def states(said: str) -> set[str]:
    """How the instructions that do something ended."""
    steps = [one for one in events(said) if one["event"] == "build-step" and one["state"] != "begun"]
    return {one["state"] for one in steps if one["text"].startswith(("RUN", "COPY"))}


@BOTH
def test_the_second_build_is_cached_and_goes_to_several_places(bench: Bench, builder: str) -> None:
    outputs = ["oci:out:1", "docker-daemon:several:1", "oci-archive:file.tar:1"]
    # Of its own, so that nothing of other tests is in the cache.
    steps = f"steps: ['echo {builder} > /etc/{bench.path.name}']"
    recipe = bench.recipe(f"engine: dockerfile\nbackends: [python]\n{steps}\noutputs: {json.dumps(outputs)}\n")
    first, said = bench.build(recipe, "--progress", "json", builder=builder)
    assert "done" in states(said)
    absolute = [f"oci:{bench.path}/out:1", outputs[1], f"oci-archive:{bench.path}/file.tar:1"]
    assert first["delivered"] == absolute
    for place in absolute:
        found = tricompose("inspect", place, "--json", cwd=bench.path, env=bench.environ())
        digest = json.loads(found.stdout)["image"]["digest"]
        assert digest == first["digest"] or place.startswith("docker-daemon"), place
    listed = bench.site.engine.docker("run", "--rm", "--entrypoint", "ls", "several:1", f"/{HOME}/backends")
    assert listed.split() == ["python"]

    second, said = bench.build(recipe, "--progress", "json", builder=builder)
    assert states(said) == {"cached"}
    assert second["digest"] == first["digest"]
    third, said = bench.build(recipe, "--progress", "json", "--no-cache", builder=builder)
    assert states(said) == {"done"}
    assert third["digest"] != first["digest"], "it was made at another time"
    bench.site.engine.docker("rmi", "several:1")


def test_without_outputs_it_stays_in_the_cache(bench: Bench) -> None:
    built, _ = bench.build(bench.recipe("engine: dockerfile\nbackends: [python]\n"))
    assert built["delivered"] == []
    assert tricompose("inspect", built["cached"], cwd=bench.path).returncode == 0


# -- without an engine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["engine: dockerfile\n", "steps: [ls]\n", "packages: {apt: [libx]}\n"])
def test_without_an_engine_nothing_is_resolved_or_read(tmp_path: Path, text: str) -> None:
    upstream = "upstream: {full: 'docker://127.0.0.1:1/full', min: 'docker://127.0.0.1:1/min'}\n"
    (tmp_path / "recipe.yaml").write_text(f"{upstream}triton: '24.10'\nbackends: [python]\n{text}")
    environ = environment(tmp_path, DOCKER_HOST="unix:///nowhere")
    arguments = ("build", "recipe.yaml", "--no-validate", "--cache", "cache", "--json")
    said = tricompose(*arguments, cwd=tmp_path, env=environ)
    assert said.returncode == 9
    error = json.loads(said.stdout)["error"]
    assert error["message"].startswith("the Docker Engine at unix:///nowhere cannot be reached: ")
    assert error["hint"], "what to do"
    assert "resolve" not in said.stderr
    written = tricompose("plan", "recipe.yaml", "--dockerfile", "folder", cwd=tmp_path, env=environ)
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "folder/Dockerfile").is_file()
