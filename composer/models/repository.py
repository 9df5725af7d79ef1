"""What a Triton model repository holds, and which backends serve it, by the server's own rules. Reads, never writes.

Source of the rules: Triton core, model_repository_manager.cc, model_lifecycle.cc, and AutoCompleteBackendFields in
model_config_utils.cc.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from composer.errors import Problem, RecipeError
from composer.models.textproto import Message, Value, parse

CONFIG: Final = "config.pbtxt"

PLATFORMS: Final = {
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
}
"""The backend that each `platform:` means. `ensemble` means none."""

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


_SINGLE: Final = ("name", "backend", "platform", "max_batch_size", "default_model_filename", "ensemble_scheduling")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model: `path` within the repository, its real place on this machine, its size in bytes.

    `runnable` if its owner may execute it.
    """

    path: str
    source: Path
    size: int
    runnable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model. `backend` is None for an ensemble, whose `members` are other models.

    `folders` are within the repository, as the paths of `files` are. The server wants a version's folder even where it
    is empty, as an ensemble's is.
    """

    name: str
    folder: Path
    versions: tuple[int, ...]
    configured: bool
    backend: str | None
    max_batch_size: int
    members: tuple[str, ...]
    folders: tuple[str, ...]
    files: tuple[ModelFile, ...]

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRepository:
    """A folder of models, in the order of their names."""

    path: Path
    models: tuple[Model, ...]


def survey(path: Path) -> ModelRepository:
    """Read a model repository. Raises `RecipeError` with everything that would keep the server from loading it.

    Links are followed, and may not lead out of the repository: what they lead to would be missing in an image.
    """
    if problem := _no_repository(path):
        raise RecipeError([problem])
    surveyor = _Surveyor(root=Path(os.path.realpath(path)), shown=path)
    models = tuple(surveyor.models())
    if not models and not surveyor.problems:
        hint = "a model is a folder in it: NAME/config.pbtxt, NAME/1/model.onnx"
        surveyor.problem(path, "there are no models in this repository", hint)
    if surveyor.problems:
        raise RecipeError(surveyor.problems)
    return ModelRepository(path=path, models=models)


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


def _no_repository(path: Path) -> Problem | None:
    """What keeps the path from being a repository at all."""
    if not os.path.lexists(path):
        return Problem(where=str(path), message="there is no such model repository", hint=f"mkdir -p {path}")
    if not path.is_dir():
        return Problem(where=str(path), message="a model repository is a folder", hint=f"ls -l {path}")
    if not os.access(path, os.R_OK | os.X_OK):
        return Problem(where=str(path), message="it cannot be read: Permission denied", hint=f"chmod -R a+rX {path}")
    if (path / CONFIG).is_file() and any(entry.name.isdecimal() and entry.is_dir() for entry in path.iterdir()):
        return Problem(where=str(path), message="this is one model, not a repository of models", hint=f"{path.parent}")
    return None


@dataclass(slots=True, kw_only=True)
class _Surveyor:
    """One reading of a repository. `root` is its real path, `shown` the one that the user knows it by."""

    root: Path
    shown: Path
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Path, message: str, hint: str) -> None:
        self.problems.append(Problem(where=str(path), message=message, hint=hint))

    def models(self) -> Iterator[Model]:
        """The folders of the root that are models. The server takes every one for a model; files it leaves alone."""
        for entry in sorted(self.shown.iterdir()):
            if entry.is_symlink() and self._astray(entry):
                continue
            if entry.is_dir() and (model := self._model(entry)):
                yield model

    def _model(self, folder: Path) -> Model | None:
        before = len(self.problems)
        found = tuple(self._files(folder, folder.name, (self.root,)))
        config = self._config(folder) if len(self.problems) == before else None
        if config is None:
            return None
        versions = self._versions(folder)
        backend = self._backend(folder, config)
        self._name(folder, config)
        return Model(
            name=folder.name,
            folder=folder,
            versions=versions,
            configured=(folder / CONFIG).is_file(),
            backend=backend,
            max_batch_size=_integer(config, "max_batch_size"),
            members=_members(config),
            folders=tuple(path for path, file in found if file is None),
            files=tuple(file for _, file in found if file is not None),
        )

    # -- files ------------------------------------------------------------------------------------

    def _files(self, folder: Path, name: str, above: Sequence[Path]) -> Iterator[tuple[str, ModelFile | None]]:
        """The folder and everything below it, links followed. `above` are the real folders that lead here."""
        real = Path(os.path.realpath(folder))
        if real in above:
            self.problem(folder, "this link leads back to a folder that it is in", "remove the link")
            return
        if not os.access(folder, os.R_OK | os.X_OK):
            self.problem(folder, "it cannot be read: Permission denied", f"chmod -R a+rX {folder}")
            return
        yield name, None
        # What Python leaves behind is of no use to the server, and never twice the same.
        for entry in sorted(entry for entry in folder.iterdir() if entry.name != "__pycache__"):
            if not (entry.is_symlink() and self._astray(entry)):
                yield from self._file(entry, f"{name}/{entry.name}", (*above, real))

    def _file(self, entry: Path, name: str, above: Sequence[Path]) -> Iterator[tuple[str, ModelFile | None]]:
        if entry.is_dir():
            yield from self._files(entry, name, above)
        elif not entry.is_file():
            self.problem(entry, "this is neither a file nor a folder", "remove it")
        elif not os.access(entry, os.R_OK):
            self.problem(entry, "it cannot be read: Permission denied", f"chmod a+r {entry}")
        else:
            info = entry.stat()
            runnable = bool(info.st_mode & stat.S_IXUSR)
            yield name, ModelFile(path=name, source=Path(os.path.realpath(entry)), size=info.st_size, runnable=runnable)

    def _astray(self, link: Path) -> bool:
        """Whether a link leads to nothing, or out of the repository. Says so."""
        target = Path(os.path.realpath(link))
        if not target.is_relative_to(self.root):
            hint = f"put the file itself there: cp -rL --remove-destination {target} {link}"
            self.problem(link, f"this link leads out of the repository, to {target}", hint)
            return True
        if not target.exists():
            self.problem(link, f"this link leads to nothing: {link.readlink()}", f"rm {link}")
            return True
        return False

    # -- the config -------------------------------------------------------------------------------

    def _config(self, folder: Path) -> Message | None:
        """The fields of config.pbtxt, none where there is no such file, None where it cannot be read."""
        path = folder / CONFIG
        if not path.is_file():
            return {}
        try:
            config = parse(path.read_bytes().decode("utf-8", "surrogateescape"), where=str(path))
        except RecipeError as error:
            self.problems.extend(error.problems)
            return None
        for name in (name for name in _SINGLE if len(config.get(name, ())) > 1):
            self.problem(path, f'the field "{name}" is given more than once', "keep one of them")
        return config

    def _name(self, folder: Path, config: Message) -> None:
        if (name := _text(config, "name")) and name != folder.name:
            message = f'the folder is called "{folder.name}" and the model "{name}"'
            self.problem(folder / CONFIG, message, f'name: "{folder.name}"')

    # -- versions ---------------------------------------------------------------------------------

    def _versions(self, folder: Path) -> tuple[int, ...]:
        """The folders whose names are whole numbers. At least one is needed."""
        names = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()]
        versions = tuple(sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name)))
        # std::stoll reads a number off the front of these, and the server then opens a folder that is not there.
        for name in (name for name in names if re.match(r"\+[0-9]|[1-9][0-9]*[^0-9]", name)):
            hint = "give it a whole number for a name, or move it out of the model"
            self.problem(folder / name, "the server would take this for a version, and not find it", hint)
        if not versions:
            self.problem(
                folder, "this model has no version, so the server would not load it", _version_hint(folder, names)
            )
        return versions

    # -- the backend ------------------------------------------------------------------------------

    def _backend(self, folder: Path, config: Message) -> str | None:
        backend, platform = _text(config, "backend"), _text(config, "platform")
        if platform == "ensemble" or "ensemble_scheduling" in config:
            if backend or platform != "ensemble":
                message = "an ensemble has no backend, and is one by its platform"
                self.problem(folder / CONFIG, message, 'platform: "ensemble", and no backend')
            return None
        if backend:
            return self._agreed(folder, backend, platform)
        if platform and platform not in PLATFORMS:
            known = ", ".join(sorted(PLATFORMS))
            hint = f'backend: "{platform}"' if platform in FILES.values() else f"one of {known}, ensemble; or backend:"
            self.problem(folder / CONFIG, f'there is no platform "{platform}"', hint)
            return None
        return PLATFORMS[platform] if platform else self._guessed(folder, _text(config, "default_model_filename"))

    def _agreed(self, folder: Path, backend: str, platform: str) -> str:
        meant = PLATFORMS.get(platform)
        if meant and meant != backend and backend in PLATFORMS.values():
            message = f'platform "{platform}" is served by {meant}, and the backend is "{backend}"'
            self.problem(folder / CONFIG, message, f'backend: "{meant}", and no platform')
        if backend in PLATFORMS:
            message = f'"{backend}" is a platform, not a backend'
            self.problem(folder / CONFIG, message, f'backend: "{PLATFORMS[backend]}"')
        return backend

    def _guessed(self, folder: Path, filename: str) -> str | None:
        """The backend by the server's rule for models that name none."""
        found = [filename] if filename else _first_version_entries(folder)
        backends = list(dict.fromkeys(backend for name, backend in FILES.items() if name in found))
        if len(backends) > 1:
            message = f"there are model files of {' and '.join(backends)}, and no config.pbtxt says which one is meant"
            self.problem(folder, message, f'in {folder / CONFIG}: backend: "{backends[0]}"')
        if backends:
            return backends[0]
        if "." in folder.name and not filename:
            return folder.name.partition(".")[2]
        self.problem(folder, "nothing says which backend serves this model", f'in {folder / CONFIG}: backend: "python"')
        return None


