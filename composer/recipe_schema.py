"""What may stand in a recipe, as frozen classes. Their docstrings become the JSON Schema that editors complete from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator

from composer.oci.image import Platform
from composer.oci.names import Reference
from composer.recipe_values import (
    Datatype,
    DebianPackage,
    Duration,
    EnvName,
    EnvText,
    Host,
    ImageName,
    LabelName,
    LocalPath,
    Mode,
    Name,
    PlatformName,
    Port,
    Positive,
    Release,
    Sha256,
    Shape,
    Single,
    Size,
    Target,
    TensorFormat,
    Text,
    Url,
    User,
    Values,
    Variant,
    distinct,
    fit,
    refusal,
)
from composer.recipe_yaml import Document


class _Part(BaseModel):
    """What all parts of a recipe have in common: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def _one_of(part: _Part, *names: str) -> None:
    """Refuse a part that gives none, or more than one, of the keys that say the same thing in different ways."""
    given = [name for name in names if getattr(part, name) is not None]
    if not given:
        raise refusal(f"one of {', '.join(names)} is missing", f"add {names[0]}: ...")
    if len(given) > 1:
        raise refusal(
            f"{given[0]} and {given[1]} exclude each other", f"keep one of {', '.join(names)}", at=(given[1],)
        )


# -- where the server comes from ------------------------------------------------------------------


class Upstream(_Part):
    """The images to start from, where they are not NVIDIA's own. A plain string is short for `full:`."""

    full: ImageName
    """The full image, with every backend in it."""
    min: ImageName | None = None
    """The image that the full one was built from: layers that both begin with hold no backends, and are not read."""


# -- what goes in ---------------------------------------------------------------------------------


class CustomBackend(_Part):
    """A backend that the upstream image does not have."""

    name: Name
    """What config.pbtxt calls it."""
    path: LocalPath | None = None
    """A folder with libtriton_NAME.so or model.py, and what it needs."""
    image: ImageName | None = None
    """An image that has it."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _one_of(self, "path", "image")
        return self


class Packages(_Part):
    """Packages to add."""

    pip: tuple[Text, ...] = ()
    """Python requirements, resolved for the image's own Python and platform."""
    apt: tuple[DebianPackage, ...] = ()
    """Ubuntu packages: `libgl1`, or `libgl1=1.6.0-1`. They are installed in a Docker build, with either engine."""


def _profile(value: object) -> object:
    """One shape is short for a range that holds no other."""
    if not isinstance(value, tuple):
        return value
    for index, one in enumerate(value):
        if not isinstance(one, int) or isinstance(one, bool) or one < 1:
            raise refusal(f"{one!r} is no dimension that a plan can be made for", "[1, 3, 224, 224]", at=(index,))
    return {"min": value, "opt": value, "max": value}


