"""Two Dockerfiles as sets of facts, and every way in which ours are meant to differ: templates/README.md says why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from composer.releases import RELEASES, Requirements
from tests.compose.peer import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One way to differ: a fact that only theirs (`-`) or only ours (`+`) states. `only` names the cases it is in."""

    id: str
    fact: str
    since: str = "21.08"
    until: str = "99.99"
    only: str = ".*"

    def explains(self, release: str, case: str, found: str) -> bool:
        """Whether this is such a fact."""
        known = self.since <= release <= self.until and re.fullmatch(self.only, case)
        return bool(known and re.fullmatch(self.fact, found))


CPU: Final = r".* cpu"
DIFFERENCES: Final[Sequence[Difference]] = (
    Difference(id="no-boost", fact=r"- other boost \S+ 1_80_0", since="23.11", until="24.01"),
    Difference(id="keyring", fact=r"- key \w+\.pub|\+ keyring cuda-keyring_1\.0-1_all\.deb", until="22.05"),
    Difference(id="keyring", fact=r"- other pin cuda-repository-pin-600", until="22.05"),
    Difference(
        id="arm64", fact=r"[-+] repository https://developer\.download\.nvidia\.com/.*", until="21.09", only=r".* arm64"
    ),
    Difference(id="no-checkout", fact=r"- copied context nvidia_entrypoint\.sh \.", until="22.02"),
    Difference(id="no-checkout", fact=r"\+ core nvidia_entrypoint\.sh 1000:1000", until="22.02"),
    Difference(
        id="no-checkout",
        fact=r"- copied context docker/entrypoint\.d/ .*|\+ copied full /opt/nvidia/entrypoint\.d/ .*",
        since="22.03",
    ),
    Difference(
        id="multi-models", fact=r"\+ label com\.amazonaws\.sagemaker\.capabilities\.multi-models true", since="22.05"
    ),
    Difference(id="no-such-folder", fact=r"- part backends/tensorrt 1000:1000", until="21.08", only=r".*\+tensorrt.*"),
    Difference(
        id="cufft",
        fact=r"- (package|recommended) libcufft-11-8",
        since="23.01",
        until="23.01",
        only=r"(?!.*onnxruntime).*",
    ),
    Difference(
        id="nvshmem",
        fact=r"- (package libnvshmem3-cuda-13|(keyring|repository) .*|linker /etc/ld\.so\.conf\.d/libnvshmem3.*)",
        since="25.10",
        until="25.11",
        only=CPU,
    ),
    Difference(
        id="nvshmem",
        fact=r"\+ (package libnvshmem3-cuda-13|linker /etc/ld\.so\.conf\.d/libnvshmem3.*)",
        since="25.10",
        until="25.10",
        only="tensorrtllm",
    ),
    Difference(id="build-id", fact=r"- (env NVIDIA_BUILD_ID|label com\.nvidia\.build\.(id|ref)) .*"),
    Difference(id="cpu-images", fact=r"[-+] base .*ubuntu:2\d\.04", only=CPU),
    Difference(id="cpu-images", fact=r"[-+] stage full nvcr\.io/nvidia/tritonserver:[\d.]+-(cpu-only-)?py3", only=CPU),
    Difference(id="cpu-images", fact=r"- (stage min_container|library) .*", only=CPU),
    Difference(id="owned-folders", fact=r"\+ owned /opt/tritonserver/(repoagents|caches)"),
)


def case_of(name: str) -> Case:
    """The other way of `Case.name`."""
    backends, *rest = name.split(" ")
    architecture = next((word for word in rest if word != "cpu"), "amd64")
    return Case(backends=tuple(backends.split("+")), gpu="cpu" not in rest, architecture=architecture)


def unexplained(release: str, case: str, theirs: set[str], ours: set[str]) -> tuple[list[str], set[Difference]]:
    """The facts that only one of the two states and no difference explains, and the differences that explain others."""
    found = [f"- {fact}" for fact in sorted(theirs - ours)] + [f"+ {fact}" for fact in sorted(ours - theirs)]
    used = {fact: [one for one in DIFFERENCES if one.explains(release, case, fact)] for fact in found}
    return [fact for fact, by in used.items() if not by], {one for by in used.values() for one in by[:1]}


