"""Conversion to TensorRT, decided: what trtexec is told, in which container, and when a plan that is there will do.

    recipe x index x Original x TensorRT's version --decide (pure)--> Job --engines/trtexec.py--> Made

A plan belongs to one version of TensorRT and to GPUs of one kind. So it is made with the TensorRT of the release, in
NVIDIA's container, on a GPU like the one that it will be served on; made plans are kept by what they were made of.
On a machine without a GPU a plan is taken that was made elsewhere (`plan:`), by the record that lies beside it.

What trtexec does and lacks is known from its source (see releases/trtexec.toml); none of it was tried on NVIDIA's
container, which this project has not had.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from composer.errors import Corrupt, NotFound, Problem, RecipeError, UnknownRelease
from composer.models.onnx import FILE as MODEL
from composer.models.onnx import OnnxModel, Value, read_onnx
from composer.models.opening import Unreadable
from composer.oci.names import Reference, parse_reference
from composer.recipe import Conversion, Recipe
from composer.releases import RELEASES, trtexec
from composer.releases.trtexec import Flag, Version

NGC: Final = "docker://nvcr.io/nvidia/tensorrt"
"""NVIDIA's container with trtexec: a tag for each release, as Triton's has. Source: the NGC catalog."""

WORKPLACE: Final = "/tricompose"
"""The folder of the container that everything is put into."""

PLAN: Final = f"{WORKPLACE}/made/model.plan"
TIMING: Final = f"{WORKPLACE}/made/timing.cache"

RECORD: Final = ".json"
"""What the name of a plan's record ends with, after the plan's own."""

_PLACES: Final = "/opt/tensorrt/bin:/usr/src/tensorrt/bin:/workspace/tensorrt/bin"
"""Where NVIDIA's containers have had trtexec, for those that do not find it in PATH."""

_BELOW_11: Final = (11, 0)
_MODELOPT: Final = "python -m modelopt.onnx.autocast --onnx_path"


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
        return _hashed({file.target: file.digest for file in self.files})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as nvidia-smi names it. `capability` is NVIDIA's compute capability, such as 8.6; empty: not told."""

    name: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capability or 'compute capability not told'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One conversion, decided. `index` is the model's place in the recipe, `argv` what trtexec is told.

    `fingerprint` names the result for one GPU: the model, the version, the flags and what they read. A timing cache is
    not in it: it says how long things took, and not what they do. `device` is a GPU's ID, None: the first there is.
    `notes` are what the server must be told to be able to load the plan: message and hint.
    """

    name: str
    index: int
    version: str
    model: str
    argv: tuple[str, ...]
    files: tuple[Brought, ...]
    fingerprint: str
    device: str | None
    timing_cache: Path | None
    plan: Path | None
    notes: tuple[tuple[str, str], ...]

    @property
    def command(self) -> tuple[str, ...]:
        """What the container runs."""
        find = f'PATH="$PATH:{_PLACES}"; mkdir -p {WORKPLACE}/made; exec trtexec "$@"'
        return ("/bin/sh", "-c", find, "trtexec", *self.argv)

    def key(self, gpu: Gpu) -> str:
        """What the plan is kept under. The driver is not in it: plans are not bound to one."""
        return _hashed({"job": self.fingerprint, "gpu": gpu.name, "capability": gpu.capability})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Of what a plan was made, and where. Lies beside it as JSON, and goes with it from machine to machine."""

    name: str
    model: str
    tensorrt: str
    argv: tuple[str, ...]
    fingerprint: str
    gpu: Gpu
    image: str
    digest: str
    size: int

    def text(self) -> str:
        """The record as it is written."""
        return json.dumps({"schema": 1, **asdict(self)}, indent=2, sort_keys=True) + "\n"


def read_record(text: str, *, where: str) -> Record:
    """A record from its text. Raises `Corrupt` for what is none."""
    try:
        data = json.loads(text)
        if data.pop("schema") != 1:
            raise ValueError("it is of another format")
        gpu = Gpu(**data.pop("gpu"))
        record = Record(**{**data, "argv": tuple(data["argv"])}, gpu=gpu)
        texts = (record.name, record.model, record.tensorrt, record.fingerprint, record.digest, *record.argv)
        if not all(isinstance(value, str) for value in (*texts, *asdict(gpu).values())):
            raise ValueError("a text is missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{where} is not the record of a plan: {error}", hint=f"rm {where}, and convert again") from error
    return record


