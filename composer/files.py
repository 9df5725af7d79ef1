"""What `files:` of a recipe brings: found and measured, before anything is decided."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composer.errors import Problem, RecipeError
from composer.recipe import Recipe

_MOST_LINKED: Final = 1000
"""Links to folders that are followed. A few that lead to each other make millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """One file, or folder (without `source`), for `target`, a path of the image without its leading slash.

    `source` is where it really lies on this machine, `size` is in bytes, `mode` what it will have in the image.
    """

    target: str
    source: Path | None
    size: int
    mode: int


def survey_files(recipe: Recipe) -> tuple[LocalFile, ...]:
    """Every file that `files:` names, or that lies in a folder of it. Raises `RecipeError` for all that is missing."""
    problems: list[Problem] = []
    found: dict[str, LocalFile] = {}
    for number, wanted in enumerate(recipe.files):
        source = recipe.base / wanted.source
        try:
            found |= {file.target: file for file in local_files(source, wanted.target.strip("/"), wanted.mode)}
        except OSError as error:
            problems.append(unreadable(recipe.where("files", number, "source"), error, source))
    if problems:
        raise RecipeError(problems)
    return tuple(found[target] for target in sorted(found))


def unreadable(where: str, error: OSError, path: Path) -> Problem:
    """What kept `local_files` from reading `path`, or what lies in it."""
    culprit = error.filename or path
    return Problem(where=where, message=f"{culprit}: {error.strerror}", hint=f"ls -ld {culprit}")


def local_files(source: Path, target: str, mode: int | None = None) -> Iterator[LocalFile]:
    """A file, or a folder and all that is in it, links followed: what they lead to is what the image gets.

    Raises `OSError` for what is missing or cannot be read, is neither a file nor a folder, or goes round in circles.
    """
    links = 0
    left: list[tuple[Path, str, tuple[Path, ...]]] = [(source, target, ())]
    while left:
        path, place, above = left.pop()
        info, linked = path.stat(), path.is_symlink()
        # Asking each time where a folder really lies takes long in deep ones.
        real = above[-1] / path.name if above and not linked else Path(os.path.realpath(path))
        if not stat.S_ISDIR(info.st_mode):
            yield _file(path, real, info, place, mode)
            continue
        links += linked
        if linked and real in above:
            raise OSError(errno.ELOOP, "this link leads back to a folder that it is in", str(path))
        if links > _MOST_LINKED:
            raise OSError(errno.ELOOP, "too many links to folders lead here", str(path))
        yield LocalFile(target=place, source=None, size=0, mode=0o755)
        names = sorted(os.listdir(path), reverse=True)
        left += ((path / name, f"{place}/{name}", (*above, real)) for name in names)


def _file(path: Path, real: Path, info: os.stat_result, target: str, mode: int | None) -> LocalFile:
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "this is neither a file nor a folder", str(path))
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    usual = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
    return LocalFile(target=target, source=real, size=info.st_size, mode=mode or usual)
