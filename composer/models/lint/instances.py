"""Instance groups, rate limits, repository agents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from composer.models.lint.files import named
from composer.models.lint.rule import ERROR, INFO, WARNING, Case, Found, Repositories, at, rule, rule_of_all
from composer.models.repository import Model
from composer.releases.flags import FlagValue
from composer.server import values_of

_CORE: Final = "core: model_config_utils.cc, ValidateInstanceGroup"
_LIMITER: Final = "core: rate_limiter.cc"
_AGENTS: Final = "core: repo_agent.cc, CreateAgent"
_CHECKSUM: Final = "checksum_repository_agent: checksum.cc"

AUTO, GPU, CPU, MODEL = range(4)
"""The kinds of instance groups, by their numbers."""

_ON_GPU: Final = frozenset(["onnxruntime", "pytorch", "tensorflow", "tensorrt"])
"""Backends whose models are put on GPUs where there are any."""

_MOST_HASHED: Final = 64 << 20
"""Checksums of larger files are not taken: that would be reading weights."""

Group = Any
"""A ModelInstanceGroup: its type is made at run time."""


def _groups(model: Model) -> Iterator[tuple[int, Group]]:
    """The instance groups, but not those of an ensemble, which the server does not take at all."""
    if not model.is_ensemble:
        yield from enumerate(model.config.instance_group)


def _name(model: Model, number: int, group: Group) -> str:
    """The name that the server gives a group."""
    return group.name or f"{model.name}_{number}"


def _absent(gpu: int, case: Case) -> bool:
    """Whether there is known to be no such GPU."""
    return gpu < 0 or (case.gpus is not None and gpu >= case.gpus)


def _kind(group: Group, case: Case) -> int:
    """The kind that the server makes of KIND_AUTO: GPU if there are any, and all that are named."""
    if group.kind != AUTO:
        return int(group.kind)
    if case.gpus == 0 or any(_absent(gpu, case) for gpu in group.gpus):
        return CPU
    return AUTO if case.gpus is None else GPU


# -- GPUs -----------------------------------------------------------------------------------------


@rule(
    "INS001",
    ERROR,
    says="instance group {group} of model {model} has kind KIND_GPU but no GPUs are available",
    source=_CORE,
    fix="kind: KIND_AUTO takes a GPU where there is one; or run: {gpus: all}",
)
def gpu_wanted_and_none_there(model: Model, case: Case) -> Iterator[Found]:
    """Instances are to be on GPUs, and there are none."""
    for number, group in _groups(model):
        if group.kind == GPU and not group.gpus and case.gpus == 0:
            message = "instances of KIND_GPU, and the server is given no GPU"
            yield at(model, "instance_group", number, "kind", message=message, group=_name(model, number, group))


@rule(
    "INS002",
    ERROR,
    says="instance group {group} of model {model} specifies invalid or unsupported gpu id {gpu}. GPUs with at least "
    "the minimum required CUDA compute compatibility of 6.000000 are: {gpus}",
    source=_CORE,
    fix="GPUs are counted from 0 in the container",
)
def no_such_gpu(model: Model, case: Case) -> Iterator[Found]:
    """Instances are to be on a GPU that is not there."""
    there = ", ".join(str(gpu) for gpu in range(case.gpus or 0))
    for number, group in _groups(model):
        for place, gpu in enumerate(group.gpus):
            if group.kind == GPU and _absent(gpu, case):
                key = ("instance_group", number, "gpus", place)
                message = f"there is no GPU {gpu}" + (f": the server is given {case.gpus}" if gpu >= 0 else "")
                yield at(model, *key, message=message, group=_name(model, number, group), gpu=gpu, gpus=there)


@rule(
    "INS003",
    ERROR,
    says="instance group {group} of model {model} has kind KIND_CPU but specifies one or more GPUs",
    source=_CORE,
    fix="remove gpus, or write kind: KIND_GPU",
)
def cpu_with_gpus(model: Model, case: Case) -> Iterator[Found]:
    """Instances are to be on the CPU, and GPUs are named."""
    for number, group in _groups(model):
        if group.gpus and _kind(group, case) == CPU:
            message = "gpus are named for instances on the CPU"
            if group.kind == AUTO:
                message = "the GPUs that are named are not all there, so that KIND_AUTO means the CPU"
            yield at(model, "instance_group", number, "gpus", message=message, group=_name(model, number, group))


@rule(
    "INS004",
    ERROR,
    says="instance group {group} of model {model} has kind KIND_MODEL but specifies one or more GPUs",
    source=_CORE,
    fix="remove gpus: the model itself decides",
)
def model_with_gpus(model: Model, case: Case) -> Iterator[Found]:
    """The model is to decide where it is, and GPUs are named."""
    for number, group in _groups(model):
        if group.gpus and group.kind == MODEL:
            message = "gpus are named for instances of KIND_MODEL"
            yield at(model, "instance_group", number, "gpus", message=message, group=_name(model, number, group))


@rule(
    "INS005",
    INFO,
    source="core: model_config_utils.cc, NormalizeInstanceGroup; server issue 7628",
    fix="instance_group [ { kind: KIND_GPU } ] fails where there is no GPU, instead of being slow",
)
def gpu_not_asked_for(model: Model, case: Case) -> Iterator[Found]:
    """Nothing says that the model needs a GPU: without one it goes to the CPU, silently."""
    if case.gpus and model.backend in _ON_GPU and not model.config.instance_group:
        yield at(model, message="where there is no GPU, this model goes to the CPU, and nothing says so")


# -- how many, and where --------------------------------------------------------------------------


@rule("INS006", WARNING, source="core: model_config_utils.cc, NormalizeInstanceGroup", fix="count: 1")
def no_instances(model: Model, case: Case) -> Iterator[Found]:
    """A count of 0 or less is taken for the default."""
    for number, group in _groups(model):
        if group.count < 1 and model.configuration.has("instance_group", number, "count"):
            message = f"a count of {group.count} is taken for none given"
            yield at(model, "instance_group", number, "count", message=message)


@rule(
    "INS007",
    ERROR,
    says="Signal (11) received.",
    source="seen on a real server: it ends at the first request",
    fix="remove passive from one of them",
    since="21.06",
)
def all_passive(model: Model, case: Case) -> Iterator[Found]:
    """No instance takes requests: the first one ends the server."""
    groups = [group for _, group in _groups(model)]
    if groups and all(group.passive for group in groups):
        message = "every instance is passive: the first request would end the server"
        yield at(model, "instance_group", 0, "passive", message=message)


@rule(
    "INS008",
    WARNING,
    source="core: backend_model_instance.cc, CreateInstance",
    fix="server: {host-policy: {NAME: {numa-node: 0}}}",
    since="21.06",
)
def unknown_host_policy(model: Model, case: Case) -> Iterator[Found]:
    """The server has no host policy of this name, and goes without one."""
    known = {str(text).partition(",")[0] for text in values_of("host-policy", case.server.get("host-policy", ()))}
    for number, group in _groups(model):
        if group.host_policy and group.host_policy not in known:
            message = f"the server's flags have no host-policy {group.host_policy}: it would go without"
            fix = f"server: {{host-policy: {{{group.host_policy}: {{numa-node: 0}}}}}}"
            yield at(model, "instance_group", number, "host_policy", message=message, fix=fix)


@rule(
    "INS010",
    ERROR,
    says="{group}_0 of model {model} must have either zero or or one secondary devices",
    source="tensorrt_backend: tensorrt_model_instance.cc",
    fix="keep one of them",
    since="21.06",
)
def secondary_devices(model: Model, case: Case) -> Iterator[Found]:
    """More secondary devices than one, or some for a model that is not TensorRT's."""
    for number, group in _groups(model):
        count, key = len(group.secondary_devices), ("instance_group", number, "secondary_devices")
        if model.backend == "tensorrt" and count > 1:
            message = f"an instance has one secondary device at most, not {count}"
            yield at(model, *key, 1, message=message, group=_name(model, number, group))
        elif model.backend != "tensorrt" and count:
            message = "only TensorRT models have secondary devices: they are passed over"
            yield at(model, *key, message=message, severity=WARNING, fix="remove them", group=group.name)