# -- which container, which version -------------------------------------------------------------------------------


def image_of(recipe: Recipe, conversion: Conversion) -> Reference:
    """The image with trtexec: the one that is named, or NVIDIA's of the same release. Raises `UnknownRelease`."""
    if conversion.image:
        return recipe.place(conversion.image)
    if recipe.triton is None:
        raise UnknownRelease(
            "nothing says which TensorRT the server has, as the recipe names no release", hint='triton: "24.09"'
        )
    return parse_reference(f"{NGC}:{recipe.triton}-py3")


def version_of(config: Mapping[str, Any]) -> str | None:
    """The version of TensorRT that an image's config names, None where it does not. Source: NVIDIA's images."""
    inner = config.get("config") or {}
    pairs = (entry.partition("=") for entry in inner.get("Env") or ())
    said = {name: value for name, _, value in pairs}
    labels = inner.get("Labels") or {}
    names = (said.get("TRT_VERSION"), said.get("TENSORRT_VERSION"), labels.get("com.nvidia.tensorrt.version"))
    found = (re.match(r"[0-9]+(?:\.[0-9]+){1,3}", name) for name in names if name)
    return next((match[0] for match in found if match), None)


def expected_version(recipe: Recipe, upstream: Mapping[str, Any]) -> str | None:
    """The TensorRT that the server will have, as the upstream image's config has it, or as is known of the release."""
    known = RELEASES.get(recipe.triton or "")
    return version_of(upstream) or (known.tensorrt if known else None)


def same_version(one: str, other: str) -> bool:
    """Whether two spellings can be of one version: `8.5.1` is short for `8.5.1.7`."""
    return all(left == right for left, right in zip(one.split("."), other.split("."), strict=False))


# -- what is read -------------------------------------------------------------------------------------------------

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
        raise RecipeError([_problem(recipe, index, (("from",), f"{path} {model.words}", hint))])
    faults: list[_Fault] = []
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
        raise RecipeError([_problem(recipe, index, fault) for fault in faults])
    original = Original(
        path=path,
        files=tuple(files),
        inputs=tuple(map(_tensor, model.inputs)),
        outputs=tuple(map(_tensor, model.outputs)),
        quantized=any(name in _QUANTIZERS for _, name in model.operators),
    )
    return original, found


def _external(root: Path, model: OnnxModel, faults: list[_Fault]) -> Iterator[tuple[Path, str]]:
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


def _brought(source: Path, target: str, key: str, faults: list[_Fault]) -> Brought | None:
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


# -- decide -------------------------------------------------------------------------------------------------------


def decide(recipe: Recipe, index: int, original: Original, extras: Extras, version: str) -> Job:
    """What trtexec is told for the model at `index` of the recipe.

    `extras` are the files that the conversion names besides the model, by the paths that it names them with. Raises
    `RecipeError` with everything that this version of TensorRT, or trtexec in silence, would do otherwise.
    """
    source = recipe.models[index]
    conversion = source.convert
    if conversion is None or source.name is None:
        raise ValueError(f"models[{index}] is not converted")
    case = _Case(conversion=conversion, original=original, version=trtexec.parsed(version), gpus=recipe.run.gpus)
    if faults := [fault for rule in _RULES for fault in rule(case)]:
        raise RecipeError([_problem(recipe, index, fault) for fault in faults])
    argv = tuple(_arguments(case, extras))
    files = (*original.files, *extras.values())
    return Job(
        name=source.name,
        index=index,
        version=version,
        model=original.digest,
        argv=argv,
        files=files,
        fingerprint=_fingerprint(version, argv, [*original.files, *_lasting(conversion, extras)]),
        device=recipe.run.gpus[0] if isinstance(recipe.run.gpus, tuple) else None,
        timing_cache=recipe.base / conversion.timing_cache if conversion.timing_cache else None,
        plan=recipe.base / conversion.plan if conversion.plan else None,
        notes=tuple(_notes(recipe, conversion)),
    )


def named_files(conversion: Conversion) -> dict[Path, str]:
    """The files that a conversion names besides the model, and where they lie in the container."""
    found = {path: f"{WORKPLACE}/plugins/{number}/{path.name}" for number, path in enumerate(conversion.plugins)}
    if conversion.calibration:
        found[conversion.calibration] = f"{WORKPLACE}/calibration.cache"
    return found


