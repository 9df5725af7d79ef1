"""What the families make their repositories from: models that answer anything, and configs that fit them."""

from __future__ import annotations

from tests.modelfiles import node, onnx_model

from . import File, Files

ANY = '''"""Answers every request with zeros of the shapes that the config says."""

import json

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        batch = [1] if config["max_batch_size"] > 0 else []
        self.outputs = [
            pb.Tensor(
                tensor["name"],
                np.zeros(
                    batch + [1 if int(size) < 0 else int(size) for size in tensor["dims"]],
                    pb.triton_string_to_numpy(tensor["data_type"]),
                ),
            )
            for tensor in config["output"]
        ]

    def execute(self, requests):
        return [pb.InferenceResponse(self.outputs) for _ in requests]
'''
"""A model.py for any config whose outputs numpy can hold."""

ECHO = """import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        values = [pb.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("Y", value)]) for value in values]
"""
"""A model.py that gives X back as Y."""

PYTHON = """name: "m"
backend: "python"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
"""A config for `ANY` and `ECHO`."""

ONNX = """name: "m"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
"""A config for `IDENTITY`."""

IDENTITY = onnx_model(
    inputs={"X": ("FP32", ["N", 2])}, outputs={"Y": ("FP32", ["N", 2])}, nodes=[node("Identity", ["X"], ["Y"])]
)
"""A model.onnx that gives X back as Y: FP32, two numbers, any batch."""

FIXED = onnx_model(
    inputs={"X": ("FP32", [3, 2])}, outputs={"Y": ("FP32", [3, 2])}, nodes=[node("Identity", ["X"], ["Y"])]
)
"""The same without a batch: 3 x 2 numbers."""


def python(config: str | None = PYTHON, code: str = ANY, *, name: str = "m", version: int = 1) -> dict[str, File]:
    """A model of the python backend with one version."""
    return _config(name, config) | {f"{name}/{version}/model.py": code}


def onnx(config: str | None = ONNX, model: bytes = IDENTITY, *, name: str = "m", version: int = 1) -> dict[str, File]:
    """A model of the onnxruntime backend with one version."""
    return _config(name, config) | {f"{name}/{version}/model.onnx": model}


def _config(name: str, config: str | None) -> dict[str, File]:
    return {} if config is None else {f"{name}/config.pbtxt": config}


def without(files: Files, *paths: str) -> dict[str, File]:
    """The files but for some."""
    missing = [path for path in paths if path not in files]
    if missing:
        raise KeyError(f"not there: {missing}")
    return {path: file for path, file in files.items() if path not in paths}


def changed(text: str, old: str, new: str) -> str:
    """The text with one passage replaced, which must be there once."""
    if text.count(old) != 1:
        raise ValueError(f"{old!r} is there {text.count(old)} times")
    return text.replace(old, new)