# -- facts as lines -----------------------------------------------------------------------------------------------


def lines(release: str, facts: dict[str, Any]) -> set[str]:
    """The facts of a Dockerfile, each as one text that says what kind it is."""
    return {_filled(release, line) for line in _lines(facts)}


def _filled(release: str, line: str) -> str:
    return line.replace("{release}", release).replace("{triton}", RELEASES[release].triton)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"base {facts['base'].removeprefix('docker.io/library/')}"
    yield from (f"stage {name} {image}" for name, image in facts["stages"].items())
    yield from (f"env {name} {value}" for name, value in folded(facts["environment"]).items())
    yield from (f"label {name} {value}" for name, value in facts["labels"].items())
    yield from (f"user -{name}" for name in facts["user"].get("removed", ()))
    yield from (f"user +{name}" for name in [facts["user"].get("added")] if name)
    yield from (f"id {one}" for one in facts["user"].get("ids", ()))
    for apt in (*facts["apt"], facts["dcgm"]):
        yield from (f"package {name}" for name in apt.get("packages", ()))
        yield from (f"recommended {name}" for name in apt.get("packages", ()) if apt["recommends"])
    yield from (f"pip {name}" for names in facts["pip"] for name in names)
    yield from (f"{key} {facts['dcgm'][key]}" for key in ("repository", "key", "keyring") if key in facts["dcgm"])
    yield from (f"core {' '.join(one)}" for one in facts["core"])
    yield from (f"part {' '.join(one)}" for one in facts["parts"])
    yield from (_copy(one) for one in facts["copied"])
    yield from (f"owned {path}" for path in facts["owned"])
    yield from (f"linker {path}" for path in facts["linker"])
    yield from ["cuda_compat"] if facts["cuda_compat"] else []
    yield from (f"other {one}" for one in facts["other"])
    yield f"entrypoint {facts['entrypoint']}"


def folded(environment: Sequence[Sequence[str]]) -> dict[str, str]:
    """What the variables are in the end: each stands on what it was before."""
    found: dict[str, str] = {}
    for name, value in environment:
        found[name] = value.replace(f"${{{name}}}", found.get(name, f"${{{name}}}"))
    return found


def _copy(one: Sequence[str]) -> str:
    origin, source, target = one[:3]
    if origin == "min_container":
        return f"library {source} {target[:-1] + source.rpartition('/')[2] if target.endswith('/.') else target}"
    target = "/usr/bin/serve" if target == "/usr/bin/." else target
    return " ".join(["copied", origin, source, target, *(one[3:] if source == "/usr/bin/serve" else ())])


def needed(needs: Requirements) -> set[str]:
    """The facts that follow from what a release needs, in the same texts."""
    return set(_needed(needs))


def _needed(needs: Requirements) -> Iterator[str]:
    for one in needs.environment:
        yield f"env {one.name} {one.value}" + (f":${{{one.name}}}" if one.prepend else "")
    yield from (f"label {name} {value}" for name, value in needs.labels.items())
    yield from (f"user -{name}" for name in needs.removed_users)
    yield from (f"user +{needs.user}", "id u=1000", "id g=1000")
    for apt in (*needs.apt, *([needs.dcgm] if needs.dcgm else [])):
        yield from (f"package {name}" for name in apt.packages)
        yield from (f"recommended {name}" for name in apt.packages if apt.recommends)
    yield from (f"pip {name}" for pip in needs.pip for name in pip.requirements)
    if needs.dcgm:
        yield from (f"repository {needs.dcgm.repository}", f"keyring {needs.dcgm.keyring}")
    yield from (f"core {' '.join([name, *([needs.owner] if needs.owner else [])])}" for name in needs.core)
    yield from ["cuda_compat"] if needs.cuda_compat else []
    yield from ["linker /etc/ld.so.conf.d/00-cuda-compat.conf"] if needs.cuda_compat else []
    yield from (f"linker /etc/ld.so.conf.d/{file}" for file, _ in needs.linker_paths)
