"""config.pbtxt: whether it can be read, whose model it is, which backend and which versions it asks for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Final

from composer.models import schema
from composer.models.configuration import Configuration, Fault, Place, reported_at
from composer.models.lint.layout import hidden_backend
from composer.models.lint.rule import ERROR, INFO, WARNING, Case, Edit, Found, OfModel, Severity, at, on, rule
from composer.models.repository import FILES, PLATFORMS, Model

_READER = "core: filesystem/api.cc, ReadTextProto"
_VALIDATE = "core: model_config_utils.cc, ValidateModelConfig"
_BACKENDS = "core: model_config_utils.cc, AutoCompleteBackendFields"
_LIBRARY = "core: backend_model.cc, GetBackendLibraryProperties"

_PARSING = (
    "[libprotobuf ERROR] Error parsing text-format inference.ModelConfig: {line}:{column}: {words}"
    "  failed to read text proto from {path}"
)


def _of_text(name: str, *, fix: str) -> Callable[[OfModel], OfModel]:
    """A rule of what protobuf's reader refuses."""
    return rule(name, ERROR, says=_PARSING, source=_READER, fix=fix, unreadable_too=True)


def _faults(model: Model, *kinds: str) -> Iterator[Fault]:
    return (fault for fault in model.configuration.faults if fault.kind in kinds)


def _unread(
    model: Model, fault: Fault, message: str, fix: str | None = None, edit: Edit | None = None, words: str | None = None
) -> Found:
    line, column = reported_at(model.configuration.text or "", fault)
    return on(
        model.configuration.path,
        message,
        place=fault.place,
        fix=fix,
        edit=edit,
        line=line,
        column=column,
        words=words or fault.words,
        path=model.configuration.path,
    )


def _near(name: str, known: list[str]) -> str | None:
    by_small = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_small, n=1, cutoff=0.6)
    return by_small[close[0]] if close else None


# -- whether it can be read -----------------------------------------------------------------------


@_of_text("CFG001", fix="remove it, or put it where it belongs")
def unknown_field(model: Model, case: Case) -> Iterator[Found]:
    """A field that Triton does not know."""
    for fault in _faults(model, "unknown_field"):
        owner = re.search(r'Message type "inference\.([\w.]+)"', fault.words)
        fields = list(schema.fields_of(owner[1])) if owner else []
        near = _near(fault.name, fields)
        home = f"it belongs into {', '.join(schema.homes_of(fault.name))}" if schema.homes_of(fault.name) else None
        meant = f"{near}: ..." if near else home
        message = f'there is no field "{fault.name}" here' + (f'; did you mean "{near}"?' if near else "")
        yield _unread(model, fault, message, fix=meant)


@rule(
    "CFG002",
    ERROR,
    says=_PARSING,
    source="common: model_config.proto, its branches",
    fix="use a later release, or remove it",
)
def newer_field(model: Model, case: Case) -> Iterator[Found]:
    """A field or value that is newer than the release."""
    for use in model.configuration.uses:
        since = schema.newer_fields().get((use.message, use.name)) or schema.newer_values().get(use.name)
        if since and case.before(since):
            known = use.name in schema.newer_values()
            words = (
                f'Unknown enumeration value of "{use.name}".'
                if known
                else f'Message type "inference.{use.message}" has no field named "{use.name}".'
            )
            fault = Fault(kind="newer", place=use.place, words=words, name=use.name)
            assert case.release
            message = f'"{use.name}" came with {since}, and this is for {case.release.name}'
            yield _unread(model, fault, message, fix=f'triton: "{since}" or later, or remove it')


@_of_text("CFG003", fix="take one of Triton's own words")
def unknown_word(model: Model, case: Case) -> Iterator[Found]:
    """A value that is none of those that the field can have."""
    edit = _translated(model)
    for fault in _faults(model, "unknown_enum"):
        near = _certain(fault.name) or _near(fault.name, list(schema.all_values()))
        message = f'there is no value "{fault.name}"' + (f'; did you mean "{near}"?' if near else "")
        yield _unread(model, fault, message, fix=near, edit=edit if _certain(fault.name) else None)