def _trtexec_value(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise refusal("no flag of trtexec is written with this", "true, a number, or a text")
    return value


class Profile(_Part):
    """The shapes of an input that the plan takes. A plain list is short for one shape and no other."""

    min: tuple[Positive, ...]
    """The smallest."""
    opt: tuple[Positive, ...]
    """The one that it is made fastest for."""
    max: tuple[Positive, ...]
    """The largest."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for smaller, larger in (("min", "opt"), ("opt", "max")):
            low, high = getattr(self, smaller), getattr(self, larger)
            if len(low) != len(high):
                raise refusal(f"{larger} has {len(high)} dimensions and {smaller} {len(low)}", at=(larger,))
            if any(one > other for one, other in zip(low, high, strict=True)):
                raise refusal(
                    f"{larger} is smaller than {smaller}", "min: [1, 3], opt: [8, 3], max: [32, 3]", at=(larger,)
                )
        return self


class Conversion(_Part):
    """How to make the model from another: an ONNX model into a TensorRT plan, on the GPU that it will be served on."""

    to: Literal["tensorrt"]
    """What to convert to."""
    from_: LocalPath = Field(alias="from")
    """The ONNX model to convert."""
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8", "best"] = "fp32"
    """The smallest type that the plan may compute in; int8 and fp8 allow fp16 too, `best` all types. From TensorRT 11
    on the types are those of the model: fp32."""
    shapes: Mapping[Text, Annotated[Profile, BeforeValidator(_profile)]] = {}
    """For every input whose shape is not fixed, the smallest, the usual and the largest, by the input's name."""
    input_formats: tuple[TensorFormat, ...] = ()
    """Type and layout of the inputs, as `fp16:chw`: one for all, or one for each in the model's order. From TensorRT 11
    on the layout alone: `chw`."""
    output_formats: tuple[TensorFormat, ...] = ()
    """Type and layout of the outputs, likewise."""
    workspace: Size | None = None
    """GPU memory that may be used while it serves and while it is made. By default all there is."""
    calibration: LocalPath | None = None
    """For int8: what calibration has written down of the model's ranges. Not needed where the model has Q/DQ nodes."""
    timing_cache: LocalPath | None = None
    """What was measured before: read if it is there, and written anew."""
    plugins: tuple[LocalPath, ...] = ()
    """Shared objects with operators of your own. The server needs them too."""
    version_compatible: bool = False
    """Whether newer releases of TensorRT may read the plan."""
    hardware_compatibility: Literal["ampere+", "same_compute_capability"] | None = None
    """On which other GPUs the plan may run. By default on GPUs like the one that it was made on."""
    flags: Mapping[Name, Annotated[Any, BeforeValidator(_trtexec_value)]] = {}
    """More of trtexec's flags, without the dashes: `builderOptimizationLevel: 5`."""
    image: ImageName | None = None
    """The image with trtexec, where it is not NVIDIA's own of the release: nvcr.io/nvidia/tensorrt:24.09-py3."""
    plan: LocalPath | None = None
    """Where the plan lies once it was made: `tricompose models convert`, run where the GPU is, writes it there. Without
    a GPU it is taken from there."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.calibration and self.precision not in ("int8", "best"):
            raise refusal("calibration is for int8", "precision: int8", at=("calibration",))
        return self


class ModelSource(_Part):
    """A model repository that is here, or one model that is fetched or converted."""

    path: LocalPath | None = None
    """A Triton model repository: every model in it is taken."""
    name: Name | None = None
    """What the fetched or converted model is called."""
    source: Text | None = None
    """Where to fetch the model file: a path, http(s)://, s3://, gs://, hf://, an OCI artifact, git-lfs."""
    sha256: Sha256 | None = None
    """What the fetched file must be."""
    config: Text | None = None
    """`auto` writes config.pbtxt from the model file; a path takes that one."""
    convert: Conversion | None = None
    """Make the model from another one."""
    ignore: Mapping[Text, Text] = {}
    """Rules of `tricompose models lint` to pass over, each with the reason: `{ONX003: "tested with 24.09"}`."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _one_of(self, "path", "source", "convert")
        beside = [key for key in ("name", "sha256", "config") if getattr(self, key) is not None]
        if self.path is not None and beside:
            raise refusal(
                f"{beside[0]} is for fetched and converted models",
                "remove it: path takes a whole repository",
                at=(beside[0],),
            )
        if self.path is None and self.name is None:
            raise refusal('a fetched or converted model lacks "name"', "add name: ...")
        return self


class FileSource(_Part):
    """A file or folder of yours to put into the image."""

    source: LocalPath
    """The file or folder."""
    target: Target
    """Its absolute path in the image."""
    mode: Mode | None = None
    """Permissions, octal and in quotes. Where none are given: 0755 for folders and programs, 0644 for other files."""


# -- how it runs ----------------------------------------------------------------------------------


class Ports(_Part):
    """The ports of this machine that reach the server."""

    http: Port = 8000
    """HTTP and REST."""
    grpc: Port = 8001
    """gRPC."""
    metrics: Port = 8002
    """Prometheus metrics."""

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.grpc == self.http or self.metrics in (self.http, self.grpc):
            clash = "grpc" if self.grpc == self.http else "metrics"
            raise refusal(
                f"port {getattr(self, clash)} is given twice", "each service needs a port of its own", at=(clash,)
            )
        return self


def _gpus_arm(value: object) -> str:
    return "list" if isinstance(value, tuple) else "count" if isinstance(value, int) else "word"


class Run(_Part):
    """How a container of this image is started."""

    gpus: Annotated[
        Annotated[Literal["auto", "all", "none"], Tag("word")]
        | Annotated[Positive, Tag("count")]
        | Annotated[tuple[Text, ...], Tag("list")],
        Discriminator(_gpus_arm),
    ] = "auto"
    """Which GPUs it is given: `auto` (all, where there are any), `all`, `none`, a number, or a list of IDs."""
    shm_size: Size = 1 << 30
    """Shared memory in bytes, or as Docker writes it: `1g`. The python backend moves tensors through it."""
    ports: Ports = Ports()
    """The ports of this machine that reach the server."""


# -- the network ----------------------------------------------------------------------------------


class Proxy(_Part):
    """Proxies, as the environment variables of the same names."""

    http: Url | None = None
    """For http:// addresses."""
    https: Url | None = None
    """For https:// addresses."""
    no_proxy: tuple[Host, ...] = ()
    """Hosts that are reached without one."""


class Credential(_Part):
    """The names of the environment variables that hold a login. The secret itself never stands in a recipe."""

    username: EnvName | None = None
    """The variable that holds the user's name."""
    password: EnvName
    """The variable that holds the password or token."""


class Network(_Part):
    """How the outside is reached."""

    mirrors: Mapping[Host, tuple[Text, ...]] = {}
    """For a registry, what to ask in its place, first to last."""
    hosts: Mapping[Host, Host] = {}
    """Fixed addresses of hosts."""
    dns: tuple[Host, ...] = ()
    """Name servers to ask in place of the machine's."""
    apt_mirror: Url | None = None
    """Where Ubuntu packages come from."""
    apt_key: LocalPath | None = None
    """The key that the Ubuntu mirror signs with, where it is not Ubuntu's own: a file, .asc or .gpg."""
    cuda_mirror: Url | None = None
    """Where NVIDIA's CUDA packages come from, in place of https://developer.download.nvidia.com/compute/cuda/repos."""
    pip_index: Url | None = None
    """Where Python packages come from."""
    proxy: Proxy = Proxy()
    """Proxies."""
    ca_bundle: LocalPath | None = None
    """Certificates to trust, as a PEM file."""
    insecure: tuple[Host, ...] = ()
    """Registries, host:port, that may be spoken to without TLS or with a certificate that nobody knows."""
    credentials: Mapping[Host, Credential] = {}
    """For a registry, the variables that hold its login."""


# -- the Dockerfile -------------------------------------------------------------------------------


class DockerfileChoices(_Part):
    """How `engine: dockerfile` builds."""

    source: Literal["upstream", "network"] = "upstream"
    """Where the packages beside the server come from: out of the full image, so that nothing but its registry is
    asked, or by apt and pip from the network, as NVIDIA's compose.py has it."""
    extras: Annotated[tuple[Literal["clang", "dcgm-cublas", "dev-packages"], ...], distinct("extra")] = ()
    """What compose.py brings and no server needs, to be brought all the same: `clang`, the second cuBLAS that DCGM's
    diagnostics use, the `-dev` packages in place of the libraries alone."""


def _steps_arm(value: object) -> str:
    return "fragment" if isinstance(value, str) else "commands"


# -- how it is proved -----------------------------------------------------------------------------


class Startup(_Part):
    """How long the server may take to be ready."""

    deadline: Duration = 300.0
    """Seconds until it is given up, written `300s`."""
    stall: Duration = 60.0
    """Seconds without a new log line or a new ready model until it is given up."""


class Random(_Part):
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


class TensorSpec(_Part):
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

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _one_of(self, "data", "fill", "random", "npy")
        missing = [name for name in ("dtype", "shape") if getattr(self, name) is None]
        if self.npy is None and missing:
            example = {"dtype": "dtype: FP32", "shape": "shape: [1, 4]"}[missing[0]]
            raise refusal(f'the tensor lacks "{missing[0]}"', f"add {example}")
        if self.random is not None and self.dtype == "BYTES":
            raise refusal("texts cannot be drawn", "data: [a, b]", at=("random",))
        if self.data is not None:
            fit(self.data, key="data", shape=self.shape, datatype=self.dtype)
        if self.fill is not None:
            fit(self.fill, key="fill", shape=None, datatype=self.dtype)
        return self


class Request(_Part):
    """What the server is asked."""

    inputs: Annotated[Mapping[Text, TensorSpec], Field(min_length=1)]
    """The input tensors by name."""
    timeout: Duration = 10.0
    """Seconds to wait for the answer, written `10s`."""


class AllClose(_Part):
    """Numbers that may differ by `atol + rtol * |expected|`, as NumPy's allclose has it."""

    values: Values | None = None
    """The values that are expected."""
    npy: LocalPath | None = None
    """Take them from a NumPy file."""
    rtol: Annotated[float, Field(ge=0)] | None = None
    """Relative tolerance. By default what the datatype allows: FP32 1e-5, FP16 1e-3, BF16 1e-2."""
    atol: Annotated[float, Field(ge=0)] | None = None
    """Absolute tolerance. By default what the datatype allows: FP32 1e-8, FP16 1e-5, BF16 1e-3."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _one_of(self, "values", "npy")
        if self.values is not None:
            fit(self.values, key="values", shape=None, datatype="FP64")
        return self


class ArgMax(_Part):
    """The position of the largest value along an axis."""

    axis: int = -1
    """The axis; -1 is the last."""
    equals: Values
    """The position, or positions: one for each row."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        fit(self.equals, key="equals", shape=None, datatype="UINT64")
        return self


class Sum(_Part):
    """What the values along an axis add up to."""

    axis: int = -1
    """The axis; -1 is the last."""
    value: float
    """Their sum."""
    atol: Annotated[float, Field(ge=0)] | None = None
    """How far from it the sum may be. By default what the datatype allows."""


class OutputExpect(_Part):
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
    sum: Sum | None = None
    """What it adds up to."""
    finite: bool | None = None
    """`true`: no value is infinite or not a number."""
    range: tuple[float, float] | None = None
    """The smallest and the largest value that are allowed: `[0, 1]`."""

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
        return self


class Refusal(_Part):
    """An answer that says no."""

    code: Annotated[int, Field(ge=400, le=599)]
    """The HTTP status."""
    match: str = ""
    """A regular expression that Triton's message must match somewhere. Without one, any message will do."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            re.compile(self.match)
        except re.error as error:
            raise refusal(f"this is not a regular expression: {error}", "unexpected shape", at=("match",)) from error
        return self


class Status(_Part):
    """How the request must end, where it is not to succeed."""

    error: Refusal
    """The request must be refused, in this way."""


class Expect(_Part):
    """What the answer must be."""

    status: Status | None = None
    """How the request must end, where it is not to succeed."""
    outputs: Mapping[Text, OutputExpect] = {}
    """What is expected of each output, by name."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.status and self.outputs:
            raise refusal("a request that is refused has no outputs", "keep status, or outputs", at=("outputs",))
        if not self.status and not self.outputs:
            raise refusal("nothing is expected of the answer", "outputs: {NAME: {equals: [...]}}")
        return self


class Check(_Part):
    """One inference request, and what its answer must be."""

    id: Name
    """What reports call this check."""
    model: Text
    """The model to ask."""
    version: Positive | None = None
    """Its version; the latest where none is given."""
    protocols: Annotated[tuple[Literal["http", "grpc"], ...], Field(min_length=1), distinct("protocol")] = ("http",)
    """The protocols to ask over. All must give the expected answer."""
    request: Request
    """What the server is asked."""
    expect: Expect
    """What the answer must be."""


class Objective(_Part):
    """What must hold under load."""

    p50: Duration | None = None
    """Half of the requests are answered within this time, written `10ms`."""
    p90: Duration | None = None
    """As p50, for nine in ten."""
    p95: Duration | None = None
    """As p50, for 19 in 20."""
    p99: Duration | None = None
    """As p50, for 99 in 100."""
    error_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """The part of the requests that may fail, 0 to 1."""
    min_throughput: Annotated[float, Field(gt=0)] | None = None
    """Requests per second."""


class Load(_Part):
    """Many requests at once."""

    id: Name
    """What reports call it."""
    check: Name
    """The check whose request is sent and whose answers are expected."""
    concurrency: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1,)
    """How many requests are under way at once; each number is a run of its own."""
    requests: Positive = 100
    """How many requests each run sends."""
    slo: Objective = Objective()
    """What must hold."""


