"""Batching, queues, response cache, transaction policy, metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from composer.models.autoconfig import DEFAULT_BATCH, can_batch
from composer.models.lint.completion import disagreements, may_batch
from composer.models.lint.files import named, onnx_files
from composer.models.lint.rule import ERROR, INFO, WARNING, Case, Found, at, on, rule
from composer.models.repository import Entry, Model

_CORE: Final = "core: model_config_utils.cc, ValidateModelConfig"
_ONNX: Final = "onnxruntime_backend: onnxruntime.cc, AutoCompleteMaxBatch"
_METRICS: Final = "core: model_config_utils.cc, ValidateModelMetrics"

_SECOND: Final = 1_000_000
_NEVER_IN: Final = 5
_OFTEN_IN: Final = 500
"""Microseconds in which an idle server took none, and all, of 300 requests. Measured with 24.10 on two cores."""
_STRATEGY: Final = "TRITON_BATCH_STRATEGY_PATH"
_LIBRARY: Final = "batchstrategy.so"
_IMAGE: Final = ("/opt/", "/usr/", "/lib")
"""Where an image has libraries of its own."""

FAMILIES: Final = frozenset(["nv_inference_first_response_histogram_ms"])
"""The metrics whose buckets a model may choose. Source: core, metric_model_reporter.h."""


# -- preferred sizes ------------------------------------------------------------------------------


@rule(
    "BAT001",
    ERROR,
    says="dynamic batching preferred size must be <= max batch size for {model}",
    source=_CORE,
    fix="lower it, or raise max_batch_size",
)
def preferred_size_over_most(model: Model, case: Case) -> Iterator[Found]:
    """A preferred batch size is larger than max_batch_size."""
    for number, size in enumerate(model.config.dynamic_batching.preferred_batch_size):
        if size > max(0, model.max_batch_size):
            key = ("dynamic_batching", "preferred_batch_size", number)
            yield at(model, *key, message=f"batches of {size} are preferred, and {model.max_batch_size} is the most")


@rule(
    "BAT002",
    ERROR,
    says="dynamic batching preferred size must be positive for {model}",
    source=_CORE,
    fix="write sizes of 1 and more",
)
def preferred_size_not_positive(model: Model, case: Case) -> Iterator[Found]:
    """A preferred batch size is 0 or negative."""
    for number, size in enumerate(model.config.dynamic_batching.preferred_batch_size):
        if size <= 0:
            key = ("dynamic_batching", "preferred_batch_size", number)
            yield at(model, *key, message=f"a batch cannot have the size {size}")


@rule(
    "BAT003",
    WARNING,
    source="seen on a real server: it never batches",
    fix="set max_batch_size to what the model takes, or remove dynamic_batching",
)
def batching_without_batches(model: Model, case: Case) -> Iterator[Found]:
    """Dynamic batching has no effect, because max_batch_size is 0."""
    if model.config.HasField("dynamic_batching") and model.max_batch_size == 0:
        yield at(model, "dynamic_batching", message="dynamic batching has no effect while max_batch_size is 0")


# -- priorities and order -------------------------------------------------------------------------


@rule(
    "BAT004",
    ERROR,
    says="default priority level must be in range [1, {levels}] for {model}",
    source=_CORE,
    fix="default_priority_level: 1",
)
def default_priority_out_of_range(model: Model, case: Case) -> Iterator[Found]:
    """The default priority is not one of the levels."""
    batching = model.config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        key = ("dynamic_batching", "default_priority_level")
        message = f"default_priority_level is {default}, and there are the levels 1 to {levels}"
        yield at(model, *key, message=message, levels=levels)


@rule(
    "BAT005",
    ERROR,
    says="priority queue policy must have priority level in range [1, {levels}] for {model}",
    source=_CORE,
    fix="key: 1",
)
def queue_policy_out_of_range(model: Model, case: Case) -> Iterator[Found]:
    """A queue policy is for a priority that is not one of the levels."""
    batching = model.config.dynamic_batching
    for level in sorted(batching.priority_queue_policy) if batching.priority_levels else ():
        if not 1 <= level <= batching.priority_levels:
            key = ("dynamic_batching", "priority_queue_policy", str(level))
            message = f"there is a queue policy for level {level}, and the levels are 1 to {batching.priority_levels}"
            yield at(model, *key, message=message, levels=batching.priority_levels)


@rule(
    "BAT006",
    ERROR,
    says="Only one priority level is allowed when 'preserve_ordering' is true for {model}",
    source=_CORE,
    fix="remove preserve_ordering, or priority_levels",
)
def order_with_priorities(model: Model, case: Case) -> Iterator[Found]:
    """preserve_ordering, and several priorities."""
    batching = model.config.dynamic_batching
    if batching.preserve_ordering and batching.priority_levels > 1:
        message = f"answers cannot keep their order with {batching.priority_levels} priority levels"
        yield at(model, "dynamic_batching", "preserve_ordering", message=message)


def _delays(policy: Any) -> bool:  # noqa: ANN401 - the types of messages are made at run time
    return bool(policy.default_timeout_microseconds and policy.timeout_action == 1)


@rule(
    "BAT007",
    ERROR,
    says="Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {model}",
    source=_CORE,
    fix="timeout_action: REJECT",
)
def order_with_delay(model: Model, case: Case) -> Iterator[Found]:
    """preserve_ordering, and requests that are put off when their time is over."""
    batching = model.config.dynamic_batching
    message = "answers cannot keep their order when requests are put off"
    if not batching.preserve_ordering:
        return
    if _delays(batching.default_queue_policy):
        yield at(model, "dynamic_batching", "default_queue_policy", "timeout_action", message=message)
    for level, policy in sorted(batching.priority_queue_policy.items()):
        if _delays(policy):
            key = ("dynamic_batching", "priority_queue_policy", str(level), "timeout_action")
            yield at(model, *key, message=message)


@rule(
    "BAT008",
    WARNING,
    source="the field is in microseconds",
    fix="max_queue_delay_microseconds: 1000 is a millisecond",
)
def long_delay(model: Model, case: Case) -> Iterator[Found]:
    """Requests wait a second and more for others to come."""
    delay = model.config.dynamic_batching.max_queue_delay_microseconds
    if delay >= _SECOND:
        key = ("dynamic_batching", "max_queue_delay_microseconds")
        yield at(model, *key, message=f"requests wait up to {delay / _SECOND:g} s for a batch to fill")


@rule(
    "BAT012",
    WARNING,
    says="Request timeout expired",
    source="core: scheduler_utils.cc, PolicyQueue::ApplyPolicy; measured on a real server",
    fix="default_timeout_microseconds: 1000000 is a second",
)
def timeout_too_short(model: Model, case: Case) -> Iterator[Found]:
    """Requests are rejected when they have waited for less time than the server takes to look at them."""
    batching = model.config.dynamic_batching
    time = batching.default_queue_policy.default_timeout_microseconds
    if 0 < time < _OFTEN_IN and not _delays(batching.default_queue_policy):
        key = ("dynamic_batching", "default_queue_policy", "default_timeout_microseconds")
        all_of_them = time <= _NEVER_IN and not batching.priority_levels and model.max_batch_size > 0
        severity, how_many = (ERROR, "all") if all_of_them else (WARNING, "some")
        message = f"{how_many} requests wait for longer than {time} microseconds, and are rejected"
        yield at(model, *key, message=message, severity=severity)


# -- what the server makes of ONNX files ----------------------------------------------------------


@rule(
    "BAT009",
    WARNING,
    says="autofilled max_batch_size to {most} for model '{model}' since batching is supporrted but no max_batch_size "
    "is specified in model configuration.",
    source=_ONNX,
    fix="write inputs and outputs too, or the max_batch_size that you want",
    since="22.06",
)
def batches_all_the_same(model: Model, case: Case) -> Iterator[Found]:
    """max_batch_size is 0, and the server sets another one."""
    said = model.max_batch_size == 0 and model.configuration.has("max_batch_size")
    if said and may_batch(model, case) and any(can_batch(file) for file in onnx_files(model)):
        message = f"the server takes 0 for not said, and makes batches of up to {DEFAULT_BATCH}"
        yield at(model, "max_batch_size", message=message, most=DEFAULT_BATCH)


@rule("BAT010", ERROR, says="{words}", source=f"{_ONNX}, CompareDimsSupported", fix="max_batch_size: 0")
def file_does_not_batch(model: Model, case: Case) -> Iterator[Found]:
    """max_batch_size is set, and the ONNX file takes no batches."""
    for difference in disagreements(model, case, "batching"):
        yield at(model, *difference.key, message=difference.message, words=difference.words)


# -- strategies -----------------------------------------------------------------------------------


def _strategy_by_name(model: Model) -> Entry | None:
    """The library that the server finds by its name; that of a version comes first."""
    paths = [*(f"{version}/{_LIBRARY}" for version in model.served), _LIBRARY]
    return next((model.by_path[path] for path in paths if path in model.by_path), None)


@rule(
    "BAT011",
    ERROR,
    says="{words}",
    source="core: backend_model.cc, TritonModel::Create",
    fix=f"remove the parameter {_STRATEGY}, or the file {_LIBRARY}",
    since="23.01",
)
def batching_strategy(model: Model, case: Case) -> Iterator[Found]:
    """A batching strategy that cannot be loaded."""
    library, key = _strategy_by_name(model), ("parameters", _STRATEGY)
    sequences = model.config.HasField("sequence_batching")
    if model.is_ensemble:
        return
    if _STRATEGY in model.config.parameters and sequences:
        words = f"{_STRATEGY} cannot be specified with sequence batcher, using default batching strategy"
        yield at(model, *key, message="sequences have no batching strategy of their own", words=words)
    elif _STRATEGY in model.config.parameters:
        yield from _strategy_at(model, case, model.config.parameters[_STRATEGY].string_value)
    elif library and library.kind == "file" and not sequences and not _is_library(library):
        path = model.folder / library.path
        words = f"unable to load shared library: {path}: file too short"
        yield on(path, "the server loads this as a batching strategy, and it is no library", words=words)


def _strategy_at(model: Model, case: Case, path: str) -> Iterator[Found]:
    """What is wrong with a path that the server looks at as it is, from where it was started."""
    key, words = ("parameters", _STRATEGY), f"Batching library path not found: {path}"
    folder = str(case.server.get("model-repository", "/models")).rstrip("/")
    within = path.removeprefix(f"{folder}/{model.name}/")
    known = case.files is not None and not any(path == one or path.startswith(f"{one}/") for one in case.files)
    if within != path:
        if named(model, within).kind == "missing":
            yield at(model, *key, message=f"there is no file {within} in the model's folder", words=words)
    elif case.release and case.from_("26.06"):
        message, words = f"{path} is not in the model's folder", "Batching library path escapes model repository."
        yield at(model, *key, message=message, words=words)
    elif not path.startswith(_IMAGE):
        severity = None if known or not path else WARNING
        message = f"the image has no {path}" if path else "the path is empty"
        yield at(model, *key, message=message, severity=severity, words=words)


def _is_library(entry: Entry) -> bool:
    with entry.source.open("rb") as file:
        return file.read(4) == b"\x7fELF"


# -- cache, answers, metrics ----------------------------------------------------------------------


@rule(
    "CCH001",
    ERROR,
    says="Response Cache does not currently support model {model} with 'decoupled' transaction policy. Please disable "
    "the response cache.",
    source=_CORE,
    fix="remove response_cache",
    since="22.07",
)
def cache_with_many_answers(model: Model, case: Case) -> Iterator[Found]:
    """Answers are to be kept, and there may be any number of them."""
    if model.config.response_cache.enable and model.config.model_transaction_policy.decoupled:
        message = "answers of a decoupled model cannot be kept in a cache"
        yield at(model, "response_cache", "enable", message=message)


@rule(
    "CCH002",
    ERROR,
    says="Response Cache does not currently support model {model} with sequence batching scheduler. Please disable "
    "the response cache.",
    source=_CORE,
    fix="remove response_cache",
    since="23.09",
)
def cache_with_sequences(model: Model, case: Case) -> Iterator[Found]:
    """Answers are to be kept, and they depend on what was asked before."""
    if model.config.response_cache.enable and model.config.HasField("sequence_batching"):
        yield at(model, "response_cache", "enable", message="answers within a sequence cannot be kept in a cache")


@rule(
    "DEC001",
    INFO,
    says="HTTP end point doesn't support models with decoupled transaction policy",
    source="seen on a real server: HTTP status 501",
    fix="ask it by gRPC ModelStreamInfer, or HTTP generate_stream",
)
def many_answers_by_http(model: Model, case: Case) -> Iterator[Found]:
    """A decoupled model, which cannot be asked by HTTP infer."""
    if model.config.model_transaction_policy.decoupled:
        key = ("model_transaction_policy", "decoupled")
        yield at(model, *key, message="HTTP infer refuses decoupled models: only streams can ask this one")


def _controls(model: Model) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for number, control in enumerate(model.config.model_metrics.metric_control):
        yield ("model_metrics", "metric_control", number), control


@rule(
    "MET001",
    ERROR,
    says="metric control must specify 'metric_identifier'",
    source=_METRICS,
    fix='metric_identifier: { family: "nv_inference_first_response_histogram_ms" }',
    since="24.11",
)
def metric_unsaid(model: Model, case: Case) -> Iterator[Found]:
    """A metric_control does not say of which metric."""
    for key, control in _controls(model):
        if not control.HasField("metric_identifier"):
            yield at(model, *key, message="metric_control does not say which metric")


@rule(
    "MET002",
    ERROR,
    says="metric identifier must specify non-empty 'family'",
    source=_METRICS,
    fix='family: "nv_inference_first_response_histogram_ms"',
    since="24.11",
)
def family_unsaid(model: Model, case: Case) -> Iterator[Found]:
    """A metric_identifier has no family."""
    for key, control in _controls(model):
        if control.HasField("metric_identifier") and not control.metric_identifier.family:
            yield at(model, *key, "metric_identifier", message="metric_identifier has no family")


@rule(
    "MET003",
    ERROR,
    says="metric control must specify 'histogram_options'",
    source=_METRICS,
    fix="histogram_options: { buckets: [ 100, 500, 1000 ] }",
    since="24.11",
)
def histogram_unsaid(model: Model, case: Case) -> Iterator[Found]:
    """A metric_control has no histogram_options."""
    for key, control in _controls(model):
        if control.metric_identifier.family and not control.HasField("histogram_options"):
            yield at(model, *key, message=f"there are no histogram_options for {control.metric_identifier.family}")


@rule(
    "MET004",
    ERROR,
    says="histogram options must specify non-empty 'buckets'",
    source=_METRICS,
    fix="buckets: [ 100, 500, 1000 ]",
    since="24.11",
)
def no_buckets(model: Model, case: Case) -> Iterator[Found]:
    """A histogram has no buckets."""
    for key, control in _controls(model):
        if control.HasField("histogram_options") and not control.histogram_options.buckets:
            yield at(model, *key, "histogram_options", message="the histogram has no buckets")


@rule(
    "MET005",
    WARNING,
    says="Metric family '{family}' in 'metric_identifier' is not a customizable metric in Triton core.",
    source="core: metric_model_reporter.cc",
    fix='family: "nv_inference_first_response_histogram_ms"',
    since="24.11",
)
def unknown_family(model: Model, case: Case) -> Iterator[Found]:
    """No buckets can be chosen for a metric of this name."""
    for key, control in _controls(model):
        family = control.metric_identifier.family
        if family and family not in FAMILIES:
            message = f"there is no metric {family} whose buckets could be chosen"
            yield at(model, *key, "metric_identifier", "family", message=message, family=family)
