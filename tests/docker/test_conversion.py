"""Models are converted in a real Docker Engine, with an image from a real registry: all but TensorRT and the GPU.

The image holds a stand-in for trtexec that is strict (tests/services/trtexec.py). The engine believes that it can give
out GPUs, as NVIDIA's hook is in its PATH, which here does nothing. What was not tried is NVIDIA's own container.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import ContainerCollection

from composer import pipeline, with_tensorrt
from composer.engines.trtexec import LABEL, Made, lay_out
from composer.errors import BuildFailed, NotFound, TricomposeError, Unplannable
from composer.events import Event, Logged, StageFinished, StageStarted, Transferred, Warned
from composer.models.tensorrt import RECORD
from composer.models.tensorrt_config import config_text, interface_of
from composer.models.tensorrt_plan import TensorRtPlan, read_plan
from composer.models.tensorrt_source import survey_original
from composer.pipeline import Workplace
from composer.recipe import Recipe, load_recipe
from tests.command import environment, tricompose
from tests.modelfiles import external_tensor, node, onnx_model
from tests.parity.image import unpack
from tests.parity.place import BASE, Place, packed, server
from tests.services.dockerd import Dockerd, running_dockerd
from tests.services.registry import Registry, running_registry
from tests.services.trtexec import TENSORRT, filesystem, write_hook

pytestmark = pytest.mark.docker

SHAPES = "shapes: {X: {min: [1, 4], opt: [8, 4], max: [32, 4]}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An engine with GPUs, as it thinks, and a registry that has what NVIDIA's has, by the same names."""

    engine: Dockerd
    registry: Registry


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("conversion")
    with ExitStack() as stack:
        registry = stack.enter_context(running_registry(folder / "registry"))
        # In the PATH of this engine alone: others have no GPU to give.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{write_hook(folder / 'bin')}:{os.environ['PATH']}")
            engine = stack.enter_context(running_dockerd())
        publish(engine, f"{registry.host}/nvidia/tensorrt:24.09-py3", TENSORRT)
        publish(engine, f"{registry.host}/nvidia/tensorrt:bare", TENSORRT, trtexec=False)
        publish(engine, f"{registry.host}/nvidia/tensorrt:24.08-py3", "10.3.0.26")
        publish(engine, f"{registry.host}/nvidia/tritonserver:24.09-py3", TENSORRT)
        engine.remove_everything()
        yield Site(engine=engine, registry=registry)


