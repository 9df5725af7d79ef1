"""Models that are Python programs, which are parsed and never run; and the environments that are packed for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from composer.models.configuration import Place
from composer.models.lint.rule import (
    ERROR,
    INFO,
    WARNING,
    Case,
    Found,
    Repositories,
    Severity,
    at,
    on,
    rule,
    rule_of_all,
)
from composer.models.needs import (
    MIB,
    Wanted,
    absent_from,
    apt_for,
    code_of,
    default_region,
    enum_name,
    in_stdlib,
    modules_of,
    programs,
    runs_python,
    shared_memory,
    unexplained,
    upstream_packages,
    wanted_by,
)
from composer.models.python_code import Mention, Method, PythonCode, Return, Tensor, Unreadable
from composer.models.python_env import PythonEnv, read_env
from composer.models.repository import Entry, Model

_STUB: Final = "python_backend: pb_stub.cc"
_UTILS: Final = "python_backend: triton_python_backend_utils.py, ModelConfig"
_ENV: Final = "python_backend: pb_env.cc, stub_launcher.cc"
_AUTO: Final = "auto_complete_config"
_HANGS_UNTIL: Final = "25.07"


def _codes(model: Model, case: Case) -> Iterator[tuple[Entry, PythonCode]]:
    """The programs of a model that can be parsed."""
    for program in programs(model):
        code = code_of(program, case.release)
        if isinstance(code, PythonCode):
            yield program, code


def _methods(model: Model, case: Case, name: str) -> Iterator[tuple[Entry, PythonCode, Method]]:
    """The method of this name in each program, where it can be looked at."""
    for program, code in _codes(model, case):
        method = code.model.methods.get(name) if code.model else None
        if method and not method.opaque:
            yield program, code, method


def _file(model: Model, program: Entry) -> Path:
    return model.folder / program.path


# -- the file -------------------------------------------------------------------------------------


@rule(
    "PY001",
    ERROR,
    says="Failed to preinitialize Python stub: Python model file not found in '{path}'",
    source=f"{_STUB}, ModelContext::Init; up to {_HANGS_UNTIL} the server then waits for ever",
    fix="put the program there, or name it in default_model_filename",
)
def no_program(model: Model, case: Case) -> Iterator[Found]:
    """A version has no model.py."""
    if model.backend != "python" or model.config.default_model_filename:
        return
    for version in model.served:
        path = f"{version}/model.py"
        entry = model.by_path.get(path)
        if entry and entry.kind == "folder":
            yield on(model.folder / path, "this is a folder, and not a program", path=model.folder / path)
        if entry is None:
            near = [one.name for one in model.below(str(version)) if one.name.endswith(".py")]
            message = f"there is no {path}" + (f", but {near[0]}" if near else "")
            fix = f"mv {model.folder / str(version) / near[0]} {model.folder / path}" if len(near) == 1 else None
            yield on(model.folder / str(version), message, fix=fix, path=model.folder / path)


@rule(
    "PY002",
    ERROR,
    says="Model name must end with '.py'. Model name is \"{name}\".",
    source=f"{_STUB}, ModelContext::StubSetup",
    fix='default_model_filename: "model.py"',
)
def name_of_no_program(model: Model, case: Case) -> Iterator[Found]:
    """The program's file is not called like a Python module."""
    name = model.config.default_model_filename
    if model.backend != "python" or not name:
        return
    if not name.endswith(".py"):
        message = f"the Python backend loads files whose names end with .py, and not {name}"
        yield at(model, "default_model_filename", message=message, name=name)
    elif "." in name[:-3]:
        message = f"{name} is imported as a module of that name, in which a dot divides a package from its parts"
        yield at(model, "default_model_filename", message=message, name=name)