# -- rate limits ----------------------------------------------------------------------------------

_GLOBAL: Final = -2
"""The device that stands for what is there once for all."""

_EACH: Final = -1
"""The device that stands for what is there on each."""


def _counts(case: Case) -> bool:
    """Whether the server counts resources."""
    said = values_of("rate-limit", case.server.get("rate-limit", ()))
    return [str(value).lower() for value in said][-1:] == ["execution_count"]


def _needs(model: Model) -> Iterator[tuple[tuple[str | int, ...], int, str, int]]:
    """What its active instances need: where that stands, on which device, of what, and how much."""
    for number, group in _groups(model):
        for place, resource in enumerate(() if group.passive else group.rate_limiter.resources):
            key = ("instance_group", number, "rate_limiter", "resources", place)
            for device in [_GLOBAL] if getattr(resource, "global") else list(group.gpus) or [0]:
                yield key, device, resource.name, resource.count


@rule_of_all(
    "RL001",
    ERROR,
    says='Resource "{resource}" is present as both global and device-specific resource in the model configuration.',
    source=f"{_LIMITER}, ValidateMaxResources",
    fix="write global: true everywhere, or nowhere",
    since="21.09",
)
def global_and_not(every: Repositories, case: Case) -> Iterator[Found]:
    """A resource is there once for all in one place, and on each device in another."""
    seen: dict[str, bool] = {}
    for model in every.models.values() if _counts(case) else ():
        for key, device, name, _count in _needs(model):
            once = device == _GLOBAL
            if seen.setdefault(name, once) != once:
                message = f"the resource {name} is global in one place, and not in another"
                yield at(model, *key, message=message, resource=name)


