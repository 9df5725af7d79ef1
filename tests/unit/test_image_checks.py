"""What can be said of an image that is not started: a small one in which all is well, then broken in one way each."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from composer.checks.image import check_image, dropped_libraries
from composer.checks.image.loader import configured_folders, expanded, read_cache
from composer.checks.image.notes import MANNER, decode, encode, take_notes
from composer.checks.image.secrets import MOST, assignments, leaks, told_by_name, told_by_text, worth_reading
from composer.checks.report import Result
from composer.errors import Corrupt, Unreachable
from composer.events import ignore
from composer.inventory import HOME, Inventory
from composer.knowledge import Knowledge
from composer.oci.image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Image,
    canonical_json,
    make_manifest,
    parse_image,
    sha256,
)
from composer.oci.layout import LayoutStore
from composer.oci.tar import Entry
from composer.recipe_proof import ImageExpect
from tests.elves import elf

LIB = "usr/lib/x86_64-linux-gnu"
BACKENDS = f"{HOME}/backends"
STUB = f"{BACKENDS}/python/triton_python_backend_stub"
PACKAGES = "usr/local/lib/python3.11/dist-packages"
LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBC, LIBCPP = {"libc.so.6": ["GLIBC_2.34"]}, {"libstdc++.so.6": ["GLIBCXX_3.4.30"]}
SOME_KEY = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ" * 3 + "\n"
GITHUB = "ghp_" + "a1B2" * 9


@dataclass(frozen=True)
class At:
    """A member of a layer that is not a plain file of root's with mode 0644. `link` makes it a symbolic link."""

    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    link: str = ""
    hard: str = ""
    folder: bool = False


Files = Mapping[str, "bytes | str | At"]

GOOD: Files = {
    "lib": At(link="usr/lib"),
    "lib64": At(link="usr/lib64"),
    "usr/lib64/ld-linux-x86-64.so.2": elf(soname="ld-linux-x86-64.so.2"),
    f"{LIB}/libc.so.6": elf(soname="libc.so.6", offers=["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.9"]),
    f"{LIB}/libstdc++.so.6.0.30": elf("libc.so.6", soname="libstdc++.so.6", offers=["GLIBCXX_3.4.30"]),
    f"{LIB}/libstdc++.so.6": At(link="libstdc++.so.6.0.30"),
    f"{LIB}/libpython3.11.so.1.0": elf("libc.so.6", soname="libpython3.11.so.1.0"),
    "usr/bin/bash": At(elf("libc.so.6", interpreter=LOADER), 0o755),
    "usr/bin/env": At(elf("libc.so.6", interpreter=LOADER), 0o755),
    "usr/bin/python3.11": At(elf("libc.so.6", interpreter=LOADER), 0o755),
    "usr/bin/python3": At(link="python3.11"),
    "usr/lib/python3.11/os.py": "# the standard library\n",
    f"{PACKAGES}/numpy-1.26.4.dist-info/METADATA": "Name: numpy\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\ntriton-server:x:1000:1000::/home/triton-server:/bin/sh\n",
    "etc/group": "root:x:0:\ntriton-server:x:1000:\n",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "etc/ld.so.conf.d/cuda.conf": "/usr/local/cuda/lib64\n",
    f"{HOME}/bin/tritonserver": At(
        elf("libtritonserver.so", "libc.so.6", "libcuda.so.1", interpreter=LOADER, runpath="$ORIGIN/../lib"), 0o755
    ),
    f"{HOME}/lib/libtritonserver.so": elf("libstdc++.so.6", soname="libtritonserver.so", versions=LIBCPP),
    f"{BACKENDS}/python/libtriton_python.so": elf("libtritonserver.so", "libc.so.6", versions=LIBC),
    STUB: At(elf("libpython3.11.so.1.0", "libc.so.6", interpreter=LOADER), 0o755),
    f"{HOME}/caches/local/libtritoncache_local.so": elf("libc.so.6"),
    "opt/nvidia/nvidia_entrypoint.sh": At(b'#!/bin/bash\nexec "$@"\n', 0o755),
    "bin": At(link="usr/bin"),
    "models/add/config.pbtxt": 'backend: "python"\n',
    "models/add/1/model.py": "class TritonPythonModel: pass\n",
}
ENV = {
    "PATH": "/opt/tritonserver/bin:/usr/bin:/bin",
    "LD_LIBRARY_PATH": "/usr/local/cuda/compat/lib:/usr/local/nvidia/lib",
    "NVIDIA_TRITON_SERVER_VERSION": "24.10",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility,video",
    "CUDA_VERSION": "12.6.2.004",
}
CONFIG = {
    "Entrypoint": ["/opt/nvidia/nvidia_entrypoint.sh"],
    "Cmd": ["tritonserver", "--model-repository=/models"],
    "WorkingDir": "/opt/tritonserver",
}


@dataclass
class Place:
    """Where images are made, and what is known of them."""

    path: Path
    told: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = LayoutStore.ensure(self.path / "images")
        self.cache = LayoutStore.ensure(self.path / "cache")
        self.knowledge = Knowledge(self.cache, published=None, emit=ignore)

    def image(self, *layers: Files, architecture: str = "amd64", history: Sequence[str] = (), **config: Any) -> Image:
        env = {**ENV, **config.pop("env", {})}
        tars = [packed(layer) for layer in layers]
        blobs = [gzip.compress(tar, 1, mtime=0) for tar in tars]
        lines = [f"{name}={value}" for name, value in env.items() if value is not None]
        raw = canonical_json(
            {
                "os": "linux",
                "architecture": architecture,
                "config": {**CONFIG, "Env": lines, **config},
                "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
                "history": [{"created_by": line} for line in history],
            }
        )
        descriptors = [self.write(blob, f"{OCI_LAYER}+gzip") for blob in blobs]
        manifest = make_manifest(OCI_MANIFEST, self.write(raw, OCI_CONFIG), descriptors)
        return parse_image(manifest, raw)

    def write(self, data: bytes, kind: str) -> Descriptor:
        descriptor = Descriptor.of(data, kind)
        self.store.write(descriptor, lambda: iter([data]))
        return descriptor

    def entries(self, layer: Descriptor) -> Sequence[Entry]:
        tar = gzip.decompress(b"".join(self.store.read(layer)))
        return take_notes([tar], origin="x", scratch=self.path)[0]

    def look(self, image: Image, wanted: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Result]:
        expect = ImageExpect.model_validate_json(json.dumps(wanted)) if wanted is not None else None
        options = {"models": ["add"], "knowledge": self.knowledge, "emit": self.told.append, **options}
        found = {one.id.removeprefix("image:"): one for one in check_image(image, self.store, expect, **options)}
        assert all(one.kind == "image" and one.seconds >= 0 for one in found.values())
        json.dumps([one.to_json() for one in found.values()])
        return found


