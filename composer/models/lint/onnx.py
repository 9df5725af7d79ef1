"""Models of ONNX Runtime: whether the release's can read the file, what else it needs, whether the config fits it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any, Final, Literal

from composer.models.agreement import Difference
from composer.models.autoconfig import unsupported
from composer.models.lint.completion import disagreements
from composer.models.lint.files import named, onnx_readings
from composer.models.lint.parameters import WANTED, number_of, unread
from composer.models.lint.rule import ERROR, WARNING, Case, Found, Severity, at, on, rule
from composer.models.lint.server import strict
from composer.models.onnx import FILE, OnnxModel
from composer.models.opening import Unreadable
from composer.models.repository import Entry, Model
from composer.releases import RELEASES
from composer.releases import onnx as facts
from composer.server import values_of

_LOAD: Final = "onnxruntime_backend: onnxruntime.cc, LoadModel"
_CHECK: Final = "onnxruntime_backend: onnxruntime.cc, ValidateInputs and ValidateOutputs"
_RUNTIME: Final = "seen on a real ONNX Runtime"

_OWN: Final = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten")
"""How the domains begin of which ONNX Runtime has operators itself."""

_OLDEST_OPSET: Final = 7
_IMAGE: Final = ("/opt/", "/usr/", "/lib")
"""Where an image has libraries of its own."""

_LIMIT: Final = (1 << 31) - 1
"""The most bytes that a protobuf message can have."""

_GPU: Final = 1
"""KIND_GPU, by its number; KIND_AUTO is 0."""

Accelerator = Any
"""An ExecutionAccelerators.Accelerator: its type is made at run time."""

Field = Literal["gpu_execution_accelerator", "cpu_execution_accelerator"]


def _models(model: Model) -> Iterator[tuple[Entry, OnnxModel]]:
    for entry, read in onnx_readings(model):
        if isinstance(read, OnnxModel):
            yield entry, read


def _is_onnx(model: Model) -> bool:
    return model.backend == "onnxruntime" and not model.config.runtime


# -- versions -------------------------------------------------------------------------------------


def _limits(case: Case) -> facts.Limits | None:
    known = case.release.onnxruntime if case.release else None
    return facts.limits(known) if known else None


def _later(case: Case, *, ir: int = 0, domain: str = "", opset: int = 0) -> str:
    """What to do about a version: the first later release that takes it, if there is one."""
    for name, release in RELEASES.items():
        known = facts.limits(release.onnxruntime) if release.onnxruntime else None
        if known and case.before(name) and known.ir_version >= ir and known.opsets.get(domain, 0) >= opset:
            return f'triton: "{name}" or later, or '
    return ""


@rule("ONX001", ERROR, says="{words}", source=f"{_RUNTIME}: model.cc", fix="export the model again")
def newer_format(model: Model, case: Case) -> Iterator[Found]:
    """The file's IR version is newer than the release's ONNX Runtime takes, or is missing."""
    known = _limits(case)
    for entry, file in _models(model):
        path, has = model.folder / entry.path, file.ir_version
        if has is None:
            yield on(path, "the file says no IR version", words="Missing model IR version.")
        elif known and case.release and has > known.ir_version:
            message = f"the file's IR version is {has}, and ONNX Runtime {case.release.onnxruntime}"
            message = f"{message} of {case.release.name} takes {known.ir_version} at most"
            words = f"Unsupported model IR version: {has}, max supported IR version: {known.ir_version}"
            fix = f"{_later(case, ir=has)}export with model.ir_version = {known.ir_version}"
            yield on(path, message, fix=fix, words=words)


@rule("ONX002", ERROR, says="{words}", source=f"{_RUNTIME}: model_load_utils.h", fix="export the model again")
def newer_operators(model: Model, case: Case) -> Iterator[Found]:
    """The file's opset is newer than the release's ONNX Runtime takes, or is missing."""
    known = _limits(case)
    for entry, file in _models(model):
        path = model.folder / entry.path
        if not file.opsets:
            yield on(path, "the file says no opset", words=_NO_OPSET)
        for domain, version in sorted(file.opsets.items()):
            most = known.opsets.get(domain) if known else None
            if most is not None and version > most and case.release:
                shown = domain or "ai.onnx"
                message = f"the file's opset of {shown} is {version}, and ONNX Runtime {case.release.onnxruntime}"
                message = f"{message} of {case.release.name} takes {most} at most"
                fix = f"{_later(case, domain=domain, opset=version)}export with opset_version={most}"
                yield on(path, message, fix=fix, words=_UNRELEASED.format(version=version, domain=shown, most=most))


_NO_OPSET: Final = (
    "Missing opset in the model. All ModelProtos MUST have at least one entry that specifies which version of the "
    "ONNX OperatorSet is being imported."
)
_UNRELEASED: Final = (
    "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. Opset "
    "{version} is under development and support for this is limited. The operator schemas and or other functionality "
    "may change before next ONNX release and in this case ONNX Runtime will not guarantee backward compatibility. "
    "Current official support for domain {domain} is till opset {most}."
)


@rule(
    "ONX003",
    WARNING,
    says="ONNX Runtime only guarantees support for models stamped with opset version 7 or above for opset domain "
    "'ai.onnx'.",
    source="onnxruntime.ai: docs, reference/compatibility",
    fix="onnx.version_converter.convert_version(model, 13)",
)
def old_operators(model: Model, case: Case) -> Iterator[Found]:
    """The file's opset is older than ONNX Runtime vouches for."""
    for entry, file in _models(model):
        opset = file.opsets.get("", _OLDEST_OPSET)
        if 0 < opset < _OLDEST_OPSET:
            message = f"the file's opset is {opset}: ONNX Runtime promises nothing before {_OLDEST_OPSET}"
            yield on(model.folder / entry.path, message)