def _certain(name: str) -> str | None:
    """Triton's word for what is called otherwise elsewhere, or is written in other letters."""
    return _USUAL_TYPES.get(name) or next((one for one in schema.all_values() if one == name.upper()), None)


def _translated(model: Model) -> Edit | None:
    """The edit that puts Triton's words in place of all those that can mean but one."""
    configuration = model.configuration
    if configuration.text is None:
        return None
    lines = configuration.text.split("\n")
    for fault in reversed([*_faults(model, "unknown_enum")]):
        if new := _certain(fault.name):
            _put(lines, fault.place, new)
    return Edit(path=configuration.path, write="\n".join(lines).encode("utf-8", "surrogateescape"))


@rule(
    "CFG041",
    ERROR,
    says="attempt to access JSON non-string as string",
    source="seen on a real server",
    fix="take one of Triton's own words, such as TYPE_FP32, KIND_GPU",
)
def meaningless_number(model: Model, case: Case) -> Iterator[Found]:
    """A number stands for a datatype or a kind, and means none."""
    for part, field in (("input", "data_type"), ("output", "data_type"), ("instance_group", "kind")):
        for number, one in enumerate(getattr(model.config, part)):
            value = getattr(one, field)
            if value not in one.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number:
                yield at(model, part, number, field, message=f"{value} is no {field}")


_USUAL_TYPES: Final = {
    "TYPE_FLOAT": "TYPE_FP32",
    "TYPE_FLOAT32": "TYPE_FP32",
    "TYPE_FLOAT16": "TYPE_FP16",
    "TYPE_HALF": "TYPE_FP16",
    "TYPE_FLOAT64": "TYPE_FP64",
    "TYPE_DOUBLE": "TYPE_FP64",
    "TYPE_BFLOAT16": "TYPE_BF16",
    "TYPE_INT": "TYPE_INT32",
    "TYPE_LONG": "TYPE_INT64",
    "TYPE_BYTES": "TYPE_STRING",
    "TYPE_STR": "TYPE_STRING",
    "FP32": "TYPE_FP32",
    "FP16": "TYPE_FP16",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "KIND_CUDA": "KIND_GPU",
}
"""What other tools call types and devices."""


@_of_text("CFG004", fix="a bracket, a colon or a quote may be missing before this")
def no_text_format(model: Model, case: Case) -> Iterator[Found]:
    """The text cannot be read: a bracket, a colon or a quote is missing."""
    for fault in _faults(model, "syntax"):
        yield _unread(model, fault, f"this cannot be read: {fault.words}")


@_of_text("CFG005", fix='text format has no braces around it all, and no quotes around names: name: "model"')
def json_text(model: Model, case: Case) -> Iterator[Found]:
    """The file is JSON, where text format is wanted."""
    for fault in _faults(model, "json"):
        yield _unread(model, fault, "this is JSON, and the server reads protobuf's text format")


@_of_text("CFG006", fix="remove the byte order mark from the start of the file")
def byte_order_mark(model: Model, case: Case) -> Iterator[Found]:
    """The file begins with a byte order mark."""
    for fault in _faults(model, "byte_order_mark"):
        text = (model.configuration.text or "").removeprefix("\ufeff")
        edit = Edit(path=model.configuration.path, write=text.encode("utf-8", "surrogateescape"))
        yield _unread(model, fault, "the file begins with a byte order mark", edit=edit)


@_of_text("CFG007", fix="only texts in plain quotes may hold this")
def odd_character(model: Model, case: Case) -> Iterator[Found]:
    """A character outside of quotes that is not ASCII, such as a typographic quote."""
    for fault in _faults(model, "non_ascii", "not_text"):
        plain = '"' if fault.name in "“”„‟″" else "'" if fault.name in "‘’‚‛" else None
        fix = f"write {plain} in its place" if plain else None
        shown = re.sub(r"\\udc(..)", r"\\x\1", ascii(fault.name))  # a byte that is no UTF-8
        yield _unread(model, fault, f"the character {shown} may not stand outside of quotes", fix=fix)


