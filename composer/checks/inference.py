"""Inference requests whose answers are known. Only an answer proves that a model serves.

Of every output it is always checked that it is there, its datatype, its shape and the number of its values, against
the model's configuration and against what the recipe says: Triton does not check what a Python model returns.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from composer.checks.client import Answer, NoAnswer
from composer.checks.inputs import make_tensor
from composer.checks.matchers import MATCHERS, VALUE_MATCHERS
from composer.checks.report import Result
from composer.checks.subject import Subject, fate, timed
from composer.checks.tensors import NOT_IN_JSON, Tensor, decode, encode

if TYPE_CHECKING:
    from composer.recipe import Check, OutputExpect, Refusal

VACUOUS: Final = "V001: it asserts nothing about values, only that an answer of the right form comes"
"""The warning for a check without a value matcher."""

_HEADER_SIZE: Final = "Inference-Header-Content-Length"
_TYPES: Final = {"TYPE_STRING": "BYTES"}
"""Datatypes that config.pbtxt spells otherwise than the protocol, but for the prefix."""


def inference(subject: Subject) -> Iterator[Result]:
    """A result for each check of the recipe, and one for each protocol that was asked for and cannot be spoken."""
    for check in subject.validation.checks:
        yield one_check(subject, check)
        if "grpc" in check.protocols:
            message = "it was not asked over gRPC, which tricompose does not speak"
            yield Result(id=f"{check.id}:grpc", outcome="unverified", message=message)


def one_check(subject: Subject, check: Check) -> Result:
    """Ask once and judge the answer."""
    return timed(subject, check.id, lambda: _run(subject, check))


def _run(subject: Subject, check: Check) -> Result:
    path = _path(check)
    config = _config(subject, path)
    inputs = {name: make_tensor(spec, subject.base) for name, spec in check.request.inputs.items()}
    body, headers = _request(inputs, config)
    try:
        answer = subject.client.post(f"{path}/infer", body, headers, timeout=check.request.timeout)
    except NoAnswer as error:
        return _silent(subject, check, path, error)
    status = check.expect.status
    faults = _refused(answer, status.error) if status else _faults(subject, check, config, answer)
    return _judged(check, faults, answer)


def _path(check: Check) -> str:
    version = f"/versions/{check.version}" if check.version else ""
    return f"/v2/models/{check.model}{version}"


def _config(subject: Subject, path: str) -> Mapping[str, Any]:
    """The model's configuration as the server completed it."""
    answer = subject.client.get(f"{path}/config")
    if answer.status != 200:
        raise NoAnswer(f"the server does not know this model: {answer.complaint()}", waited=False)
    config = answer.json()
    if not isinstance(config, dict):
        raise ValueError(f"a model configuration that is {config!r}")
    return config


# -- asking ------------------------------------------------------------------------------------


