"""Python models that call others: whether those are there, and when they are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from composer.models.lint.ensembles import lacks, near
from composer.models.lint.rule import ERROR, WARNING, Case, Found, Repositories, Severity, on, rule, rule_of_all
from composer.models.needs import code_of, instances, modules_of
from composer.models.python_code import Call, PythonCode
from composer.models.repository import Entry, Model

_STUB: Final = "python_backend: infer_request.cc"


def _calls(model: Model, case: Case) -> Iterator[tuple[Entry, Call]]:
    """The calls in a model's programs, and in the files that these import."""
    for module, _ in modules_of(model, case.release):
        code = code_of(module, case.release)
        if isinstance(code, PythonCode):
            yield from ((module, call) for call in code.calls)


_NOT_READY: Final = "Failed for execute the inference request. Model '{name}' is not ready."


def _severity(call: Call) -> Severity | None:
    """An error where every request comes to the call: then all fail."""
    return None if call.certain else WARNING


@rule_of_all(
    "ENS022",
    ERROR,
    says=_NOT_READY,
    source="seen on a real server: an ensemble's models are loaded with it, those that a program calls are not",
    fix="add it to load-model",
)
def called_model_that_is_not_loaded(every: Repositories, case: Case) -> Iterator[Found]:
    """A Python model calls one that is not among those that the server is to load."""
    if case.server.get("model-control-mode") != "explicit":
        return
    said = case.server.get("load-model", ())
    loaded = {said} if isinstance(said, str) else set(said) if isinstance(said, tuple) else set()
    if "*" in loaded:
        return
    models = every.models
    reached = {one for name in loaded for one in _with_members(str(name), models)}
    for model in (models[name] for name in sorted(reached) if name in models):
        for program, call in _calls(model, case):
            for name in sorted(set(call.models or ()) & models.keys() - reached):
                message = f'"{name}" is called here, and the server is not told to load it'
                path = model.folder / program.path
                yield on(path, message, place=call.place, severity=_severity(call), name=name)


def _with_members(name: str, models: Mapping[str, Model]) -> set[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo += models[one].members if one in models else ()
    return seen


@rule_of_all(
    "ENS023",
    ERROR,
    says=_NOT_READY,
    source="seen on a real server: every request that comes there fails",
    fix="add that model, or correct the name",
)
def called_model_that_is_not_there(every: Repositories, case: Case) -> Iterator[Found]:
    """A Python model calls one that no repository has, or a version that is not served."""
    models = every.models
    for model in models.values():
        for program, call in _calls(model, case):
            path, severity = model.folder / program.path, _severity(call)
            for name in sorted(set(call.models or ()) - models.keys()):
                message = f'no repository has the model "{name}", which is called here{near(name, models)}'
                yield on(path, message, place=call.place, severity=severity, name=name)
            for name in sorted(set(call.models or ()) & models.keys()):
                version = call.version
                if version is not None and version != -1 and lacks(models[name], version):
                    message = f'version {version} of "{name}" is called here, which is not served'
                    yield on(path, message, place=call.place, severity=severity, name=name)


@rule(
    "ENS024",
    ERROR,
    says="BLS is only supported during the 'execute' function.",
    source=f"{_STUB}, InferRequest::Exec",
    fix="call the other model when a request comes, in execute",
)
def call_while_loading(model: Model, case: Case) -> Iterator[Found]:
    """A Python model calls another one while it is loaded."""
    for program, call in _calls(model, case):
        if call.at_load:
            message = "other models cannot be called while a model is loaded"
            severity = None if call.certain else WARNING
            yield on(model.folder / program.path, message, place=call.place, severity=severity)


@rule(
    "ENS025",
    WARNING,
    source="python_backend: README.md, Business Logic Scripting, limitations",
    fix="instance_group [{ kind: KIND_CPU, count: 2 }]",
)
def call_of_itself(model: Model, case: Case) -> Iterator[Found]:
    """A Python model with one instance calls itself, and waits for itself."""
    if instances(model, gpus=case.gpus) > 1:
        return
    for program, call in _calls(model, case):
        if model.name in (call.models or ()):
            message = "it calls itself, and its one instance is busy calling"
            yield on(model.folder / program.path, message, place=call.place)
