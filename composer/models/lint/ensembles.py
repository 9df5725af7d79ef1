"""Ensembles, and models that call others: whether what they are made of is there, and fits together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from composer.models.lint.rule import ERROR, Case, Found, Repositories, at, rule, rule_of_all
from composer.models.repository import Model

_SCHEDULING: Final = "core: model_config_utils.cc, ValidateEnsembleSchedulingConfig"
_GRAPH: Final = "core: model_config_utils.cc, BuildEnsembleGraph"
_UTILS: Final = "core: ensemble_utils.cc, ValidateEnsembleConfig"
_DEPENDENCIES: Final = "core: model_repository_manager.cc, DependencyGraph"
_STUB: Final = "python_backend: infer_request.cc"

Step = Any
"""A step of an ensemble: a message that is made at run time."""


# -- one ensemble ---------------------------------------------------------------------------------


def steps_of(model: Model) -> Iterator[tuple[tuple[str | int, ...], Step]]:
    """The steps, with the way to each."""
    for number, step in enumerate(model.config.ensemble_scheduling.step):
        yield ("ensemble_scheduling", "step", number), step


def scheduled(model: Model) -> bool:
    """Whether it is an ensemble as it should be, with steps or without."""
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
    if scheduled(model) and there:
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
    if scheduled(model) and not model.config.ensemble_scheduling.step:
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
    if not scheduled(model):
        return
    for key, step in steps_of(model):
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
    for key, step in steps_of(model) if scheduled(model) else ():
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
    for _, step in steps_of(model):
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


def whole(model: Model) -> bool:
    """Whether its graph can be looked at: there are steps, and none lacks anything."""
    complete = all(step.model_name and step.input_map and step.output_map for _, step in steps_of(model))
    return scheduled(model) and bool(model.config.ensemble_scheduling.step) and complete


@rule(
    "ENS011",
    ERROR,
    says="ensemble input '{name}' for ensemble {model}' is not used",
    source=_SCHEDULING,
    fix="name it in the input_map of a step, or remove it",
)
def input_that_no_step_takes(model: Model, case: Case) -> Iterator[Found]:
    """An input of an ensemble goes into no step."""
    if not whole(model):
        return
    nodes = _graph(model)
    for number, one in enumerate(model.config.input):
        if one.name not in nodes:
            message = f'no step takes the input "{one.name}"{near(one.name, nodes)}'
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
    if not whole(model):
        return
    nodes = _graph(model)
    for number, one in enumerate(model.config.output):
        node = nodes.get(one.name)
        if node is None:
            message = f'no step gives the output "{one.name}"{near(one.name, nodes)}'
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


def near(name: str, names: Mapping[str, object]) -> str:
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
    if not whole(model):
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
    for key, step in steps_of(model):
        for way in ("input_map", "output_map"):
            for name, target in getattr(step, way).items():
                if target == tensor:
                    return (*key, way, name)
    return ("ensemble_scheduling",)


# -- an ensemble and its members ------------------------------------------------------------------


def members_of(every: Repositories) -> Iterator[tuple[Model, tuple[str | int, ...], Step, Model | None]]:
    """Every step of every ensemble that can be read, with the model that it means."""
    models = every.models
    for model in models.values():
        if whole(model) and model.configuration.readable:
            for key, step in steps_of(model):
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
    for model, key, step, member in members_of(every):
        if member is None:
            message = f'no repository has the model "{step.model_name}"{near(step.model_name, names)}'
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
        if whole(model) and model.configuration.readable and (last := _way_back(model, models)):
            key = next((k for k, step in steps_of(model) if _leads(step.model_name, model.name, models)), ())
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
    for model, key, step, member in members_of(every):
        if member is not None and step.model_version == 0 and lacks(member, 0):
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
    for model, key, step, member in members_of(every):
        version = step.model_version
        if member is not None and version not in (0, -1) and lacks(member, version):
            there = version in member.versions
            why = "its version_policy leaves out" if there else "it does not have"
            message = f'this step wants version {version} of "{member.name}", which {why}'
            key = (*key, "model_version")
            yield at(model, *key, message=message, ensemble=model.name, name=member.name, version=version)


def lacks(member: Model, version: int) -> bool:
    """Whether a model that can be read, and has versions at all, does not serve this one."""
    return member.configuration.readable and bool(member.served) and version not in member.served