@rule(
    "PY003",
    ERROR,
    says="SyntaxError: {words} ({file}, line {line})",
    source=f"{_STUB}; seen on a real server",
    fix="correct it: python3 -m py_compile",
)
def no_python(model: Model, case: Case) -> Iterator[Found]:
    """The program is no Python, or not of the version that the image has."""
    for program, certain in modules_of(model, case.release):
        code = code_of(program, case.release)
        if isinstance(code, Unreadable) and not (_is_pointer(program) and code.syntax):
            severity = None if code.syntax and certain and not code.unsure else WARNING
            path, line = _file(model, program), code.place.line if code.place else 1
            words: dict[str, Any] = {"words": code.words, "line": line, "file": path.name}
            yield on(path, _unread(code, case), place=code.place, severity=severity, **words)


def _unread(code: Unreadable, case: Case) -> str:
    if not code.syntax:
        return f"it cannot be looked into: {code.words}"
    python = f" {case.release.python}" if case.release and case.release.python else ""
    return f"this is no Python{python}: {code.words}"


def _is_pointer(program: Entry) -> bool:
    """Whether git-lfs left its pointer there: another rule says so."""
    try:
        with program.source.open("rb") as file:
            return file.read(20).startswith(b"version https://git-")
    except OSError:
        return False


@rule(
    "PY004",
    ERROR,
    says="AttributeError: module '{version}.model' has no attribute 'TritonPythonModel'",
    source=f"{_STUB}, Initialize",
    fix="class TritonPythonModel:",
)
def no_class(model: Model, case: Case) -> Iterator[Found]:
    """The program has no class TritonPythonModel."""
    for program, code in _codes(model, case):
        if code.model is None and not code.unsure:
            message = "there is no class TritonPythonModel in it"
            yield on(_file(model, program), message, version=program.folder)


@rule(
    "PY005",
    ERROR,
    says="Python model {path} does not implement `execute` method.",
    source=f"{_STUB}, ProcessRequests: it loads, and every request fails",
    fix="def execute(self, requests): ...",
)
def no_execute(model: Model, case: Case) -> Iterator[Found]:
    """The class has no method `execute`, so every request fails."""
    for program, code in _codes(model, case):
        if code.model and not code.model.opaque and "execute" not in code.model.methods:
            path = _file(model, program)
            yield on(path, "the class has no method execute", place=code.model.place, path=path)


_ARGUMENTS: Final = {"__init__": 0, "initialize": 1, "execute": 1}


@rule(
    "PY029",
    ERROR,
    says="TypeError: TritonPythonModel.{name}()",
    source=f"{_STUB}, Initialize and ProcessRequests",
    fix="def initialize(self, args): ...; def execute(self, requests): ...",
)
def method_that_cannot_be_called(model: Model, case: Case) -> Iterator[Found]:
    """A method takes other arguments than the server gives it."""
    for name, count in _ARGUMENTS.items():
        for program, _, method in _methods(model, case, name):
            if not method.takes(count):
                given = "self" + ", requests" * (name == "execute") + ", args" * (name == "initialize")
                message = f"the server calls {name}({given}), which this does not take"
                yield on(_file(model, program), message, place=method.place, name=name)
    for program, _, method in _methods(model, case, _AUTO):
        if _completes(case) and not method.class_takes(1):
            message = f"the server calls {_AUTO}(config) of the class, which this does not take"
            fix = "@staticmethod" if method.takes(1) else None
            yield on(_file(model, program), message, place=method.place, fix=fix, name=_AUTO)


@rule(
    "PY030",
    ERROR,
    says="Stub process '{model}_0_0' is not healthy.",
    source="seen on a real server",
    fix="raise an exception: the server reports it",
)
def program_that_ends_itself(model: Model, case: Case) -> Iterator[Found]:
    """The program ends its own process."""
    for program, code in _codes(model, case):
        for one in code.exits:
            message = f"{one.what} ends the process that serves the model"
            yield on(_file(model, program), message, place=one.place, severity=None if one.certain else WARNING)


# -- imports --------------------------------------------------------------------------------------


