"""Does what `--fix` may: edits after which the server does what was meant. Nothing else is overwritten."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from composer.models.lint.rule import Edit, Finding


def fix(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Apply the edits of findings that have one. Returns those that are mended.

    Of several edits of one file only the first is made: lint again for the others. An edit that cannot be made any
    more, because another has moved the file, is left for the next time too, and so is one that something is in the way
    of, or that would go through a link: what that leads to is somebody else's. Raises `OSError`.
    """
    touched: set[Path] = set()
    mended = []
    for one in findings:
        if one.edit and not one.suppressed and not _overlaps(one.edit, touched) and _apply(one.edit):
            touched |= {path for path in (one.edit.path, one.edit.move) if path}
            mended.append(one)
    return tuple(mended)


def _overlaps(edit: Edit, touched: set[Path]) -> bool:
    paths = [path for path in (edit.path, edit.move) if path]
    return any(a == b or a in b.parents or b in a.parents for a in paths for b in touched)


def _apply(edit: Edit) -> bool:
    if edit.make:
        return _make(edit.path)
    if edit.move is not None:
        return _move(edit.path, edit.move)
    _write(edit.path, edit.write or b"")
    return True


def _make(folder: Path) -> bool:
    if os.path.lexists(folder):
        return False
    folder.mkdir()
    return True


def _move(path: Path, target: Path) -> bool:
    if os.path.lexists(target) or not os.path.lexists(path):
        return False
    if path.parent != target.parent and path.is_symlink():
        return False  # what it says is counted from where it lies
    if target.parent not in path.parents and not _make(target.parent):
        return False
    path.rename(target)
    return True


def _write(path: Path, data: bytes) -> None:
    """Put new bytes into a file at once, with the permissions that it had."""
    mode = path.stat().st_mode
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".mended-")
    except OSError as error:  # of a name that nobody knows
        raise OSError(error.errno, error.strerror, str(path.parent)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(mode & 0o7777)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
