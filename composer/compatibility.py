"""Whether a backend of other origin can run in an image: judged by what its files need and what the image says.

What is certain is fatal; what only may be so, since not everything was read, is a warning. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from composer.elf import Binary
from composer.errors import Problem
from composer.oci.image import Image, Platform
from composer.oci.names import Reference
from composer.oci.tar import DIRECTORY
from composer.oci.tree import Tree

RELEASE: Final = "NVIDIA_TRITON_SERVER_VERSION"
"""The variable in which NVIDIA's images say of which release they are."""

UBUNTU: Final[Mapping[str, Mapping[str, tuple[int, ...]]]] = {
    "18.04": {"GLIBC": (2, 27), "GLIBCXX": (3, 4, 25)},
    "20.04": {"GLIBC": (2, 31), "GLIBCXX": (3, 4, 28)},
    "22.04": {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30)},
    "24.04": {"GLIBC": (2, 39), "GLIBCXX": (3, 4, 33)},
}
"""The newest symbols of libc6 and libstdc++6. From memory, after the releases of glibc and GCC that Ubuntu has."""

_LIBRARY: Final = {"GLIBC": "libc.so.6", "GLIBCXX": "libstdc++.so.6"}
_OLDEST: Final = UBUNTU["20.04"]
"""What all images of compose.py's time have at least."""

_NVIDIA: Final = {
    "libcudart": "CUDA_VERSION",
    "libcublas": "CUDA_VERSION",
    "libcublasLt": "CUDA_VERSION",
    "libcudnn": "CUDNN_VERSION",
    "libnccl": "NCCL_VERSION",
    "libnvinfer": "TRT_VERSION",
    "libnvinfer_plugin": "TRT_VERSION",
    "libnvonnxparser": "TRT_VERSION",
}
"""The libraries whose names end in the first number of what a variable of NVIDIA's images says."""

_EVERYWHERE: Final = re.compile(
    r"ld-linux.*|lib(c|m|dl|pthread|rt|resolv|util|anl|gcc_s|stdc\+\+)\.so\.\d+"  # the C and C++ libraries
    r"|lib(cuda|nvcuvid|nvidia-[\w-]+)\.so\.\d+"  # the driver brings these when a container starts
)
_MOST: Final = 8
"""So many names are told of a long list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a backend cannot run, if it is `fatal`, or why it may not."""

    problem: Problem
    fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What an image offers to a backend.

    `env` are its variables; `ubuntu` its release of Ubuntu, such as `22.04`, or None where that is not known;
    `certain` tells whether that is no guess. `libraries` are the names of all files that were seen in what is kept.
    """

    platform: Platform
    env: Mapping[str, str]
    ubuntu: str | None
    certain: bool
    libraries: Set[str]

    def offers(self, family: str) -> tuple[int, ...] | None:
        """The newest symbols of GLIBC or GLIBCXX that it has, if that is known."""
        return UBUNTU[self.ubuntu][family] if self.ubuntu else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A backend that is to run in an image: its place in the recipe, all its files by path, and what they need.

    Paths are within its folder. `binaries` has what is loaded dynamically of them.
    """

    name: str
    where: str
    files: Set[str]
    binaries: Mapping[str, Binary]

    @property
    def loaded(self) -> Mapping[str, Binary]:
        """The library that the server loads, and what it loads from beside it."""
        found: dict[str, Binary] = {}
        todo = [f"libtriton_{self.name}.so"]
        while todo:
            path = todo.pop()
            if path in self.binaries and path not in found:
                found[path] = self.binaries[path]
                todo += [other for other in self.binaries if _base(other) in found[path].needed]
        return found

    def misfit(self, message: str, hint: str, *, fatal: bool) -> Misfit:
        """Something about it that does not fit."""
        problem = Problem(where=self.where, message=f"the backend {self.name}: {message}", hint=hint)
        return Misfit(problem=problem, fatal=fatal)


def host(image: Image, tree: Tree, dropped: Iterable[str], release_ubuntu: str | None, *, official: bool) -> Host:
    """What an image offers. `tree` is what was read of it, without the `dropped` folders.

    `release_ubuntu` is what NVIDIA's own image of its release is made from. It counts where the image does not say
    it itself, and is certain if that image is NVIDIA's own, `official`.
    """
    said = _said_ubuntu(image)
    gone = tuple(f"{folder}/" for folder in dropped)
    names = {
        entry.name
        for entry in tree.walk("")
        if entry.kind != DIRECTORY and ".so" in entry.name and not entry.path.startswith(gone)
    }
    return Host(
        platform=image.platform,
        env=environment(image),
        ubuntu=said or (release_ubuntu if release_ubuntu in UBUNTU else None),
        certain=said is not None or (official and release_ubuntu in UBUNTU),
        libraries=names,
    )


