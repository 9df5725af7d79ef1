"""The mirrors that other programs of this machine go by: Podman's and skopeo's, containerd's, Docker's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from composer.errors import TricomposeError
from composer.network.routes import Routes
from composer.network.rules import read

_PLACES: Final = (
    *("/etc/containers/registries.conf", "/etc/containers/registries.conf.d", "/etc/containerd/certs.d"),
    "/etc/docker/daemon.json",
)
_OWN: Final = ".config/containers/registries.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What files say, by their paths; and what is wrong with those that cannot be read."""

    files: Mapping[Path, Routes] = field(default_factory=dict)
    broken: Mapping[Path, str] = field(default_factory=dict)

    @property
    def mirrors(self) -> Mapping[str, tuple[str, ...]]:
        """All mirrors of all of them. The first file that says something of a registry holds."""
        return {key: places for found in reversed([*self.files.values()]) for key, places in found.mirrors.items()}


def rules_of_this_machine(home: Path) -> Rules:
    """What can be found in the usual places. Files that are not there, or say nothing, are no news."""
    files: dict[Path, Routes] = {}
    broken: dict[Path, str] = {}
    for path in _found(home):
        try:
            files[path] = read(path).routes
        except TricomposeError as error:
            broken[path] = error.message
    return Rules(files=files, broken=broken)


def _found(home: Path) -> Iterator[Path]:
    for path in (home / _OWN, *map(Path, _PLACES)):
        if path.name.endswith(".d") and path.name != "certs.d":
            yield from sorted(path.glob("*.conf"))
        elif path.is_file() or (path.is_dir() and any(path.glob("*/hosts.toml"))):
            yield path
