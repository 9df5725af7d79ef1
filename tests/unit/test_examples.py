"""Every example of recipes/ can be built: it loads, asks for nothing unbuilt, says what it starts from, and is planned.

No server of NVIDIA's own images can be started here: what is planned stands on an upstream that has all the backends
by name, and tests/triton/test_seeds.py serves those models that the tests' real server has a backend for.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from composer import pipeline
from composer.errors import Unplannable
from composer.events import Warned
from composer.lock import references
from composer.models.autoconfig import written
from composer.models.configuration import parse_configuration
from composer.models.onnx import OnnxModel, read_onnx
from composer.models.tensorrt import RECORD, Gpu, Record, decide
from composer.models.tensorrt_source import survey_original
from composer.recipe import Recipe, load_recipe, parse_recipe, refuse_unbuilt
from tests.command import tricompose
from tests.examples import FILES
from tests.modelfiles import plan
from tests.parity.place import BASE, Place, file, folder, packed, server

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
OF_RELEASES = [path for path in RECIPES if path.name != "quickstart.yaml"]
"""All but the one that brings an upstream of its own."""

BACKENDS = ("dali", "fil", "identity", "onnxruntime", "openvino", "python", "pytorch", "tensorflow", "tensorrt")

PACKAGES = Path("usr/local/lib/python3.10/dist-packages")
NUMPY = [
    *(folder(str(path)) for path in (*[*PACKAGES.parents][-2::-1], PACKAGES, PACKAGES / "numpy")),
    file(str(PACKAGES / "numpy/__init__.py")),
]


def test_there_are_examples() -> None:
    assert len(RECIPES) >= 7


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_an_example_can_be_built(path: Path) -> None:
    recipe = load_recipe(path, environ={})
    refuse_unbuilt(recipe)
    full, least = references(recipe)
    assert least is not None
    assert (least.transport, least.tag) == (full.transport, f"{full.tag}-min")
    assert recipe.outputs


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_an_example_is_completed_by_editors(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_an_example_is_in_the_list(path: Path) -> None:
    assert f"| [{path.name}]({path.name}) |" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_nothing_is_wrong_with_its_models(path: Path, tmp_path: Path) -> None:
    said = tricompose("models", "lint", path, "--fail-on", "warning", cwd=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr


def test_models_that_are_not_here_yet_are_not_taken_for_checked(tmp_path: Path) -> None:
    for name, when in (("densenet_onnx", "fetched"), ("tensorrt_fp16_model", "converted")):
        said = tricompose("models", "lint", FOLDER / f"{name.partition('_')[0]}.yaml", cwd=tmp_path)
        assert said.stderr == f"lint: {name} is checked once it is {when}: by plan and build\n"


# -- their models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_model_file_is_what_its_script_makes(name: str) -> None:
    assert (FOLDER / name).read_bytes() == FILES[name](), "python -m tests.examples"


def test_the_models_that_are_compared_differ_in_their_configuration_alone() -> None:
    programs = {path.read_text() for path in FOLDER.glob("models-load/*/1/model.py")}
    assert len(programs) == 1
    assert len(list(FOLDER.glob("models-load/*/1/model.py"))) == 4


def test_examples_are_small() -> None:
    """Schema aside, which is as long as the recipe has keys."""
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file() and path.name != "schema.json"}
    assert sum(sizes.values()) < 100_000, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_every_model_file_has_a_script() -> None:
    found = {path for form in ("*.onnx", "*.pt", "*.plan") for path in FOLDER.rglob(form)}
    assert {str(path.relative_to(FOLDER)) for path in found} == {*FILES, "models/linear_onnx/1/model.onnx"}


# -- what is planned ----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with the examples, and an upstream that has every backend by name, and NumPy."""
    made = Place(tmp_path)
    made.upstream(BASE, packed(server(*BACKENDS, extra=NUMPY)), base=1)
    shutil.copytree(FOLDER, tmp_path / "recipes")
    made.origin = made.origin.replace("oci:upstream", f"oci:{tmp_path}/upstream")
    return made


def example(place: Place, name: str) -> Recipe:
    """One of `OF_RELEASES`, with the place's upstream."""
    path = place.path / "recipes" / f"{name}.yaml"
    return parse_recipe(f"{path.read_text()}\n{place.origin}\n", path=path, environ={})


