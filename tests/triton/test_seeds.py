"""The examples of recipes/ whose backends the tests' upstream has: built, served, and asked what the recipes ask.

They are of other releases than the upstream, which is 24.10: its image stands in for theirs. What calls the TorchScript
model, and what TensorRT is to make, is only planned and linted (tests/unit/test_examples.py): there is no such backend.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.command import running, tricompose
from tests.quickstart import Quickstart, with_backends
from tests.services.registry import free_port

pytestmark = pytest.mark.triton

OURS = "\nupstream: {full: 'oci:../build/upstream:24.10-py3', min: 'oci:../build/upstream:24.10-py3-min'}\n"
OUR_ONNX = with_backends("onnxruntime", "python", "tensorrt")
"""Our ONNX Runtime backend is written in Python, and needs that one beside it."""

RED = [1.0] * 16 + [0.0] * 32
"""A picture of 4 x 4 pixels, colour by colour."""


def build(quickstart: Quickstart, name: str, output: str, *more: str) -> dict[str, Any]:
    """Build an example on our upstream, from the folder that it is in. Returns what was built."""
    path = quickstart.folder / "recipes" / f"{name}.yaml"
    here = path.with_stem(f"{name}-here")
    here.write_text(OUR_ONNX(path.read_text()) + OURS)
    line = ("build", here, "--cache", quickstart.cache, "--runner", "rootfs", "-o", output, "--json", *more)
    said = tricompose(*line, cwd=quickstart.folder)
    assert said.returncode == 0, said.stderr
    made: dict[str, Any] = json.loads(said.stdout)["builds"][0]["images"][0]
    return made


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("densenet", ["a-dark-picture", "half-a-picture"]),
        ("labels", ["red", "white"]),
        ("tuned", ["two-rows", "standardized", "after:ready", "after:models", "after:two-rows"]),
    ],
)
def test_an_example_serves(quickstart: Quickstart, tmp_path: Path, name: str, asked: list[str]) -> None:
    made = build(quickstart, name, f"oci:{tmp_path}/out:1")
    outcomes = [(check["id"], check["outcome"]) for check in made["validation"]["results"] if check["id"] != "gpu"]
    assert outcomes == [(one, "passed") for one in ("ready", "models", *asked)]


def test_classes_have_their_labels(quickstart: Quickstart, tmp_path: Path) -> None:
    image, port = f"oci:{tmp_path}/out:1", free_port()
    build(quickstart, "labels", image, "--no-validate")
    flags = ("--http-port", port, "--grpc-port", free_port(), "--metrics-port", free_port(), "--progress", "none")
    with running("run", image, *flags, "--runner", "rootfs", cwd=quickstart.folder) as process:
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
