"""The commands that mend things on this machine: remedies.toml, by the family of its distribution."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

OTHER: Final = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """Commands for one family of distributions: `debian`, `fedora`, `suse`, `arch`, `alpine`, or `any` of the rest."""

    family: str

    @classmethod
    def of_this_machine(cls) -> Remedies:
        """Those of the distribution that /etc/os-release names."""
        import distro

        return cls(family=family_of(distro.id(), distro.like()))

    def install(self, package: str) -> str:
        """The command that installs what is called `package` in remedies.toml."""
        return self._of(_facts()["install"]).format(packages=self._of(_facts()["packages"][package]))

    def command(self, name: str, **what: str) -> str:
        """The command of that name, with what it is about filled in."""
        return self._of(_facts()["commands"][name]).format(**what)

    def _of(self, table: Mapping[str, str]) -> str:
        return table.get(self.family) or table[OTHER]


def family_of(name: str, like: str) -> str:
    """The family of a distribution, by `ID` and `ID_LIKE` of its os-release: the first word that is known."""
    known: Mapping[str, str] = _facts()["families"]
    words = (word.partition("-")[0] for word in (name, *like.split()))
    return next((known[word] for word in words if word in known), OTHER)


@cache
def _facts() -> Mapping[str, Any]:
    return tomllib.loads(files("composer.doctor").joinpath("remedies.toml").read_text(encoding="utf-8"))
