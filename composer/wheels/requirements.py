"""What `packages.pip` asks for: requirements, files of them, wheels of this machine. All else is refused here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from composer.errors import Problem, RecipeError
from composer.recipe import Recipe

_MOST_DEEP: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One requirement: its package by canonical name, and as `text` for a resolver, without hashes.

    `where` is its place in the recipe or in a file of requirements. `hashes` are the SHA-256 that its wheel may have,
    none where any may. It is `pinned` if there is only one version that it can mean. `file` is a wheel of this machine.
    """

    name: str
    text: str
    where: str
    hashes: frozenset[str]
    pinned: bool
    file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """All that is wanted, and what only limits the versions of what comes along; the `files` that it was read from."""

    wanted: tuple[Wanted, ...]
    constraints: tuple[Wanted, ...]
    files: tuple[Path, ...] = ()

    @property
    def hashed(self) -> bool:
        """Whether hashes are given at all: then, as pip has it, every wheel must have one."""
        return any(one.hashes for one in (*self.wanted, *self.constraints))

    def hashes(self, name: str) -> frozenset[str]:
        """The SHA-256 that a package's wheel may have."""
        return frozenset[str]().union(*(one.hashes for one in (*self.wanted, *self.constraints) if one.name == name))

    def pins(self, name: str) -> bool:
        """Whether a package can have one version only."""
        return any(one.pinned for one in (*self.wanted, *self.constraints) if one.name == name)


def read_requirements(recipe: Recipe) -> Requirements:
    """Everything that `packages.pip` asks for. Raises `RecipeError` with all that cannot be done and its places."""
    reader = _Reader(base=recipe.base)
    for number, line in enumerate(recipe.packages.pip):
        reader.line(line, recipe.where("packages", "pip", number), recipe.base)
    if reader.problems:
        raise RecipeError(reader.problems)
    return Requirements(wanted=tuple(reader.wanted), constraints=tuple(reader.constraints), files=tuple(reader.files))


class _Refused(Exception):
    """A line that cannot be done: why, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class _Reader:
    """One reading of all lines. `base` is the folder of the recipe."""

    def __init__(self, base: Path) -> None:
        self.wanted: list[Wanted] = []
        self.constraints: list[Wanted] = []
        self.files: list[Path] = []
        self.problems: list[Problem] = []
        self._base = base

    def line(self, text: str, where: str, folder: Path, *, limits: bool = False, depth: int = 0) -> None:
        """Take one line; with `limits` it only constrains. Relative paths in it start from `folder`."""
        try:
            if included := _included(text):
                self._file(folder / included[1], where, limits=limits or included[0], depth=depth)
            else:
                (self.constraints if limits else self.wanted).append(_wanted(text, where, folder))
        except _Refused as error:
            self.problems.append(Problem(where=where, message=error.message, hint=error.hint))

    def _file(self, path: Path, where: str, *, limits: bool, depth: int) -> None:
        if depth == _MOST_DEEP:
            raise _Refused(f"{path}: files of requirements include each other without end", "remove one of the -r")
        try:
            text = path.read_text("utf-8-sig")
        except OSError as error:
            raise _Refused(f"{path}: {error.strerror}", f"ls -l {path}") from error
        except UnicodeDecodeError as error:
            raise _Refused(f"{path} is not UTF-8", f"iconv -f WINDOWS-1252 -t UTF-8 {path}") from error
        self.files.append(path)
        for number, line in _logical_lines(text):
            self.line(line, f"{path}:{number}:1", path.parent, limits=limits, depth=depth + 1)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a file of requirements by number, continuations joined and comments gone, as pip reads them."""
    begun, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        is_comment = re.match(r"\s*#", line)
        if line.endswith("\\") and not is_comment:
            begun += line[:-1]
            continue
        if whole := re.sub(r"(^|\s+)#.*$", "", begun + ("" if is_comment and begun else line)).strip():
            yield start, whole
        begun, start = "", 0
    if whole := re.sub(r"(^|\s+)#.*$", "", begun).strip():
        yield start, whole


def _included(text: str) -> tuple[bool, str] | None:
    """For `-r FILE` and `-c FILE`: whether it only constrains, and the file."""
    found = re.fullmatch(r"(?:(-r|--requirements?)|(-c|--constraints?))(?:\s*=\s*|\s+|(?<=-[rc]))(\S.*)", text.strip())
    if found is None:
        return None
    try:
        (file,) = shlex.split(found[3])
    except ValueError as error:
        raise _Refused(f"{text}: it names no file, or more than one", "-r requirements.txt") from error
    return found[1] is None, file


# -- one requirement ----------------------------------------------------------------------------------------------


