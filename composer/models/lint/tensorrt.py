"""Models of TensorRT: whether the release can read the plan, and whether the config asks for what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from composer.models.lint.completion import may_batch
from composer.models.lint.files import reading
from composer.models.lint.parameters import number_of, switch_of
from composer.models.lint.rule import ERROR, WARNING, Case, Found, Severity, at, on, rule
from composer.models.opening import Unreadable
from composer.models.repository import Entry, Model
from composer.models.schema import enum_name
from composer.models.tensorrt_plan import TensorRtPlan, read_plan
from composer.server import values_of

_LOAD: Final = "tensorrt_backend: loader.cc, LoadPlan"
_PROFILES: Final = "core: model_config_utils.cc, ValidateInstanceGroup and GetProfileIndex"
_GRAPHS: Final = "tensorrt_backend: instance_state.cc, ValidateGraphSpec"
_CREATE: Final = "failed to load '{model}': unable to create TensorRT engine"

AUTO, GPU = 0, 1
"""Kinds of instance groups, by their numbers."""

_STRATEGY: Final = "execution_context_allocation_strategy"
_STRATEGIES: Final = ("STATIC", "ON_PROFILE_CHANGE")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A plan of a version that is served. `sometimes`: only GPUs of one kind get it."""

    entry: Entry
    read: TensorRtPlan | Unreadable
    sometimes: bool

    @property
    def severity(self) -> Severity | None:
        """Less than what the rule says, if not every GPU gets it."""
        return WARNING if self.sometimes else None


def _plans(model: Model) -> Iterator[_Plan]:
    if model.backend != "tensorrt":
        return
    some = model.config.cc_model_filenames
    for version in model.served:
        for name in dict.fromkeys([model.filename, *sorted(some.values())]):
            entry = model.by_path.get(f"{version}/{name}")
            if entry is not None and entry.kind == "file":
                yield _Plan(entry=entry, read=reading(entry, read_plan), sometimes=bool(some))


# -- the plan -------------------------------------------------------------------------------------


@rule(
    "TRT001",
    ERROR,
    says=_CREATE,
    source="NVIDIA/TensorRT: samples/common/sampleEngines.cpp, printPlanVersion",
    fix="trtexec --onnx=model.onnx --saveEngine=model.plan, with the TensorRT of the release",
)
def no_plan(model: Model, case: Case) -> Iterator[Found]:
    """The file is no TensorRT plan."""
    for plan in _plans(model):
        if isinstance(plan.read, Unreadable) and plan.read.kind in ("garbage", "truncated"):
            message = f"{plan.entry.name} {plan.read.words}"
            yield on(model.folder / plan.entry.path, message, severity=plan.severity)


@rule(
    "TRT002",
    ERROR,
    says="The engine plan file is not compatible with this version of TensorRT, expecting library version {has} got "
    "{made}, please rebuild.",
    source=f"{_LOAD}; server issues 317 and 7613",
    fix="convert it again with the TensorRT of the release",
)
def plan_of_another_version(model: Model, case: Case) -> Iterator[Found]:
    """The plan was made by another TensorRT than the release has."""
    has = _numbers(case.release.tensorrt) if case.release and case.release.tensorrt else None
    for plan in _plans(model):
        made = plan.read.version if isinstance(plan.read, TensorRtPlan) else None
        if has is None or made is None or case.release is None or made[:3] == has[:3]:
            continue
        if len(has) >= 3 and not (_takes_others(case) and made[0] == has[0]):
            message = f"TensorRT {_shown(made)} made this plan, and {case.release.name} has {case.release.tensorrt}"
            fix = f"convert: {{from: ./model.onnx, to: tensorrt}}, or trtexec of TensorRT {case.release.tensorrt}"
            path, expected = model.folder / plan.entry.path, _shown(has[:3])
            yield on(path, message, fix=fix, severity=plan.severity, has=expected, made=_shown(made[:3]))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _takes_others(case: Case) -> bool:
    """Whether the server is told to take plans that are made to outlive a version: which ones are, no header says."""
    if case.before("23.09"):
        return False
    said = (str(one) for one in values_of("backend-config", case.server.get("backend-config", ())))
    found = [re.search(r"\btensorrt,version-compatible=(\w+)", one) for one in said]
    return any(switch_of(one[1]) for one in found if one)


@rule(
    "TRT005",
    ERROR,
    says=_CREATE,
    source="seen in what Ultralytics exports: JSON stands before the plan",
    fix="tail -c +{offset} model.engine > model.plan",
)
def plan_behind_json(model: Model, case: Case) -> Iterator[Found]:
    """JSON stands before the plan, as Ultralytics writes it, and TensorRT cannot read that."""
    for plan in _plans(model):
        if isinstance(plan.read, TensorRtPlan) and plan.read.metadata is not None:
            path = model.folder / plan.entry.path
            fix = f"tail -c +{plan.read.offset + 1} {path} > {path}.new && mv {path}.new {path}"
            message = f"{plan.read.offset} bytes of JSON stand before the plan, as Ultralytics writes it"
            yield on(path, message, fix=fix, severity=plan.severity)


# -- instances ------------------------------------------------------------------------------------