@rule(
    "PY006",
    ERROR,
    says="ModuleNotFoundError: No module named '{module}'",
    source="seen on a real server",
    fix="add it to packages.pip",
)
def import_that_nothing_brings(model: Model, case: Case) -> Iterator[Found]:
    """A module is imported that neither Python, nor the model, nor the image is known to have."""
    if case.packages is None or _env_path(model):
        return
    there = case.packages | (frozenset() if case.all_packages else upstream_packages(case.release))
    for one in wanted_by(model, case.release):
        if not one.imported.optional and not one.among(there):
            message = f"nothing that the image is known to have brings the module {one.module}"
            name = one.module.partition(".")[0]
            place, severity = one.imported.place, _how_bad(one, case)
            yield on(one.file, message, place=place, fix=_advice(one), severity=severity, module=name)


def _how_bad(one: Wanted, case: Case) -> Severity | None:
    """An error where all is known of the image; less where packages that are added may bring it along."""
    packages = case.packages or frozenset()
    if case.all_packages:
        return None if one.certain and not unexplained(packages) else WARNING
    return WARNING if packages <= upstream_packages(case.release) else INFO


def _advice(one: Wanted) -> str:
    apt = apt_for(one.module, one.package)
    more = f", apt: [{', '.join(apt)}]" if apt else ""
    beside = "" if one.known else f", or put {one.module.partition('.')[0]}.py beside the program"
    return f"packages: {{pip: [{one.package}]{more}}}{beside}"


@rule(
    "PY031",
    ERROR,
    says="ModuleNotFoundError: No module named '{module}'",
    source="seen on a real server",
    fix="put it there, or correct the name",
)
def import_of_a_file_that_is_not_there(model: Model, case: Case) -> Iterator[Found]:
    """A part of the program is imported that does not lie beside it."""
    for one in absent_from(model, case.release):
        severity = None if one.certain else WARNING
        yield on(one.file, one.why, place=one.imported.place, severity=severity, module=one.module)


@rule(
    "PY025",
    WARNING,
    source=f"{_STUB}, StubSetup: the model's folders are searched last",
    fix="give the file another name",
)
def file_that_is_never_imported(model: Model, case: Case) -> Iterator[Found]:
    """A file beside the program has the name of a module that Python finds first."""
    for program, code in _codes(model, case):
        for one in code.imports:
            beside = [f"{program.folder}/{one.top}.py", f"{one.top}.py"]
            path = next((path for path in beside if path in model.by_path), None)
            if path and not one.level and in_stdlib(one.top, case.release):
                message = f"this imports Python's own {one.top}, and not {path}"
                yield on(_file(model, program), message, place=one.place)


@rule_of_all(
    "PY026",
    WARNING,
    source="seen on a real server: the interpreter in the stub takes nothing from its surroundings",
    fix="put modules beside model.py, or into packages.pip",
)
def pythonpath_for_a_program(every: Repositories, case: Case) -> Iterator[Found]:
    """PYTHONPATH is set, which the Python backend ignores."""
    models = [model for model in every.models.values() if model.backend == "python"]
    if models and "PYTHONPATH" in case.env:
        yield on(models[0].folder, "the Python backend ignores PYTHONPATH, which the recipe sets")


# -- what execute gives back ----------------------------------------------------------------------


def _decoupled(model: Model, code: PythonCode, case: Case) -> bool | None:
    """Whether the model is decoupled; None where its program decides, and how cannot be told."""
    if model.config.HasField("model_transaction_policy"):
        return bool(model.config.model_transaction_policy.decoupled)
    if not _completes(case):
        return False
    return code.auto.decoupled if code.auto.decoupled_place else False if not code.auto.may_decouple else None


@rule(
    "PY007",
    ERROR,
    says="Expected a list in the execute return, found type '<class '{type}'>'.",
    source=f"{_STUB}, ProcessReturnedResponses; since 24.06 None is taken, and the request is never answered",
    fix="return a list with one pb_utils.InferenceResponse for each request",
)
def execute_that_answers_nothing(model: Model, case: Case) -> Iterator[Found]:
    """`execute` returns no list of responses."""
    for program, code, method in _methods(model, case, "execute"):
        if _decoupled(model, code, case) is False and not _senders_count(code, case):
            for found in _no_answers(method):
                severity = WARNING if found[2] else None
                yield on(_file(model, program), found[0], place=found[1].place, severity=severity, type=_type(found[1]))


