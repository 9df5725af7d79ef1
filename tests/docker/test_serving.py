"""The composed image in a real Docker Engine: it is run as it stands, looked at, and taken apart by other tools."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from composer.errors import CheckFailed, Unplannable
from tests.command import running, tricompose
from tests.conftest import require
from tests.quickstart import Quickstart, assert_serves, wait_until_ready, with_backends
from tests.services.dockerd import Dockerd
from tests.services.registry import free_port

pytestmark = [pytest.mark.docker, pytest.mark.triton]

NAME = "quickstart:1"
HOME = "/opt/tritonserver"
UPSTREAM = "24.10-py3"


@pytest.fixture(scope="module")
def engine(docker_engine: Dockerd, quickstart: Quickstart) -> Iterator[Dockerd]:
    """An engine that was given the image, and has nothing else."""
    docker_engine.remove_everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", docker_engine.host)
        said = deliver(quickstart, quickstart.image, NAME)
        assert said["copied"]["digest"] == quickstart.built["digest"]
        yield docker_engine
    docker_engine.remove_everything()


@pytest.fixture
def untouched(engine: Dockerd) -> Iterator[Dockerd]:
    """The engine, in which nothing may stay behind, and nothing be missing."""
    before = contents(engine)
    assert before == {"containers": [], "volumes": [], "names": [NAME], "images": 1}
    yield engine
    assert contents(engine) == before


def contents(engine: Dockerd) -> dict[str, Any]:
    lines = {
        "containers": engine.docker("ps", "--all", "--quiet"),
        "volumes": engine.docker("volume", "ls", "--quiet"),
        "names": engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}"),
    }
    found: dict[str, Any] = {kind: text.split() for kind, text in lines.items()}
    return found | {"images": len(engine.docker("images", "--all", "--quiet").split())}


def deliver(quickstart: Quickstart, source: str, name: str) -> dict[str, Any]:
    """Copy to the engine. What the command answers; the events of its progress under `events`."""
    said = tricompose("copy", source, f"docker-daemon:{name}", "--json", "--progress", "json", cwd=quickstart.folder)
    assert said.returncode == 0, said.stderr
    answer: dict[str, Any] = json.loads(said.stdout)
    return answer | {"events": [json.loads(line) for line in said.stderr.splitlines()]}


@contextmanager
def container(engine: Dockerd, *arguments: str) -> Iterator[str]:
    """A container that runs in the background; its ID."""
    made = engine.docker("run", "--detach", *arguments).strip()
    try:
        yield made
    finally:
        engine.docker("rm", "--force", "--volumes", made)


# -- it runs ------------------------------------------------------------------------------------------------------


def test_it_serves_by_its_own_entrypoint_and_command(untouched: Dockerd) -> None:
    with container(untouched, "--publish", "127.0.0.1::8000", NAME) as server:
        http = "http://" + untouched.docker("port", server, "8000").strip()
        wait_until_ready(http)
        assert_serves(http)
        backends = untouched.docker("exec", server, "ls", f"{HOME}/backends").split()
        untouched.docker("stop", "--time", "20", server)
        log = untouched.docker("logs", server)
        assert untouched.docker("inspect", "--format", "{{.State.ExitCode}}", server) == "0\n"
    assert "This image is a stand-in" in log, "the entrypoint's banner"
    assert backends == ["onnxruntime", "python"]


TENSORRT = """\
name: "plan" backend: "tensorrt"
input [{ name: "X" data_type: TYPE_FP32 dims: [4] }] output [{ name: "Y" data_type: TYPE_FP32 dims: [4] }]
"""
UNABLE = "unable to find backend library for backend 'tensorrt', try specifying runtime on the model configuration."


def test_a_dropped_backend_is_missed_in_the_words_of_the_server(untouched: Dockerd, tmp_path: Path) -> None:
    for path, text in {"config.pbtxt": TENSORRT, "1/model.plan": ""}.items():
        (tmp_path / "plan" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plan" / path).write_text(text)
    mount = f"{tmp_path}:/other:ro"
    argv = ["run", "--rm", "--volume", mount, NAME, "tritonserver", "--model-repository=/other"]
    with pytest.raises(AssertionError, match="ended with 1"):
        untouched.docker(*argv)
    words = [*argv[:-2], "sh", "-c", "tritonserver --model-repository=/other; true"]
    assert f"failed to load 'plan' version 1: Invalid argument: {UNABLE}" in said_by(untouched, words)


def said_by(engine: Dockerd, words: list[str]) -> str:
    """What a container writes to both of its streams, which must end well."""
    argv = ["docker", "--host", engine.host, *words]
    ran = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return ran.stdout


def test_a_model_of_a_dropped_backend_is_refused_before_anything_is_built(
    quickstart: Quickstart, tmp_path: Path
) -> None:
    recipe = quickstart.recipe(with_backends("python"), "without-onnxruntime")
    said = tricompose("build", recipe, "--cache", quickstart.cache, "-o", f"oci:{tmp_path}/out:1", cwd=tmp_path)
    assert said.returncode == Unplannable.status
    assert "error: the model linear_onnx needs the backend onnxruntime, which the recipe leaves out" in said.stderr
    assert "hint: backends: [python, onnxruntime]" in said.stderr
    assert not (tmp_path / "out").exists()


# -- it is looked at ----------------------------------------------------------------------------------------------


def skopeo(*arguments: str) -> Any:
    require("skopeo")
    ran = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.fixture
def full(quickstart: Quickstart) -> Any:
    """The config of the upstream."""
    return skopeo("inspect", "--config", f"oci:{quickstart.folder}/build/upstream:{UPSTREAM}")


def test_inspect_shows_what_the_upstream_says_and_what_is_ours(
    engine: Dockerd, quickstart: Quickstart, full: Any
) -> None:
    (image,) = json.loads(engine.docker("inspect", NAME))
    ours, theirs = image["Config"], full["config"]
    for field in ("Env", "Entrypoint", "WorkingDir"):
        assert theirs[field], f"an upstream without {field} would prove nothing"
        assert ours[field] == theirs[field]
    assert ours["Cmd"] == ["tritonserver", "--model-repository=/models"]
    assert theirs["Labels"].items() <= ours["Labels"].items()
    added = {name: value for name, value in ours["Labels"].items() if name not in theirs["Labels"]}
    upstream = added.pop("io.tricompose.upstream")
    assert upstream == skopeo("inspect", f"oci:{quickstart.folder}/build/upstream:{UPSTREAM}")["Digest"]
    assert added == {"io.tricompose.backends": "onnxruntime,python", "io.tricompose.validation": "not validated"}
    assert (image["Os"], image["Architecture"]) == ("linux", "amd64")
    assert image["Created"] == full["created"]


def test_history_has_a_line_for_each_component(engine: Dockerd, full: Any) -> None:
    lines = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", NAME).splitlines()
    made = [line for line in reversed(lines) if line.startswith("tricompose ")]
    assert made == [
        "tricompose core",
        "tricompose backends/onnxruntime",
        "tricompose backends/python",
        "tricompose model add_sub",
        "tricompose model linear_onnx",
    ]
    theirs = [step["created_by"] for step in full["history"]]
    kept = [line for line in reversed(lines) if line not in made]
    gone = [step for step in theirs if step not in kept]
    assert [step for step in theirs if step in kept] == kept
    assert gone == [step for step in gone if "build/install /opt/tritonserver" in step]
    assert len(gone) == 1


# -- other tools take it ------------------------------------------------------------------------------------------


def test_skopeo_and_umoci_take_it(engine: Dockerd, quickstart: Quickstart, tmp_path: Path) -> None:
    """Three tools agree on what is in there: skopeo moves it, umoci unpacks it, and the engine has the same files."""
    require("umoci")
    copied = f"oci:{tmp_path}/copied:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--preserve-digests", quickstart.image, copied], check=True)
    assert skopeo("inspect", copied)["Digest"] == quickstart.built["digest"]
    root = tmp_path / "root"
    subprocess.run(["umoci", "raw", "unpack", "--image", copied.removeprefix("oci:"), str(root)], check=True)
    unpacked = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert unpacked - OF_DOCKER == exported(engine) - OF_DOCKER
    assert sorted(path.name for path in (root / HOME[1:] / "backends").iterdir()) == ["onnxruntime", "python"]
    assert not (root / HOME[1:] / "caches/local").exists()
    assert not (root / HOME[1:] / "repoagents/checksum").exists()


OF_DOCKER = frozenset(
    [".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "proc", "sys"]
    + [f"etc{path}" for path in ("", "/hostname", "/hosts", "/mtab", "/resolv.conf")]
)
"""What an engine puts into every container. Source: moby, daemon/initlayer."""


def exported(engine: Dockerd) -> set[str]:
    """Every path of a container that was never started."""
    made = engine.docker("create", NAME).strip()
    try:
        export = subprocess.Popen(["docker", "--host", engine.host, "export", made], stdout=subprocess.PIPE)
        listed = subprocess.run(
            ["tar", "-t", "--quoting-style=literal"], stdin=export.stdout, capture_output=True, text=True, check=True
        )
        assert export.wait(30) == 0
    finally:
        engine.docker("rm", made)
    return {line.rstrip("/") for line in listed.stdout.splitlines()}


# -- delivered again ----------------------------------------------------------------------------------------------


def test_a_second_delivery_reads_and_sends_no_layer(engine: Dockerd, quickstart: Quickstart, tmp_path: Path) -> None:
    """The layers are taken out of the source: whoever wanted one would fail."""
    layout = tmp_path / "hollow"
    layers = skopeo("inspect", quickstart.image)["Layers"]
    subprocess.run(["cp", "-r", quickstart.folder / "build/slim", layout], check=True)
    for layer in set(layers):
        (layout / "blobs" / layer.replace(":", "/")).unlink()
    said = deliver(quickstart, f"oci:{layout}", "quickstart:again")
    assert [event for event in said["events"] if event.get("action") == "copied"] == []
    ids = engine.docker("images", "--no-trunc", "--quiet", "quickstart").split()
    assert len(ids) == 2
    assert len(set(ids)) == 1
    engine.docker("rmi", "quickstart:again")


def test_another_recipe_sends_what_it_adds(engine: Dockerd, quickstart: Quickstart) -> None:
    """What is below the added component is not sent again."""
    recipe = quickstart.recipe(with_backends("onnxruntime", "python", "square"), "with-square")
    cache = ["--cache", quickstart.cache, "--no-validate"]
    said = tricompose(
        "build", recipe, *cache, "-o", "docker-daemon:other:1", "--progress", "json", cwd=quickstart.folder
    )
    assert said.returncode == 0, said.stderr
    moved = {
        action: {event["digest"]: event["total"] for event in events if event.get("action") == action}
        for events in [[json.loads(line) for line in said.stderr.splitlines()]]
        for action in ("copied", "skipped")
    }
    engine.docker("rmi", "other:1")
    assert sum(moved["copied"].values()) < 100_000
    assert sum(moved["skipped"].values()) > 50_000_000


# -- what is proved there leaves nothing --------------------------------------------------------------------------


def test_validate_proves_it_and_leaves_nothing(untouched: Dockerd, quickstart: Quickstart) -> None:
    said = tricompose("validate", "recipes/quickstart.yaml", "--runner", "docker", "--json", cwd=quickstart.folder)
    assert said.returncode == 0, said.stderr
    report = json.loads(said.stdout)["report"]
    assert report["ok"] is True
    outcomes = {check["id"]: check["outcome"] for check in report["results"]}
    gpu = outcomes.pop("gpu:visible")
    assert set(outcomes.values()) == {"passed"}
    assert {"ready", "models", "sum-and-difference", "linear"} < set(outcomes)
    assert report["about"]["engine"].startswith("docker ")
    assert gpu == "unverified", "no GPU was seen, so nothing is proved of one"


def test_a_gpu_that_is_required_and_not_there(untouched: Dockerd, quickstart: Quickstart) -> None:
    recipe = quickstart.recipe(lambda text: text.replace("validate:\n", "validate:\n  gpu: required\n"), "required")
    said = tricompose("validate", recipe, "--runner", "docker", "--json", cwd=quickstart.folder)
    assert said.returncode == 12, said.stderr
    report = json.loads(said.stdout)["report"]
    assert [one["number"] for one in report["diagnoses"]] == [1]
    assert "nvidia-ctk runtime configure" in report["diagnoses"][0]["fix"]
    assert not any(one["kind"] == "gpu" and one["outcome"] == "passed" for one in report["results"])


def test_a_proof_that_fails_there_delivers_nothing(untouched: Dockerd, quickstart: Quickstart, tmp_path: Path) -> None:
    recipe = quickstart.recipe(lambda text: text.replace("[11, 22, 33, 44]", "[11, 22, 33, 45]"), "wrong")
    arguments = ["--runner", "docker", "--cache", quickstart.cache, "--json"]
    outputs = ["-o", "docker-daemon:wrong:1", "-o", f"oci:{tmp_path}/wrong:1"]
    said = tricompose("build", recipe, *arguments, *outputs, cwd=quickstart.folder)
    assert said.returncode == 12, said.stderr
    answer = json.loads(said.stdout)
    assert answer["error"]["code"] == "check-failed"
    assert "at [3] 45 is expected, it is 44" in answer["error"]["message"]
    assert not (tmp_path / "wrong").exists()


def test_run_serves_on_its_ports_until_it_is_stopped(untouched: Dockerd, quickstart: Quickstart) -> None:
    ports = {name: free_port() for name in ("http", "grpc", "metrics")}
    flags = [f"--{name}-port={port}" for name, port in ports.items()]
    arguments = ["run", "recipes/quickstart.yaml", "--runner", "docker", "--json", *flags]
    with running(*arguments, cwd=quickstart.folder) as process:
        answer = read_object(process)
        assert answer["server"]["http"] == f"http://127.0.0.1:{ports['http']}"
        assert_serves(answer["server"]["http"])
        for port in ports.values():
            socket.create_connection(("127.0.0.1", port), 5).close()
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert "All models are stopped, unloading models" in log or "stopping" in log
    for port in ports.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)


def read_object(process: subprocess.Popen[str]) -> Any:
    """The JSON object that a process writes while it goes on; its log is read meanwhile, so that it never waits."""
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            return json.loads(text)
    raise AssertionError(f"it ended, and wrote only {text!r}")


def starts(engine: Dockerd) -> bool:
    return bool(engine.docker("ps", "--quiet"))


def is_named(engine: Dockerd) -> bool:
    return "tricompose" in engine.docker("images", "--format", "{{.Repository}}")


def is_loading(engine: Dockerd) -> bool:
    found = engine.docker("ps", "--quiet").split()
    return bool(found) and "loading: " in said_by(engine, ["logs", found[0]])


@pytest.mark.parametrize("moment", [is_named, starts, is_loading], ids=lambda moment: moment.__name__)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_stopped_in_the_middle(
    untouched: Dockerd, quickstart: Quickstart, command: str, moment: Callable[[Dockerd], bool]
) -> None:
    with running(command, "recipes/quickstart.yaml", "--runner", "docker", cwd=quickstart.folder) as process:
        deadline = time.monotonic() + 30
        while not moment(untouched):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    assert out == ""


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_gpu_that_is_wanted_is_missed_before_anything_starts(
    untouched: Dockerd, quickstart: Quickstart, command: str
) -> None:
    recipe = quickstart.recipe(lambda text: text + "run: {gpus: all}\n", "gpu")
    said = tricompose(command, recipe, "--runner", "docker", cwd=quickstart.folder)
    # What is proved has a report all the same, in which the start is an error.
    assert said.returncode == (CheckFailed.status if command == "validate" else Unplannable.status)
    error, hint = said.stderr.splitlines()[-2:]
    assert (
        error.removeprefix("error: ").removeprefix("start: ").startswith("the engine cannot give the container a GPU")
    )
    assert 'could not select device driver ""' in error
    assert hint.startswith("hint: sudo apt-get install -y nvidia-container-toolkit && sudo nvidia-ctk runtime")


def test_stopped_by_someone_in_a_hurry(untouched: Dockerd, quickstart: Quickstart) -> None:
    """Ctrl-C held down until it is over: what is cleared away meanwhile is not interrupted in its turn."""
    with running("validate", "recipes/quickstart.yaml", "--runner", "docker", cwd=quickstart.folder) as process:
        while not is_loading(untouched):
            assert process.poll() is None, process.communicate()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
