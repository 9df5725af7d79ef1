"""Events as they are shown while work goes on: a live display, plain lines, JSON lines, or nothing.

Events come from any thread, and often: what is shown is throttled here, and nowhere else.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event as ThreadEvent
from threading import RLock, Thread
from typing import Any, Final, Protocol, TextIO

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from composer import words
from composer.events import BuildStep, Event, Logged, StageFinished, StageStarted, Transferred, Warned

LINE_EVERY: Final = 5.0
"""Seconds between two lines of plain progress in one stage."""

JSON_EVERY: Final = 0.5
"""Seconds between two JSON lines about one blob."""

STEP_TOLD: Final = 1.0
"""Seconds that a step of a Dockerfile took if plain lines tell of its end."""

_WINDOW: Final = 10.0
"""Seconds that a rate is the mean of."""

_FRAME: Final = 0.125
"""Seconds between two pictures of the live display."""

_BARS: Final = 6
_SPARED: Final = ("mounted", "skipped")

Clock = Callable[[], float]


# -- what has moved -----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Blob:
    """How far one blob has come: bytes. Neither number ever falls, though a blob may be sent once more."""

    title: str
    spared: bool
    verb: str
    done: int = 0
    total: int = 0
    resumed: int = 0
    """Of `done`, what was here from an earlier run."""

    @property
    def active(self) -> bool:
        """Whether it is still on its way."""
        return self.done < self.total


@dataclass(slots=True, kw_only=True)
class Stage:
    """A step of the story that is under way, and what has moved in it."""

    name: str
    detail: str
    begun: float
    blobs: dict[str, Blob] = field(default_factory=dict)
    note: str = ""
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    steps: dict[tuple[str, int], tuple[BuildStep, float]] = field(default_factory=dict)
    """Steps of a Dockerfile that are under way, and when they began."""
    ended: list[str] = field(default_factory=list)
    """How each step ended that is over."""

    def step(self, event: BuildStep, now: float) -> None:
        """Take note of a step of a Dockerfile."""
        if event.state == "begun":
            self.steps[event.stage, event.number] = (event, now)
        else:
            self.steps.pop((event.stage, event.number), None)
            self.ended.append(event.state)

    def move(self, event: Transferred, now: float) -> None:
        """Take note of a piece of a blob."""
        made = Blob(title=event.title, spared=event.action in _SPARED, verb=event.action)
        blob = self.blobs.setdefault(event.digest, made)
        blob.done = max(blob.done, event.done)
        blob.resumed = max(blob.resumed, event.resumed)
        blob.total = max(blob.total, event.total, blob.done)
        if not self.samples or now - self.samples[-1][0] > _WINDOW / 40:
            self.samples.append((now, self.moved))
        while self.samples[0][0] < now - _WINDOW:
            self.samples.popleft()

    @property
    def moved(self) -> int:
        """Bytes that really moved."""
        return sum(blob.done - blob.resumed for blob in self.blobs.values() if not blob.spared)

    @property
    def resumed(self) -> int:
        """Bytes that were here from an earlier run that was cut off."""
        return sum(blob.resumed for blob in self.blobs.values())

    @property
    def done(self) -> int:
        """Bytes that need not move any more."""
        return sum(blob.done for blob in self.blobs.values())

    @property
    def total(self) -> int:
        """Bytes of all blobs that have been begun."""
        return sum(blob.total for blob in self.blobs.values())

    def rate(self, now: float) -> float:
        """Bytes a second of late; 0 where that is not known yet."""
        begun, before = self.samples[0] if self.samples else (now, 0)
        return (self.moved - before) / (now - begun) if now - begun > 1 else 0.0

    def line(self, now: float) -> str:
        """How far it is: `412 MB of 1.2 GB, 45 MB/s, 18 s left`."""
        if self.done >= self.total:
            return words.size(self.total)
        parts = [f"{words.size(self.done)} of {words.size(self.total)}"]
        if rate := self.rate(now):
            parts.append(f"{words.size(round(rate))}/s")
            parts.append(f"{words.duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    def summary(self) -> str:
        """What moved in all: `12 layers reused, 3 copied, 61 MB sent`; of a Dockerfile `12 steps, 7 of them cached`."""
        if self.ended:
            cached = self.ended.count("cached")
            return words.count(len(self.ended), "step") + (f", {cached} of them cached" if cached else "")
        layers = [blob for blob in self.blobs.values() if blob.title not in ("config", "manifest")]
        spared = sum(blob.spared for blob in layers)
        moved = len(layers) - spared
        if not self.blobs:
            return ""
        if all(blob.title == "manifest" for blob in self.blobs.values()):
            return "nothing has changed"
        earlier = f", {words.size(self.resumed)} were here from before" if self.resumed else ""
        if any(blob.verb == "read" for blob in self.blobs.values()):
            return f"{words.size(self.moved)} read{earlier}"
        if any(blob.verb == "fetched" for blob in self.blobs.values()):
            return f"{words.size(self.moved)} fetched"
        reused = f"{words.count(spared, 'layer')} reused"
        return f"{reused}, {moved} copied, {words.size(self.moved)} sent{earlier}"


class Board:
    """The stages under way, the newest last. Not safe for threads: its owner is."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.stages: list[Stage] = []

    def begin(self, event: StageStarted) -> Stage:
        """A stage begins."""
        self.stages.append(Stage(name=event.stage, detail=event.detail, begun=self.clock()))
        return self.stages[-1]

    def end(self, event: StageFinished) -> Stage:
        """The newest stage of that name ends."""
        found = next((one for one in reversed(self.stages) if one.name == event.stage), None)
        if found is None:
            return Stage(name=event.stage, detail=event.detail, begun=self.clock())
        self.stages.remove(found)
        return found

    def move(self, event: Transferred) -> Stage | None:
        """Bytes belong to the newest stage."""
        if not self.stages:
            return None
        self.stages[-1].move(event, self.clock())
        return self.stages[-1]

    def step(self, event: BuildStep) -> Stage | None:
        """A step of a Dockerfile belongs to the newest stage."""
        if not self.stages:
            return None
        self.stages[-1].step(event, self.clock())
        return self.stages[-1]

    def took(self, stage: Stage) -> str:
        """How long a stage has been going on."""
        return words.duration(self.clock() - stage.begun)