def _senders_count(code: PythonCode, case: Case) -> bool:
    """Since 24.06 a model that is not decoupled may answer by response senders too."""
    return code.senders and case.from_("24.06")


def _type(one: Return | Method) -> str:
    return one.type if isinstance(one, Return) and one.type else "NoneType"


def _no_answers(method: Method) -> Iterator[tuple[str, Return | Method, bool]]:
    """What is wrong with the ways through a method, where, and whether there are better ways."""
    right = any(one.kind in ("list", "unknown") for one in method.returns)
    if method.generator:
        yield "execute yields, which makes a generator of it: it must return a list of responses", method, False
    elif method.only_raises:
        yield "execute returns nothing, whatever is asked: all ways through it raise, or have no end", method, False
    elif not method.returns:
        yield "execute returns None: a request is never answered", method, False
    else:
        yield from ((_wrong(one), one, right) for one in method.returns if one.kind in ("none", "other"))
        if method.ends:
            yield (
                "execute may come to its end without returning anything: then a request is never answered",
                method,
                right,
            )


def _wrong(one: Return) -> str:
    what = f"a {one.type}" if one.kind == "other" else "None"
    return f"execute returns {what} here, and not a list of responses"


@rule(
    "PY008",
    ERROR,
    says="Python model '{model}' is using the decoupled mode and the execute function must return None.",
    source=f"{_STUB}, ProcessReturnedResponses",
    fix="send responses with request.get_response_sender(), and return None",
)
def execute_of_a_decoupled_model_that_returns(model: Model, case: Case) -> Iterator[Found]:
    """`execute` of a decoupled model returns something."""
    for program, code, method in _methods(model, case, "execute"):
        if not _decoupled(model, code, case):
            continue
        if method.generator:
            message = "execute yields, which makes a generator of it; a decoupled model's must return None"
            yield on(_file(model, program), message, place=method.place)
            continue
        given = [one for one in method.returns if one.kind in ("list", "other")]
        better = method.ends or any(one.kind in ("none", "unknown") for one in method.returns)
        for one in given:
            message = "execute of a decoupled model returns something here"
            yield on(_file(model, program), message, place=one.place, severity=WARNING if better else None)


@rule(
    "PY028",
    ERROR,
    says="is_ready() must return a boolean value",
    source=f"{_STUB}, GetUserModelReadiness",
    fix="return True or False",
    since="26.03",
)
def readiness_that_is_no_boolean(model: Model, case: Case) -> Iterator[Found]:
    """`is_ready` returns something else than True or False."""
    for program, _, method in _methods(model, case, "is_ready"):
        for one in method.returns:
            if one.kind in ("none", "list") or (one.kind == "other" and one.type != "bool"):
                yield on(_file(model, program), "is_ready must return True or False", place=one.place)
        if method.ends:
            yield on(_file(model, program), "is_ready may return None", place=method.place, severity=WARNING)


# -- auto_complete_config -------------------------------------------------------------------------


def _completes(case: Case) -> bool:
    """Whether the server asks models for their config: since 22.06, unless it is told not to."""
    off = case.server.get("disable-auto-complete-config") is True or case.server.get("strict-model-config") is True
    return case.from_("22.06") and not off


@rule(
    "PY009",
    ERROR,
    says="auto_complete_config function in model '{model}' must return a valid pb.ModelConfig object.",
    source=f"{_STUB}, AutoCompleteModelConfig",
    fix="return the config that it was given",
)
def completion_that_returns_nothing(model: Model, case: Case) -> Iterator[Found]:
    """`auto_complete_config` does not return the config."""
    for program, _, method in _methods(model, case, _AUTO):
        if not _completes(case):
            continue
        wrong = [one for one in method.returns if one.kind != "unknown"]
        right = len(wrong) < len(method.returns)
        for one in wrong:
            message = "auto_complete_config does not return the config here"
            yield on(_file(model, program), message, place=one.place, severity=WARNING if right else None)
        if method.ends or method.generator:
            message = "auto_complete_config may come to its end without returning the config"
            yield on(_file(model, program), message, place=method.place, severity=WARNING if right else None)


