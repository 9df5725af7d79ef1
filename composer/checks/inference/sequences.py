"""Requests that belong together: the steps of a check, each in its turn, under an ID that nobody else has."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from composer.protocol.messages import Request, Turn

if TYPE_CHECKING:
    from composer.recipe_checks import Check

_LARGEST: Final = (1 << 31) - 1
"""Models may take IDs of 32 bits."""


def is_sequence(check: Check) -> bool:
    """Whether its requests are those of a sequence."""
    return check.steps is not None or check.sequence is not None


def in_turn(check: Check, requests: Sequence[Request], config: Mapping[str, Any]) -> Sequence[Request]:
    """The requests of a check as one sequence, under a new ID where the recipe gives none.

    The first starts it and the last ends it, whatever else the steps say. Requests that are no sequence stay as they
    are.
    """
    if not is_sequence(check):
        return requests
    given = check.sequence.id if check.sequence else None
    number = given if given is not None else new_id(config)
    steps = check.steps or ()
    return [
        replace(
            request,
            sequence=Turn(
                id=number,
                start=at == 0 or steps[at].start,
                end=at == len(requests) - 1 or steps[at].end,
            ),
        )
        for at, request in enumerate(requests)
    ]


def new_id(config: Mapping[str, Any]) -> int | str:
    """An ID that no other sequence is likely to have, of the kind that the model takes."""
    number = random.SystemRandom().randint(1, _LARGEST)
    return f"tricompose-{number}" if _takes_text(config) else number


def _takes_text(config: Mapping[str, Any]) -> bool:
    controls = (config.get("sequence_batching") or {}).get("control_input") or ()
    kinds = (kind for one in controls for kind in one.get("control") or ())
    return any(
        kind.get("kind") == "CONTROL_SEQUENCE_CORRID" and kind.get("data_type") == "TYPE_STRING" for kind in kinds
    )
