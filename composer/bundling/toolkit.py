"""tricompose itself as wheels, with all that it needs, so that the far side can install it before anything else."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from composer.bundle.draft import Loose
from composer.bundle.writing import digest_of
from composer.errors import NotFound, Unplannable
from composer.events import StageFinished, StageStarted
from composer.oci.image import Platform, sha256
from composer.oci.layout import LayoutStore
from composer.recipe import parse_recipe
from composer.rendering import template_text
from composer.wheels import Shelf, fetch_wheels
from composer.wheels.target import MACHINES, Target
from composer.words import count
from composer.workplace import Workplace

TOOL: Final = "tricompose"
FOLDER: Final = "tool"
"""The folder of the tar that it lies in."""

_KEPT: Final = (".py", ".typed", ".toml", ".json", ".j2", ".sh", ".yaml")
_EXAMPLES: Final = "recipes"
_BESIDE: Final = ("templates", _EXAMPLES)
"""Folders that lie in the package where it is installed, and beside it in a checkout."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The time of all files in a wheel: the first that a zip can tell."""


def tool_files(place: Workplace) -> tuple[Loose, ...]:
    """The wheels, for a Python and a machine like this one, and a script that installs them without a network.

    Raises `NotFound`, `Unreachable` and the like where an index does not have what is installed here.
    """
    place.emit(StageStarted(stage="tool", detail=f"wheels for Python {_python()} on {platform.machine()}"))
    name, wheel = own_wheel()
    needed = tuple(_needed(place))
    place.emit(StageFinished(stage="tool", detail=count(len(needed) + 1, "wheel")))
    wheels = [_small(name, wheel), *needed]
    sums = "".join(f"{one.digest.removeprefix('sha256:')}  {Path(one.path).name}\n" for one in wheels)
    script = template_text("bundle/install.sh").encode()
    return (_small("install.sh", script, 0o755), _small("SHA256SUMS", sums.encode()), *wheels)


def _small(name: str, data: bytes, mode: int = 0o644) -> Loose:
    return Loose(path=f"{FOLDER}/{name}", source=data, size=len(data), digest=sha256(data), mode=mode)


def _needed(place: Workplace) -> Iterator[Loose]:
    pins = sorted(f"{one.name}=={one.version}" for one in _closure())
    text = f'triton: "24.10"\nbackends: [python]\npackages: {{pip: {json.dumps(pins)}}}\n'
    asked = parse_recipe(text, path=Path(f"{TOOL}.yaml"), environ={})
    cache = LayoutStore.ensure(place.cache)
    shelf = Shelf(cache=cache, environ=place.environ, routes=place.routes, emit=place.emit)
    for file in fetch_wheels(asked, _target(), shelf):
        yield Loose(path=f"{FOLDER}/{file.name}", source=file, size=file.stat().st_size, digest=digest_of(file))


def _target() -> Target:
    """This machine and its Python."""
    libc, found = platform.libc_ver()
    architectures = {machine: name for name, machine in MACHINES.items()}
    if libc != "glibc" or platform.machine() not in architectures:
        raise Unplannable(f"there are no wheels for {platform.machine()} with {libc or 'another C library'}")
    here = Platform(os="linux", architecture=architectures[platform.machine()])
    return Target(python=_python(), platform=here, glibc=int(found.split(".")[1]))


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _closure() -> list[Distribution]:
    """All that is installed here because tricompose needs it, by name. What is needed only elsewhere is left out."""
    found: dict[str, Distribution] = {}
    pending = list(_requirements(_distribution(TOOL), ""))
    while pending:
        name, extras = pending.pop()
        if name not in found:
            found[name] = _distribution(name)
            pending += [one for extra in ("", *extras) for one in _requirements(found[name], extra)]
    return [found[name] for name in sorted(found)]


def _requirements(one: Distribution, extra: str) -> Iterator[tuple[str, frozenset[str]]]:
    for text in one.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def _distribution(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        hint = f"{sys.executable} -m pip install {name}"
        raise NotFound(f"{name} is not installed as a package", hint=hint) from error


# -- our own ------------------------------------------------------------------------------------------------------


def own_wheel() -> tuple[str, bytes]:
    """The name and the bytes of a wheel of the tricompose that runs: the same files always give the same bytes."""
    one = _distribution(TOOL)
    info = f"{TOOL}-{one.version}.dist-info"
    files = {path: file.read_bytes() for path, file in sorted(_package())}
    files[f"{info}/METADATA"] = (one.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tricompose\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = (one.read_text("entry_points.txt") or "").encode()
    rows = [f"{path},sha256={_record(data)},{len(data)}\n" for path, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    return f"{TOOL}-{one.version}-py3-none-any.whl", _zipped(files)


def _package() -> Iterator[tuple[str, Path]]:
    """The files of the package, by their paths in a wheel."""
    package = Path(__file__).parents[1]
    folders = {package.name: package}
    folders |= {f"{package.name}/{name}": package.parent / name for name in _BESIDE if not (package / name).is_dir()}
    for target, folder in folders.items():
        for file in folder.rglob("*") if folder.name != _EXAMPLES else folder.glob("*.yaml"):
            if file.suffix in _KEPT and file.is_file():
                yield f"{target}/{file.relative_to(folder).as_posix()}", file


def _record(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            item = zipfile.ZipInfo(path, _EPOCH)
            item.external_attr = 0o100644 << 16
            item.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(item, data)
    return made.getvalue()