def _request(inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request for all outputs: those that JSON cannot hold as bytes, the others as JSON."""
    encoded = [encode(name, tensor) for name, tensor in inputs.items()]
    document: dict[str, Any] = {"inputs": [head for head, _ in encoded]}
    outputs = {output["name"]: _datatype(output) for output in config.get("output") or ()}
    if set(outputs.values()) & set(NOT_IN_JSON):
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": datatype in NOT_IN_JSON}} for name, datatype in outputs.items()
        ]
    head = json.dumps(document).encode()
    tail = b"".join(body for _, body in encoded)
    if not tail:
        return head, {"Content-Type": "application/json"}
    return head + tail, {"Content-Type": "application/octet-stream", _HEADER_SIZE: str(len(head))}


def _silent(subject: Subject, check: Check, path: str, error: NoAnswer) -> Result:
    """No answer: because the server died, or because the model never gave one."""
    message = f"{error}{fate(subject)}"
    if error.waited and _counted(subject, path):
        message += "; the server counts the request as answered: the model returned no response (None from execute?)"
    return Result(id=check.id, outcome="failed", message=message)


def _counted(subject: Subject, path: str) -> bool:
    """Whether the server believes that it has served the model."""
    try:
        stats = subject.client.get(f"{path}/stats").json()
        return any(row["inference_stats"]["success"]["count"] for row in stats["model_stats"])
    except (NoAnswer, ValueError, KeyError, TypeError):
        return False


# -- judging -----------------------------------------------------------------------------------


def _judged(check: Check, faults: Sequence[str], answer: Answer) -> Result:
    evidence = {"status": answer.status, "bytes": len(answer.body)}
    if faults:
        return Result(id=check.id, outcome="failed", message="; ".join(faults), evidence=evidence)
    message = "the answer is as expected" if _asserts(check) else VACUOUS
    return Result(id=check.id, outcome="passed", message=message, evidence=evidence)


def _asserts(check: Check) -> bool:
    """Whether each output that the check names has a matcher that says what its values are."""
    return all(any(_given(one, name) for name in VALUE_MATCHERS) for one in check.expect.outputs.values())


def _given(expected: OutputExpect, name: str) -> bool:
    return getattr(expected, name) is not None


def _refused(answer: Answer, wanted: Refusal) -> list[str]:
    """For a request that is to be refused: what is wrong with the refusal."""
    if answer.status != wanted.code:
        return [f"HTTP {wanted.code} is expected, it is {answer.status}"]
    if wanted.match and not re.search(wanted.match, answer.complaint()):
        return [f"the refusal does not match {wanted.match!r}: {answer.complaint()}"]
    return []


def _faults(subject: Subject, check: Check, config: Mapping[str, Any], answer: Answer) -> list[str]:
    """All that is wrong with an answer."""
    if answer.status != 200:
        return [f"HTTP {answer.status}: {answer.complaint()}{fate(subject)}"]
    outputs = _outputs(answer)
    declared = {output["name"]: output for output in config.get("output") or ()}
    faults = []
    for name in dict.fromkeys([*declared, *check.expect.outputs]):
        if name not in outputs:
            faults.append(f"output {name} is missing: the answer has {', '.join(sorted(outputs)) or 'no outputs'}")
            continue
        found = _output_faults(subject, outputs[name], declared.get(name), check.expect.outputs.get(name), config)
        faults += [f"output {name}: {fault}" for fault in found]
    return faults


def _outputs(answer: Answer) -> dict[str, Tensor]:
    size = int(answer.headers.get(_HEADER_SIZE.lower(), len(answer.body)))
    document = json.loads(answer.body[:size])
    return decode(document.get("outputs") or [], answer.body[size:])


def _output_faults(
    subject: Subject,
    tensor: Tensor,
    declared: Mapping[str, Any] | None,
    expected: OutputExpect | None,
    config: Mapping[str, Any],
) -> list[str]:
    faults = [*_form(tensor, declared, config), *_as_expected(tensor, expected)]
    if faults or expected is None:
        return faults
    matched = ((name, match(getattr(expected, name), tensor, subject.base)) for name, match in _asked(expected))
    return [f"{name}: {fault}" for name, fault in matched if fault]


def _asked(expected: OutputExpect) -> Iterator[tuple[str, Any]]:
    return ((name, match) for name, match in MATCHERS.items() if _given(expected, name))


def _form(tensor: Tensor, declared: Mapping[str, Any] | None, config: Mapping[str, Any]) -> Iterator[str]:
    """Where a tensor is not of the form that the model's configuration promises, or contradicts itself."""
    count = math.prod(tensor.shape)
    if len(tensor.values) != count:
        yield f"it has {len(tensor.values)} values, its shape {list(tensor.shape)} has {count}"
    if declared is None:
        yield "the model's configuration has no such output"
        return
    if tensor.datatype != _datatype(declared):
        yield f"its datatype is {tensor.datatype}, the model's configuration says {_datatype(declared)}"
    dims = _dims(declared, config)
    if len(dims) != len(tensor.shape) or any(
        want not in (-1, got) for want, got in zip(dims, tensor.shape, strict=True)
    ):
        yield f"its shape is {list(tensor.shape)}, the model's configuration says {dims}"


def _as_expected(tensor: Tensor, expected: OutputExpect | None) -> Iterator[str]:
    if expected is None:
        return
    if expected.dtype is not None and tensor.datatype != expected.dtype:
        yield f"its datatype is {tensor.datatype}, {expected.dtype} is expected"
    if expected.shape is not None and tensor.shape != tuple(expected.shape):
        yield f"its shape is {list(tensor.shape)}, {list(expected.shape)} is expected"


def _datatype(output: Mapping[str, Any]) -> str:
    name = str(output["data_type"])
    return _TYPES.get(name, name.removeprefix("TYPE_"))


def _dims(output: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """The shape of an output in an answer: with the batch dimension in front, where the model has one."""
    dims = [int(size) for size in output["dims"]]
    return [-1, *dims] if int(config.get("max_batch_size") or 0) > 0 else dims
