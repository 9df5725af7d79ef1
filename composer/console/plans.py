"""TensorRT plans that were made, or were there: for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType

from composer import words
from composer.console.tables import table
from composer.engines.trtexec import Made
from composer.models.tensorrt import RECORD


def plans_text(plans: Sequence[Made]) -> Iterator[RenderableType]:
    """A line for each, and what to carry where there is something to be carried."""
    made = table("model", "GPU", "TensorRT", "", "size", numbers=("size",))
    for one in plans:
        record = one.record
        state = "was there" if one.before else "made"
        made.add_row(one.job.name, str(record.gpu), record.tensorrt, state, words.size(record.size))
    yield made
    for one in plans:
        if one.job.plan:
            yield f"{one.job.plan} and {one.job.plan}{RECORD} go together to machines without such a GPU"
        else:
            name = one.job.name
            yield f"{name} is in the cache; with plan: ./{name}.plan in convert it lies where it can be carried from"


def plan_json(one: Made) -> dict[str, Any]:
    """A plan as a JSON object."""
    record = one.record
    return {
        "model": record.name,
        "path": str(one.job.plan or one.plan),
        "before": one.before,
        "sha256": record.digest,
        "size": record.size,
        "tensorrt": record.tensorrt,
        "gpu": asdict(record.gpu),
        "image": record.image,
        "argv": [*record.argv],
    }