# -- what else it needs ---------------------------------------------------------------------------


@rule(
    "ONX004",
    ERROR,
    says="Fatal error: {operator}(-1) is not a registered function/op",
    source=_RUNTIME,
    fix="files: [{from: ./libops.so, to: /opt/ops/libops.so}], and in config.pbtxt: model_operations { "
    'op_library_filename: "/opt/ops/libops.so" }',
)
def operators_of_nobody(model: Model, case: Case) -> Iterator[Found]:
    """The file has operators that ONNX Runtime has not, and no library brings them."""
    if model.config.model_operations.op_library_filename:
        return
    for entry, file in _models(model):
        strange = sorted(one for one in file.operators - file.functions if one[0] and not one[0].startswith(_OWN))
        if strange:
            operator = ":".join(strange[0])
            more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            message = f"ONNX Runtime has no operator {operator}{more}, and no library with it is named"
            # Functions that are never called may hold anything.
            severity: Severity | None = WARNING if file.functions else None
            yield on(model.folder / entry.path, message, severity=severity, operator=operator)


@rule("ONX005", ERROR, says="{words}", source=_LOAD, fix="files: [{from: ./libops.so, to: /opt/ops/libops.so}]")
def operator_library_missing(model: Model, case: Case) -> Iterator[Found]:
    """A library of operators is not in the image."""
    if not _is_onnx(model):
        return
    for number, name in enumerate(model.config.model_operations.op_library_filename):
        key = ("model_operations", "op_library_filename", number)
        words = f"Failed to load library {name} with error: {name}: cannot open shared object file"
        if not name:
            words = "Failed to get symbol RegisterCustomOps with error: undefined symbol: RegisterCustomOps"
            yield at(model, *key, message="no library is named here", words=words)
        elif name.startswith("/") and case.files is not None and not _may_be_there(model, name, case.files):
            fix = f"files: [{{from: ./{posixpath.basename(name)}, to: {name}}}]"
            yield at(model, *key, message=f"the image has no {name}", fix=fix, words=words)
        elif not name.startswith("/") and "/" in name:
            message = f"{name} is looked for in the folder that the server runs in, not in the model's"
            yield at(model, *key, message=message, severity=WARNING, fix="write the whole path", words=words)


def _may_be_there(model: Model, path: str, files: frozenset[str]) -> bool:
    """Whether an image may have a file: brought along, its own, or the model's."""
    brought = any(path == file or path.startswith(f"{file.rstrip('/')}/") for file in files)
    own = path.partition(f"/{model.name}/")[2]
    return brought or path.startswith(_IMAGE) or posixpath.normpath(own or "-") in model.by_path


