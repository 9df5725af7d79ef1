"""What a wheel installs: its files, as pip would place them on Debian and Ubuntu, the same bytes every time.

No byte code is compiled: it would hold times, and Python does without. Source: the wheel format, PEP 427, and the
"recording installed projects" specification.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.exceptions import InstallerError
from installer.sources import WheelFile

from composer.disk import room
from composer.errors import Corrupt
from composer.files import LocalFile
from composer.wheels.target import Target

INTERPRETER: Final = "/usr/bin/python3"
"""What scripts are run by: the image's own Python, by the name that does not change with its version."""

_INSTALLER: Final = b"tricompose\n"


def unpack(wheel: Path, target: Target) -> tuple[LocalFile, ...]:
    """The files that a wheel installs, by path. They lie beside it and are made only once; `wheel` keeps its name.

    Raises `Corrupt` for an archive that would write elsewhere, or is no wheel.
    """
    root = wheel.parent / target.python
    if not _is_whole(root, target):
        with room(wheel.parent), tempfile.TemporaryDirectory(dir=wheel.parent) as scratch:
            fresh = Path(scratch, "root")
            _install(wheel, fresh, target)
            if root.exists():
                root.rename(Path(scratch, "old"))
            fresh.rename(root)
    return tuple(_files(root))


def _files(root: Path) -> Iterator[LocalFile]:
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        info = path.stat()
        mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
        yield LocalFile(target=str(path.relative_to(root)), source=path, size=info.st_size, mode=mode)


def _install(wheel: Path, root: Path, target: Target) -> None:
    root.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # byte code in a wheel is left out, as by pip
            for item in archive.infolist():
                _refuse_stray(item)
            source = WheelFile(archive)
            install(source, _destination(root, target, source.distribution), {"INSTALLER": _INSTALLER})
    except (OSError, zipfile.BadZipFile, InstallerError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise
        raise Corrupt(
            f"{wheel.name} cannot be installed: {error or type(error).__name__}",
            hint="ask for another version of that package, or for a wheel of your own",
        ) from error


def _destination(root: Path, target: Target, name: str) -> SchemeDictionaryDestination:
    places = {
        "purelib": target.packages,
        "platlib": target.packages,
        "scripts": "usr/local/bin",
        "headers": f"usr/local/include/python{target.python}/{name}",
        "data": "usr/local",
    }
    folders = {scheme: str(root / place) for scheme, place in places.items()}
    return SchemeDictionaryDestination(folders, interpreter=INTERPRETER, script_kind="posix")


def _refuse_stray(item: zipfile.ZipInfo) -> None:
    """Refuse what would not be a plain file in its own place."""
    parts = item.filename.rstrip("/").split("/")
    if item.filename.startswith("/") or "\\" in item.orig_filename or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(f"{item.filename!r} in it lies outside of it")
    if stat.S_ISLNK(item.external_attr >> 16):
        raise ValueError(f"{item.filename!r} in it is a link")


# -- what lies there from before ----------------------------------------------------------------------------------


def _is_whole(root: Path, target: Target) -> bool:
    """Whether everything that was unpacked here before is there, as its RECORD has it, and nothing else."""
    records = list(root.glob(f"{target.packages}/*.dist-info/RECORD"))
    if len(records) != 1:
        return False
    listed = dict(_recorded(records[0], root / target.packages))
    there = {path for path in root.rglob("*") if path.is_file()}
    return there == set(listed) and all(not digest or _digest(path) == digest for path, digest in listed.items())


def _recorded(record: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """The files that a RECORD lists, and their digests; those that cannot have one have none."""
    with record.open(newline="", encoding="utf-8") as lines:
        for path, digest, _size in csv.reader(lines):
            yield Path(os.path.normpath(folder / path)), digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        raw = hashlib.file_digest(file, "sha256").digest()
    return f"sha256={base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"
