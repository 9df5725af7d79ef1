"""Whether everything that a server loads finds what it needs in the image: libraries, and versions of their symbols.

What is loaded for certain is judged strictly, by the loader's own rules: the server, each backend's library and what
these load, the Python backend's stub. What else lies beside them may be opened by name, or never; of it only what the
image has nowhere is told. The driver's libraries come from the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from composer.checks.image.loader import (
    CACHE,
    HOST,
    Files,
    Lack,
    Process,
    cached_libraries,
    configured_folders,
    default_folders,
    find,
)
from composer.checks.image.problem import Problem, result
from composer.checks.image.subject import Still, listed, shown
from composer.checks.report import Result
from composer.diagnosis.packages import component_with, package_with
from composer.elf import Binary
from composer.inventory import HOME, component_of
from composer.oci.tree import join

SERVER: Final = f"{HOME}/bin/tritonserver"
STUB: Final = f"{HOME}/backends/python/triton_python_backend_stub"
_CORE: Final = "libtritonserver"
_BY_NAME: Final = {"libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"}
"""What ONNX Runtime opens by name for a GPU. Where it cannot load one, it runs on the CPU."""

_PREFIX: Final = {"backends": "libtriton_", "repoagents": "libtritonrepoagent_", "caches": "libtritoncache_"}
_LIBRARY: Final = re.compile(r".*\.so(?:\.[0-9.]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Want:
    """What is lacking, of whom, and whether that is loaded for certain."""

    lack: Lack
    certain: bool


def libraries(still: Still) -> Result:
    """Every program and library of the server, its backends, repository agents and caches."""
    if fault := _no_server(still):
        return result("libraries", "", [Problem(message=f"there is no server: {shown(SERVER)} {fault}")])
    files = files_of(still)
    house = sorted(_house(still))
    server = _process(still, files)
    server.load(SERVER)
    broken = [path for path in house if still.broken(path)]
    wants = [*_wants_of(server, certain=True)]
    stub = _process(still, files)
    if still.binary(STUB):
        stub.load(STUB)
        wants += _wants_of(stub, certain=True)
    late = [*server.late, *stub.late]
    seen = {*server.loaded.values(), *stub.loaded.values()}
    for parts in _components(still, house):
        process, loaded = _load_part(parts, server)
        seen |= loaded
        late += process.late
        wants += _wants_of(process, certain=True)
    rest = [path for path in house if path not in seen and still.binary(path)]
    wants += _of_the_rest(still, files, rest, server, stub)
    problems = [*_broken(broken), *_problems(still, wants), *_late(still, late)]
    good = f"{len(house)} files of the server find every library that they need"
    return result("libraries", good, problems, files=len(house), lacking=_evidence(wants))


def _no_server(still: Still) -> str:
    if still.file(SERVER) is None:
        return "is missing"
    # Somebody's own script may stand in its place.
    runs = still.binary(SERVER) or still.static(SERVER) or still.broken(SERVER) or still.program_line(SERVER)
    return "" if runs else "is no program"


def files_of(still: Still) -> Files:
    """The image as the loader sees it."""
    machine = still.image.platform.architecture
    return Files(
        binary=still.binary,
        there=lambda path: still.file(path) is not None,
        machine=machine,
        default=default_folders(machine),
        configured=configured(still),
        cached=cached_libraries(still.text(CACHE) or ""),
    )


def configured(still: Still) -> Sequence[str]:
    """The folders that /etc/ld.so.conf leads to, without leading slashes."""
    return configured_folders(_configuration(still))


def _configuration(still: Still) -> Mapping[str, str]:
    main = still.text("etc/ld.so.conf")
    return {**still.texts("etc/ld.so.conf.d"), **({"etc/ld.so.conf": main} if main is not None else {})}


def library_path(still: Still) -> Sequence[str]:
    """The folders of LD_LIBRARY_PATH, without leading slashes."""
    return [folder.strip("/") for folder in still.env.get("LD_LIBRARY_PATH", "").split(":") if folder.startswith("/")]


def _process(still: Still, files: Files) -> Process:
    return Process(files=files, library_path=library_path(still))


def _house(still: Still) -> Iterator[str]:
    """What is loaded dynamically, or pretends to be, of the server's programs, libraries and components."""
    for folder in ("bin", "lib", *_PREFIX):
        for entry in still.files(f"{HOME}/{folder}"):
            if still.binary(entry.path) or still.broken(entry.path):
                yield entry.path


def _components(still: Still, house: Iterable[str]) -> Iterator[Sequence[str]]:
    """The library of each backend, agent and cache, and what is opened by name beside it, in that order."""
    present = {*house}
    for kind, prefix in _PREFIX.items():
        for name in still.tree.children(f"{HOME}/{kind}"):
            folder = f"{HOME}/{kind}/{name}"
            main = join(folder, f"{prefix}{name}.so")
            beside = [join(folder, one) for one in sorted(_BY_NAME)] if still.gpu else []
            parts = [path for path in (main, *beside) if path in present or still.binary(path)]
            if parts:
                yield parts


def _load_part(parts: Sequence[str], server: Process) -> tuple[Process, set[str]]:
    """Load a component as the server does: it is opened by libtritonserver, and what is beside it by its library."""
    process = server.fork()
    core = next((path for name, path in server.loaded.items() if name.startswith(_CORE)), SERVER)
    for number, path in enumerate(parts):
        process.load(path, (*parts[:1], core, SERVER) if number else (core, SERVER))
    return process, {*process.loaded.values()}


