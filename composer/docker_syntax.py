"""How a Dockerfile is spelled: values that nothing can break out of, and the instructions of a fragment.

It is the syntax of both builders, and of Docker 20.10 without BuildKit. Source: the Dockerfile reference; the
behaviour of both builders was measured (tests/docker/test_quoting.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from composer.errors import Unplannable

_SPECIAL: Final = re.compile(r'[\\"$]')
_MARKED: Final = re.compile(r"""[\\"'$\ufeff]""")
_GLOB: Final = re.compile(r"[*?\[\\]")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./+~:][A-Za-z0-9_./+~:-]*")
_DIRECTIVE: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*\s*=")
_BREAKS: Final = re.compile(r"[\n\r]")
_LONGEST: Final = 65_535
"""Bytes of a line. Builders read none that is longer, and the classic one says so after the context was sent."""
_COMMENT: Final = 300

_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What builders take for blank, by Go's unicode.IsSpace; Python's own idea is wider."""
_UNSAID: Final = re.compile(rf"[{_SPACES}]*(?:#.*)?", re.DOTALL)
_GOES_ON: Final = re.compile(r"(?<!\\)\\[ \t]*\r?\Z")
_GAP: Final = re.compile(r"[\t\v\f\r ]")

CONFIGURING: Final = frozenset(
    [
        *("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL"),
        *("ONBUILD", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    ]
)
"""Instructions that change what an image says of itself, and none of its files."""

RUNNING: Final = frozenset(["ARG", "RUN"])


# -- values -------------------------------------------------------------------------------------------------------


def quoted(value: str) -> str:
    """A value of ENV, LABEL or USER, as one word that stands for exactly this text. Raises `Unplannable`.

    Between double quotes a backslash takes the meaning from a quote, a dollar or a backslash, and means itself
    before all else. A line end cannot be written at all.
    """
    if _BREAKS.search(value):
        raise Unplannable(
            f"a Dockerfile cannot hold a value of several lines: {value[:40]!r}",
            hint="engine: direct   (or put the text into a file, with files:)",
        )
    return f'"{_SPECIAL.sub(_escaped, _writable(value))}"'


def word(value: str) -> str:
    """The same, without quotes where it needs none."""
    return value if _PLAIN.fullmatch(value) else quoted(value)


def pair(name: str, value: str) -> str:
    """A name of ENV or LABEL with its value. Raises `Unplannable`: no name has an equals sign in it, none is empty."""
    if not name or "=" in name:
        raise Unplannable(
            f"a Dockerfile cannot hold the name {name!r}", hint="engine: direct   (the image's own names stay there)"
        )
    return f"{word(name)}={quoted(value)}"


def json_form(words: Sequence[str]) -> str:
    """The JSON form of RUN, CMD, ENTRYPOINT and HEALTHCHECK CMD. Nothing in it is expanded. Raises `Unplannable`."""
    return json.dumps([_writable(one) for one in words], ensure_ascii=False)


def copy_form(paths: Sequence[str]) -> str:
    """The paths of COPY, the last being where to: as they are where nothing in them means anything, else in JSON form.

    In both forms quotes and variables are read, and the paths to copy are patterns; so all that is escaped. BuildKit
    of 20.10 takes no name of the *context* that is not printable ASCII, in any spelling. Raises `Unplannable`.
    """
    if all(_PLAIN.fullmatch(path) for path in paths):
        return " ".join(paths)
    *sources, target = paths
    return json_form([_MARKED.sub(_escaped, path) for path in (*map(_pattern, sources), target)])


def comment(text: str) -> str:
    """A text as the rest of a comment line, which is no directive to the builder wherever it stands."""
    line = _writable(" ".join(text.split()))
    line = line if len(line) <= _COMMENT else f"{line[:_COMMENT]}..."
    return f"({line})" if _DIRECTIVE.match(line) else line


def legible(dockerfile: str) -> str:
    """The text of a Dockerfile, if builders can read all its lines. Raises `Unplannable`."""
    for line in dockerfile.split("\n"):
        if len(line.encode()) > _LONGEST:
            raise Unplannable(
                f"a line of a Dockerfile holds at most {_LONGEST} bytes: {line[:60].strip()}...",
                hint="put the text into a file, with files:",
            )
    return dockerfile


def _escaped(match: re.Match[str]) -> str:
    return "\\" + match.group()


def _pattern(path: str) -> str:
    """The pattern that only this path matches. Source: Go's filepath.Match.

    A special character stands for itself in brackets; behind a backslash the classic builder takes it for a name.
    """
    if not _GLOB.search(path):
        return path
    # With a slash at its end a pattern matches nothing, and a folder's content is copied with and without.
    return _GLOB.sub(lambda match: f"[{_GLOB.sub(_self, match[0])}]", path.rstrip("/"))


def _self(match: re.Match[str]) -> str:
    return "\\\\" if match[0] == "\\" else match[0]


def _writable(text: str) -> str:
    """Refuse what neither a file in UTF-8 nor an argument of a program can hold."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Unplannable(f"this is no text that a Dockerfile can hold: {text[:40]!r}", hint="write it in UTF-8")
    return text


# -- fragments ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction of a fragment: its keyword in capitals, its text with all its lines, the line it begins on."""

    keyword: str
    text: str
    line: int


def parse_fragment(text: str) -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile fragment, as builders read it. Comments and empty lines go.

    A line that ends in a backslash goes on in the next that says anything; at the end of the fragment it does not.
    """
    return tuple(_instruction(lines) for lines in _gathered(text))


def _gathered(text: str) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each instruction, as they are."""
    pending: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not _UNSAID.fullmatch(line):
            pending.append((number, line))
            if not _GOES_ON.search(line):
                yield pending
                pending = []
    if pending := _closed(pending):
        yield pending


def _closed(lines: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Lines of which the last goes on in nothing, so that what comes after the fragment is not drawn into it."""
    closed = list(lines)
    while closed and (_GOES_ON.search(closed[-1][1]) or not closed[-1][1].strip(_SPACES)):
        number, line = closed.pop()
        if rest := _GOES_ON.sub("", line).rstrip(_SPACES):
            closed.append((number, rest))
    return closed


def _instruction(lines: Sequence[tuple[int, str]]) -> Instruction:
    text = "\n".join(line for _, line in lines).lstrip(_SPACES)
    joined = "".join(_GOES_ON.sub("", line) for _, line in lines).strip(_SPACES)
    return Instruction(keyword=_GAP.split(joined, maxsplit=1)[0].upper(), text=text, line=lines[0][0])