@rule("ONX006", ERROR, says="{words}", source=_RUNTIME, fix="put the file beside the model, as it was exported")
def weights_missing(model: Model, case: Case) -> Iterator[Found]:
    """A file of weights that the model is spread over is not there, or is cut off."""
    for entry, file in _models(model):
        for location, least in sorted(file.external.items()):
            path = model.folder / entry.path
            for message, words in _weights(model, entry, location, least):
                absolute = location.startswith("/")
                severity: Severity | None = WARNING if absolute else None
                yield on(path, message, severity=severity, words=words)


def _weights(model: Model, entry: Entry, location: str, least: int) -> Iterator[tuple[str, str]]:
    """What is wrong with a file of weights, in our words and the server's."""
    if not location:
        yield "the file says that weights are elsewhere, and not where", "model format error!"
        return
    if location.startswith("/"):
        yield f"weights are looked for at {location}, a path that an image may not have", ""
        return
    found = named(model, entry.folder, location)
    size = found.entry.size if found.entry else 0
    if found.kind in ("missing", "folder"):
        words = f"filesystem error: cannot get file size: No such file or directory [{model.folder / found.path}]"
        yield f"weights are in {found.path}, which is not there", words
    elif found.kind == "file" and size < least:
        words = f"External initializer: size to read: {least} given file_length: {size} are out of bounds or can not be"
        yield f"weights are in {found.path}, which has {size} bytes and not {least}", f"{words} read in full."


@rule(
    "ONX007",
    ERROR,
    says="unable to find '{path}' for model instance '{model}'",
    source=_LOAD,
    fix="call the file in it model.onnx",
)
def folder_without_model(model: Model, case: Case) -> Iterator[Found]:
    """A folder is in the place of the file, and has no model.onnx in it."""
    for entry in model.model_files if _is_onnx(model) else ():
        path = f"{entry.path}/{FILE}"
        if entry.kind == "folder" and path not in model.by_path:
            files = [one.name for one in model.below(entry.path) if one.name.endswith(".onnx")]
            fix = f"mv {model.folder / entry.path / files[0]} {model.folder / path}" if len(files) == 1 else None
            message = f"{entry.path} is a folder, and has no {FILE} in it"
            yield on(model.folder / entry.path, message, fix=fix, path=model.folder / path)


# -- the config and the file ----------------------------------------------------------------------


def _differing(model: Model, case: Case, *kinds: str) -> Iterator[Found]:
    for one in disagreements(model, case, *kinds):
        yield at(model, *one.key, message=one.message, fix=_expected(one), words=one.words)


def _expected(one: Difference) -> str | None:
    field = next((part for part in reversed(one.key) if isinstance(part, str)), None)
    return f"{field}: {one.expected}" if one.expected and field else None


@rule("ONX008", ERROR, says="{words}", source=_CHECK, fix="tricompose models config --check MODEL")
def unknown_tensor(model: Model, case: Case) -> Iterator[Found]:
    """The config has an input or output that the file has not."""
    yield from _differing(model, case, "unknown_input", "unknown_output")


@rule("ONX009", ERROR, says="{words}", source=_CHECK, fix="tricompose models config --check MODEL")
def other_count_of_inputs(model: Model, case: Case) -> Iterator[Found]:
    """The config has more or fewer inputs than the file."""
    yield from _differing(model, case, "input_count")
    if strict(case) and model.configured and not model.config.input and not model.config.batch_input:
        for _, file in _models(model):
            if file.inputs and not model.config.HasField("sequence_batching"):
                words = f"unable to load model '{model.name}', configuration expects 0 inputs, model provides"
                message = "the config has no inputs, and the server may not complete it"
                yield at(model, message=message, words=f"{words} {len(file.inputs)}")


@rule(
    "ONX019",
    ERROR,
    says="onnx runtime error 2: At least one output should be requested.",
    source="seen on a real server, at each request",
    fix="tricompose models config MODEL",
)
def no_outputs(model: Model, case: Case) -> Iterator[Found]:
    """The config has no outputs, and the server may not complete it: every request fails."""
    if _is_onnx(model) and strict(case) and model.configured and not model.config.output:
        yield at(model, message="the config has no outputs, and the server may not complete it")


@rule("ONX010", ERROR, says="{words}", source=_CHECK, fix="write the file's datatype")
def other_datatype(model: Model, case: Case) -> Iterator[Found]:
    """The config gives a tensor another datatype than the file."""
    yield from _differing(model, case, "datatype")


@rule("ONX011", ERROR, says="{words}", source=f"{_CHECK}, CompareDimsSupported", fix="write the file's dims")
def other_dims(model: Model, case: Case) -> Iterator[Found]:
    """The config gives a tensor other dims than the file."""
    yield from _differing(model, case, "dims")


