"""What a Triton model repository holds, read as the server reads it, and judged by nobody: that is what `lint` is for.

Source of the rules: Triton core, model_repository_manager.cc, model_lifecycle.cc (VersionsToLoad), and
AutoCompleteBackendFields in model_config_utils.cc.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from composer.errors import Problem, RecipeError
from composer.models.configuration import Configuration, no_configuration, read_configuration
from composer.models.schema import ModelConfig

CONFIG: Final = "config.pbtxt"

PLATFORMS: Final = {
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
}
"""The backend that each `platform:` means, the last since 26.03. `ensemble` means none."""

FILES: Final = {
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
    "model.plan": "tensorrt",
    "model.onnx": "onnxruntime",
    "model.xml": "openvino",
    "model.pt": "pytorch",
    "model.py": "python",
}
"""The backend that a file of this name in the first version folder means, in the order in which the server looks."""

USUAL: Final = {
    "tensorrt": "model.plan",
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "pytorch": "model.pt",
    "python": "model.py",
}
"""The file of a version that a backend loads, unless `default_model_filename` says another."""

NO_VERSIONS: Final = frozenset(["warmup", "initial_state", "configs"])
"""Folders of a model that hold something else than a version."""

LEFT_OUT: Final = frozenset(
    [
        *(".git", ".gitignore", ".gitattributes", ".gitkeep", ".keep", ".hg", ".svn", ".dvc", ".dvcignore"),
        *("__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".cache", ".huggingface"),
        *(".idea", ".vscode", ".DS_Store", "@eaDir", "Thumbs.db", "lost+found", ".Trash", "__MACOSX"),
    ]
)
"""What tools and editors leave in folders: it does not go into an image."""

_LEFT_OUT: Final = re.compile(r".*(~|\.sw[a-p]|\.pyc|\.orig|\.rej)|\._.*|\.#.*|#.*#|\.nfs.*")

Kind = Literal["file", "folder", "broken", "astray", "loop", "maze", "special", "unreadable"]
"""What an entry is, behind all links. `broken`: a link to nothing; `astray`: one that leads out of the repository;
`loop`: one that leads to a folder that it is in; `maze`: one to a folder, in folders that have too many of them behind
links; `special`: a pipe, a socket, a device."""

MOST_LINKED: Final = 1000
"""Links to folders that are followed in what other links lead to. A few that lead to each other make millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something in a model's folder. `path` starts at that folder, `size` is in bytes, `mode` are its permissions.

    `source` is where its bytes are on this machine; `link` what it says, if it is a link.
    """

    path: str
    kind: Kind
    source: Path
    size: int = 0
    mode: int = 0
    link: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The path of the folder it is in; empty for the model's own."""
        return self.path.rpartition("/")[0]

    @property
    def left_out(self) -> bool:
        """Whether it does not go into an image, because tools and editors left it there."""
        return any(is_left_out(part) for part in self.path.split("/"))


