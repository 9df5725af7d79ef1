"""Numbers in words. Sizes are decimal (1 MB = 1,000,000 bytes), as Docker and registries show them."""

from __future__ import annotations

import re
from typing import Final

_COLOURS: Final = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
_LOGIN: Final = re.compile(r"//[^/\s:@]*:[^/\s@]+@")
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def natural(text: str) -> int | None:
    """The number that somebody's text is, if it is one: digits of ASCII, no more than any size or time has."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def size(count: int) -> str:
    """Bytes in three digits: `853 B`, `43.1 MB`, `12.3 GB`."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """A time that has passed, or that is left: `0.3 s`, `42 s`, `3 min 12 s`, `1 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def latency(seconds: float) -> str:
    """A time that a request took, in three digits: `853 µs`, `1.23 ms`, `12.3 s`."""
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            return f"{digits(seconds * factor)} {unit}"
    return f"{digits(seconds)} s"


def digits(value: float) -> str:
    """A number in three digits, and in all of those before the point: `0`, `0.0123`, `4.5`, `12,346`."""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def short(digest: str) -> str:
    """The twelve digits that people tell digests apart by."""
    return digest.removeprefix("sha256:")[:12]


def count(number: int, noun: str) -> str:
    """`1 layer`, `3 layers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ratio(before: int, after: int) -> str:
    """How much smaller something became."""
    if not before or not after:
        return ""
    share = f"{100 * after / before:.0f} % of the upstream"
    return f"{share}, {before / after:.1f} times smaller" if after < before else share


def masked(text: str) -> str:
    """A text without the login that an address in it may carry."""
    return _LOGIN.sub("//***@", text)


def plain(text: str) -> str:
    """A text without what a terminal, a browser or an XML reader would obey or refuse. Lines stay lines."""
    text = _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    return "".join(_shown(each) for each in text)


def _shown(letter: str) -> str:
    if letter == "\n" or letter.isprintable():
        return letter
    return " " if letter.isspace() else "?"
