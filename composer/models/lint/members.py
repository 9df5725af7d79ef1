"""Whether the models of an ensemble fit together: names, datatypes, shapes, batches, streams of answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from composer.errors import Unplannable
from composer.models.autoconfig import Completed, Port, completed
from composer.models.lint.completion import Side, may_add, may_batch, may_complete
from composer.models.lint.ensembles import members_of, near, steps_of, whole
from composer.models.lint.files import onnx_files
from composer.models.lint.rule import ERROR, Case, Found, Repositories, at, rule_of_all
from composer.models.repository import Model
from composer.models.schema import enum_name

_UTILS: Final = "core: ensemble_utils.cc, ValidateEnsembleConfig"


@rule_of_all(
    "ENS018",
    ERROR,
    says="ensemble {ensemble} allows maximum batch size {most}, but it contains model {name} which only allows maximum "
    "batch size to be {least}",
    source=_UTILS,
    fix="lower the ensemble's max_batch_size, or raise the model's",
)
def batches_too_large_for_a_member(every: Repositories, case: Case) -> Iterator[Found]:
    """The ensemble takes larger batches than a model of its steps."""
    for model, key, step, member in members_of(every):
        least = _seen_from_outside(member, case).max_batch_size if member else None
        if least and least < model.max_batch_size:
            message = f'"{step.model_name}" takes batches of {least}, and this ensemble of {model.max_batch_size}'
            words = {"ensemble": model.name, "most": model.max_batch_size, "name": step.model_name, "least": least}
            where = "max_batch_size" if model.configuration.has("max_batch_size") else key[0]
            yield at(model, where, message=message, **words)


@rule_of_all(
    "ENS014",
    ERROR,
    says="in ensemble {ensemble}, ensemble tensor {tensor} is {way} non-existing {kind} {name} in model {member}",
    source=_UTILS,
    fix="name an input or output that the model has",
)
def mapping_of_no_tensor(every: Repositories, case: Case) -> Iterator[Found]:
    """A step maps an input or output that its model does not have."""
    for model, key, step, member in members_of(every):
        sides = _seen_from_outside(member, case) if member else _Outside()
        for way, side in (("input_map", sides.inputs), ("output_map", sides.outputs)):
            for name, tensor in sorted(getattr(step, way).items()):
                if side is not None and side.complete and name not in side.tensors:
                    kind = way.partition("_")[0]
                    message = f'"{step.model_name}" has no {kind} "{name}"{_other(name, side.tensors)}'
                    words = {"ensemble": model.name, "tensor": tensor, "name": name, "member": step.model_name}
                    said = "mapping to" if kind == "input" else "mapped from"
                    yield at(model, *key, way, name, message=message, **words, kind=kind, way=said)


def _other(name: str, tensors: Mapping[str, object]) -> str:
    return near(name, tensors) or (f": it has {', '.join(sorted(tensors))}" if tensors else "")


@rule_of_all(
    "ENS015",
    ERROR,
    says="in ensemble {ensemble}, input {name} in model {member} is not mapped to any ensemble tensors",
    source=_UTILS,
    fix="add it to the input_map, or make it optional in the model",
)
def input_that_is_not_mapped(every: Repositories, case: Case) -> Iterator[Found]:
    """A step leaves out an input that its model must have."""
    for model, key, step, member in members_of(every):
        side = _seen_from_outside(member, case).inputs if member else None
        for tensor in side.tensors.values() if side else ():
            if tensor.name not in step.input_map and not tensor.optional:
                message = f'"{step.model_name}" needs an input "{tensor.name}" too'
                words = {"ensemble": model.name, "name": tensor.name, "member": step.model_name}
                yield at(model, *key, "input_map", message=message, **words)


# -- datatypes and shapes along the edges ---------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """An input or output as others see it. `dims` are without the batch; `datatype` is empty where it is not known."""

    name: str
    datatype: str
    dims: tuple[int, ...] | None
    batched: bool = False
    optional: bool = False
    of: str = ""

    @property
    def full(self) -> tuple[int, ...] | None:
        """The dims with the batch."""
        return self.dims if self.dims is None or not self.batched else (-1, *self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """The inputs or outputs of a model. `complete` if there are no others."""

    tensors: Mapping[str, _Tensor]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outside:
    """What others see of a model once it is loaded: its config with what the server fills in. None: not known."""

    inputs: _Side | None = None
    outputs: _Side | None = None
    max_batch_size: int | None = None


def _seen_from_outside(model: Model, case: Case) -> _Outside:
    if not model.configuration.readable:
        return _Outside()
    told = _completed(model, case)
    most = model.max_batch_size or (told.max_batch_size if told else 0)
    return _Outside(
        inputs=_side(model, case, "input", told.inputs if told else None, most),
        outputs=_side(model, case, "output", told.outputs if told else None, most),
        max_batch_size=most if told or not may_batch(model, case) else most or None,
    )


def _side(model: Model, case: Case, way: Side, told: Sequence[Port] | None, most: int) -> _Side:
    """The inputs or outputs that the config names; where it names none, those that the server fills in."""
    given = _given(model, case, way)
    if given or told is None:
        return _Side(tensors=given, complete=bool(given and told) or not may_add(model, case, way))
    ports = (
        _Tensor(name=port.name, datatype=port.datatype, dims=port.dims, batched=most > 0, of=model.name)
        for port in told
    )
    return _Side(tensors={port.name: port for port in ports}, complete=True)


def _given(model: Model, case: Case, way: Side) -> dict[str, _Tensor]:
    """The inputs or outputs that a config names."""
    open_ended = may_complete(model, case)
    return {
        one.name: _Tensor(
            name=one.name,
            datatype="" if open_ended and not one.data_type else enum_name(one, "data_type"),
            dims=None if open_ended and not one.dims else tuple(one.dims),
            batched=model.max_batch_size > 0,
            optional=way == "input" and one.optional,
            of=model.name,
        )
        for one in getattr(model.config, way)
    }


def _completed(model: Model, case: Case) -> Completed | None:
    """What the server fills in from an ONNX file of which the config does not say everything."""
    if model.backend != "onnxruntime" or not (may_add(model, case, "input") or may_add(model, case, "output")):
        return None
    onnx = next(iter(onnx_files(model)), None)
    try:
        return completed(onnx, release=case.release.name if case.release else None) if onnx else None
    except Unplannable:
        return None


def _edges(model: Model, models: Mapping[str, Model], case: Case) -> Iterator[tuple[_Edge, str]]:
    """Every place where a tensor meets another that it does not fit, with what does not: `type` or `shape`."""
    known = {**_own(model, "output"), **_own(model, "input")}
    for key, step in steps_of(model):
        member = models.get(step.model_name)
        sides = _seen_from_outside(member, case) if member else _Outside()
        for way, side in (("input_map", sides.inputs), ("output_map", sides.outputs)):
            for name, target in sorted(getattr(step, way).items()):
                tensor = side.tensors.get(name) if side else None
                if tensor is None:
                    continue
                first = known.setdefault(target, tensor)
                if wrong := _misfit(first, tensor):
                    yield _Edge(key=(*key, way, name), tensor=target, first=first, other=tensor), wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edge:
    """Where one tensor of an ensemble is two different things."""

    key: tuple[str | int, ...]
    tensor: str
    first: _Tensor
    other: _Tensor


def _own(model: Model, way: Side) -> dict[str, _Tensor]:
    """The ensemble's inputs or outputs: here the server looks at what they are reshaped to."""
    return {
        one.name: _Tensor(
            name=one.name,
            datatype=enum_name(one, "data_type"),
            dims=tuple(one.reshape.shape) if one.HasField("reshape") else tuple(one.dims),
            batched=model.max_batch_size > 0,
            of=model.name,
        )
        for one in getattr(model.config, way)
    }


