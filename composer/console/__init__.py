"""Where a command's words go. The only part that draws: people read tables, programs read JSON, logs get plain lines.

Results go to stdout; progress, warnings and errors to stderr. With `json_output` stdout gets one JSON object.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self

from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.text import Text

from composer.console.failures import BROKEN_PIPE, Failure
from composer.console.progress import Display, JsonLines, Lively, Plain, Silent
from composer.events import Event

Progress = Literal["auto", "rich", "plain", "json", "none"]

SCHEMA: Final = 1
"""The version of the JSON objects that commands write."""

_WIDE: Final = 200
"""Columns of a table that goes to a file or a pipe: nothing in it is broken to fit a screen that is not there."""


class Console:
    """The terminal of one command. Use as a context manager: at the end the display is gone, and the JSON written."""

    def __init__(self, *, json_output: bool, progress: Progress, verbose: bool, quiet: bool) -> None:
        self.quiet = quiet
        self._json = json_output
        self._answer: dict[str, Any] = {}
        self._written = False
        self._out = _terminal(stderr=False)
        self._err = _terminal(stderr=True)
        self._display = _display(self._err, "none" if quiet else progress, verbose)

    def emit(self, event: Event) -> None:
        """Show an event. May be called from any thread."""
        self._display.handle(event)

    def result(self, key: str, document: object, *text: RenderableType) -> None:
        """A result: under `key` in the JSON object, or as text."""
        if self._json:
            self._answer[key] = document
        elif text:
            self._print(*text)

    def add_result(self, key: str, document: object, *text: RenderableType) -> None:
        """One of several results: in a list under `key`, or as text."""
        self.result(key, [*self._answer.get(key, ()), document], *text)

    def text(self, text: str) -> None:
        """A result that is to be used as it stands: a schema, a script. In the JSON object it is given by `result`."""
        if not self._json:
            _write(text)

    def fail(self, failure: Failure) -> None:
        """Say what went wrong: to people on stderr, and to programs in the JSON object."""
        with suppress(BrokenPipeError):
            self._display.close(failed=True)
            if isinstance(self._display, JsonLines):
                self._display.write({"event": "failed", **failure.to_json()})
            elif failure.status != BROKEN_PIPE:
                _complain(self._err, failure)
        if self._json and not self._written:
            self._write(self._answer | {"error": failure.to_json()})

    def flush(self) -> None:
        """Write the JSON object now, for a command that goes on after its result."""
        if self._json and not self._written:
            self._write(self._answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.close(failed=error is not None)
        if error is None:
            self.flush()

    def _print(self, *text: RenderableType) -> None:
        with self._out.capture() as drawn:
            for one in text:
                # Lines of words may be commands to paste: where they are broken is the terminal's own affair.
                self._out.print(one, soft_wrap=isinstance(one, str | Text))
        _write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))

    def _write(self, answer: dict[str, Any]) -> None:
        self._written = True
        _write(_json({"schema": SCHEMA, **answer}) + "\n")


def _json(answer: dict[str, Any]) -> str:
    try:
        return json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number that JSON does not have, in the evidence of a report
        from composer.reports.document import jsonable

        return json.dumps(jsonable(answer), indent=2, ensure_ascii=False)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _terminal(*, stderr: bool) -> Terminal:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Terminal(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def _display(terminal: Terminal, progress: Progress, verbose: bool) -> Display:
    if progress == "auto":
        progress = "rich" if terminal.is_terminal and not terminal.is_dumb_terminal else "plain"
    match progress:
        case "rich":
            return Lively(terminal, verbose=verbose)
        case "plain":
            return Plain(terminal)
        case "json":
            return JsonLines(sys.stderr)
        case _:
            return Silent(terminal)


def _complain(terminal: Terminal, failure: Failure) -> None:
    """Every problem of a recipe in two lines, or the one message, the last lines of what failed, and the hint."""
    problems = [(f"{one.where}: {one.message}", one.hint) for one in failure.problems]
    for message, hint in problems or [(failure.message, failure.hint)]:
        label = "" if failure.code == "interrupted" else "error: "
        terminal.print(Text.assemble((label, "bold red"), message), soft_wrap=True)
        for line in failure.detail:
            terminal.print(Text(f"  {line}"), soft_wrap=True)
        if hint:
            terminal.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)
