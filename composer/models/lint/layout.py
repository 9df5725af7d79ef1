"""Folders and files: where the server looks for models, versions and what they are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final
from urllib.parse import quote

from composer.models.lint.rule import (
    ERROR,
    INFO,
    WARNING,
    Case,
    Edit,
    Found,
    Repositories,
    Severity,
    on,
    rule,
    rule_of_all,
)
from composer.models.repository import CONFIG, FILES, NO_VERSIONS, Entry, Model, ModelRepository, is_left_out, taken_for

_FILES = "core: filesystem/implementations/local.h"
_POLL = "core: model_repository_manager.cc, Poll"
_VERSIONS = "core: model_lifecycle.cc, VersionsToLoad"
_NO_VERSION = "at least one version must be available under the version policy of model '{model}'"


# -- the repository -------------------------------------------------------------------------------


@rule_of_all(
    "LAY001",
    ERROR,
    says="error: creating server: Internal - failed to stat file {repository}",
    source=_FILES,
    fix="name a folder that is there",
)
def no_repository(every: Repositories, case: Case) -> Iterator[Found]:
    """The repository is not there."""
    for one in every.all:
        if one.fault == "missing":
            message = "there is no such model repository"
            yield on(one.path, message, fix=f"mkdir -p {one.path}", repository=one.path)
        if one.fault == "unreadable":
            message = "it cannot be read: Permission denied"
            yield on(one.path, message, fix=f"chmod -R a+rX {one.path}", repository=one.path)


@rule_of_all(
    "LAY002",
    ERROR,
    says="repository path is not a valid directory",
    source="core: model_repository_manager.cc, Create",
    fix="name the folder that the models are in",
)
def repository_is_a_file(every: Repositories, case: Case) -> Iterator[Found]:
    """The repository is a file."""
    for one in every.all:
        if one.fault == "not_a_folder":
            yield on(one.path, "a model repository is a folder", fix=f"ls -l {one.path}")


def _is_one_model(one: ModelRepository) -> bool:
    names = {entry.path for entry in one.strays}
    return CONFIG in names and any(model.name.isdecimal() for model in one.models)


@rule_of_all(
    "LAY003",
    ERROR,
    says="Poll failed for model directory '1': Invalid model name: Could not determine backend for model '1' ...",
    source="core: model_config_utils.cc, AutoCompleteBackendFields",
    fix="name the folder above it",
)
def one_model_for_a_repository(every: Repositories, case: Case) -> Iterator[Found]:
    """The path is one model, not a repository of models."""
    for one in every.all:
        if _is_one_model(one):
            yield on(one.path, "this is one model, not a repository of models", fix=f"{one.path.absolute().parent}")


@rule_of_all(
    "LAY004",
    WARNING,
    source="seen on a real server: it is ready, and serves nothing",
    fix="a model is a folder in it: NAME/config.pbtxt, NAME/1/model.onnx",
)
def no_models(every: Repositories, case: Case) -> Iterator[Found]:
    """There are no models in the repository."""
    for one in every.all:
        if not one.fault and not one.models:
            severity = ERROR if case.baked else None
            yield on(one.path, "there are no models in this repository", severity=severity)


def _is_a_tools(model: Model) -> bool:
    """Whether it is no model, but a folder that a tool left there."""
    return (is_left_out(model.name) or model.name.startswith((".", "@", "__"))) and not model.version_folders


@rule_of_all(
    "LAY005",
    ERROR,
    says="failed to load model '{name}': " + _NO_VERSION.replace("{model}", "{name}"),
    source=_POLL,
    fix="move it elsewhere: the server takes every folder here for a model (what a recipe bakes in goes without it)",
)
def a_tool_s_folder(every: Repositories, case: Case) -> Iterator[Found]:
    """A folder that a tool left there would be taken for a model."""
    for one in every.all:
        for entry in one.left_out:
            message = f"{entry.path} does not go into the image"
            yield on(one.path / entry.path, message, severity=INFO, fix="none is needed", name=entry.path)
        for model in one.models:
            if _is_a_tools(model):
                message = f"{model.name} is no model, and the server would take it for one"
                yield on(model.folder, message, name=model.name)


@rule_of_all("LAY006", INFO, source=_POLL, fix="move it elsewhere, if it is of no use here")
def a_stray_file(every: Repositories, case: Case) -> Iterator[Found]:
    """A file beside the models is ignored."""
    for one in every.all:
        for entry in one.strays:
            if entry.kind in ("file", "special") and not (_is_one_model(one) and entry.path == CONFIG):
                yield on(one.path / entry.path, "the server ignores files beside models")


@rule_of_all(
    "LAY007",
    ERROR,
    says="failed to poll model repository '{repository}': failed to stat file {link}",
    source=_FILES,
    fix="remove the link",
)
def a_broken_link_beside_models(every: Repositories, case: Case) -> Iterator[Found]:
    """A link to nothing beside the models keeps the whole repository from being read."""
    for one in every.all:
        for entry in one.strays:
            if entry.kind == "broken":
                path = one.path / entry.path
                message = f"this link leads to nothing: {entry.link}"
                yield on(path, message, fix=f"rm {path}", repository=one.path, link=path)


@rule(
    "LAY008",
    ERROR,
    says="Poll failed for model directory '{model}': failed to stat file {name}",
    source=_FILES,
    fix="remove the link",
    unreadable_too=True,
)
def a_broken_link_in_a_model(model: Model, case: Case) -> Iterator[Found]:
    """A link to nothing in a model."""
    for entry in model.entries:
        if entry.kind == "broken" and not entry.left_out:
            path = model.folder / entry.path
            loaded = entry.path in {f"{version}/{model.filename}" for version in model.served}
            severity = None if case.baked or loaded or not entry.folder else WARNING
            message = f"this link leads to nothing: {entry.link}"
            yield on(path, message, fix=f"rm {path}", severity=severity, name=path)


def _astray(path: Path, entry: Entry, case: Case) -> Found:
    fix = f"put the file itself there: cp -rL --remove-destination {entry.source} {path}"
    severity = None if case.baked else WARNING
    return on(path, f"this link leads out of the repository, to {entry.source}", fix=fix, severity=severity)


@rule_of_all(
    "LAY009",
    ERROR,
    source="of our own: what it leads to is missing in an image",
    fix="put the file itself there",
)
def a_link_out_of_the_repository(every: Repositories, case: Case) -> Iterator[Found]:
    """A link leads out of the repository: in an image it would lead to nothing."""
    for one in every.all:
        yield from (_astray(one.path / entry.path, entry, case) for entry in one.strays if entry.kind == "astray")
        for model in one.models:
            lost = (entry for entry in model.entries if entry.kind == "astray" and not entry.left_out)
            yield from (_astray(model.folder / entry.path, entry, case) for entry in lost)


@rule_of_all(
    "LAY029",
    ERROR,
    source="of our own: it has no end",
    fix="remove the link",
)
def a_link_that_leads_back(every: Repositories, case: Case) -> Iterator[Found]:
    """A link leads back to a folder that it is in, or is one of too many to folders that have links again."""
    messages = {
        "loop": "this link leads back to a folder that it is in",
        "maze": "too many links lead to folders that have links to folders: the rest of this model is not looked at",
    }
    for one in every.all:
        for entry in one.strays:
            if message := messages.get(entry.kind):
                yield on(one.path / entry.path, message, fix=f"rm {one.path / entry.path}")
        for model in one.models:
            for entry in model.entries:
                if message := messages.get(entry.kind):
                    path = model.folder / entry.path
                    yield on(path, message, fix=f"rm {path}", severity=None if case.baked else WARNING)


@rule(
    "LAY030",
    ERROR,
    source="of our own: it cannot be read to its end, or copied",
    fix="remove it",
    unreadable_too=True,
)
def neither_file_nor_folder(model: Model, case: Case) -> Iterator[Found]:
    """A pipe, socket or device among the files of a model."""
    for entry in model.entries:
        if entry.kind == "special" and not entry.left_out:
            needed = entry.path == CONFIG or entry in model.model_files
            severity = None if case.baked or needed else WARNING
            yield on(model.folder / entry.path, "this is neither a file nor a folder", severity=severity)


@rule_of_all(
    "LAY020",
    ERROR,
    says="failed to poll model '{name}': not unique across all model repositories",
    source=_POLL,
    fix="rename one of them",
)
def a_model_in_two_repositories(every: Repositories, case: Case) -> Iterator[Found]:
    """A model of this name is in another repository too."""
    models = sorted((model for one in every.all for model in one.models), key=lambda model: model.name)
    for name, some in groupby(models, key=lambda model: model.name):
        first, *rest = some
        for other in rest:
            yield on(other.folder, f'there is a model "{name}" in {first.folder.parent} too', name=name)


# -- versions -------------------------------------------------------------------------------------


def _folders(model: Model) -> list[str]:
    return [entry.name for entry in model.below("") if entry.kind == "folder" and entry.name not in NO_VERSIONS]


def _loose(model: Model) -> str | None:
    """A model file that lies beside config.pbtxt in place of a version's folder."""
    wanted = [model.filename] if model.filename else sorted(FILES)
    return next((name for name in wanted if name in model.by_path), None)


