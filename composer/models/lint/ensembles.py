"""Ensembles, and models that call others: whether what they are made of is there, and fits together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from composer.errors import Unplannable
from composer.models.autoconfig import completed
from composer.models.lint.rule import ERROR, WARNING, Case, Found, Repositories, at, on, rule, rule_of_all
from composer.models.needs import code_of, enum_name, instances, programs
from composer.models.onnx import OnnxModel, read_onnx
from composer.models.python_code import Call, PythonCode
from composer.models.repository import Entry, Model
from composer.releases import Release

_SCHEDULING: Final = "core: model_config_utils.cc, ValidateEnsembleSchedulingConfig"
_GRAPH: Final = "core: model_config_utils.cc, BuildEnsembleGraph"
_UTILS: Final = "core: ensemble_utils.cc, ValidateEnsembleConfig"
_DEPENDENCIES: Final = "core: model_repository_manager.cc, DependencyGraph"
_STUB: Final = "python_backend: infer_request.cc"

Step = Any
"""A step of an ensemble: a message that is made at run time."""


# -- one ensemble ---------------------------------------------------------------------------------


def _steps(model: Model) -> Iterator[tuple[tuple[str | int, ...], Step]]:
    """The steps, with the way to each."""
    for number, step in enumerate(model.config.ensemble_scheduling.step):
        yield ("ensemble_scheduling", "step", number), step


def _scheduled(model: Model) -> bool:
    return bool(model.config.HasField("ensemble_scheduling") and model.config.platform == "ensemble")


@rule(
    "ENS001",
    ERROR,
    says="ensemble scheduling cannot be set for model '{model}' whose platform is not ensemble",
    source=_SCHEDULING,
    fix='platform: "ensemble"',
)
def scheduling_of_no_ensemble(model: Model, case: Case) -> Iterator[Found]:
    """There is ensemble_scheduling, and the platform is not "ensemble"."""
    if model.config.HasField("ensemble_scheduling") and model.config.platform != "ensemble":
        message = 'a model with ensemble_scheduling must say platform: "ensemble"'
        yield at(model, "platform" if model.config.platform else "ensemble_scheduling", message=message)


@rule(
    "ENS002",
    ERROR,
    says="ensemble scheduling must be set for ensemble {model} whose platform is ensemble",
    source="core: model_config_utils.cc, ValidateModelConfig",
    fix="add ensemble_scheduling { step [...] }",
)
def ensemble_without_scheduling(model: Model, case: Case) -> Iterator[Found]:
    """The platform is "ensemble", and there is no ensemble_scheduling."""
    config = model.config
    if config.platform == "ensemble" and not config.HasField("ensemble_scheduling") and not config.backend:
        message = "an ensemble says of what it is made, in ensemble_scheduling"
        yield at(model, "platform", message=message)


def _unwanted(model: Model, name: str, *, there: bool) -> Iterator[Found]:
    if _scheduled(model) and there:
        yield at(model, name, message=f"an ensemble has no {name}: its steps have their own")


@rule(
    "ENS003",
    ERROR,
    says="instance group should not be specified for ensemble '{model}'",
    source=_SCHEDULING,
    fix="remove it",
)
def ensemble_with_instances(model: Model, case: Case) -> Iterator[Found]:
    """An ensemble has instance groups."""
    yield from _unwanted(model, "instance_group", there=len(model.config.instance_group) > 0)


@rule(
    "ENS004",
    ERROR,
    says="optimization should not be specified for ensemble '{model}'",
    source=_SCHEDULING,
    fix="remove it",
)
def ensemble_with_optimization(model: Model, case: Case) -> Iterator[Found]:
    """An ensemble has optimization settings."""
    yield from _unwanted(model, "optimization", there=model.config.HasField("optimization"))


@rule(
    "ENS005",
    ERROR,
    says="model_warmup can not be specified for ensemble '{model}'",
    source=_SCHEDULING,
    fix="remove it, or warm up the models of its steps",
)
def ensemble_with_warmup(model: Model, case: Case) -> Iterator[Found]:
    """An ensemble has warmup samples."""
    yield from _unwanted(model, "model_warmup", there=len(model.config.model_warmup) > 0)


@rule(
    "ENS006",
    ERROR,
    says="must specify 'step' for ensemble '{model}'",
    source=_SCHEDULING,
    fix="add the steps, or make it another model",
)
def ensemble_without_steps(model: Model, case: Case) -> Iterator[Found]:
    """An ensemble has no step."""
    if _scheduled(model) and not model.config.ensemble_scheduling.step:
        yield at(model, "ensemble_scheduling", message="an ensemble has at least one step")


@rule(
    "ENS007",
    ERROR,
    says="must specify '{name}' in step {step} of ensemble '{model}'",
    source=_GRAPH,
    fix="add it",
)
def step_with_something_missing(model: Model, case: Case) -> Iterator[Found]:
    """A step says no model, or takes or gives nothing."""
    if not _scheduled(model):
        return
    for key, step in _steps(model):
        for name in ("model_name", "input_map", "output_map"):
            if not getattr(step, name):
                yield at(model, *key, message=f"this step has no {name}", name=name, step=key[-1])


@rule(
    "ENS010",
    ERROR,
    says="ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{model}' step {step}",
    source=_GRAPH,
    fix="give each output of a step a tensor of its own",
)
def tensor_written_twice(model: Model, case: Case) -> Iterator[Found]:
    """Two outputs of steps are written to one tensor."""
    written: set[str] = set()
    for key, step in _steps(model) if _scheduled(model) else ():
        for output, tensor in sorted(step.output_map.items()):
            if tensor in written:
                message = f'the tensor "{tensor}" is written before this too'
                yield at(model, *key, "output_map", output, message=message, tensor=tensor, step=key[-1])
            written.add(tensor)


@dataclass(slots=True, kw_only=True)
class _Node:
    """A tensor of an ensemble: what it is made from, and what is made from it."""

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    ready: bool = False


def _graph(model: Model) -> dict[str, _Node]:
    """How tensors flow through an ensemble: each output of a step depends on all its inputs."""
    nodes: dict[str, _Node] = {}
    for _, step in _steps(model):
        for target in step.output_map.values():
            nodes.setdefault(target, _Node())
        for source in step.input_map.values():
            nodes.setdefault(source, _Node()).after += step.output_map.values()
            for target in step.output_map.values():
                nodes[target].before.append(source)
    _flow(nodes, [one.name for one in model.config.input])
    return nodes


def _flow(nodes: Mapping[str, _Node], begin: Sequence[str]) -> None:
    """Mark what can be computed from the inputs."""
    queue = deque(name for name in begin if name in nodes)
    for name in queue:
        nodes[name].ready = True
    while queue:
        for name in nodes[queue.popleft()].after:
            node = nodes[name]
            if not node.ready and all(nodes[one].ready for one in node.before):
                node.ready = True
                queue.append(name)


def _whole(model: Model) -> bool:
    """Whether its graph can be looked at: there are steps, and none lacks anything."""
    complete = all(step.model_name and step.input_map and step.output_map for _, step in _steps(model))
    return _scheduled(model) and bool(model.config.ensemble_scheduling.step) and complete


@rule(
    "ENS011",
    ERROR,
    says="ensemble input '{name}' for ensemble {model}' is not used",
    source=_SCHEDULING,
    fix="name it in the input_map of a step, or remove it",
)
def input_that_no_step_takes(model: Model, case: Case) -> Iterator[Found]:
    """An input of an ensemble goes into no step."""
    if not _whole(model):
        return
    nodes = _graph(model)
    for number, one in enumerate(model.config.input):
        if one.name not in nodes:
            message = f'no step takes the input "{one.name}"{_near(one.name, nodes)}'
            yield at(model, "input", number, "name", message=message, name=one.name)


@rule(
    "ENS012",
    ERROR,
    says="output '{name}' for ensemble '{model}' is not written",
    source=_SCHEDULING,
    fix="name it in the output_map of a step, or remove it",
)
def output_that_no_step_gives(model: Model, case: Case) -> Iterator[Found]:
    """An output of an ensemble comes out of no step."""
    if not _whole(model):
        return
    nodes = _graph(model)
    for number, one in enumerate(model.config.output):
        node = nodes.get(one.name)
        if node is None:
            message = f'no step gives the output "{one.name}"{_near(one.name, nodes)}'
            yield at(model, "output", number, "name", message=message, name=one.name)
        elif not node.ready:
            message = f'the output "{one.name}" cannot be computed: {_cause(one.name, nodes)}'
            yield at(model, "output", number, "name", message=message, name=one.name)


def _cause(name: str, nodes: Mapping[str, _Node]) -> str:
    """The first tensor on the way back that nothing gives."""
    seen = {name}
    while missing := next((b for b in nodes[name].before if not nodes[b].ready and b not in seen), None):
        name = missing
        seen.add(name)
    if not nodes[name].before:
        return f'nothing gives "{name}"'
    return f'"{name}" depends on itself'


def _near(name: str, names: Mapping[str, object]) -> str:
    """A hint at a name that differs in case or spaces alone."""
    close = next((one for one in names if one != name and one.strip().lower() == name.strip().lower()), None)
    return f': there is "{close}"' if close else ""


@rule(
    "ENS013",
    ERROR,
    says="ensemble tensor '{tensor}' is unused in ensemble '{model}'",
    source=_SCHEDULING,
    fix="remove it from the map, let another step take it, or make it an output of the ensemble",
)
def tensor_that_goes_nowhere(model: Model, case: Case) -> Iterator[Found]:
    """A tensor is given by a step and taken by none, or taken and given by none."""
    if not _whole(model):
        return
    nodes = _graph(model)
    outputs = {one.name for one in model.config.output}
    for name, node in nodes.items():
        if name not in outputs and not (node.ready and node.after):
            problem = "no step takes it, and it is no output" if node.ready else _unready(name, nodes)
            yield at(model, *_where(model, name), message=f'the tensor "{name}": {problem}', tensor=name)


def _unready(name: str, nodes: Mapping[str, _Node]) -> str:
    return "no step gives it, and it is no input" if not nodes[name].before else _cause(name, nodes)


def _where(model: Model, tensor: str) -> tuple[str | int, ...]:
    """The first place in which a tensor is named."""
    for key, step in _steps(model):
        for way in ("input_map", "output_map"):
            for name, target in getattr(step, way).items():
                if target == tensor:
                    return (*key, way, name)
    return ("ensemble_scheduling",)


# -- an ensemble and its members ------------------------------------------------------------------


def _members(every: Repositories) -> Iterator[tuple[Model, tuple[str | int, ...], Step, Model | None]]:
    """Every step of every ensemble that can be read, with the model that it means."""
    models = every.models
    for model in models.values():
        if _whole(model) and model.configuration.readable:
            for key, step in _steps(model):
                yield model, key, step, models.get(step.model_name)


@rule_of_all(
    "ENS008",
    ERROR,
    says="ensemble {ensemble} contains models that are not available or ambiguous: {name}",
    source=_DEPENDENCIES,
    fix="add that model, or take the step out",
)
def member_that_is_not_there(every: Repositories, case: Case) -> Iterator[Found]:
    """A step is of a model that no repository has."""
    names = every.models
    for model, key, step, member in _members(every):
        if member is None:
            message = f'no repository has the model "{step.model_name}"{_near(step.model_name, names)}'
            yield at(model, *key, "model_name", message=message, name=step.model_name, ensemble=model.name)


@rule_of_all(
    "ENS009",
    ERROR,
    says="circular dependency between ensembles: {ensemble} -> ... -> {last} -> {ensemble}",
    source=_DEPENDENCIES,
    fix="take one of the steps out",
)
def ensemble_of_itself(every: Repositories, case: Case) -> Iterator[Found]:
    """An ensemble is, by way of its steps, a part of itself."""
    models = every.models
    for model in models.values():
        if _whole(model) and model.configuration.readable and (last := _way_back(model, models)):
            key = next((k for k, step in _steps(model) if _leads(step.model_name, model.name, models)), ())
            way = "" if last == model.name else f", by way of {last}"
            message = f"this ensemble is a part of itself{way}"
            yield at(model, *key, "model_name", message=message, ensemble=model.name, last=last)


def _way_back(model: Model, models: Mapping[str, Model]) -> str | None:
    """The last ensemble on a way from this one to itself."""
    seen: set[str] = set()
    todo = [model.name]
    while todo:
        name = todo.pop()
        members = models[name].members if name in models else ()
        if model.name in members:
            return name
        todo += [one for one in members if one not in seen]
        seen.update(members)
    return None


def _leads(start: str, end: str, models: Mapping[str, Model]) -> bool:
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name == end:
            return True
        if name not in seen and name in models:
            seen.add(name)
            todo += models[name].members
    return False


@rule_of_all(
    "ENS020",
    ERROR,
    says="ensemble '{ensemble}' depends on '{name}' whose required version 0 is not loaded.",
    source=f"{_DEPENDENCIES}; the field's default is 0, and the latest is -1",
    fix="model_version: -1",
)
def step_without_version(every: Repositories, case: Case) -> Iterator[Found]:
    """A step says no version, which means version 0, and not the latest."""
    for model, key, step, member in _members(every):
        if member is not None and step.model_version == 0 and _lacks(member, 0):
            message = f'a step without model_version means version 0, which "{member.name}" does not serve'
            yield at(model, *key, "model_version", message=message, ensemble=model.name, name=member.name)


@rule_of_all(
    "ENS021",
    ERROR,
    says="ensemble '{ensemble}' depends on '{name}' whose required version {version} is not loaded.",
    source=_DEPENDENCIES,
    fix="model_version: -1, for the latest that is served",
)
def step_of_a_version_that_is_not_served(every: Repositories, case: Case) -> Iterator[Found]:
    """A step wants a version that its model does not serve."""
    for model, key, step, member in _members(every):
        version = step.model_version
        if member is not None and version not in (0, -1) and _lacks(member, version):
            there = version in member.versions
            why = "its version_policy leaves out" if there else "it does not have"
            message = f'this step wants version {version} of "{member.name}", which {why}'
            key = (*key, "model_version")
            yield at(model, *key, message=message, ensemble=model.name, name=member.name, version=version)


def _lacks(member: Model, version: int) -> bool:
    """Whether a model that can be read, and has versions at all, does not serve this one."""
    return member.configuration.readable and bool(member.served) and version not in member.served


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
    for model, key, step, member in _members(every):
        least = _seen_from_outside(member, case.release).max_batch_size if member else None
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
    for model, key, step, member in _members(every):
        sides = _seen_from_outside(member, case.release) if member else _Outside()
        for way, side in (("input_map", sides.inputs), ("output_map", sides.outputs)):
            for name, tensor in sorted(getattr(step, way).items()):
                if side is not None and side.complete and name not in side.tensors:
                    kind = way.partition("_")[0]
                    message = f'"{step.model_name}" has no {kind} "{name}"{_other(name, side.tensors)}'
                    words = {"ensemble": model.name, "tensor": tensor, "name": name, "member": step.model_name}
                    said = "mapping to" if kind == "input" else "mapped from"
                    yield at(model, *key, way, name, message=message, **words, kind=kind, way=said)


def _other(name: str, tensors: Mapping[str, object]) -> str:
    return _near(name, tensors) or (f": it has {', '.join(sorted(tensors))}" if tensors else "")


@rule_of_all(
    "ENS015",
    ERROR,
    says="in ensemble {ensemble}, input {name} in model {member} is not mapped to any ensemble tensors",
    source=_UTILS,
    fix="add it to the input_map, or make it optional in the model",
)
def input_that_is_not_mapped(every: Repositories, case: Case) -> Iterator[Found]:
    """A step leaves out an input that its model must have."""
    for model, key, step, member in _members(every):
        side = _seen_from_outside(member, case.release).inputs if member else None
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


def _seen_from_outside(model: Model, release: Release | None) -> _Outside:
    if not model.configuration.readable:
        return _Outside()
    if model.backend == "python" and _completes_itself(model, release):
        return _partly(model)
    config = model.config
    if model.backend == "onnxruntime" and not (config.input and config.output):
        return _of_onnx(model, release)
    known = bool(model.backend in ("python", "onnxruntime") or config.platform == "ensemble" or config.input)
    inputs, outputs = _given(model, "input"), _given(model, "output")
    complete = known and (bool(config.input and config.output) or model.backend == "python")
    return _Outside(
        inputs=_Side(tensors=inputs, complete=complete),
        outputs=_Side(tensors=outputs, complete=complete),
        max_batch_size=model.max_batch_size,
    )


def _completes_itself(model: Model, release: Release | None) -> bool:
    """Whether a Python model may add to its config, or may not be what it seems."""
    for program in programs(model):
        code = code_of(program, release)
        if not isinstance(code, PythonCode) or code.model is None:
            return True
        if code.model.opaque or "auto_complete_config" in code.model.methods:
            return True
    return False


def _partly(model: Model) -> _Outside:
    """What its config says holds, but it may have more."""
    return _Outside(
        inputs=_Side(tensors=_given(model, "input"), complete=False),
        outputs=_Side(tensors=_given(model, "output"), complete=False),
        max_batch_size=model.max_batch_size or None,
    )


def _given(model: Model, way: str) -> dict[str, _Tensor]:
    """The inputs or outputs that a config names."""
    batched = model.max_batch_size > 0
    return {
        one.name: _Tensor(
            name=one.name,
            datatype=enum_name(one, "data_type"),
            dims=tuple(one.dims),
            batched=batched,
            optional=way == "input" and one.optional,
            of=model.name,
        )
        for one in getattr(model.config, way)
    }


def _of_onnx(model: Model, release: Release | None) -> _Outside:
    """What the server completes from the file."""
    onnx = read_onnx(model.model_files[-1].source) if model.model_files else None
    if not isinstance(onnx, OnnxModel):
        return _partly(model)
    try:
        told = completed(onnx, release=release.name if release else None)
    except Unplannable:
        return _partly(model)
    most = model.max_batch_size or told.max_batch_size
    sides: list[_Side] = []
    for way, ports in (("input", told.inputs), ("output", told.outputs)):
        given = _given(model, way)
        filled = {
            port.name: _Tensor(name=port.name, datatype=port.datatype, dims=port.dims, batched=most > 0, of=model.name)
            for port in ports
        }
        sides.append(_Side(tensors=given or filled, complete=True))
    return _Outside(inputs=sides[0], outputs=sides[1], max_batch_size=most)


def _edges(model: Model, models: Mapping[str, Model], release: Release | None) -> Iterator[tuple[_Edge, str]]:
    """Every place where a tensor meets another that it does not fit, with what does not: `type` or `shape`."""
    known = {**_own(model, "output"), **_own(model, "input")}
    for key, step in _steps(model):
        member = models.get(step.model_name)
        sides = _seen_from_outside(member, release) if member else _Outside()
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


def _own(model: Model, way: str) -> dict[str, _Tensor]:
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
    if first.datatype != other.datatype:
        return "type"
    return None if _match(first.dims, other.dims) or _match(first.full, other.full) else "shape"


def _match(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> bool:
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _misfits(every: Repositories, case: Case, kind: str) -> Iterator[tuple[Model, _Edge]]:
    models = every.models
    for model in models.values():
        if _whole(model) and model.configuration.readable:
            yield from ((model, edge) for edge, wrong in _edges(model, models, case.release) if wrong == kind)


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
        if _whole(model) and model.configuration.readable and (found := _joining(model, models)):
            key, name = found
            message = f'the step of "{name}" takes tensors that come from different decoupled models'
            yield at(model, *key, message=message, ensemble=model.name, name=name)


def _joining(model: Model, models: Mapping[str, Model]) -> tuple[tuple[str | int, ...], str] | None:
    """The first step whose inputs come from different decoupled models."""
    stream = {one.name: 0 for one in model.config.input}
    left = list(_steps(model))
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


# -- calls from Python models ---------------------------------------------------------------------


def _calls(model: Model, case: Case) -> Iterator[tuple[Entry, Call]]:
    for program in programs(model):
        code = code_of(program, case.release)
        if isinstance(code, PythonCode):
            yield from ((program, call) for call in code.calls)


@rule_of_all(
    "ENS022",
    WARNING,
    says="Failed for execute the inference request. Model '{name}' is not ready.",
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
                yield on(model.folder / program.path, message, place=call.place, name=name)


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
    WARNING,
    says="Failed for execute the inference request. Model '{name}' is not ready.",
    source="seen on a real server: every request that comes there fails",
    fix="add that model, or correct the name",
)
def called_model_that_is_not_there(every: Repositories, case: Case) -> Iterator[Found]:
    """A Python model calls one that no repository has."""
    models = every.models
    for model in models.values():
        for program, call in _calls(model, case):
            for name in sorted(set(call.models or ()) - models.keys()):
                message = f'no repository has the model "{name}", which is called here{_near(name, models)}'
                yield on(model.folder / program.path, message, place=call.place, name=name)


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