@rule(
    "PY010",
    ERROR,
    says="{kind} '{name}' in auto-complete-config function for model '{model}' {words}",
    source=_UTILS,
    fix='{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}',
)
def completion_with_half_a_tensor(model: Model, case: Case) -> Iterator[Found]:
    """`auto_complete_config` adds an input or output with keys missing, or with others."""
    for program, code in _codes(model, case):
        for one in code.auto.tensors if _completes(case) else ():
            if words := _keys_wrong(one, case):
                kind = "output" if one.output else "input"
                message = f"this {kind} {words}"
                severity = None if one.certain else WARNING
                name = one.name or ""
                yield on(
                    _file(model, program),
                    message,
                    place=one.place,
                    severity=severity,
                    kind=kind,
                    name=name,
                    words=words,
                )


def _keys_wrong(one: Tensor, case: Case) -> str | None:
    known = ["name", "data_type", "dims"]
    optional = ["optional"] if not one.output and case.from_("23.12") else []
    if any(key not in (*known, *optional) for key in one.keys):
        return "contains property other than 'name', 'data_type'" + (
            ", 'dims' and 'optional'." if optional else " and 'dims'."
        )
    missing = next((key for key in known if key not in one.keys), None)
    return f"is missing '{missing}' property." if missing else None


@rule(
    "PY011",
    ERROR,
    says="{words}",
    source=_UTILS,
    fix="write the same in config.pbtxt, or leave it out there",
)
def completion_that_contradicts(model: Model, case: Case) -> Iterator[Found]:
    """`auto_complete_config` sets something else than config.pbtxt says."""
    for program, code in _codes(model, case):
        if _completes(case):
            for message, words, place, certain in _contradictions(model, code):
                severity = None if certain else WARNING
                yield on(_file(model, program), message, place=place, severity=severity, words=words)


def _contradictions(model: Model, code: PythonCode) -> Iterator[tuple[str, str, Place | None, bool]]:
    auto, most = code.auto, model.config.max_batch_size
    where = f"in auto-complete-config function for model '{model.name}'"
    if auto.max_batch_size is not None and most > auto.max_batch_size:
        words = (
            f"configuration specified max_batch_size {most}, but {where} specified max_batch_size {auto.max_batch_size}"
        )
        yield f"config.pbtxt says max_batch_size: {most}", words, auto.max_batch_size_place, True
    said = model.config.HasField("model_transaction_policy")
    if auto.decoupled is not None and said and auto.decoupled != model.config.model_transaction_policy.decoupled:
        words = f"trying to change decoupled property in auto-complete-config for model '{model.name}'"
        yield "config.pbtxt says the opposite of decoupled", words, auto.decoupled_place, True
    if auto.dynamic_batching and model.config.HasField("sequence_batching"):
        words = "Configuration specified scheduling_choice as 'sequence_batching', but auto-complete-config function"
        yield "config.pbtxt has sequence_batching", words, auto.dynamic_batching, True
    for one in auto.tensors:
        yield from _contradicting_tensor(model, one)


def _contradicting_tensor(model: Model, one: Tensor) -> Iterator[tuple[str, str, Place | None, bool]]:
    kind = "output" if one.output else "input"
    given = next((each for each in getattr(model.config, kind) if each.name == one.name), None)
    if given is None:
        return
    datatype, dims = enum_name(given, "data_type"), tuple(given.dims)
    if one.data_type and datatype not in ("TYPE_INVALID", one.data_type):
        words = f"configuration expects datatype {datatype} for {kind} '{one.name}', model provides {one.data_type}"
        yield f'config.pbtxt says {datatype} for "{one.name}"', words, one.place, one.certain
    if one.dims is not None and dims and dims != one.dims:
        words = f"the model expects dims {list(one.dims)} but the model configuration specifies dims {list(dims)}"
        yield f'config.pbtxt says dims: {list(dims)} for "{one.name}"', words, one.place, one.certain