def _explained(model: Model) -> bool:
    """Whether another rule says better why there is no version."""
    padded = any(re.match(r"0.", name) for name in _folders(model))
    return padded or any(map(_meant, _folders(model))) or _loose(model) is not None or _is_a_tools(model)


def _meant(name: str) -> bool:
    """Whether a folder's name was probably meant as a version."""
    return re.fullmatch(r"(v|ver|version)?[-_.]?\d.*|latest|current|default|main", name, re.IGNORECASE) is not None


@rule(
    "LAY010",
    ERROR,
    says=_NO_VERSION,
    source="core: model_lifecycle.cc, AsyncLoad",
    fix="versions are folders with whole numbers for names",
    unreadable_too=True,
)
def no_version(model: Model, case: Case) -> Iterator[Found]:
    """The model has no version."""
    if not model.version_folders and not model.is_ensemble and not _explained(model) and not model.closed:
        yield on(model.folder, "this model has no version", fix=f"mkdir {model.folder / '1'}")


@rule(
    "LAY011",
    WARNING,
    says="ignore version directory '{name}' which contains leading zeros in its directory name",
    source=_VERSIONS,
    fix="take the zeros away",
    unreadable_too=True,
)
def leading_zeros(model: Model, case: Case) -> Iterator[Found]:
    """A version's folder has leading zeros in its name, so it is ignored."""
    for name in [] if _is_a_tools(model) else _folders(model):
        if re.match(r"0.", name):
            plain = name.lstrip("0") or "0"
            path, better = model.folder / name, model.folder / plain
            free = plain.isdecimal() and plain not in model.by_path
            yield on(
                path,
                f"the server ignores a version called {name}",
                fix=f"mv {path} {better}" if free else None,
                severity=None if model.version_folders else ERROR,
                edit=Edit(path=path, move=better) if free and not model.version_folders else None,
                name=name,
            )


