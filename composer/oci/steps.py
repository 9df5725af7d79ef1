"""What builders of a Docker Engine say while they build, understood: its steps, their output, and why one failed.

Both builders are listened to alike: `hear` takes each message of the stream and tells `emit`; in the end `image` is
the ID of what was made, or `explain` makes an error of the message that the engine gave up with.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from composer.errors import BuildFailed, NoRoom, TricomposeError
from composer.events import BuildStep, Emit, Logged, Transferred
from composer.oci.buildkit import Log, Status, Vertex, decode_trace

_SHOWN: Final = 15
"""Lines of a step's output that its failure carries."""

_KEPT: Final = 400
"""Lines of it that are searched for a reason."""

_LONGEST: Final = 4000
_TEXT: Final = 100
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")

Clock = Callable[[], float]


@dataclass(slots=True, kw_only=True)
class Step:
    """A step that has begun, and the last lines it wrote."""

    number: int
    total: int
    stage: str
    text: str
    begun: float
    over: bool = False
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def event(self, state: str, took: float = 0.0) -> BuildStep:
        """What there is to tell of it; `took` is seconds."""
        return BuildStep(
            number=self.number,
            total=self.total,
            stage=self.stage,
            text=self.text,
            state=state,
            took=round(max(0.0, took), 3),
        )

    def __str__(self) -> str:
        return f"step {self.number} of {self.total}" + (f" of stage {self.stage}" if self.stage else "")


class Lines:
    """Lines out of pieces that are cut anywhere. Of a line that was drawn over (a progress bar) the last state."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take a piece, and give the lines that are whole."""
        *whole, rest = (self._rest + text).split("\n")
        self._rest = rest[-_LONGEST:]
        for line in whole:
            self._give(line)

    def end(self) -> None:
        """Give the last line, though it has no end."""
        rest, self._rest = self._rest, ""
        self._give(rest)

    def _give(self, line: str) -> None:
        parts = [part.rstrip() for part in _ANSI.sub("", line[-_LONGEST:]).split("\r")]
        if shown := next((part for part in reversed(parts) if part), ""):
            self._take("".join(one if one.isprintable() or one == "\t" else "?" for one in shown))


class Listener(Protocol):
    """What follows a build by what its builder says."""

    image: str
    """The ID of what was made; empty until it is."""

    failing: Step | None
    """The step that is under way, or that failed."""

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take one message of the stream."""
        ...

    def fail(self) -> None:
        """The engine gave up: tell of the step that it was at."""
        ...


# -- the classic builder ------------------------------------------------------------------------------------------

_STEP: Final = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_STARTED: Final = re.compile(r" ---> Running in [0-9a-f]{12}\n")
_STOPPED: Final = re.compile(r"Removing intermediate container [0-9a-f]{12}\n")
_CACHED: Final = " ---> Using cache\n"
_NOTES: Final = re.compile(r" ---> [0-9a-f]{12}\n| ---> \[Warning\].*\n|Successfully (?:built|tagged) .*\n|\s*")


class ClassicListener:
    """The classic builder: its own words and the output of containers come in one stream of text.

    While a container runs, all is its output: what looks like a step there is none.
    """

    def __init__(self, emit: Emit, *, clock: Clock = time.monotonic) -> None:
        self.image = ""
        self.failing: Step | None = None
        self._emit = emit
        self._clock = clock
        self._running = False
        self._cached = False
        self._lines = Lines(self._line)
        self._pull = PullListener(emit)

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take one message of the stream."""
        if "stream" in message:
            self._stream(str(message["stream"]))
        elif "status" in message:
            self._pull.hear(message)
        elif isinstance(aux := message.get("aux"), dict) and "ID" in aux:
            self.image = str(aux["ID"])
            self._over("cached" if self._cached else "done")

    def fail(self) -> None:
        """The engine gave up at the step that is under way."""
        self._lines.end()
        self._over("failed")

    def _stream(self, text: str) -> None:
        step = None if self._running else _STEP.fullmatch(text)
        if step:
            self._begin(int(step[1]), int(step[2]), step[3])
        elif _STARTED.fullmatch(text):
            self._running = True
        elif _STOPPED.fullmatch(text):
            self._running = False
            self._lines.end()
        elif self._running:
            self._lines.feed(text)
        elif text == _CACHED:
            self._cached = True
        elif not _NOTES.fullmatch(text):
            self._lines.feed(text)

    def _begin(self, number: int, total: int, text: str) -> None:
        self._over("cached" if self._cached else "done")
        self.failing = Step(number=number, total=total, stage="", text=shortened(text), begun=self._clock())
        self._emit(self.failing.event("begun"))

    def _over(self, state: str) -> None:
        self._cached = self._running = False
        step = self.failing
        if step and not step.over:
            step.over = True
            self._emit(step.event(state, self._clock() - step.begun))

    def _line(self, line: str) -> None:
        if self.failing:
            self.failing.lines.append(line)
        self._emit(Logged(text=line, source="docker"))


