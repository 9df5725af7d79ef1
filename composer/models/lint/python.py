"""Models that are Python programs, which are parsed and never run: whether they are any, and what they import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from composer.models.lint.programs import codes, env_path, file_of, methods_named
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
from composer.models.lint.server import strict
from composer.models.needs import (
    Wanted,
    absent_from,
    apt_for,
    code_of,
    in_stdlib,
    meant,
    modules_of,
    unexplained,
    upstream_packages,
    wanted_by,
)
from composer.models.python_code import Mention, PythonCode, Unreadable
from composer.models.repository import Entry, Model
from composer.models.schema import enum_name

_STUB: Final = "python_backend: pb_stub.cc"
_AUTO: Final = "auto_complete_config"
_HANGS_UNTIL: Final = "25.07"


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
            path, line = file_of(model, program), code.place.line if code.place else 1
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
    for program, code in codes(model, case):
        # Of an empty one another rule speaks.
        if code.model is None and not code.unsure and program.size:
            message = "there is no class TritonPythonModel in it"
            yield on(file_of(model, program), message, version=program.folder)


@rule(
    "PY005",
    ERROR,
    says="Python model {path} does not implement `execute` method.",
    source=f"{_STUB}, ProcessRequests: it loads, and every request fails",
    fix="def execute(self, requests): ...",
)
def no_execute(model: Model, case: Case) -> Iterator[Found]:
    """The class has no method `execute`, so every request fails."""
    for program, code in codes(model, case):
        if code.model and not code.model.opaque and "execute" not in code.model.methods:
            path = file_of(model, program)
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
        for program, _, method in methods_named(name, model, case):
            if not method.takes(count):
                given = "self" + ", requests" * (name == "execute") + ", args" * (name == "initialize")
                message = f"the server calls {name}({given}), which this does not take"
                yield on(file_of(model, program), message, place=method.place, name=name)
    for program, _, method in methods_named(_AUTO, model, case):
        if not strict(case) and not method.class_takes(1):
            message = f"the server calls {_AUTO}(config) of the class, which this does not take"
            fix = "@staticmethod" if method.takes(1) else None
            yield on(file_of(model, program), message, place=method.place, fix=fix, name=_AUTO)


@rule(
    "PY030",
    ERROR,
    says="Stub process '{model}_0_0' is not healthy.",
    source="seen on a real server",
    fix="raise an exception: the server reports it",
)
def program_that_ends_itself(model: Model, case: Case) -> Iterator[Found]:
    """The program ends its own process."""
    for program, code in codes(model, case):
        for one in code.exits:
            message = f"{one.what} ends the process that serves the model"
            yield on(file_of(model, program), message, place=one.place, severity=None if one.certain else WARNING)


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
    if (case.packages is None and case.modules is None) or env_path(model):
        return
    for one in wanted_by(model, case.release):
        name = one.module.partition(".")[0]
        if not one.imported.optional and not _there(one, name, case):
            message = f"nothing that the image is known to have brings the module {one.module}"
            place, severity = one.imported.place, _how_bad(one, case)
            yield on(one.file, message, place=place, fix=_advice(one), severity=severity, module=name)


def _there(one: Wanted, name: str, case: Case) -> bool:
    if case.modules is not None:
        return name in case.modules
    packages = case.packages or frozenset()
    return one.among(packages | (frozenset() if case.all_packages else upstream_packages(case.release)))


def _how_bad(one: Wanted, case: Case) -> Severity | None:
    """An error where all is known of the image; less where packages that are added may bring it along."""
    packages = case.packages or frozenset()
    if case.modules is not None:
        return None if one.certain and case.all_packages else WARNING
    if case.all_packages:
        return None if one.certain and not unexplained(packages) else WARNING
    return WARNING if packages <= upstream_packages(case.release) else INFO


def _advice(one: Wanted) -> str:
    apt = apt_for(one.module, one.package)
    more = f", apt: [{', '.join(apt)}]" if apt else ""
    beside = "" if one.known else f", or put {one.module.partition('.')[0]}.py beside the program"
    near = meant(one.module)
    return f"packages: {{pip: [{one.package}]{more}}}{beside}{f'; or is {near} meant?' if near else ''}"


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
    for program, code in codes(model, case):
        for one in code.imports:
            beside = [f"{program.folder}/{one.top}.py", f"{one.top}.py"]
            path = next((path for path in beside if path in model.by_path), None)
            if path and not one.level and in_stdlib(one.top, case.release):
                message = f"this imports Python's own {one.top}, and not {path}"
                yield on(file_of(model, program), message, place=one.place)


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


# -- the world outside ----------------------------------------------------------------------------


@rule(
    "PY023",
    WARNING,
    source="of our own: it needs a network each time it starts, and gets whatever is there then",
    fix="bake it in: put it into the model's folder, and load it from there",
)
def download_while_loading(model: Model, case: Case) -> Iterator[Found]:
    """The program downloads something while it is loaded."""
    for program, code in codes(model, case):
        for one in code.downloads:
            if one.at_load:
                what = f' "{one.subject}"' if one.subject else ""
                message = f"{one.what.rpartition('.')[2]} takes{what} from the network whenever the model is loaded"
                yield on(file_of(model, program), message, place=one.place)


@rule(
    "PY024",
    ERROR,
    says="FileNotFoundError: [Errno 2] No such file or directory: '{path}'",
    source="seen on a real server: its folder is the one that it was started in",
    fix="os.path.join(pb_utils.get_model_dir(), ...)",
)
def file_beside_nothing(model: Model, case: Case) -> Iterator[Found]:
    """The program opens a file by a relative path, which does not begin at the model's folder."""
    for program, code in codes(model, case):
        for one in code.opens:
            path, name = one.subject or "", file_of(model, program)
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
    for program, code in codes(model, case):
        if kinds == {"KIND_GPU"} and not code.asks_device and not _has_helpers(model, program, case):
            message = "the program does nothing with a GPU: its instances may as well be KIND_CPU"
            yield at(model, "instance_group", 0, "kind", message=message)
        if kinds <= {"KIND_CPU"}:
            for one in code.device:
                if one.certain:
                    yield on(file_of(model, program), _on_gpu(one), place=one.place, fix="kind: KIND_GPU")


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
