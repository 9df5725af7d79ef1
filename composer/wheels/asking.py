"""Asking uv which packages go together: everything is written into a folder, and uv runs on that alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from composer.disk import room
from composer.errors import NotFound, Unreachable
from composer.network.door import Door, needed
from composer.wheels.requirements import Requirements
from composer.wheels.sources import PYPI, Sources
from composer.wheels.target import Target

_PLATFORMS: Final = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
"""The minor versions of glibc 2 that uv knows platforms for."""

_GLANCE: Final = 0.2
"""Seconds between two looks at whether there is still hope."""

EMPTY: Final[Mapping[str, Unreachable]] = MappingProxyType({})

_UNKNOWN_EXTRA: Final = re.compile(r"The package `([^`=]+)[^`]*` does not have an extra named")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: requirements for a target, to be met from some sources."""

    requirements: Requirements
    target: Target
    sources: Sources


class Unanswered(Exception):
    """There is no answer. `told` are uv's own words; `unreached` are the hosts that it was not let to, and why."""

    def __init__(self, told: str, unreached: Mapping[str, Unreachable] = EMPTY) -> None:
        super().__init__(told)
        self.told = told
        self.unreached = unreached


def ask(question: Question, folder: Path) -> str:
    """The lock file (PEP 751) that uv makes. `folder` is a place to write to. Raises `Unanswered`."""
    present = _versions(question.target)
    # A package of the image whose extras are asked for is looked up after all: only its metadata knows what they are.
    looked_up = {one.name for one in question.requirements.wanted if re.match(r"[^@;]*\[", one.text)}
    while True:
        done, unreached = _run(question, folder, {name: present[name] for name in present if name not in looked_up})
        more = {canonicalize_name(name) for name in _UNKNOWN_EXTRA.findall(done.stderr)} & set(present) - looked_up
        if not more:
            break
        looked_up |= more
    if done.returncode:
        raise Unanswered(done.stderr, unreached)
    return done.stdout


def _versions(target: Target) -> Mapping[str, Version]:
    """What the image has, but for versions that Python's packages cannot have: Debian's own are at times such."""
    found = {}
    for name, text in target.installed.items():
        with suppress(InvalidVersion):
            found[name] = Version(text)
    return found


def _run(
    question: Question, folder: Path, present: Mapping[str, Version]
) -> tuple[subprocess.CompletedProcess[str], Mapping[str, Unreachable]]:
    routes = question.sources.routes
    with room(folder), tempfile.TemporaryDirectory(dir=folder) as scratch, ExitStack() as stack:
        place = Path(scratch)
        door = stack.enter_context(Door(routes)) if needed(routes) else None
        _write_inputs(question, place, present)
        command = [_uv(), *_options(question.target, question.sources, place), str(place / "in")]
        environment = {**_environment(question.sources, place), **(door.environment if door else {})}
        done = _ended(command, place, environment, door)
        return done, dict(door.failures) if door else {}


def _ended(
    command: Sequence[str], place: Path, environment: Mapping[str, str], door: Door | None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, or until it is known that a host cannot be reached: uv would go on trying for long."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=place, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            while True:
                try:
                    out, told = process.communicate(timeout=_GLANCE)
                except subprocess.TimeoutExpired:
                    if door and door.hopeless:
                        process.terminate()
                else:
                    return subprocess.CompletedProcess(command, process.returncode, out, told)
        except BaseException:
            process.kill()
            raise


def _write_inputs(question: Question, place: Path, present: Mapping[str, Version]) -> None:
    limits = [f"{name}=={number}" for name, number in _versions(question.target).items()]
    limits += [one.text for one in question.requirements.constraints]
    (place / "limits").write_text("".join(f"{line}\n" for line in limits))
    (place / "in").write_text("".join(f"{one.text}\n" for one in question.requirements.wanted))
    (place / "authorities.pem").write_text(question.sources.authorities())
    (place / "present").mkdir()
    for name, number in present.items():
        _write_empty_wheel(place / "present", name, number)


def _write_empty_wheel(folder: Path, name: str, number: Version) -> None:
    stem = f"{name.replace('-', '_')}-{number}"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for filename, text in files.items():
            archive.writestr(f"{stem}.dist-info/{filename}", text)


def _uv() -> str:
    from uv import find_uv_bin

    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise NotFound("uv is missing, which finds packages", hint=f"{sys.executable} -m pip install uv") from error


def _options(target: Target, sources: Sources, place: Path) -> Iterator[str]:
    yield from ("pip", "compile", "--format=pylock.toml", "--no-header", "--color=never", "--no-progress")
    # A cache of its own, gone afterwards: an index is asked what it has now, and says so where it wants a login.
    yield from ("--no-config", f"--cache-dir={place / 'cache'}", "--no-python-downloads", f"--python={sys.executable}")
    glibc = max(minor for minor in _PLATFORMS if minor <= max(target.glibc, min(_PLATFORMS)))
    yield f"--python-platform={target.machine}-manylinux_2_{glibc}"
    yield f"--python-version={target.full_python}"
    yield from ("--only-binary=:all:", f"--constraints={place / 'limits'}")
    yield from (f"--find-links={found}" for found in (place / "present", *sources.find_links))
    if not sources.indexes:
        yield "--no-index"
    if len(sources.indexes) > 1:
        yield "--index-strategy=unsafe-best-match"  # as pip has it. With one index it would only hide why that fails.
    for host in sorted(sources.routes.insecure):
        yield f"--allow-insecure-host={host}"


def _environment(sources: Sources, place: Path) -> Mapping[str, str]:
    """What uv sees of the environment. Indexes go this way, as a command line can be read by everybody."""
    ours = ("UV_", "PIP_", "SSL_CERT_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    }
    kept |= {"SSL_CERT_FILE": str(place / "authorities.pem"), "UV_HTTP_TIMEOUT": str(sources.timeout)}
    if sources.indexes:
        kept |= {"UV_INDEX": " ".join(sources.indexes[1:])}
        kept |= {"UV_DEFAULT_INDEX": sources.indexes[0]} if sources.indexes[0] != PYPI else {}
    return kept