def _first_version_entries(folder: Path) -> list[str]:
    """What is in the first sub-folder in the order of names, which is the only one that the server looks into."""
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    return [entry.name for entry in folders[0].iterdir()] if folders else []


def _version_hint(folder: Path, names: Sequence[str]) -> str:
    if padded := next((name for name in names if re.fullmatch(r"0[0-9]+", name)), None):
        return f"no leading zeros: mv {folder / padded} {folder / str(int(padded))}"
    if folder.name.startswith((".", "_", "@")):
        return f"the server takes every folder here for a model: move {folder.name} elsewhere"
    if loose := next((name for name in sorted(FILES) if (folder / name).exists()), None):
        return f"mkdir {folder / '1'} && mv {folder / loose} {folder / '1'}/"
    return f"versions are folders with whole numbers for names: mkdir {folder / '1'}"


def _single(config: Message, name: str) -> Value | None:
    """A field's value."""
    values = config.get(name, ())
    return values[-1] if values else None


def _text(config: Message, name: str) -> str:
    value = _single(config, name)
    return str(value) if isinstance(value, str) else ""


def _integer(config: Message, name: str) -> int:
    value = _single(config, name)
    return value if isinstance(value, int) else 0


def _members(config: Message) -> tuple[str, ...]:
    """The models that an ensemble's steps call."""
    scheduling = _single(config, "ensemble_scheduling")
    steps = scheduling.get("step", ()) if isinstance(scheduling, dict) else ()
    names = (_text(step, "model_name") for step in steps if isinstance(step, dict))
    return tuple(dict.fromkeys(name for name in names if name))
