"""Models that a recipe names by their source: fetched, put where the server looks for them, and given a config.pbtxt.

Nothing is copied: the model is a folder of links in the cache, read as if the files themselves lay there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from composer.disk import room
from composer.errors import NotFound, Problem, RecipeError, Unplannable
from composer.events import Logged, StageFinished, StageStarted
from composer.lockfile import ModelPin
from composer.models.autoconfig import to_fill_in, written
from composer.models.model_files import READERS, SUFFIXES
from composer.models.opening import Unreadable, look_into
from composer.models.repository import CONFIG, USUAL, Entry, Model, ModelRepository, read_repository
from composer.models.sources import ELSEWHERE, Fetched, FetchedFile, Shelf, Way, fetch, scheme_of
from composer.models.sources.way import shown
from composer.recipe import ModelSource, Recipe

_ARCHIVES: Final = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".mar", ".nemo")
_SAVED_MODEL: Final = "saved_model.pb"
_VERSION: Final = re.compile(r"[0-9]+")


def bring(recipe: Recipe, *, into: Path, way: Way) -> tuple[ModelRepository, ...]:
    """Fetch all models of a recipe that have a source: a repository of each. `into` is the cache's folder for models.

    Raises `RecipeError` for what makes no model, and what `fetch` raises.
    """
    return tuple(
        _bring(recipe, index, model, into, way) for index, model in enumerate(recipe.models) if model.source is not None
    )


def _bring(recipe: Recipe, index: int, model: ModelSource, into: Path, way: Way) -> ModelRepository:
    assert model.source
    assert model.name
    way.emit(StageStarted(stage="fetch", detail=f"{model.name} from {shown(model.source)}"))
    elsewhere = scheme_of(model.source) in ELSEWHERE
    pin = way.ledger.model(shown(model.source)) if elsewhere else None
    fetched = fetch(model.source, sha256=model.sha256 or (pin.digest if pin else None), into=into, way=way)
    way.emit(StageFinished(stage="fetch", detail=f"{model.name} is {fetched.digest}"))
    if elsewhere and pin is None:
        way.ledger.note_model(shown(model.source), _pin(fetched))
    if model.sha256 is None and pin is None:
        said = f"{shown(model.source)} may be another one next time; to pin this one: sha256: {_hex(fetched.digest)}"
        way.emit(Logged(text=said, source=model.name))
    try:
        placed = place(fetched, model.name)
        config = _config(recipe, model, placed, fetched)
    except _Unfit as unfit:
        where = recipe.where("models", index, unfit.key)
        raise RecipeError([Problem(where=where, message=unfit.words, hint=unfit.hint)]) from unfit
    folder = _folder(placed, config, into)
    return _read(folder, model, config, recipe.base)


def _pin(fetched: Fetched) -> ModelPin:
    pinned = fetched.pinned
    return ModelPin(uri=pinned.uri, digest=pinned.digest, size=pinned.size)


# -- which file goes where ----------------------------------------------------------------------------------------


class _Unfit(Exception):
    """What came makes no model: at which key of the recipe, why, and what to do."""

    def __init__(self, words: str, hint: str, *, key: str = "source") -> None:
        super().__init__(words)
        self.words = words
        self.hint = hint
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The files of a model by where they go, within its folder; `main` is the one that a backend loads, if it is known.

    `backend` serves it, where the file says which.
    """

    name: str
    files: Mapping[str, FetchedFile]
    main: str | None = None
    backend: str | None = None


def place(fetched: Fetched, name: str) -> Placed:
    """Where the server looks for what was fetched. Raises `_Unfit` where that makes no model of this name."""
    files = {file.path: file for file in fetched.files}
    if not fetched.folder:
        return _one_file(fetched.files[0], name)
    files = _unwrapped(files)
    if _is_model(files):
        return _whole(files, name)
    if models := sorted({top for path in files if (top := path.partition("/")[0]) != path and _is_below(files, top)}):
        source = fetched.pinned.uri.rstrip("/")
        raise _Unfit(f"this holds several models: {', '.join(models)}", f"source: {source}/{models[0]}")
    return _loose(files, name)


