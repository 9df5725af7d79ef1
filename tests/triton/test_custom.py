"""Backends of one's own in a real server: of a folder and of another image, in Python and as a library."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.command import tricompose
from tests.parity.image import write_layout
from tests.parity.place import HOME, file, folder, packed
from tests.upstream import make

pytestmark = pytest.mark.triton

BACKEND = """\
import json
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, arguments):
        self.factor = np.float32(json.loads(arguments["model_config"])["parameters"]["factor"]["string_value"])

    def execute(self, requests):
        tensors = (pb.get_input_tensor_by_name(request, "X").as_numpy() for request in requests)
        return [pb.InferenceResponse([pb.Tensor("Y", self.work(tensor))]) for tensor in tensors]

    def work(self, tensor):
        return (tensor OPERATION self.factor).astype(np.float32)
"""
MODEL = """\
class TritonPythonModel:
    def execute(self, requests):
        import triton_python_backend_utils as pb
        return [pb.InferenceResponse([pb.Tensor("Y", pb.get_input_tensor_by_name(request, "X").as_numpy() - 1)])
                for request in requests]
"""


def config(backend: str) -> str:
    tensors = "".join(
        f'{kind} [{{ name: "{name}" data_type: TYPE_FP32 dims: [ 2 ] }}]\n'
        for kind, name in (("input", "X"), ("output", "Y"))
    )
    factor = 'parameters { key: "factor" value: { string_value: "10" } }'
    return f'backend: "{backend}"\ninstance_group [{{ kind: KIND_CPU }}]\n{tensors}{factor}\n'


def write(path: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)


def check(model: str, *expected: float) -> str:
    return (
        f"    - {{id: {model}, model: {model}, request: {{inputs: {{X: {{dtype: FP32, shape: [2], data: [1, 2]}}}}}}, "
        f"expect: {{outputs: {{Y: {{equals: {list(expected)}}}}}}}}}\n"
    )


def build(place: Path, custom: str, checks: str) -> tuple[list[str], list[str]]:
    """Build and prove. Returns the backends that were kept, and the warnings."""
    make(place / "upstream")
    recipe = (
        "upstream: {full: 'oci:upstream:24.10-py3', min: 'oci:upstream:24.10-py3-min'}\n"
        f"models: [{{path: ./models}}]\ncustom_backends:\n{custom}"
        f"validate:\n  startup: {{deadline: 120s, stall: 60s}}\n  checks:\n{checks}"
    )
    (place / "recipe.yaml").write_text(recipe)
    said = tricompose(
        *("build", "recipe.yaml", "--runner", "rootfs", "--cache", "cache", "-o", "oci:out:1", "--json"), cwd=place
    )
    assert said.returncode == 0, said.stderr
    built = json.loads(said.stdout)["builds"][0]["images"][0]
    assert built["validation"]["ok"], built["validation"]
    warned = [line for line in said.stderr.splitlines() if "warning" in line.lower()]
    return [one["name"] for one in built["kept"]], warned


def test_backends_in_python_of_a_folder_and_of_an_image(tmp_path: Path) -> None:
    """`backends: auto` finds what they need, which is the upstream's python backend."""
    write(tmp_path / "times", {"model.py": BACKEND.replace("OPERATION", "*")})
    above = [folder("opt"), folder(HOME), folder(f"{HOME}/backends")]
    model = file(f"{HOME}/backends/plus/model.py", BACKEND.replace("OPERATION", "+").encode())
    layer = packed([*above, folder(f"{HOME}/backends/plus"), model])
    write_layout(tmp_path / "donor", [layer], "1", {"Env": ["NVIDIA_TRITON_SERVER_VERSION=24.10"]})
    for name in ("times", "plus"):
        write(tmp_path / "models", {f"{name}10/config.pbtxt": config(name), f"{name}10/1/.keep": ""})
    custom = "  - {name: times, path: ./times}\n  - {name: plus, image: 'oci:donor:1'}\n"
    kept, warned = build(tmp_path, custom, check("times10", 10, 20) + check("plus10", 11, 12))
    assert kept == ["plus", "python", "times"]
    assert warned == []


def test_libraries_of_a_folder_and_of_an_image(tmp_path: Path) -> None:
    """The python backend itself, once out of another image, and once out of a folder under another name: then its
    library runs the model.py beside it.
    """
    make(tmp_path / "upstream")
    taken = tmp_path / "snake"
    for blob in sorted((tmp_path / "upstream/blobs/sha256").iterdir()):
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            with tarfile.open(blob) as layer:
                _extract(layer, f"{HOME}/backends/python/", taken)
    (taken / "libtriton_python.so").rename(taken / "libtriton_snake.so")
    write(taken, {"model.py": BACKEND.replace("OPERATION", "*")})
    write(tmp_path / "models", {"snake10/config.pbtxt": config("snake"), "snake10/1/.keep": ""})
    write(tmp_path / "models", {"python1/config.pbtxt": config("python"), "python1/1/model.py": MODEL})
    custom = "  - {name: snake, path: ./snake}\n  - {name: python, image: 'oci:upstream:24.10-py3'}\n"
    kept, warned = build(tmp_path, custom, check("snake10", 10, 20) + check("python1", 0, 1))
    assert kept == ["python", "snake"]
    assert warned == [], "real libraries: whatever they need is there"


def _extract(layer: tarfile.TarFile, inside: str, target: Path) -> None:
    for member in layer:
        if member.isfile() and member.name.startswith(inside):
            path = target / member.name.removeprefix(inside)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = layer.extractfile(member)
            assert content
            path.write_bytes(content.read())
            path.chmod(member.mode)
