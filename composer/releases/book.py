"""Reads releases.toml: each release's changes, folded into what holds for it. What cannot be right is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

OWN: Final = ("triton", "cuda", "cudnn", "tensorrt")
"""Keys whose value holds for one release."""

CARRIED: Final = (
    "ubuntu",
    "python",
    "onnxruntime",
    "openvino",
    "dcgm",
    "dcgm_recommends",
    "dcgm_keyring",
    "dcgm_key",
    "cuda_compat",
    "owner",
    "composed",
)
"""Keys whose value holds until another stands."""

LISTS: Final = (
    "backends",
    "inside",
    "repoagents",
    "caches",
    "variants",
    "dcgm_packages",
    "core",
    "entrypoint",
    "removed_users",
    "labels",
)
"""Keys with a list."""

GROUPED: Final = ("apt", "apt_nvidia", "pip", "env", "linker")
"""Keys with a list for each part of the server, such as `server`, `python`, `pytorch arm64`."""

Scalar = str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What holds for a release. `lists` are by key, or by key and group: `backends`, `apt.python`."""

    values: Mapping[str, Scalar]
    lists: Mapping[str, tuple[str, ...]]

    def text(self, key: str) -> str | None:
        """A value, None where it is not known."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def under(self, key: str) -> Mapping[str, tuple[str, ...]]:
        """The lists of a key by their groups."""
        start = f"{key}."
        return {name.removeprefix(start): found for name, found in self.lists.items() if name.startswith(start)}


@cache
def entries() -> Mapping[str, Entry]:
    """All releases, oldest first. Raises `ValueError` for a file that contradicts itself."""
    return fold(tomllib.loads(read("releases.toml")))


@cache
def needs() -> Mapping[str, Any]:
    """What Dockerfiles need, whatever the release."""
    return tomllib.loads(read("needs.toml"))


def read(name: str) -> str:
    """A file beside this one."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def fold(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """Apply the changes of each release to what held before. Raises `ValueError` where that cannot be done."""
    if list(table) != sorted(table):
        raise ValueError("releases.toml: the releases are not in their order")
    folded: dict[str, Entry] = {}
    last = Entry(values={}, lists={})
    for name, changes in table.items():
        last = _apply(name, last, changes)
        folded[name] = last
    return folded


def _apply(name: str, last: Entry, changes: Mapping[str, Any]) -> Entry:
    values = {key: value for key, value in last.values.items() if key in CARRIED}
    lists = dict(last.lists)
    for key, change in _flat(changes):
        if isinstance(change, list):
            lists[key] = _changed(f"{name}: {key}", lists.get(key, ()), change)
        elif key in OWN or key in CARRIED:
            values[key] = change
        else:
            raise ValueError(f"releases.toml, {name}: there is no key {key}")
    return Entry(values=values, lists=lists)


def _flat(changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The changes, with the groups of a key made part of its name."""
    for key, change in changes.items():
        if isinstance(change, Mapping) and key in GROUPED:
            yield from ((f"{key}.{group}", names) for group, names in change.items())
        elif isinstance(change, list) and key not in LISTS:
            raise ValueError(f"releases.toml: there is no list {key}")
        else:
            yield key, change


def _changed(where: str, held: tuple[str, ...], change: list[str]) -> tuple[str, ...]:
    after = list(held)
    for sign, name in ((one[:1], one[1:]) for one in change):
        if sign == "+" and name not in after:
            after.append(name)
        elif sign == "-" and name in after:
            after.remove(name)
        else:
            raise ValueError(
                f"releases.toml, {where}: {sign}{name} cannot be, with {', '.join(held) or 'nothing'} before"
            )
    return tuple(after)
