"""Which wheels a recipe's requirements come to, for the Python of an image: decided by uv.

Why uv and not pip: pip judges the markers of requirements (`; python_version < "3.11"`, `; platform_machine == ...`)
by the Python that it runs in, whatever `--platform` and `--python-version` say (`InstallRequirement.match_markers`
evaluates them without an environment; so still in pip 26.3), so that for an image with another Python, or on another
architecture, it brings too little or too much without a word. uv judges them for the target, and writes what it
found in the standard form of a lock file (PEP 751), with the digest of every wheel.

What the image has already takes part as an empty wheel of that version, so that it counts whether or not an index
knows it (NVIDIA's and Debian's versions are on none), and as a constraint, so that another version cannot be chosen.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.pylock import PackageArchive, PackageWheel, Pylock, PylockSelectError, PylockValidationError
from packaging.utils import parse_wheel_filename
from packaging.version import InvalidVersion, Version

from composer.disk import room
from composer.errors import Problem, RecipeError
from composer.lockfile import Ledger, WheelPin
from composer.recipe import Recipe
from composer.wheels.asking import Question, Unanswered, ask
from composer.wheels.failing import failure
from composer.wheels.requirements import Requirements
from composer.wheels.sources import without_login
from composer.wheels.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A wheel that was chosen: where it is (a URL, or a path of this machine), and the SHA-256 that it must have."""

    name: str
    version: str
    filename: str
    location: str
    sha256: str


def resolve(recipe: Recipe, question: Question, shelf: Path, ledger: Ledger) -> tuple[Pick, ...]:
    """The wheels to bring, by name; what the image has is not among them. What the ledger knows is not asked again.

    Raises `RecipeError` for what cannot be met, `Unreachable`, `Denied`.
    """
    called = _called(question)
    if (pins := ledger.wheels(called)) is not None:
        return tuple(_from_pin(pin, recipe.base) for pin in pins)
    picks = _resolved(recipe, question, shelf)
    ledger.note_wheels(called, [_pin(pick, recipe.base) for pick in picks])
    return picks


def _called(question: Question) -> str:
    """What a question is called in a lock: for which Python and platform it is, and all else that is asked.

    Where packages come from is no part of it: a lock is used behind other networks.
    """
    return f"{question.target}: sha256:{hashlib.sha256(json.dumps(_asked(question)).encode()).hexdigest()}"


def _pin(pick: Pick, base: Path) -> WheelPin:
    """A wheel of this machine is named from the recipe's folder, if it lies there."""
    location = pick.location
    if "://" not in location and Path(location).is_relative_to(base.absolute()):
        location = str(Path(location).relative_to(base.absolute()))
    return WheelPin(
        name=pick.name,
        version=pick.version,
        filename=pick.filename,
        location=without_login(location),
        sha256=pick.sha256,
    )


def _from_pin(pin: WheelPin, base: Path) -> Pick:
    location = pin.location if "://" in pin.location else str(base.absolute() / pin.location)
    return Pick(name=pin.name, version=pin.version, filename=pin.filename, location=location, sha256=pin.sha256)


def _resolved(recipe: Recipe, question: Question, shelf: Path) -> tuple[Pick, ...]:
    """The wheels, as uv finds them.

    What cannot come out otherwise another time, as every version is pinned, is kept on the shelf, and no index asked.
    Raises `RecipeError` for what cannot be met, `Unreachable`, `Denied`.
    """
    kept = shelf / "resolved" / f"{hashlib.sha256(_written_out(question).encode()).hexdigest()}.toml"
    text = _read(kept)
    if text is None:
        try:
            text = ask(question, shelf)
        except Unanswered as error:
            raise failure(recipe, question, error, partial(ask, folder=shelf)) from error
    picks = _judged(recipe, question.requirements, question.target, text)
    if all(question.requirements.pins(pick.name) for pick in picks) and not kept.exists():
        _keep(kept, text)
    return picks


def _written_out(question: Question) -> str:
    """All that an answer depends on but the state of the indexes. Logins are no part of it."""
    files = [str(one.file) for one in question.requirements.wanted if one.file]
    return json.dumps([*_asked(question), files, question.sources.public, version("uv")])


