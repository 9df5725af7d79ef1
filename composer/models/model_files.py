"""The file of a model, whatever it is: which reader is for it, and the config.pbtxt that follows from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from composer.disk import room
from composer.errors import NotFound, Unplannable
from composer.models.autoconfig import written
from composer.models.onnx import OnnxModel, read_onnx
from composer.models.opening import Unreadable
from composer.models.repository import CONFIG, ModelRepository, read_repository
from composer.models.tensorrt_plan import TensorRtPlan, read_plan
from composer.models.torchscript import TorchFile, read_torch

ModelFile = OnnxModel | TorchFile | TensorRtPlan

SUFFIXES: Final[Mapping[str, str]] = {
    ".onnx": "onnxruntime",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".torchscript": "pytorch",
    ".plan": "tensorrt",
    ".engine": "tensorrt",
    ".trt": "tensorrt",
    ".xml": "openvino",
    ".py": "python",
}
"""The backend that serves a file, by the end of its name."""

READERS: Final[Mapping[str, Callable[[Path], ModelFile | Unreadable]]] = {
    "pytorch": read_torch,
    "tensorrt": read_plan,
    "onnxruntime": read_onnx,
}
"""What reads the file of each backend, those first that are sure of their own."""

AGREEMENT: Final = ("ONX", "PT", "TRT", "BAT009", "BAT010")
"""The lint rules that compare a config with the file: those whose id begins so."""


def config_for(model: Path, *, release: str | None) -> str:
    """The config.pbtxt for a model's folder or file.

    Raises `NotFound` where there is no file that can be read, `Unplannable` for a model that no config can make serve.
    """
    if model.is_file():
        return written(model.stem, _read(model), filename=None, release=release)
    found = alone(model).models[0]
    file = next((entry for entry in found.model_files if entry.kind == "file"), None) or _lone(model)
    named = found.config.default_model_filename or None
    source = file if isinstance(file, Path) else file.source
    usual = named or (source.name if source.stem != "model" else None)
    return written(found.name, _read(source), filename=usual, release=release)


def _lone(folder: Path) -> Path:
    """The only file of the last version that a reader is for, where the backend's own name is not among them."""
    files = sorted(path for path in folder.glob("[0-9]*/*") if SUFFIXES.get(path.suffix) in READERS)
    if len({path.name for path in files}) == 1:
        return files[-1]
    hint = f"ls {folder}/1   (an ONNX file, a TorchScript file or a TensorRT plan is wanted)"
    raise NotFound(f"{folder}: there is no model file in a version that says what it takes and gives", hint=hint)


def _read(path: Path) -> ModelFile:
    reader = READERS.get(SUFFIXES.get(path.suffix, ""))
    if reader is None:
        known = ", ".join(suffix for suffix, backend in SUFFIXES.items() if backend in READERS)
        raise Unplannable(f"{path}: nothing is known of files of this kind", hint=f"it can be one of: {known}")
    found = reader(path)
    if isinstance(found, Unreadable):
        hint = "tricompose models lint REPOSITORY   (says more, of a model in its folder)"
        raise Unplannable(f"{path}: {found.words}", hint=hint)
    return found


def alone(folder: Path) -> ModelRepository:
    """A repository of this one model. Raises `NotFound` where there is no such folder."""
    folder = folder if folder.name not in ("", "..") else Path(os.path.abspath(folder))
    repository = read_repository(folder.parent)
    models = tuple(model for model in repository.models if model.name == folder.name)
    if not models:
        raise NotFound(f"{folder} is no model's folder", hint=f"tricompose models ls {folder.parent}")
    return ModelRepository(path=repository.path, models=models)


def put_config(model: Path, text: str) -> Path:
    """Write the config.pbtxt of the model in a folder, where there is none. Raises `Unplannable` where there is one."""
    path = model / CONFIG
    with room(path):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            hint = f"tricompose models config {model} --check"
            raise Unplannable(f"{path} is there already", hint=hint) from error
    return path
