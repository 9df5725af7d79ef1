"""tritonserver's command line: how a recipe's `server:` is written with the flags that a release has. Pure.

Which flags there are is in `composer.releases.flags`. Some were renamed: a recipe may use either name, whatever the
release, and the command has the one that the release wants.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from composer.releases.flags import (
    NEWEST,
    OLDEST,
    Flag,
    FlagValue,
    Misfit,
    Scalar,
    flags,
    flags_of,
    is_flag_value,
    misfit,
    nearest_release,
)

__all__ = [
    "FlagFault",
    "FlagNote",
    "FlagValue",
    "Scalar",
    "flag_faults",
    "flag_notes",
    "is_flag_value",
    "nearest_flag",
    "server_command",
    "spelled",
    "values_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagFault:
    """What is wrong with a flag of `server:`: its name, or its value."""

    flag: str
    message: str
    hint: str
    of_name: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagNote:
    """What is worth saying of a flag of `server:` although it will do."""

    flag: str
    message: str
    hint: str


# -- what is wrong --------------------------------------------------------------------------------


def flag_faults(given: Mapping[str, FlagValue], release: str | None) -> Iterator[FlagFault]:
    """What a release's server would not take of these flags, and values that cannot be meant.

    Without a release, what no server takes. Of a release that is newer than what is known, unknown flags are taken.
    """
    for name, value in given.items():
        flag = flags().get(name)
        if flag is None:
            yield from _unknown(name, release)
        elif found := misfit(flag, value, release):
            yield _unfit(name, found)
        elif release:
            yield from _untimely(flag, value, release)
    yield from _twice(given)


def _unknown(name: str, release: str | None) -> Iterator[FlagFault]:
    if release and release > NEWEST:
        return
    meant = nearest_flag(name, release)
    hint = f'did you mean "{meant}"?' if meant else f"docker run --rm {_image(release)} tritonserver --help"
    message = f'tritonserver {release} has no flag "{name}"' if release else f'no tritonserver has a flag "{name}"'
    yield FlagFault(flag=name, message=message, hint=hint, of_name=True)


def _image(release: str | None) -> str:
    return f"nvcr.io/nvidia/tritonserver:{release}-py3" if release else "<upstream image>"


def _unfit(name: str, found: Misfit) -> FlagFault:
    return FlagFault(flag=name, message=f"the flag {name} takes {found.wanted}", hint=f"{name}: {found.example}")


def _untimely(flag: Flag, value: FlagValue, release: str) -> Iterator[FlagFault]:
    """The flag is another release's, and has no other name in this one."""
    known = nearest_release(release)
    if flag.known_in(known) or _renamed(flag, value, known) is not None:
        return
    message = f'tritonserver {release} has no flag "{flag.name}"'
    yield FlagFault(flag=flag.name, message=message, hint=_time(flag, known), of_name=True)


def _time(flag: Flag, release: str) -> str:
    """When there was the flag, and what to write in its place."""
    gone, comes = flag.last_before(release), flag.came_after(release)
    said = " and ".join(
        [f"until {gone}"] * bool(gone) + [f"since {comes}"] * bool(comes),
    )
    return f"it is there {said}" + (f"; now it is {flag.instead}" if flag.instead and not comes else "")


def _twice(given: Mapping[str, FlagValue]) -> Iterator[FlagFault]:
    """One setting under two names: what the server would make of it is not what either says."""
    for one, other in _ONE_SETTING:
        if one in given and other in given:
            message = f"{one} and {other} are one setting"
            yield FlagFault(flag=one, message=message, hint=f"remove {one}", of_name=True)


def nearest_flag(name: str, release: str | None = None) -> str | None:
    """The flag, of this release if one is given, that an unknown one was probably meant to be."""
    plain = name.lower().strip("-").replace("_", "-")
    known = [flag.name for flag in (flags_of(release) if release else flags().values())]
    return plain if plain in known else next(iter(difflib.get_close_matches(plain, known, 1)), None)


