"""What an inference check was judged by, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.checks.inference.case import Case
from composer.checks.inference.judging import UNANSWERED
from composer.checks.inference.playing import Played
from composer.checks.inference.streams import with_outputs
from composer.checks.inference.ways import Choice, Heard, Way
from composer.protocol.messages import Refused, Response


def evidence_of(case: Case, choice: Choice, played: Mapping[Way, Played]) -> dict[str, Any]:
    """Of each way what came and how soon, and what the matchers measured; the sha256 of what was asked and drawn."""
    told: dict[str, Any] = {"ways": {way: _way_evidence(one) for way, one in played.items()}}
    told["request_sha256"] = case.digests[-1]
    if choice.left_out:
        told["left_out"] = dict(choice.left_out)
    if case.drawn:
        told["drawn"] = dict(case.drawn)
    if any(fault.kind == UNANSWERED for one in played.values() for fault in one.faults):
        told["unanswered"] = case.check.model
    if any(_is_empty(heard) for one in played.values() for heard in one.plays[-1]):
        told["empty"] = case.check.model
    return told


def _is_empty(heard: Heard) -> bool:
    """Whether an answer has an output that has a shape and no value."""
    responses = [answer for answer in heard.answers if isinstance(answer, Response)]
    return any(not response.outputs[name].values for response in responses for name in response.odd)


def _way_evidence(one: Played) -> dict[str, Any]:
    """Of the last play: its only request, or the last of its steps with all of them beside it."""
    steps = [
        _heard_evidence(heard, one.outputs[at] if at < len(one.outputs) else {})
        for at, heard in enumerate(one.plays[-1])
    ]
    times = [sum(heard.seconds for heard in play) for play in one.plays]
    more: dict[str, Any] = {"times": [round(seconds, 6) for seconds in times]} if len(times) > 1 else {}
    return {**steps[-1], **more, **({"steps": steps} if len(steps) > 1 else {})}


def _heard_evidence(heard: Heard, outputs: Mapping[str, Any]) -> dict[str, Any]:
    refused = next((answer for answer in heard.answers if isinstance(answer, Refused)), None)
    answered = any(isinstance(answer, Response) for answer in heard.answers)
    told: dict[str, Any] = {
        "status": refused.code if refused else 200 if answered else None,
        "seconds": round(heard.seconds, 6),
        "outputs": {name: dict(figures) for name, figures in outputs.items()},
    }
    if refused:
        told["refused"] = refused.message
    if heard.silence:
        told["silence"] = str(heard.silence)
    if len(heard.answers) > 1:
        told |= {"responses": len(with_outputs(heard.answers)), "first_seconds": round(heard.first, 6)}
    return told
