"""tritonserver's flags: in which releases each is, and what its value may be. Facts, read from flags.toml.

Values are judged here one by one; what makes no sense together is for lint, and how a command is spelled for
`composer.server`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from composer.releases.book import read

Scalar = bool | int | float | str
FlagValue = Scalar | tuple[Scalar, ...] | Mapping[str, Scalar | Mapping[str, Scalar]]

OLDEST: Final = "20.05"
"""The first release with a `tritonserver`; servers before it were called otherwise, and their flags are not known."""

NEWEST: Final = "26.08"
"""The newest release whose flags were looked at."""

_INT: Final = 2**31 - 1
_LONG: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag without its dashes. flags.toml says what each field means; `spans` are first and last releases.

    The last one of a span is "" where the newest release that is known has the flag too.
    """

    name: str
    group: str
    kind: str
    spans: tuple[tuple[str, str], ...]
    about: str
    default: Scalar | None = None
    choices: tuple[str, ...] = ()
    exact: bool = False
    of: str = ""
    form: str = ""
    settings: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    many: bool = False
    newer: Mapping[str, str] = field(default_factory=dict)
    deprecated: str = ""
    instead: str = ""

    def known_in(self, release: str) -> bool:
        """Whether a release has the flag."""
        return any(first <= release <= (last or release) for first, last in self.spans)

    def deprecated_in(self, release: str) -> bool:
        """Whether a release has the flag, and its help says to use another."""
        return bool(self.deprecated) and self.known_in(release) and release >= self.deprecated

    def came_after(self, release: str) -> str | None:
        """The first later release that has the flag; None where no later one has it."""
        return next((first for first, _ in self.spans if first > release), None)

    def last_before(self, release: str) -> str | None:
        """The last earlier release that had the flag; None where no earlier one had it."""
        return next((last for _, last in reversed(self.spans) if last and last < release), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a value does not fit a flag: what the flag takes, in words, and how that is written."""

    wanted: str
    example: str


@cache
def flags() -> Mapping[str, Flag]:
    """All flags by their names, in the order of flags.toml. Raises `TypeError` for a key that no flag has."""
    table: dict[str, dict[str, Any]] = tomllib.loads(read("flags.toml"))
    return MappingProxyType({name: _flag(name, entry) for name, entry in table.items()})


def _flag(name: str, entry: Mapping[str, Any]) -> Flag:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    spans = tuple((first, last) for first, _, last in (span.partition("-") for span in values.pop("releases")))
    return Flag(name=name, spans=spans, **values)


def flags_of(release: str) -> tuple[Flag, ...]:
    """The flags that a release has; those of the nearest release that is known where it is older or newer."""
    return tuple(flag for flag in flags().values() if flag.known_in(nearest_release(release)))


def nearest_release(release: str) -> str:
    """The release itself, or the oldest or newest of which the flags are known."""
    return min(max(release, OLDEST), NEWEST)


# -- values ---------------------------------------------------------------------------------------


def is_flag_value(value: object) -> bool:
    """Whether any flag is written so: a scalar, a list of them, or a mapping of scalars or of one more mapping."""
    if isinstance(value, tuple):
        return all(isinstance(item, Scalar) for item in value)
    if isinstance(value, Mapping):
        inner = (each for held in value.values() for each in (held.values() if isinstance(held, Mapping) else (held,)))
        return all(isinstance(item, Scalar) for item in inner)
    return isinstance(value, Scalar)


def misfit(flag: Flag, value: FlagValue, release: str | None = None) -> Misfit | None:
    """What the flag wants, if `value` is something else, or is not known yet in `release`."""
    if isinstance(value, tuple):
        if not flag.many:
            return Misfit(wanted=f"one value, not {len(value)}", example=_example(flag))
        return next((found for item in value if (found := misfit(flag, item, release))), None)
    if not _fits(flag, value):
        return Misfit(wanted=_wanted(flag), example=_meant(flag, value))
    since = flag.newer.get(str(value).upper() if flag.kind == "choice" else str(value))
    if since and release and release < since:
        return Misfit(wanted=f"{value!r} since {since} only", example=_example(flag))
    return None


def _fits(flag: Flag, value: Scalar | Mapping[str, Scalar | Mapping[str, Scalar]]) -> bool:
    if isinstance(value, Mapping):
        return _mapping_fits(flag, value)
    if isinstance(value, bool):
        return flag.kind in ("boolean", "switch")
    if isinstance(value, int | float):
        return _number_fits(flag, value)
    return _text_fits(flag, value)


def _number_fits(flag: Flag, value: float) -> bool:
    if flag.kind not in _LIMITS or (isinstance(value, float) and flag.kind != "number"):
        return False
    least, most = _limits(flag)
    return least <= value <= most


_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "integer": (-_INT, _INT),
    "port": (1, 65535),
    "bytes": (0, _LONG),
    "seconds": (0, _INT),
    "milliseconds": (0, _INT),
    "number": (-_INT, _INT),
}
"""What the server's own numbers hold; ports that a client can reach."""


def _limits(flag: Flag) -> tuple[float, float]:
    least, most = _LIMITS[flag.kind]
    return flag.least if flag.least is not None else least, flag.most if flag.most is not None else most


_TEXTS: Final[Mapping[str, str]] = {
    "text": r".+",
    "path": r"[^\0]+",
    "address": r"[^\s/]+",
    "range": r"[0-9]+-[0-9]+",
    "resource": r"[^:]+:[0-9]+(?::[0-9]+)?",
}


def _text_fits(flag: Flag, value: str) -> bool:
    match flag.kind:
        case "choice":
            return value in flag.choices if flag.exact else value.lower() in map(str.lower, flag.choices)
        case "pattern":
            return _compiles(value)
        case "restricted":
            return _restricted_fits(flag, value)
        case "devices":
            device, _, amount = value.partition(":")
            return device.isdecimal() and _amount_fits(flag, amount)
        case "settings":
            before, equals, after = value.partition("=")
            name, comma, setting = before.rpartition(",")
            fits = _name_fits(flag, name) if comma else flag.form != "named"
            return fits and bool(equals and after) and _setting_fits(flag, setting)
    pattern = _TEXTS.get(flag.kind)
    return pattern is not None and re.fullmatch(pattern, value, re.DOTALL) is not None


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return bool(pattern)


def _restricted_fits(flag: Flag, value: str) -> bool:
    apis, colon, header = value.partition(":")
    name, equals, wanted = header.partition("=")
    return bool(colon and name and equals and wanted) and all(api in flag.choices for api in apis.split(","))


def _mapping_fits(flag: Flag, value: Mapping[str, Scalar | Mapping[str, Scalar]]) -> bool:
    if flag.kind == "devices":
        return all(str(device).isdecimal() and _amount_fits(flag, amount) for device, amount in value.items())
    if flag.kind != "settings" or not value:
        return False
    under = [name for name, held in value.items() if isinstance(held, Mapping)]
    loose = [name for name in value if name not in under]
    settings = [*loose, *(setting for held in value.values() if isinstance(held, Mapping) for setting in held)]
    named = all(value[name] and _name_fits(flag, name) for name in under) and not (loose and flag.form == "named")
    return named and all(_setting_fits(flag, setting) for setting in settings)


def _amount_fits(flag: Flag, amount: object) -> bool:
    """Whether this much of a GPU's memory can be meant: bytes, or a fraction of it."""
    if isinstance(amount, bool):
        return False
    if flag.of == "fraction":
        return re.fullmatch(r"[01]|[01]?\.[0-9]+", str(amount)) is not None and 0 <= float(str(amount)) <= 1
    return re.fullmatch(r"[0-9]{1,19}", str(amount)) is not None


def _name_fits(flag: Flag, name: str) -> bool:
    """Whether settings may stand under this name, such as a backend's."""
    return flag.form != "plain" and bool(name) and (not flag.choices or str(name).lower() in flag.choices)


def _setting_fits(flag: Flag, setting: str) -> bool:
    return bool(setting) and (not flag.settings or setting in flag.settings)


# -- in words -------------------------------------------------------------------------------------

_WANTED: Final[Mapping[str, str]] = {
    "boolean": "true or false",
    "switch": "true or false",
    "integer": "a whole number",
    "port": "a port",
    "bytes": "a number of bytes",
    "seconds": "whole seconds",
    "milliseconds": "whole milliseconds",
    "number": "a number",
    "text": "a text",
    "path": "a path",
    "address": "an address",
    "pattern": "a regular expression",
    "range": "a range of ports",
    "resource": "a resource, how much there is of it, and on which device",
}

_EXAMPLES: Final[Mapping[str, str]] = {
    "boolean": "true",
    "switch": "true",
    "number": "0.5",
    "text": '"..."',
    "path": "/path",
    "address": "127.0.0.1",
    "pattern": '"x-.*"',
    "range": '"8000-8010"',
    "resource": '"memory:4"',
    "restricted": '"inference,health:x-key=secret"',
}

_FORMS: Final[Mapping[str, tuple[str, str]]] = {
    "named": ("a mapping of settings under a name", "{name: {setting: value}}"),
    "plain": ("a mapping of settings", "{setting: value}"),
    "": ("a mapping of settings, of all or under a name", "{name: {setting: value}}"),
}


def _wanted(flag: Flag) -> str:
    if flag.kind == "choice":
        return " or ".join([", ".join(flag.choices[:-1]), flag.choices[-1]])
    if flag.kind == "devices":
        return f"a mapping from device to {'a fraction' if flag.of == 'fraction' else 'bytes'}"
    if flag.kind == "settings":
        return _FORMS[flag.form][0] + (f": {' or '.join(known)}" if (known := flag.choices or flag.settings) else "")
    if flag.kind == "restricted":
        return f"APIs and a header, of the APIs {', '.join(flag.choices)}"
    return _WANTED[flag.kind] + _between(flag)


def _between(flag: Flag) -> str:
    """The limits in words, where they are narrower than what any number may be."""
    least, most = _limits(flag) if flag.kind in _LIMITS else (0, 0)
    if flag.kind == "port" or flag.most is not None:
        return f" from {least:g} to {most:g}"
    return f" of {least:g} or more" if flag.least is not None else ""


def _example(flag: Flag) -> str:
    match flag.kind:
        case "choice":
            return flag.choices[0]
        case "devices":
            return "{0: 0.9}" if flag.of == "fraction" else "{0: 67108864}"
        case "settings":
            name, setting = (flag.choices or ("name",))[0], (flag.settings or ("setting",))[0]
            return _FORMS[flag.form][1].replace("name", name).replace("setting", setting)
        case kind if kind in _EXAMPLES:
            return _EXAMPLES[kind]
    if isinstance(flag.default, int | float) and flag.default >= _limits(flag)[0]:
        return str(flag.default)
    return str(int(max(1, _limits(flag)[0])))


_UNITS: Final[Mapping[str, int]] = {
    unit: factor
    for power, letter in enumerate("kmgt", 1)
    for unit, factor in ((letter, 1024**power), (f"{letter}ib", 1024**power), (f"{letter}b", 1000**power))
}


def _meant(flag: Flag, value: FlagValue) -> str:
    """How the value is written that was probably meant: `"8000"` as 8000, `256MiB` as bytes, `yes` as true."""
    if not isinstance(value, str):
        return _example(flag)
    if flag.kind == "bytes" and (found := re.fullmatch(r"([0-9]+) ?([a-z]+)", value.lower())) and found[2] in _UNITS:
        return str(int(found[1]) * _UNITS[found[2]])
    if flag.kind in ("boolean", "switch") and value.lower() in ("true", "on", "1", "yes", "false", "off", "0", "no"):
        return str(value.lower() in ("true", "on", "1", "yes")).lower()
    if value.isdecimal() and _number_fits(flag, int(value)):
        return value
    return _example(flag)


# -- what changed ---------------------------------------------------------------------------------


def changed_flags(older: str, newer: str) -> tuple[tuple[str, str], ...]:
    """Flags that went and came between two releases, as pairs: (name, "") and ("", name).

    None between releases of which the flags are not known.
    """
    if older < OLDEST or newer > NEWEST:
        return ()
    before, after = ([flag.name for flag in flags_of(release)] for release in (older, newer))
    gone, came = (
        [(name, "") for name in before if name not in after],
        [("", name) for name in after if name not in before],
    )
    return (*gone, *came)