class Validate(_Part):
    """How the image is proved before it is delivered."""

    gpu: Literal["required", "auto", "off"] = "auto"
    """`auto`: what needs a GPU, and finds none, is reported as unverified, never as passed. `required`: it fails."""
    startup: Startup = Startup()
    """How long the server may take to be ready."""
    checks: Annotated[tuple[Check, ...], distinct("check", lambda check: check.id, "id")] = ()
    """Inference requests with their answers."""
    load: Annotated[tuple[Load, ...], distinct("load", lambda load: load.id, "id")] = ()
    """Runs of many requests."""
    after: tuple[Name, ...] = ()
    """What to check once more at the end: `health`, `gpu`, or a check's id."""


# -- the whole ------------------------------------------------------------------------------------


def _version(value: object) -> object:
    if value != 1 or isinstance(value, bool):
        raise refusal(f"this tricompose reads version 1 of the format, not {value!r}", "version: 1")
    return value


def _upstream(value: object) -> object:
    return {"full": value} if isinstance(value, str) else value


def _backends_arm(value: object) -> str:
    return "auto" if value == "auto" else "list"


def _flag_value(value: object) -> object:
    """A scalar, a list of them, or a mapping of scalars or of one more mapping."""
    if value is None:
        raise refusal("the flag has no value", "give it one, or remove the line")
    inner = (*value.values(),) if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
    for item in inner:
        deeper = item.values() if isinstance(value, Mapping) and isinstance(item, Mapping) else (item,)
        if not all(isinstance(scalar, bool | int | float | str) for scalar in deeper):
            raise refusal(
                "no flag is written with this", "a text, a number, true, false, a list, or a mapping of settings"
            )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The file that a recipe was read from, and where everything stands in it."""

    path: Path
    document: Document


class Recipe(_Part):
    """A recipe for one slim Triton Inference Server image."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = 1
    """The version of this format."""
    name: Name = "tritonserver-slim"
    """What reports call the image."""
    triton: Release | None = None
    """The Triton release, in quotes: `"24.09"`. It says which upstream image is taken."""
    variant: Variant = "py3"
    """Which of the release's images: py3, vllm-python-py3, trtllm-python-py3, pyt-python-py3, igpu, ..."""
    upstream: Annotated[
        Upstream | None, BeforeValidator(_upstream, json_schema_input_type=Upstream | ImageName | None)
    ] = None
    """The image to start from, where it is not the release's own. A plain string is short for `full:`."""
    platforms: Annotated[tuple[PlatformName, ...], Field(min_length=1), distinct("platform")] = (
        Platform(os="linux", architecture="amd64"),
    )
    """What the image runs on. Several make an index of images."""

    backends: Annotated[
        Annotated[Literal["auto"], Tag("auto")]
        | Annotated[tuple[Name, ...], Field(min_length=1), distinct("backend"), Tag("list")],
        Discriminator(_backends_arm),
    ] = "auto"
    """The backends to keep, or `auto`: what the models need and nothing else."""
    repoagents: Annotated[tuple[Name, ...], distinct("repository agent")] = ()
    """The repository agents to keep."""
    caches: Annotated[tuple[Name, ...], distinct("cache")] = ()
    """The response caches to keep."""
    custom_backends: Annotated[tuple[CustomBackend, ...], distinct("backend", lambda one: one.name, "name")] = ()
    """Backends that the upstream image does not have."""
    packages: Packages = Packages()
    """Packages to add."""
    models: Annotated[
        tuple[ModelSource, ...],
        distinct("model", lambda model: model.name, "name"),
        distinct("repository", lambda model: model.path, "path"),
    ] = ()
    """Models to bake into the image, at /models."""
    files: Annotated[tuple[FileSource, ...], distinct("target", lambda file: file.target, "target")] = ()
    """Files of yours to put into the image."""

    server: Mapping[Text, Annotated[Any, BeforeValidator(_flag_value)]] = {}
    """tritonserver's own flags, without the dashes."""
    run: Run = Run()
    """How a container of this image is started."""
    env: Mapping[EnvName, EnvText] = {}
    """Environment variables of the image."""
    labels: Mapping[LabelName, str] = {}
    """Labels of the image."""
    user: User | None = None
    """The user that the server runs as. Where none is given, the upstream image's."""
    healthcheck: bool = False
    """Whether the image tells Docker how to ask the server for its health."""

    slim: Literal["backends", "safe", "closure"] = "backends"
    """How much is taken away: what belongs to other backends, what no server needs, or all but what is needed."""
    keep: tuple[Target, ...] = ()
    """Paths in the image that stay, whatever `slim` says."""
    drop: tuple[Target, ...] = ()
    """Paths in the image that go, whatever `slim` says."""
    max_layer_size: Size = 1 << 30
    """The largest layer to make, in bytes or as `2GiB`. Larger parts become several layers."""

    engine: Literal["direct", "dockerfile"] = "direct"
    """`direct` needs no daemon and no root; `dockerfile` builds as NVIDIA's compose.py does, through Docker."""
    dockerfile: DockerfileChoices = DockerfileChoices()
    """How `engine: dockerfile` builds."""
    steps: Annotated[
        Annotated[tuple[Text, ...], Tag("commands")] | Annotated[Text, Tag("fragment")], Discriminator(_steps_arm)
    ] = ()
    """Shell commands that are run in the image, each a `RUN`; or the text of a Dockerfile fragment. They are run in a
    Docker build, with either engine, when packages and files are in place."""
    network: Network = Network()
    """How the outside is reached."""
    validation: Validate | None = Field(None, alias="validate")
    """How the image is proved before it is delivered."""
    outputs: Annotated[tuple[ImageName, ...], distinct("output")] = ()
    """Where the image goes, in any transport."""

    _origin: Origin | None = PrivateAttr(None)

    @property
    def base(self) -> Path:
        """The folder that relative paths start from: the one that the recipe lies in."""
        return self._origin.path.parent if self._origin else Path()

    def where(self, *path: str | int, key: bool = False) -> str:
        """`file:line:column` of what a path of keys and positions leads to, or of what is around it."""
        if self._origin is None:
            return "recipe"
        line, column = self._origin.document.place(path, key=key)
        return f"{self._origin.path}:{line}:{column}"

    def place(self, reference: Reference) -> Reference:
        """The reference with a relative path made to start from `base`. Registries and daemons are as they are."""
        if reference.transport in ("docker", "docker-daemon"):
            return reference
        return replace(reference, place=os.path.normpath(self.base / reference.place))
