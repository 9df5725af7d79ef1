"""`validate:` as recipes write it: how an image is proved before it is delivered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from composer.recipe_checks import Check, Protocols
from composer.recipe_parts import Part
from composer.recipe_values import (
    Duration,
    EnvName,
    LabelName,
    Mode,
    Name,
    Port,
    Positive,
    Size,
    Target,
    Text,
    User,
    distinct,
    refusal,
)


class Startup(Part):
    """How long the server may take to be ready."""

    deadline: Duration = 300.0
    """Seconds until it is given up, written `300s`."""
    stall: Duration = 60.0
    """Seconds without a new log line or a new ready model until it is given up."""
    poll: Duration = 0.25
    """Seconds between two looks at it."""


Pattern = Annotated[Text, BeforeValidator(lambda value: _readable(value))]


def _readable(value: object) -> object:
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise refusal(f"this is not a regular expression: {error}", "CudaDriverHelper has not been") from error
    return value


class StrictLogs(Part):
    """Lines of the server's log that are failures."""

    fail_on: Annotated[tuple[Literal["W", "E", "F"], ...], Field(min_length=1), distinct("level")] = ("E", "F")
    """The levels whose lines are: W (warning), E (error), F (fatal)."""
    allow: tuple[Pattern, ...] = ()
    """Regular expressions: lines that one of them matches are not. What every server says that finds no GPU is let
    pass already, where there is none."""


# -- GPUs -----------------------------------------------------------------------------------------


