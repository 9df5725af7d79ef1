"""What the Dockerfile of a release needs: its settings, packages and users, as compose.py of that release has them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from composer.releases.book import Entry, entries, needs

REPOSITORIES: Final = "https://developer.download.nvidia.com/compute/cuda/repos"
"""Where NVIDIA's packages for Ubuntu lie."""

EXTRAS: Final = ("clang", "dcgm-cublas", "dev-packages")
"""What compose.py brings and no server needs."""

_MACHINES: Final = {"amd64": ("x86_64", "x86_64-linux-gnu"), "arm64": ("sbsa", "aarch64-linux-gnu")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """An environment variable. With `prepend` the value stands before what the base has: `ENV X=value:${X}`."""

    name: str
    value: str
    prepend: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Apt:
    """Packages of Ubuntu that are installed together, with what they recommend or without, and because of what."""

    because: str
    packages: tuple[str, ...]
    recommends: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pip:
    """Python packages that are installed together, and because of what."""

    because: str
    requirements: tuple[str, ...]
    upgrade: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dcgm:
    """What comes out of NVIDIA's repository: DCGM, and in a few releases a library of CUDA besides.

    `repository` is the address of a folder without a slash at its end; `keyring` a Debian package in it that adds
    the repository and its key, `key` the key alone.
    """

    version: str | None
    packages: tuple[str, ...]
    repository: str
    keyring: str | None
    key: str | None
    recommends: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a Dockerfile does besides copying backends, repository agents and caches.

    `environment` lacks NVIDIA_BUILD_ID, and `labels` com.nvidia.build.id and .ref: only the image knows them. The
    label of SageMaker and /usr/bin/serve belong together. `linker_paths` are files under /etc/ld.so.conf.d, each with
    its line. `core` is what is copied from /opt/tritonserver; `owner` who it and the parts then belong to, None for
    who they belong to in the full image. `entrypoint` is None where the base has it already. `unneeded` are patterns of
    Debian packages, and `unneeded_files` of files, that the full image has for an extra that is not wanted.
    """

    environment: tuple[Variable, ...]
    labels: Mapping[str, str]
    user: str
    removed_users: tuple[str, ...]
    apt: tuple[Apt, ...]
    pip: tuple[Pip, ...]
    dcgm: Dcgm | None
    cuda_compat: bool
    linker_paths: tuple[tuple[str, str], ...]
    core: tuple[str, ...]
    owner: str | None
    entrypoint: tuple[str, ...] | None
    unneeded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unneeded_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A release, and what it is asked for."""

    name: str
    entry: Entry
    backends: Collection[str]
    gpu: bool
    architecture: str
    extras: Collection[str]

    def groups(self, key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The lists of a key that apply, each with the part that it is for; those under a condition come last."""
        for group, names in sorted(self.entry.under(key).items(), key=lambda one: " " in one[0]):
            part, _, condition = group.partition(" ")
            wanted = part == "server" or part in self.backends
            if names and wanted and condition in ("", "gpu" if self.gpu else "cpu", self.architecture):
                yield part, tuple(self.filled(name) for name in names)

    def filled(self, text: str) -> str:
        """A text of the table with its gaps filled in; `${...}` stays as it is."""
        machine, multiarch = _MACHINES[self.architecture]
        known = {
            "{release}": self.name,
            "{triton}": self.entry.text("triton") or "",
            "{dcgm}": self.entry.text("dcgm") or "",
            "{gpu}": str(int(self.gpu)),
            "{machine}": machine,
            "{multiarch}": multiarch,
        }
        for gap, value in known.items():
            text = text.replace(gap, value)
        return text


def requirements_of(
    name: str, *, backends: Collection[str], gpu: bool, architecture: str, extras: Collection[str]
) -> Requirements:
    """What the Dockerfile of a release that compose.py knows needs: see `composer.releases.requirements`."""
    entry = entries()[name]
    asked = _Asked(
        name=name, entry=entry, backends=backends, gpu=gpu, architecture=architecture, extras=frozenset(extras)
    )
    environment = tuple(_environment(asked))
    return Requirements(
        environment=environment,
        labels=dict(_pair(asked.filled(text), "=") for text in entry.lists["labels"]),
        user=next(one.value for one in environment if one.name == "TRITON_SERVER_USER"),
        removed_users=entry.lists["removed_users"],
        apt=tuple(_apt(asked)),
        pip=tuple(_pip(asked)),
        dcgm=_dcgm(asked) if gpu else None,
        cuda_compat=gpu and bool(entry.values.get("cuda_compat")),
        linker_paths=tuple(_pair(text, ": ") for _, texts in asked.groups("linker") for text in texts),
        core=entry.lists["core"],
        owner=entry.text("owner") or None,
        entrypoint=_entrypoint(asked),
        unneeded=_unwanted(asked, "unneeded"),
        unneeded_files=_unwanted(asked, "unneeded_files"),
    )


def _pair(text: str, by: str) -> tuple[str, str]:
    first, _, second = text.partition(by)
    return first, second


def _environment(asked: _Asked) -> Iterator[Variable]:
    """The variables in compose.py's order. Where several parts prepend to one, it is given once, the last in front."""
    order = list(needs()["environment"])
    found: dict[str, list[str]] = {}
    for name, value in (_pair(text, "=") for _, group in asked.groups("env") for text in group):
        found.setdefault(name, []).insert(0, value)
    for name in sorted(found, key=order.index):
        own = [value.removesuffix(f":${{{name}}}") for value in dict.fromkeys(found[name])]
        yield Variable(name=name, value=":".join(own), prepend=own[0] != found[name][0])


def _apt(asked: _Asked) -> Iterator[Apt]:
    seen: set[str] = set()
    for part, names in asked.groups("apt"):
        packages = tuple(one for one in _slimmed(asked, names) if one not in seen)
        seen.update(packages)
        if packages:
            yield Apt(because=_because(part), packages=packages, recommends=False)


def _pip(asked: _Asked) -> Iterator[Pip]:
    for part, names in asked.groups("pip"):
        rest = tuple(one for one in _slimmed(asked, names) if one != "pip")
        if "pip" in names:
            yield Pip(because="pip itself, as Ubuntu's is old", requirements=("pip",), upgrade=True)
        if rest:
            yield Pip(because=_because(part), requirements=rest, upgrade=True)


def _because(part: str) -> str:
    return "the server" if part == "server" else f"the {part} backend"


def _slimmed(asked: _Asked, names: tuple[str, ...]) -> tuple[str, ...]:
    """Packages without the tools of extras that are not wanted, and with libraries in place of -dev packages."""
    left_out = {name for extra, tools in needs()["tools"].items() if extra not in asked.extras for name in tools}
    instead = {} if "dev-packages" in asked.extras else needs()["runtime"][asked.entry.text("ubuntu")]
    return tuple(instead.get(name, name) for name in names if name not in left_out)


def _dcgm(asked: _Asked) -> Dcgm:
    version, ubuntu = asked.entry.text("dcgm"), (asked.entry.text("ubuntu") or "").replace(".", "")
    ours = _slimmed(asked, asked.entry.lists["dcgm_packages"])
    more = tuple(name for _, names in asked.groups("apt_nvidia") for name in names)
    return Dcgm(
        version=version,
        packages=(*(f"{name}=1:{version}" for name in ours), *more),
        repository=f"{REPOSITORIES}/ubuntu{ubuntu}/{_MACHINES[asked.architecture][0]}",
        keyring=asked.entry.text("dcgm_keyring"),
        key=asked.entry.text("dcgm_key"),
        recommends=bool(asked.entry.values.get("dcgm_recommends")) and "dcgm-cublas" in asked.extras,
    )


def _entrypoint(asked: _Asked) -> tuple[str, ...] | None:
    """Until 22.02 the image's own; after that the base has it, unless it is Ubuntu's."""
    own = asked.entry.lists["entrypoint"]
    return own or (None if asked.gpu else ("/opt/nvidia/nvidia_entrypoint.sh",))


def _unwanted(asked: _Asked, key: str) -> dict[str, tuple[str, ...]]:
    return {extra: tuple(globs) for extra, globs in needs()[key].items() if extra not in asked.extras}
