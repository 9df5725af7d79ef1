"""What is converted to TensorRT: an ONNX model with its weights, and what else trtexec reads. Found and measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from composer.errors import Problem, RecipeError
from composer.models.onnx import FILE as MODEL
from composer.models.onnx import OnnxModel, Value, read_onnx
from composer.models.opening import Unreadable
from composer.recipe import Conversion, Recipe

WORKPLACE: Final = "/tricompose"
"""The folder of the container that everything is put into."""

Fault = tuple[tuple[str | int, ...], str, str]
"""The keys below `convert:`, what is wrong, what to do."""


def problem_of(recipe: Recipe, index: int, fault: Fault) -> Problem:
    """A fault, with the place in the recipe that it is about."""
    path, message, hint = fault
    return Problem(where=recipe.where("models", index, "convert", *path), message=message, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a model. Dimensions that are not fixed are None; `dims` is None where nothing is said.

    `datatype` is spelled as in the v2 protocol: FP32, INT64. None where TensorRT has no such type.
    """

    name: str
    datatype: str | None
    dims: tuple[int | None, ...] | None

    @property
    def dynamic(self) -> bool:
        """Whether its shape is for the caller to choose."""
        return self.dims is None or None in self.dims


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A file that goes into the container, to `target`: its place here, bytes and SHA-256."""

    target: str
    source: Path
    size: int
    digest: str


Extras = Mapping[Path, Brought]
"""The files that a conversion names besides the model, by the paths that it names them with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """An ONNX model that is to be converted: its files, with external data, and what it says of itself.

    `quantized` says whether it has QuantizeLinear or DequantizeLinear nodes: then its ranges are its own.
    """

    path: Path
    files: tuple[Brought, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    quantized: bool

    @property
    def digest(self) -> str:
        """SHA-256 of the model, external data included."""
        return hashed({file.target: file.digest for file in self.files})


def hashed(value: object) -> str:
    """The SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def named_files(conversion: Conversion) -> dict[Path, str]:
    """The files that a conversion names besides the model, and where they lie in the container."""
    found = {path: f"{WORKPLACE}/plugins/{number}/{path.name}" for number, path in enumerate(conversion.plugins)}
    if conversion.calibration:
        found[conversion.calibration] = f"{WORKPLACE}/calibration.cache"
    return found


_QUANTIZERS: Final = frozenset(["QuantizeLinear", "DequantizeLinear"])
_EXPORTS: Final = {
    ".pt": "torch.onnx.export(model, inputs, 'model.onnx')",
    ".pth": "torch.onnx.export(model, inputs, 'model.onnx')",
    ".pb": "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx",
    ".h5": "python -m tf2onnx.convert --keras MODEL.h5 --output model.onnx",
    ".plan": "it is a plan already: name it as source: in place of convert:",
    ".engine": "it is a plan already: name it as source: in place of convert:",
}
"""What to do with models of other kinds."""


def survey_original(recipe: Recipe, index: int) -> tuple[Original, Extras]:
    """Read the model that is converted at `index` of the recipe, and the files that go with it. They are hashed whole.

    Raises `RecipeError` for what is missing, or no ONNX model.
    """
    conversion = recipe.models[index].convert
    if conversion is None:
        raise ValueError(f"models[{index}] is not converted")
    path = recipe.base / conversion.from_
    model = read_onnx(path)
    if isinstance(model, Unreadable):
        hint = _EXPORTS.get(path.suffix, f"ls -l {path}")
        raise RecipeError([problem_of(recipe, index, (("from",), f"{path} {model.words}", hint))])
    faults: list[Fault] = []
    root = path / MODEL if path.is_dir() else path
    names = {"from": [(root, f"{WORKPLACE}/model/{MODEL}"), *_external(root, model, faults)]}
    extras = named_files(conversion)
    files = [one for source, target in names["from"] if (one := _brought(source, target, "from", faults))]
    found = {
        name: one
        for name, target in extras.items()
        if (one := _brought(recipe.base / name, target, _key_of(conversion, name), faults))
    }
    if faults:
        raise RecipeError([problem_of(recipe, index, fault) for fault in faults])
    original = Original(
        path=path,
        files=tuple(files),
        inputs=tuple(map(_tensor, model.inputs)),
        outputs=tuple(map(_tensor, model.outputs)),
        quantized=any(name in _QUANTIZERS for _, name in model.operators),
    )
    return original, found


def _external(root: Path, model: OnnxModel, faults: list[Fault]) -> Iterator[tuple[Path, str]]:
    """The files with weights of a model, which lie below its folder."""
    for name in sorted(model.external):
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts:
            faults.append(
                (("from",), f"{root} has weights outside of its folder: {name}", "save it anew, with onnx.save")
            )
        else:
            yield root.parent / inner, f"{WORKPLACE}/model/{inner}"


def _key_of(conversion: Conversion, path: Path) -> str:
    return "plugins" if path in conversion.plugins else "calibration"


def _brought(source: Path, target: str, key: str, faults: list[Fault]) -> Brought | None:
    try:
        said = source.stat()
        digest = _digest(source, said.st_ino, said.st_size, said.st_mtime_ns)
    except OSError as error:
        faults.append(((key,), f"{source} cannot be read: {error.strerror}", f"ls -l {source}"))
        return None
    return Brought(target=target, source=source, size=said.st_size, digest=digest)


@lru_cache(maxsize=64)
def _digest(source: Path, number: int, size: int, changed: int) -> str:
    """The SHA-256 of a file, read once for as long as nobody touches it: models are large, and asked for often."""
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensor(value: Value) -> Tensor:
    datatype = value.datatype.removeprefix("TYPE_") if value.datatype else None
    dims = (
        None if value.dims is None else tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in value.dims)
    )
    return Tensor(name=value.name, datatype=datatype, dims=dims)