def packed(files: Files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, one in files.items():
            at = one if isinstance(one, At) else At(one.encode() if isinstance(one, str) else one)
            member = tarfile.TarInfo(path)
            member.mode, member.uid, member.gid, member.size = at.mode, at.uid, at.gid, len(at.data)
            if at.link or at.hard:
                member.type, member.linkname = (tarfile.SYMTYPE, at.link) if at.link else (tarfile.LNKTYPE, at.hard)
            elif at.folder:
                member.type = tarfile.DIRTYPE
            tar.addfile(member, io.BytesIO(at.data))
    return out.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def without(*paths: str) -> Files:
    return {path: one for path, one in GOOD.items() if path not in paths}


def outcomes(found: Mapping[str, Result]) -> dict[str, str]:
    return {name: one.outcome for name, one in found.items()}


def test_all_is_well(place: Place) -> None:
    found = place.look(place.image(GOOD), {"files": [{"path": "/bin/bash"}]})
    assert outcomes(found) == dict.fromkeys(
        ["layers", "libraries", "start", "driver", "python", "models", "links", "secrets", "expected"], "passed"
    )
    assert found["layers"].evidence["layers"] == 1
    assert found["python"].message == "the stub and the image have Python 3.11, with NumPy 1.26.4"


def but(*, files: Files | None = None, gone: Sequence[str] = (), **config: Any) -> Callable[[Place], Image]:
    """The good image without some files, with others, and with another config."""
    return lambda place: place.image({**without(*gone), **(files or {})}, **config)


DANGLING = {f"{BACKENDS}/python/libextra.so": At(link="../nowhere/libextra.so")}
COMPAT = {"usr/local/cuda/compat/lib/libcuda.so.1": elf(soname="libcuda.so.1")}

BROKEN: Mapping[str, tuple[Callable[[Place], Image], str, str, str, str]] = {
    # name: the image, the look, its outcome, what it says, what is to be done
    "a library removed": (
        but(gone=[f"{LIB}/libpython3.11.so.1.0"]),
        "libraries",
        "failed",
        "backends/python/triton_python_backend_stub needs libpython3.11.so.1.0, which the image does not have",
        "packages: {apt: [libpython3.11]}",
    ),
    "a library removed that a package had installed": (
        but(
            gone=[f"{LIB}/libstdc++.so.6.0.30", f"{LIB}/libstdc++.so.6"],
            files={"var/lib/dpkg/info/libstdc++6:amd64.list": f"/.\n/{LIB}/libstdc++.so.6\n/usr/share/doc\n"},
        ),
        "libraries",
        "failed",
        "/opt/tritonserver/lib/libtritonserver.so needs libstdc++.so.6, which the image does not have".replace(
            "/opt/tritonserver/lib", "lib"
        ),
        "something removed it: Debian's package libstdc++6 had installed it",
    ),
    "a library of a component that is not there": (
        but(files={f"{BACKENDS}/mine/libtriton_mine.so": elf("libtorch_cpu.so", "libtriton_x.so")}),
        "libraries",
        "failed",
        "backends/mine/libtriton_mine.so needs libtorch_cpu.so, which the image does not have",
        "backends: [..., pytorch]   (libtorch_cpu.so comes with it)",
    ),
    "a library where nothing leads": (
        but(
            files={
                f"{BACKENDS}/mine/libtriton_mine.so": elf("liba.so"),
                f"{BACKENDS}/mine/liba.so": elf(),
            }
        ),
        "libraries",
        "failed",
        "backends/mine/libtriton_mine.so needs liba.so, which is in the image at "
        f"/{BACKENDS}/mine/liba.so, where the loader does not look for it",
        f'env: {{LD_LIBRARY_PATH: "/{BACKENDS}/mine:{ENV["LD_LIBRARY_PATH"]}"}}',
    ),
    "a library for another machine": (
        but(files={f"{LIB}/libpython3.11.so.1.0": elf(machine="arm64")}),
        "libraries",
        "failed",
        "_stub needs libpython3.11.so.1.0, and /lib/x86_64-linux-gnu/libpython3.11.so.1.0 is for arm64",
        "packages: {apt: [libpython3.11]}",
    ),
    "a C library that is too old": (
        but(files={f"{LIB}/libc.so.6": elf(soname="libc.so.6", offers=["GLIBC_2.2.5", "GLIBC_2.31", "GLIBC_2.9"])}),
        "libraries",
        "failed",
        "backends/python/libtriton_python.so needs libc.so.6 with GLIBC_2.34, and /lib/x86_64-linux-gnu/libc.so.6 ends "
        "with GLIBC_2.31",
        "build it on the image's own distribution, or take a release of Triton on a newer one",
    ),
    "what ONNX Runtime opens for a GPU": (
        but(
            files={
                f"{BACKENDS}/onnxruntime/libtriton_onnxruntime.so": elf("libc.so.6"),
                f"{BACKENDS}/onnxruntime/libonnxruntime_providers_cuda.so": elf("libcudnn.so.9"),
            }
        ),
        "libraries",
        "failed",
        "libonnxruntime_providers_cuda.so needs libcudnn.so.9, which the image does not have: ONNX Runtime would run "
        "on the CPU without a word",
        "packages: {apt: [libcudnn9-cuda-12]}",
    ),
    "a library that something may open by name": (
        but(files={f"{BACKENDS}/python/plugins/libp.so": elf("libz.so.1")}),
        "libraries",
        "unverified",
        "backends/python/plugins/libp.so needs libz.so.1, which the image does not have; what opens it by name "
        "will fail",
        "packages: {apt: [zlib1g]}",
    ),
    "a library that only ldconfig would find": (
        but(
            files={
                "usr/local/cuda/lib64/libcudart.so.12": elf(),
                f"{BACKENDS}/mine/libtriton_mine.so": elf("libcudart.so.12"),
            }
        ),
        "libraries",
        "unverified",
        "backends/mine/libtriton_mine.so finds libcudart.so.12 only once ldconfig has run",
        'env: {LD_LIBRARY_PATH: "/usr/local/cuda/lib64:',
    ),
    "a damaged library": (
        but(files={f"{BACKENDS}/mine/libtriton_mine.so": elf("libc.so.6")[:100]}),
        "libraries",
        "failed",
        "backends/mine/libtriton_mine.so is damaged",
        "",
    ),
    "no server": (
        but(gone=[f"{HOME}/bin/tritonserver"]),
        "libraries",
        "failed",
        "there is no server: /opt/tritonserver/bin/tritonserver is missing",
        "",
    ),
    "a server that is none": (
        but(files={f"{HOME}/bin/tritonserver": At(b"no", 0o755)}),
        "libraries",
        "failed",
        "there is no server: /opt/tritonserver/bin/tritonserver is no program",
        "",
    ),
    "another platform": (
        but(architecture="arm64"),
        "start",
        "failed",
        "the image says that it is for linux/arm64, and its server is for amd64",
        "platforms: [linux/amd64]",
    ),
    "an entrypoint that is not there": (
        but(gone=["opt/nvidia/nvidia_entrypoint.sh"]),
        "start",
        "failed",
        "the entrypoint /opt/nvidia/nvidia_entrypoint.sh is not in the image",
        "",
    ),
    "an entrypoint that is not executable": (
        but(files={"opt/nvidia/nvidia_entrypoint.sh": "#!/bin/bash\n"}),
        "start",
        "failed",
        "the entrypoint /opt/nvidia/nvidia_entrypoint.sh may not be executed by root (mode 0644)",
        'mode: "0755"',
    ),
    "an entrypoint that only root may execute": (
        but(files={"opt/nvidia/nvidia_entrypoint.sh": At(b"#!/bin/bash\n", 0o744)}, User="triton-server"),
        "start",
        "failed",
        "may not be executed by triton-server (mode 0744)",
        "",
    ),
    "an entrypoint without its interpreter": (
        but(gone=["usr/bin/bash"]),
        "start",
        "failed",
        "the entrypoint /opt/nvidia/nvidia_entrypoint.sh is run by /bin/bash, which is not in the image",
        "",
    ),
    "an entrypoint whose env finds nothing": (
        but(files={"opt/nvidia/nvidia_entrypoint.sh": At(b"#!/usr/bin/env -S perl -w\n", 0o755)}),
        "start",
        "failed",
        "is run by perl, which is not in the image",
        "",
    ),
    "an entrypoint of Windows": (
        but(files={"opt/nvidia/nvidia_entrypoint.sh": At(b"#!/bin/bash\r\n", 0o755)}),
        "start",
        "failed",
        "has lines that end as in Windows",
        "",
    ),
    "an entrypoint that is no program": (
        but(files={"opt/nvidia/nvidia_entrypoint.sh": At(b"exec tritonserver\n", 0o755)}),
        "start",
        "failed",
        "is neither a program nor a script",
        "",
    ),
    "a command that PATH does not lead to": (
        but(env={"PATH": "/usr/bin"}),
        "start",
        "failed",
        "the command tritonserver cannot be found: PATH does not lead to /opt/tritonserver/bin",
        'env: {PATH: "/opt/tritonserver/bin:/usr/bin"}',
    ),
    "a server without its loader": (
        but(gone=["usr/lib64/ld-linux-x86-64.so.2"], Entrypoint=[]),
        "start",
        "failed",
        f"the command /opt/tritonserver/bin/tritonserver needs {LOADER}, which is not in the image",
        "",
    ),
    "nothing to start": (but(Entrypoint=None, Cmd=None), "start", "failed", "the image starts nothing", ""),
    "a user that is missing": (
        but(User="nobody-knows"),
        "start",
        "failed",
        "the user nobody-knows is not in the image's /etc/passwd",
        "user: one of root, triton-server, or numbers: 1000:1000",
    ),
    "a group that is missing": (
        but(User="0:ops"),
        "start",
        "failed",
        "the group ops is not in the image's /etc/group",
        "",
    ),
    "a working folder that is a file": (
        but(WorkingDir="/etc/passwd"),
        "start",
        "failed",
        "the working folder /etc/passwd is a file",
        "",
    ),
    "a port that is none": (but(ExposedPorts={"80000/tcp": {}}), "start", "failed", "'80000/tcp' is exposed", ""),
    "compatibility libraries that always come first": (
        but(files=COMPAT),
        "driver",
        "failed",
        "LD_LIBRARY_PATH leads to /usr/local/cuda/compat/lib/libcuda.so.1, which stands in for the host's driver",
        'env: {LD_LIBRARY_PATH: "/usr/local/nvidia/lib"}',
    ),
    "compatibility libraries that may come first": (
        but(
            files={
                "usr/local/cuda-12.6/compat/libcuda.so.1": elf(),
                "etc/ld.so.conf.d/compat.conf": "/usr/local/cuda-12.6/compat\n",
            }
        ),
        "driver",
        "unverified",
        "/etc/ld.so.conf leads to /usr/local/cuda-12.6/compat/libcuda.so.1",
        "leave the folder out of /etc/ld.so.conf.d",
    ),
    "a driver that was baked in": (
        but(
            files={
                f"{LIB}/libnvidia-ml.so.550.54": elf(),
                f"{LIB}/libnvidia-ml.so.1": At(link="libnvidia-ml.so.550.54"),
            }
        ),
        "driver",
        "failed",
        f"the image holds libraries of a driver: /{LIB}/libnvidia-ml.so.550.54",
        "copy no libcuda or libnvidia-* into it",
    ),
    "what a container with a GPU left": (
        but(files={f"{LIB}/libcuda.so.550.54": b""}),
        "driver",
        "failed",
        "the image holds empty files of a container that had a GPU",
        "",
    ),
    "GPUs that are hidden": (
        but(env={"NVIDIA_VISIBLE_DEVICES": "void"}),
        "driver",
        "failed",
        "NVIDIA_VISIBLE_DEVICES=void hides all GPUs",
        "env: {NVIDIA_VISIBLE_DEVICES: all}",
    ),
    "a driver that is not passed in whole": (
        but(env={"NVIDIA_DRIVER_CAPABILITIES": "utility,video"}),
        "driver",
        "failed",
        "NVIDIA_DRIVER_CAPABILITIES=utility,video lacks compute",
        'env: {NVIDIA_DRIVER_CAPABILITIES: "compute,utility,video"}',
    ),
    "a variable that the stub ignores": (
        but(env={"PYTHONPATH": "/opt/lib"}),
        "driver",
        "unverified",
        "PYTHONPATH is set, and the Python backend does not read it",
        "packages: {pip: [...]}",
    ),
    "another Python": (
        but(
            gone=["usr/lib/python3.11/os.py", f"{LIB}/libpython3.11.so.1.0"],
            files={
                "usr/bin/python3": At(link="python3.12"),
                "usr/bin/python3.12": At(elf(), 0o755),
                "usr/lib/python3.12/os.py": "",
            },
        ),
        "python",
        "failed",
        "the Python backend's stub was built for Python 3.11, and the image has 3.12: no Python model can start",
        "a base image with Python 3.11",
    ),
    "a second Python that packages go to": (
        but(files={"usr/bin/python3": At(link="python3.12"), "usr/bin/python3.12": At(elf(), 0o755)}),
        "python",
        "unverified",
        "the stub runs Python 3.11, and python3 of the image is 3.12",
        "python3.11 -m pip install ...",
    ),
    "NumPy 2 beside an old stub": (
        but(
            gone=[f"{PACKAGES}/numpy-1.26.4.dist-info/METADATA"],
            files={f"{PACKAGES}/numpy-2.1.0.dist-info/METADATA": ""},
        ),
        "python",
        "failed",
        "NumPy 2.1.0 beside the Python backend of 24.10: models read zeros and answer nothing, with status 200",
        'packages: {pip: ["numpy<2"]}',
    ),
    "NumPy 2 beside nobody knows what": (
        but(
            gone=[f"{PACKAGES}/numpy-1.26.4.dist-info/METADATA"],
            files={f"{PACKAGES}/numpy-2.1.0.dist-info/METADATA": ""},
            env={"NVIDIA_TRITON_SERVER_VERSION": None},
        ),
        "python",
        "unverified",
        "NumPy 2.1.0, and the image does not say of which release it is",
        "",
    ),
    "no NumPy": (
        but(gone=[f"{PACKAGES}/numpy-1.26.4.dist-info/METADATA"]),
        "python",
        "failed",
        "there is no NumPy for Python 3.11",
        "packages: {pip: [numpy<2]}",
    ),
    "a backend without its stub": (but(gone=[STUB]), "python", "failed", "the Python backend has no stub", ""),
    "a model that is missing": (
        but(Cmd=["tritonserver", "--model-repository", "/srv"], files={"srv/other/1/model.py": ""}),
        "models",
        "failed",
        "the model add is not in /srv",
        "there are: other",
    ),
    "a model without a version": (
        but(gone=["models/add/1/model.py"]),
        "models",
        "failed",
        "the model add has no version",
        "mkdir add/1",
    ),
    "a model without its file": (
        but(gone=["models/add/1/model.py"], files={"models/add/1": At(folder=True, mode=0o755)}),
        "models",
        "failed",
        "the model add has no file in /models/add/1",
        "put what python loads there",
    ),
    "a model that is empty": (
        but(
            gone=["models/add/1/model.py", "models/add/config.pbtxt"],
            files={"models/add/1": At(folder=True, mode=0o755)},
        ),
        "models",
        "failed",
        "the model add is empty",
        "",
    ),
    "a model that its user may not read": (
        but(files={"models/add/1/model.py": At(b"x", 0o600)}, User="triton-server"),
        "models",
        "failed",
        "triton-server may not read /models/add/1/model.py of the model add (mode 0600)",
        "chmod -R a+rX add",
    ),
    "a link to nothing": (
        but(files=DANGLING),
        "links",
        "failed",
        f"/{BACKENDS}/python/libextra.so is a link to ../nowhere/libextra.so, which is not in the image",
        "",
    ),
    "links in a circle": (
        but(files={"models/add/1/a": At(link="b"), "models/add/1/b": At(link="a")}),
        "links",
        "failed",
        "/models/add/1/a is a link to b",
        "",
    ),
    "a link that nothing reads": (
        but(files={f"{HOME}/LICENSE": At(link="doc/LICENSE")}),
        "links",
        "unverified",
        f"/{HOME}/LICENSE is a link to doc/LICENSE",
        "",
    ),
    "a key": (
        but(files={"root/.ssh/id_rsa": At(SOME_KEY.encode(), 0o600)}),
        "secrets",
        "failed",
        "a private key in /root/.ssh/id_rsa, line 1, of layer 1",
        "revoke it",
    ),
    "a token in a variable": (
        but(env={"SETTINGS": f"x {GITHUB}"}),
        "secrets",
        "failed",
        "a token of GitHub in the variable SETTINGS",
        "run: {env: {SETTINGS: ...}}",
    ),
    "a secret by a variable's name": (
        but(env={"DB_PASSWORD": "correct horse"}),
        "secrets",
        "failed",
        "a secret by its name in the variable DB_PASSWORD",
        "",
    ),
    "a token in a label": (
        but(Labels={"built": GITHUB}),
        "secrets",
        "failed",
        "a token of GitHub in the label built",
        "",
    ),
    "a password in the command": (
        but(Cmd=["tritonserver", "--x=https://me:s3cr3t-7@host/"]),
        "secrets",
        "failed",
        "an address with a password in the command",
        "",
    ),
    "a variable that was emptied later": (
        but(history=["ENV HF_TOKEN=abcdefgh"], env={"HF_TOKEN": ""}),
        "secrets",
        "failed",
        "a secret by its name (HF_TOKEN) in step 1 of the history",
        "",
    ),
    "a build argument in the history": (
        but(history=["COPY x", "RUN |1 NGC_API_KEY=bnZpZGlhOjEyMw /bin/sh -c true # buildkit"]),
        "secrets",
        "failed",
        "a secret by its name (NGC_API_KEY) in step 2 of the history",
        "docker build --secret",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told(place: Place, name: str) -> None:
    make, look, outcome, says, hint = BROKEN[name]
    found = place.look(make(place))
    assert found[look].outcome == outcome, found[look].message
    assert says in found[look].message
    assert hint in found[look].hint


def test_each_says_something_of_its_own(place: Place) -> None:
    said = [place.look(make(place))[look].message for make, look, *_ in BROKEN.values()]
    assert len({*said}) == len(said)
    assert not [text for text in said if GITHUB in text or "s3cr3t" in text or "MIIE" in text or "horse" in text]


def test_one_library_is_told_once_with_all_that_need_it(place: Place) -> None:
    gone = {f"{BACKENDS}/{name}/libtriton_{name}.so": elf("libre2.so.9") for name in ("a", "b")}
    found = place.look(place.image({**GOOD, **gone}))["libraries"]
    assert found.message.startswith(
        "backends/a/libtriton_a.so needs libre2.so.9 (and so do backends/b/libtriton_b.so), "
    )
    assert [row["component"] for row in found.evidence["lacking"]] == ["backends/a", "backends/b"]
    assert found.hint == "packages: {apt: [libre2-9]}"


def test_what_was_dropped_is_named(place: Place) -> None:
    upstream = place.image({f"{BACKENDS}/big/libspecial.so.3": elf()})
    entries = {
        layer.digest: take_notes(iter(place_tar(place, layer)), origin="x", scratch=place.path)[0]
        for layer in upstream.layers
    }
    dropped = dropped_libraries(Inventory(image=upstream, layers=entries), ["backends/big"])
    assert dropped == {"libspecial.so.3": "backends/big"}
    needy = place.image({**GOOD, f"{BACKENDS}/mine/libtriton_mine.so": elf("libspecial.so.3")})
    assert (
        place.look(needy, dropped=dropped)["libraries"].hint == "backends: [..., big]   (libspecial.so.3 comes with it)"
    )


def place_tar(place: Place, layer: Descriptor) -> Sequence[bytes]:
    return [gzip.decompress(b"".join(place.store.read(layer)))]


def test_no_gpu_is_wanted(place: Place) -> None:
    found = place.look(place.image({**GOOD, **COMPAT}, env={"NVIDIA_VISIBLE_DEVICES": "void"}), gpu=False)
    assert found["driver"].outcome == "skipped"


def test_variables_that_it_is_started_with(place: Place) -> None:
    files = {f"{BACKENDS}/mine/libtriton_mine.so": elf("liba.so"), f"{BACKENDS}/mine/liba.so": elf()}
    image = place.image({**GOOD, **files})
    assert place.look(image)["libraries"].outcome == "failed"
    assert place.look(image, env={"LD_LIBRARY_PATH": f"/{BACKENDS}/mine"})["libraries"].outcome == "passed"


def test_models_that_bring_their_python(place: Place) -> None:
    """The image's own is of no account then."""
    packed_env = {"models/add/config.pbtxt": 'backend: "python"\nparameters {key: "EXECUTION_ENV_PATH"}'}
    image = place.image({**without(f"{PACKAGES}/numpy-1.26.4.dist-info/METADATA"), **packed_env})
    assert place.look(image)["python"].outcome == "skipped"
    assert place.look(image, models=[])["python"].outcome == "failed"


# -- layers -------------------------------------------------------------------------------------------------------


def test_a_secret_that_a_later_layer_removes(place: Place) -> None:
    layers = [GOOD, {"root/.netrc": "machine x login me password s3cr3t-7\n"}, {"root/.wh..netrc": ""}]
    found = place.look(place.image(*layers))["secrets"]
    assert found.message.startswith("a password in /root/.netrc, line 1, of layer 2 (")
    assert found.message.endswith("): a later layer hides it, and it is in the image all the same")


def test_a_secret_that_is_known_to_be_none(place: Place) -> None:
    image = place.image(GOOD, {"root/.netrc": "machine x login me password s3cr3t-7\n"})
    told = place.look(image)["secrets"]
    assert told.outcome == "failed"
    assert "expect: {image: {known_secrets: [/root/.netrc]}}" in told.hint
    assert place.look(image, {"known_secrets": ["/root/.netrc"]})["secrets"].outcome == "passed"
    assert place.look(image, {"known_secrets": ["/root/other"]})["secrets"].outcome == "failed"


def test_what_a_later_layer_replaces(place: Place) -> None:
    """Files count as they are in the end: removed, replaced, by another name, or through a folder that is a link."""
    bad = place.image(GOOD, {f"{HOME}/lib/.wh.libtritonserver.so": ""})
    assert "needs libtritonserver.so" in place.look(bad)["libraries"].message
    good = place.image(
        {**GOOD, f"{HOME}/lib/libtritonserver.so": elf(machine="arm64")},
        {"opt/server": At(link="tritonserver"), "opt/server/lib/libtritonserver.so": elf(soname="libtritonserver.so")},
    )
    assert place.look(good)["libraries"].outcome == "passed"
    linked = place.image(
        without(f"{LIB}/libpython3.11.so.1.0"),
        {"usr/lib/python.so": elf(), f"{LIB}/libpython3.11.so.1.0": At(hard="usr/lib/python.so")},
    )
    assert place.look(linked)["libraries"].outcome == "passed"


def test_nothing_is_read_twice(place: Place) -> None:
    image = place.image(GOOD, {"a": "b"})
    first = place.look(image)
    assert place.told
    place.told.clear()
    shared = place.image(GOOD, {"c": "d"})
    for layer in image.layers:
        (place.path / "images/blobs" / layer.digest.replace(":", "/")).unlink()
    again = place.look(image)
    assert not place.told
    assert again["layers"].message.endswith("2 layers known")
    assert outcomes(again) == outcomes(first)
    assert place.look(shared)["layers"].outcome == "passed"
    assert {event.digest for event in place.told} == {shared.layers[1].digest}  # type: ignore[attr-defined]


def test_a_layer_that_cannot_be_read(place: Place) -> None:
    image = place.image(GOOD)
    path = place.path / "images/blobs" / image.layers[0].digest.replace(":", "/")
    path.write_bytes(path.read_bytes()[:-40])
    found = place.look(image)
    assert outcomes(found) == {"layers": "failed"}

    class Away(LayoutStore):
        def read(self, descriptor: Descriptor) -> Any:
            raise Unreachable("registry.example.com does not answer", hint="try again")

    away = list(
        check_image(image, Away(place.path / "images"), None, knowledge=place.knowledge, models=[], emit=ignore)
    )
    assert [(one.id, one.outcome, one.hint) for one in away] == [("image:layers", "error", "try again")]
    assert place.knowledge.notes(image.layers[0].digest, MANNER) is None


def test_what_is_half_read_ends_with_what_cannot_be_read(place: Place) -> None:
    """Two layers are read at a time: when one fails, or Ctrl-C comes, nobody waits for the other."""
    image = place.image(GOOD, {"large": bytes(1 << 20)})
    steps = 0

    class Slow(LayoutStore):
        def read(self, descriptor: Descriptor) -> Any:
            nonlocal steps
            if descriptor.digest == image.layers[0].digest:
                raise KeyboardInterrupt
            data = b"".join(super().read(descriptor))
            for at in range(len(data)):
                steps += 1
                time.sleep(0.01)
                yield data[at : at + 1]

    begun = time.monotonic()
    store = Slow(place.path / "images")
    with pytest.raises(KeyboardInterrupt):
        list(check_image(image, store, None, knowledge=place.knowledge, models=[], emit=ignore))
    assert time.monotonic() - begun < 5
    assert steps < image.layers[1].size / 2
    assert not any(place.knowledge.knows(layer.digest) for layer in image.layers)


def test_notes_come_back(tmp_path: Path) -> None:
    files = {**GOOD, "root/.ssh/id_rsa": SOME_KEY, "bad.so": b"\x7fELF\x09", "odd-\udcff": At(b"#!/bin/sh\n", 0o755)}
    _, notes, kept = take_notes([packed(files)], origin="x", scratch=tmp_path, keep={"etc/passwd"})
    assert decode(encode(notes)) == decode(encode(decode(encode(notes))))
    assert decode(encode(notes)).binaries == notes.binaries
    assert [*decode(encode(notes)).leaks] == [*notes.leaks]
    assert notes.broken == ["bad.so"]
    assert notes.programs["odd-\udcff"] == "#!/bin/sh"
    assert kept == {"etc/passwd": str(GOOD["etc/passwd"]).encode()}
    for broken in (b"", b"x", gzip.compress(b"[]"), gzip.compress(b'{"binaries": {}, "leaks": [1]}')):
        with pytest.raises(Corrupt, match="cannot be read"):
            decode(broken)


# -- what is expected ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"user": "root", "env": {"CUDA_VERSION": "12.6.2.004"}, "entrypoint": CONFIG["Entrypoint"]}, ""),
        ({"labels": {"team": "ml"}, "ports": [8000, 8001], "max_size": "1MiB"}, ""),
        ({"user": "triton-server"}, "its user is root, not triton-server"),
        ({"env": {"A": "1"}}, "the variable A is not set"),
        ({"env": {"CUDA_VERSION": "11"}}, "the variable CUDA_VERSION is '12.6.2.004', not '11'"),
        ({"labels": {"team": "x"}}, "the label team is 'ml', not 'x'"),
        ({"labels": {"teams": "x"}}, "the label teams is not set"),
        ({"ports": [8000]}, "it exposes 8000, 8001, not 8000"),
        ({"ports": []}, "it exposes 8000, 8001, not no port"),
        ({"entrypoint": ["/bin/sh"]}, "its entrypoint is /opt/nvidia/nvidia_entrypoint.sh, not /bin/sh"),
        ({"max_size": "1kb"}, "compressed, and 1 kB is the most"),
        ({"files": [{"path": "/bin/bash", "mode": "0755", "user": "root"}]}, ""),
        ({"files": [{"path": "/nowhere", "absent": True}]}, ""),
        ({"files": [{"path": "/models/add/config.pbtxt", "contains": '^backend: "py'}]}, ""),
        ({"files": [{"path": "/nowhere"}]}, "/nowhere is missing"),
        ({"files": [{"path": "/bin/bash", "absent": True}]}, "/bin/bash is there, and must not be"),
        ({"files": [{"path": "/bin/bash", "mode": "0644"}]}, "/bin/bash has mode 0755, not 0644"),
        ({"files": [{"path": "/bin/bash", "user": "triton-server"}]}, "/bin/bash belongs to 0:0, not to triton-server"),
        ({"files": [{"path": "/bin/bash", "user": "who"}]}, "/bin/bash cannot belong to who"),
        ({"files": [{"path": "/models", "contains": "x"}]}, "/models is no file"),
        (
            {"files": [{"path": "/models/add/config.pbtxt", "contains": "KIND_GPU"}]},
            "/models/add/config.pbtxt contains nothing like 'KIND_GPU'",
        ),
    ],
)
def test_expectations(place: Place, wanted: Mapping[str, Any], says: str) -> None:
    """Once with the layer unknown, once with it known: then a file is looked up in its layer again."""
    image = place.image(GOOD, Labels={"team": "ml"}, ExposedPorts={"8000/tcp": {}, "8001": {}})
    for _ in range(2):
        found = place.look(image, wanted)["expected"]
        assert found.outcome == ("failed" if says else "passed"), found.message
        assert says in found.message


# -- rules of the loader ------------------------------------------------------------------------------------------


def server_with(place: Place, files: Files, **more: Any) -> Result:
    return place.look(place.image({**GOOD, **files}, **more))["libraries"]


MINE = f"{BACKENDS}/mine/libtriton_mine.so"


@pytest.mark.parametrize(
    ("files", "env", "found"),
    [
        ({MINE: elf("liba.so", runpath="$ORIGIN/sub"), f"{BACKENDS}/mine/sub/liba.so": elf()}, {}, True),
        ({MINE: elf("liba.so", runpath="${ORIGIN}/../other"), f"{BACKENDS}/other/liba.so": elf()}, {}, True),
        ({MINE: elf("liba.so"), "x/liba.so": elf()}, {"LD_LIBRARY_PATH": "/y:/x"}, True),
        ({MINE: elf("liba.so"), "usr/lib64/liba.so": elf()}, {}, True),
        ({MINE: elf("liba.so"), "usr/lib64/liba.so": At(link="/etc/liba.so")}, {}, False),
        # An RPATH is for what the file loads too, a RUNPATH is not.
        ({MINE: elf("liba.so", rpath="/r"), "r/liba.so": elf("libb.so"), "r/libb.so": elf()}, {}, True),
        ({MINE: elf("liba.so", runpath="/r"), "r/liba.so": elf("libb.so"), "r/libb.so": elf()}, {}, False),
        # Where there is a RUNPATH, no RPATH counts.
        (
            {MINE: elf("liba.so", rpath="/r"), "r/liba.so": elf("libb.so", runpath="/s"), "r/libb.so": elf()},
            {},
            False,
        ),
        # What is loaded already goes by its soname.
        ({MINE: elf("liba.so", "libb.so", runpath="/r"), "r/liba.so": elf(soname="libb.so")}, {}, True),
        # The first that is for this machine.
        ({MINE: elf("liba.so", runpath="/r"), "r/liba.so": elf(machine="arm64"), "usr/lib/liba.so": elf()}, {}, True),
        # What its server has loaded.
        ({MINE: elf("libtritonserver.so", "libstdc++.so.6")}, {}, True),
        # Versions: weak ones may be missing, and a library without any is let pass.
        ({MINE: elf("libc.so.6", versions={"libc.so.6": ["GLIBC_2.99"]}, weak=["GLIBC_2.99"])}, {}, True),
        ({MINE: elf("liba.so", versions={"liba.so": ["A_1"]}), "usr/lib/liba.so": elf()}, {}, True),
        ({MINE: elf("liba.so", versions={"liba.so": ["A_1"]}), "usr/lib/liba.so": elf(offers=["A_0"])}, {}, False),
    ],
)
def test_where_the_loader_looks(place: Place, files: Files, env: Mapping[str, str], found: bool) -> None:
    told = server_with(place, files, env=env)
    assert told.outcome == ("passed" if found else "failed"), told.message


def test_the_loaders_files() -> None:
    texts = {
        "etc/ld.so.conf": "# ours\ninclude ld.so.conf.d/*.conf\n/opt/last  # here\n",
        "etc/ld.so.conf.d/b.conf": "/b/lib\n",
        "etc/ld.so.conf.d/a.conf": "/a/lib\n\n",
    }
    assert configured_folders(texts) == ("a/lib", "b/lib", "opt/last")
    assert configured_folders({}) == ()
    assert expanded("$ORIGIN/../$LIB/${PLATFORM}/./x", "opt/a/b.so", "amd64") == "opt/lib/x86_64/x"
    assert read_cache(b"something else") == ""


# -- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("srv/key.pem", SOME_KEY, "a private key"),
        ("srv/account.json", json.dumps({"private_key": SOME_KEY}), "a private key"),
        ("a.ppk", "PuTTY-User-Key-File-3: ssh-rsa\n", "a PuTTY private key"),
        ("root/.aws/credentials", "[default]\naws_access_key_id = AKIA" + "Z2Y3" * 4, "an access key of AWS"),
        ("x", "aws_secret_access_key=" + "aB3/" * 10, "a secret key of AWS"),
        ("x.sh", f"git clone https://{GITHUB}@github.com/a/b", "a token of GitHub"),
        ("x", "github_pat_" + "a" * 22 + "_" + "b" * 59, "a token of GitHub"),
        ("x", "glpat-" + "a1" * 10, "a token of GitLab"),
        ("x", "xoxb-123456789012-" + "a1" * 12, "a token of Slack"),
        ("x", "sk_live_" + "a1" * 12, "a key of Stripe"),
        ("x", "HF=hf_" + "aB" * 17, "a token of Hugging Face"),
        ("x", "npm_" + "a1" * 18, "a token of npm"),
        ("x", "pypi-AgEIcHlwaS5vcmc" + "a1" * 30, "a token of PyPI"),
        ("x", "nvapi-" + "a1" * 32, "an API key of NVIDIA"),
        ("x", "sk-proj-" + "a1" * 10 + "T3BlbkFJ" + "b2" * 10, "a key of OpenAI"),
        ("x", "sk-ant-api03-" + "a1" * 40, "a key of Anthropic"),
        ("x", "AccountKey=" + "aB" * 43 + "==", "a key of Azure Storage"),
        ("root/.netrc", "machine h\n  login me\n  password s3cr3t-7", "a password"),
        ("root/.docker/config.json", '{"auths": {"h": {"auth": "bWU6czNjcjN0"}}}', "a login to a registry"),
        ("etc/pip.conf", "[global]\nindex-url = https://me:s3cr3t-7@host/simple", "an address with a password"),
        ("root/.pypirc", "[pypi]\nusername: me\npassword: s3cr3t-7", "a password"),
        ("root/.npmrc", "//registry.npmjs.org/:_authToken=abcdef-123", "a token of a package registry"),
        ("etc/apt/sources.list.d/x.list", "deb https://me:s3cr3t-7@host/ x main", "an address with a password"),
        ("root/.pgpass", "h:5432:db:me:s3cr3t-7", "a password"),
        ("root/.kube/config", "users:\n- user:\n    token: eyJhbGciOi", "a login to Kubernetes"),
        ("srv/app/.env", "export DB_PASSWORD='s3cr3t-7'", "a secret in a file of variables"),
        ("root/.ngc/config", "[CURRENT]\napikey = b2ggbXk", "an API key of NVIDIA"),
    ],
)
def test_secrets(path: str, text: str, what: str) -> None:
    found = [*leaks(path, text.encode())]
    assert [one.what for one in found] == [what]
    assert worth_reading(path, len(text))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("x.py", 'if line.startswith("-----BEGIN RSA PRIVATE KEY-----"):\n    read(line)\n'),
        ("x.md", "AKIAIOSFODNN7EXAMPLE, aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("x.py", "https://user:password@host/ and ghp_short and hf_hub_download_something_or_other_x"),
        ("etc/pip.conf", "[global]\nindex-url = https://${USER}:${PASSWORD}@host/simple\nextra = https://host:8080/@x"),
        ("root/.netrc", "machine h login anonymous password $PASSWORD"),
        ("root/.docker/config.json", '{"auths": {"h": {}}, "credsStore": "x"}'),
        ("root/.docker/config.json", "[]"),
        (
            "srv/.env",
            "TOKENIZERS_PARALLELISM=false\nMAX_TOKEN=4096\nPASSWORD=changeme\nSECRET_FILE=/run/x\nTOKEN=${TOKEN}",
        ),
        ("data", "\0" + SOME_KEY),
    ],
)
def test_no_secrets(path: str, text: str) -> None:
    assert [*leaks(path, text.encode())] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("key.pem", "-----BEGIN PRIVATE KEY-----\n" + "nn: \n" * 40_000),
        ("root/.gitconfig", "a" * MOST),
        ("root/.kube/config", "\n" * MOST),
        ("root/.ngc/config", "\n" * MOST),
        ("root/.netrc", "password " * (MOST // 9)),
        ("root/.docker/config.json", "[" * MOST),
    ],
)
def test_texts_that_are_made_to_be_searched_for_long_are_not(path: str, text: str) -> None:
    begun = time.process_time()
    list(leaks(path, text.encode()))
    assert time.process_time() - begun < 5