def is_left_out(name: str) -> bool:
    """Whether something of this name is what tools and editors leave behind."""
    return name in LEFT_OUT or _LEFT_OUT.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model: `path` within the repository, its real place on this machine, its size in bytes.

    `mode` are the permissions that it has in an image.
    """

    path: str
    source: Path
    size: int
    mode: int


@dataclass(frozen=True, kw_only=True)
class Model:
    """A folder of a repository, which the server takes for a model. `entries` are in the order of their paths.

    `mode` are the permissions of the folder itself. `origin` is where it came from, if someone put it there for us.
    """

    name: str
    folder: Path
    mode: int = 0o755
    entries: tuple[Entry, ...]
    configuration: Configuration
    origin: str | None = None

    @property
    def config(self) -> ModelConfig:
        """What config.pbtxt says; all fields have their defaults where it says nothing, or cannot be read."""
        return self.configuration.message

    @property
    def configured(self) -> bool:
        """Whether there is a config.pbtxt."""
        return self.configuration.text is not None

    @property
    def closed(self) -> bool:
        """Whether the folder itself cannot be read, so that nothing is known of it."""
        return "" in self.by_path

    @cached_property
    def by_path(self) -> Mapping[str, Entry]:
        """The entries by their paths."""
        return {entry.path: entry for entry in self.entries}

    def below(self, folder: str) -> tuple[Entry, ...]:
        """What lies directly in a folder of the model; the empty path is the model's own."""
        return self._children.get(folder, ())

    @cached_property
    def _children(self) -> Mapping[str, tuple[Entry, ...]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.folder, []).append(entry)
        return {folder: tuple(some) for folder, some in found.items()}

    @cached_property
    def version_folders(self) -> Mapping[str, int]:
        """The folders that the server takes for versions, in the order of their names, with what it takes them for.

        It reads a number off the front of the name, so that `1abc` is taken for 1, which is then not found.
        """
        names = (entry.name for entry in self.below("") if entry.kind == "folder" and entry.name not in NO_VERSIONS)
        taken = ((name, taken_for(name)) for name in names)
        return {name: number for name, number in taken if number is not None}

    @cached_property
    def versions(self) -> tuple[int, ...]:
        """The versions that are there, sorted."""
        sound = (number for name, number in self.version_folders.items() if name == str(number) and number >= 0)
        return tuple(sorted(sound))

    def chosen(self, versions: Iterable[int]) -> tuple[int, ...]:
        """Which of some versions the version policy asks for, sorted."""
        there = sorted(set(versions))
        policy = self.config.version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return tuple(there)
        if choice == "specific":
            return tuple(version for version in there if version in policy.specific.versions)
        most = policy.latest.num_versions if choice == "latest" else 1
        return tuple(there[-most:] if most else ())

    @cached_property
    def served(self) -> tuple[int, ...]:
        """The versions that are there and served."""
        return tuple(version for version in self.chosen(self.version_folders.values()) if version in self.versions)

    @property
    def filename(self) -> str | None:
        """The file, or folder, of a version that its backend loads; None where that is not known."""
        usual = "model.pt2" if self.config.platform == "torch_aoti" else USUAL.get(self.backend or "")
        return self.config.default_model_filename or usual

    @property
    def model_files(self) -> tuple[Entry, ...]:
        """What the backend loads of each version that is served, as far as it is there."""
        found = (self.by_path.get(f"{version}/{self.filename}") for version in self.served)
        return tuple(entry for entry in found if entry is not None)

    @property
    def is_ensemble(self) -> bool:
        """Whether it is made of other models."""
        return bool(self.config.platform == "ensemble" or self.config.HasField("ensemble_scheduling"))

    @property
    def members(self) -> tuple[str, ...]:
        """The models that an ensemble's steps call."""
        names = (step.model_name for step in self.config.ensemble_scheduling.step)
        return tuple(dict.fromkeys(name for name in names if name))

    @cached_property
    def backend(self) -> str | None:
        """The backend that serves it; None for an ensemble, and where nothing says which."""
        if self.is_ensemble:
            return None
        said, platform = self.config.backend, self.config.platform
        return said or (PLATFORMS.get(platform) if platform else self._guessed())

    def _guessed(self) -> str | None:
        """The backend by the server's rule for models that name none."""
        if backends := self.backends_by_file:
            return backends[0]
        plain = "." in self.name and not self.config.default_model_filename
        return self.name.partition(".")[2] if plain else None

    @property
    def backends_by_file(self) -> tuple[str, ...]:
        """The backends that files mean, in the server's order. Only the first sub-folder is looked into."""
        if filename := self.config.default_model_filename:
            found: Iterable[str] = (filename,)
        else:
            first = next((entry.path for entry in self.below("") if entry.kind == "folder"), None)
            found = [entry.name for entry in self.below(first)] if first is not None else ()
        return tuple(dict.fromkeys(backend for name, backend in FILES.items() if name in found))

    @property
    def max_batch_size(self) -> int:
        """The most requests that it takes at once; 0 where it does not batch."""
        return int(self.config.max_batch_size)

    @property
    def folders(self) -> tuple[str, ...]:
        """Its folders within the repository, itself first. A version needs its own, even an empty one."""
        inner = (e.path for e in self.entries if e.kind == "folder" and not e.left_out)
        return (self.name, *(f"{self.name}/{path}" for path in inner))

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """Its files, as they go into an image."""
        return tuple(
            ModelFile(path=f"{self.name}/{e.path}", source=e.source, size=e.size, mode=_image_mode(e.mode))
            for e in self.entries
            if e.kind == "file" and not e.left_out
        )

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return sum(file.size for file in self.files)


def taken_for(name: str) -> int | None:
    """The version that the server takes a folder for, by its name: None for none."""
    if re.match(r"0.", name):
        return None
    found = re.match(r"\s*([+-]?[0-9]+)", name)
    number = int(found[1]) if found else None
    return number if number is not None and -(1 << 63) <= number < 1 << 63 else None