# -- what is worth saying -------------------------------------------------------------------------


def flag_notes(given: Mapping[str, FlagValue], release: str | None) -> Iterator[FlagNote]:
    """Which flags are written otherwise than the recipe has them, and what is not known of them."""
    if release is None:
        return
    for name, value in given.items():
        flag = flags().get(name)
        if flag is None:
            message = f'whether tritonserver {release} has a flag "{name}" is not known: {NEWEST} has none'
            yield FlagNote(flag=name, message=message, hint=_perhaps(name))
        elif (twin := _renamed(flag, value, nearest_release(release))) is not None:
            yield _rewritten(flag, twin, release)
    if given and release < OLDEST:
        message = f"the flags of {release} are not known: those of {OLDEST} are taken"
        yield FlagNote(flag=next(iter(given)), message=message, hint=f'triton: "{OLDEST}"')


def _perhaps(name: str) -> str:
    meant = nearest_flag(name)
    return f'did you mean "{meant}"?' if meant else "it is passed on as it is"


def _rewritten(flag: Flag, twin: Mapping[str, FlagValue], release: str) -> FlagNote:
    why = f"deprecated since {flag.deprecated}" if flag.deprecated_in(release) else "another name"
    command = " ".join(text for name, value in twin.items() for text in _arguments(name, value))
    said = f"is written {command}" if command else "is what holds anyway"
    return FlagNote(flag=flag.name, message=f"{flag.name} ({why} in {release}) {said}", hint=_as_yaml(twin))


def _as_yaml(twin: Mapping[str, FlagValue]) -> str:
    """Flags as a recipe has them."""
    return ", ".join(f"{name}: {_value_as_yaml(value)}" for name, value in twin.items())


def _value_as_yaml(value: FlagValue) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_quoted, value))}]"
    return str(dict(value)) if isinstance(value, Mapping) else _quoted(value)


def _quoted(value: Scalar) -> str:
    return f'"{value}"' if isinstance(value, str) and not value.isalnum() else _text(value)


# -- names by release -----------------------------------------------------------------------------

_Twin = Callable[[FlagValue], Mapping[str, FlagValue] | None]
"""One flag with its value as another; None for a value that the other cannot have."""


def spelled(given: Mapping[str, FlagValue], release: str | None) -> Mapping[str, FlagValue]:
    """These flags by the names that a release wants; as they are where it is None or wants them so."""
    if release is None:
        return given
    known = nearest_release(release)
    written: dict[str, FlagValue] = {}
    for name, value in given.items():
        flag = flags().get(name)
        twin = _renamed(flag, value, known) if flag else None
        for other, held in (twin or {name: value}).items():
            # What the recipe says by the newer name comes last, and counts, as it does for the server.
            both = (held, written.get(other)) if twin else (written.get(other), held)
            written[other] = _joined(other, both)
    return written


def _joined(name: str, parts: Iterable[FlagValue | None]) -> FlagValue:
    """Settings from two flags that became one."""
    there = [part for part in parts if part is not None]
    return there[0] if len(there) == 1 else tuple(item for part in there for item in values_of(name, part))


def _renamed(flag: Flag, value: FlagValue, release: str) -> Mapping[str, FlagValue] | None:
    """The flag by another name, if the release lacks this one, or its server says to use the other."""
    if flag.known_in(release) and not flag.deprecated_in(release):
        return None
    twin = _TWINS[flag.name](value) if flag.name in _TWINS else None
    fits = twin and all(
        flags()[name].known_in(release) and not misfit(flags()[name], held, release) for name, held in twin.items()
    )
    return twin if fits else None


def _same(name: str) -> _Twin:
    return lambda value: {name: value}


def _mode(mode: str) -> _Twin:
    return lambda value: {"model-control-mode": mode if value is True else "none"}


def _traced(setting: str) -> _Twin:
    """An old flag of tracing as settings of trace-config."""
    return lambda value: {"trace-config": tuple(f"{setting}={_text(item)}" for item in _items(value))}