@rule(
    "ONX012",
    ERROR,
    says="{words}",
    source="onnxruntime_backend: onnxruntime_utils.cc",
    fix="export it with tensors; for scikit-learn: convert_sklearn(model, options={'zipmap': False})",
)
def no_tensor(model: Model, case: Case) -> Iterator[Found]:
    """An input or output of the file is nothing that Triton has: a sequence, a map, an odd datatype."""
    for entry, file in _models(model):
        for value in (*file.inputs, *file.outputs):
            if why := unsupported(value, case.release.name if case.release else None):
                kind = value.kind.replace("_", "").upper()
                words = f"Unsupported ONNX Type 'ONNX_TYPE_{kind}' for I/O '{value.name}', expected 'ONNX_TYPE_TENSOR'."
                words = words if value.kind != "tensor" else ""
                yield on(model.folder / entry.path, f'"{value.name}" {why}', words=words)


# -- accelerators ---------------------------------------------------------------------------------


def _accelerators(model: Model, field: Field) -> Iterator[tuple[tuple[str | int, ...], Accelerator]]:
    if _is_onnx(model):
        for number, one in enumerate(getattr(model.config.optimization.execution_accelerators, field)):
            yield ("optimization", "execution_accelerators", field, number), one


def _on_gpu(model: Model, case: Case) -> bool | None:
    """Whether an instance is on a GPU; None where that depends on the machine."""
    kinds = {group.kind for group in model.config.instance_group} or {0}
    if _GPU in kinds:
        return True
    if 0 in kinds:
        return None if case.gpus is None else case.gpus > 0
    return False


def _unsure(on_gpu: bool | None) -> Severity | None:
    return None if on_gpu else WARNING


@rule(
    "ONX013",
    ERROR,
    says="unknown Execution Accelerator '{name}' is requested",
    source=_LOAD,
    fix="remove it: CUDA is used on GPUs without being named",
)
def unknown_accelerator(model: Model, case: Case) -> Iterator[Found]:
    """An execution accelerator that the backend does not have."""
    for key, one in _accelerators(model, "cpu_execution_accelerator"):
        absent = case.architecture == "arm64" and one.name == "openvino"
        if absent or not _knows("cpu_execution_accelerator", one.name, case):
            yield at(model, *key, "name", message=_no_accelerator(one.name), fix="remove it", name=one.name)
    on_gpu = _on_gpu(model, case)
    for key, one in _accelerators(model, "gpu_execution_accelerator"):
        if on_gpu is not False and not _knows("gpu_execution_accelerator", one.name, case):
            message = _no_accelerator(one.name)
            yield at(model, *key, "name", message=message, severity=_unsure(on_gpu), name=one.name)


def _knows(field: Field, name: str, case: Case) -> bool:
    since = facts.accelerators(field).get(name)
    return since is not None and case.from_(since)


def _no_accelerator(name: str) -> str:
    return f'there is no execution accelerator "{name}" for this kind of device'


@rule("ONX014", ERROR, says="{words}", source=_LOAD, fix="remove it", since=facts.FIRST_CHECKED)
def unknown_for_tensorrt(model: Model, case: Case) -> Iterator[Found]:
    """A parameter that the TensorRT accelerator does not take."""
    on_gpu = _on_gpu(model, case)
    for key, one in _accelerators(model, "gpu_execution_accelerator"):
        for name, text in sorted(one.parameters.items()) if one.name == "tensorrt" and on_gpu is not False else ():
            if told := _refused(name, text, case):
                message, words = told
                yield at(model, *key, "parameters", name, message=message, severity=_unsure(on_gpu), words=words)


def _refused(name: str, text: str, case: Case) -> tuple[str, str] | None:
    """Why the TensorRT accelerator refuses a parameter, in our words and its own; None where it takes it."""
    known = facts.tensorrt_parameters().get(name)
    if known is None or not case.from_(known.since):
        about = f" before {known.since}" if known else ""
        words = f"unknown parameter '{name}' is provided for TensorRT Execution Accelerator"
        return f"the TensorRT accelerator has no parameter {name}{about}", words
    if known.takes == "precision":
        since = facts.precisions().get(text)
        if since is None or not case.from_(since):
            taken = ", ".join(one for one, first in facts.precisions().items() if case.from_(first))
            return f"precision_mode is one of {taken}", f"unsupported precision mode '{text}' is requested"
    elif words := unread(text, known.takes) or "":
        return f"{name} is {WANTED[known.takes]}", words
    return None


