"""The command line of NVIDIA's compose.py, taken apart as its argparse does. What the flags mean is not known here.

Source: the flags that compose.py declares in the branches r21.08 to r26.08 of the server's repository.
"""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag of compose.py: whether it takes a value, what one looks like, and the first release that has it."""

    name: str
    takes: Literal["nothing", "perhaps", "value"]
    example: str = ""
    since: str = "21.08"


FLAGS: Final = (
    Flag(name="--help", takes="nothing"),
    Flag(name="--quiet", takes="nothing"),
    Flag(name="--verbose", takes="nothing"),
    Flag(name="--output-name", takes="value", example="tritonserver"),
    Flag(name="--work-dir", takes="value", example="build"),
    Flag(name="--container-version", takes="value", example="24.10"),
    Flag(name="--image", takes="value", example="full,nvcr.io/nvidia/tritonserver:24.10-py3"),
    # Until 21.11 it took nothing, and later takes true, false, or nothing, which is true.
    Flag(name="--enable-gpu", takes="perhaps", example="true"),
    Flag(name="--backend", takes="value", example="onnxruntime"),
    Flag(name="--repoagent", takes="value", example="checksum"),
    Flag(name="--cache", takes="value", example="local", since="23.03"),
    Flag(name="--skip-pull", takes="nothing", since="23.01"),
    Flag(name="--dry-run", takes="nothing"),
)
SHORT: Final = {"h": "--help", "q": "--quiet", "v": "--verbose"}

_CLUSTER: Final = re.compile(rf"-[{''.join(SHORT)}]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A flag that was given, by its full name; `place` is its position among the arguments, from 1."""

    flag: str
    value: str | None
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong in a command line; `place` as in `Given`, or 0 for something that is not there."""

    place: int
    message: str
    hint: str


def arguments(words: Sequence[str]) -> Sequence[str]:
    """What comes after compose.py, however that was started; all words where they begin with its flags."""
    for index, word in enumerate(words):
        if word.startswith("--"):
            break
        if PurePosixPath(word).name == "compose.py":
            return words[index + 1 :]
    return words


def parse(words: Sequence[str], *, release: str | None) -> Iterator[Given | Fault]:
    """The flags in order: `--flag value`, `--flag=value`, `-qv`, and names cut short where only one begins so.

    Without a release, the flags of all releases count.
    """
    queue = deque(enumerate(words, start=1))
    while queue:
        place, word = queue.popleft()
        if not _is_flag(word):
            hint = f"a value stands right after its flag: --backend {word}"
            yield Fault(place=place, message=f'"{word}" belongs to no flag', hint=hint)
        elif _CLUSTER.fullmatch(word):
            yield from (Given(flag=SHORT[letter], value=None, place=place) for letter in word[1:])
        else:
            yield _long(place, word, queue, release)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word not in ("-", "--")


def _long(place: int, word: str, queue: deque[tuple[int, str]], release: str | None) -> Given | Fault:
    """One long flag. Its value is taken off the queue."""
    name, equals, value = word.partition("=")
    flag = _meant(place, name, release)
    if isinstance(flag, Fault):
        # What follows is probably its value, and no second mistake.
        if not equals and queue and not _is_flag(queue[0][1]):
            queue.popleft()
        return flag
    if equals and flag.takes == "nothing":
        return Fault(place=place, message=f"{flag.name} takes no value", hint=flag.name)
    if equals or flag.takes == "nothing":
        return Given(flag=flag.name, value=value if equals else None, place=place)
    if queue and not _is_flag(queue[0][1]):
        return Given(flag=flag.name, value=queue.popleft()[1], place=place)
    if flag.takes == "value":
        return Fault(place=place, message=f"{flag.name} lacks its value", hint=f"{flag.name} {flag.example}")
    return Given(flag=flag.name, value=None, place=place)


def _meant(place: int, name: str, release: str | None) -> Flag | Fault:
    """The flag of that name, or the only one that begins so."""
    there = [flag for flag in FLAGS if release is None or flag.since <= release]
    exact = [flag for flag in FLAGS if flag.name == name]
    close = exact or [flag for flag in there if flag.name.startswith(name) and name.startswith("--")]
    if len(close) == 1:
        return close[0]
    if close:
        names = " or ".join(flag.name for flag in close)
        return Fault(place=place, message=f'"{name}" may be {names}', hint="write it in full")
    return Fault(place=place, message=f'compose.py has no flag "{name}"', hint=_nearest(name))


def _nearest(name: str) -> str:
    known = [flag.name for flag in FLAGS]
    spelled = f"--{name.lstrip('-').lower().replace('_', '-')}"
    near = difflib.get_close_matches(spelled, known, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"it has: {', '.join(known)}"