def _one_file(file: FetchedFile, name: str) -> Placed:
    backend = _backend(file)
    main = f"1/{USUAL[backend]}"
    return Placed(name=name, files={main: file}, main=main, backend=backend)


def _backend(file: FetchedFile) -> str:
    """What serves a file: by its name, or where that says nothing by what it is."""
    suffix = PurePosixPath(file.path).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix in _ARCHIVES:
        raise _Unfit(
            f"{file.path} is an archive: it is not unpacked", "unpack it, and name the folder or the file in it"
        )
    if suffix not in (".json", ".txt", ".md", ".yaml", ".safetensors", ".gguf", ".h5", ".pbtxt"):
        for backend, read in READERS.items():
            if not isinstance(read(file.place), Unreadable):
                return backend
    known = ", ".join(sorted(SUFFIXES))
    raise _Unfit(f"{file.path} is no model that a backend loads", f"name one of these: {known}")


def _unwrapped(files: dict[str, FetchedFile]) -> dict[str, FetchedFile]:
    """Without a folder around it all, as images of one model have it."""
    tops = {path.partition("/")[0] for path in files}
    if len(tops) == 1 and (top := tops.pop()) not in files and not _VERSION.fullmatch(top):
        return {path.removeprefix(f"{top}/"): file for path, file in files.items()}
    return files


def _is_model(files: Mapping[str, FetchedFile]) -> bool:
    """Whether a folder is one as Triton has them: with a config, or with versions."""
    return CONFIG in files or any(_VERSION.fullmatch(path.partition("/")[0]) and "/" in path for path in files)


def _is_below(files: Mapping[str, FetchedFile], top: str) -> bool:
    return _is_model({path.removeprefix(f"{top}/"): file for path, file in files.items() if path.startswith(f"{top}/")})


def _whole(files: Mapping[str, FetchedFile], name: str) -> Placed:
    """A model as Triton has them, taken as it is."""
    for path in sorted(files):
        version, _, file = path.partition("/")
        for backend, usual in USUAL.items():
            if _VERSION.fullmatch(version) and file == usual:
                return Placed(name=name, files=files, main=path, backend=backend)
    return Placed(name=name, files=files)


def _loose(files: Mapping[str, FetchedFile], name: str) -> Placed:
    """The files of one version, with the one that a backend loads among them."""
    if _SAVED_MODEL in files:
        return Placed(name=name, files={f"1/model.savedmodel/{path}": file for path, file in files.items()})
    main = _main(files)
    backend = SUFFIXES[PurePosixPath(main).suffix.lower()]
    placed = {path: file for path, file in files.items() if path != main}
    placed[USUAL[backend]] = files[main]
    if backend == "openvino" and (weights := placed.pop(str(PurePosixPath(main).with_suffix(".bin")), None)):
        placed["model.bin"] = weights
    return Placed(
        name=name,
        files={f"1/{path}": file for path, file in placed.items()},
        main=f"1/{USUAL[backend]}",
        backend=backend,
    )


def _main(files: Mapping[str, FetchedFile]) -> str:
    """The file that a backend loads: one of the usual name, or else the only one that it can be."""
    top = [path for path in files if "/" not in path]
    usual = [path for path in USUAL.values() if path in top]
    models = usual or [path for path in top if PurePosixPath(path).suffix.lower() in SUFFIXES and path[-3:] != ".py"]
    if len(models) == 1:
        return models[0]
    if models:
        raise _Unfit(f"this holds several models: {', '.join(sorted(models))}", f"name one: source: .../{min(models)}")
    inner = sorted(path for path in files if PurePosixPath(path).suffix.lower() in SUFFIXES)
    example = f"source: .../{inner[0]}" if inner else "name the file of the model itself"
    raise _Unfit("this folder has no model in it that a backend loads", example)


# -- its config ---------------------------------------------------------------------------------------------------