def _misfit(first: _Tensor, other: _Tensor) -> str | None:
    if first.datatype and other.datatype and first.datatype != other.datatype:
        return "type"
    return None if _match(first.dims, other.dims) or _match(first.full, other.full) else "shape"


def _match(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> bool:
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _misfits(every: Repositories, case: Case, kind: str) -> Iterator[tuple[Model, _Edge]]:
    models = every.models
    for model in models.values():
        if whole(model) and model.configuration.readable:
            yield from ((model, edge) for edge, wrong in _edges(model, models, case) if wrong == kind)


@rule_of_all(
    "ENS016",
    ERROR,
    says="in ensemble {ensemble}, ensemble tensor {tensor}: inconsistent data type: {first} is inferred from model "
    "{one} while {second} is inferred from model {other}",
    source=_UTILS,
    fix="give both the same data_type",
)
def datatypes_that_differ(every: Repositories, case: Case) -> Iterator[Found]:
    """A tensor has one datatype where it comes from and another where it goes."""
    for model, edge in _misfits(every, case, "type"):
        words = _words(model, edge, edge.first.datatype, edge.other.datatype)
        message = (
            f'"{edge.tensor}" is {edge.first.datatype} in {edge.first.of} and {edge.other.datatype} in {edge.other.of}'
        )
        yield at(model, *edge.key, message=message, **words)


@rule_of_all(
    "ENS017",
    ERROR,
    says="in ensemble {ensemble}, ensemble tensor {tensor}: inconsistent shape: {first} is inferred from model "
    "{one} while {second} is inferred from model {other}",
    source=_UTILS,
    fix="give both the same dims",
)
def shapes_that_differ(every: Repositories, case: Case) -> Iterator[Found]:
    """A tensor has one shape where it comes from and another where it goes."""
    for model, edge in _misfits(every, case, "shape"):
        first, second = _shape(edge.first), _shape(edge.other)
        message = f'"{edge.tensor}" is {first} in {edge.first.of} and {second} in {edge.other.of}'
        yield at(model, *edge.key, message=message, **_words(model, edge, first, second))


def _shape(tensor: _Tensor) -> str:
    return f"[{','.join(map(str, tensor.full or ()))}]"


def _words(model: Model, edge: _Edge, first: str, second: str) -> dict[str, Any]:
    names = {"ensemble": model.name, "tensor": edge.tensor, "one": edge.first.of, "other": edge.other.of}
    return names | {"first": first, "second": second}


@rule_of_all(
    "ENS019",
    ERROR,
    says="in ensemble {ensemble}, step of model '{name}' receives inputs originated from different decoupled models",
    source=_UTILS,
    fix="let one step wait for one decoupled model only",
)
def answers_of_two_decoupled_models(every: Repositories, case: Case) -> Iterator[Found]:
    """A step takes what comes from two decoupled models, whose answers do not belong together."""
    models = every.models
    for model in models.values():
        if whole(model) and model.configuration.readable and (found := _joining(model, models)):
            key, name = found
            message = f'the step of "{name}" takes tensors that come from different decoupled models'
            yield at(model, *key, message=message, ensemble=model.name, name=name)


def _joining(model: Model, models: Mapping[str, Model]) -> tuple[tuple[str | int, ...], str] | None:
    """The first step whose inputs come from different decoupled models."""
    stream = {one.name: 0 for one in model.config.input}
    left = list(steps_of(model))
    number = 0
    while ready := next(((k, s) for k, s in left if all(t in stream for t in s.input_map.values())), None):
        left.remove(ready)
        key, step = ready
        sources = {stream[tensor] for tensor in step.input_map.values()}
        if len(sources) > 1:
            return key, step.model_name
        member = models.get(step.model_name)
        decoupled = member is not None and bool(member.config.model_transaction_policy.decoupled)
        number += decoupled
        stream.update(dict.fromkeys(step.output_map.values(), number if decoupled else min(sources)))
    return None