@_of_text("CFG008", fix="keep one of them")
def given_twice(model: Model, case: Case) -> Iterator[Found]:
    """A field that can be given once is given again."""
    for fault in _faults(model, "given_twice"):
        yield _unread(model, fault, f'the field "{fault.name}" is given more than once')


@_of_text("CFG009", fix="remove the comma before it")
def trailing_comma(model: Model, case: Case) -> Iterator[Found]:
    """A list ends with a comma."""
    for fault in _faults(model, "trailing_comma"):
        yield _unread(model, fault, "a list may not end with a comma")


@_of_text("CFG010", fix="take the quotes away")
def quoted_word(model: Model, case: Case) -> Iterator[Found]:
    """A number or a word of Triton's stands in quotes."""
    for fault in _faults(model, "quoted_word"):
        yield _unread(model, fault, f"{fault.name} stands in quotes, and no text is wanted here")


@_of_text("CFG011", fix="comments begin with #")
def slashes(model: Model, case: Case) -> Iterator[Found]:
    """A comment begins with slashes."""
    for fault in _faults(model, "slashes"):
        yield _unread(model, fault, "this cannot be read; if it is a comment, it must begin with #")


@_of_text("CFG012", fix='parameters { key: "NAME" value { string_value: "VALUE" } }')
def plain_parameter(model: Model, case: Case) -> Iterator[Found]:
    """A plain value where a message is wanted, such as that of a parameter."""
    for fault in _faults(model, "no_message"):
        yield _unread(model, fault, "a value in braces is wanted here, as parameters have it")


@_of_text("CFG013", fix="fill the template in")
def unfilled_template(model: Model, case: Case) -> Iterator[Found]:
    """A variable of a template was not filled in."""
    for fault in _faults(model, "unfilled"):
        yield _unread(model, fault, "a variable of a template was not filled in")


@_of_text("CFG014", fix="keep one of them")
def exclusive_fields(model: Model, case: Case) -> Iterator[Found]:
    """Two fields that exclude each other."""
    for fault in _faults(model, "exclusive"):
        other = re.search(r'along with field "(\w+)"', fault.words)
        yield _unread(model, fault, f'"{fault.name}" and "{other[1] if other else "another"}" exclude each other')


@rule("CFG015", INFO, source="seen on a real server, which takes them", fix="sed -i 's/\\r$//' config.pbtxt")
def windows_lines(model: Model, case: Case) -> Iterator[Found]:
    """Lines end as on Windows. The server takes that; labels would not."""
    text = model.configuration.text or ""
    if "\r\n" in text:
        end = text.index("\r\n")
        place = Place(line=text.count("\n", 0, end) + 1, column=end - text.rfind("\n", 0, end))
        yield on(model.configuration.path, "lines end with a carriage return", place=place)


@rule("CFG016", WARNING, source="seen on a real server: the last one holds", fix="keep one of them")
def repeated_key(model: Model, case: Case) -> Iterator[Found]:
    """A map has the same key twice, and the last one holds."""
    for key in model.configuration.repeated_keys:
        yield at(model, *key, message=f'"{key[-1]}" is there twice, and the last one holds')


@rule(
    "CFG037",
    ERROR,
    says="failed to open text file for read {path}",
    source=_READER,
    fix="chmod a+r config.pbtxt",
    unreadable_too=True,
)
def unreadable_config(model: Model, case: Case) -> Iterator[Found]:
    """config.pbtxt cannot be read, or is too large to be one."""
    for fault in _faults(model, "unreadable", "too_large"):
        path, large = model.configuration.path, fault.kind == "too_large"
        message = "it is too large to be a config" if large else fault.words
        fix = f"head -c 300 {path}   (something else may lie there)" if large else f"chmod a+r {path}"
        yield on(path, message, fix=fix, path=path)


