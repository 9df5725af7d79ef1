"""Whether the server sees a GPU and runs models on it, judged from outside: what it says in its metrics and log.

Triton labels a model's metrics with `gpu_uuid` only if an instance of it runs on that GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from composer.checks.client import Client, NoAnswer
from composer.checks.report import Outcome, Result
from composer.checks.subject import Subject, timed

_NAMED: Final = re.compile(r"Collecting metrics for GPU \d+: (.+?)\"?$", re.MULTILINE)
_SAMPLE: Final = re.compile(r"^nv_inference_exec_count\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_ABSENT: Final = "the server sees no GPU, so that it serves on one is not proved"


def gpu(subject: Subject) -> Iterator[Result]:
    """One result: passed only if a model really ran on a GPU."""
    yield timed(subject, "gpu", lambda: _gpu(subject))


def _gpu(subject: Subject) -> Result:
    mode = subject.validation.gpu
    if mode == "off":
        return Result(id="gpu", outcome="skipped", message="the recipe says gpu: off")
    unproved: Outcome = "failed" if mode == "required" else "unverified"
    evidence: dict[str, Any] = {"gpus": _NAMED.findall(subject.running.logs()), "executions": _executions(subject)}
    used = sorted({sample["model"] for sample in evidence["executions"]})
    if used:
        return Result(
            id="gpu", outcome="passed", message=f"these models ran on a GPU: {', '.join(used)}", evidence=evidence
        )
    if evidence["gpus"]:
        message = f"the server sees {', '.join(evidence['gpus'])}, but no model was seen to run on it"
        return Result(id="gpu", outcome=unproved, message=message, evidence=evidence)
    return Result(id="gpu", outcome=unproved, message=_ABSENT, evidence=evidence)


def _executions(subject: Subject) -> list[dict[str, Any]]:
    """Model, GPU and count of what was executed on GPUs. Without metrics nothing can be said."""
    client = Client(subject.running.metrics)
    try:
        text = client.get("").body.decode(errors="replace")
    except NoAnswer:
        return []
    finally:
        client.close()
    samples = ((dict(_LABEL.findall(labels)), float(count)) for labels, count in _SAMPLE.findall(text))
    return [
        {"model": labels.get("model", ""), "gpu": labels["gpu_uuid"], "count": count}
        for labels, count in samples
        if labels.get("gpu_uuid") and count > 0
    ]