def _wanted(text: str, where: str, folder: Path) -> Wanted:
    _refuse_options(text)
    plain, hashes = _without_hashes(text)
    location, _, marker = (part.strip() for part in plain.partition(" ;"))
    if _is_location(location):
        return _direct(location, "", marker, folder, where, hashes)
    parsed = _parsed(plain)
    if parsed.url:
        return _named(parsed, parsed.url, folder, where, hashes)
    pinned = any(one.operator in ("==", "===") and not one.version.endswith(".*") for one in parsed.specifier)
    return Wanted(name=canonicalize_name(parsed.name), text=plain, where=where, hashes=hashes, pinned=pinned)


def _parsed(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise _Refused(f"{text!r} is no requirement: {reason}", "pip: [transformers==4.44.0]") from error


_OPTIONS: Final[tuple[tuple[str, str, str], ...]] = (
    (
        r"-e|--editable",
        "an editable install is a link to sources, and an image has none",
        "pip wheel --no-deps {value}",
    ),
    (
        r"-i|--index-url|--pypi-url|--extra-index-url",
        "an index is named for the whole recipe",
        "network: {{pip_index: {value}}}",
    ),
    (
        r"-f|--find-links|--no-index",
        "where packages are found is no matter of requirements",
        "network: {{pip_index: ...}}",
    ),
    (r"--trusted-host", "hosts to be trusted are named for the whole recipe", "network: {{insecure: [{value}]}}"),
    (r"--only-binary|--prefer-binary|--require-hashes", "it is always so, or follows from the hashes", "remove it"),
    (r"-r|--requirements?|-c|--constraints?", "this option lacks its file", "-r requirements.txt"),
)


def _refuse_options(text: str) -> None:
    if not text.startswith("-"):
        return
    name, _, value = re.sub(r"[=\s]+", " ", text, count=1).partition(" ")
    for names, why, hint in _OPTIONS:
        if re.fullmatch(names, name):
            raise _Refused(f"{name}: {why}", hint.format(value=value or "..."))
    raise _Refused(f"{name}: of pip's options only -r, -c and --hash are known here", "remove it")


def _without_hashes(text: str) -> tuple[str, frozenset[str]]:
    """A requirement and the SHA-256 that stand behind it."""
    plain, *options = re.split(r"\s+(?=--[a-z])", text.strip())
    hashes = set()
    for option in options:
        name, _, value = re.sub(r"[=\s]+", " ", option, count=1).partition(" ")
        if name != "--hash":
            raise _Refused(f"{name}: of pip's options only -r, -c and --hash are known here", "remove it")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()):
            raise _Refused(f"{option}: only SHA-256 is known here", "--hash=sha256:<64 hex digits>")
        hashes.add(value.strip().removeprefix("sha256:"))
    return plain.strip(), frozenset(hashes)


# -- wheels by their place ----------------------------------------------------------------------------------------

_ARCHIVES: Final = (".whl", ".tar.gz", ".tgz", ".zip", ".tar.bz2")


def _is_location(text: str) -> bool:
    """Whether it is a path or a URL rather than a name."""
    if " @ " in text:
        return False
    return text.startswith((".", "/", "file:")) or "://" in text or text.endswith(_ARCHIVES)


def _named(parsed: Requirement, url: str, folder: Path, where: str, hashes: frozenset[str]) -> Wanted:
    """`name @ URL`."""
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    found = _direct(url, extras, str(parsed.marker or ""), folder, where, hashes)
    if found.name != canonicalize_name(parsed.name):
        raise _Refused(f"{url} is a wheel of {found.name}, not of {parsed.name}", f"{found.name} @ {url}")
    return found


def _direct(location: str, extras: str, marker: str, folder: Path, where: str, hashes: frozenset[str]) -> Wanted:
    parts = urlsplit(location)
    remote = parts.scheme in ("http", "https")
    if parts.scheme not in ("http", "https", "file", ""):
        raise _unbuilt(location)
    path = folder / (unquote(parts.path) if parts.scheme else location)
    if path.suffix != ".whl":
        raise _unbuilt(location)
    if not remote and not path.is_file():
        raise _Refused(f"there is no wheel {path}", f"ls {path.parent}")
    name, real = _wheel_name(path.name), path.resolve()
    uri = parts._replace(fragment="").geturl() if remote else real.as_uri()
    if remote and (said := re.fullmatch(r"sha256=([0-9a-f]{64})", parts.fragment)):
        hashes |= {said[1]}
    text = f"{name}{extras} @ {uri}" + (f" ; {marker}" if marker else "")
    _parsed(text)
    return Wanted(name=name, text=text, where=where, hashes=hashes, pinned=True, file=None if remote else real)


def _unbuilt(text: str) -> _Refused:
    return _Refused(
        f"{text}: it would have to be built, and only wheels are taken",
        f"pip wheel --no-deps {shlex.quote(text)}   (then name the .whl)",
    )


def _wheel_name(filename: str) -> str:
    try:
        return parse_wheel_filename(filename)[0]
    except InvalidWheelFilename as error:
        raise _Refused(f"{filename} is no name of a wheel", "NAME-VERSION-PYTHON-ABI-PLATFORM.whl") from error
