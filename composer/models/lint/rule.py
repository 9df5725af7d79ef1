"""What a rule is: a small function that looks at a model, or at all of them, and says what the server would refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from composer.models.configuration import Configuration, Place
from composer.models.repository import Model, ModelRepository
from composer.releases import Release
from composer.server import FlagValue

Severity = Literal["error", "warning", "info"]
"""`error`: the server refuses, ends, hangs, or every request fails. `warning`: it loads, and does something else than
was meant. `info`: advice."""

ERROR: Final[Severity] = "error"
WARNING: Final[Severity] = "warning"
INFO: Final[Severity] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What models are to run with. None says that it is not known; rules that depend on it then say nothing.

    `backends`, `repoagents` and `caches` are those of the image, `files` the files and folders that the recipe
    adds. `server` are tritonserver's flags, `server_at` where each stands, and under "" where all do. `gpus` is how
    many it is given, 0 for none. `shm_size` is in bytes. `packages` are the names of Python distributions that the
    image has, with `all_packages` all of them, `apt` those of Debian packages that are added. `modules` are what its
    Python can import, by the first part of their names, where someone looked. `as_root` says whether the server may
    read everything. With `baked`, the models go into an image: what tools and editors left among them
    does not.
    """

    release: Release | None = None
    backends: frozenset[str] | None = None
    repoagents: frozenset[str] | None = None
    caches: frozenset[str] | None = None
    files: frozenset[str] | None = None
    server: Mapping[str, FlagValue] = field(default_factory=dict)
    server_at: Mapping[str, tuple[Path, Place]] = field(default_factory=dict)
    gpus: int | None = None
    shm_size: int | None = None
    packages: frozenset[str] | None = None
    all_packages: bool = False
    modules: frozenset[str] | None = None
    apt: frozenset[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    as_root: bool = True
    architecture: str = "amd64"
    max_layer_size: int | None = None
    baked: bool = False

    def before(self, release: str) -> bool:
        """Whether the release is known to be older than this one."""
        return self.release is not None and self.release.name < release

    def from_(self, release: str) -> bool:
        """Whether the release is this one or a later one. One that is not known is taken for the latest."""
        return self.release is None or self.release.name >= release


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What `--fix` does about a finding: safe, because the server then does what was meant.

    `write` holds new bytes for `path`, `make` makes it a folder, `move` gives it another name.
    """

    path: Path
    write: bytes | None = None
    make: bool = False
    move: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a rule found. `place` is within the file at `path`, or None for all of it.

    `says` fills in the words of the rule that are in braces; `fix` and `severity` stand in for the rule's own.
    """

    path: Path
    message: str
    place: Place | None = None
    fix: str | None = None
    says: Mapping[str, object] = field(default_factory=dict)
    severity: Severity | None = None
    edit: Edit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule. `says` are the server's own words, empty where it says nothing; `source` is where that is known from.

    It holds for releases from `since` to `until`, both included. A release that is not known is taken for a late one.
    """

    id: str
    severity: Severity
    title: str
    says: str
    source: str
    fix: str
    since: str | None = None
    until: str | None = None
    unreadable_too: bool = False
    check: Callable[[Model, Case], Iterator[Found]] | None = None
    check_all: Callable[[Repositories, Case], Iterator[Found]] | None = None

    def holds(self, case: Case) -> bool:
        """Whether it holds for the release of the case."""
        name = case.release.name if case.release else None
        if name is None:
            return self.until is None
        return (self.since or "") <= name <= (self.until or "99.99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repositories:
    """All repositories that a server is given, in their order."""

    all: tuple[ModelRepository, ...]

    @property
    def models(self) -> Mapping[str, Model]:
        """The models by name; of two with the same name, the first."""
        found: dict[str, Model] = {}
        for repository in self.all:
            for model in repository.models:
                found.setdefault(model.name, model)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule says of a place. `model` is None where it is about no model in particular.

    `says` are the server's words for it. `suppressed` is the reason for which someone wants it passed over.
    """

    rule: Rule
    severity: Severity
    model: str | None
    path: Path
    place: Place | None
    message: str
    says: str
    fix: str
    edit: Edit | None = None
    suppressed: str | None = None


RULES: Final[dict[str, Rule]] = {}
"""All rules by their ids, in the order in which they were written."""

OfModel = Callable[[Model, Case], Iterator[Found]]
"""What looks at one model."""
OfAll = Callable[[Repositories, Case], Iterator[Found]]
"""What looks at all models together, or at the server's flags."""


def rule(
    id: str,  # noqa: A002 - what rules have, everywhere
    severity: Severity,
    *,
    says: str = "",
    source: str,
    fix: str,
    since: str | None = None,
    until: str | None = None,
    unreadable_too: bool = False,
) -> Callable[[OfModel], OfModel]:
    """Put a function that looks at one model into the table. Its docstring is the rule's title, in one line.

    `says` are Triton's own words, with `{model}` and what `Found.says` holds in braces. Models whose config.pbtxt
    cannot be read are only shown to rules that take `unreadable_too`.
    """

    def add(check: OfModel) -> OfModel:
        about = Rule(id=id, severity=severity, title=_title(check), says=says, source=source, fix=fix)
        _add(replace(about, since=since, until=until, unreadable_too=unreadable_too, check=check))
        return check

    return add


def rule_of_all(
    id: str,  # noqa: A002 - what rules have, everywhere
    severity: Severity,
    *,
    says: str = "",
    source: str,
    fix: str,
    since: str | None = None,
    until: str | None = None,
) -> Callable[[OfAll], OfAll]:
    """The same for a function that looks at all models together, or at the server's flags."""

    def add(check: OfAll) -> OfAll:
        about = Rule(id=id, severity=severity, title=_title(check), says=says, source=source, fix=fix)
        _add(replace(about, since=since, until=until, check_all=check))
        return check

    return add


def _title(check: Callable[..., object]) -> str:
    return (check.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _add(one: Rule) -> None:
    if one.id in RULES or not one.title:
        raise ValueError(f"rule {one.id} is there twice, or has no docstring")
    RULES[one.id] = one


# -- short forms for rules ------------------------------------------------------------------------


def at(
    model: Model,
    /,
    *key: str | int,
    message: str,
    fix: str | None = None,
    severity: Severity | None = None,
    edit: Edit | None = None,
    **says: object,
) -> Found:
    """Something found at a value of a model's config.pbtxt, or at the model's folder where there is no such file."""
    where: Configuration = model.configuration
    path = where.path if where.text is not None else model.folder
    return Found(path=path, place=where.place(*key), message=message, fix=fix, severity=severity, edit=edit, says=says)


def on(
    path: Path,
    message: str,
    /,
    *,
    fix: str | None = None,
    severity: Severity | None = None,
    place: Place | None = None,
    edit: Edit | None = None,
    **says: object,
) -> Found:
    """Something found at a file or folder."""
    return Found(path=path, message=message, place=place, fix=fix, severity=severity, edit=edit, says=says)
