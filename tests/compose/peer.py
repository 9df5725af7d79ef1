"""Runs the compose.py of a release, with stand-ins for Docker, the distribution and the machine."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BUILD_ID, BUILD_REF = "424242", "5ca1ab1e"
"""What the made-up images say of the build that they come from."""

_DOCKER = f"""#!/bin/sh
# Answers what compose.py asks of Docker. $STANDIN_ENV is the environment of both images.
case "$1 $3" in
  inspect*build.ref*) echo {BUILD_REF};;
  inspect*build.id*) echo {BUILD_ID};;
  inspect*Env*) printf '%s\\n' "$STANDIN_ENV";;
  pull*) ;;
  run*) echo serve;;
  *) echo "unexpected: docker $*" >&2; exit 1;;
esac
"""

_MODULES = {
    "sitecustomize.py": "import os, platform\nplatform.machine = lambda: os.environ['STANDIN_MACHINE']\n",
    "distro.py": "def like(): return 'debian'\ndef id(): return 'ubuntu'\n",
    "requests.py": "",
    "docker.py": "",
    "distutils/__init__.py": "",
    "distutils/dir_util.py": "def copy_tree(*ignored): raise NotImplementedError\n",
}
"""Modules that stand before those of this machine: it is an Ubuntu machine of a chosen architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What compose.py is asked for."""

    backends: tuple[str, ...]
    gpu: bool = True
    architecture: str = "amd64"

    @property
    def name(self) -> str:
        kind = ("" if self.gpu else " cpu") + ("" if self.architecture == "amd64" else f" {self.architecture}")
        return "+".join(self.backends) + kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The checkout of a release's branch, and the stand-ins."""

    checkout: Path
    standins: Path

    @classmethod
    def of(cls, repository: Path, release: str, folder: Path) -> Peer:
        """Take the files of branch `rXX.YY` that compose.py reads out of `repository`, a clone of the server's."""
        checkout, standins = folder / release, folder / "standins"
        checkout.mkdir(parents=True)
        for name in ("compose.py", "build.py", "TRITON_VERSION"):
            (checkout / name).write_bytes(_show(repository, f"r{release}", name))
        for name, text in _MODULES.items():
            (standins / name).parent.mkdir(parents=True, exist_ok=True)
            (standins / name).write_text(text)
        (standins / "docker").write_text(_DOCKER)
        (standins / "docker").chmod(0o755)
        return cls(checkout=checkout, standins=standins)

    def versions(self) -> dict[str, object]:
        """What build.py says it builds: Triton, ONNX Runtime, OpenVINO and DCGM."""
        for node in ast.walk(ast.parse((self.checkout / "build.py").read_text())):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").endswith("TRITON_VERSION_MAP"):
                return _versions(ast.literal_eval(node.value))
        raise AssertionError("build.py has no table of versions")

    def everything(self) -> dict[str, list[str]]:
        """What `build.py --enable-all` puts into the Linux image, where the release has that flag."""
        found: dict[str, list[str]] = {}
        for node in ast.walk(ast.parse((self.checkout / "build.py").read_text())):
            name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
            if name in ("all_backends", "all_repoagents", "all_caches"):
                # The first is Linux, where there is another for Windows.
                found.setdefault(name.removeprefix("all_"), sorted(ast.literal_eval(node.value)))
        return found

    def dockerfile(self, release: str, case: Case) -> str:
        """What compose.py writes. Raises `CalledProcessError` where it fails."""
        environ = _environ(release, self.versions(), gpu=case.gpu)
        gpu = _gpu_flags(release, gpu=case.gpu)
        asked = [f"--backend={name}" for name in case.backends]
        subprocess.run(
            [sys.executable, "-W", "ignore", "compose.py", "--dry-run", "--container-version", release, *gpu, *asked],
            cwd=self.checkout,
            env=os.environ
            | {
                "PATH": f"{self.standins}:{os.environ['PATH']}",
                "PYTHONPATH": str(self.standins),
                "STANDIN_ENV": "".join(f"{name}={value} " for name, value in environ.items()),
                "STANDIN_MACHINE": {"amd64": "x86_64", "arm64": "aarch64"}[case.architecture],
            },
            check=True,
            capture_output=True,
        )
        return (self.checkout / "Dockerfile.compose").read_text()


def _show(repository: Path, branch: str, path: str) -> bytes:
    command = ["git", "-C", str(repository), "show", f"{branch}:{path}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def _gpu_flags(release: str, *, gpu: bool) -> Sequence[str]:
    """`--enable-gpu`: had to be given at first, and later to be denied."""
    if release <= "21.11":
        return ["--enable-gpu"] if gpu else []
    return [] if gpu else ["--enable-gpu=false"]


def _environ(release: str, versions: dict[str, object], *, gpu: bool) -> dict[str, str]:
    """The environment of the made-up images."""
    common = {
        "TRITON_SERVER_VERSION": str(versions["triton"]),
        "NVIDIA_TRITON_SERVER_VERSION": release,
        "TRITON_SERVER_GPU_ENABLED": str(int(gpu)),
    }
    return common | ({"CUDA_VERSION": "1", "DCGM_VERSION": str(versions["dcgm"])} if gpu else {})


_COLUMNS = ("release", "upstream", "onnxruntime", "onnxruntime_openvino", "openvino", "dcgm")
_NAMES = {
    "release_version": "triton",
    "triton_container_version": "release",
    "upstream_container_version": "upstream",
    "ort_version": "onnxruntime",
    "ort_openvino_version": "onnxruntime_openvino",
    "standalone_openvino_version": "openvino",
    "dcgm_version": "dcgm",
}


def _versions(table: dict[str, object]) -> dict[str, object]:
    if "release_version" in table:
        return {name: table[theirs] for theirs, name in _NAMES.items()}
    ((triton, row),) = table.items()
    assert isinstance(row, tuple)
    found = {"triton": triton} | dict(zip(_COLUMNS, row, strict=False))
    json.dumps(found)
    return found
