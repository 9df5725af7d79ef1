"""Models of backends with few rules: vLLM, FIL, DALI, OpenVINO. And whether the image has the backends at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from composer.models.lint.rule import ERROR, WARNING, Case, Found, at, on, rule
from composer.models.needs import backends_of
from composer.models.repository import PLATFORMS, Entry, Model
from composer.models.schema import enum_name
from composer.releases import absent

_VLLM: Final = "vllm_backend: src/model.py"
_FIL: Final = "fil_backend: docs/model_config.md, src/model.h"
_DALI: Final = "dali_backend: src/dali_model.h"
_OPENVINO: Final = "openvino_backend: src/openvino.cc"
_LARGEST_JSON: Final = 1 << 20


# -- the image ------------------------------------------------------------------------------------


@rule(
    "IMG001",
    ERROR,
    says="unable to find backend library for backend '{backend}', try specifying runtime on the model configuration.",
    source="core: backend_model.cc, GetBackendRuntimeLibraryName",
    fix="add it to backends",
)
def backend_that_is_not_there(model: Model, case: Case) -> Iterator[Found]:
    """The image has no backend for the model."""
    backend = model.backend
    if case.backends is None or not backend or backend in case.backends or backend in PLATFORMS:
        return
    why = absent(case.release, "backends", backend) if case.release else None
    message = f'the image has no backend "{backend}"' + (f": {why}" if why else "")
    key = "backend" if model.config.backend else "platform"
    yield at(model, key, message=message, fix=f"backends: [{backend}]", backend=backend)


@rule(
    "IMG003",
    ERROR,
    says="unable to find Python backend based backend library",
    source="core: backend_manager.cc; python_backend: python_be.cc",
    fix="backends: [python]",
)
def backend_without_python(model: Model, case: Case) -> Iterator[Found]:
    """The model's backend is a program for the Python backend, which the image does not have."""
    if case.backends is None or model.backend not in case.backends:
        return
    if "python" in backends_of(model) and "python" not in case.backends:
        message = f'"{model.backend}" is a program for the Python backend, which the image does not have'
        yield at(model, "backend", message=message, fix=f"backends: [python, {model.backend}]")


# -- vLLM -----------------------------------------------------------------------------------------


def _vllm_files(model: Model) -> Iterator[tuple[int, Entry | None]]:
    """The model.json of each version that is served."""
    if model.backend == "vllm":
        yield from ((version, model.by_path.get(f"{version}/model.json")) for version in model.served)


def _engine(entry: Entry | None) -> Mapping[str, object] | str | None:
    """What a model.json says; a text says why it cannot be read."""
    if entry is None or entry.kind != "file":
        return None
    try:
        with entry.source.open("rb") as file:
            data = file.read(_LARGEST_JSON + 1)
        said = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    return said if isinstance(said, dict) else "it is no JSON object"


@rule(
    "VLL001",
    ERROR,
    says="'model.json' containing vllm engine args must be provided in '{path}'",
    source=_VLLM,
    fix='{"model": "/opt/models/llama", "gpu_memory_utilization": 0.9}',
)
def no_engine_arguments(model: Model, case: Case) -> Iterator[Found]:
    """A version of a vLLM model has no model.json, or one that cannot be read."""
    for version, entry in _vllm_files(model):
        said = _engine(entry)
        path = model.folder / str(version)
        if entry is None:
            yield on(path, "vLLM reads its arguments from a model.json here", path=path)
        elif isinstance(said, str):
            yield on(model.folder / entry.path, f"model.json cannot be read: {said}", path=path)


@rule(
    "VLL002",
    ERROR,
    says="vLLM Triton backend must be configured to use decoupled model transaction policy",
    source=_VLLM,
    fix="model_transaction_policy { decoupled: true }",
)
def vllm_that_is_not_decoupled(model: Model, case: Case) -> Iterator[Found]:
    """A vLLM model is not decoupled."""
    policy = model.config.model_transaction_policy
    if model.backend == "vllm" and model.config.HasField("model_transaction_policy") and not policy.decoupled:
        yield at(model, "model_transaction_policy", message="vLLM answers many times: its models are decoupled")


@rule(
    "VLL003",
    ERROR,
    says="Triton backend cannot find {path}.",
    source=f"{_VLLM}, setup_lora",
    fix='{"name": "/opt/models/adapter"}',
    since="24.06",
)
def adapters_that_are_not_there(model: Model, case: Case) -> Iterator[Found]:
    """enable_lora is on, and there is no multi_lora.json."""
    for version, entry in _vllm_files(model):
        said = _engine(entry)
        on_ = isinstance(said, dict) and str(said.get("enable_lora", "")).lower() == "true"
        path = f"{version}/multi_lora.json"
        if on_ and entry and path not in model.by_path:
            message = "enable_lora needs a multi_lora.json beside this file"
            yield on(model.folder / entry.path, message, path=model.folder / path)


@rule(
    "VLL005",
    WARNING,
    source="of our own: it is downloaded whenever the server starts",
    fix="bring the model with files:, and name its folder",
)
def vllm_model_from_a_hub(model: Model, case: Case) -> Iterator[Found]:
    """model.json names a model on a hub, which needs a network at each start."""
    for _, entry in _vllm_files(model):
        said = _engine(entry)
        name = said.get("model") if isinstance(said, dict) else None
        if entry and isinstance(name, str) and not name.startswith(("/", ".")):
            yield on(model.folder / entry.path, f'"{name}" is downloaded whenever the model is loaded')


