"""Conversion to TensorRT, decided: what trtexec is told, in which container, and when a plan that is there will do.

    recipe x index x Original x TensorRT's version --decide (pure)--> Job --engines/trtexec.py--> Made

A plan belongs to one version of TensorRT and to GPUs of one kind. So it is made with the TensorRT of the release, in
NVIDIA's container, on a GPU like the one that it will be served on; made plans are kept by what they were made of.
On a machine without a GPU a plan is taken that was made elsewhere (`plan:`), by the record that lies beside it.

What trtexec does and lacks is known from its source (see releases/trtexec.toml); none of it was tried on NVIDIA's
container, which this project has not had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from composer.errors import Corrupt, NotFound, RecipeError, UnknownRelease
from composer.models.tensorrt_rules import MIB, RULES, Case, has
from composer.models.tensorrt_source import WORKPLACE, Brought, Extras, Original, hashed, named_files, problem_of
from composer.oci.names import Reference, parse_reference
from composer.recipe import Conversion, Recipe
from composer.releases import RELEASES, trtexec

NGC: Final = "docker://nvcr.io/nvidia/tensorrt"
"""NVIDIA's container with trtexec: a tag for each release, as Triton's has. Source: the NGC catalog."""

PLAN: Final = f"{WORKPLACE}/made/model.plan"
TIMING: Final = f"{WORKPLACE}/made/timing.cache"

RECORD: Final = ".json"
"""What the name of a plan's record ends with, after the plan's own."""

_PLACES: Final = "/opt/tensorrt/bin:/usr/src/tensorrt/bin:/workspace/tensorrt/bin"
"""Where NVIDIA's containers have had trtexec, for those that do not find it in PATH."""


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
        return hashed({"job": self.fingerprint, "gpu": gpu.name, "capability": gpu.capability})


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
    case = Case(conversion=conversion, original=original, version=trtexec.parsed(version), gpus=recipe.run.gpus)
    if faults := [fault for rule in RULES for fault in rule(case)]:
        raise RecipeError([problem_of(recipe, index, fault) for fault in faults])
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


def _lasting(conversion: Conversion, extras: Extras) -> list[Brought]:
    return [extras[path] for path in named_files(conversion)]


def _fingerprint(version: str, argv: Sequence[str], files: Sequence[Brought]) -> str:
    lasting = [argument for argument in argv if not argument.startswith("--timingCacheFile=")]
    read = {file.target: file.digest for file in files}
    return hashed({"tensorrt": version, "argv": lasting, "files": read})


# -- the arguments ------------------------------------------------------------------------------------------------


def _arguments(case: Case, extras: Extras) -> Iterator[str]:
    conversion = case.conversion
    yield f"--onnx={case.original.files[0].target}"
    yield f"--saveEngine={PLAN}"
    yield "--skipInference" if has("skipInference", case) else "--buildOnly"
    yield from (f"--{name}" for name in _PRECISIONS[conversion.precision] if has(name, case))
    yield from _shape_arguments(conversion)
    if conversion.input_formats:
        yield f"--inputIOFormats={','.join(conversion.input_formats)}"
    if conversion.output_formats:
        yield f"--outputIOFormats={','.join(conversion.output_formats)}"
    if conversion.workspace:
        mib = conversion.workspace // MIB
        yield f"--memPoolSize=workspace:{mib}" if has("memPoolSize", case) else f"--workspace={mib}"
    if conversion.calibration:
        yield f"--calib={extras[conversion.calibration].target}"
    if conversion.timing_cache:
        yield f"--timingCacheFile={TIMING}"
    load = "staticPlugins" if has("staticPlugins", case) else "plugins"
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