def _outcome(stage: Stage, detail: str, took: str) -> str:
    return f"{detail or stage.detail}  ({', '.join(part for part in (stage.summary(), took) if part)})"


def _place(event: BuildStep) -> str:
    """Which step it is: `step 3/12`, `step 3/7 of prepared`."""
    return f"step {event.number}/{event.total}" + (f" of {event.stage}" if event.stage else "")


def _step_line(event: BuildStep) -> str:
    """A step in a line, as it begins and as it ends; empty for an end that is not worth one."""
    match event.state:
        case "begun":
            return f"{_place(event)}: {event.text}"
        case "failed":
            return f"{_place(event)}: failed after {words.duration(event.took)}"
        case "done" if event.took >= STEP_TOLD:
            return f"{_place(event)}: done ({words.duration(event.took)})"
        case "cached":
            return f"{_place(event)}: cached"
    return ""


class Display(Protocol):
    """A way to show events."""

    def handle(self, event: Event) -> None:
        """Show an event. Any thread may call it, even after `close`."""
        ...

    def close(self, *, failed: bool) -> None:
        """Leave the terminal as it was. `failed`: what is under way did not end well."""
        ...


# -- nothing, and warnings ----------------------------------------------------------------------------------------


class Silent:
    """Warnings only."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def handle(self, event: Event) -> None:
        """Show a warning."""
        if isinstance(event, Warned):
            warn(self._terminal, event)

    def close(self, *, failed: bool) -> None:
        """Nothing is shown."""


def warn(terminal: Terminal, event: Warned) -> None:
    """A warning in a line, and what to do in another."""
    terminal.print(Text.assemble(("warning: ", "bold yellow"), event.message), soft_wrap=True)
    if event.hint:
        terminal.print(Text.assemble(("hint: ", "bold"), event.hint), soft_wrap=True)


# -- plain lines --------------------------------------------------------------------------------------------------


class Plain:
    """For logs: two lines a stage, and one line of progress every five seconds in between."""

    def __init__(self, terminal: Terminal, *, clock: Clock = time.monotonic) -> None:
        self._terminal = terminal
        self._board = Board(clock)
        self._spoke = clock()
        self._lock = RLock()

    def handle(self, event: Event) -> None:
        """Show an event, or let it pass."""
        with self._lock:
            match event:
                case StageStarted():
                    self._begin(self._board.begin(event))
                case StageFinished():
                    stage = self._board.end(event)
                    self._say(f"{stage.name}: done: {_outcome(stage, event.detail, self._board.took(stage))}")
                case Transferred():
                    self._move(self._board.move(event))
                case BuildStep():
                    self._step(self._board.step(event), event)
                case Logged():
                    self._say(f"{event.source}: {event.text}" if event.source else event.text)
                case Warned():
                    warn(self._terminal, event)

    def close(self, *, failed: bool) -> None:
        """Say where it stopped."""
        with self._lock:
            for stage in self._board.stages if failed else ():
                self._say(f"{stage.name}: not finished after {self._board.took(stage)}")
            self._board.stages.clear()

    def _begin(self, stage: Stage) -> None:
        self._spoke = stage.begun
        self._say(f"{stage.name}: {stage.detail}")

    def _move(self, stage: Stage | None) -> None:
        now = self._board.clock()
        if stage and now - self._spoke >= LINE_EVERY:
            self._spoke = now
            self._say(f"{stage.name}: {stage.line(now)}")

    def _step(self, stage: Stage | None, event: BuildStep) -> None:
        if line := _step_line(event):
            self._say(f"{stage.name}: {line}" if stage else line)

    def _say(self, text: str) -> None:
        self._terminal.print(Text(text), soft_wrap=True)


# -- JSON lines ---------------------------------------------------------------------------------------------------


class JsonLines:
    """For programs: an object a line. Of each blob the first and the last word always, others now and then."""

    def __init__(self, stream: TextIO, *, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._begun = clock()
        self._told: dict[str, float] = {}
        self._lock = RLock()

    def handle(self, event: Event) -> None:
        """Write an event, or let it pass."""
        with self._lock:
            now = self._clock()
            if isinstance(event, Transferred) and not self._worthwhile(event, now):
                return
            document = {"event": _EVENTS[type(event)], "seconds": round(now - self._begun, 3), **_fields(event)}
            self.write(document)

    def write(self, document: dict[str, Any]) -> None:
        """Write one line."""
        with self._lock:
            self._stream.write(json.dumps(document, ensure_ascii=False) + "\n")
            self._stream.flush()

    def close(self, *, failed: bool) -> None:
        """Nothing is left to say."""

    def _worthwhile(self, event: Transferred, now: float) -> bool:
        last = self._told.get(event.digest)
        if last is not None and event.done < event.total and now - last < JSON_EVERY:
            return False
        self._told[event.digest] = now
        return True


_EVENTS: Final = {
    StageStarted: "stage-started",
    StageFinished: "stage-finished",
    Transferred: "transferred",
    BuildStep: "build-step",
    Logged: "logged",
    Warned: "warned",
}


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__}


# -- the live display ---------------------------------------------------------------------------------------------


class Lively:
    """For people: a line for each stage that is done, and below it what moves at this moment."""

    def __init__(self, terminal: Terminal, *, verbose: bool, clock: Clock = time.monotonic) -> None:
        self._terminal = terminal
        self._verbose = verbose
        self._board = Board(clock)
        self._live: Live | None = None
        self._spinner = Spinner("dots" if _draws(terminal, "⠋") else "line")
        self._marks = ("✓", "✗") if _draws(terminal, "✓✗") else ("ok", "FAILED")
        self._lock = RLock()
        self._idle = ThreadEvent()

    def handle(self, event: Event) -> None:
        """Show an event. The display is up only while a stage is, so that results can be printed in between."""
        with self._lock:
            match event:
                case StageStarted():
                    self._board.begin(event)
                    self._up()
                case StageFinished():
                    stage = self._board.end(event)
                    self._print(_done(self._marks[0], "green", stage.name, self._ending(stage, event.detail)))
                    self._down_if_idle()
                case Transferred():
                    self._board.move(event)
                case BuildStep():
                    self._step(event)
                case Logged():
                    self._log(event)
                case Warned():
                    warn(self._terminal, event)

    def close(self, *, failed: bool) -> None:
        """Take the display down, and say which stage did not end."""
        with self._lock:
            stages, self._board.stages = self._board.stages, []
            self._down_if_idle()
            for stage in stages if failed else ():
                ending = f"{stage.detail}  (stopped after {self._board.took(stage)})"
                self._print(_done(self._marks[1], "red", stage.name, ending))

    def _up(self) -> None:
        if self._live is None:
            # rich's own refresh would take its lock before ours, and we take ours before rich's.
            self._live = Live(
                console=self._terminal,
                get_renderable=self._render,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
            self._idle = ThreadEvent()
            Thread(target=self._tick, args=(self._idle,), daemon=True).start()

    def _tick(self, idle: ThreadEvent) -> None:
        while not idle.wait(_FRAME):
            with self._lock:
                if self._live and not idle.is_set():
                    self._live.refresh()

    def _down_if_idle(self) -> None:
        if self._live and not self._board.stages:
            self._idle.set()
            live, self._live = self._live, None
            live.stop()

    def _ending(self, stage: Stage, detail: str) -> str:
        return _outcome(stage, detail, self._board.took(stage))

    def _step(self, event: BuildStep) -> None:
        stage = self._board.step(event)
        if stage:
            stage.note = ""
        if (self._verbose or stage is None) and (line := _step_line(event)):
            self._print(Text(line, style="dim"))

    def _log(self, event: Logged) -> None:
        text = f"{event.source}: {event.text}" if event.source else event.text
        if self._board.stages:
            self._board.stages[-1].note = text
        if self._verbose or event.source == "server" or not self._board.stages:
            self._print(Text(text, style="dim"))

    def _print(self, text: Text) -> None:
        self._terminal.print(text, soft_wrap=True)

    def _render(self) -> RenderableType:
        return Group(*(row for stage in self._board.stages for row in self._rows(stage)))

    def _rows(self, stage: Stage) -> Iterator[RenderableType]:
        now = self._board.clock()
        head = Table.grid(padding=(0, 1))
        words_ = Text.assemble((f"{stage.name} ", "bold"), stage.detail, f"  {self._board.took(stage)}")
        words_.truncate(max(20, self._terminal.width - 4), overflow="ellipsis")
        head.add_row(self._spinner, words_)
        yield head
        for event, begun in list(stage.steps.values())[:_BARS]:
            line = f"    {_place(event)}  {words.duration(now - begun)}  {event.text}"
            yield Text(line, no_wrap=True, overflow="ellipsis")
        if stage.note:
            yield Text(f"    {stage.note}", style="dim", no_wrap=True, overflow="ellipsis")
        active = [(digest, blob) for digest, blob in stage.blobs.items() if blob.active]
        if active:
            yield _bars(active[:_BARS], self._terminal.width)
        if len(active) > _BARS:
            yield Text(f"    and {len(active) - _BARS} more")
        if stage.blobs:
            yield Text(f"    total {stage.line(now)}")


def _done(mark: str, style: str, name: str, ending: str) -> Text:
    return Text.assemble((f"{mark} ", style), (f"{name:<9}", "bold"), ending)


def _bars(active: list[tuple[str, Blob]], width: int) -> Table:
    table = Table.grid(padding=(0, 1))
    for digest, blob in active:
        name = f"    {blob.title} {words.short(digest)}" if width >= 60 else f"    {words.short(digest)}"
        bar = ProgressBar(total=blob.total, completed=blob.done, width=max(8, min(40, width - 52)))
        table.add_row(Text(name, no_wrap=True), bar, Text(f"{words.size(blob.done)} of {words.size(blob.total)}"))
    return table


def _draws(terminal: Terminal, text: str) -> bool:
    """Whether the terminal's encoding has these characters."""
    try:
        text.encode(terminal.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