def carry(recipe: Recipe, version: str) -> None:
    """Bring the plan of the first model, as from a machine with a GPU: one that TensorRT has not made."""
    conversion = recipe.models[0].convert
    assert conversion
    assert conversion.plan
    original, extras = survey_original(recipe, 0)
    job = decide(recipe, 0, original, extras, version)
    data = plan(tuple(map(int, version.split("."))), second=0)  # type: ignore[arg-type]
    made = Record(
        name=job.name,
        model=job.model,
        tensorrt=job.version,
        argv=job.argv,
        fingerprint=job.fingerprint,
        gpu=Gpu(name="NVIDIA A10", capability="8.6", driver="525.60.13"),
        image="docker://nvcr.io/nvidia/tensorrt:22.11-py3",
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )
    target = recipe.base / conversion.plan
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    target.with_name(f"{target.name}{RECORD}").write_text(made.text())


def planned(place: Place, name: str) -> Mapping[str, Any]:
    """What building would do: which backends and models go in, and how the server is started."""
    (made,) = pipeline.plan(example(place, name), place.workplace(), scan="new")
    return {
        "kept": [one.name for one in made.kept if one.kind == "backends"],
        "dropped": len([one for one in made.dropped if one.kind == "backends"]),
        "models": [one.name for one in made.models],
        "command": made.config["Cmd"],
        "warned": [event.message for event in place.events if isinstance(event, Warned)],
    }


MODELS = "--model-repository=/models"
KEEPALIVE = (
    "--grpc-keepalive-time=7200000",
    "--grpc-keepalive-timeout=20000",
    "--grpc-keepalive-permit-without-calls=false",
    "--grpc-http2-max-pings-without-data=2",
    "--grpc-http2-min-recv-ping-interval-without-data=300000",
    "--grpc-http2-max-ping-strikes=2",
)
TUNED = (
    *("--id=triton", "--model-control-mode=explicit", "--load-model=*"),
    *("--pinned-memory-pool-byte-size=268435456", "--cuda-memory-pool-byte-size=0:67108864"),
    *("--grpc-infer-allocation-pool-size=16", *KEEPALIVE, "--log-format=ISO8601"),
)


@pytest.mark.parametrize(
    ("name", "backends", "models", "flags"),
    [
        ("bls", ["python", "pytorch"], ["custom_model", "fc_model_pt"], ()),
        ("densenet", ["onnxruntime"], ["densenet_onnx"], ("--log-verbose=1",)),
        ("labels", ["onnxruntime"], ["model_test"], ("--strict-model-config=true",)),
        ("load", ["python"], ["one", "one_batched", "two", "two_batched"], ()),
        ("tensorrt", ["tensorrt"], ["tensorrt_fp16_model"], ("--model-control-mode=poll", "--repository-poll-secs=30")),
        ("tuned", ["onnxruntime", "python", "tensorrt"], ["classifier", "standardize"], TUNED),
    ],
)
def test_what_an_example_comes_to(
    place: Place, name: str, backends: Sequence[str], models: Sequence[str], flags: Sequence[str]
) -> None:
    if name == "tensorrt":
        carry(example(place, name), "8.5.1.7")
    assert planned(place, name) == {
        "kept": backends,
        "dropped": len(BACKENDS) - len(backends),
        "models": models,
        "command": ["tritonserver", MODELS, *flags],
        "warned": [],
    }


def test_each_example_of_a_release_is_planned() -> None:
    assert {path.stem for path in OF_RELEASES} == {"bls", "densenet", "labels", "load", "ngc", "tensorrt", "tuned"}


def test_a_plan_that_nobody_has_made_is_asked_for(place: Place) -> None:
    with pytest.raises(Unplannable, match="tensorrt_fp16_model was not converted yet"):
        planned(place, "tensorrt")


def test_the_config_that_is_written_for_densenet_is_the_one_by_hand(tmp_path: Path) -> None:
    model = read_onnx(FOLDER / "models-densenet/densenet121.onnx")
    assert isinstance(model, OnnxModel)
    text = written("densenet_onnx", model)
    found = parse_configuration(text.encode(), path=tmp_path).message
    assert (found.name, found.backend, found.max_batch_size) == ("densenet_onnx", "onnxruntime", 0)
    (given,), (gives,) = found.input, found.output
    assert (given.name, list(given.dims)) == ("data_0", [1, 3, 224, 224])
    assert (gives.name, list(gives.dims)) == ("prob_1", [1, 1000, 1, 1])
