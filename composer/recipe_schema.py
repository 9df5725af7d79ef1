"""What may stand in a recipe, as frozen classes. Their docstrings become the JSON Schema that editors complete from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PrivateAttr, Tag, model_validator

from composer.oci.image import Platform
from composer.oci.names import Reference
from composer.recipe_parts import Part, one_of
from composer.recipe_proof import Validate
from composer.recipe_values import (
    DebianPackage,
    EnvName,
    EnvText,
    FixedAddresses,
    Host,
    ImageName,
    IpAddress,
    LabelName,
    LocalPath,
    MirrorPlace,
    Mode,
    Name,
    NoProxy,
    PlatformName,
    Port,
    Positive,
    RegistryPlace,
    Release,
    Sha256,
    Size,
    Target,
    TensorFormat,
    Text,
    Url,
    User,
    Variant,
    distinct,
    refusal,
)
from composer.recipe_yaml import Document

# -- where the server comes from ------------------------------------------------------------------


class Upstream(Part):
    """The images to start from, where they are not NVIDIA's own. A plain string is short for `full:`."""

    full: ImageName
    """The full image, with every backend in it."""
    min: ImageName | None = None
    """The image that the full one was built from: layers that both begin with hold no backends, and are not read."""


# -- what goes in ---------------------------------------------------------------------------------


class CustomBackend(Part):
    """A backend that the upstream image does not have."""

    name: Name
    """What config.pbtxt calls it."""
    path: LocalPath | None = None
    """A folder with libtriton_NAME.so or model.py, and what it needs."""
    image: ImageName | None = None
    """An image that has it."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        one_of(self, "path", "image")
        return self


class Packages(Part):
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


class Profile(Part):
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


class Conversion(Part):
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


class ModelSource(Part):
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
        one_of(self, "path", "source", "convert")
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


class FileSource(Part):
    """A file or folder of yours to put into the image."""

    source: LocalPath
    """The file or folder."""
    target: Target
    """Its absolute path in the image."""
    mode: Mode | None = None
    """Permissions, octal and in quotes. Where none are given: 0755 for folders and programs, 0644 for other files."""


# -- how it runs ----------------------------------------------------------------------------------


class Ports(Part):
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


class Ulimit(Part):
    """A limit of the server's processes, as setrlimit has it. A plain number is short for both. -1: no limit."""

    soft: Annotated[int, Field(ge=-1)]
    """What is in force."""
    hard: Annotated[int, Field(ge=-1)]
    """What a process may raise it to."""


def _ulimit(value: object) -> object:
    return {"soft": value, "hard": value} if isinstance(value, int) and not isinstance(value, bool) else value


ULIMITS: Final = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"),
    *("rttime", "sigpending", "stack"),
)
"""The names that Docker has for limits."""


def _limit_name(value: str) -> str:
    if value not in ULIMITS:
        raise refusal(f'there is no limit "{value}"', f"one of: {', '.join(ULIMITS)}")
    return value


class Mount(Part):
    """A file or folder of this machine that the server sees."""

    source: LocalPath
    """The file or folder."""
    target: Target
    """Its absolute path in the container."""
    read_only: bool = True
    """Whether the server may only read it."""


class Run(Part):
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
    ulimits: Mapping[
        Annotated[Text, AfterValidator(_limit_name)],
        Annotated[Ulimit, BeforeValidator(_ulimit, json_schema_input_type=int | Ulimit)],
    ] = {}
    """Limits of its processes, as `docker run --ulimit` names them: `{memlock: -1, stack: 67108864}`."""
    env: Mapping[EnvName, EnvText] = {}
    """Environment variables of the container, besides those of the image."""
    mounts: Annotated[tuple[Mount, ...], distinct("target", lambda mount: mount.target, "target")] = ()
    """Files and folders of this machine that the server sees."""
    network: Text | None = None
    """The network, as `docker run --network` takes it: `host`, or the name of one that is there. By default Docker's
    own."""
    extra_hosts: Mapping[Text, Host] = {}
    """Host names that the container knows, with their addresses."""


# -- the network ----------------------------------------------------------------------------------


class Proxy(Part):
    """Proxies, as the environment variables of the same names."""

    http: Url | None = None
    """For http:// addresses."""
    https: Url | None = None
    """For https:// addresses."""
    no_proxy: tuple[NoProxy, ...] = ()
    """What is reached without one: hosts, domains, networks, each with `:port` where needed."""


class Credential(Part):
    """The names of the environment variables that hold a login. The secret itself never stands in a recipe."""

    username: EnvName | None = None
    """The variable that holds the user's name. Only nvcr.io needs none: there it is `$oauthtoken`."""
    password: EnvName
    """The variable that holds the password or token."""


class Network(Part):
    """How the outside is reached."""

    mirrors: Mapping[RegistryPlace, tuple[MirrorPlace, ...]] = {}
    """For a registry, or a path in one, what to ask before it, first to last: `host`, or `host/path`."""
    blocked: tuple[RegistryPlace, ...] = ()
    """Registries that are never asked themselves: only their mirrors are."""
    hosts: Mapping[Host, FixedAddresses] = {}
    """Fixed addresses of hosts, one or several, which are tried in order. TLS and `Host` keep the name."""
    dns: tuple[IpAddress, ...] = ()
    """Name servers to ask before the machine's own, first to last."""
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
    """Certificates to trust besides the system's, as a PEM file."""
    certs_d: LocalPath | None = None
    """A folder as Docker has it, `HOST[:PORT]/`: authorities (`*.crt`) and client certificates (`*.cert`, `*.key`)."""
    insecure: tuple[Host, ...] = ()
    """Registries, host:port, that may be spoken to without TLS or with a certificate that nobody knows."""
    credentials: Mapping[Host, Credential] = {}
    """For a registry, the variables that hold its login."""


# -- the Dockerfile -------------------------------------------------------------------------------


class DockerfileChoices(Part):
    """How `engine: dockerfile` builds."""

    source: Literal["upstream", "network"] = "upstream"
    """Where the packages beside the server come from: out of the full image, so that nothing but its registry is
    asked, or by apt and pip from the network, as NVIDIA's compose.py has it."""
    extras: Annotated[tuple[Literal["clang", "dcgm-cublas", "dev-packages"], ...], distinct("extra")] = ()
    """What compose.py brings and no server needs, to be brought all the same: `clang`, the second cuBLAS that DCGM's
    diagnostics use, the `-dev` packages in place of the libraries alone."""


def _steps_arm(value: object) -> str:
    return "fragment" if isinstance(value, str) else "commands"


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


class Recipe(Part):
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
    def path(self) -> Path | None:
        """The file that it was read from, if it was."""
        return self._origin.path if self._origin else None

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