# -- packed environments --------------------------------------------------------------------------

_FOLDER: Final = "$$TRITON_MODEL_DIRECTORY"
_KEY: Final = "EXECUTION_ENV_PATH"


def _env_path(model: Model) -> str:
    known = model.backend == "python" and _KEY in model.config.parameters
    return str(model.config.parameters[_KEY].string_value) if known else ""


def _env_entry(model: Model) -> Entry | None:
    """The environment that lies in the model's own folder."""
    path = _env_path(model)
    inner = path.removeprefix(_FOLDER).strip("/") if path.startswith(_FOLDER) else ""
    return model.by_path.get(inner) if inner else None


def _env(model: Model) -> tuple[Entry, PythonEnv | None] | None:
    entry = _env_entry(model)
    return (entry, read_env(entry.source)) if entry and entry.kind in ("file", "folder") else None


@rule(
    "PY012",
    ERROR,
    says="Failed to get the canonical path for {path}.",
    source=f"{_ENV}, ExtractIfNotExtracted",
    fix="put the environment there",
)
def environment_that_is_not_there(model: Model, case: Case) -> Iterator[Found]:
    """The packed environment is not where EXECUTION_ENV_PATH says."""
    path = _env_path(model)
    if path.startswith(f"{_FOLDER}/") and _env_entry(model) is None:
        message = f"there is no {path.removeprefix(_FOLDER).strip('/')} in the model's folder"
        yield at(model, "parameters", _KEY, message=message, path=path.replace(_FOLDER, str(model.folder)))
    elif path and not path.startswith(("/", "$")):
        message = f"{path} is looked for in the folder that the server is started in"
        yield at(model, "parameters", _KEY, message=message, path=path, fix=f"{_FOLDER}/{path}")


@rule(
    "PY013",
    ERROR,
    says="archive_read_next_header() failed with error code",
    source=f"{_ENV}, ExtractTarFile",
    fix="pack it with conda-pack: conda pack -o env.tar.gz",
)
def environment_that_is_no_archive(model: Model, case: Case) -> Iterator[Found]:
    """The packed environment is no tar archive, plain or packed with gzip."""
    found = _env(model)
    if found and found[1] is None:
        yield on(model.folder / found[0].path, "the server takes a tar archive, plain or packed with gzip")


@rule(
    "PY014",
    ERROR,
    says="Path {path}/bin/activate does not exist. The Python environment should contain an 'activate' script.",
    source=f"{_ENV}, GetPythonEnvironment",
    fix="pack it with conda-pack: conda pack -o env.tar.gz",
)
def environment_without_activate(model: Model, case: Case) -> Iterator[Found]:
    """The environment has no bin/activate."""
    found = _env(model)
    if found and found[1] and found[1].complete and not found[1].activates:
        path = model.folder / found[0].path
        yield on(path, "there is no bin/activate in it, at the top", path=path)


@rule(
    "PY015",
    ERROR,
    says="Failed to get the canonical path for {path}.",
    source=f"{_ENV}: the server fills in what has two of them",
    fix='string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz"',
)
def one_dollar(model: Model, case: Case) -> Iterator[Found]:
    """EXECUTION_ENV_PATH has one dollar sign where there must be two."""
    path = _env_path(model)
    if path.startswith("$") and not path.startswith("$$"):
        message = "one $ is taken as it is: two are needed for the server to fill the folder in"
        yield at(model, "parameters", _KEY, message=message, path=path, fix=f'string_value: "${path}"')