def environment(image: Image) -> Mapping[str, str]:
    """The variables of an image."""
    lines: Sequence[str] = _settings(image).get("Env") or ()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _settings(image: Image) -> Mapping[str, Any]:
    return image.config.get("config") or {}


def _said_ubuntu(image: Image) -> str | None:
    """Ubuntu's own images are labelled, and what is built on them inherits it."""
    labels = _settings(image).get("Labels") or {}
    version = labels.get("org.opencontainers.image.version")
    return version if labels.get("org.opencontainers.image.ref.name") == "ubuntu" and version in UBUNTU else None


# -- images -------------------------------------------------------------------------------------------------------


def judge_release(name: str, where: str, source: Reference, donor: Image, host: Image) -> Iterator[Misfit]:
    """Whether two images are of one release, as far as both say so. `source` is the donor's name."""
    theirs, ours = environment(donor).get(RELEASE), environment(host).get(RELEASE)
    if not theirs or not ours or theirs == ours:
        return
    message = f"the backend {name} of {source} was built for Triton {theirs}, and the upstream is {ours}"
    tag = (source.tag or "").replace(theirs, ours)
    other = f"image: {source.at(tag)}" if tag and tag != source.tag else f"take it from an image of {ours}"
    problem = Problem(where=where, message=message, hint=f'{other}   (or: triton: "{theirs}")')
    yield Misfit(problem=problem, fatal=True)


def judge_packages(name: str, where: str, source: Reference, donor: Tree, upstream: Tree) -> Iterator[Misfit]:
    """Which Python packages a donor has that the upstream was not seen to have: a backend in Python may need them."""
    more = sorted(_packages(donor).items() - _packages(upstream).items())
    added = list(dict.fromkeys(package for package, _ in more))
    if not added:
        return
    message = (
        f"the backend {name} is taken from {source} without its Python packages, which lie elsewhere in that image: "
        f"{_listed(added)}"
    )
    hint = (
        f"if it imports one of them: packages: {{pip: [...]}}, or start from that image: upstream: {{full: {source}}}"
    )
    yield Misfit(problem=Problem(where=where, message=message, hint=hint), fatal=False)


def _packages(tree: Tree) -> Mapping[str, str]:
    """Top-level packages of Python with the folder they are in."""
    found: dict[str, str] = {}
    for entry in tree.walk(""):
        folder, _, name = entry.path.rpartition("/")
        if folder.endswith(("/dist-packages", "/site-packages")) and _is_package(name, entry.kind == DIRECTORY):
            found[name.removesuffix(".py")] = folder
    return found


def _is_package(name: str, folder: bool) -> bool:
    ours = not name.startswith("_") and not name.endswith((".dist-info", ".egg-info", ".libs", ".data"))
    return ours and "-" not in name and (folder or name.endswith(".py"))


# -- files --------------------------------------------------------------------------------------------------------


def judge_build(candidate: Candidate, host: Host) -> Iterator[Misfit]:
    """Whether a backend was built for such an image: told without looking at what files the image has."""
    yield from _machine(candidate, host)
    yield from _symbols(candidate, host)


def judge_libraries(candidate: Candidate, host: Host) -> Iterator[Misfit]:
    """Whether the image has the libraries that a backend needs."""
    yield from judge_versions(candidate, host)
    yield from _astray(candidate, host)
    yield from _missing(candidate, host)


def _machine(candidate: Candidate, host: Host) -> Iterator[Misfit]:
    loaded = candidate.loaded
    other = [path for path, one in candidate.binaries.items() if one.machine != host.platform.architecture]
    for path in sorted(other, key=lambda path: (path not in loaded, path))[:1]:
        machine = candidate.binaries[path].machine
        message = f"{path} is for {machine}, and the image for {host.platform.architecture}"
        yield candidate.misfit(message, f"platforms: [linux/{machine}]", fatal=path in loaded)