def _lasting(conversion: Conversion, extras: Extras) -> list[Brought]:
    return [extras[path] for path in named_files(conversion)]


def _fingerprint(version: str, argv: Sequence[str], files: Sequence[Brought]) -> str:
    lasting = [argument for argument in argv if not argument.startswith("--timingCacheFile=")]
    read = {file.target: file.digest for file in files}
    return _hashed({"tensorrt": version, "argv": lasting, "files": read})


def _hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What the rules look at."""

    conversion: Conversion
    original: Original
    version: Version
    gpus: object

    @property
    def typed(self) -> bool:
        """Whether types are those of the model, whatever is asked for."""
        return self.version >= _BELOW_11

    @property
    def spelled(self) -> str:
        return f"TensorRT {'.'.join(map(str, self.version))}"


_Fault = tuple[tuple[str | int, ...], str, str]
"""The keys below `convert:`, what is wrong, what to do."""


def _problem(recipe: Recipe, index: int, fault: _Fault) -> Problem:
    path, message, hint = fault
    return Problem(where=recipe.where("models", index, "convert", *path), message=message, hint=hint)


def _gpu_rule(case: _Case) -> Iterator[_Fault]:
    if case.gpus == "none":
        yield (), "a TensorRT plan runs on a GPU only, and run.gpus is none", "run: {gpus: all}"


def _age_rule(case: _Case) -> Iterator[_Fault]:
    if case.version < trtexec.OLDEST:
        yield ("to",), f"it is not known what trtexec of {case.spelled} takes", "a release from 20.10 on"
    for key, flag in _KEYED.items():
        if getattr(case.conversion, key) and not trtexec.flags()[flag].known_to(case.version):
            yield (key,), f"{case.spelled} has no --{flag}", _when(trtexec.flags()[flag], case.version)


_KEYED: Final = {
    "timing_cache": "timingCacheFile",
    "version_compatible": "versionCompatible",
    "hardware_compatibility": "hardwareCompatibilityLevel",
    "calibration": "calib",
}


def _same_capability_rule(case: _Case) -> Iterator[_Fault]:
    if case.conversion.hardware_compatibility == "same_compute_capability" and (8, 6) <= case.version < (10, 9):
        message = f"{case.spelled} knows no same_compute_capability: it came with 10.9"
        yield ("hardware_compatibility",), message, "hardware_compatibility: ampere+"


def _precision_rule(case: _Case) -> Iterator[_Fault]:
    precision = case.conversion.precision
    if precision == "fp32":
        return
    if case.typed:
        message = f"{case.spelled} computes in the model's own types, and takes no precision"
        yield ("precision",), message, f"{_MODELOPT} {case.conversion.from_}, convert what it writes, precision: fp32"
    elif not (flag := trtexec.flags()[precision]).known_to(case.version):
        yield ("precision",), f"{case.spelled} has no {precision}", _when(flag, case.version)
    elif case.conversion.flags.get("stronglyTyped") is True:
        yield ("precision",), "a strongly typed model computes in its own types only", "precision: fp32"
    else:
        yield from _quantization(case, precision)


def _quantization(case: _Case, precision: str) -> Iterator[_Fault]:
    if case.original.quantized:
        return
    if precision == "fp8":
        message = "fp8 is used where the model has Q/DQ nodes, and this one has none"
        yield ("precision",), message, "quantize it with NVIDIA's ModelOpt, or precision: fp16"
    elif precision in ("int8", "best") and case.conversion.calibration is None:
        # trtexec goes on with ranges that it makes up, so that it can measure: such a plan answers nonsense.
        message = (
            f"{precision} needs the ranges of the model's values: it has no Q/DQ nodes, and there is no calibration"
        )
        yield ("precision",), message, "calibration: ./calibration.cache, or precision: fp16"


def _shape_rule(case: _Case) -> Iterator[_Fault]:
    known = {tensor.name: tensor for tensor in case.original.inputs}
    for name in case.conversion.shapes:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"its inputs are {', '.join(known)}"
            yield ("shapes", name), f'the model has no input "{name}"', hint
        elif fault := _misfit(known[name], case):
            yield ("shapes", name), *fault
    # trtexec takes 1 for each of them and goes on.
    for tensor in known.values():
        if tensor.dynamic and tensor.name not in case.conversion.shapes:
            message = f'the shape of the input "{tensor.name}" is not fixed, and nothing says what it may be'
            yield ("shapes",), message, f"shapes: {{{tensor.name}: {_example(tensor)}}}"


def _misfit(tensor: Tensor, case: _Case) -> tuple[str, str] | None:
    """Why a shape that the recipe gives cannot be that of an input."""
    profile = case.conversion.shapes[tensor.name]
    if re.search(r"[,']", tensor.name):
        return "trtexec cannot be told of an input with a comma or a quote in its name", "rename it in the model"
    if tensor.dims is None:
        return None
    shown = _spelled_dims(tensor.dims)
    if not any(one.dynamic for one in case.original.inputs):
        return f"the shape is fixed in the model, {shown}, so that none can be chosen", "remove shapes"
    if len(profile.opt) != len(tensor.dims):
        return f"it has {len(tensor.dims)} dimensions, {shown}, not {len(profile.opt)}", _example(tensor)
    for dimension, *given in zip(tensor.dims, profile.min, profile.opt, profile.max, strict=True):
        if dimension is not None and {*given} != {dimension}:
            return f"a dimension is fixed to {dimension} in the model, {shown}", _example(tensor)
    return None


def _spelled_dims(dims: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if one is None else str(one) for one in dims)}]"


def _example(tensor: Tensor) -> str:
    """A profile of the right rank, to be edited."""
    parts = (f"{word}: [{', '.join(str(one or free) for one in tensor.dims or (None,))}]" for word, free in _FREE)
    return f"{{{', '.join(parts)}}}"


_FREE: Final = (("min", 1), ("opt", 8), ("max", 32))


def _format_rule(case: _Case) -> Iterator[_Fault]:
    sides = {"input_formats": case.original.inputs, "output_formats": case.original.outputs}
    for key, tensors in sides.items():
        given = getattr(case.conversion, key)
        if len(given) > 1 and len(given) != len(tensors):
            word = key.partition("_")[0]
            names = ", ".join(tensor.name for tensor in tensors)
            yield (key,), f"there are {len(given)} formats for {len(tensors)} {word}s", f"one for all, or for: {names}"


def _workspace_rule(case: _Case) -> Iterator[_Fault]:
    if case.conversion.workspace is not None and case.conversion.workspace < _MIB:
        yield ("workspace",), "TensorRT counts its workspace in MiB, and this is less than one", "workspace: 1GiB"


def _flag_rule(case: _Case) -> Iterator[_Fault]:
    for name, value in case.conversion.flags.items():
        flag = trtexec.flags().get(name)
        if flag is None:
            near = difflib.get_close_matches(name, trtexec.flags(), 1, 0.6)
            hint = f'did you mean "{near[0]}"?' if near else "flags that only measure are not taken: trtexec --help"
            yield ("flags", name), f'no trtexec has a flag "{name}" that says how to build', hint
        elif flag.key:
            yield ("flags", name), f"--{name} is written by tricompose", f"see the key {flag.key}"
        elif not flag.known_to(case.version):
            yield ("flags", name), f"{case.spelled} has no --{name}", _when(flag, case.version)
        elif wanted := _unfit(flag, value):
            yield ("flags", name), f"--{name} takes {wanted[0]}", f"{name}: {wanted[1]}"


def _when(flag: Flag, version: Version) -> str:
    """Since when there is a flag, or what came after it."""
    if version[:2] < flag.since:
        return f"it came with {'.'.join(map(str, flag.since))}: remove it, or take a newer release"
    return flag.instead or "remove it"


def _unfit(flag: Flag, value: object) -> tuple[str, str] | None:
    """What a flag takes, with an example, where it does not take a value."""
    if isinstance(flag.takes, tuple):
        fits, words = value in flag.takes, f"one of {', '.join(flag.takes)}"
        return None if fits else (words, flag.takes[0])
    kind, words, example = _KINDS[flag.takes]
    number = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    return None if number and not (isinstance(value, int) and value < 0) else (words, example)


_KINDS: Final[Mapping[str, tuple[type | tuple[type, ...], str, str]]] = {
    "switch": (bool, "true, or is not written", "true"),
    "count": (int, "a whole number", "3"),
    "number": ((int, float), "a number", "0.5"),
    "text": (str, "a text", '"..."'),
}

_RULES: Final = (
    _gpu_rule,
    _age_rule,
    _same_capability_rule,
    _precision_rule,
    _shape_rule,
    _format_rule,
    _workspace_rule,
    _flag_rule,
)


# -- the arguments ------------------------------------------------------------------------------------------------

_MIB: Final = 1 << 20


def _arguments(case: _Case, extras: Extras) -> Iterator[str]:
    conversion = case.conversion
    yield f"--onnx={case.original.files[0].target}"
    yield f"--saveEngine={PLAN}"
    yield "--skipInference" if _has("skipInference", case) else "--buildOnly"
    yield from (f"--{name}" for name in _PRECISIONS[conversion.precision] if _has(name, case))
    yield from _shape_arguments(conversion)
    if conversion.input_formats:
        yield f"--inputIOFormats={','.join(conversion.input_formats)}"
    if conversion.output_formats:
        yield f"--outputIOFormats={','.join(conversion.output_formats)}"
    if conversion.workspace:
        mib = conversion.workspace // _MIB
        yield f"--memPoolSize=workspace:{mib}" if _has("memPoolSize", case) else f"--workspace={mib}"
    if conversion.calibration:
        yield f"--calib={extras[conversion.calibration].target}"
    if conversion.timing_cache:
        yield f"--timingCacheFile={TIMING}"
    load = "staticPlugins" if _has("staticPlugins", case) else "plugins"
    yield from (f"--{load}={extras[path].target}" for path in conversion.plugins)
    if conversion.version_compatible:
        yield "--versionCompatible"
    if conversion.hardware_compatibility:
        yield f"--hardwareCompatibilityLevel={_LEVELS[conversion.hardware_compatibility]}"
    yield from (_spelled(name, value) for name, value in conversion.flags.items() if value is not False)


_PRECISIONS: Final[Mapping[str, Sequence[str]]] = {
    "fp32": (),
    "fp16": ("fp16",),
    "bf16": ("bf16",),
    "int8": ("int8", "fp16"),
    "fp8": ("fp8", "fp16"),
    "best": ("best",),
}
_LEVELS: Final = {"ampere+": "ampere+", "same_compute_capability": "sameComputeCapability"}


def _has(flag: str, case: _Case) -> bool:
    return trtexec.flags()[flag].known_to(case.version)


def _shape_arguments(conversion: Conversion) -> Iterator[str]:
    for word in ("min", "opt", "max") if conversion.shapes else ():
        shapes = (
            f"{_quoted(name)}:{'x'.join(map(str, getattr(one, word)))}" for name, one in conversion.shapes.items()
        )
        yield f"--{word}Shapes={','.join(shapes)}"


def _quoted(name: str) -> str:
    """A tensor's name as trtexec reads it: what is before a colon would be taken for all of it, but in quotes."""
    return f"'{name}'" if ":" in name else name


