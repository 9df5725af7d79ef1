"""What wheels have to fit: the Python of an image, its platform and C library, and the packages that it has already."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from packaging.markers import Environment
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name

from composer.errors import Unplannable
from composer.inventory import Inventory
from composer.oci.image import Platform
from composer.oci.tar import SYMLINK
from composer.oci.tree import NeedsLower, Tree, join

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""What Python calls the architectures of images."""

GLIBC: Final = {"18.04": 27, "20.04": 31, "22.04": 35, "24.04": 39}
"""The minor version of glibc 2 in each Ubuntu. Source: Ubuntu's archive, libc6."""

_OLDEST_GLIBC: Final = 28
"""Taken where nothing is known: no Triton image with a Python that is still resolved for has an older one."""

_MICRO: Final = {"3.8": 2, "3.10": 4, "3.11": 2, "3.12": 3}
"""The first micro version of each Python in the Ubuntu or Debian that brought it: the image has this one or a later."""

_OLDEST_PYTHON: Final = (3, 8)
_MAX_HOPS: Final = 8
_SYSTEM: Final = "usr/lib/python3/dist-packages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What wheels are chosen for. `python` is "3.10", `glibc` the minor version of glibc 2.

    `installed` are the packages of the image, canonical name to version as it is written there.
    """

    python: str
    platform: Platform
    glibc: int
    installed: Mapping[str, str] = field(default_factory=dict)

    @property
    def machine(self) -> str:
        """The architecture as Python calls it."""
        return MACHINES[self.platform.architecture]

    @property
    def full_python(self) -> str:
        """The Python with a micro version, the lowest that the image can have."""
        return f"{self.python}.{_MICRO.get(self.python, 0)}"

    @property
    def packages(self) -> str:
        """The folder that packages go into, without leading slash: Debian's, which its Python finds before its own."""
        return f"usr/local/lib/python{self.python}/dist-packages"

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform} with glibc 2.{self.glibc}"

    def tags(self) -> tuple[Tag, ...]:
        """The wheel tags that fit, best first."""
        major, minor = map(int, self.python.split("."))
        platforms = list(self._platforms())
        abi = f"cp{major}{minor}"
        return (
            *cpython_tags((major, minor), [abi], platforms),
            *compatible_tags((major, minor), abi, platforms),
        )

    def environment(self) -> Environment:
        """What markers of requirements are judged by."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.full_python,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.full_python,
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def _platforms(self) -> Iterator[str]:
        """Platform tags, best first. Source: PEP 600 and the names of before, PEP 513, 571 and 599."""
        before = {17: "manylinux2014"} | ({12: "manylinux2010", 5: "manylinux1"} if self.machine == "x86_64" else {})
        for minor in range(self.glibc, min(before) - 1, -1):
            yield f"manylinux_2_{minor}_{self.machine}"
            if minor in before:
                yield f"{before[minor]}_{self.machine}"
        yield f"linux_{self.machine}"


def find_target(
    platform: Platform, inventory: Inventory | None, *, python: str | None, ubuntu: str | None, where: str
) -> Target:
    """What the wheels of an image have to fit: as its tree says, else as is known of its release.

    `python` ("3.10") and `ubuntu` ("22.04") are what is known of the release; `where` is the place in the recipe that
    asks. Without an inventory nothing is known of the packages that the image has. Raises `NeedsLower` where a layer
    was not read, `Unplannable` where it is not known which Python there is.
    """
    if platform.architecture not in MACHINES:
        raise Unplannable(f"{where}: there are no wheels for {platform}", hint="packages: {apt: [...]}")
    tree = _whole(inventory) if inventory else Tree()
    found = _python(tree) or python
    if found is None:
        raise Unplannable(
            f"{where}: the image has no Python that packages could be for",
            hint="keep the python backend's image as the upstream, or remove packages.pip",
        )
    if tuple(map(int, found.split("."))) < _OLDEST_PYTHON:
        raise Unplannable(
            f"{where}: the image's Python is {found}, and wheels are found for 3.8 and later only",
            hint="a later release has a later Python: tricompose releases",
        )
    glibc = _glibc(tree) or GLIBC.get(ubuntu or "", _OLDEST_GLIBC)
    return Target(python=found, platform=platform, glibc=glibc, installed=_installed(tree, found))


def _whole(inventory: Inventory) -> Tree:
    """The image's tree. What packages it has can only be told from all its layers."""
    if inventory.unread():
        raise NeedsLower(_SYSTEM)
    return inventory.tree()


def _python(tree: Tree) -> str | None:
    """The version that `python3` means: it is a link, maybe by way of /etc/alternatives."""
    path = tree.resolve("usr/bin/python3")
    for _ in range(_MAX_HOPS):
        entry = tree.get(path)
        if entry is None or entry.kind != SYMLINK:
            break
        path = tree.resolve(entry.link.lstrip("/") if entry.link.startswith("/") else join(entry.parent, entry.link))
    named = re.fullmatch(r"python(3\.[0-9]+)", path.rpartition("/")[2])
    return named[1] if named and path in tree else None


def _glibc(tree: Tree) -> int | None:
    """The minor version in the name of the library's file, which it carried until 2.33."""
    for multiarch in (f"{machine}-linux-gnu" for machine in MACHINES.values()):
        for folder in (f"lib/{multiarch}", f"usr/lib/{multiarch}"):
            names = tree.children(_folder(tree, folder))
            for found in (re.fullmatch(r"libc-2\.([0-9]+)\.so", name) for name in names):
                if found:
                    return int(found[1])
    return None


def _installed(tree: Tree, python: str) -> dict[str, str]:
    """The packages of the image by canonical name. Debian's own come first, as /usr/local hides them."""
    folders = (_SYSTEM, f"usr/lib/python{python}/dist-packages", f"usr/local/lib/python{python}/dist-packages")
    pairs = (_named(name) for folder in folders for name in tree.children(_folder(tree, folder)))
    return {canonicalize_name(pair[0]): pair[1] for pair in pairs if pair}


def _named(name: str) -> tuple[str, str] | None:
    """Name and version from `numpy-1.26.4.dist-info`, or `six-1.16.0.egg-info`, as Debian's packages have it."""
    found = re.fullmatch(r"(.+?)-([^-]+)(?:-py3(?:\.[0-9]+)?)?\.(?:dist|egg)-info", name)
    return (found[1], found[2]) if found else None


def _folder(tree: Tree, path: str) -> str:
    """The canonical path of a folder, itself a link or not."""
    return tree.resolve(f"{path}/x").rpartition("/")[0]
