"""What `files:` of a recipe brings: found and measured, before anything is decided."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from composer.errors import Problem, RecipeError
from composer.recipe import FileSource, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """One file, or folder (without `source`), for `target`, a path of the image without its leading slash.

    `size` is in bytes, `mode` what it will have in the image.
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
        where = recipe.where("files", number, "source")
        try:
            found |= {file.target: file for file in _walk(source, wanted)}
        except OSError as error:
            problems.append(Problem(where=where, message=f"{source}: {error.strerror}", hint=f"ls -ld {source}"))
    if problems:
        raise RecipeError(problems)
    return tuple(found[target] for target in sorted(found))


def _walk(source: Path, wanted: FileSource) -> Iterator[LocalFile]:
    target = wanted.target.strip("/")
    yield _local(source, target, wanted)
    if not source.is_dir():
        return
    for folder, folders, files in os.walk(source, onerror=_raise):
        for name in folders + files:
            path = Path(folder, name)
            yield _local(path, f"{target}/{path.relative_to(source)}", wanted)


def _local(path: Path, target: str, wanted: FileSource) -> LocalFile:
    """Links are followed: what they lead to is what the image gets."""
    info = path.stat()
    if stat.S_ISDIR(info.st_mode):
        return LocalFile(target=target, source=None, size=0, mode=0o755)
    if not os.access(path, os.R_OK):
        raise PermissionError(13, "Permission denied", str(path))
    usual = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
    return LocalFile(target=target, source=path, size=info.st_size, mode=wanted.mode or usual)


def _raise(error: OSError) -> None:
    raise error
