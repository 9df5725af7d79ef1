"""Whether the server has the models that it should, each as it should be, and no others.

That it calls itself ready is not enough: it does so with an empty repository, and with a model whose configuration
could not be read. What counts is its index of models, and each model's configuration as the server completed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from composer.checks.health.silent import Fault, Served, dead, faults, instances, pythonpath
from composer.checks.processes import Stub, of_model, stubs
from composer.checks.report import Result
from composer.checks.subject import Subject, timed
from composer.diagnosis.logs import failures
from composer.models.lint import passed_over
from composer.models.repository import Model
from composer.protocol.http import model_path
from composer.protocol.messages import NoAnswer

if TYPE_CHECKING:
    from composer.recipe import ModelExpect

CALL: Final = 2.0
"""Seconds to wait for an answer about models."""

Row = Mapping[str, Any]
"""A version of a model in the server's index; without `state` it is only known, not loaded."""

_KEYS: Final = ("name", "version", "state", "reason")
"""What a row has. Whatever else a server puts there, however deep, stays out of reports."""


def models(subject: Subject) -> Iterator[Result]:
    """The index, then what the server says of each model that is ready, and its extensions where some are expected.

    A model that is as it should be is one result; of one that is not, each thing that is wrong is one.
    """
    yield timed(subject, "models", "health", lambda: _index(subject))
    surroundings = _look_around(subject)
    yield from _each(subject, surroundings, lambda served: [*_unexpected(subject, served), *faults(served)])
    for fault in pythonpath(surroundings.stubs or (), surroundings.server):
        yield _wrong(fault.thing, fault.message, fault, subject.terms.ignored)
    if subject.validation.expect.extensions:
        yield timed(subject, "extensions", "health", lambda: _extensions(subject))


def still_served(subject: Subject) -> Iterator[Result]:
    """The index, and whether what runs each model lives, once more."""
    yield timed(subject, "models", "health", lambda: _index(subject))
    yield from _each(subject, _look_around(subject), lambda served: [*_unready(subject, served), *dead(served)])


def read_index(subject: Subject, patience: float = CALL) -> list[Row]:
    """The server's index of models, or `NoAnswer` after `patience` seconds; `ValueError` where it makes no sense."""
    answer = subject.client.post("/v2/repository/index", b"{}", {"Content-Type": "application/json"}, timeout=patience)
    if answer.status != 200:
        raise NoAnswer(f"the server does not list its models: {answer.complaint()}", waited=False)
    rows = answer.json()
    if not (isinstance(rows, list) and all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows)):
        raise ValueError(f"an index of models that is {rows!r}")
    return [{key: row[key] for key in _KEYS if isinstance(row.get(key), str | int)} for row in rows]


# -- the index ------------------------------------------------------------------------------------


def _wanted(subject: Subject) -> Mapping[str, str] | None:
    """The state of each model that there should be, and of no others; None where nobody said."""
    expected = subject.validation.expect.models
    if expected is not None:
        return {name: one.state for name, one in expected.items()}
    return None if subject.terms.models is None else dict.fromkeys(subject.terms.models, "READY")


def _index(subject: Subject) -> Result:
    rows, wanted = read_index(subject), _wanted(subject)
    evidence = {"index": rows, "expected": None if wanted is None else sorted(wanted)}
    known = wanted is not None
    wanted = {str(row["name"]): "READY" for row in rows if row.get("state")} if wanted is None else wanted
    found = [*_missing(subject, rows, wanted), *_unwanted(rows, wanted)]
    if found:
        return Result(id="models", kind="health", outcome="failed", message="; ".join(found), evidence=evidence)
    if not wanted:
        message, hint = "no model is served, and none is expected: nothing is seen of it", _UNNAMED
        return Result(id="models", kind="health", outcome="unverified", message=message, hint=hint, evidence=evidence)
    message = f"ready{', and no others' if known else ''}: {', '.join(sorted(wanted))}"
    return Result(id="models", kind="health", outcome="passed", message=message, evidence=evidence)


_UNNAMED: Final = "expect: {models: {NAME: {}}}   (says what there must be)"