def _wants_of(process: Process, *, certain: bool) -> Iterator[_Want]:
    yield from (_Want(lack=lack, certain=certain) for lack in process.lacks)


def _of_the_rest(still: Still, files: Files, rest: Iterable[str], server: Process, stub: Process) -> Iterator[_Want]:
    """What is opened by name, or never: a library that is anywhere in the image may have been opened before it."""
    known = {*server.loaded, *stub.loaded}
    for path in rest:
        binary = still.binary(path)
        if binary is None or (binary.machine != files.machine and not _LIBRARY.fullmatch(path)):
            continue
        for library in binary.needed:
            if library in known or library in still.named or HOST.fullmatch(library):
                continue
            found = find(library, (path, SERVER), files, library_path(still))
            if not found.path:
                yield _Want(lack=Lack(library=library, by=path, unfit=found.unfit), certain=False)


# -- in words -----------------------------------------------------------------------------------------------------


def _problems(still: Still, wants: Iterable[_Want]) -> Iterator[Problem]:
    """One problem for each library, or version, that is lacking, whoever needs it."""
    grouped: dict[tuple[str, str, bool], list[Lack]] = {}
    for want in dict.fromkeys(wants):
        grouped.setdefault((want.lack.library, want.lack.at, want.certain), []).append(want.lack)
    certain = {library for library, _, sure in grouped if sure}
    for (library, at, sure), lacks in grouped.items():
        if at:
            yield _outdated(still, library, at, lacks)
        elif sure or library not in certain:
            yield _missing(still, library, lacks, certain=sure)


def _missing(still: Still, library: str, lacks: Sequence[Lack], *, certain: bool) -> Problem:
    users = list(dict.fromkeys(_short(lack.by) for lack in lacks))
    also = f" (and so do {listed(users[1:])})" if len(users) > 1 else ""
    message = f"{users[0]} needs {library}{also}, "
    if unfit := [one for lack in lacks for one in lack.unfit]:
        path, fault = unfit[0]
        return Problem(message=f"{message}and {shown(path)} {fault}", hint=_remedy(still, library), certain=certain)
    if place := still.named.get(library):
        message += f"which is in the image at {shown(place)}, where the loader does not look for it"
        return Problem(message=message, hint=_lead(still, place), certain=certain)
    message += "which the image does not have"
    if lacks[0].by.rpartition("/")[2] in _BY_NAME:
        message += ": ONNX Runtime would run on the CPU without a word"
    elif not certain:
        message += "; what opens it by name will fail"
    return Problem(message=message, hint=_remedy(still, library), certain=certain)


def _outdated(still: Still, library: str, at: str, lacks: Sequence[Lack]) -> Problem:
    versions = list(dict.fromkeys(lack.version for lack in lacks))
    users = list(dict.fromkeys(_short(lack.by) for lack in lacks))
    last = _last(still.binary(at), versions[0])
    message = f"{listed(users)} needs {library} with {listed(versions)}, and {shown(at)} ends with {last}"
    hint = "build it on the image's own distribution, or take a release of Triton on a newer one"
    return Problem(message=message, hint=hint)


def _last(binary: Binary | None, wanted: str) -> str:
    """The newest version that a library has of the family that is asked for."""
    family = wanted.partition("_")[0]
    own = [one for one in (binary.offers if binary else ()) if re.fullmatch(rf"{re.escape(family)}_[0-9.]+", one)]
    return max(own, key=lambda one: [int(part) for part in re.findall(r"\d+", one)], default="others")


def _broken(paths: Sequence[str]) -> Iterator[Problem]:
    for path in paths:
        yield Problem(message=f"{_short(path)} is damaged: it begins as an ELF file, and cannot be read as one")


def _late(still: Still, late: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """What only /etc/ld.so.conf leads to: the loader reads a cache that ldconfig makes of it, which nobody has run."""
    for library, by in dict.fromkeys(late):
        place = still.named.get(library, library)
        message = (
            f"{_short(by)} finds {library} only once ldconfig has run, as NVIDIA's container runtime has it with a GPU"
        )
        yield Problem(message=message, hint=_lead(still, place), certain=False)


def _lead(still: Still, place: str) -> str:
    folder = shown(place.rpartition("/")[0])
    path = still.env.get("LD_LIBRARY_PATH")
    return f'env: {{LD_LIBRARY_PATH: "{folder}{":" + path if path else ""}"}}'


def _remedy(still: Still, library: str) -> str:
    """What brings a library."""
    if component := still.dropped.get(library) or component_with(library):
        kind, _, name = component.partition("/")
        if not still.tree.children(f"{HOME}/{component}"):
            return f"{kind}: [..., {name}]   ({library} comes with it)"
    if package := still.packages.get(library):
        return f"something removed it: Debian's package {package} had installed it"
    if package := package_with(library, still.env.get("CUDA_VERSION", "")):
        return f"packages: {{apt: [{package}]}}"
    return f"files: [{{source: ./{library}, target: {shown(HOME)}/lib/{library}}}]"


def _short(path: str) -> str:
    """A path as people know it: that of a component begins with its kind."""
    return path.removeprefix(f"{HOME}/") if path.startswith(f"{HOME}/") else shown(path)


def _evidence(wants: Iterable[_Want]) -> Sequence[Mapping[str, object]]:
    return [
        {
            "file": shown(want.lack.by),
            "component": component_of(want.lack.by),
            "library": want.lack.library,
            "version": want.lack.version,
            "found": shown(want.lack.at) if want.lack.at else "",
            "certain": want.certain,
        }
        for want in dict.fromkeys(wants)
    ]
