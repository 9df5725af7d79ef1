"""What is asked of a model and what it answers, whichever way it goes over the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from composer.protocol.tensors import Tensor

Parameter = bool | int | float | str
"""A parameter of a request or response."""

TIMEOUT: Final = 10.0
"""Seconds that a call may take as a whole, where nothing else is said."""

MOST: Final = 1 << 30
"""Bytes of an answer that are kept, so that one without end does not take all memory."""

WORDS: Final = 1 << 16
"""Letters of a refusal that are kept: people read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A request's place in a sequence: requests of one `id` reach one instance of the model, which keeps its state."""

    id: int | str
    start: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to infer.

    Without `version` the server takes one, without `outputs` all of them. `timeout` is in seconds, for all of the
    call: the deadline of this side.
    """

    model: str
    version: str = ""
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    sequence: Turn | None = None
    timeout: float = TIMEOUT

    def all_parameters(self) -> dict[str, Parameter]:
        """Its parameters, with those that a place in a sequence comes to."""
        if self.sequence is None:
            return dict(self.parameters)
        turn = {
            "sequence_id": self.sequence.id,
            "sequence_start": self.sequence.start,
            "sequence_end": self.sequence.end,
        }
        return {**self.parameters, **turn}


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer. `odd` says of outputs whose bytes or values are not as many as their shape has what is wrong."""

    model: str
    version: str
    outputs: Mapping[str, Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The server's refusal, in its own words. `code` is an HTTP status, whichever way it came; None if it gave none."""

    code: int | None
    message: str


UNREACHABLE: Final = "the server refuses connections"
"""Why no answer came where nobody listens."""


class NoAnswer(Exception):
    """No whole answer came; the text says why. `waited` is whether it was for want of time."""

    def __init__(self, reason: str, *, waited: bool) -> None:
        super().__init__(reason)
        self.waited = waited