def _asked(question: Question) -> list[Any]:
    # A wheel of this machine is known by its bytes: the folder that it lies in may be another one elsewhere.
    asked = [(one.name if one.file else one.text, one) for one in question.requirements.wanted]
    wanted = [[text, sorted(one.hashes), _digest(one.file)] for text, one in asked]
    limits = [[one.text, sorted(one.hashes)] for one in question.requirements.constraints]
    installed = sorted(question.target.installed.items())
    return [wanted, limits, str(question.target), installed]


def _digest(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> str | None:
    with suppress(FileNotFoundError, UnicodeDecodeError):
        text = path.read_text()
        with suppress(tomllib.TOMLDecodeError, PylockValidationError):
            Pylock.from_dict(tomllib.loads(text))
            return text
    return None


def _keep(path: Path, text: str) -> None:
    with room(path), tempfile.TemporaryDirectory(dir=path.parent.parent) as scratch:
        path.parent.mkdir(exist_ok=True)
        Path(scratch, "x").write_text(text)
        Path(scratch, "x").replace(path)


# -- judging the answer -------------------------------------------------------------------------------------------


def _judged(recipe: Recipe, requirements: Requirements, target: Target, text: str) -> tuple[Pick, ...]:
    """The best wheel of each package that the image lacks. Raises `RecipeError` with all that may not be brought."""
    picks: list[Pick] = []
    problems: list[Problem] = []
    for pick in _picks(recipe, requirements, target, text):
        present = target.installed.get(pick.name)
        if present is not None and _same(present, pick.version):
            continue
        problems += _faults(recipe, requirements, target, pick, present)
        picks.append(pick)
    if problems:
        raise RecipeError(problems)
    return tuple(sorted(picks, key=lambda pick: pick.name))


def _picks(recipe: Recipe, requirements: Requirements, target: Target, text: str) -> Iterator[Pick]:
    lock = Pylock.from_dict(_allowed(tomllib.loads(text), requirements))
    try:
        for package, found in lock.select(environment=target.environment(), tags=target.tags()):
            if isinstance(found, PackageWheel | PackageArchive):
                yield _pick(package.name, package.version, found)
    except PylockSelectError as error:
        problem = Problem(
            where=recipe.where("packages", "pip", key=True),
            message=f"no wheel fits {target}: {error}",
            hint="ask for another version",
        )
        raise RecipeError([problem]) from error


def _allowed(lock: Mapping[str, Any], requirements: Requirements) -> Mapping[str, Any]:
    """The lock without the wheels that have another digest than was asked for, where others have the right one."""
    packages = []
    for package in lock["packages"]:
        hashes = requirements.hashes(package["name"])
        right = [wheel for wheel in package.get("wheels", ()) if wheel["hashes"].get("sha256") in hashes]
        packages.append({**package, "wheels": right} if right else package)
    return {**lock, "packages": packages}


def _pick(name: str, number: Version | None, found: PackageWheel | PackageArchive) -> Pick:
    location = found.url or found.path or ""
    filename = unquote(urlsplit(location).path if found.url else location).rpartition("/")[2]
    known = number or parse_wheel_filename(filename)[1]
    return Pick(
        name=name, version=str(known), filename=filename, location=location, sha256=found.hashes.get("sha256", "")
    )


def _same(present: str, chosen: str) -> bool:
    with suppress(InvalidVersion):
        return Version(present) == Version(chosen)
    return present == chosen


def _faults(
    recipe: Recipe, requirements: Requirements, target: Target, pick: Pick, present: str | None
) -> Iterator[Problem]:
    """Why a wheel may not be brought."""
    asked = next((one.where for one in requirements.wanted if one.name == pick.name), None)
    where = asked or recipe.where("packages", "pip", key=True)
    if present is not None:
        yield Problem(
            where=where,
            message=f"{pick.name} {pick.version} would hide the image's own {present}, which others there rely on",
            hint=f"pin what needs it so that {pick.name} {present} will do",
        )
    if not set(target.tags()) & parse_wheel_filename(pick.filename)[3]:
        yield Problem(where=where, message=f"{pick.filename} does not fit {target}", hint="take the wheel for that")
    if requirements.hashed and pick.sha256 not in requirements.hashes(pick.name):
        given = "has another digest than the given ones" if requirements.hashes(pick.name) else "has no hash"
        yield Problem(
            where=where,
            message=f"{pick.filename} {given}, and where one package has a hash all must have one",
            hint=f"{pick.name}=={pick.version} --hash=sha256:{pick.sha256}",
        )