@rule(
    "LAY012",
    WARNING,
    says="ignore version directory '{name}' which fails to convert to integral number",
    source=_VERSIONS,
    fix="versions are folders with whole numbers for names",
    unreadable_too=True,
)
def no_number(model: Model, case: Case) -> Iterator[Found]:
    """A folder's name is no number, so it is no version."""
    for name in _folders(model):
        if taken_for(name) is None and not re.match(r"0.", name) and not is_left_out(name) and not _is_a_tools(model):
            alone = not model.version_folders and not model.is_ensemble and _meant(name)
            # std::stoll throws what nobody catches: the server ends.
            ends = re.match(r"\s*[+-]?[0-9]", name) is not None
            severity: Severity | None = ERROR if alone or ends else (None if _meant(name) else INFO)
            path = model.folder / name
            fix = f"mv {path} {model.folder / '1'}" if alone and not ends else None
            yield on(path, f"the server takes {name} for no version", severity=severity, fix=fix, name=name)


@rule(
    "LAY013",
    WARNING,
    says="",
    source=f"{_VERSIONS}: std::stoll takes the number off the front, and that folder is not there",
    fix="give it a whole number for a name, or move it out of the model",
    unreadable_too=True,
)
def number_in_front(model: Model, case: Case) -> Iterator[Found]:
    """A folder's name begins with a number, so the server takes it for that version and does not find it."""
    chosen = model.chosen(model.version_folders.values())
    for name, number in model.version_folders.items():
        if name != str(number):
            lost = number in chosen and str(number) not in model.version_folders
            message = f"the server would take {name} for version {number}" + (", and not find it" if lost else "")
            yield on(model.folder / name, message, severity=ERROR if lost else None)