# -- FIL ------------------------------------------------------------------------------------------

_TREES: Final = {
    "xgboost": "xgboost.model",
    "xgboost_json": "xgboost.json",
    "xgboost_ubj": "xgboost.ubj",
    "lightgbm": "model.txt",
    "treelite_checkpoint": "checkpoint.tl",
}
"""The file that each `model_type` is in, where the config names none."""


@rule(
    "FIL001",
    ERROR,
    source=_FIL,
    fix='default_model_filename: "NAME", or give the file that name',
)
def no_trees(model: Model, case: Case) -> Iterator[Found]:
    """A FIL model's file is not there, or its model_type is none."""
    if model.backend != "fil":
        return
    kind = model.config.parameters["model_type"].string_value if "model_type" in model.config.parameters else "xgboost"
    known = [name for name in _TREES if name != "xgboost_ubj" or case.from_("24.10")]
    if kind not in known:
        message = f'there is no model_type "{kind}": {", ".join(known)}'
        yield at(model, "parameters", "model_type", message=message, fix='string_value: "xgboost_json"')
        return
    name = _TREES[kind]
    for version in model.served if not model.config.default_model_filename else ():
        if f"{version}/{name}" not in model.by_path:
            others = [one.name for one in model.below(str(version)) if one.name in _TREES.values()]
            message = f"a model of type {kind} is in {name}" + (f", and here is {others[0]}" if others else "")
            yield on(model.folder / str(version), message)


# -- DALI -----------------------------------------------------------------------------------------


@rule(
    "DAL001",
    ERROR,
    source=_DALI,
    fix="pipe.serialize(filename='1/model.dali'), or put the program there as dali.py",
)
def no_pipeline(model: Model, case: Case) -> Iterator[Found]:
    """A DALI model has neither model.dali nor dali.py."""
    if model.backend != "dali" or model.config.default_model_filename:
        return
    for version in model.served:
        if not any(f"{version}/{name}" in model.by_path for name in ("model.dali", "dali.py")):
            yield on(model.folder / str(version), "there is neither model.dali nor dali.py here")


@rule(
    "DAL002",
    ERROR,
    says="Missing config for {name}",
    source="dali_backend: src/config_tools/config_tools.cc",
    fix="name inputs and outputs as the pipeline does",
)
def pipeline_without_config(model: Model, case: Case) -> Iterator[Found]:
    """A DALI model's config says too little for a server that completes nothing."""
    if model.backend != "dali" or case.server.get("disable-auto-complete-config") is not True:
        return
    if not model.config.output:
        yield at(model, message="with disable-auto-complete-config, outputs must be given", name="output")


# -- OpenVINO -------------------------------------------------------------------------------------


@rule(
    "OVN001",
    ERROR,
    says="Triton OpenVINO backend supports only Kind CPU and AUTO",
    source=_OPENVINO,
    fix="kind: KIND_CPU",
)
def openvino_on_a_gpu(model: Model, case: Case) -> Iterator[Found]:
    """An OpenVINO model is to run on NVIDIA's GPU."""
    if not (model.backend or "").startswith("openvino"):
        return
    for number, group in enumerate(model.config.instance_group):
        if enum_name(group, "kind") == "KIND_GPU":
            yield at(model, "instance_group", number, "kind", message="OpenVINO does not run on NVIDIA's GPUs")


@rule(
    "OVN002",
    ERROR,
    says="reading model",
    source=_OPENVINO,
    fix="put the weights beside it",
)
def network_without_weights(model: Model, case: Case) -> Iterator[Found]:
    """A model.xml has no model.bin beside it."""
    if not (model.backend or "").startswith("openvino"):
        return
    for entry in model.model_files:
        weights = f"{entry.path[:-4]}.bin"
        if entry.path.endswith(".xml") and weights not in model.by_path:
            yield on(model.folder / entry.path, f"the weights are in {weights}, which is not there")


_NUMBER: Final = re.compile(r"\d+")
_HINTS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "NUM_STREAMS": (re.compile(r"auto|numa|\d+"), "either AUTO/NUMA/<int_value>"),
    "INFERENCE_NUM_THREADS": (_NUMBER, "a non-negative number"),
    "COMPILATION_NUM_THREADS": (_NUMBER, "a non-negative number"),
    "HINT_BF16": (re.compile(r"yes"), "YES"),
    "PERFORMANCE_HINT": (
        re.compile(r"latency|throughput|cumulative_throughput"),
        "LATENCY/THROUGHPUT/CUMULATIVE_THROUGHPUT",
    ),
}
"""What the backend takes, in small letters, and what it says that it takes."""


@rule(
    "OVN003",
    ERROR,
    says="expected the parameter '{key}' to be {wanted}, got {value}",
    source=_OPENVINO,
    fix="write one of these",
)
def parameter_of_openvino(model: Model, case: Case) -> Iterator[Found]:
    """A parameter of OpenVINO has a value that it does not take."""
    if not (model.backend or "").startswith("openvino"):
        return
    for key, (pattern, wanted) in _HINTS.items():
        value = model.config.parameters[key].string_value.lower() if key in model.config.parameters else ""
        if value and not pattern.fullmatch(value):
            message = f"{key} is {wanted}, and not {value}"
            yield at(model, "parameters", key, message=message, fix=wanted, key=key, wanted=wanted, value=value)
