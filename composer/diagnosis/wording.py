"""What is said of a class that fits, with what was seen filled in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from composer.diagnosis.logs import begun, failures, loading, records
from composer.diagnosis.matching import Found
from composer.diagnosis.packages import package_with
from composer.diagnosis.seen import Diagnosis, Seen
from composer.models.needs import distributions, meant
from composer.releases import RELEASES, absent
from composer.words import size

_BLANK: Final = re.compile(r"\{(\w+)\}")

_LONGEST: Final = 300
"""Characters of what was seen that go into a sentence."""

_HOST: Final = ("libcuda.so*", "libnvidia-*.so*", "libnvcuvid.so*")
"""Libraries of the driver: they come from the host."""

_CUDA: Final = (
    "libcudart.so*", "libcublas*.so*", "libcudnn*.so*", "libcufft*.so*", "libcurand*.so*", "libcusolver*.so*",
    "libcusparse*.so*", "libnvrtc*.so*", "libnvJitLink.so*", "libnvToolsExt.so*", "libnccl.so*", "libcupti.so*",
    "libnvjpeg.so*", "libnpp*.so*", "libnvinfer*.so*", "libnvonnxparser.so*",
)  # fmt: skip
"""Libraries of CUDA and TensorRT: the full image has them, and no Ubuntu package brings them."""


def worded(found: Found, seen: Seen) -> Diagnosis:
    """What the class says, with the names of what was seen."""
    kind, names = found.kind, _names(found, seen)
    return Diagnosis(
        id=kind.id,
        number=kind.number,
        title=_filled(kind.title, names),
        why=_filled(kind.why, names),
        fix=_filled(kind.fix, names),
        lines=found.lines,
        model=found.model,
    )


def _filled(text: str, names: Mapping[str, str]) -> str:
    return _BLANK.sub(lambda blank: names.get(blank[1], ""), text).strip()


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."


def _names(found: Found, seen: Seen) -> dict[str, str]:
    names = {"model": found.model or "NAME", **{name: _short(value) for name, value in found.names.items()}}
    if found.model:
        names |= {"model_": f" {found.model}", "of_model": f" of {found.model}", "for_model": f" ({found.model})"}
    for name in (*(name for name in names if name in _BY_NAME), found.kind.id):
        if more := _BY_NAME.get(name) or _BY_CLASS.get(name):
            names |= more({**names, "lines": "\n".join(found.lines)}, seen)
    return names


# -- libraries ----------------------------------------------------------------------------------------------------


def _library(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    library = names["library"]
    if _is_one(library, _HOST):
        why = "it is the NVIDIA driver's, and comes from the host with the GPU: this container has none"
        return {"absence": why, "bring": "run: {gpus: all}   in the recipe"}
    if _is_one(library, _CUDA):
        image = f"nvcr.io/nvidia/tritonserver:{seen.release or 'RELEASE'}-py3"
        bring = (
            f"docker run --rm {image} find / -name '{library}*'   finds it in the full image; then files: in the recipe"
        )
        return {"absence": "it is CUDA's, cuDNN's or TensorRT's, and is not in this image", "bring": bring}
    if python := re.fullmatch(r"libpython(3\.\d+)\.so\.1\.0", library):
        why = f"it was built for Python {python[1]}, which the image lacks"
        return {"absence": why, "bring": f"packages: {{apt: [libpython{python[1]}]}}   in the recipe"}
    if package := package_with(library, ""):
        return {
            "absence": f"it is in the package {package}",
            "bring": f"packages: {{apt: [{package}]}}   in the recipe",
        }
    bring = f"apt-file search {library}   names its package; then packages: {{apt: [PACKAGE]}} in the recipe"
    return {"absence": "no file of that name is where the loader looks", "bring": bring}


def _is_one(library: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(library, pattern) for pattern in patterns)


def _unloadable(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    words = names["words"].strip()
    if missing := re.search(r"(?P<library>[^\s:/]+): cannot open shared object file", words):
        found = _library(missing.groupdict(), seen)
        return {"words_meaning": f"it needs {missing['library']}: {found['absence']}", "bring": found["bring"]}
    if version := re.search(r"version `(?P<it>(?P<of>GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found", words):
        why = f"it was built on a newer system than the image's: it wants {version['it']}"
        return {"words_meaning": why, "bring": f"build it in {_image(seen)}, or take a release on a newer Ubuntu"}
    if symbol := re.search(r"undefined symbol: (?P<it>\S+)", words):
        why = f"it was built against other versions of its libraries: nothing has {symbol['it']}"
        return {"words_meaning": why, "bring": f"build it for this release, in {_image(seen)}"}
    return {"words_meaning": words, "bring": "ldd   on it in the image shows what it lacks"}


def _image(seen: Seen) -> str:
    return f"nvcr.io/nvidia/tritonserver:{seen.release or 'RELEASE'}-py3"


# -- what the recipe lacks ----------------------------------------------------------------------------------------


def _backend(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    backend = names["backend"]
    has = f"; it has {', '.join(sorted(seen.backends))}" if seen.backends else ""
    release = RELEASES.get(seen.release)
    if release and (reason := absent(release, "backends", backend)):
        return {"why_backend": f"{seen.release} has none of that name{has}", "fix_backend": reason}
    wanted = ", ".join(sorted({*seen.backends, backend}))
    return {"why_backend": f"it was not composed in{has}", "fix_backend": f"backends: [{wanted}]   in the recipe"}


def _module(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    packages, _ = distributions(names["module"])
    near = meant(names["module"])
    return {"distribution": packages[0], "meant": f"; or is {near} meant?" if near else ""}


def _ignored(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    folders = re.findall(r"ignore version directory '([^']+)'", seen.log)
    return {"ignored": f" (these do not count: {', '.join(dict.fromkeys(folders))})"} if folders else {}


def _given(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    return {"given": f"; it has {size(seen.shm)}"} if seen.shm else {}


# -- versions -----------------------------------------------------------------------------------------------------


def _versions(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    tags = re.search(r"Current Version: (\d+), Serialized Engine Version: (\d+)", names["lines"])
    wanted, found = tags.groups() if tags else (names.get("wanted"), names.get("found"))
    return {"versions": f": here {wanted}, in the plan {found}"} if wanted else {}


def _plugin(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    return {"plugin_": f": {names['plugin']}"} if names.get("plugin") else {}


def _onnx(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    what = "IR version" if "IR version" in names["lines"] else "opset"
    release = RELEASES.get(seen.release)
    runtime = f" (ONNX Runtime {release.onnxruntime})" if release and release.onnxruntime else ""
    most = f"; {seen.release or 'it'}{runtime} takes {names['wanted']} at most" if names.get("wanted") else ""
    return {"onnx_versions": f"the file is of {what} {names.get('found', '?')}{most}"}


# -- processes ----------------------------------------------------------------------------------------------------


def _stub(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    said = [
        line.message for line in begun(records(seen.log)) if not (line.level or line.message.startswith(("+", "|")))
    ]
    last = said[-1].strip() if said else ""
    own = last and not last.startswith(("error: ", "Error: Failed to initialize NVML", "[libprotobuf"))
    ready = "; the server calls itself ready nevertheless" if seen.ready and seen.release < "26.04" else ""
    return {"last_said": f"; the last that it wrote: {last}" if own else "", "still_ready": ready}


def _loading(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    open_ = ", ".join(model for model, _ in loading(seen.log))
    return {"last_model": f"; it was loading {open_}"} if open_ else {}


def _member(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    reason = failures(seen.log).get(names["member"].rstrip(".,;"))
    return {"member": names["member"].rstrip(".,;"), "member_reason": f": {reason.splitlines()[0]}" if reason else ""}


def _memory(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    gpu = seen.gpu_wanted or re.search(r"CUDA|GPU", names["lines"])
    wanted = re.search(r"(?:[Tt]ried to allocate|of size) (\d+(?:\.\d+)? ?(?:[KMG]iB)?)", names["lines"])
    size = f"{wanted[1]} bytes" if wanted and wanted[1].isdecimal() else wanted and wanted[1]
    return {"whose": "the GPU's" if gpu else "the machine's", "wanted": f": {size} at once" if size else ""}


# -- requests -----------------------------------------------------------------------------------------------------


def _shape(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    told = re.search(r"[Ee]xpected (\[[^\]]*\]),? got (\[[^\]]*\])", names["lines"])
    if not told:
        return {"shape_words": names["lines"], "like": "[1, ...]"}
    return {"shape_words": f"it takes {told[1]}, and was sent {told[2]}", "like": told[1].replace(",", ", ")}


def _message(names: Mapping[str, str], seen: Seen) -> Mapping[str, str]:
    sizes = f": {names['size']} bytes, and {names['limit']} are allowed" if names.get("limit") else ""
    return {"grpc_words": f"clients and servers take 4 MB or what they are told{sizes}"}


_Filler = Callable[[Mapping[str, str], Seen], Mapping[str, str]]

_BY_NAME: Final[Mapping[str, _Filler]] = {"library": _library, "backend": _backend, "module": _module}
"""What follows from a name that was found."""

_BY_CLASS: Final[Mapping[str, _Filler]] = {
    "backend-library": _unloadable,
    "no-version": _ignored,
    "memory": _memory,
    "shared-memory": _given,
    "tensorrt-version": _versions,
    "tensorrt-device": _versions,
    "tensorrt-plugin": _plugin,
    "onnx-too-new": _onnx,
    "stub-killed-at-load": _stub,
    "stub-killed-at-request": _stub,
    "crashed": _loading,
    "illegal-instruction": _loading,
    "ensemble-member": _member,
    "request-shape": _shape,
    "request-too-large": _message,
}
"""What else a class tells."""