def _spelled(name: str, value: object) -> str:
    return f"--{name}" if value is True else f"--{name}={value}"


def _notes(recipe: Recipe, conversion: Conversion) -> Iterator[tuple[str, str]]:
    """What the server must be told of the plan. Source: the tensorrt backend's README."""
    said = json.dumps(recipe.model_dump(include={"server"}), default=str)
    if conversion.version_compatible and "version-compatible" not in said:
        hint = "server: {backend-config: {tensorrt: {version-compatible: true}}}"
        yield "the server reads a version compatible plan only where it is told to", hint
    for path in conversion.plugins:
        if path.name not in said:
            hint = f"files: [{{source: {path}, target: /opt/plugins/{path.name}}}], and server: "
            hint += f"{{backend-config: {{tensorrt: {{plugins: /opt/plugins/{path.name}}}}}}}"
            yield f"the server needs the plugin {path.name} too", hint


# -- what is there already ----------------------------------------------------------------------------------------


def suits(record: Record, job: Job, digest: str, *, where: str) -> None:
    """Whether a plan that was made elsewhere is the one that this job would make, `digest` being its SHA-256.

    Raises `Corrupt` where its bytes are not those of its record, and `NotFound` where it was made of something else.
    """
    again = f"where the GPU is: tricompose models convert RECIPE --only {job.name}"
    if digest != record.digest:
        message = f"{where} has the SHA-256 {digest}, and was made with {record.digest}"
        raise Corrupt(message, hint="copy it again, with its record")
    if record.fingerprint == job.fingerprint:
        return
    if record.model != job.model:
        raise NotFound(
            f"{where} was made from another model: its SHA-256 is {record.model}, not {job.model}", hint=again
        )
    if record.tensorrt != job.version:
        raise NotFound(f"{where} was made with TensorRT {record.tensorrt}, and this is {job.version}", hint=again)
    changed = sorted(set(record.argv) ^ set(job.argv))
    reason = f"these flags differ: {' '.join(changed)}" if changed else "a plugin or the calibration has changed"
    raise NotFound(f"{where} was made in another way: {reason}", hint=again)


