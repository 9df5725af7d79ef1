"""The examples of recipes/ whose backends the tests' upstream has: built, served, and asked what the recipes ask.

They are of other releases than the upstream, which is 24.10: its image stands in for theirs. It serves no TorchScript
and no TensorRT: that is only planned and linted (tests/unit/test_examples.py), but for the program that calls the
TorchScript model, which has a stand-in here.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.command import running, tricompose
from tests.quickstart import RECIPES, Quickstart, with_backends
from tests.services.registry import free_port

pytestmark = pytest.mark.triton

RED = [1.0] * 16 + [0.0] * 32
"""A picture of 4 x 4 pixels, colour by colour."""


@pytest.fixture
def recipes(quickstart: Quickstart, tmp_path: Path) -> Path:
    """The examples, on our upstream. Its ONNX Runtime backend is written in Python, and needs that one beside it."""
    upstream = f"oci:{quickstart.folder}/build/upstream:24.10-py3"
    folder = shutil.copytree(RECIPES, tmp_path / "recipes")
    for path in folder.glob("*.yaml"):
        text = with_backends("onnxruntime", "python", "tensorrt")(path.read_text())
        path.write_text(f"{text}\nupstream: {{full: '{upstream}', min: '{upstream}-min'}}\n")
    return folder


def build(recipe: Path, cache: Path, *more: str) -> dict[str, str]:
    """Build an example, as `oci:out:1` beside the folder of examples. Returns what came of each check."""
    line = ("build", recipe, "--cache", cache, "--runner", "rootfs", "-o", "oci:out:1", "--json", *more)
    said = tricompose(*line, cwd=recipe.parents[1])
    assert said.returncode == 0, said.stderr
    return {one["id"]: one["outcome"] for one in proof(said.stdout)}


def proof(said: str) -> list[dict[str, Any]]:
    """The results of the one image of a build."""
    (image,) = json.loads(said)["builds"][0]["images"]
    return list((image["validation"] or {"results": []})["results"])


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("densenet", ["a-dark-picture", "half-a-picture"]),
        ("labels", ["red", "white"]),
        ("tuned", ["two-rows", "standardized", "after:ready", "after:models", "after:two-rows"]),
    ],
)
def test_an_example_serves(quickstart: Quickstart, recipes: Path, name: str, asked: list[str]) -> None:
    outcomes = build(recipes / f"{name}.yaml", quickstart.cache)
    assert outcomes.pop("gpu:visible") == "unverified"
    assert set(outcomes.values()) == {"passed"}
    assert {"ready", "models", *asked} < set(outcomes)


def test_what_instances_and_batches_are_worth(quickstart: Quickstart, recipes: Path) -> None:
    """The table of the example: who batches, who does not, and who is faster for it."""
    line = ("build", recipes / "load.yaml", "--cache", quickstart.cache, "--runner", "rootfs", "-o", "oci:out:1")
    said = tricompose(*line, "--json", cwd=recipes.parent)
    assert said.returncode == 0, said.stderr
    runs = {one["id"]: one["evidence"]["runs"] for one in proof(said.stdout) if one["kind"] == "load"}
    assert list(runs) == ["one", "two", "one-batched", "two-batched"]
    assert [[run["concurrency"] for run in each] for each in runs.values()] == [[1, 8]] * 4
    assert [each[0]["batches"]["average"] for each in runs.values()] == [1.0] * 4
    batches = {name: each[1]["batches"]["average"] for name, each in runs.items()}
    assert batches["one"] == batches["two"] == 1.0
    assert batches["one-batched"] > batches["two-batched"] > 1.5
    one, two, batched, _ = (each[1]["throughput"] for each in runs.values())
    assert two > 1.4 * one
    assert batched > 1.8 * one


EMBEDDING = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        words = [pb.get_input_tensor_by_name(request, "input__0").as_numpy() for request in requests]
        return [pb.InferenceResponse([self.rows(some, index) for index in (0, 1)]) for some in words]

    def rows(self, words, index):
        width = (4, 8)[index]
        return pb.Tensor(f"output__{index}", np.arange(100 * width, dtype=np.float32).reshape(100, width)[words])
"""
"""What fc_model_pt is on the outside: it knows 100 words, and fails for others."""


def test_what_calls_the_torchscript_model(quickstart: Quickstart, recipes: Path) -> None:
    model = recipes / "models-bls/fc_model_pt"
    config = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(config.replace('platform: "pytorch_libtorch"', 'backend: "python"'))
    (model / "1/model.pt").unlink()
    (model / "1/model.py").write_text(EMBEDDING)
    outcomes = build(recipes / "bls.yaml", quickstart.cache)
    asked = ("two-sentences", "a-word-that-nobody-knows", "after:two-sentences")
    assert [outcomes[one] for one in asked] == ["passed"] * 3


def test_classes_have_their_labels(quickstart: Quickstart, recipes: Path) -> None:
    build(recipes / "labels.yaml", quickstart.cache, "--no-validate")
    port = free_port()
    flags = ("--http-port", port, "--grpc-port", free_port(), "--metrics-port", free_port(), "--progress", "none")
    with running("run", "oci:out:1", *flags, "--runner", "rootfs", cwd=recipes.parent) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("ready: ")
        assert classes(f"http://127.0.0.1:{port}/v2/models/model_test/infer") == ["1.000000:1:automobile"]


def classes(url: str) -> list[str]:
    """Ask for the class of a red picture. Half precision has no JSON form: the numbers follow as bytes."""
    data = struct.pack(f"<{len(RED)}e", *RED)
    tensor = {
        "name": "images",
        "datatype": "FP16",
        "shape": [1, 3, 4, 4],
        "parameters": {"binary_data_size": len(data)},
    }
    wanted = {"name": "output", "parameters": {"classification": 1}}
    head = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = requests.post(url, data=head + data, headers=headers, timeout=20)
    assert answer.ok, answer.text
    found: list[str] = answer.json()["outputs"][0]["data"]
    return found