@rule(
    "LAY014",
    WARNING,
    source=_VERSIONS,
    fix="versions are counted from 1",
    unreadable_too=True,
)
def negative_version(model: Model, case: Case) -> Iterator[Found]:
    """A version is negative."""
    chosen = model.chosen(model.version_folders.values())
    for name, number in model.version_folders.items():
        if name == str(number) and number < 0:
            severity = ERROR if number in chosen else None
            yield on(model.folder / name, f"there can be no version {name}", severity=severity)


@rule(
    "LAY015",
    WARNING,
    source="seen on a real server: it is served, but clients and ensembles take 0 for none",
    fix="count versions from 1",
)
def version_zero(model: Model, case: Case) -> Iterator[Found]:
    """A version is called 0, which clients take for none."""
    if 0 in model.served:
        path = model.folder / "0"
        yield on(path, "clients take version 0 for no version at all", fix=f"mv {path} {model.folder / '1'}")


@rule(
    "LAY016",
    ERROR,
    says="Could not determine backend for model '{model}' with no backend in model configuration. Expected model name "
    "of the form 'model.<backend_name>'.",
    source="core: model_config_utils.cc, AutoCompleteBackendFields looks into the first folder only",
    fix="say in config.pbtxt which backend it is",
)
def another_folder_first(model: Model, case: Case) -> Iterator[Found]:
    """The server looks for model files in a folder that is no version, and finds none."""
    if shadowed := hidden_backend(model):
        first = next(entry for entry in model.below("") if entry.kind == "folder")
        message = f"to find the backend, the server looks into {first.name}, which comes before the versions"
        fix = f'in {model.folder / CONFIG}: backend: "{shadowed}"'
        yield on(model.folder / first.path, message, fix=fix)


def hidden_backend(model: Model) -> str | None:
    """The backend that the files of a version mean, where the server does not see them and finds no other."""
    if model.backend or model.is_ensemble or model.config.platform or not model.versions:
        return None
    names = {entry.name for entry in model.below(str(model.versions[-1]))}
    return next((backend for name, backend in FILES.items() if name in names), None)


@rule(
    "LAY017",
    ERROR,
    says=_NO_VERSION,
    source="core: model_lifecycle.cc, AsyncLoad",
    fix="put it into the folder of a version",
    unreadable_too=True,
)
def file_beside_versions(model: Model, case: Case) -> Iterator[Found]:
    """The model's file lies beside config.pbtxt, not in the folder of a version."""
    name = _loose(model)
    if name is None or _is_a_tools(model):
        return
    path, target = model.folder / name, model.folder / "1" / name
    if model.version_folders:
        yield on(path, "the server does not look for models here", severity=INFO)
    else:
        fix = f"mkdir -p {target.parent} && mv {path} {target}"
        message = f"{name} must be in the folder of a version"
        free = "1" not in model.by_path and model.by_path[name].link is None
        yield on(path, message, fix=fix if free else None, edit=Edit(path=path, move=target) if free else None)


@rule(
    "LAY021",
    ERROR,
    says=_NO_VERSION,
    source="core: model_lifecycle.cc, AsyncLoad",
    fix="make a folder for version 1; it may be empty, and git does not keep it so",
)
def ensemble_without_version(model: Model, case: Case) -> Iterator[Found]:
    """An ensemble has no version, not even an empty one."""
    if model.is_ensemble and not model.version_folders and not any(re.match(r"0.", name) for name in _folders(model)):
        path = model.folder / "1"
        message = "an ensemble needs the folder of a version too, though it may be empty"
        free = "1" not in model.by_path
        edit = Edit(path=path, make=True) if free else None
        yield on(model.folder, message, fix=f"mkdir {path}" if free else None, edit=edit)


