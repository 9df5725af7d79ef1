"""What was seen of a server that does not do what it should, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is an error. `code` is HTTP's (400) or gRPC's name (`RESOURCE_EXHAUSTED`), `model` was asked."""

    model: str
    message: str
    code: int | str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was seen. What was not looked at keeps its default, and speaks for no class.

    * `log`: what the server wrote. `engine_error`: why the engine could not start it. `release`: Triton's, as 24.10.
    * `exit_code`: 128 + signal where one ended it, None while it lives; `oom_killed`: the engine says that it was for
      want of memory; `stopped`: it was us who ended it.
    * `ready`: it called itself ready; `hung`: its time was up before that, and it had not ended.
    * `index`: rows of the server's index of models. `refusals`: requests that it refused.
    * `unanswered`: models that answered no request although the server counts one as answered; `empty`: models whose
      answers hold no bytes, or zeros where they should not.
    * `gpu_wanted`: whether it should have one; `gpus`: how many it sees, None if nobody looked; `mig`: how many MIG
      slices it was given; `on_cpu`: models that should run on a GPU and did not.
    * `env`: the container's environment. `numpy`: the version in it. `backends`: those of the image. `shm`: bytes of
      /dev/shm; `leftovers`: names there that were left by servers that are gone.
    """

    log: str = ""
    engine_error: str = ""
    release: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    stopped: bool = False
    ready: bool = False
    hung: bool = False
    index: Sequence[Mapping[str, Any]] = ()
    refusals: Sequence[Refusal] = ()
    unanswered: Sequence[str] = ()
    empty: Sequence[str] = ()
    gpu_wanted: bool = False
    gpus: int | None = None
    mig: int = 0
    on_cpu: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    numpy: str = ""
    backends: Sequence[str] = ()
    shm: int = 0
    leftovers: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A class of failure that fits: what happened, why, and what to do.

    `id` is the class (see classes.toml), `number` its place in the list of validation's failure classes, 0 for none;
    `lines` what it was told by, as it was seen; `model` whom it is about, empty where it is about the server.
    """

    id: str
    number: int
    title: str
    why: str
    fix: str
    lines: Sequence[str] = ()
    model: str = ""

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as a JSON object."""
        return {
            "id": self.id,
            "number": self.number,
            "title": self.title,
            "why": self.why,
            "fix": self.fix,
            "lines": list(self.lines),
            "model": self.model,
        }