@rule("CFG038", WARNING, source="seen on a real server, which writes an error and goes on", fix="save it as UTF-8")
def not_utf8(model: Model, case: Case) -> Iterator[Found]:
    """A text is not UTF-8."""
    for number, line in enumerate((model.configuration.text or "").split("\n"), 1):
        if found := re.search("[\udc80-\udcff]", line):
            place = Place(line=number, column=found.start() + 1)
            yield on(model.configuration.path, "this is not UTF-8", place=place)
            return


@rule("CFG040", WARNING, source="of our own", fix="# tricompose: ignore[ID] and then the reason", unreadable_too=True)
def ignored_without_reason(model: Model, case: Case) -> Iterator[Found]:
    """A rule is to be passed over, and no reason is given; or there is no such rule."""
    for number, line in enumerate((model.configuration.text or "").split("\n"), 1):
        found = re.search(r"#\s*tricompose:\s*ignore(\[[^\]]*\])?\s*(.*)", line)
        if found and not (found[1] and found[2].strip()):
            place = Place(line=number, column=found.start() + 1, length=len(found[0]))
            message = "a rule is passed over only with its id and a reason"
            yield on(model.configuration.path, message, place=place)


# -- whose model it is ----------------------------------------------------------------------------


def _replaced(configuration: Configuration, place: Place | None, new: str) -> Edit | None:
    """The edit that puts other words in a place."""
    if place is None or configuration.text is None:
        return None
    lines = configuration.text.split("\n")
    behind = "\n".join([lines[place.line - 1][place.column - 1 + place.length :], *lines[place.line :]])
    if re.match(r"(?:\s|#[^\n]*)*[\"']", behind):
        return None  # texts that stand next to each other are one
    _put(lines, place, new)
    return Edit(path=configuration.path, write="\n".join(lines).encode("utf-8", "surrogateescape"))


def _put(lines: list[str], place: Place, new: str) -> None:
    line, start = lines[place.line - 1], place.column - 1
    lines[place.line - 1] = line[:start] + new + line[start + place.length :]


@rule(
    "CFG017",
    ERROR,
    says="unexpected directory name '{model}' for model '{name}', directory name must equal model name",
    source="core: model_repository_manager.cc, InitializeModelInfo",
    fix="remove the name, or rename the folder",
)
def other_name(model: Model, case: Case) -> Iterator[Found]:
    """The config gives the model another name than its folder has."""
    name = model.config.name
    if name and name != model.name:
        new = f'"{model.name}"'
        # What is linked to has another name in its own folder, and can have but one.
        sound = model.name.isprintable() and not re.search(r"[\"\\]", model.name) and not model.folder.is_symlink()
        edit = _replaced(model.configuration, model.configuration.place("name"), new) if sound else None
        message = f'the folder is called "{model.name}" and the model "{name}"'
        yield at(model, "name", message=message, fix=f"name: {new}", edit=edit, name=name)


_UNDETERMINED = (
    "Invalid model name: Could not determine backend for model '{model}' with no backend in model configuration. "
    "Expected model name of the form 'model.<backend_name>'."
)


@rule("CFG018", ERROR, says=_UNDETERMINED, source=_BACKENDS, fix='in config.pbtxt: backend: "python"')
def no_backend(model: Model, case: Case) -> Iterator[Found]:
    """Nothing says which backend serves the model."""
    unsaid = not model.config.platform and not model.is_ensemble
    if unsaid and not model.backend and model.version_folders and not hidden_backend(model):
        lone = _lone_backend(model)
        fix = f'in {model.configuration.path}: backend: "{lone or "python"}"'
        yield at(model, message="nothing says which backend serves this model", fix=fix)