def _limits(given: FlagValue) -> Mapping[tuple[int, str], int]:
    """What there is of resources, by device: `name:count`, or `name:count:device`."""
    found: dict[tuple[int, str], int] = {}
    for text in values_of("rate-limit-resource", given):
        name, _, rest = str(text).partition(":")
        count, _, device = rest.partition(":")
        place = int(device) if device.isdecimal() else _EACH
        if count.isdecimal():
            found[place, name] = int(count)
    return found


def _there(limits: Mapping[tuple[int, str], int], device: int, name: str) -> int:
    """How much there is of a resource on a device; of a global one, the most that is said of any."""
    if device == _GLOBAL:
        return max((count for (_, other), count in limits.items() if other == name), default=0)
    return max(limits.get((device, name), 0), limits.get((_EACH, name), 0))


@rule(
    "RL002",
    ERROR,
    says='Resource count for "{resource}" is limited to {most} which will prevent scheduling of one or more model '
    "instances, the minimum required count is {count}",
    source=f"{_LIMITER}, ParseAndValidateExplicitResources",
    fix="raise rate-limit-resource, or lower count",
    since="21.09",
)
def more_than_there_is(model: Model, case: Case) -> Iterator[Found]:
    """An instance needs more of a resource than the server's flags say there is."""
    limits = _limits(case.server.get("rate-limit-resource", ()))
    for key, device, name, count in _needs(model) if limits and _counts(case) else ():
        most = _there(limits, device, name)
        if count > most:
            message = f"an instance needs {count} of {name}, and there are {most}"
            fix = f'server: {{rate-limit-resource: ["{name}:{count}"]}}'
            yield at(model, *key, "count", message=message, fix=fix, resource=name, most=most, count=count)


# -- repository agents ----------------------------------------------------------------------------


@rule(
    "AGT001",
    ERROR,
    says="unable to find 'libtritonrepoagent_{agent}.so' for repo agent '{agent}', searched: "
    "/opt/tritonserver/repoagents",
    source=_AGENTS,
    fix="repoagents: [NAME]",
)
def agent_missing(model: Model, case: Case) -> Iterator[Found]:
    """The image does not have the repository agent."""
    for number, agent in enumerate(model.config.model_repository_agents.agents):
        if case.repoagents is not None and agent.name not in case.repoagents:
            key = ("model_repository_agents", "agents", number, "name")
            message = f"the image has no repository agent {agent.name or 'without a name'}"
            yield at(model, *key, message=message, fix=f"repoagents: [{agent.name}]", agent=agent.name)


@rule("AGT002", ERROR, says="{words}", source=_CHECKSUM, fix="md5sum FILE says what it is")
def wrong_checksum(model: Model, case: Case) -> Iterator[Found]:
    """A file does not have the checksum that the checksum agent wants."""
    for number, agent in enumerate(model.config.model_repository_agents.agents):
        for name, wanted in sorted(agent.parameters.items()) if agent.name == "checksum" else ():
            key = ("model_repository_agents", "agents", number, "parameters", name)
            for message, words in _checked(model, name, wanted):
                yield at(model, *key, message=message, words=words)


def _checked(model: Model, name: str, wanted: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a parameter of the checksum agent, in our words and its own."""
    way, colon, path = name.partition(":")
    found = named(model, path)
    if not colon:
        yield f"{name} is not of the form MD5:FILE", f"failed to parse key: {name}"
    elif way.lower() != "md5":
        yield f"there are no checksums but MD5, and this is {way}", f"Unsupported checksum algorithm: {way}"
    elif found.kind in ("missing", "folder"):
        words = f"failed to open text file for read {path}: No such file or directory"
        yield f"there is no file {found.path} in the model's folder", words
    elif found.kind == "file" and found.entry and found.entry.size <= _MOST_HASHED:
        digest = hashlib.md5(found.entry.source.read_bytes(), usedforsecurity=False).hexdigest()
        if digest != wanted:
            words = f"Mismatched MD5 hash for file {path}, expect: {wanted}, got: {digest}"
            yield f"the MD5 of {found.path} is {digest}", words


@rule(
    "AGT003",
    ERROR,
    says="Signal (11) received.",
    source="core: model_repository_manager.cc, InitializeModelInfo; seen on a real server: it ends at once",
    fix="remove model_repository_agents",
)
def no_agents(model: Model, case: Case) -> Iterator[Found]:
    """model_repository_agents names no agent, which ends the server."""
    agents = model.config.model_repository_agents.agents
    if model.config.HasField("model_repository_agents") and not agents:
        yield at(model, "model_repository_agents", message="model_repository_agents without agents ends the server")