# -- files ----------------------------------------------------------------------------------------

_MISSPELLED: Final = re.compile(
    r"(model_?)?(config|configuration|cofig|confg)\.?(pbtxt|pbtx|pbtext|prototxt|txt|pb|textproto)?(\.txt|\.bak|\.old)?",
    re.IGNORECASE,
)


@rule(
    "LAY018",
    WARNING,
    source="core: model_repository_manager.cc, InitializeModelInfo: seen on a real server, which guesses the settings",
    fix=f"call it {CONFIG}, in the model's folder",
    unreadable_too=True,
)
def misnamed_config(model: Model, case: Case) -> Iterator[Found]:
    """What is probably the model's config has another name or place, so the server does not read it."""
    entry = None if _is_a_tools(model) else misnamed(model)
    if entry is not None:
        path, right = model.folder / entry.path, model.folder / CONFIG
        message = f"the server does not read {entry.path}, and guesses what it can"
        free = CONFIG not in model.by_path and (entry.link is None or not entry.folder)
        edit = Edit(path=path, move=right) if free else None
        yield on(path, message, fix=f"mv {path} {right}" if free else None, edit=edit)


def misnamed(model: Model) -> Entry | None:
    """What is probably the config of a model that has none, under another name or in another place."""
    for entry in () if model.configured else model.entries:
        here = not entry.folder and _MISSPELLED.fullmatch(entry.name) is not None
        if entry.kind == "file" and (here or (entry.name == CONFIG and entry.folder in model.version_folders)):
            return entry
    return None


@rule(
    "LAY031",
    ERROR,
    says="terminate called after throwing an instance of 'std::length_error'",
    source="seen on a real server, which ends",
    fix="move the folder elsewhere",
    unreadable_too=True,
)
def config_is_a_folder(model: Model, case: Case) -> Iterator[Found]:
    """config.pbtxt is a folder, at which the server ends."""
    entry = model.by_path.get(CONFIG)
    if entry and entry.kind == "folder":
        yield on(model.folder / CONFIG, f"{CONFIG} is a folder")


@rule("LAY019", INFO, source=_VERSIONS, fix="name it in config.pbtxt, or remove it")
def unused_file(model: Model, case: Case) -> Iterator[Found]:
    """A file for warm-up or initial states that config.pbtxt does not name."""
    samples = (i.input_data_file for one in model.config.model_warmup for i in one.inputs.values())
    states = (i.data_file for s in model.config.sequence_batching.state for i in s.initial_state)
    named = {*(f"warmup/{name}" for name in samples), *(f"initial_state/{name}" for name in states)}
    for entry in model.entries:
        top = entry.path.partition("/")[0]
        kept = top in ("warmup", "initial_state") and entry.kind == "file" and not entry.left_out
        if kept and entry.path not in named:
            yield on(model.folder / entry.path, f"config.pbtxt does not name {entry.name}")


@rule(
    "LAY022",
    ERROR,
    says="Request for unknown model: '{quoted}' is not found",
    source="server: http_server.cc does not decode addresses; python_backend: stub_launcher.cc, pb_utils.h: a shell "
    "reads the name, and before 25.08 the server hangs",
    fix="letters, digits, - . _ are safe",
    unreadable_too=True,
)
def odd_name(model: Model, case: Case) -> Iterator[Found]:
    """The model's name has characters that no HTTP client can ask for, or that the python backend cannot take."""
    odd = _NO_STUB if case.from_("25.08") else _NO_SHELL
    if found := re.search(r"[^!-~]|[#%?\"<>\[\]\\^`{|}]", model.name):
        message = f"a model with {found[0]!a} in its name cannot be asked for over HTTP"
        yield on(model.folder, message, quoted=quote(model.name, errors="surrogateescape"))
    elif model.backend == "python" and (found := re.search(odd, model.name)):
        yield on(model.folder, f"a Python model cannot have {found[0]!r} in its name", quoted=model.name)


_NO_STUB = r"[;|&$`<>()\[\]{}\\'\"*?~#!]"
_NO_SHELL = r"[\s;|&`<>()\\'\"]|\$[\w({*@#?$!-]"


