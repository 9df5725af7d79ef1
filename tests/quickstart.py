"""The quickstart of the README, in a folder of its own: its recipe as it stands, its upstream, and what came of it."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.command import tricompose
from tests.turns import in_turn
from tests.upstream import make

RECIPES = Path(__file__).parents[1] / "recipes"
IMAGE = "oci:build/slim:24.10-py3-slim"
"""Where the recipe puts it."""

NUMBERS = {
    "add_sub": (
        {"INPUT0": ("INT32", [4], [1, 2, 3, 4]), "INPUT1": ("INT32", [4], [10, 20, 30, 40])},
        {"OUTPUT0": [11, 22, 33, 44], "OUTPUT1": [-9, -18, -27, -36]},
    ),
    "linear_onnx": ({"X": ("FP32", [1, 4], [1, 2, 3, 4])}, {"Y": [4.5, 4.0, 4.0]}),
}
"""What each model is asked, and what it must answer: worked out by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quickstart:
    """A folder with `recipes/quickstart.yaml` and `build/upstream`, and what was built: `build/slim` and `cache`."""

    folder: Path
    built: dict[str, Any]

    @property
    def image(self) -> str:
        return f"oci:{self.folder / 'build/slim'}:24.10-py3-slim"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def recipe(self, change: Callable[[str], str], name: str) -> Path:
        """The recipe with a change, beside the first one."""
        text = (self.folder / "recipes/quickstart.yaml").read_text()
        changed = change(text)
        assert changed != text
        path = self.folder / "recipes" / f"{name}.yaml"
        path.write_text(changed)
        return path


def make_quickstart(folder: Path) -> Quickstart:
    """Lay it out and build it; that it serves is not proved."""
    lay_out(folder)
    said = tricompose("build", "recipes/quickstart.yaml", "--no-validate", "--cache", "cache", "--json", cwd=folder)
    assert said.returncode == 0, said.stderr
    return Quickstart(folder=folder, built=json.loads(said.stdout)["builds"][0])


def lay_out(folder: Path) -> None:
    """The recipe, its models and its upstream, where the recipe looks for them."""
    shutil.copytree(RECIPES, folder / "recipes")
    with in_turn("upstream"):
        make(folder / "build/upstream")


def infer(http: str, model: str) -> dict[str, list[float]]:
    """Ask a model the numbers. Returns its outputs."""
    inputs, _ = NUMBERS[model]
    sent = [
        {"name": name, "datatype": kind, "shape": shape, "data": data} for name, (kind, shape, data) in inputs.items()
    ]
    request = urllib.request.Request(f"{http}/v2/models/{model}/infer", json.dumps({"inputs": sent}).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return {output["name"]: output["data"] for output in json.load(answer)["outputs"]}


def assert_serves(http: str) -> None:
    """Both models give the right numbers."""
    assert {model: infer(http, model) for model in NUMBERS} == {model: right for model, (_, right) in NUMBERS.items()}


def wait_until_ready(http: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_ready(http):
        assert time.monotonic() < deadline, f"{http} is not ready after {seconds:.0f} s"
        time.sleep(0.1)


def is_ready(http: str) -> bool:
    try:
        with urllib.request.urlopen(f"{http}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def with_backends(*names: str) -> Callable[[str], str]:
    """A change of the recipe."""
    return lambda text: re.sub(r"^backends: .*$", f"backends: [{', '.join(names)}]", text, flags=re.MULTILINE)