@rule(
    "TRT006",
    ERROR,
    says="unable to load model '{model}', TensorRT backend supports only GPU device",
    source="tensorrt_backend: instance_state.cc",
    fix="run: {gpus: all}, and instances of KIND_GPU",
)
def no_gpu(model: Model, case: Case) -> Iterator[Found]:
    """A TensorRT model is to be on something else than a GPU."""
    if model.backend != "tensorrt":
        return
    for number, group in enumerate(model.config.instance_group):
        if group.kind not in (AUTO, GPU):
            message = f"TensorRT runs on GPUs, and not as {enum_name(group, 'kind')}"
            fix = "kind: KIND_GPU"
            yield at(model, "instance_group", number, "kind", message=message, fix=fix)
    # Where KIND_GPU is said, another rule speaks.
    kinds = {group.kind for group in model.config.instance_group} or {AUTO}
    if case.gpus == 0 and kinds == {AUTO}:
        yield at(model, "instance_group", message="TensorRT runs on GPUs, and the server is given none")


@rule("TRT007", ERROR, says="{words}", source=_PROFILES, fix='profile: [ "0" ]')
def odd_profile(model: Model, case: Case) -> Iterator[Found]:
    """A profile is no number, or the model is not TensorRT's."""
    if model.is_ensemble or model.backend is None:
        return
    for number, group in enumerate(model.config.instance_group):
        where = f"instance group {group.name or f'{model.name}_{number}'} of model {model.name} and platform"
        where = f"{where} {model.config.platform or 'tensorrt_plan'}"
        if group.profile and model.backend != "tensorrt":
            words = f"{where}specifies profile field which is only supported for TensorRT models"
            message = "only TensorRT models have profiles"
            yield at(model, "instance_group", number, "profile", message=message, fix="remove profile", words=words)
            continue
        for place, text in enumerate(group.profile):
            if odd := _odd_profile(text, where):
                key = ("instance_group", number, "profile", place)
                yield at(model, *key, message=f"a profile is a number from 0, and not {text!r}", words=odd)


def _odd_profile(text: str, where: str) -> str | None:
    """The server's words for a profile that is none."""
    index = number_of(text)
    if not text:
        return "profile name must not be empty"
    if index is None:
        return f"unable to parse '{text}': stoi"
    if index < 0:
        invalid = "The field should contain the string representation of a non-negative integer."
        return f"{where} specifies invalid profile {text}. {invalid}"
    return None


@rule(
    "TRT012",
    ERROR,
    says="unable to create TensorRT runtime with DLA Core ID: {core}, available number of DLA cores: 0",
    source=_LOAD,
    fix="remove secondary_devices: only Jetson and Drive have such cores",
)
def no_such_core(model: Model, case: Case) -> Iterator[Found]:
    """A core for deep learning is asked for that no GPU of a server has."""
    for number, group in enumerate(model.config.instance_group if model.backend == "tensorrt" else ()):
        for place, device in enumerate(group.secondary_devices):
            if case.architecture == "amd64" and enum_name(device, "kind") == "KIND_NVDLA":
                key = ("instance_group", number, "secondary_devices", place)
                yield at(model, *key, message="there are no DLA cores on x86-64", core=device.device_id)


# -- settings -------------------------------------------------------------------------------------


@rule(
    "TRT013",
    ERROR,
    says=f"Invalid value for '{_STRATEGY}': '{{value}}' for model instance '{{model}}'. Supported values are 'STATIC' "
    "and 'ON_PROFILE_CHANGE'.",
    source="tensorrt_backend: model_state.cc, ParseParameters",
    fix=f'parameters {{ key: "{_STRATEGY}" value {{ string_value: "STATIC" }} }}',
    since="25.05",
)
def odd_strategy(model: Model, case: Case) -> Iterator[Found]:
    """The strategy of allocation is none of TensorRT's."""
    if model.backend == "tensorrt" and _STRATEGY in model.config.parameters:
        value = model.config.parameters[_STRATEGY].string_value
        if value not in _STRATEGIES:
            message = f"{_STRATEGY} is one of {' and '.join(_STRATEGIES)}, and not {value!r}"
            yield at(model, "parameters", _STRATEGY, "string_value", message=message, value=value)


@rule("TRT014", ERROR, says="{words}", source=_GRAPHS, fix="batch_size: 1")
def odd_graph(model: Model, case: Case) -> Iterator[Found]:
    """A CUDA graph is for a batch that the model does not take."""
    cuda = model.config.optimization.cuda
    if model.backend != "tensorrt" or not cuda.graphs or (not model.max_batch_size and may_batch(model, case)):
        return
    for number, graph in enumerate(cuda.graph_spec):
        key: tuple[str | int, ...] = ("optimization", "cuda", "graph_spec", number)
        sizes = [((*key, "batch_size"), graph.batch_size)]
        if graph.HasField("graph_lower_bound"):
            sizes.append(((*key, "graph_lower_bound", "batch_size"), graph.graph_lower_bound.batch_size))
        for where, size in sizes:
            if words := _odd_batch(size, model.max_batch_size):
                message = f"a graph for batches of {size}, and max_batch_size is {model.max_batch_size}"
                yield at(model, *where, message=message, words=words)
        if len(sizes) > 1 and sizes[1][1] > sizes[0][1]:
            message = f"the lower bound is {sizes[1][1]}, and the graph is for {sizes[0][1]}"
            words = "graph lower bound spec expects 'batch_size' to be <= graph spec 'batch_size'"
            yield at(model, *sizes[1][0], message=message, words=words)


def _odd_batch(size: int, most: int) -> str | None:
    if most == 0:
        return "graph spec expects 'batch_size' to be 0 if 'max_batch_size' is 0" if size else None
    return None if 1 <= size <= most else f"graph spec expects 'batch_size' to be >= 1 and <= {most}"
