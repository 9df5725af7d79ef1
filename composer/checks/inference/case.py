"""A check as it is put to a server: the requests that it comes to, and what is known for judging their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from composer.checks.inference.goldens import Made, request_sha256
from composer.checks.inference.inputs import drawn, make_tensor
from composer.checks.inference.judging import ContextOf, Fault, Judged, Promise, judge_refusal, judge_response, promise
from composer.checks.inference.matchers import Context
from composer.checks.inference.streams import judge_stream
from composer.checks.inference.ways import Answer, read_http
from composer.checks.subject import Subject
from composer.errors import CheckFailed
from composer.protocol import http
from composer.protocol.http import model_path
from composer.protocol.messages import NoAnswer, Refused, Request, Response
from composer.protocol.tensors import Tensor

if TYPE_CHECKING:
    from composer.recipe_checks import Check, Expect, SameAs
    from composer.recipe_checks import Request as RequestSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A check with its requests, in no sequence yet, and the model's configuration as the server completed it.

    `digests` are the sha256 of each request with all before it; `drawn` tells of the inputs that were drawn.
    """

    subject: Subject
    check: Check
    requests: Sequence[Request]
    config: Mapping[str, Any]
    digests: Sequence[str]
    drawn: Mapping[str, Any]
    _others: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the model is asked over HTTP."""
        return path_of(self.check)

    @property
    def expectations(self) -> Sequence[Expect]:
        """What is expected of the answer to each request."""
        return self.check.expectations

    @property
    def has_fp64(self) -> bool:
        """Whether it sends FP64, which Triton does not read exactly from JSON."""
        return any(tensor.datatype == "FP64" for request in self.requests for tensor in request.inputs.values())

    def promised(self, step: int) -> Promise:
        """What the configuration promises for a request."""
        return promise(self.config, self.requests[step])

    def judge(self, step: int, answers: Sequence[Answer]) -> Judged:
        """What is wrong with all that was answered to a request. Raises `NoAnswer` and what matchers raise."""
        expected, context_of = self.expectations[step], self._contexts(step)
        if self.check.mode == "stream":
            return judge_stream(answers, self.promised(step), expected, context_of)
        return _judge_one(answers[0], self.promised(step), expected, context_of)

    def _contexts(self, step: int) -> ContextOf:
        terms = self.subject.terms

        def context_of(output: str, response: Response) -> Context:
            made = Made(
                model=self.check.model,
                version=response.version,
                output=output,
                model_sha256=terms.digests.get(self.check.model, ""),
                request_sha256=self.digests[step],
            )
            return Context(
                base=terms.base,
                made=made,
                ask=lambda wanted: self._other(step, wanted, wanted.output or output),
                allow_stale=terms.allow_stale,
                recorder=terms.recorder,
            )

        return context_of

    def _other(self, step: int, wanted: SameAs, output: str) -> Tensor:
        """What another model answers to the same inputs. It is asked once, however often its answer is needed."""
        key = (step, wanted.model, wanted.version, output)
        if key not in self._others:
            self._others[key] = _ask_other(self.subject, self.requests[step], wanted, output)
        return self._others[key]


def make_case(subject: Subject, check: Check) -> Case:
    """A check, ready to be asked. Raises `NoAnswer` for a model that the server does not know, and as `make_tensor`."""
    config = _config(subject, path_of(check))
    requests: list[Request] = []
    told: dict[str, Any] = {}
    for request in _given(check):
        inputs = {name: make_tensor(spec, subject.base) for name, spec in request.inputs.items()}
        told |= {name: one for name, spec in request.inputs.items() if (one := drawn(spec, inputs[name]))}
        requests.append(
            Request(
                model=check.model,
                version=str(check.version or ""),
                inputs=inputs,
                outputs=request.outputs,
                parameters=dict(request.parameters),
                timeout=request.timeout,
            )
        )
    return Case(subject=subject, check=check, requests=requests, config=config, digests=_digests(requests), drawn=told)


def _given(check: Check) -> list[RequestSpec]:
    return [step.request for step in check.steps or ()] or ([check.request] if check.request else [])


def path_of(check: Check) -> str:
    """Where the model of a check is, over HTTP."""
    return model_path(check.model, str(check.version or ""))


def _digests(requests: Sequence[Request]) -> list[str]:
    try:
        return [request_sha256(*requests[: at + 1]) for at in range(len(requests))]
    except ValueError as error:
        raise CheckFailed(str(error), hint="dtype: FP64") from error


def _config(subject: Subject, path: str) -> Mapping[str, Any]:
    answer = subject.client.get(f"{path}/config")
    if answer.status != 200:
        raise NoAnswer(f"the server does not know this model: {answer.complaint()}", waited=False)
    config = answer.json()
    if not isinstance(config, dict):
        raise ValueError(f"a model configuration that is {config!r}")
    return config


def _judge_one(answer: Answer, promised: Promise, expected: Expect, context_of: ContextOf) -> Judged:
    wanted = expected.status.error if expected.status else None
    if isinstance(answer, Refused):
        return Judged(faults=judge_refusal(answer, wanted))
    if wanted is not None:
        return Judged(faults=[Fault(message=f"HTTP {wanted.code} is expected, it is 200")])
    return judge_response(answer, promised, expected.outputs, context_of)


def _ask_other(subject: Subject, request: Request, wanted: SameAs, output: str) -> Tensor:
    version = str(wanted.version or "")
    asked = replace(request, model=wanted.model, version=version, outputs=(output,), sequence=None)
    path, headers, body = http.encode(asked, binary=True)
    answer = read_http(subject.client.post(path, body, headers, timeout=asked.timeout))
    if isinstance(answer, Refused):
        raise CheckFailed(f"{wanted.model}, which must answer the same, refuses: {answer.message}")
    if output not in answer.outputs:
        raise CheckFailed(f"{wanted.model}, which must answer the same, gives no output {output}")
    return answer.outputs[output]
