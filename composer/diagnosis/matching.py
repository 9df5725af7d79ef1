"""Which classes of failure the words fit that were seen, and what these words name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from composer.diagnosis.book import Class, classes
from composer.diagnosis.logs import Line, failed_by, records
from composer.diagnosis.seen import Seen

_LONGEST: Final = 4000
"""Characters of a line that are looked at."""

_MOST: Final = 10_000
"""Lines of a log that are looked at: half of them its first, half its last."""

_QUOTED: Final = re.compile(r"\. Model '[^']+' loading failed with error: .*", re.DOTALL)
"""What an ensemble's failure repeats of a member's."""

_NAMELESS: Final = re.compile(r" \[libprotobuf|logging\.cc:")
_TABLE: Final = re.compile(r"[|+]")
_PATHS: Final = re.compile(r"/(?P<model>[^/\s'\"]+)/(?:\d+/[^/\s'\"]+|config\.pbtxt)\b")
_STUB: Final = re.compile(r"Stub process '(?P<model>.+?)(?:_\d+)*' is not healthy")
_NAMED: Final = re.compile(r"\bmodel '(?P<model>[^']+)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A class that fits: what its words name, the lines it was told by, and whom it is about where that is known."""

    kind: Class
    names: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[str] = ()
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Something that was said, where, and of whom it speaks."""

    place: str
    text: str
    raw: str
    model: str = ""


def matches(seen: Seen) -> Iterator[Found]:
    """Every class whose words were seen, once for each thing that they name, in no order."""
    said = dict.fromkeys(_said(seen))
    for kind in classes().values():
        if seen.gpu_wanted or not kind.gpu:
            yield from _merged([found for words in said for found in _matched(kind, words)])


def of_words(place: str, text: str) -> Iterator[Found]:
    """The classes that a text fits in one place: what an engine says, or a line of a log."""
    words = _Words(place=place, text=text, raw=text)
    return (found for kind in classes().values() for found in _matched(kind, words))


def _matched(kind: Class, words: _Words) -> Iterator[Found]:
    for sign in kind.signs[words.place]:
        if match := sign.search(words.text):
            names = {name.rstrip("2"): value for name, value in match.groupdict().items() if value}
            model = names.pop("model", "") or words.model
            yield Found(kind=kind, names=names, lines=(words.raw,), model=model)
            return


def _merged(found: Iterable[Found]) -> Iterator[Found]:
    """Those that name the same thing of the same model as one; those of no model with the one that has it."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, list[Found]]] = {}
    for one in found:
        named = tuple(item for item in one.names.items() if item[0] != "words")
        groups.setdefault(named, {}).setdefault(one.model, []).append(one)
    for by_model in groups.values():
        nameless = by_model.pop("", []) if len(by_model) > 1 else []
        for model, same in by_model.items():
            lines = tuple(dict.fromkeys(line for one in (*same, *nameless) for line in one.lines))
            yield Found(kind=same[0].kind, names=same[0].names, lines=lines, model=model)


# -- what was said ------------------------------------------------------------------------------------------------


def _said(seen: Seen) -> Iterator[_Words]:
    if seen.engine_error:
        yield _Words(place="engine", text=seen.engine_error, raw=seen.engine_error)
    yield from _logged(records(seen.log))
    for row in seen.index:
        if reason := str(row.get("reason") or ""):
            yield _Words(
                place="log",
                text=_QUOTED.sub("", reason),
                raw=f"{row.get('name')}: {reason}",
                model=str(row.get("name") or ""),
            )
    for refusal in seen.refusals:
        text = f"{refusal.code} {refusal.message}".strip()
        stub = _STUB.search(text)  # an ensemble passes on what one of its models says
        for place in ("answer", "log"):
            yield _Words(place=place, text=text, raw=text, model=stub["model"] if stub else refusal.model)


def _logged(lines: Sequence[Line]) -> Iterator[_Words]:
    """What the lines say. libprotobuf and TensorRT do not say of which model: it is the next one that fails."""
    waiting: list[_Words] = []
    for line in (*lines[: _MOST // 2], *lines[max(_MOST // 2, len(lines) - _MOST // 2) :]):
        words = _of_line(line)
        if words and _NAMELESS.match(f"{line.where} {words.text}"):
            waiting.append(words)
            continue
        if failed := failed_by(line):
            yield from (replace(earlier, model=failed[0]) for earlier in waiting)
            waiting = []
        if words:
            yield words
    yield from waiting


def _of_line(line: Line) -> _Words | None:
    text = _QUOTED.sub("", line.message[:_LONGEST])
    if line.level:
        place = "info" if line.level in "IV" else "log"
        return _Words(place=place, text=text, raw=line.raw, model=_model(line))
    return None if _TABLE.match(text) else _Words(place="raw", text=text, raw=line.raw)


def _model(line: Line) -> str:
    """The model that a line is about, where it says so: by name, by a stub's name, or by a path."""
    if failed := failed_by(line):
        return failed[0]
    found = _STUB.search(line.message) or _NAMED.search(line.message) or _PATHS.search(line.message)
    return found["model"] if found else ""