@rule(
    "LAY023",
    ERROR,
    says="failed to open text file for read {name}: Permission denied",
    source=_FILES,
    fix="let everybody read it",
    unreadable_too=True,
)
def may_not_be_read(model: Model, case: Case) -> Iterator[Found]:
    """A file or folder may not be read."""
    others = not case.as_root and not case.baked
    if others and not _open_to_others("folder", model.mode):
        yield _closed(model.folder)
        return
    for entry in model.entries:
        closed = others and not _open_to_others(entry.kind, entry.mode)
        if (entry.kind == "unreadable" or closed) and not entry.left_out:
            yield _closed(model.folder / entry.path)


def _open_to_others(kind: str, mode: int) -> bool:
    wanted = {"folder": 0o005, "file": 0o004}.get(kind, 0)
    return mode & wanted == wanted


def _closed(path: Path) -> Found:
    return on(path, "it cannot be read: Permission denied", fix=f"chmod -R a+rX {path}", name=path)


def _begins(entry: Entry) -> bytes:
    try:
        with entry.source.open("rb") as file:
            return file.read(512)
    except OSError:
        return b""


@rule(
    "LAY024",
    ERROR,
    says="No graph was found in the protobuf.",
    source="seen on a real ONNX Runtime; other backends have words of their own",
    fix="fetch or export it again",
)
def empty_model_file(model: Model, case: Case) -> Iterator[Found]:
    """The model's file is empty."""
    for entry in model.model_files:
        if entry.kind == "file" and entry.size == 0:
            yield on(model.folder / entry.path, f"{entry.name} is empty")


@rule(
    "LAY025",
    ERROR,
    says="INVALID_PROTOBUF : Load model failed:Protobuf parsing failed.",
    source="seen on a real ONNX Runtime; other backends have words of their own",
    fix="git lfs pull",
)
def large_file_pointer(model: Model, case: Case) -> Iterator[Found]:
    """A file is a pointer of git-lfs, not the file itself."""
    needed = {entry.path for entry in model.model_files}
    for entry in model.entries:
        small = entry.kind == "file" and 0 < entry.size < 1024 and not entry.left_out
        if small and _begins(entry).startswith(b"version https://git-lfs"):
            path = model.folder / entry.path
            fix = f"git -C {model.folder} lfs pull"
            severity = None if entry.path in needed else WARNING
            yield on(path, "this is a pointer of git-lfs, not the file", fix=fix, severity=severity)


@rule(
    "LAY026",
    ERROR,
    says="Protobuf parsing failed.",
    source="seen on a real ONNX Runtime; other backends have words of their own",
    fix="fetch it again, and look at what was fetched",
)
def page_for_a_model(model: Model, case: Case) -> Iterator[Found]:
    """The model's file is a web page, probably of an error."""
    for entry in model.model_files:
        if entry.kind == "file" and entry.name.endswith((".onnx", ".pt", ".plan", ".py", ".graphdef")):
            head = _begins(entry).lstrip().lower()
            if head.startswith((b"<!doctype", b"<html", b"<?xml")):
                yield on(model.folder / entry.path, "this is a web page, or an answer that says no")


@rule("LAY027", WARNING, source="of our own: an image has no such path", fix="bring it along with `files:`")
def path_of_this_machine(model: Model, case: Case) -> Iterator[Found]:
    """The config names an absolute path, which the image may not have."""
    for name in model.config.parameters:
        value = model.config.parameters[name].string_value
        if re.match(r"/(home|root|Users|mnt|data|tmp|workspace|srv|media)/", value) and case.baked:
            place = model.configuration.place("parameters", name, "string_value")
            yield on(model.configuration.path, f"{value} is a path of this machine", place=place)


@rule(
    "LAY028",
    INFO,
    source="of our own",
    fix="keep one version in the image, or put large models into a volume",
)
def more_than_a_layer(model: Model, case: Case) -> Iterator[Found]:
    """The model is larger than the largest layer that the recipe allows."""
    if case.max_layer_size and model.size > case.max_layer_size:
        yield on(model.folder, "the model is larger than max_layer_size allows for a layer")