@rule(
    "ONX016",
    WARNING,
    source=f"{_LOAD}: it looks at them for instances on GPUs only",
    fix="instance_group [ { kind: KIND_GPU } ], or remove gpu_execution_accelerator",
)
def accelerator_without_gpu(model: Model, case: Case) -> Iterator[Found]:
    """An accelerator for GPUs, and no instance is on one."""
    for key, one in _accelerators(model, "gpu_execution_accelerator"):
        if _on_gpu(model, case) is False:
            yield at(model, *key, message=f"{one.name} is for GPUs, and no instance of this model is on one")


# -- parameters -----------------------------------------------------------------------------------


@rule("ONX015", ERROR, says="{words}", source="onnxruntime_backend: onnxruntime.cc, ModelState", fix="remove it")
def odd_parameter(model: Model, case: Case) -> Iterator[Found]:
    """A parameter of ONNX Runtime's that cannot be read, or is none of its values."""
    for known in facts.parameters() if _is_onnx(model) else ():
        counts = known.name in model.config.parameters and case.from_(known.since)
        on_gpu = _on_gpu(model, case) if known.gpu else True
        if not counts or on_gpu is False or (known.pool and _shares_threads(case)):
            continue
        text = model.config.parameters[known.name].string_value
        if told := _odd(known, text, case):
            key = ("parameters", known.name, "string_value")
            yield at(model, *key, message=told[0], severity=_unsure(on_gpu), words=told[1])


def _odd(known: facts.Parameter, text: str, case: Case) -> tuple[str, str] | None:
    """Why a parameter is refused, in our words and the server's; None where it is not."""
    if words := unread(text, known.takes):
        return f"{known.name} is {WANTED[known.takes]}, and not {text!r}", words
    number = number_of(text) if known.among and case.from_(known.refused or "") else None
    if number is None or number in known.among:
        return None
    words = f"unsupported {known.name} value '{number}' is requested"
    if known.name == "execution_mode":
        words = (
            f"Invalid configuration value provided. Expected values for  execution_mode are 0 or 1 but got {number} ."
        )
    return f"{known.name} is one of {', '.join(map(str, known.among))}, and not {number}", words


def _shares_threads(case: Case) -> bool:
    """Whether all models share their threads, so that a model's own counts are not looked at."""
    said = values_of("backend-config", case.server.get("backend-config", ()))
    return any(re.search(r"enable-global-threadpool", str(one)) for one in said)


# -- files that cannot be read --------------------------------------------------------------------

_NO_ONNX: Final = "is no ONNX file"


@rule(
    "ONX017",
    ERROR,
    says="Load model from {path} failed:Protobuf parsing failed.",
    source=_RUNTIME,
    fix="fetch or export it again",
)
def no_onnx(model: Model, case: Case) -> Iterator[Found]:
    """The file is no ONNX, or only a part of one."""
    for entry, read in onnx_readings(model):
        # Files in ONNX Runtime's own format go by their ending.
        if isinstance(read, Unreadable) and _is_refused(read) and not entry.name.endswith(".ort"):
            path = model.folder / entry.path
            yield on(path, f"{entry.name} {read.words}", path=path)


def _is_refused(read: Unreadable) -> bool:
    """Whether ONNX Runtime cannot read it either. Empty files, pointers and web pages are spoken of elsewhere."""
    return read.kind == "truncated" or (read.kind == "garbage" and read.words.startswith(_NO_ONNX))


@rule(
    "ONX018",
    ERROR,
    says="Load model from {path} failed:Protobuf parsing failed.",
    source="protobuf: a message has 2 GiB at most",
    fix='onnx.save(model, "model.onnx", save_as_external_data=True, location="model.onnx.data")',
)
def too_large_a_message(model: Model, case: Case) -> Iterator[Found]:
    """The file is larger than protobuf can read: its weights must lie beside it."""
    for entry, _ in onnx_readings(model):
        if entry.size > _LIMIT and not entry.name.endswith(".ort"):
            path = model.folder / entry.path
            yield on(path, f"{entry.name} has {entry.size} bytes, and ONNX has 2 GiB at most", path=path)