def _lone_backend(model: Model) -> str | None:
    """The backend that the only file of a version means by its ending."""
    endings = {".onnx": "onnxruntime", ".pt": "pytorch", ".plan": "tensorrt", ".py": "python", ".xml": "openvino"}
    files = [entry.name for version in model.version_folders for entry in model.below(version)]
    found = {endings[end] for name in files for end in endings if name.endswith(end)}
    return found.pop() if len(found) == 1 else None


@rule("CFG019", ERROR, says="unexpected platform type '{platform}' for {model}", source=_VALIDATE, fix="backend: ...")
def unknown_platform(model: Model, case: Case) -> Iterator[Found]:
    """There is no such platform, and no backend is given."""
    platform = model.config.platform
    known = {"ensemble", *PLATFORMS} - (set() if case.from_("26.03") else {"torch_aoti"})
    if platform and platform not in known and not model.config.backend and not model.is_ensemble:
        short = {"onnx": "onnxruntime", "torch": "pytorch", "libtorch": "pytorch"}.get(platform, platform)
        backend = short if short in FILES.values() else "..."
        own = next((name for name, served in PLATFORMS.items() if served == backend and backend != "tensorflow"), None)
        edit = _replaced(model.configuration, model.configuration.place("platform"), f'"{own}"') if own else None
        message, fix = f'there is no platform "{platform}"', f'backend: "{backend}", in place of platform'
        yield at(model, "platform", message=message, fix=fix, edit=edit, platform=platform)


@rule(
    "CFG020",
    ERROR,
    says="unable to find backend library for backend '{backend}', try specifying runtime on the model configuration.",
    source="core: backend_model.cc, GetBackendRuntimeLibraryName",
    fix="backend: ...",
)
def platform_for_a_backend(model: Model, case: Case) -> Iterator[Found]:
    """A platform's name, or one in other letters, stands for a backend's."""
    backend = model.config.backend
    known = {*FILES.values(), *(case.backends or ())}
    meant = PLATFORMS.get(backend) or next((one for one in known if one == backend.lower()), None)
    if backend and meant and meant != backend and backend not in known:
        message = f'"{backend}" is no backend'
        edit = _replaced(model.configuration, model.configuration.place("backend"), f'"{meant}"')
        yield at(model, "backend", message=message, fix=f'backend: "{meant}"', edit=edit, backend=backend)


@rule(
    "CFG021",
    ERROR,
    says="unexpected 'platform' and 'backend' pair, got:{platform}, {backend}",
    source=_VALIDATE,
    fix="remove the platform",
)
def mismatched_pair(model: Model, case: Case) -> Iterator[Found]:
    """Platform and backend do not belong together."""
    platform, backend = model.config.platform, model.config.backend
    meant = PLATFORMS.get(platform) if platform != "torch_aoti" or case.from_("26.03") else None
    if platform and backend in PLATFORMS.values() and meant != backend and platform != "ensemble":
        served = f"is served by {meant}" if meant else "is none that there is"
        message = f'platform "{platform}" {served}, and the backend is "{backend}"'
        fix = f'backend: "{meant}", and no platform' if meant else None
        yield at(model, "platform", message=message, fix=fix, platform=platform, backend=backend)


@rule("CFG022", WARNING, source="seen on a real server, which ignores it", fix="remove the platform")
def idle_platform(model: Model, case: Case) -> Iterator[Found]:
    """The platform has no meaning for this backend."""
    platform, backend = model.config.platform, model.config.backend
    if backend and platform and backend not in PLATFORMS.values() and platform != "ensemble":
        yield at(model, "platform", message=f'platform "{platform}" has no meaning beside backend "{backend}"')


@rule(
    "CFG023",
    ERROR,
    says="Ensemble model '{model}' must have platform type 'ensemble' and empty backend type",
    source=_VALIDATE,
    fix="remove the backend",
)
def ensemble_with_backend(model: Model, case: Case) -> Iterator[Found]:
    """An ensemble names a backend."""
    if model.config.platform == "ensemble" and model.config.backend:
        yield at(model, "backend", message="an ensemble has no backend")