def _missing(subject: Subject, rows: Sequence[Row], wanted: Mapping[str, str]) -> Iterator[str]:
    log = subject.running.logs()
    reasons = failures(log)
    for name, state in sorted(wanted.items()):
        versions = [row for row in rows if row["name"] == name]
        ill = [row for row in versions if not _serves(row)]
        serves = not ill and any(row.get("state") == "READY" for row in versions)
        if not versions:
            yield f"{name} is not in the server's repository"
        elif state == "READY" and not serves:
            yield f"{name} is not ready: {_reason(ill or versions, reasons.get(name), log)}"
        elif state != "READY" and serves:
            yield f"{name} is ready, {state} is expected"


def _serves(row: Row) -> bool:
    """Whether a version is up, or was put aside in good order: an older one that the policy does not want."""
    return row.get("state") == "READY" or row.get("reason") == "unloaded"


def _reason(rows: Sequence[Row], logged: str | None, log: str) -> str:
    stated = next((row["reason"] for row in rows if row.get("reason")), None)
    if "MODE_EXPLICIT" in log:
        unasked = "the server loads only what load-model names"
    else:
        unasked = "it was not loaded, and the log does not say why"
    return str(stated or logged or rows[0].get("state") or unasked)


def _unwanted(rows: Sequence[Row], wanted: Mapping[str, str]) -> Iterator[str]:
    """Models that nobody asked for. Those without a state are only known to the server, not loaded."""
    for name in sorted({str(row["name"]) for row in rows if row.get("state")} - set(wanted)):
        yield f"{name} is served, and is not expected"


# -- each model -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    """What all models have in common: those that lie here, processes that run them, the server's version."""

    local: Mapping[str, Model]
    stubs: Sequence[Stub] | None
    server: tuple[int, ...]


def _look_around(subject: Subject) -> _Surroundings:
    local = {model.name: model for repository in subject.terms.repositories for model in repository.models}
    return _Surroundings(local=local, stubs=stubs(subject.running.pids()), server=_version(subject))


def _each(subject: Subject, around: _Surroundings, judge: Callable[[Served], Sequence[Fault]]) -> Iterator[Result]:
    """The results of every model that is ready."""
    try:
        ready = _ready(read_index(subject))
    except (NoAnswer, ValueError):
        return  # the index has its own result
    for name, versions in ready.items():
        yield from _one(subject, around, name, versions, judge)


def _one(
    subject: Subject,
    around: _Surroundings,
    name: str,
    versions: Sequence[int],
    judge: Callable[[Served], Sequence[Fault]],
) -> Iterator[Result]:
    found: list[Fault] = []

    def look() -> Result:
        config = _get(subject, f"{model_path(name)}/config")
        own = None if around.stubs is None else of_model(config, around.stubs)
        local, server = around.local.get(name), around.server
        served = Served(name=name, config=config, versions=versions, local=local, stubs=own, server=server)
        found.extend(judge(served))
        message, evidence = _described(served), _seen(served)
        return Result(id=f"model:{name}", kind="health", outcome="passed", message=message, evidence=evidence)

    result = timed(subject, f"model:{name}", "health", look)
    local = around.local.get(name)
    ignored = {**subject.terms.ignored, **(passed_over(local) if local else {})}
    wrong = [_wrong(f"model:{name}:{fault.thing}", f"{name}: {fault.message}", fault, ignored) for fault in found]
    yield from (replace(one, evidence=result.evidence, seconds=result.seconds / len(wrong)) for one in wrong)
    if all(one.ok for one in wrong):
        yield result


def _wrong(name: str, message: str, fault: Fault, ignored: Mapping[str, str]) -> Result:
    """A fault as a result: a failure, unless someone passes over the rule that says the same before a start."""
    if reason := ignored.get(fault.rule):
        message = f"{message} ({fault.rule} is ignored: {reason})"
        return Result(id=name, kind="health", outcome="skipped", message=message)
    return Result(id=name, kind="health", outcome="failed", message=message, hint=fault.hint)


