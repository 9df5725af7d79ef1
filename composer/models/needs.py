"""What models need of an image: backends, Python packages, shared memory, a GPU. Nothing of theirs is run.

What cannot be told from the files is left out, or said to be unsure. Source of how modules are found: the Python
backend, pb_stub.cc (StubSetup): it appends the version's folder and the model's to what its Python has anyway.
"""

from __future__ import annotations

import difflib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from composer.models.python_code import UTILS, Import, PythonCode, Unreadable, read_code
from composer.models.repository import Entry, Model, ModelRepository
from composer.models.schema import enum_name
from composer.releases import Release
from composer.releases.book import entries as release_entries
from composer.server import FlagValue

_OWN: Final = frozenset([UTILS, "c_python_backend_utils"])
_MOST_FILES: Final = 500
"""How many files of a model are followed through its imports."""

_COMMON: Final = ("numpy", "onnxruntime", "pandas", "requests", "scipy", "tokenizers", "torch", "transformers", UTILS)
"""Modules that models import, and that are called as their packages are."""

_NEAR: Final = 0.75
"""How much of a name must be another's for that one to be asked about."""


# -- programs -----------------------------------------------------------------------------------------------------


def programs(model: Model) -> tuple[Entry, ...]:
    """The model.py, or whatever it is called, of each version that is served by the Python backend."""
    if model.backend != "python" or not (model.filename or "").endswith(".py"):
        return ()
    return tuple(entry for entry in model.model_files if entry.kind == "file")


def code_of(entry: Entry, release: Release | None) -> PythonCode | Unreadable:
    """What a program says of itself, to the Python of a release."""
    try:
        info = entry.source.stat()
    except OSError as error:
        return Unreadable(words=error.strerror or str(error))
    python = release.python if release else None
    return _read(entry.source, python, (info.st_mtime_ns, info.st_size, info.st_ino))


@lru_cache(maxsize=4096)
def _read(path: Path, python: str | None, state: tuple[int, ...]) -> PythonCode | Unreadable:
    """Read it once, however many ask, as long as it is the same: `state` says so."""
    return read_code(path, python=python)


# -- packages -----------------------------------------------------------------------------------------------------


