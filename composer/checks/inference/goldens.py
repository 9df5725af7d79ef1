"""Goldens: answers that were recorded, and what they were recorded of. One of another model or request does not count.

Beside `FILE.npy` lies `FILE.npy.json`, which says of what model and request the answer is, who gave it and when.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from composer.checks.inference.npy import make_npy, read_npy
from composer.errors import CheckFailed, Corrupt, NoRoom, NotFound
from composer.protocol.tensors import Tensor, pack

if TYPE_CHECKING:
    from composer.checks.report import About, Report
    from composer.models.repository import Model, ModelFile, ModelRepository
    from composer.protocol.messages import Request

SCHEMA: Final = 1
"""The version of the JSON beside a golden."""

RECORD: Final = "tricompose validate RECIPE --record"
"""What makes a golden anew."""

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What an answer is of: `output` is the tensor's name in it.

    The digests are sha256 in hex; `model_sha256` is empty where the model's files are not known.
    """

    model: str = ""
    version: str = ""
    output: str = ""
    model_sha256: str = ""
    request_sha256: str = ""


# -- what they are tied to ---------------------------------------------------------------------


def model_digests(repositories: Iterable[ModelRepository]) -> dict[str, str]:
    """The sha256 of each model by its name: of its config.pbtxt, the versions that are served, and what else it has.

    An ensemble's is made of those of its models as well. Reads all their files. Raises `NotFound`.
    """
    models = {model.name: model for repository in repositories for model in repository.models}
    own = {name: files_sha256(_hashed(model)) for name, model in models.items()}
    return {name: _with_members(name, models, own) for name in models}


def files_sha256(files: Mapping[str, str]) -> str:
    """The sha256 of a model from the sha256 (hex) of its files, by their paths in its folder."""
    return _sha256("".join(f"{digest} {path}\n" for path, digest in sorted(files.items())).encode())


def _hashed(model: Model) -> dict[str, str]:
    aside = {folder for folder, number in model.version_folders.items() if number not in model.served}
    paths = ((file, file.path.removeprefix(f"{model.name}/")) for file in model.files)
    return {path: _file_sha256(file) for file, path in paths if path.partition("/")[0] not in aside}


def _file_sha256(file: ModelFile) -> str:
    running = hashlib.sha256()
    try:
        with open(file.source, "rb") as stream:
            while piece := stream.read(_PIECE):
                running.update(piece)
    except OSError as error:
        raise NotFound(f"{file.source} cannot be read: {error.strerror}", hint=f"ls -l {file.source}") from error
    return running.hexdigest()


def _with_members(name: str, models: Mapping[str, Model], own: Mapping[str, str]) -> str:
    below = _members(name, models)
    if len(below) == 1:
        return own[name]
    return files_sha256({one: own.get(one, "") for one in below})


def _members(name: str, models: Mapping[str, Model]) -> set[str]:
    """A model and all that it is made of."""
    found, left = set[str](), [name]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += models[one].members if one in models else ()
    return found


def request_sha256(*requests: Request) -> str:
    """The sha256 of what a request says, whichever way it goes and however long it may take.

    The values count as the bytes of their datatype, so that it does not matter where in the recipe they come from. Of a
    request in a sequence, give those before it too: the answer is of them all. Raises `ValueError`.
    """
    said = [
        {
            "inputs": {name: tensor_sha256(tensor) for name, tensor in request.inputs.items()},
            "parameters": dict(request.parameters),
        }
        for request in requests
    ]
    return _sha256(json.dumps(said, sort_keys=True).encode())