@rule(
    "CFG024",
    ERROR,
    says="'max_batch_size' must be non-negative value for {model}",
    source=_VALIDATE,
    fix="max_batch_size: 0   (no batching)",
)
def negative_batch(model: Model, case: Case) -> Iterator[Found]:
    """max_batch_size is negative."""
    if model.config.max_batch_size < 0:
        yield at(model, "max_batch_size", message=f"max_batch_size is {model.config.max_batch_size}")


@rule(
    "CFG025",
    ERROR,
    says="backend library name '{runtime}' escapes backend directory",
    source=_LIBRARY,
    fix="name a file in the backend's folder",
    since="24.01",
)
def runtime_elsewhere(model: Model, case: Case) -> Iterator[Found]:
    """`runtime` leads out of the backend's folder."""
    runtime = model.config.runtime
    if ".." in runtime.split("/") or runtime.startswith("/"):
        yield at(model, "runtime", message=f"{runtime} lies outside of the backend's folder", runtime=runtime)


@rule(
    "CFG039",
    ERROR,
    says="unable to find backend library '{runtime}' for model '{model}'",
    source=_LIBRARY,
    fix="remove it: the backend knows its library",
    since="24.01",
)
def runtime_absent(model: Model, case: Case) -> Iterator[Found]:
    """`runtime` names a library that the backend does not have."""
    runtime, own = model.config.runtime, f"libtriton_{model.backend}.so"
    here = not runtime.endswith(".py") and any(
        f"{folder}{runtime}" in model.by_path for folder in ("", *(f"{one}/" for one in model.served))
    )
    if runtime and model.backend in FILES.values() and runtime != own and not here and "/" not in runtime:
        message = f"the {model.backend} backend has no {runtime}"
        yield at(model, "runtime", message=message, fix=f'runtime: "{own}", or nothing', runtime=runtime)


@rule(
    "CFG026",
    ERROR,
    says="unable to find '{path}' for model '{model}'",
    source="the backends' own; the python backend of releases before 25.08 hangs",
    fix="put the file there, or name the one that is: default_model_filename",
)
def no_model_file(model: Model, case: Case) -> Iterator[Found]:
    """The file that the backend loads is not in the version's folder."""
    named = model.config.default_model_filename
    wanted = named or (None if model.backend == "python" else model.filename)
    if not wanted or model.is_ensemble or len(model.config.cc_model_filenames):
        return
    for version in model.served:
        path = f"{version}/{wanted}"
        # A broken link, or what cannot be read, is said elsewhere. What lies above the version may be found there.
        if path not in model.by_path and not (".." in wanted and (model.folder / path).exists()):
            yield _absent_file(model, path, wanted, "default_model_filename" if named else None)


def _absent_file(model: Model, path: str, wanted: str, key: str | None) -> Found:
    ending = "." + wanted.rpartition(".")[2]
    near = [entry.name for entry in model.below(path.partition("/")[0]) if entry.name.endswith(ending)]
    message = f"there is no {path}" + (f", but {near[0]}" if near else "")
    fix = f'default_model_filename: "{near[0]}"' if near else None
    if key:
        return at(model, key, message=message, fix=fix, path=model.folder / path)
    return on(model.folder / path.partition("/")[0], message, fix=fix, path=model.folder / path)


@rule(
    "CFG027",
    ERROR,
    says="model configuration must contain at least one input, none were specified.",
    source="pytorch_backend: model_state.cc",
    fix="tricompose models config writes what can be known",
)
def pytorch_without_config(model: Model, case: Case) -> Iterator[Found]:
    """A PyTorch model has no inputs or outputs in its config, and the server cannot find them out."""
    if model.backend == "pytorch" and not (model.config.input and model.config.output):
        lacks = "inputs" if not model.config.input else "outputs"
        yield at(model, message=f"the {lacks} of a TorchScript model must stand in config.pbtxt")


