"""Inference checks as recipes write them: what is asked, and what the answers must be."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from composer.recipe_parts import Part, one_of
from composer.recipe_values import (
    Datatype,
    Duration,
    LocalPath,
    Name,
    Positive,
    Shape,
    Single,
    Text,
    Values,
    distinct,
    fit,
    refusal,
    shape_of,
)

Protocols = Annotated[tuple[Literal["http", "grpc"], ...], Field(min_length=1), distinct("protocol")]
NotNegative = Annotated[float, Field(ge=0)]

VALUE_MATCHERS: Final = (*("equals", "allclose", "argmax", "topk", "sum", "range", "match", "golden", "same_as"),)
"""The matchers that say what values are. That they are finite does not."""


def _short_for(key: str) -> BeforeValidator:
    """A plain value is short for a mapping with that one key."""
    return BeforeValidator(lambda value: value if isinstance(value, Mapping | Part) else {key: value})


# -- what is sent ---------------------------------------------------------------------------------


class Random(Part):
    """Values drawn from a named generator (NumPy's PCG64)."""

    seed: Annotated[int, Field(ge=0)]
    """The generator's seed."""
    low: float | None = None
    """The smallest value."""
    high: float | None = None
    """What all values are less than."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise refusal("no value is in this range", "low: 0, high: 1", at=("high",))
        return self


SOURCES: Final = ("data", "fill", "random", "npy", "file", "b64", "json")
"""Where an input's values can come from, by their keys."""


class TensorSpec(Part):
    """An input tensor."""

    dtype: Datatype | None = None
    """The datatype as the v2 protocol writes it. Needed, except with `npy`, which knows its own."""
    shape: Shape | None = None
    """The shape, with the batch dimension where the model has one. Needed, except with `npy`."""
    data: Values | None = None
    """The values, flat or nested as the shape."""
    fill: Single | None = None
    """One value for all places."""
    random: Random | None = None
    """Draw the values."""
    npy: LocalPath | None = None
    """Take datatype, shape and values from a NumPy file."""
    file: LocalPath | None = None
    """Take the values from a file of raw bytes: little-endian, the last dimension running fastest."""
    b64: Text | None = None
    """The same bytes in base64."""
    json_: LocalPath | None = Field(None, alias="json")
    """Take the values from a JSON file, flat or nested as the shape."""
    pointer: str | None = None
    """Where in the JSON file they stand, as RFC 6901 writes it: `/0/x`. By default the whole file."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        one_of(self, *("json_" if name == "json" else name for name in SOURCES))
        missing = [name for name in ("dtype", "shape") if getattr(self, name) is None]
        if self.npy is None and missing:
            example = {"dtype": "dtype: FP32", "shape": "shape: [1, 4]"}[missing[0]]
            raise refusal(f'the tensor lacks "{missing[0]}"', f"add {example}")
        return self

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.random is not None and self.dtype == "BYTES":
            raise refusal("texts cannot be drawn", "data: [a, b]", at=("random",))
        if self.data is not None:
            fit(self.data, key="data", shape=self.shape, datatype=self.dtype)
        if self.fill is not None:
            fit(self.fill, key="fill", shape=None, datatype=self.dtype)
        if self.b64 is not None:
            _refuse_no_base64(self.b64)
        if self.pointer is not None and (self.json_ is None or not re.fullmatch(r"(/([^~]|~[01])*)?", self.pointer)):
            raise refusal("this leads nowhere in a JSON file", "json: data.json, pointer: /0/x", at=("pointer",))
        return self


def _refuse_no_base64(text: str) -> None:
    try:
        b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refusal(f"this is not base64: {error}", "base64 -w0 FILE", at=("b64",)) from error


class Request(Part):
    """What the server is asked."""

    inputs: Annotated[Mapping[Text, TensorSpec], Field(min_length=1)]
    """The input tensors by name."""
    outputs: tuple[Text, ...] = ()
    """The outputs to ask for. By default all that the model's configuration has."""
    parameters: Mapping[Text, bool | int | float | str] = {}
    """Parameters of the request, as the model may want them."""
    timeout: Duration = 10.0
    """Seconds to wait for the answer, written `10s`."""


# -- what answers must be -------------------------------------------------------------------------


class AllClose(Part):
    """Numbers that may differ by `atol + rtol * |expected|`, as NumPy's allclose has it."""

    values: Values | None = None
    """The values that are expected."""
    npy: LocalPath | None = None
    """Take them from a NumPy file."""
    rtol: NotNegative | None = None
    """Relative tolerance. By default what the datatype allows: FP32 1e-5, FP16 1e-3, BF16 1e-2."""
    atol: NotNegative | None = None
    """Absolute tolerance. By default what the datatype allows: FP32 1e-8, FP16 1e-5, BF16 1e-3."""
    stat: Literal["elemwise", "max", "mean", "median"] = "elemwise"
    """What must be within the tolerances: every value, or the largest, mean or median error of all, absolute or
    relative."""
    max_mismatch: Annotated[int, Field(ge=0)] = 0
    """How many values may be outside, with `stat: elemwise`."""
    nan_equal: bool = False
    """Whether NaN equals NaN."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        one_of(self, "values", "npy")
        if self.values is not None:
            fit(self.values, key="values", shape=None, datatype="FP64")
        if self.max_mismatch and self.stat != "elemwise":
            raise refusal("max_mismatch counts single values", "stat: elemwise", at=("max_mismatch",))
        return self


class ArgMax(Part):
    """The position of the largest value along an axis."""

    axis: int = -1
    """The axis; -1 is the last."""
    equals: Values
    """The position, or positions: one for each row."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        fit(self.equals, key="equals", shape=None, datatype="UINT64")
        return self


class TopK(Part):
    """The positions of the largest values along an axis."""

    k: Positive
    """How many."""
    axis: int = -1
    """The axis; -1 is the last."""
    equals: Values
    """The k positions, or a list of k for each row."""
    order: bool = True
    """Whether they must come in this order, the largest first."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        fit(self.equals, key="equals", shape=None, datatype="UINT64")
        if shape_of(self.equals)[-1:] != (self.k,):
            raise refusal(f"k is {self.k}, and equals has other than {self.k} positions", at=("equals",))
        return self


class Sum(Part):
    """What the values along an axis add up to."""

    axis: int = -1
    """The axis; -1 is the last."""
    value: float
    """Their sum."""
    atol: NotNegative | None = None
    """How far from it the sum may be. By default what the datatype allows."""


class Golden(Part):
    """Values that `tricompose validate --record` wrote down. A plain path is short for `file:`."""

    file: LocalPath
    """The NumPy file with them. What they were recorded of stands beside it, in a file with `.json` added."""
    rtol: NotNegative | None = None
    """Relative tolerance, as of `allclose`."""
    atol: NotNegative | None = None
    """Absolute tolerance, as of `allclose`."""

    @model_validator(mode="after")
    def _numpy(self) -> Self:
        if PurePath(self.file).suffix != ".npy":
            raise refusal(f"goldens are NumPy files, {self.file} is not called so", "golden.npy", at=("file",))
        return self


class SameAs(Part):
    """Another model that must give the same answer to the same inputs. A plain name is short for `model:`."""

    model: Text
    """The other model."""
    version: Positive | None = None
    """Its version; the latest where none is given."""
    output: Text | None = None
    """Its output. By default the one of the same name."""
    rtol: NotNegative | None = None
    """Relative tolerance, as of `allclose`."""
    atol: NotNegative | None = None
    """Absolute tolerance, as of `allclose`."""


def _regular(pattern: str, key: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise refusal(f"this is not a regular expression: {error}", "unexpected shape", at=(key,)) from error


class OutputExpect(Part):
    """What is expected of one output tensor. Everything that is given must hold."""

    dtype: Datatype | None = None
    """Its datatype."""
    shape: Shape | None = None
    """Its shape."""
    equals: Values | None = None
    """Its values, exactly."""
    allclose: AllClose | None = None
    """Its values, nearly."""
    argmax: ArgMax | None = None
    """Where it is largest."""
    topk: TopK | None = None
    """Where its largest values are."""
    sum: Sum | None = None
    """What it adds up to."""
    finite: bool | None = None
    """`true`: no value is infinite or not a number."""
    range: tuple[float, float] | None = None
    """The smallest and the largest value that are allowed: `[0, 1]`."""
    match: str | None = None
    """A regular expression that every text must match somewhere."""
    golden: Annotated[Golden, _short_for("file")] | None = None
    """Its values, as they were recorded."""
    same_as: Annotated[SameAs, _short_for("model")] | None = None
    """The answer of another model to the same inputs."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.model_fields_set:
            raise refusal(
                "nothing is expected of this output", "equals: [...], allclose: {values: [...]}, finite: true, ..."
            )
        if self.range is not None and not self.range[0] <= self.range[1]:
            raise refusal("no value is in this range", "the smaller one first: range: [0, 1]", at=("range",))
        if self.equals is not None:
            fit(self.equals, key="equals", shape=self.shape, datatype=self.dtype)
        if self.match is not None:
            _regular(self.match, "match")
        return self

    @property
    def asserts_values(self) -> bool:
        """Whether anything is said of what the values are."""
        return any(getattr(self, name) is not None for name in VALUE_MATCHERS)


class Refusal(Part):
    """An answer that says no."""

    code: Annotated[int, Field(ge=400, le=599)]
    """The HTTP status; gRPC's are taken for the HTTP status that means the same."""
    match: str = ""
    """A regular expression that Triton's message must match somewhere. Without one, any message will do."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        _regular(self.match, "match")
        return self


class Status(Part):
    """How the request must end, where it is not to succeed."""

    error: Refusal
    """The request must be refused, in this way."""


class Latency(Part):
    """How long an answer may take."""

    budget: Duration
    """Seconds, written `50ms`. The first request of a check warms up and is not counted."""


class Responses(Part):
    """What is expected of a stream as a whole."""

    min: Annotated[int, Field(ge=0)] | None = None
    """At least so many responses with outputs."""
    max: Annotated[int, Field(ge=0)] | None = None
    """At most so many."""
    final_flag: bool | None = None
    """Whether the stream must end with a response that says it is the last (`triton_final_response`)."""
    outputs: tuple[Mapping[Text, OutputExpect], ...] = ()
    """What is expected of each response in turn: outputs by name. There must be as many."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise refusal("no stream has so many responses", "the smaller one first: min: 1, max: 8", at=("max",))
        return self


def _well(value: object) -> object:
    return None if value == "ok" else value


class Expect(Part):
    """What the answer must be."""

    status: Annotated[Status | None, BeforeValidator(_well, json_schema_input_type=Literal["ok"] | Status)] = None
    """`ok`, or how the request must end, where it is not to succeed."""
    outputs: Mapping[Text, OutputExpect] = {}
    """What is expected of each output, by name; of a stream, in every response."""
    responses: Responses | None = None
    """What is expected of a stream as a whole."""
    latency: Latency | None = None
    """How long the answer may take."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.status and (self.outputs or self.responses):
            beside = "outputs" if self.outputs else "responses"
            raise refusal("a request that is refused has no outputs", "keep status, or outputs", at=(beside,))
        if "status" not in self.model_fields_set and not (self.outputs or self.responses or self.latency):
            raise refusal("nothing is expected of the answer", "outputs: {NAME: {equals: [...]}}")
        return self

    @property
    def all_outputs(self) -> Sequence[OutputExpect]:
        """Everything that is expected of outputs, also of single responses of a stream."""
        singly = self.responses.outputs if self.responses else ()
        return [*self.outputs.values(), *(one for each in singly for one in each.values())]


# -- a check --------------------------------------------------------------------------------------


class Retry(Part):
    """How often a check that failed is tried again."""

    count: Annotated[int, Field(ge=0)] = 0
    """How many times more."""
    delay: Duration = 1.0
    """Seconds between two tries, written `1s`."""


class SequenceSpec(Part):
    """Requests that belong together, for models with sequence batching."""

    id: Positive | Text | None = None
    """The sequence's ID: a number, or a text where the model takes one. By default a number that nobody else has."""


class Step(Part):
    """One request of a sequence."""

    request: Request
    """What the server is asked."""
    start: bool = False
    """Whether the sequence begins with it. The first step always does."""
    end: bool = False
    """Whether the sequence ends with it. The last step always does."""
    expect: Expect
    """What the answer must be."""


class Check(Part):
    """One inference request, and what its answer must be; or the requests of a sequence."""

    id: Name
    """What reports call this check."""
    model: Text
    """The model to ask."""
    version: Positive | None = None
    """Its version; the latest where none is given."""
    protocols: Protocols | None = None
    """The protocols to ask over. All must give the expected answer, and the same. By default `validate.protocols`."""
    encoding: Annotated[tuple[Literal["json", "binary"], ...], Field(min_length=1), distinct("encoding")] = (
        "json",
        "binary",
    )
    """How tensors travel over HTTP: as JSON, as bytes, or both, one after the other."""
    mode: Literal["unary", "stream"] = "unary"
    """`stream`: over a gRPC stream, for decoupled models, which give any number of responses to a request."""
    request: Request | None = None
    """What the server is asked."""
    expect: Expect | None = None
    """What the answer must be."""
    sequence: SequenceSpec | None = None
    """For a model with sequence batching."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1)] | None = None
    """The requests of a sequence, one after another, in place of `request` and `expect`."""
    repeat: Positive = 1
    """How many times it is asked. Each answer must be as expected."""
    stable: bool = False
    """Whether all answers must be the same, bit by bit."""
    retry: Retry = Retry()
    """How often it is tried again if it fails."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        one_of(self, "request", "steps")
        if self.request is not None and self.expect is None:
            raise refusal("nothing is expected of the answer", "expect: {outputs: {NAME: {equals: [...]}}}")
        if self.steps is not None and self.expect is not None:
            raise refusal("each step has an expect of its own", "move it into the steps", at=("expect",))
        if self.stable and self.repeat < 2:
            raise refusal("one answer is always the same as itself", "repeat: 3", at=("stable",))
        return self

    @model_validator(mode="after")
    def _streamed(self) -> Self:
        if self.mode == "stream" and self.protocols and "http" in self.protocols:
            raise refusal("there are no streams over HTTP", "protocols: [grpc]", at=("protocols",))
        if self.mode == "unary" and any(expect.responses for expect in self.expectations):
            raise refusal("only a stream has many responses", "mode: stream", at=("expect", "responses"))
        return self

    @property
    def expectations(self) -> Sequence[Expect]:
        """What is expected of its answers, one after another."""
        return [step.expect for step in self.steps] if self.steps else [self.expect] if self.expect else []