def _config(recipe: Recipe, model: ModelSource, placed: Placed, fetched: Fetched) -> bytes | None:
    """The config.pbtxt that the recipe asks for beside what came."""
    if model.config is None:
        return None
    if model.config != "auto":
        return _given(recipe.base / model.config)
    if CONFIG in placed.files:
        raise _Unfit(f"{shown(fetched.pinned.uri)} brings its own {CONFIG}", "remove config: auto", key="config")
    return _written(recipe, placed).encode()


def _given(path: Path) -> bytes:
    read = look_into(path, lambda file, _: file.read())
    if isinstance(read, Unreadable):
        raise NotFound(f"{path} {read.words}", hint=f"ls -l {path}; or config: auto")
    return read


def _written(recipe: Recipe, placed: Placed) -> str:
    read = READERS.get(placed.backend or "")
    if read is None or placed.main is None:
        hint = f"config: ./{placed.name}/{CONFIG}"
        raise _Unfit(
            "config: auto is for ONNX, TorchScript and TensorRT models: of others no file says enough",
            hint,
            key="config",
        )
    said = read(placed.files[placed.main].place)
    if isinstance(said, Unreadable):
        raise _Unfit(f"{placed.files[placed.main].path} {said.words}", "is it the right file?")
    try:
        text = written(placed.name, said, release=recipe.triton)
    except Unplannable as error:
        raise _Unfit(f"config: auto: {error.message}", error.hint or f"config: ./{CONFIG}", key="config") from error
    if open_ones := to_fill_in(text):
        line = text.splitlines()[open_ones[0] - 1].strip()
        raise _Unfit(
            f"config: auto is not enough: the file does not say all that the server wants to know ({line})",
            f"tricompose models config {placed.files[placed.main].place} > {CONFIG}   (fill it in; config: ./{CONFIG})",
            key="config",
        )
    return text


# -- the folder ---------------------------------------------------------------------------------------------------


def _folder(placed: Placed, config: bytes | None, into: Path) -> Path:
    """The folder of links, in one that is named by all that it leads to: made once, and complete or not there."""
    links = {f"{placed.name}/{path}": file for path, file in placed.files.items() if config is None or path != CONFIG}
    said = "\n".join(f"{path}\0{file.digest}\0{file.place}" for path, file in sorted(links.items()))
    key = hashlib.sha256(said.encode("utf-8", "surrogateescape") + b"\0" + (config or b"")).hexdigest()
    folder = into / "brought" / key
    if folder.is_dir():
        return folder
    with Shelf(into).scratch() as scratch, room(into):
        made = scratch / "model"
        for path, file in links.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).symlink_to(file.place.absolute())
        if not any(_VERSION.fullmatch(path.partition("/")[0]) and "/" in path for path in placed.files):
            # No store of objects holds empty folders, and the server wants one even for an ensemble.
            (made / placed.name / "1").mkdir(parents=True)
        if config is not None:
            (made / placed.name).mkdir(exist_ok=True)
            (made / placed.name / CONFIG).write_bytes(config)
        folder.parent.mkdir(exist_ok=True)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    return folder


def _read(folder: Path, model: ModelSource, config: bytes | None, base: Path) -> ModelRepository:
    """The repository, with what the links lead to in their place."""
    found = read_repository(folder, baked=True)
    models = tuple(replace(one, entries=tuple(_behind(one.entries))) for one in found.models)
    if config is not None and model.config not in (None, "auto"):
        # What is wrong with it is said of the file that its author knows.
        models = tuple(_of_author(one, base / str(model.config)) for one in models)
    return replace(found, models=tuple(replace(one, origin=shown(str(model.source))) for one in models))


def _behind(entries: Sequence[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if entry.link is None:
            yield entry
        else:
            info = entry.source.stat()
            yield replace(entry, kind="file", link=None, size=info.st_size, mode=info.st_mode & 0o777)


def _of_author(model: Model, path: Path) -> Model:
    return replace(model, configuration=replace(model.configuration, path=path))


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