@rule("CFG028", WARNING, source=_BACKENDS, fix="say which backend is meant")
def several_backends(model: Model, case: Case) -> Iterator[Found]:
    """There are model files of several backends, and nothing says which one is meant."""
    unsaid = not model.config.backend and not model.config.platform and not model.is_ensemble
    if unsaid and len(model.backends_by_file) > 1:
        names = " and ".join(model.backends_by_file)
        fix = f'in {model.configuration.path}: backend: "{model.backends_by_file[0]}"'
        message = f"there are model files of {names}: the server takes {model.backends_by_file[0]}"
        yield at(model, message=message, fix=fix)


@rule(
    "CFG029",
    ERROR,
    says="unable to find backend library for backend 'tensorflow', try specifying runtime on the model configuration.",
    source="releases: the backends of NVIDIA's images",
    fix="convert it to ONNX: python -m tf2onnx.convert --saved-model DIR --output model.onnx",
)
def tensorflow_model(model: Model, case: Case) -> Iterator[Found]:
    """The release's image has no TensorFlow backend."""
    known = case.release.backends if case.release else None
    if model.backend == "tensorflow" and known and not {"tensorflow", "tensorflow1", "tensorflow2"} & {*known}:
        assert case.release
        yield at(model, message=f"the image of {case.release.name} has no tensorflow backend")


# -- versions that it asks for --------------------------------------------------------------------


@rule(
    "CFG031",
    WARNING,
    says="version {version} is specified for model '{model}', but the version directory is not present",
    source="core: model_lifecycle.cc, VersionsToLoad",
    fix="add the version, or take it out of the list",
)
def absent_version(model: Model, case: Case) -> Iterator[Found]:
    """The version policy names a version that is not there."""
    there = set(model.version_folders.values())
    wanted = model.config.version_policy.specific.versions
    severity: Severity | None = None if there & set(wanted) else ERROR
    for number, version in enumerate(wanted):
        if version not in there and model.version_folders:
            key = ("version_policy", "specific", "versions", number)
            yield at(model, *key, message=f"there is no version {version}", severity=severity, version=version)


@rule(
    "CFG032",
    ERROR,
    says="at least one version must be available under the version policy of model '{model}'",
    source="core: model_lifecycle.cc, AsyncLoad",
    fix="version_policy { latest { num_versions: 1 } }",
)
def no_version_wanted(model: Model, case: Case) -> Iterator[Found]:
    """The version policy asks for no version at all."""
    policy = model.config.version_policy
    choice = policy.WhichOneof("policy_choice")
    none = (choice == "latest" and not policy.latest.num_versions) or (
        choice == "specific" and not policy.specific.versions
    )
    if none and model.version_folders:
        yield at(model, "version_policy", choice, message="the version policy asks for no version")


@rule("CFG033", INFO, source="core: model_config_utils.cc, the default policy", fix="version_policy { all {} }")
def idle_versions(model: Model, case: Case) -> Iterator[Found]:
    """There are several versions, and only the last is served."""
    if len(model.versions) > 1 and model.config.version_policy.WhichOneof("policy_choice") is None:
        idle = ", ".join(str(version) for version in model.versions if version not in model.served)
        yield at(model, message=f"version {model.served[-1]} is served, and not {idle}")


@rule(
    "CFG036",
    WARNING,
    says="unable to find '{path}' for model instance '{model}'",
    source="tensorrt_backend: model_state.cc",
    fix='cc_model_filenames { key: "8.6" value: "model_sm86.plan" }',
)
def file_for_a_gpu(model: Model, case: Case) -> Iterator[Found]:
    """A file for one kind of GPU is not there, or the kind is not written as a number."""
    for capability, name in model.config.cc_model_filenames.items():
        key = ("cc_model_filenames", capability)
        if not re.fullmatch(r"\d+\.\d+", capability):
            yield at(model, *key, message=f'"{capability}" is no compute capability')
        for version in model.served:
            if f"{version}/{name}" not in model.by_path:
                path = model.folder / str(version) / name
                yield at(model, *key, message=f"there is no {version}/{name}", path=path)
