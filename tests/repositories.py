"""Model repositories to write into folders: the least that the server would load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.modelfiles import onnx_identity, plan

PYTHON = """\
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([]) for _ in requests]
"""

TENSOR = '[{ name: "X" data_type: TYPE_FP32 dims: [4] }]'


def put_model(folder: Path, backend: str, *, more: bytes = b"") -> Path:
    """Write a model of a backend into a folder, with one version. `more` is added to its file. Returns the folder."""
    files = _FILES[backend]
    (folder / "1").mkdir(parents=True)
    config = f'backend: "{backend}"\n' + ("" if backend == "onnxruntime" else f"input {TENSOR}\noutput {TENSOR}\n")
    (folder / "config.pbtxt").write_text(config.replace('output [{ name: "X"', 'output [{ name: "Y"'))
    for name, data in files.items():
        (folder / "1" / name).write_bytes(data + more)
    return folder


_FILES: Mapping[str, Mapping[str, bytes]] = {
    "python": {"model.py": PYTHON.encode()},
    "onnxruntime": {"model.onnx": onnx_identity()},
    "tensorrt": {"model.plan": plan()},
}