@cache
def _facts() -> Mapping[str, Any]:
    return tomllib.loads((files(__package__) / "packages.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A module that a model imports and that neither it nor Python's own library has.

    `file` is where it is imported, `package` what to install for it, `others` what brings it too. `known` if it is
    known that this package has it, and not only taken for likely because of its name.
    """

    model: str
    module: str
    imported: Import
    file: Path
    package: str
    others: tuple[str, ...]
    known: bool
    certain: bool

    def among(self, packages: Iterable[str]) -> bool:
        """Whether one of these distributions brings it. Names are compared as pip compares them."""
        names = {canonicalize_name(one) for one in packages}
        return any(canonicalize_name(one) in names for one in (self.package, *self.others))


def wanted_by(model: Model, release: Release | None) -> Iterator[Wanted]:
    """The modules that come from elsewhere, each once for each place that imports it."""
    for program in programs(model):
        yield from _Search(model, program, release).wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A module that should lie beside a program, and does not. `why` is a sentence."""

    imported: Import
    file: Path
    module: str
    why: str
    certain: bool


def absent_from(model: Model, release: Release | None) -> Iterator[Absent]:
    """The modules that a model's programs expect of its own files, and that are not there."""
    for program in programs(model):
        yield from _Search(model, program, release).absent


def modules_of(model: Model, release: Release | None) -> Iterator[tuple[Entry, bool]]:
    """A model's programs and the files that they import, each once, and whether it certainly is imported."""
    found: dict[str, tuple[Entry, bool]] = {}
    for program in programs(model):
        for path, (entry, certain) in _Search(model, program, release).modules.items():
            found[path] = (entry, certain or (path in found and found[path][1]))
    yield from found.values()


def unexplained(packages: Iterable[str]) -> frozenset[str]:
    """Those distributions of which it is not known what modules they have."""
    known = {canonicalize_name(one) for names in _facts()["distributions"].values() for one in names}
    return frozenset(one for one in packages if canonicalize_name(one) not in known)


def upstream_packages(release: Release | None) -> frozenset[str]:
    """The distributions that NVIDIA's build scripts install for the Python backend, at least NumPy.

    The full image has more, which is not known. Source: releases.toml, `pip`.
    """
    groups = release_entries()[release.name].under("pip") if release else {}
    written = (one for group in ("server", "python") for one in groups.get(group, ()))
    return frozenset(["numpy", *map(_name, written)])


def _name(requirement: str) -> str:
    try:
        return canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return canonicalize_name(requirement)


def apt_for(module: str, package: str) -> tuple[str, ...]:
    """The packages of Debian or Ubuntu that a module needs besides its own."""
    facts = _facts()
    return (*facts["apt"].get(module.partition(".")[0], ()), *facts["apt_of_package"].get(package, ()))


def in_stdlib(module: str, release: Release | None) -> bool:
    """Whether Python's own library has a module, in the Python of the release."""
    top = module.partition(".")[0]
    python = _numbers(release.python) if release and release.python else sys.version_info[:2]
    history = _facts()["stdlib"]
    gained, lost = (next((v for v, names in history[way].items() if top in names), None) for way in ("gained", "lost"))
    if gained or lost:
        return (not gained or _numbers(gained) <= python) and (not lost or python < _numbers(lost))
    return top in sys.stdlib_module_names or top in sys.builtin_module_names


def _numbers(python: str) -> tuple[int, ...]:
    return tuple(map(int, python.split(".")))


def distributions(module: str) -> tuple[tuple[str, ...], bool]:
    """What brings a module, the best first, and whether that is known: else it is a package of the module's name."""
    table = _facts()["distributions"]
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if found := table.get(".".join(parts[:end])):
            return tuple(found), True
    return (parts[0].replace("_", "-").lower(),), False


def meant(module: str) -> str | None:
    """The module that a name is nearly that of, and may be meant: `numpy` for `nunpy`. None where it is nobody's."""
    top = module.partition(".")[0]
    likely, others = {*_facts()["distributions"], *_COMMON}, sys.stdlib_module_names
    if top in likely or top in others:
        return None
    near = (found for names in (likely, others) for found in difflib.get_close_matches(top, names, 1, _NEAR))
    return next(near, None)


class _Search:
    """One search through a program and those of its modules that lie beside it."""

    def __init__(self, model: Model, program: Entry, release: Release | None) -> None:
        self._model, self._program, self._release = model, program, release
        self._version = program.folder
        self.modules: dict[str, tuple[Entry, bool]] = {}
        """The files that are read, by their paths, and whether each certainly is when the model loads or answers."""
        self.wanted: list[Wanted] = []
        self.absent: list[Absent] = []
        self._run()

    def _run(self) -> None:
        todo = [(self._program, True)]
        while todo and len(self.modules) < _MOST_FILES:
            entry, certain = todo.pop()
            if entry.path in self.modules or entry.kind != "file" or not entry.path.endswith(".py"):
                continue
            self.modules[entry.path] = (entry, certain)
            code = code_of(entry, self._release)
            if isinstance(code, PythonCode):
                for one in code.imports:
                    sure = certain and one.certain and not code.moves_path
                    todo += [(found, sure) for found in self._follow(one, entry, sure)]

    def _follow(self, one: Import, entry: Entry, sure: bool) -> list[Entry]:
        """The files of the model that an import means. What it means else is noted."""
        local = self._local(one, entry)
        if not local and not one.level and not self._elsewhere(one.module):
            self.wanted.append(self._wanted(one, entry, sure))
        elif entry is self._program and not one.optional and (missing := self._missing(one, local)):
            file = self._model.folder / entry.path
            self.absent.append(Absent(imported=one, file=file, module=missing[0], why=missing[1], certain=sure))
        return local

    def _missing(self, one: Import, local: Sequence[Entry]) -> tuple[str, str] | None:
        """The module that an import of the program wants of the model's own files, in vain, and why that is so.

        The server imports the program as `1.model`: its package is the version's folder, and there is none above.
        """
        if one.level > 1:
            return one.module, "the version's folder is the package of the program, and there is none above it"
        if one.level and f"{self._version}/__init__.py" in self._model.by_path:
            return None
        tops = [self._version] if one.level else [self._version, ""]
        for name in ([one.module] if one.module else one.names) if one.level or local else ():
            if not any(self._is_there(top, name.split(".")) for top in tops):
                whole = f"{self._version}.{name}" if one.level else name
                return whole, f"there is no {name.replace('.', '/')}.py beside the program"
        return None

    def _is_there(self, top: str, parts: Sequence[str]) -> bool:
        """Whether a dotted name leads to a file or folder, as far as that can be told: compiled ones may hold more."""
        folder = top
        for part in parts:
            found = self._at(folder, part)
            if not found:
                return False
            if found[0].name.endswith((".so", ".pyc")):
                return True
            folder = f"{folder}/{part}".lstrip("/")
        return True

    def _elsewhere(self, module: str) -> bool:
        top = module.partition(".")[0]
        return top in _OWN or in_stdlib(top, self._release) or not top

    def _wanted(self, one: Import, entry: Entry, certain: bool) -> Wanted:
        module = _longest(one)
        found, known = distributions(module)
        return Wanted(
            model=self._model.name,
            module=one.module,
            imported=one,
            file=self._model.folder / entry.path,
            package=found[0],
            others=found[1:],
            known=known,
            certain=certain,
        )

    def _local(self, one: Import, entry: Entry) -> list[Entry]:
        """The files of the model that an import means. The server looks in the version's folder, then the model's."""
        tops = [_up(entry.folder, one.level - 1)] if one.level else [self._version, ""]
        names = one.module.split(".") if one.module else list(one.names)
        for top in tops:
            if found := [entry for name in (names if not one.module else names[:1]) for entry in self._at(top, name)]:
                rest = self._deeper(top, one) if one.module else []
                return [*found, *rest]
        return []

    def _at(self, folder: str, name: str) -> list[Entry]:
        """What a module of this name is, in a folder: a file, a package, a library made for Python."""
        base = f"{folder}/{name}".lstrip("/")
        for path in (f"{base}/__init__.py", f"{base}.py"):
            if (found := self._model.by_path.get(path)) and found.kind == "file":
                return [found]
        plain = self._model.by_path.get(base)
        if plain and plain.kind == "folder":
            return [plain]
        compiled = re.compile(re.escape(name) + r"(\.[\w.-]+)?\.(so|pyc)")
        return [one for one in self._model.below(folder) if compiled.fullmatch(one.name)][:1]

    def _deeper(self, top: str, one: Import) -> list[Entry]:
        """The parts of a package: `a.b` is `a/b.py`, and `from a import b` may be too."""
        path = f"{top}/{one.module.replace('.', '/')}".lstrip("/")
        places = [(path.rpartition("/")[0], path.rpartition("/")[2]), *((path, name) for name in one.names)]
        return [found for folder, name in places for found in self._at(folder, name)]


def _up(folder: str, steps: int) -> str:
    for _ in range(steps):
        folder = folder.rpartition("/")[0]
    return folder


def _longest(one: Import) -> str:
    """The longest dotted name that an import may mean: `google.cloud.storage` of `from google.cloud import storage`."""
    table = _facts()["distributions"]
    return next((name for name in (f"{one.module}.{last}" for last in one.names) if name in table), one.module)


# -- shared memory ------------------------------------------------------------------------------------------------

MIB: Final = 1 << 20
DOCKERS: Final = 64 * MIB
"""What a container gets if nobody says otherwise."""

_LARGER_UNTIL: Final = "23.08"
"""The last release whose Python backend took 64 MiB for each instance, and as much again each time it grew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """How much of /dev/shm models take, in bytes.

    `at_start` is certain: each instance of each version has a region of the size that the backend is set to. `at_work`
    is what it grows by while all are busy with batches of `max_batch_size`, for the shapes that are fixed: tensors of
    no fixed size come on top. Measured on servers of 23.07 and 24.10: with one KiB less than `at_start` none is ready;
    a tensor makes its region grow by its own size and one step more.
    """

    at_start: int
    at_work: int
    instances: int

    @property
    def advised(self) -> int:
        """A size that is enough: both, a quarter more, in steps of 64 MiB, and never less than Docker's own."""
        needed = self.at_start + self.at_work
        return max(1, -(-(needed + needed // 4) // DOCKERS)) * DOCKERS


def default_region(server: Mapping[str, FlagValue], release: Release | None) -> int:
    """What the backend takes of shared memory for an instance: as the server's flags say, or the release's default."""
    said = _backend_setting(server, "shm-default-byte-size")
    if said is not None:
        return said
    return 64 * MIB if release and release.name <= _LARGER_UNTIL else MIB


def growth(server: Mapping[str, FlagValue], release: Release | None) -> int:
    """By how much it grows at least, when it must."""
    said = _backend_setting(server, "shm-growth-byte-size")
    if said is not None:
        return max(said, 1)
    return 64 * MIB if release and release.name <= _LARGER_UNTIL else MIB


def _backend_setting(server: Mapping[str, FlagValue], name: str) -> int | None:
    settings = server.get("backend-config")
    own = settings.get("python") if isinstance(settings, Mapping) else None
    value = own.get(name) if isinstance(own, Mapping) else None
    return int(value) if isinstance(value, int | str) and re.fullmatch(r"\d+", str(value)) else None


def shared_memory(
    models: Iterable[Model], *, server: Mapping[str, FlagValue], release: Release | None, gpus: int | None
) -> SharedMemory:
    """What these models take. How many GPUs there are counts for instances that run on each; not known is one."""
    region, step = default_region(server, release), growth(server, release)
    start = work = total = 0
    for model in models:
        if not runs_python(model):
            continue
        count = instances(model, gpus=gpus) * max(len(model.served), 1)
        total += count
        start += count * region
        work += count * _grown([*_batch_bytes(model)], step)
    return SharedMemory(at_start=start, at_work=work, instances=total)


def _grown(sizes: Sequence[int], step: int) -> int:
    """By how much a region grows for these tensors. Small ones find room together in what there is."""
    small = sum(size for size in sizes if size < step)
    return step * (small // step + sum(size // step + 1 for size in sizes if size >= step))


def runs_python(model: Model) -> bool:
    """Whether it is served by processes of the Python backend."""
    backend = model.backend or ""
    return backend in ("python", *_facts()["python_based"]["backends"]) or model.config.runtime.endswith(".py")


def instances(model: Model, *, gpus: int | None = None) -> int:
    """How many instances each version has. Where the config names none, the Python backend has one, on the CPU."""
    total = 0
    for group in model.config.instance_group:
        on_each = len(group.gpus) or gpus or 1 if enum_name(group, "kind") == "KIND_GPU" else 1
        total += max(group.count, 1) * on_each
    return total or 1


_BYTES: Final = {"8": 1, "16": 2, "32": 4, "64": 8, "BOOL": 1}


def _batch_bytes(model: Model) -> Iterator[int]:
    """The bytes of each tensor of one full batch, of those that have a fixed size."""
    for tensor in (*model.config.input, *model.config.output):
        width = next((size for end, size in _BYTES.items() if enum_name(tensor, "data_type").endswith(end)), None)
        if width is not None and all(dim > 0 for dim in tensor.dims):
            yield max(model.max_batch_size, 1) * prod(tensor.dims) * width


# -- all of it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What models need. `backends` are by name, with the models that want each.

    `packages` are modules that come from elsewhere; `apt` what Debian or Ubuntu must add for them. `gpu` are the models
    that cannot do without one, with the reason.
    """

    backends: Mapping[str, tuple[str, ...]]
    packages: tuple[Wanted, ...]
    apt: tuple[str, ...]
    shared_memory: SharedMemory
    gpu: Mapping[str, str]

    def pip(self, installed: Iterable[str] = ()) -> tuple[str, ...]:
        """What `packages.pip` lacks, given what there is already: names without versions, sorted, each once."""
        there = frozenset(installed)
        missing = (one for one in self.packages if not one.imported.optional and not one.among(there))
        return tuple(sorted({one.package for one in missing}))


def needs_of(
    repositories: Sequence[ModelRepository],
    *,
    release: Release | None = None,
    server: Mapping[str, FlagValue] | None = None,
    gpus: int | None = None,
) -> Needs:
    """What all models of these repositories need together."""
    models = [model for repository in repositories for model in repository.models]
    backends: dict[str, list[str]] = {}
    for model in models:
        for backend in backends_of(model):
            backends.setdefault(backend, []).append(model.name)
    packages = tuple(one for model in models for one in wanted_by(model, release))
    return Needs(
        backends={name: tuple(wanting) for name, wanting in sorted(backends.items())},
        packages=packages,
        apt=tuple(sorted({apt for one in packages for apt in apt_for(one.module, one.package)})),
        shared_memory=shared_memory(models, server=server or {}, release=release, gpus=gpus),
        gpu={model.name: reason for model in models if (reason := gpu_reason(model))},
    )


def backends_of(model: Model) -> tuple[str, ...]:
    """The backend of a model, and `python` where that one is itself a Python program."""
    if not model.backend:
        return ()
    return (model.backend,) if model.backend == "python" or not runs_python(model) else (model.backend, "python")


def gpu_reason(model: Model) -> str | None:
    """Why a model cannot be served without a GPU; None if it can, as far as its config tells."""
    if model.backend == "tensorrt":
        return "TensorRT plans run on GPUs only"
    if any(enum_name(group, "kind") == "KIND_GPU" for group in model.config.instance_group):
        return "an instance group says KIND_GPU"
    return None
