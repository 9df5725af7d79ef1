"""Numbers in words. Sizes are decimal (1 MB = 1,000,000 bytes), as Docker and registries show them."""

from __future__ import annotations

import re
from typing import Final

_LOGIN: Final = re.compile(r"//[^/\s:@]*:[^/\s@]+@")
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


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
