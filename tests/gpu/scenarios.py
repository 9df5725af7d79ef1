"""What is tried on a GPU, and what must be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from composer.recipe import Validate

RECIPE: Mapping[str, Any] = {"startup": {"deadline": "60s", "stall": "30s"}, "protocols": ("http",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Models that are served, what the recipe says of GPUs, and the outcomes that must come of it.

    `gpu` is whether it takes one; `flags` and `env` are the server's.
    """

    models: tuple[str, ...]
    wanted: Mapping[str, Any]
    outcomes: Mapping[str, str]
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = True

    def validation(self) -> Validate:
        """The `validate:` of its recipe: every model is asked ten times."""
        spec = {"dtype": "FP32", "shape": (4,), "data": (1, 2, 3, 4)}
        checks = tuple(
            {
                "id": f"ask-{name}",
                "model": name,
                "encoding": ("binary",),
                "repeat": 10,
                "request": {"inputs": {"X": spec}},
                "expect": {"outputs": {"Y": {"equals": (2, 4, 6, 8)}}},
            }
            for name in self.models
        )
        return Validate.model_validate({**RECIPE, "gpu": dict(self.wanted), "checks": checks})


HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
SCENARIOS: Mapping[str, Scenario] = {
    "used": Scenario(
        models=("on_gpu",),
        wanted={"mode": "required"},
        outcomes={"gpu:visible": "passed", "gpu:on_gpu": "passed"},
    ),
    "fell": Scenario(
        models=("on_gpu", "fell"),
        wanted={"mode": "auto"},
        outcomes={"gpu:visible": "passed", "gpu:on_gpu": "passed", "gpu:fell": "failed"},
    ),
    "unsaid": Scenario(
        models=("unsaid",),
        wanted={"mode": "required"},
        outcomes={"gpu:visible": "passed", "gpu:unsaid": "passed"},
    ),
    "on-cpu": Scenario(
        models=("on_cpu",),
        wanted={"mode": "auto", "used_by": ("on_cpu",)},
        outcomes={"gpu:visible": "passed", "gpu:on_cpu": "failed"},
    ),
    "without-dcgm": Scenario(
        models=("on_gpu",),
        wanted={"mode": "required"},
        outcomes={"gpu:visible": "passed", "gpu:on_gpu": "passed"},
        flags=("--allow-gpu-metrics=false",),
    ),
    "hidden": Scenario(
        models=("on_cpu",),
        wanted={"mode": "required", "used_by": ("on_cpu",)},
        outcomes={"gpu:visible": "failed", "gpu:on_cpu": "failed"},
        env=HIDDEN,
        gpu=False,
    ),
    "hidden-auto": Scenario(
        models=("on_cpu",),
        wanted={"mode": "auto", "used_by": ("on_cpu",)},
        outcomes={"gpu:visible": "unverified", "gpu:on_cpu": "unverified"},
        env=HIDDEN,
        gpu=False,
    ),
}
"""By name. `without-dcgm` is what an image looks like that lost DCGM; it takes this machine's own process numbers."""