def _items(value: FlagValue) -> tuple[Scalar, ...]:
    if isinstance(value, Mapping):
        return ()
    return value if isinstance(value, tuple) else (value,)


def _untraced(value: FlagValue) -> Mapping[str, FlagValue] | None:
    """trace-config as the flags that it came to replace; None where it says more than they can."""
    found: dict[str, FlagValue] = {}
    for text in values_of("trace-config", value):
        setting, _, said = str(text).partition("=")
        name = _OLD_TRACING.get(setting)
        if name is None and text != "mode=triton":
            return None
        if name:
            held: Scalar = int(said) if said.lstrip("-").isdecimal() and name != "trace-file" else said
            found[name] = (*_items(found[name]), held) if name in found else held
    return found or None


_OLD_TRACING: Final = {
    "level": "trace-level",
    "rate": "trace-rate",
    "count": "trace-count",
    "triton,file": "trace-file",
    "triton,log-frequency": "trace-log-frequency",
}


def _cached(value: FlagValue) -> Mapping[str, FlagValue] | None:
    return {"cache-config": (f"local,size={value}",)} if isinstance(value, int) else None


def _uncached(value: FlagValue) -> Mapping[str, FlagValue] | None:
    """cache-config as the size of the one cache that there was before it."""
    texts = [str(text) for text in values_of("cache-config", value)]
    size = texts[0].removeprefix("local,size=") if len(texts) == 1 else ""
    return {"response-cache-byte-size": int(size)} if size.isdecimal() else None


_TWINS: Final[Mapping[str, _Twin]] = {
    "strict-model-config": _same("disable-auto-complete-config"),
    "disable-auto-complete-config": _same("strict-model-config"),
    "allow-poll-model-repository": _mode("poll"),
    "allow-model-control": _mode("explicit"),
    "response-cache-byte-size": _cached,
    "cache-config": _uncached,
    **{old: _traced(setting) for setting, old in _OLD_TRACING.items()},
    "trace-config": _untraced,
}

_ONE_SETTING: Final = (
    ("strict-model-config", "disable-auto-complete-config"),
    ("response-cache-byte-size", "cache-config"),
    ("allow-poll-model-repository", "model-control-mode"),
    ("allow-model-control", "model-control-mode"),
    ("allow-model-control", "allow-poll-model-repository"),
)


# -- the command ----------------------------------------------------------------------------------


def server_command(
    given: Mapping[str, FlagValue], *, repository: str = "/models", release: str | None = None
) -> tuple[str, ...]:
    """The command that starts the server: `repository` unless the flags name one, then the flags in their order.

    Lists and mappings repeat their flag; a flag without argument is left out when it is false. With a `release`, the
    flags have the names that it wants.
    """
    named = "model-repository" in given or "model-store" in given
    first = () if named else (f"--model-repository={repository}",)
    rest = (text for name, value in spelled(given, release).items() for text in _arguments(name, value))
    return ("tritonserver", *first, *rest)


def _arguments(name: str, value: FlagValue) -> Iterator[str]:
    if _kind(name) == "switch":
        yield from (f"--{name}",) if value is True else ()
    else:
        yield from (f"--{name}={_text(item)}" for item in values_of(name, value))


def values_of(name: str, value: FlagValue) -> tuple[Scalar, ...]:
    """What stands behind the equals signs of a flag, once for each time that it is given."""
    if isinstance(value, Mapping):
        return tuple(_pairs(name, value))
    return value if isinstance(value, tuple) else (value,)


def _pairs(name: str, value: Mapping[str, Scalar | Mapping[str, Scalar]]) -> Iterable[str]:
    equals = ":" if _kind(name) == "devices" else "="
    for key, held in value.items():
        if isinstance(held, Mapping):
            yield from (f"{key},{setting}={_text(item)}" for setting, item in held.items())
        else:
            yield f"{key}{equals}{_text(held)}"


def _kind(name: str) -> str | None:
    flag = flags().get(name)
    return flag.kind if flag else None


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
