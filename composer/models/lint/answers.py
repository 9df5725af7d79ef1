"""What a Python model takes from the server and gives back: in `execute`, `auto_complete_config`, `is_ready`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from composer.models.configuration import Place
from composer.models.lint.completion import may_add
from composer.models.lint.ensembles import near
from composer.models.lint.programs import codes, file_of, methods_named
from composer.models.lint.rule import (
    ERROR,
    WARNING,
    Case,
    Found,
    on,
    rule,
)
from composer.models.lint.server import strict
from composer.models.python_code import Method, PythonCode, Return, Tensor
from composer.models.repository import Model
from composer.models.schema import enum_name

_STUB: Final = "python_backend: pb_stub.cc"
_UTILS: Final = "python_backend: triton_python_backend_utils.py, ModelConfig"
_AUTO: Final = "auto_complete_config"


# -- what execute gives back ----------------------------------------------------------------------


def _decoupled(model: Model, code: PythonCode, case: Case) -> bool | None:
    """Whether the model is decoupled; None where its program decides, and how cannot be told."""
    if model.config.HasField("model_transaction_policy"):
        return bool(model.config.model_transaction_policy.decoupled)
    if strict(case):
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
    for program, code, method in methods_named("execute", model, case):
        if _decoupled(model, code, case) is False and not _senders_count(code, case):
            for found in _no_answers(method):
                severity = WARNING if found[2] else None
                yield on(
                    file_of(model, program), found[0], place=found[1].place, severity=severity, type=_type(found[1])
                )


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
    for program, code, method in methods_named("execute", model, case):
        if not _decoupled(model, code, case):
            continue
        if method.generator:
            message = "execute yields, which makes a generator of it; a decoupled model's must return None"
            yield on(file_of(model, program), message, place=method.place)
            continue
        given = [one for one in method.returns if one.kind in ("list", "other")]
        better = method.ends or any(one.kind in ("none", "unknown") for one in method.returns)
        for one in given:
            message = "execute of a decoupled model returns something here"
            yield on(file_of(model, program), message, place=one.place, severity=WARNING if better else None)


# -- what execute takes ---------------------------------------------------------------------------


@rule(
    "PY032",
    ERROR,
    says="AttributeError: 'NoneType' object has no attribute '{attribute}'",
    source="python_backend: triton_python_backend_utils.py, get_input_tensor_by_name; seen on a real server",
    fix='input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]',
)
def input_that_is_not_declared(model: Model, case: Case) -> Iterator[Found]:
    """The program uses an input that the config does not have: no request can have it, so it is given None."""
    declared = _declared(model)
    for program, code in codes(model, case) if not may_add(model, case, "input") else ():
        for one in code.reads:
            absent = [name for name in one.names if name not in declared]
            for name in absent[:1]:
                certain = one.certain and len(absent) == len(one.names)
                severity = None if certain else WARNING
                message = f"the config has no input {name}, which is used here{near(name, declared)}"
                fix = f'input [ {{ name: "{name}" data_type: TYPE_FP32 dims: [ -1 ] }} ]'
                path, attribute = file_of(model, program), one.attribute
                yield on(path, message, place=one.place, severity=severity, fix=fix, attribute=attribute)


def _declared(model: Model) -> dict[str, None]:
    """The names of all that a request may have for the program: also what the server adds to it."""
    config, batching = model.config, model.config.sequence_batching
    names = [
        *(one.name for one in (*config.input, *batching.control_input)),
        *(one.input_name for one in batching.state),
        *(name for one in config.batch_input for name in one.target_name),
    ]
    return dict.fromkeys(names)


# -- is_ready -------------------------------------------------------------------------------------


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
    for program, _, method in methods_named("is_ready", model, case):
        for one in method.returns:
            if one.kind in ("none", "list") or (one.kind == "other" and one.type != "bool"):
                yield on(file_of(model, program), "is_ready must return True or False", place=one.place)
        if method.ends:
            yield on(file_of(model, program), "is_ready may return None", place=method.place, severity=WARNING)


# -- auto_complete_config -------------------------------------------------------------------------


@rule(
    "PY009",
    ERROR,
    says="auto_complete_config function in model '{model}' must return a valid pb.ModelConfig object.",
    source=f"{_STUB}, AutoCompleteModelConfig",
    fix="return the config that it was given",
)
def completion_that_returns_nothing(model: Model, case: Case) -> Iterator[Found]:
    """`auto_complete_config` does not return the config."""
    for program, _, method in methods_named(_AUTO, model, case):
        if strict(case):
            continue
        wrong = [one for one in method.returns if one.kind != "unknown"]
        right = len(wrong) < len(method.returns)
        for one in wrong:
            message = "auto_complete_config does not return the config here"
            yield on(file_of(model, program), message, place=one.place, severity=WARNING if right else None)
        if method.ends or method.generator:
            message = "auto_complete_config may come to its end without returning the config"
            yield on(file_of(model, program), message, place=method.place, severity=WARNING if right else None)


@rule(
    "PY010",
    ERROR,
    says="{kind} '{name}' in auto-complete-config function for model '{model}' {words}",
    source=_UTILS,
    fix='{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}',
)
def completion_with_half_a_tensor(model: Model, case: Case) -> Iterator[Found]:
    """`auto_complete_config` adds an input or output with keys missing, or with others."""
    for program, code in codes(model, case):
        for one in code.auto.tensors if not strict(case) else ():
            if words := _keys_wrong(one, case):
                kind = "output" if one.output else "input"
                message = f"this {kind} {words}"
                severity = None if one.certain else WARNING
                name = one.name or ""
                yield on(
                    file_of(model, program),
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
    for program, code in codes(model, case):
        if not strict(case):
            for message, words, place, certain in _contradictions(model, code):
                severity = None if certain else WARNING
                yield on(file_of(model, program), message, place=place, severity=severity, words=words)


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