def _symbols(candidate: Candidate, host: Host) -> Iterator[Misfit]:
    """The C and C++ libraries: each of the two at most once, for the file that asks most."""
    loaded = candidate.loaded
    beside = {_base(path) for path in candidate.files}
    for family, library in _LIBRARY.items():
        path = max(
            loaded or candidate.binaries, key=lambda path: _asked(candidate.binaries[path], family), default=None
        )
        wanted = _asked(candidate.binaries[path], family) if path else ()
        offered = host.offers(family)
        if path is None or library in beside or wanted <= (offered or _OLDEST[family]):
            continue
        asks = f"{path} needs {library} with {family}_{_dotted(wanted)}"
        if offered is None:
            hint = "build it on the image's own Ubuntu, or see whether it starts: validate: {}"
            yield candidate.misfit(f"{asks}, and what the image has is not known", hint, fatal=False)
            continue
        says = "has" if host.certain else "is taken to have"
        message = f"{asks}; the image {says} Ubuntu {host.ubuntu}'s, which ends with {family}_{_dotted(offered)}"
        hint = f"build the backend on Ubuntu {host.ubuntu}, or take a release of Triton on a newer one"
        yield candidate.misfit(message, hint, fatal=host.certain and path in loaded)


def _asked(binary: Binary, family: str) -> tuple[int, ...]:
    return binary.versions.get(family, ())


def judge_versions(candidate: Candidate, host: Host) -> Iterator[Misfit]:
    """CUDA and what is numbered like it, as the image speaks of them; each of its variables once."""
    told: set[str] = set()
    for path, library in _wanted(candidate):
        variable, number = _numbered(library)
        has = host.env.get(variable, "")
        if not has or variable in told or has.partition(".")[0] == number or library in host.libraries:
            continue
        told.add(variable)
        product = variable.removesuffix("_VERSION").replace("TRT", "TensorRT")
        message = f"{path} needs {library}, and the image has {product} {has}"
        hint = f"build the backend with {product} {has.partition('.')[0]}, or put {library} beside it"
        yield candidate.misfit(message, hint, fatal=path in candidate.loaded)


def _astray(candidate: Candidate, host: Host) -> Iterator[Misfit]:
    """Libraries that lie beside the backend's own, where nothing leads."""
    folder = f"/opt/tritonserver/backends/{candidate.name}"
    main = candidate.binaries.get(f"libtriton_{candidate.name}.so")
    if main is None or folder in host.env.get("LD_LIBRARY_PATH", "").split(":"):
        return
    origins = [path.replace("${ORIGIN}", "$ORIGIN").rstrip("/") for path in main.search]
    led = any(path in ("$ORIGIN", "$ORIGIN/.", folder) for path in origins)
    beside = [name for name in main.needed if name in candidate.files and name not in host.libraries]
    if beside and not led:
        message = f"{_listed(beside)} lies beside libtriton_{candidate.name}.so, which does not look there"
        hint = f"patchelf --set-rpath '$ORIGIN' libtriton_{candidate.name}.so"
        yield candidate.misfit(message, hint, fatal=False)


def _missing(candidate: Candidate, host: Host) -> Iterator[Misfit]:
    """Libraries that were seen nowhere."""
    absent = dict.fromkeys(library for _, library in _wanted(candidate) if not _vouched(library, host))
    if absent:
        message = f"it needs {_listed(list(absent))}, not seen in it, nor in what was read of the image"
        hint = "put what is missing into its folder; or see whether it starts: validate: {}"
        yield candidate.misfit(message, hint, fatal=False)


def _vouched(library: str, host: Host) -> bool:
    """Whether the image has a library: it was seen there, or the image says so, or every image has it."""
    variable, _ = _numbered(library)
    return library in host.libraries or variable in host.env or _EVERYWHERE.fullmatch(library) is not None


def _wanted(candidate: Candidate) -> Iterator[tuple[str, str]]:
    """The libraries that are not beside the backend, with the file that needs each: first what is loaded."""
    beside = {_base(path) for path in candidate.files}
    loaded = candidate.loaded
    for path in sorted(candidate.binaries, key=lambda path: (path not in loaded, path)):
        yield from ((path, library) for library in candidate.binaries[path].needed if library not in beside)


def _numbered(library: str) -> tuple[str, str]:
    """The variable that tells the version of a library, and the version that is asked for; empty if there is none."""
    found = re.match(r"(lib\w+)\.so\.(\d+)", library)
    return (_NVIDIA[found[1]], found[2]) if found and found[1] in _NVIDIA else ("", "")


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