@rule(
    "PY016",
    ERROR,
    says="error while loading shared libraries: libpython{version}.so.1.0",
    source="python_backend: README.md, Using Custom Python Execution Environments; seen on a real server",
    fix="make the environment with the Python of the image, or build triton_python_backend_stub for it",
)
def environment_of_another_python(model: Model, case: Case) -> Iterator[Found]:
    """The environment has another Python than the backend is made for."""
    found, python = _env(model), case.release.python if case.release else None
    if not found or not found[1] or not python or "triton_python_backend_stub" in model.by_path:
        return
    if found[1].pythons and python not in found[1].pythons:
        has = found[1].pythons[0]
        message = f"it has Python {has}, and the Python backend of {case.release and case.release.name} is for {python}"
        yield on(model.folder / found[0].path, message, version=has, severity=WARNING)


@rule(
    "PY017",
    ERROR,
    says="archive_write_header() failed with error code",
    source=f"{_ENV}, ExtractTarFile: since 26.06 such paths are refused, before they were followed",
    fix="pack it again, with paths below its own folder",
)
def environment_that_leaves_its_folder(model: Model, case: Case) -> Iterator[Found]:
    """The archive has paths that lead out of the folder it is unpacked to."""
    found = _env(model)
    if found and found[1] and found[1].leaves:
        severity: Severity | None = None if case.from_("26.06") else WARNING
        yield on(model.folder / found[0].path, f"it has the path {found[1].leaves}", severity=severity)


@rule(
    "PY018",
    ERROR,
    source="python_backend: #384; seen on a real server: inputs are read as zeros, outputs are empty",
    fix='numpy<2 in the environment, or triton: "24.11"',
    until="24.10",
)
def numpy_that_is_too_new(model: Model, case: Case) -> Iterator[Found]:
    """The environment has NumPy 2, with which the backend of this release reads and writes wrong numbers."""
    found = _env(model)
    if case.release and found and found[1] and (found[1].numpy or 0) >= 2 and not _own_stub(model):
        yield on(model.folder / found[0].path, "it has NumPy 2: tensors would hold wrong numbers, and nothing says so")


def _own_stub(model: Model) -> bool:
    return "triton_python_backend_stub" in model.by_path


@rule(
    "PY020",
    ERROR,
    says="Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: {value}'",
    source="python_backend: python_be.cc, ModelState",
    fix='string_value: "yes"',
)
def neither_yes_nor_no(model: Model, case: Case) -> Iterator[Found]:
    """FORCE_CPU_ONLY_INPUT_TENSORS is neither yes nor no."""
    key = "FORCE_CPU_ONLY_INPUT_TENSORS"
    if model.backend == "python" and key in model.config.parameters:
        value = model.config.parameters[key].string_value
        if value not in ("yes", "no"):
            yield at(model, "parameters", key, message=f'it is "yes" or "no", and not "{value}"', value=value)


# -- shared memory --------------------------------------------------------------------------------


def _python_models(every: Repositories) -> list[Model]:
    return [model for model in every.models.values() if model.configuration.readable and runs_python(model)]


@rule_of_all(
    "PY021",
    ERROR,
    says="shm-default-byte-size can't be smaller than 4 MiBs",
    source="python_backend: python_be.cc, TRITONBACKEND_Initialize",
    fix="backend-config: {python: {shm-default-byte-size: 1048576}}",
)
def region_that_is_too_small(every: Repositories, case: Case) -> Iterator[Found]:
    """The Python backend is given less shared memory for an instance than it takes."""
    models = _python_models(every)
    least = (4 if case.before("23.09") else 1) * MIB
    if models and default_region(case.server, case.release) < least:
        message = f"the server's flag shm-default-byte-size must be {least} at least"
        yield on(
            models[0].folder.parent, message, fix=f"backend-config: {{python: {{shm-default-byte-size: {least}}}}}"
        )