def tensor_sha256(tensor: Tensor) -> str:
    """The sha256 of a tensor's datatype, shape, and values as little-endian bytes. Raises `ValueError`."""
    head = f"{tensor.datatype} {list(tensor.shape)}\n".encode()
    return _sha256(head + pack(tensor))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- comparing ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A golden as it was read. `fault` says why it does not count, with a `hint`."""

    tensor: Tensor
    fault: str | None = None
    hint: str = ""


def read_golden(path: Path, made: Made, *, allow_stale: bool) -> Recorded:
    """The golden in a file, and whether it is one of this model and request. Raises `NotFound` and `Corrupt`."""
    if not path.exists():
        raise NotFound(f"{path} is not there: nothing was recorded yet", hint=RECORD)
    tensor = read_npy(path)
    fault = None if allow_stale else stale(path, made)
    hint = f"{RECORD}, if the answers of now are right; --allow-stale compares all the same" if fault else ""
    return Recorded(tensor=tensor, fault=fault, hint=hint)


def stale(path: Path, made: Made) -> str | None:
    """Why a golden is not one of this answer, or None. A model whose files are not known is taken for the same.

    Raises `Corrupt`.
    """
    beside = sidecar(path)
    if not beside.exists():
        return f"of which model {path.name} was recorded is not known: {beside.name} is not there"
    said = _read_sidecar(beside)
    if said["npy_sha256"] != _sha256(path.read_bytes()):
        return f"{path.name} was changed after it was recorded"
    if said["request_sha256"] != made.request_sha256:
        return f"{path.name} was recorded for another request"
    if made.model_sha256 and said["model_sha256"] and said["model_sha256"] != made.model_sha256:
        return f"the files of {said['model']} have changed since {path.name} was recorded"
    return None


def sidecar(path: Path) -> Path:
    """The file that says what a golden is of."""
    return path.with_name(f"{path.name}.json")


def _read_sidecar(path: Path) -> Mapping[str, Any]:
    try:
        said = json.loads(path.read_bytes())
        if said["schema"] != SCHEMA:
            raise ValueError(f"schema {said['schema']}")
        return {name: str(said[name] or "") for name in ("model", "model_sha256", "request_sha256", "npy_sha256")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} does not say what the golden beside it is of: {error}", hint=RECORD) from error


# -- recording ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    tensor: Tensor
    made: Made
    npy: bytes


class Recorder:
    """Keeps the answers of a run that goldens are wanted of, and writes them all, or none."""

    def __init__(self) -> None:
        self._kept: dict[Path, _Kept] = {}

    @property
    def files(self) -> Sequence[Path]:
        """The files that would be written, as the recipe names them."""
        return tuple(self._kept)

    def keep(self, file: Path, tensor: Tensor, made: Made) -> str | None:
        """Keep an answer for `file`, the first that comes; the reason if it cannot be one."""
        try:
            kept = _Kept(tensor=tensor, made=made, npy=make_npy(tensor))
        except ValueError as error:
            return str(error)
        if any(value != value for value in tensor.values):
            return "it has values that are not a number, which would never equal themselves: it cannot be recorded"
        before = self._kept.setdefault(file, kept)
        if before.made.request_sha256 != made.request_sha256 or before.made.model != made.model:
            return f"{file} is already taken by another request: give each its own file"
        return None

    def kept(self, file: Path) -> Tensor | None:
        """What was kept for a file."""
        return self._kept[file].tensor if file in self._kept else None

    def write(self, base: Path, report: Report) -> tuple[Path, ...]:
        """Write what was kept of a run that went well, with what it is of. Paths start from `base`.

        Raises `CheckFailed` for a run that did not, and `NoRoom`: then nothing was changed.
        """
        if not report.ok:
            raise CheckFailed("nothing was recorded: not every check passed", hint="mend these first, then --record")
        pieces = [piece for file, kept in self._kept.items() for piece in _pieces(base / file, kept, report)]
        _write_all(pieces)
        return tuple(base / file for file in self._kept)


def _pieces(path: Path, kept: _Kept, report: Report) -> Iterator[tuple[Path, bytes]]:
    yield path, kept.npy
    text = json.dumps(_said(kept, report.about, device_of(report, kept.made.model)), indent=2)
    yield sidecar(path), f"{text}\n".encode()


def _said(kept: _Kept, about: About, device: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": kept.made.model,
        "version": kept.made.version,
        "output": kept.made.output,
        "datatype": kept.tensor.datatype,
        "shape": list(kept.tensor.shape),
        "model_sha256": kept.made.model_sha256 or None,
        "request_sha256": kept.made.request_sha256,
        "npy_sha256": _sha256(kept.npy),
        "image": about.image,
        "image_digest": about.digest,
        "server": about.server,
        "device": device,
        "tool": about.tool,
        "recorded": about.started,
    }


def device_of(report: Report, model: str) -> str:
    """What a model ran on, as far as the report says: `gpu`, `cpu`, or empty where it was not seen."""
    for result in report.results:
        if result.id == f"gpu:{model}":
            return "gpu" if result.outcome == "passed" else ""
        if result.kind == "gpu" and result.evidence.get("visible") == 0:
            return "cpu"
    return ""


def _write_all(pieces: Sequence[tuple[Path, bytes]]) -> None:
    """Write every file under another name first: only where all could be written does any take its place."""
    ready: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path, data in pieces:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            ready.append((part, path))
            with open(part, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        for part, path in ready:
            os.replace(part, path)
    except OSError as error:
        look = "df -h" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "ls -ld"
        raise NoRoom(f"{path} cannot be written: {error.strerror}", hint=f"{look} {path.parent}") from error
    finally:
        for part, _ in ready:
            with suppress(OSError):
                part.unlink()