# -- BuildKit -----------------------------------------------------------------------------------------------------

_VERTEX: Final = re.compile(r"\[(?:([^\[\]]*?)\s+)?(\d+)/(\d+)\]\s+(.*)", re.DOTALL)
"""`[2/3] RUN ...`, `[stage 2/3] ...`, and with the platform first where there are several."""


class BuildKitListener:
    """BuildKit: steps may run at once, and each piece of output says whose it is."""

    def __init__(self, emit: Emit) -> None:
        self.image = ""
        self.failing: Step | None = None
        self._emit = emit
        self._steps: dict[str, Step] = {}
        self._output: dict[tuple[str, int], _Output] = {}
        self._understood = True

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take one message of the stream. A trace that cannot be read costs progress, not the build."""
        if message.get("id") == "moby.image.id":
            self.image = str(message["aux"]["ID"])
        elif message.get("id") == "moby.buildkit.trace":
            try:
                self._trace(base64.b64decode(message["aux"]))
            except (ValueError, TypeError, binascii.Error):
                self._not_understood()

    def fail(self) -> None:
        """The engine gave up: what still runs is stopped. The step that failed has been told."""
        for step in self._steps.values():
            if not step.over:
                step.over = True
                self._emit(step.event("stopped"))

    def _trace(self, raw: bytes) -> None:
        trace = decode_trace(raw)
        for vertex in trace.vertexes:
            if vertex.started is not None:
                self._begin(vertex)
        for log in trace.logs:
            self._log(log)
        for status in trace.statuses:
            self._status(status)
        for vertex in trace.vertexes:
            if vertex.completed is not None or vertex.error:
                self._end(vertex)

    def _begin(self, vertex: Vertex) -> None:
        named = _VERTEX.fullmatch(vertex.name)
        if vertex.digest in self._steps or not named:
            return
        stage = (named[1] or "").rpartition(" ")[2]
        number, total, text = int(named[2]), int(named[3]), shortened(named[4])
        step = Step(number=number, total=total, stage=stage, text=text, begun=vertex.started or 0.0)
        self._steps[vertex.digest] = step
        self._emit(step.event("begun"))

    def _log(self, log: Log) -> None:
        key = (log.vertex, log.stream)
        if key not in self._output:
            self._output[key] = _Output(self._steps.get(log.vertex), self._emit)
        self._output[key].feed(log.message)

    def _status(self, status: Status) -> None:
        """A layer that is pulled: only these are named by a digest and have a size."""
        if status.id.startswith("sha256:") and status.total > 0:
            done, total = min(status.current, status.total), status.total
            self._emit(Transferred(digest=status.id, title="layer", action="copied", done=done, total=total))

    def _end(self, vertex: Vertex) -> None:
        for key in [key for key in self._output if key[0] == vertex.digest]:
            self._output.pop(key).end()
        step = self._steps.get(vertex.digest)
        if step and not step.over:
            step.over = True
            state = _state(vertex)
            self.failing = step if state == "failed" else self.failing
            self._emit(step.event(state, (vertex.completed or step.begun) - step.begun))

    def _not_understood(self) -> None:
        if self._understood:
            self._emit(Logged(text="what BuildKit says is not understood: no progress is shown", source="docker"))
        self._understood = False


def _state(vertex: Vertex) -> str:
    """How a step ended. Those that are stopped because another failed have an error too."""
    if vertex.error:
        return "stopped" if "context canceled" in vertex.error else "failed"
    return "cached" if vertex.cached else "done"


class _Output:
    """One stream of one step: bytes in, lines out."""

    def __init__(self, step: Step | None, emit: Emit) -> None:
        self._step = step
        self._emit = emit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines = Lines(self._line)

    def feed(self, piece: bytes) -> None:
        self._lines.feed(self._decoder.decode(piece))

    def end(self) -> None:
        self._lines.feed(self._decoder.decode(b"", final=True))
        self._lines.end()

    def _line(self, line: str) -> None:
        if self._step:
            self._step.lines.append(line)
        self._emit(Logged(text=line, source="docker"))


# -- pulls --------------------------------------------------------------------------------------------------------


class PullListener:
    """The layers of an image that an engine pulls."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._totals: dict[str, int] = {}

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take one message of the stream. The engine names layers by the first digits of their digests.

        Of a layer that comes at once, only its unpacking tells the size.
        """
        layer, status = str(message.get("id", "")), message.get("status")
        progress = message.get("progressDetail") or {}
        current, total = int(progress.get("current") or 0), int(progress.get("total") or 0)
        if status == "Already exists":
            self._tell(layer, "skipped", 0, 0)
        elif status in ("Downloading", "Extracting") and total > 0:
            self._totals[layer] = total
            self._tell(layer, "copied", min(current, total) if status == "Downloading" else total, total)
        elif status == "Download complete" and layer in self._totals:
            self._tell(layer, "copied", self._totals[layer], self._totals[layer])

    def _tell(self, layer: str, action: str, done: int, total: int) -> None:
        self._emit(Transferred(digest=f"sha256:{layer}", title="layer", action=action, done=done, total=total))


# -- why it failed ------------------------------------------------------------------------------------------------

_STATUS: Final = re.compile(r"(?:returned a non-zero code|exit code): (\d+)")
_SOLVING: Final = re.compile(r"^failed to solve[^:]*: (?:failed to create LLB definition: )?")
_FIND_OUT: Final = "tricompose plan RECIPE --dockerfile DIR && docker build DIR"
_PIP: Final = re.compile(r"\bpip\b|pypi|simple/")

_SIGNS: Final[Sequence[tuple[re.Pattern[str], str]]] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r"exec format error",
            "engine: direct runs nothing of the image; else docker run --privileged --rm tonistiigi/binfmt"
            " --install all",
        ),
        (
            r"requires BuildKit|unknown flag: mount",
            'the Docker Engine must offer BuildKit: {"features": {"buildkit": true}} in /etc/docker/daemon.json',
        ),
        (
            r"\b407\b.*proxy|proxy authentication required",
            "network.proxy of the recipe: with the login, http://USER:PASSWORD@HOST:PORT",
        ),
        (
            r"NO_PUBKEY|EXPKEYSIG|is not signed|signatures? couldn't be verified|public key is not available",
            "network.apt_key of the recipe: the file with the key that the apt mirror signs with",
        ),
        (
            r"certificate.verify.failed|certificate verification failed|unable to get local issuer"
            r"|self.signed certificate|certificate is NOT trusted|unknown authority",
            "network.ca_bundle of the recipe: the PEM file of the authority that signed it",
        ),
        (
            r"temporary failure (?:in name resolution|resolving)|could not resolve|name or service not known"
            r"|no such host|nodename nor servname",
            "network.dns of the recipe: [ADDRESS] of a name server that knows it; or network.hosts: {HOST: ADDRESS}",
        ),
        (
            r"404 +not found|does not have a release file|no longer has a release file",
            "network.apt_mirror of the recipe: a mirror that has this release of Ubuntu",
        ),
    )
)
_CUT_OFF: Final = re.compile(
    r"connection (?:refused|timed out|failed|reset)|network is unreachable|no route to host|could not connect"
    r"|unable to connect|failed to establish a new connection|max retries exceeded",
    re.IGNORECASE,
)
_NOT_IN_INDEX: Final = re.compile(r"no matching distribution|could not find a version", re.IGNORECASE)


def explain(step: Step | None, message: str) -> TricomposeError:
    """The error for what an engine gave up with, at `step` where it is known. One line, and the last of the output."""
    message = _SOLVING.sub("", " ".join(_ANSI.sub("", message).split()))
    lines = tuple(step.lines) if step else ()
    evidence = "\n".join((*lines, message))
    words = _words(step, message)
    if "no space left on device" in evidence.lower():
        return NoRoom(f"the Docker Engine has no space left: {words}", hint="docker system df; docker builder prune")
    return BuildFailed(words, hint=_hint(evidence), detail=lines[-_SHOWN:])


def _words(step: Step | None, message: str) -> str:
    if step is None:
        return f"the Docker Engine cannot build this: {message}"
    ended = _STATUS.search(message)
    return f"{step} ended with {ended[1]}: {step.text}" if ended else f"{step} failed: {step.text}: {message}"


def _hint(evidence: str) -> str:
    for sign, hint in _SIGNS:
        if sign.search(evidence):
            return hint
    if _CUT_OFF.search(evidence):
        key = "pip_index" if _PIP.search(evidence) else "apt_mirror"
        return f"network.{key} of the recipe: one that can be reached from here; or network.proxy"
    if _NOT_IN_INDEX.search(evidence):
        return "network.pip_index of the recipe: an index that has it"
    return _FIND_OUT


def shortened(instruction: str) -> str:
    """An instruction in one line that fits a terminal."""
    text = " ".join(instruction.split())
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 4]} ..."