def _image_mode(mode: int) -> int:
    """The permissions of a file, but for what a umask decides, or the digest would depend on whose machine it was.

    Everybody may read it, and run it if anybody may: the server is not root.
    """
    return mode & 0o755 | 0o444 | (0o111 if mode & 0o111 else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRepository:
    """A folder of models, in the order of their names. `strays` are what else lies there: files, broken links.

    `fault` says why it could not be read at all: `missing`, `not_a_folder`, `unreadable`.
    """

    path: Path
    models: tuple[Model, ...]
    strays: tuple[Entry, ...] = ()
    left_out: tuple[Entry, ...] = ()
    fault: Literal["missing", "not_a_folder", "unreadable"] | None = None


def read_repository(path: Path, *, baked: bool = False, config: str | None = None) -> ModelRepository:
    """Read a model repository. Never raises: what cannot be read is an entry that says so.

    Links are followed, but not out of the repository: what they lead to there would be missing in an image. With
    `baked`, folders that do not go into an image are no models, but `left_out`. `config` is what the server's flag
    `model-config-name` says: models that have `configs/NAME.pbtxt` go by that.
    """
    try:
        if not path.is_dir():
            return ModelRepository(path=path, models=(), fault="not_a_folder" if os.path.lexists(path) else "missing")
        root = Path(os.path.realpath(path))
        entries = sorted(_look(root, (root,), root, ""), key=lambda entry: entry.path)
    except OSError:
        return ModelRepository(path=path, models=(), fault="unreadable")
    left_out = tuple(entry for entry in entries if baked and entry.left_out)
    rest = [entry for entry in entries if entry not in left_out]
    return ModelRepository(
        path=path,
        models=tuple(_read_model(root, path, one, config) for one in rest if one.kind in ("folder", "unreadable")),
        strays=tuple(entry for entry in rest if entry.kind not in ("folder", "unreadable")),
        left_out=left_out,
    )


def _configuration(folder: Path, name: str | None) -> Configuration:
    own = folder / "configs" / f"{name}.pbtxt"
    return read_configuration(own if name and own.is_file() else folder / CONFIG)


def _read_model(root: Path, shown: Path, entry: Entry, config: str | None) -> Model:
    folder = shown / entry.path
    entries = tuple(sorted(_tree(root, entry), key=lambda one: one.path.split("/")))
    closed = any(not one.path for one in entries)  # what could not be listed
    configuration = no_configuration(folder / CONFIG) if closed else _configuration(folder, config)
    return Model(name=entry.path, folder=folder, mode=entry.mode, entries=entries, configuration=configuration)


def _tree(root: Path, top: Entry) -> Iterator[Entry]:
    """Everything below a folder. What cannot be listed is an entry of its own, with the folder's path."""
    left: list[tuple[Entry, tuple[Path, ...], bool]] = [(replace(top, path=""), (root,), top.link is not None)]
    followed = 0
    while left:
        entry, above, linked = left.pop()
        above = (*above, entry.source)
        try:
            found = _look(root, above, entry.source, entry.path)
        except OSError:
            yield Entry(path=entry.path, kind="unreadable", source=entry.source)
            continue
        for one in found:
            followed += one.kind == "folder" and linked and one.link is not None
            if followed > MOST_LINKED:
                yield replace(one, kind="maze")
                return
            yield one
            if one.kind == "folder":
                left.append((one, above, linked or one.link is not None))


def _look(root: Path, above: Sequence[Path], folder: Path, path: str) -> list[Entry]:
    """What lies in a folder. `above` are the real folders that lead here, itself among them."""
    with os.scandir(folder) as found:
        entries = [_entry(root, above, one, f"{path}/{one.name}".lstrip("/")) for one in found]
    return [entry for entry in entries if entry is not None]


def _entry(root: Path, above: Sequence[Path], found: os.DirEntry[str], path: str) -> Entry | None:
    """What lies there; None where it has gone since the folder was listed."""
    try:
        if found.is_symlink():
            return _linked(root, above, Path(found.path), path)
        return _plain(found.stat(follow_symlinks=False), Path(found.path), path, None)
    except FileNotFoundError:
        return None


def _linked(root: Path, above: Sequence[Path], link: Path, path: str) -> Entry:
    """What a link leads to, wherever that is."""
    said, real = os.readlink(link), Path(os.path.realpath(link))
    try:
        info = link.stat()
    except PermissionError:
        return Entry(path=path, kind="unreadable", source=real, link=said)
    except OSError:
        return Entry(path=path, kind="broken", source=real, link=said)
    if not real.is_relative_to(root):
        return Entry(path=path, kind="astray", source=real, link=said, size=info.st_size)
    if real in above:
        return Entry(path=path, kind="loop", source=real, link=said)
    return _plain(info, real, path, said)


def _plain(info: os.stat_result, source: Path, path: str, link: str | None) -> Entry:
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISDIR(info.st_mode):
        return Entry(path=path, kind="folder", source=source, mode=mode, link=link)
    kind: Kind = "file" if stat.S_ISREG(info.st_mode) else "special"
    if kind == "file" and not os.access(source, os.R_OK):
        kind = "unreadable"
    return Entry(path=path, kind=kind, source=source, size=info.st_size, mode=mode, link=link)


def needed_backends(repositories: Iterable[ModelRepository]) -> tuple[str, ...]:
    """The backends that all models of these repositories are served by, sorted, each once.

    Raises `RecipeError` where a model stands in two repositories, or an ensemble's member in none.
    """
    problems: list[Problem] = []
    known: dict[str, Model] = {}
    for model in (model for repository in repositories for model in repository.models):
        if twin := known.get(model.name):
            message = f'there is a model "{model.name}" in {twin.folder.parent} too'
            problems.append(Problem(where=str(model.folder), message=message, hint="rename one of them"))
        known[model.name] = model
    problems += (problem for model in known.values() for problem in _absent_members(model, known))
    if problems:
        raise RecipeError(problems)
    return tuple(sorted({model.backend for model in known.values() if model.backend}))


def _absent_members(model: Model, known: Iterable[str]) -> Iterator[Problem]:
    for member in sorted({*model.members}.difference(known)):
        message = f'the ensemble "{model.name}" calls the model "{member}", which no repository has'
        yield Problem(where=str(model.folder / CONFIG), message=message, hint=f"add {member}, or take the step out")