def _dotted(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refusal(f"{value} is a number, and 7.10 would be 7.1", f'in quotes: "{value}"')
    if isinstance(value, str) and not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", value):
        raise refusal(f'"{value}" is not a version', '"7.5"')
    return value


DottedText = Annotated[str, BeforeValidator(_dotted)]


class Visible(Part):
    """The GPUs that the server must see."""

    count: Positive = 1
    """At least so many."""
    min_compute_capability: DottedText | None = None
    """Each of at least this compute capability, in quotes: `"7.5"`. By default what the release needs."""
    min_driver: DottedText | None = None
    """A driver of at least this version, in quotes: `"535"`. By default any that the server sees a GPU with."""


class GpuProof(Part):
    """What must be true of GPUs. A plain word is short for `mode:`."""

    mode: Literal["required", "auto", "off"] = "auto"
    """`auto`: what needs a GPU, and finds none, is reported as unverified, never as passed. `required`: it fails.
    `off`: it is not looked at."""
    visible: Visible = Visible()
    """The GPUs that the server must see."""
    used_by: tuple[Text, ...] | None = None
    """The models that must run on a GPU. By default those whose configuration has instances on GPUs."""


def _gpu(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


# -- what is expected -----------------------------------------------------------------------------

Kinds = Literal["KIND_GPU", "KIND_CPU", "KIND_MODEL"]


class ModelExpect(Part):
    """What is expected of a model that is served."""

    versions: Annotated[tuple[Positive, ...], distinct("version")] | None = None
    """The versions that are served, no more and no fewer."""
    state: Literal["READY", "UNAVAILABLE"] = "READY"
    """What the server's index says of it."""
    platform: Text | None = None
    """Its platform, as `ensemble`."""
    backend: Name | None = None
    """Its backend."""
    instances: Mapping[Kinds, Annotated[int, Field(ge=0)]] | None = None
    """How many instances of each kind it has; `KIND_GPU` counts those on all GPUs."""


class FileExpect(Part):
    """What is expected of a path in the image."""

    path: Target
    """The path. Links are followed."""
    mode: Mode | None = None
    """Its permissions, octal and in quotes."""
    user: User | None = None
    """Its owner: a name, or numbers."""
    contains: Pattern | None = None
    """A regular expression that its text must match somewhere."""
    absent: bool = False
    """Whether there must be nothing."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.absent and len(self.model_fields_set) > 2:
            raise refusal("nothing more can be said of what is not there", "keep path and absent", at=("absent",))
        return self


class ImageExpect(Part):
    """What is expected of the image itself."""

    user: User | None = None
    """The user that it starts as."""
    env: Mapping[EnvName, str] = {}
    """Environment variables, with their values."""
    labels: Mapping[LabelName, str] = {}
    """Labels, with their values."""
    ports: tuple[Port, ...] | None = None
    """The TCP ports that it exposes, no more and no fewer."""
    entrypoint: tuple[Text, ...] | None = None
    """The words of its entrypoint."""
    files: Annotated[tuple[FileExpect, ...], distinct("path", lambda file: file.path, "path")] = ()
    """Paths that must be there, or must not."""
    known_secrets: tuple[Target, ...] = ()
    """Files that look like secrets and are known to be none, such as keys for tests that a package brings."""
    max_size: Size | None = None
    """The most that its layers may come to, compressed, as registries and `tricompose inspect` count: `4GiB`."""


class Expected(Part):
    """What is expected beside answers."""

    models: Annotated[Mapping[Text, ModelExpect], Field(min_length=1)] | None = None
    """The models that are served, no more and no fewer. By default those of the image."""
    extensions: tuple[Text, ...] = ()
    """Extensions of the protocol that the server must have, as `/v2` lists them."""
    image: ImageExpect | None = None
    """What is expected of the image itself."""


# -- load -----------------------------------------------------------------------------------------


class Objective(Part):
    """What must hold under load."""

    p50: Duration | None = None
    """Half of the requests are answered within this time, written `10ms`."""
    p90: Duration | None = None
    """As p50, for nine in ten."""
    p95: Duration | None = None
    """As p50, for 19 in 20."""
    p99: Duration | None = None
    """As p50, for 99 in 100."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The part of the requests that may fail, 0 to 1."""
    min_throughput: Annotated[float, Field(gt=0)] | None = None
    """Requests per second that are answered well."""


class Batching(Part):
    """What dynamic batching must do under load."""

    min_avg_batch: Annotated[float, Field(gt=0)]
    """At least so many inferences in one execution, on average."""


class Load(Part):
    """Many requests at once."""

    id: Name
    """What reports call it."""
    check: Name
    """The check whose request is sent and whose answers are expected."""
    protocol: Literal["http", "grpc"] = "http"
    """The protocol."""
    encoding: Literal["json", "binary"] = "binary"
    """How tensors travel over HTTP."""
    concurrency: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """How many requests are under way at once; each number is a run of its own. By default 1."""
    rate: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] | None = None
    """How many requests are sent per second, whether answers come or not; each number is a run of its own. Latency
    counts from when a request was due."""
    warmup: Annotated[int, Field(ge=0)] = 10
    """Requests before each run that are not counted."""
    requests: Positive | None = None
    """How many requests each run sends. By default 100."""
    duration: Duration | None = None
    """How long each run lasts, in place of `requests`: `10s`."""
    verify_every: Positive = 10
    """Every so many answers one is checked as the check has it."""
    slo: Objective = Objective()
    """What must hold."""
    expect_batching: Batching | None = None
    """What dynamic batching must do."""

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.concurrency is not None and self.rate is not None:
            raise refusal("concurrency and rate exclude each other", "keep one of them", at=("rate",))
        if self.requests is not None and self.duration is not None:
            raise refusal("requests and duration exclude each other", "keep one of them", at=("duration",))
        return self


# -- the whole ------------------------------------------------------------------------------------


class Validate(Part):
    """How the image is proved before it is delivered."""

    gpu: Annotated[
        GpuProof, BeforeValidator(_gpu, json_schema_input_type=Literal["required", "auto", "off"] | GpuProof)
    ] = GpuProof()
    """`required`, `auto` or `off`; or more in detail."""
    startup: Startup = Startup()
    """How long the server may take to be ready."""
    protocols: Protocols = ("http", "grpc")
    """The protocols that checks ask over, where they say nothing else."""
    strict_logs: StrictLogs | None = None
    """Whether lines of the server's log are failures: `{}` for errors. By default none are."""
    expect: Expected = Expected()
    """What is expected beside answers."""
    checks: Annotated[tuple[Check, ...], distinct("check", lambda check: check.id, "id")] = ()
    """Inference requests with their answers."""
    load: Annotated[tuple[Load, ...], distinct("load", lambda load: load.id, "id")] = ()
    """Runs of many requests."""
    after: tuple[Name, ...] = ()
    """What to check once more at the end: `health`, `gpu`, or a check's id."""