def _ready(rows: Sequence[Row]) -> dict[str, list[int]]:
    """The versions that are ready, by model."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.get("state") == "READY":
            found.setdefault(str(row["name"]), []).append(int(row.get("version") or 0))
    return {name: sorted(found[name]) for name in sorted(found)}


def _get(subject: Subject, path: str) -> Mapping[str, Any]:
    answer = subject.client.get(path, timeout=CALL)
    if answer.status != 200:
        raise NoAnswer(f"the server does not answer {path}: {answer.complaint()}", waited=False)
    found = answer.json()
    if not isinstance(found, dict):
        raise ValueError(f"{path} is {found!r}")
    return found


def _version(subject: Subject) -> tuple[int, ...]:
    """The server's version, as numbers."""
    try:
        return tuple(int(part) for part in str(_get(subject, "/v2")["version"]).split(".") if part.isdecimal())
    except (NoAnswer, ValueError, KeyError):
        return ()


def _described(served: Served) -> str:
    versions = ", ".join(map(str, served.versions))
    many = ", ".join(f"{count} of {kind}" for kind, count in _instances(served).items())
    return f"version {versions} by {_backend(served)}" + (f"; instances: {many}" if many else "")


def _seen(served: Served) -> dict[str, Any]:
    return {
        "versions": list(served.versions),
        "backend": _backend(served),
        "platform": str(served.config.get("platform") or ""),
        "max_batch_size": int(served.config.get("max_batch_size") or 0),
        "instances": _instances(served),
        "processes": None if served.stubs is None else len(served.stubs),
    }


def _backend(served: Served) -> str:
    return str(served.config.get("backend") or served.config.get("platform") or "nobody")


def _instances(served: Served) -> dict[str, int]:
    """How many instances take requests, by kind."""
    found: dict[str, int] = {}
    for group in served.groups:
        if not group.get("passive"):
            kind = str(group.get("kind"))
            found[kind] = found.get(kind, 0) + instances(group)
    return found


# -- as the recipe expects ------------------------------------------------------------------------


def _unexpected(subject: Subject, served: Served) -> Iterator[Fault]:
    """Where a model is not as the recipe says."""
    expected = (subject.validation.expect.models or {}).get(served.name)
    if expected is None:
        return
    pairs: Mapping[str, tuple[object, object]] = {
        "versions": (_listed(expected.versions), _listed(served.versions)),
        "platform": (expected.platform, str(served.config.get("platform") or "")),
        "backend": (expected.backend, str(served.config.get("backend") or "")),
        "instances": (_expected_instances(expected), _counted(_instances(served))),
    }
    for thing, (wanted, there) in pairs.items():
        if wanted is not None and wanted != there:
            hint = f"expect: {{models: {{{served.name}: ...}}}}, if what is served is right"
            yield Fault(thing=thing, message=f"its {thing}: expected {wanted}, found {there or 'none'}", hint=hint)


def _listed(versions: Sequence[int] | None) -> str | None:
    return None if versions is None else ", ".join(map(str, sorted(versions)))


def _expected_instances(expected: ModelExpect) -> str | None:
    return None if expected.instances is None else _counted(expected.instances)


def _counted(some: Mapping[Any, int]) -> str:
    """Kinds that are not named have none."""
    return ", ".join(f"{count} of {kind}" for kind, count in sorted(some.items()) if count) or "none"


def _unready(subject: Subject, served: Served) -> Iterator[Fault]:
    """What the server itself says of a model; since 25.12 that is more than that it was loaded once."""
    path = f"{model_path(served.name)}/ready"
    if subject.client.get(path, timeout=CALL).status != 200:
        yield Fault(thing="ready", message="it was ready, and is not any more")


def _extensions(subject: Subject) -> Result:
    there = [str(one) for one in _get(subject, "/v2").get("extensions") or ()]
    missing = [name for name in subject.validation.expect.extensions if name not in there]
    evidence = {"extensions": there}
    if missing:
        message = f"the server has no {', '.join(missing)}"
        return Result(id="extensions", kind="health", outcome="failed", message=message, evidence=evidence)
    return Result(id="extensions", kind="health", outcome="passed", message="as expected", evidence=evidence)
