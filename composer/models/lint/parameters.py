"""Texts that backends take for numbers and switches: what they cannot read, in their own words.

Source: backend, backend_common.cc (ParseBoolValue, ParseIntValue, ParseUnsignedLongLongValue).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

WANTED: Final[Mapping[str, str]] = {
    "number": "a whole number",
    "size": "a number of bytes",
    "switch": "true, on, 1, false, off or 0",
}
"""What each kind of text should be, in words for people. `number` has 32 bits, `size` has 64 and no sign."""

_NUMBER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_KINDS: Final = {"number": "integral number", "size": "unsigned long long integral number", "switch": "boolean"}
_OUT_OF_RANGE: Final = "terminate called after throwing an instance of 'std::out_of_range'"


def number_of(text: str) -> int | None:
    """The number that they read off the front of a text, as C++ does: `4 threads` is 4. None for none."""
    found = _NUMBER.match(text)
    return int(found[1]) if found and len(found[1]) < 100 else None


def switch_of(text: str) -> bool | None:
    """What they take a text for; None where they refuse it."""
    low = text.lower()
    return True if low in ("true", "on", "1") else False if low in ("false", "off", "0") else None


def unread(text: str, takes: str) -> str | None:
    """The server's words for a text that is none of these; None where it can be read. Too large a number ends it.

    `takes` is one of `WANTED`; texts of any other kind can be read.
    """
    if takes == "switch":
        return _refused(text, takes) if switch_of(text) is None else None
    if takes not in WANTED:
        return None
    if not _NUMBER.match(text):
        return _refused(text, takes)
    number, bits = number_of(text), 31 if takes == "number" else 64
    least = -(1 << bits) + (takes == "size")
    return None if number is not None and least <= number < 1 << bits else _OUT_OF_RANGE


def _refused(text: str, takes: str) -> str:
    return f"failed to convert '{text}' to {_KINDS[takes]}"