def test_headers_of_a_key_are_part_of_it() -> None:
    lines = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{lines}n{'A' * 63}\n"
    assert [leak.what for leak in leaks("a/key", key.encode())] == ["a private key"]


@pytest.mark.parametrize(
    "path",
    [
        "usr/share/doc/x/key.pem",
        "usr/local/lib/python3.11/dist-packages/tornado/test/test.key",
        "usr/lib/python3.11/test/keycert.pem",
        "etc/ssl/private/ssl-cert-snakeoil.key",
    ],
)
def test_keys_that_the_world_has(path: str) -> None:
    assert not worth_reading(path, 100)
    assert worth_reading("srv/test.key", 100)
    assert not worth_reading("srv/test.key", 1 << 30)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("DB_PASSWORD", "s3cr3t-7", True),
        ("NGC_API_KEY", "abcdefgh", True),
        ("secretAccessKey".upper(), "abc", False),
        ("HF_TOKEN", "abcdef", True),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("HF_TOKEN", "", False),
        ("HF_TOKEN", "<token>", False),
        ("HF_TOKEN_PATH", "cache/token", False),
        ("PASSWORD_FILE", "/run/secrets/x", False),
        ("SECRET", "/run/secrets/x", False),
        ("NVIDIA_REQUIRE_CUDA", "cuda>=9.0", False),
    ],
)
def test_variables(name: str, value: str, secret: bool) -> None:
    assert bool(told_by_name(name, value)) is secret


def test_lines_of_history() -> None:
    assert [*told_by_text('RUN curl -H "Authorization: Bearer abcdefghijklmnop1234" https://x')] == ["a login"]
    assert [*told_by_text("RUN git clone https://me:s3cr3t-7@host/x")] == ["an address with a password"]
    assert [*told_by_text("RUN pip install https://host/a#sha256=" + "0" * 64)] == []
    assert assignments("RUN |2 A=1 TOKEN=xy /bin/sh -c echo B=2; true") == {"A": "1", "TOKEN": "xy", "B": "2"}