@rule_of_all(
    "PY022",
    ERROR,
    says="Unable to initialize shared memory key 'triton_python_backend_shm_region_...' to requested size "
    "({region} bytes). If you are running Triton inside docker, use '--shm-size' flag to control the shared memory "
    "region size.",
    source="python_backend: shm_manager.cc",
    fix="run: {shm_size: 1g}",
)
def too_little_shared_memory(every: Repositories, case: Case) -> Iterator[Found]:
    """The Python models take more shared memory than the container is given."""
    models = _python_models(every)
    if case.shm_size is None or not models:
        return
    needed = shared_memory(models, server=case.server, release=case.release, gpus=case.gpus)
    region = default_region(case.server, case.release)
    fix = f"run: {{shm_size: {needed.advised // MIB}m}}"
    given = f"the container is given {case.shm_size // MIB}"
    if needed.instances * region > case.shm_size:
        message = (
            f"{needed.instances} instances take {needed.instances * region // MIB} MiB of shared memory, and {given}"
        )
        yield on(models[0].folder.parent, message, fix=fix, region=region)
    elif needed.at_start + needed.at_work > case.shm_size:
        full = (needed.at_start + needed.at_work) // MIB
        message = f"{needed.instances} busy instances take {full} MiB of shared memory, and {given}"
        yield on(models[0].folder.parent, message, fix=fix, severity=WARNING, region=region)


# -- the world outside ----------------------------------------------------------------------------


@rule(
    "PY023",
    WARNING,
    source="of our own: it needs a network each time it starts, and gets whatever is there then",
    fix="bake it in: put it into the model's folder, and load it from there",
)
def download_while_loading(model: Model, case: Case) -> Iterator[Found]:
    """The program downloads something while it is loaded."""
    for program, code in _codes(model, case):
        for one in code.downloads:
            if one.at_load:
                what = f' "{one.subject}"' if one.subject else ""
                message = f"{one.what.rpartition('.')[2]} takes{what} from the network whenever the model is loaded"
                yield on(_file(model, program), message, place=one.place)


@rule(
    "PY024",
    ERROR,
    says="FileNotFoundError: [Errno 2] No such file or directory: '{path}'",
    source="seen on a real server: its folder is the one that it was started in",
    fix="os.path.join(pb_utils.get_model_dir(), ...)",
)
def file_beside_nothing(model: Model, case: Case) -> Iterator[Found]:
    """The program opens a file by a relative path, which does not begin at the model's folder."""
    for program, code in _codes(model, case):
        for one in code.opens:
            path, name = one.subject or "", _file(model, program)
            added = any(file.endswith(f"/{path.removeprefix('./')}") for file in case.files or ())
            message = f"{path} is looked for in the folder that the server was started in, and not in the model's"
            fix = f'os.path.join(pb_utils.get_model_dir(), "{path}")'
            severity = None if one.certain and not added else WARNING
            yield on(name, message, place=one.place, path=path, fix=fix, severity=severity)


@rule(
    "PY027",
    WARNING,
    source="of our own",
    fix="let the kind of the instances and the program say the same",
)
def device_that_does_not_fit(model: Model, case: Case) -> Iterator[Found]:
    """The instances are on one kind of device, and the program is for another."""
    kinds = {enum_name(group, "kind") for group in model.config.instance_group}
    for program, code in _codes(model, case):
        if kinds == {"KIND_GPU"} and not code.asks_device and not _has_helpers(model, program, case):
            message = "the program does nothing with a GPU: its instances may as well be KIND_CPU"
            yield at(model, "instance_group", 0, "kind", message=message)
        if kinds <= {"KIND_CPU"}:
            for one in code.device:
                if one.certain:
                    yield on(_file(model, program), _on_gpu(one), place=one.place, fix="kind: KIND_GPU")


def _on_gpu(one: Mention) -> str:
    return f"{one.what} needs a GPU, and the instances of this model are on the CPU"


def _has_helpers(model: Model, program: Entry, case: Case) -> bool:
    """Whether part of the program is in other files or packages, which may use the GPU for it."""
    code = code_of(program, case.release)
    beside = {one.name.partition(".")[0] for one in (*model.below(program.folder), *model.below(""))}
    imports = code.imports if isinstance(code, PythonCode) else ()
    return any(one.level or one.top in beside for one in imports) or any(
        wanted.module != "numpy" for wanted in wanted_by(model, case.release)
    )