# -- what the server will see -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """An input or output of a plan, as config.pbtxt has it: -1 for dimensions that are not fixed.

    With batching, `dims` are without the first one. `linear` is false for a layout that clients must know of.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    linear: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a plan takes and gives. `max_batch_size` is 0 where the first dimension is no batch."""

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    max_batch_size: int


def interface_of(original: Original, conversion: Conversion, version: str) -> Interface | None:
    """What a plan will take and give, as follows from the model. None where the model does not say enough.

    Formats change types; TensorRT before 10 has no INT64, and none has FP64: such tensors get the next smaller type.
    Source: TensorRT's data types and onnx-tensorrt's list of operators. That a plan's first dimension is a batch where
    it is not fixed for all inputs and outputs is the rule of the tensorrt backend's auto-complete.
    """
    tensors = (*original.inputs, *original.outputs)
    if any(tensor.dims is None or tensor.datatype is None for tensor in tensors):
        return None
    most = _batch(original, conversion)
    old = trtexec.parsed(version) < (10,)
    return Interface(
        inputs=_bindings(original.inputs, conversion.input_formats, batched=bool(most), old=old),
        outputs=_bindings(original.outputs, conversion.output_formats, batched=bool(most), old=old),
        max_batch_size=most,
    )


def _batch(original: Original, conversion: Conversion) -> int:
    """The largest batch that all inputs take, 0 where the first dimension is none."""
    tensors = (*original.inputs, *original.outputs)
    if not all(tensor.dims and tensor.dims[0] is None for tensor in tensors):
        return 0
    return min((conversion.shapes[tensor.name].max[0] for tensor in original.inputs), default=0)


def _bindings(tensors: Sequence[Tensor], formats: Sequence[str], *, batched: bool, old: bool) -> tuple[Binding, ...]:
    spread = [*formats] if len(formats) == len(tensors) else [*formats[:1]] * len(tensors)
    return tuple(
        _binding(tensor, spread[place] if spread else None, batched=batched, old=old)
        for place, tensor in enumerate(tensors)
    )


def _binding(tensor: Tensor, layout: str | None, *, batched: bool, old: bool) -> Binding:
    kind, _, order = (layout or "").partition(":")
    narrower = {"FP64": "FP32", **({"INT64": "INT32"} if old else {})}
    datatype = str(tensor.datatype)
    dims = tuple(-1 if one is None else one for one in tensor.dims or ())
    return Binding(
        name=tensor.name,
        datatype=kind.upper() if kind else narrower.get(datatype, datatype),
        dims=dims[1:] if batched else dims,
        linear=order in ("", "chw"),
    )


Side = Literal["input", "output"]


def config_text(name: str, interface: Interface) -> str:
    """The config.pbtxt of a plan."""
    lines = [f'name: "{name}"', 'backend: "tensorrt"', f"max_batch_size: {interface.max_batch_size}"]
    sides: tuple[tuple[Side, tuple[Binding, ...]], ...] = (("input", interface.inputs), ("output", interface.outputs))
    for side, bindings in sides:
        lines += [line for binding in bindings for line in _config_lines(side, binding)]
    return "\n".join(lines) + "\n"


def _config_lines(side: Side, binding: Binding) -> Iterator[str]:
    yield f"{side} {{"
    yield f"  name: {json.dumps(binding.name)}"
    yield f"  data_type: TYPE_{binding.datatype}"
    # A tensor of one value each has no dims beside the batch; the config cannot say so, and has one of 1.
    yield f"  dims: [{', '.join(map(str, binding.dims or (1,)))}]"
    if not binding.dims:
        yield "  reshape { shape: [] }"
    if not binding.linear:
        yield "  is_non_linear_format_io: true"
    yield "}"
