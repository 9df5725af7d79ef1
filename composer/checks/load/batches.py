"""What the server's statistics say of the batches that it made: whether dynamic batching batched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from composer.checks.subject import Subject
from composer.protocol.http import model_path
from composer.protocol.messages import NoAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Counts of a model since the server was started, over all of its versions that were asked for.

    `inferences` counts each row of a batch, `executions` each run of the model; `sizes` the runs by size of batch.
    """

    inferences: int = 0
    executions: int = 0
    sizes: Mapping[int, int] = field(default_factory=dict)

    def since(self, before: Batches) -> Batches:
        """What has been added to `before`."""
        more = Counter(self.sizes)
        more.subtract(before.sizes)
        return Batches(
            inferences=self.inferences - before.inferences,
            executions=self.executions - before.executions,
            sizes={size: count for size, count in sorted(more.items()) if count > 0},
        )

    @property
    def average(self) -> float | None:
        """Inferences in one execution; None if nothing was executed, as where all answers came from a cache."""
        return self.inferences / self.executions if self.executions else None

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {"average": self.average, "sizes": {str(size): count for size, count in self.sizes.items()}}


def batches(subject: Subject, model: str, version: str) -> Batches:
    """The counts as they are now. Raises `NoAnswer`, and `ValueError` and its like for what is no answer."""
    answer = subject.client.get(f"{model_path(model, version)}/stats")
    if answer.status != 200:
        raise NoAnswer(f"the server has no statistics of {model}: {answer.complaint()}", waited=False)
    rows = answer.json()["model_stats"]
    sizes: Counter[int] = Counter()
    for row in rows:
        for one in row.get("batch_stats") or ():
            sizes[int(one["batch_size"])] += int(one["compute_infer"]["count"])
    return Batches(
        inferences=sum(int(row["inference_count"]) for row in rows),
        executions=sum(int(row["execution_count"]) for row in rows),
        sizes=sizes,
    )
