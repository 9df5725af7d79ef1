"""What Triton's log says, line by line, in the three forms that releases have.

    I1120 13:16:08.512345 2227 server.cc:674] words            until 24.06: glog's form
    I1120 13:16:08.512345 2227 server.cc:674] "words"          24.09 and later: words as a JSON string
    2026-11-20T13:16:08Z I 2227 server.cc:674] words           --log-format=ISO8601, quoted as above

Everything else in it is somebody else's: Python's stub, what models print, libprotobuf, DCGM, gRPC, the shell. Such
lines have no level. Source of the forms: common's logging.cc, and servers of eleven releases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_GLOG: Final = re.compile(
    r"(?P<level>[EWIFV])(?P<time>\d{4} \d\d:\d\d:\d\d\.\d+) +\d+ (?P<where>[\w.+-]+:\d+)\] ?(?P<message>.*)"
)
_ISO: Final = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*) (?P<level>[EWIFV]) +\d+ (?P<where>[\w.+-]+:\d+)\] ?(?P<message>.*)"
)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_LOADING: Final = re.compile(r"loading: (?P<model>.+):(?P<version>-?\d+)")
_LOADED: Final = re.compile(r"successfully loaded '(?P<model>.+)'(?: version (?P<version>-?\d+))?")
_FAILED: Final = re.compile(r"failed to load '(?P<model>.+?)' version (?P<version>-?\d+): (?P<reason>.+)", re.DOTALL)
_GIVEN_UP: Final = re.compile(r"failed to load '(?P<model>.+)'(?P<version>)$")
_REFUSED: Final = (
    re.compile(r"Poll failed for model directory '(?P<model>.+?)': (?P<reason>.+)", re.DOTALL),
    re.compile(r"failed to (?:poll|load) model '(?P<model>.+?)': (?P<reason>.+)", re.DOTALL),
    re.compile(
        r"Invalid argument: (?P<reason>ensemble '?(?P<model>[^\s']+)'? (?:depends on|contains models) .+)", re.DOTALL
    ),
    re.compile(r"Invalid argument: (?P<reason>in ensemble '?(?P<model>[^\s',]+)'?, .+)", re.DOTALL),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line. `level` is E, W, I, F or V, and empty where the line is not Triton's own.

    `time` is as it stands there, without a year or with one; `where` is `FILE:LINE` of Triton's source; `message` has
    its quotes and escapes undone, so that it may hold several lines; `raw` is the line itself.
    """

    level: str
    time: str
    where: str
    message: str
    raw: str


@lru_cache(maxsize=4)
def records(log: str) -> tuple[Line, ...]:
    """Every line of a log that is not empty, in its order."""
    return tuple(_line(raw) for raw in log.splitlines() if raw.strip())


def begun(lines: Sequence[Line]) -> Sequence[Line]:
    """The lines from Triton's first on: those before it are the entry script's, which no model wrote."""
    first = next((at for at, line in enumerate(lines) if line.level), 0)
    return lines[first:]


def _line(raw: str) -> Line:
    text = _COLOUR.sub("", raw).rstrip()
    if found := _GLOG.fullmatch(text) or _ISO.fullmatch(text):
        return Line(**{**found.groupdict(), "message": _unquoted(found["message"])}, raw=raw)
    return Line(level="", time="", where="", message=text, raw=raw)


def _unquoted(message: str) -> str:
    if len(message) < 2 or message[0] != '"' or message[-1] != '"':
        return message
    try:
        return str(json.loads(message, strict=False))
    except ValueError:  # bytes that are not UTF-8, or a line that was cut
        return message[1:-1].replace("\\n", "\n").replace('\\"', '"')


# -- what became of the models ------------------------------------------------------------------------------------


def loading(log: str) -> tuple[tuple[str, str], ...]:
    """Models and versions that began to load and neither came up nor failed: where a server hangs, it is in these."""
    open_: dict[tuple[str, str], None] = {}
    for line in records(log):
        if found := _at_start(_LOADING, line):
            open_[found["model"], found["version"]] = None
        elif found := _at_start(_LOADED, line) or _at_start(_FAILED, line) or _at_start(_GIVEN_UP, line):
            _close(open_, found["model"], found["version"])
    return tuple(open_)


def _close(open_: dict[tuple[str, str], None], model: str, version: str | None) -> None:
    for known in [one for one in open_ if one[0] == model and version in (None, "", one[1])]:
        del open_[known]


def failures(log: str) -> Mapping[str, str]:
    """Triton's own reason for each model that could not be read or loaded, in the order of the log."""
    found: dict[str, str] = {}
    for line in records(log):
        if failed := failed_by(line):
            found.setdefault(*failed)
    return found


def failed_by(line: Line) -> tuple[str, str] | None:
    """The model that a line says has failed, and why."""
    if not line.level:
        return None
    found = (_at_start(pattern, line) for pattern in (_FAILED, *_REFUSED))
    return next(((match["model"], match["reason"].strip()) for match in found if match), None)


def _at_start(pattern: re.Pattern[str], line: Line) -> re.Match[str] | None:
    """What Triton says, and not what somebody quotes: the words begin so, in a line that is Triton's."""
    return pattern.match(line.message) if line.level else None