def publish(engine: Dockerd, name: str, version: str, *, trtexec: bool = True) -> None:
    change = f"ENV PATH=/usr/bin:/bin TRT_VERSION={version}"
    engine.docker("import", "--change", change, "-", name, stdin=filesystem(trtexec=trtexec))
    engine.docker("push", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A folder to convert in. Nothing may be left in the engine or half-made in the cache, whatever happens."""

    path: Path
    site: Site
    events: list[Event]

    def model(self, producer: str = "tests", **how: object) -> Path:
        usual: dict[str, object] = {"inputs": {"X": ("FP32", ["N", 4])}, "outputs": {"Y": ("FP32", ["N", 4])}}
        usual |= {"nodes": [node("Relu", ["X"], ["Y"])], "producer": producer}
        path = self.path / "model.onnx"
        path.write_bytes(onnx_model(**{**usual, **how}))  # type: ignore[arg-type]
        return path

    def recipe(self, convert: str = SHAPES, more: str = "") -> Recipe:
        text = 'triton: "24.09"\nbackends: [tensorrt]\n'
        text += f"network: {{mirrors: {{nvcr.io: ['{self.site.registry.host}']}}, "
        text += f"insecure: ['{self.site.registry.host}']}}\nmodels:\n"
        text += "  - name: m\n    convert:\n      to: tensorrt\n      from: model.onnx\n"
        text += "".join(f"      {line}\n" for line in convert.splitlines()) + more
        path = self.path / "recipe.yaml"
        path.write_text(text)
        return load_recipe(path, environ={})

    def place(self, recipe: Recipe) -> Workplace:
        return Workplace.from_environment(
            {}, home=self.path, recipe=recipe, cache=self.path / "cache", emit=self.events.append
        )

    def convert(self, convert: str = SHAPES, more: str = "") -> Made:
        self.events.clear()
        recipe = self.recipe(convert, more)
        (made,) = pipeline.convert(recipe, self.place(recipe))
        return made

    def failing(self, convert: str = SHAPES, more: str = "") -> TricomposeError:
        with pytest.raises(TricomposeError) as raised:
            self.convert(convert, more)
        return raised.value

    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Logged) and event.source == "trtexec"]

    def untidy(self) -> list[str]:
        """What is left, and should not be."""
        ingest = self.path / "cache" / "ingest"
        left = [str(path) for path in ingest.iterdir()] if ingest.exists() else []
        return left + self.site.engine.docker("ps", "--all", "--quiet").split()


@pytest.fixture
def bench(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("DOCKER_HOST", site.engine.host)
    made = Bench(path=tmp_path, site=site, events=[])
    yield made
    assert made.untidy() == []


def test_a_model_is_converted(bench: Bench) -> None:
    bench.model()
    made = bench.convert(f"{SHAPES}\nprecision: fp16\nworkspace: 1GiB\nplan: out/m.plan")
    found = read_plan(made.plan)
    assert isinstance(found, TensorRtPlan)
    assert found.version == (10, 4, 0, 26)
    assert not made.before
    assert (made.record.gpu.name, made.record.gpu.capability) == ("NVIDIA A10", "8.6")
    assert made.record.digest == hashlib.sha256(made.plan.read_bytes()).hexdigest()
    assert made.record.image.startswith("docker://nvcr.io/nvidia/tensorrt:24.09-py3@sha256:")
    assert (bench.path / "out" / "m.plan").read_bytes() == made.plan.read_bytes()
    assert (bench.path / "out" / f"m.plan{RECORD}").read_text() == made.record.text()
    assert any("--fp16 --minShapes=X:1x4 --optShapes=X:8x4" in line for line in bench.said())
    assert bench.said()[-1].startswith("&&&& PASSED")
    stages = [event.stage for event in bench.events if isinstance(event, StageStarted | StageFinished)]
    assert stages[-2:] == ["convert", "convert"]
    moved = [event for event in bench.events if isinstance(event, Transferred) and "into the container" in event.title]
    assert moved[-1].done == moved[-1].total == (bench.path / "model.onnx").stat().st_size


def test_what_was_converted_is_kept(bench: Bench) -> None:
    bench.model()
    first = bench.convert()
    again = bench.convert(f"{SHAPES}\nplan: m.plan")
    assert again.before
    assert again.plan.read_bytes() == first.plan.read_bytes() == (bench.path / "m.plan").read_bytes()
    assert bench.said() == []
    assert not bench.convert(f"{SHAPES}\nprecision: fp16").before
    # One whose bytes have changed is as good as none.
    first.plan.write_bytes(first.plan.read_bytes() + b"!")
    assert not bench.convert().before
    assert bench.convert().before


def test_it_is_made_on_the_gpu_that_it_is_served_on(bench: Bench) -> None:
    bench.model()
    first = bench.convert()
    other = bench.convert(SHAPES, "run: {gpus: [GPU-2]}\n")
    assert (first.record.gpu.name, other.record.gpu.name) == ("NVIDIA A10", "NVIDIA H100 80GB HBM3")
    assert not other.before
    error = bench.failing(SHAPES, "run: {gpus: [GPU-9]}\n")
    assert isinstance(error, Unplannable)
    assert error.message == "the container does not see a GPU: nvidia-smi ended with 6: No devices were found"


def test_everything_that_it_reads_arrives_as_it_is(bench: Bench) -> None:
    weights = os.urandom(3_000_001)
    (bench.path / "w").mkdir()
    (bench.path / "w" / "a.bin").write_bytes(weights)
    (bench.path / "flat.bin").write_bytes(weights[1:])
    (bench.path / "p.so").write_bytes(weights[2:])
    (bench.path / "ranges").write_bytes(weights[3:])
    tensors = [
        external_tensor("W", "UINT8", [1], location="w/a.bin", offset=0, length=1),
        external_tensor("V", "UINT8", [1], location="flat.bin", offset=0, length=1),
    ]
    model = bench.model(initializers=tensors)
    bench.convert(f"{SHAPES}\nprecision: int8\ncalibration: ranges\nplugins: [p.so]")
    digests = {line.split()[0] for line in bench.said() if " /tricompose/" in line and len(line.split()[0]) == 64}
    sent = [model.read_bytes(), weights[1:], weights[2:], weights[3:]]
    assert digests == {hashlib.sha256(data).hexdigest() for data in sent}
    warned = [event.message for event in bench.events if isinstance(event, Warned)]
    assert "the server needs the plugin p.so too" in warned


def test_the_timing_cache_grows(bench: Bench) -> None:
    bench.model()
    bench.convert(f"{SHAPES}\ntiming_cache: t/timing")
    assert (bench.path / "t" / "timing").read_text() == "+"
    bench.convert(f"{SHAPES}\nprecision: fp16\ntiming_cache: t/timing")
    assert (bench.path / "t" / "timing").read_text() == "++"
    bench.model("fails-memory")
    bench.failing(f"{SHAPES}\ntiming_cache: t/timing")
    assert (bench.path / "t" / "timing").read_text() == "++"
    assert [path.name for path in (bench.path / "t").iterdir()] == ["timing"]


@pytest.mark.parametrize(
    ("producer", "message", "hint"),
    [
        ("fails-unknown-op", "an operator that TensorRT lacks (DCNv2), and no plugin", "plugins: [./libyours.so]"),
        ("fails-memory", "there was not enough memory on the GPU (exit status 1)", "nvidia-smi"),
        ("fails-killed", "it was killed, as it is for want of memory (exit status 137)", "free -h"),
        ("writes-nothing", "there is no /tricompose/made/model.plan", "--verbose"),
        ("writes-another-version", "wrote a plan of TensorRT 10.4.0.27, and the server has 10.4.0.26", "convert.image"),
    ],
)
def test_a_conversion_that_fails(bench: Bench, producer: str, message: str, hint: str) -> None:
    bench.model(producer)
    error = bench.failing(f"{SHAPES}\nplan: m.plan")
    assert isinstance(error, BuildFailed)
    assert message in error.message
    assert hint in (error.hint or "")
    if producer in ("fails-unknown-op", "fails-memory"):
        assert any(line.startswith("&&&& FAILED") for line in error.detail)
    assert not (bench.path / "m.plan").exists()
    assert not list((bench.path / "cache" / "plans").rglob("*.plan"))


def test_an_image_without_trtexec(bench: Bench) -> None:
    bench.model()
    error = bench.failing(f"{SHAPES}\nimage: docker://nvcr.io/nvidia/tensorrt:bare")
    assert "the image has no trtexec (exit status 127)" in error.message


def test_another_tensorrt_than_the_servers_is_refused_before_anything_is_pulled(bench: Bench) -> None:
    bench.site.engine.remove_everything()
    bench.model()
    error = bench.failing(f"{SHAPES}\nimage: docker://nvcr.io/nvidia/tensorrt:24.08-py3")
    assert isinstance(error, Unplannable)
    assert "has TensorRT 10.3.0.26, and the server has 10.4.0.26" in error.message
    assert error.hint == "convert: {image: docker://nvcr.io/nvidia/tensorrt:24.09-py3}"
    assert bench.site.engine.docker("images", "--quiet") == ""


def test_without_a_gpu_it_says_what_to_run_where(bench: Bench, dockerd: Dockerd) -> None:
    """An engine that has no GPU to give, which is no stand-in."""
    bench.model()
    error = bench.failing()
    assert isinstance(error, Unplannable)
    assert "there is no GPU that Docker could give to a container" in error.message
    assert 'could not select device driver "" with capabilities: [[gpu]]' in error.message
    hint = error.hint or ""
    assert "add plan: ./m.plan to convert; on a machine with the GPU" in hint
    assert "tricompose models convert RECIPE --only m; then bring m.plan and m.plan.json here" in hint
    error = bench.failing(f"{SHAPES}\nplan: plans/m.plan")
    assert f"then bring {bench.path}/plans/m.plan and {bench.path}/plans/m.plan.json here" in (error.hint or "")
    assert dockerd.docker("ps", "--all", "--quiet") == ""


def test_a_plan_is_carried_to_a_machine_without_gpu_and_docker(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.model()
    made = bench.convert(f"{SHAPES}\nplan: m.plan")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("recipe.yaml", "model.onnx", "m.plan", f"m.plan{RECORD}"):
        shutil.copy(bench.path / name, elsewhere)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    recipe = load_recipe(elsewhere / "recipe.yaml", environ={})
    found = with_tensorrt.plan_brought(recipe, 0, {"config": {"Env": [f"TRT_VERSION={TENSORRT}"]}})
    assert found is not None
    assert found.record == made.record
    conversion = recipe.models[0].convert
    assert conversion is not None
    interface = interface_of(survey_original(recipe, 0)[0], conversion, found.job.version)
    assert interface is not None
    folder = lay_out(found, config_text("m", interface), elsewhere / "repository")
    assert (folder / "1" / "model.plan").read_bytes() == made.plan.read_bytes()
    assert "max_batch_size: 32" in (folder / "config.pbtxt").read_text()


def test_the_command(bench: Bench) -> None:
    bench.model()
    recipe = bench.recipe(f"{SHAPES}\nplan: m.plan")
    with pytest.raises(NotFound, match="converts no model x") as raised:
        pipeline.convert(recipe, bench.place(recipe), only=["x"])
    assert raised.value.hint == "those that are: m"
    environ = environment(bench.path, DOCKER_HOST=bench.site.engine.host)
    words = ("models", "convert", "recipe.yaml", "--only", "m", "--cache", "cache")
    said = tricompose(*words, "--json", cwd=bench.path, env=environ)
    assert said.returncode == 0, said.stderr
    (told,) = json.loads(said.stdout)["plans"]
    assert told["sha256"] == hashlib.sha256((bench.path / "m.plan").read_bytes()).hexdigest()
    assert (told["model"], told["before"], told["tensorrt"]) == ("m", False, TENSORRT)
    assert told["gpu"]["name"] == "NVIDIA A10"
    again = tricompose(*words, cwd=bench.path, env=environ)
    assert "was there" in again.stdout
    assert "m.plan and m.plan.json go together" in again.stdout


CONVERT = """\
import sys
from pathlib import Path
from composer import pipeline
from composer.events import Logged
from composer.recipe import load_recipe

def tell(event):
    if isinstance(event, Logged):
        print(event.text, flush=True)

recipe = load_recipe(Path("recipe.yaml"), environ={})
place = pipeline.Workplace.from_environment({}, home=Path(), recipe=recipe, cache=Path("cache"), emit=tell)
pipeline.convert(recipe, place)
"""


def test_the_container_has_a_gpu_and_no_network_and_goes_when_interrupted(bench: Bench) -> None:
    bench.model("is-slow")
    bench.recipe()
    argv = [sys.executable, "-c", CONVERT]
    with subprocess.Popen(argv, cwd=bench.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "[I] slow" in line:
                break
        client = bench.site.engine.client()
        (container,) = client.containers.list(filters={"label": f"{LABEL}=m"})
        host = container.attrs["HostConfig"]
        client.close()
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - begun < 30
    assert (host["NetworkMode"], host["Binds"], host["Privileged"]) == ("none", None, False)
    assert host["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
    assert host["DeviceRequests"][0]["Count"] == 1


def test_an_interruption_while_the_container_is_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine goes on making it, whoever is gone."""
    bench.model()
    create = ContainerCollection.create

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        made = create(*arguments, **settings)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        return made

    monkeypatch.setattr(ContainerCollection, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.convert()
    assert bench.said() == []


def test_the_repository_of_what_was_converted(bench: Bench) -> None:
    """As a build has it: made here, or found in the cache, or carried; the config follows from the model."""
    bench.model()
    recipe = bench.recipe(SHAPES)
    server = {"config": {"Env": [f"TRT_VERSION={TENSORRT}"]}}
    cache = bench.path / "cache"
    with pytest.raises(Unplannable, match="m was not converted yet") as raised:
        with_tensorrt.converted(recipe, server, cache, None)
    assert raised.value.hint == "where the GPU is: tricompose models convert RECIPE --only m"
    (made,) = pipeline.convert(recipe, bench.place(recipe))
    found = with_tensorrt.converted(recipe, server, cache, None)
    again = with_tensorrt.converted(recipe, server, cache, lambda index: made)
    assert found is not None
    assert found == again
    (model,) = found.models
    assert [(file.path, file.size) for file in model.files] == [
        ("m/1/model.plan", made.record.size),
        ("m/config.pbtxt", len(model.configuration.text or "")),
    ]
    assert (model.config.backend, model.config.max_batch_size) == ("tensorrt", 32)
    (bench.path / "own.pbtxt").write_text('backend: "tensorrt" max_batch_size: 4')
    own = bench.recipe(SHAPES, "    config: own.pbtxt\n")
    mine = with_tensorrt.converted(own, server, cache, None)
    assert mine is not None
    assert mine.models[0].config.max_batch_size == 4
    assert found.models[0].config.max_batch_size == 32


def test_a_build_converts(bench: Bench) -> None:
    """From the recipe to the image: converted here, and baked in."""
    upstream = Place(bench.path)
    upstream.upstream(BASE, packed(server("python", "tensorrt")), base=1)
    bench.model()
    recipe = bench.recipe(SHAPES, f"{upstream.origin}\n").model_copy(update={"backends": "auto"})
    pipeline.build(recipe, bench.place(recipe), outputs=[upstream.output()], how=None)
    image = unpack(bench.path / "result", "slim", bench.path / "slim")
    baked = read_plan(image / "models/m/1/model.plan")
    assert isinstance(baked, TensorRtPlan)
    assert baked.version == (10, 4, 0, 26)
    assert "max_batch_size: 32" in (image / "models/m/config.pbtxt").read_text()
    (said,) = pipeline.plan(recipe, bench.place(recipe), scan="none")
    assert [one.name for one in said.models] == ["m"]
