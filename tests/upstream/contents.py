"""What is in each layer, and the order of the layers: the shape of NVIDIA's images, written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from . import wheels
from .config import BASE_ENV, BASE_LABELS, FULL_LABELS, TRITON_ENV, env_step, label_step
from .debian import MERGED, Debs, database, unpacked
from .inputs import UpstreamError
from .layers import Entry, directory, hardlink, owned, symlink, text
from .wheels import Wheel

FILES = Path(__file__).with_name("files")

TRITON, RELEASE, CUDA = "2.51.0", "24.10", "12.6.77"

BASE_PACKAGES = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "findutils", "grep", "gzip", "hostname",
    "libc-bin", "libssl3", "libstdc++6", "mawk", "sed", "tar", "zlib1g",
)  # fmt: skip
EXTRA_PACKAGES = ("python3", "python3.11", "libpython3.11", "libgomp1")

QUICKSTART: Mapping[str, tuple[Wheel, ...]] = {
    "dali": (wheels.NVJPEG,),
    "fil": (wheels.NVRTC,),
    "identity": (),
    "openvino": (wheels.NVJITLINK,),
    "pytorch": (wheels.CUFFT,),
    "repeat": (),
    "square": (),
    "tensorrt": (wheels.CURAND,),
}
BENCH = {
    **QUICKSTART,
    "fil": (wheels.NVRTC, wheels.CUSOLVER),
    "onnxruntime": (wheels.ORT_GPU,),
    "pytorch": (wheels.CUFFT, wheels.CUDNN, wheels.CUSPARSE, wheels.NCCL),
    "tensorrt": (wheels.CURAND, wheels.CUBLAS),
}
BALLAST: Mapping[str, Mapping[str, tuple[Wheel, ...]]] = {"quickstart": QUICKSTART, "bench": BENCH}
"""The libraries that fill each backend's directory, by profile."""

PROFILES = tuple(BALLAST)

STUB = "pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub"
CACHE_LIBRARY = "pytriton/tritonserver/caches/local/libtritoncache_local.so"
CUFFTW = "nvidia/cufft/lib/libcufftw.so.11"


@dataclass(frozen=True)
class Materials:
    """Everything that layers are made from, on this machine's disk."""

    debs: Debs
    wheels: Mapping[Wheel, Path]


@dataclass(frozen=True)
class LayerPlan:
    """One layer: how its files come about, what they come from, and the history that Docker would have left.

    `created_by` is the step that made the layer, `then` the steps without a layer that came after it.
    """

    name: str
    created_by: str
    entries: Callable[[Materials], Iterable[Entry]]
    wheels: tuple[Wheel, ...] = ()
    debian: bool = False
    then: tuple[str, ...] = ()


def min_layers() -> tuple[LayerPlan, ...]:
    """The layers of the min image, lowest first."""
    return (
        LayerPlan(
            "debian", "/bin/sh -c #(nop) ADD file:rootfs.tar in / ", _debian, debian=True,
            then=('CMD ["/bin/bash"]', env_step(BASE_ENV)),
        ),
        LayerPlan("cuda", "RUN /bin/sh -c /nvidia/build-scripts/installCUDA.sh # buildkit", _cuda, (wheels.CUDART,)),
        LayerPlan(
            "entrypoint", "COPY nvidia_entrypoint.sh entrypoint.d/ /opt/nvidia/ # buildkit", _entrypoint,
            then=(
                'ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh"]', label_step(BASE_LABELS), env_step(TRITON_ENV),
                "WORKDIR /opt/tritonserver",
            ),
        ),
    )  # fmt: skip


def full_layers(profile: str) -> tuple[LayerPlan, ...]:
    """The layers that the full image adds to those of min, lowest first."""
    ballast = BALLAST[profile]
    needed = (wheels.PYTRITON, *sorted({w for ws in ballast.values() for w in ws}, key=lambda wheel: wheel.name))
    return (
        LayerPlan("user", "RUN /bin/sh -c useradd triton-server # buildkit", _user, debian=True),
        LayerPlan(
            "packages", "RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends"
            f" {' '.join(EXTRA_PACKAGES)} && pip3 install 'numpy<2' onnxruntime # buildkit",
            _packages, (wheels.NUMPY, wheels.ORT), debian=True,
        ),
        LayerPlan(
            "entrypoint-d", "COPY docker/entrypoint.d/ /opt/nvidia/entrypoint.d/ # buildkit", _entrypoint_parts
        ),
        LayerPlan(
            f"tritonserver-{profile}", "COPY --chown=1000:1000 build/install /opt/tritonserver # buildkit",
            lambda materials: _tritonserver(materials, ballast), needed,
        ),
        LayerPlan(
            "sagemaker", "COPY --chown=1000:1000 --chmod=755 docker/sagemaker/serve /usr/bin/. # buildkit", _serve,
            then=(label_step(FULL_LABELS),),
        ),
    )  # fmt: skip


def _debian(materials: Materials) -> Iterator[Entry]:
    entries = {entry.path: entry for entry in unpacked(materials.debs.base)}
    yield from entries.values()
    yield from (symlink(name, f"usr/{name}") for name in MERGED)
    yield directory("usr/lib64")
    yield from database(materials.debs.base)
    for name in ("passwd", "group"):
        yield replace(_found(entries, f"usr/share/base-passwd/{name}.master"), path=f"etc/{name}")
    yield replace(_found(entries, "usr/share/libc-bin/nsswitch.conf"), path="etc/nsswitch.conf")
    yield text("etc/hostname", "localhost\n")
    yield symlink("usr/bin/awk", "mawk")
    yield symlink("usr/bin/which", "which.debianutils")


def _found(entries: Mapping[str, Entry], path: str) -> Entry:
    if path not in entries:
        raise UpstreamError(f"no package has /{path}: has the suite changed?")
    return entries[path]


def _cuda(materials: Materials) -> Iterator[Entry]:
    root, target = "usr/local/cuda-12.6", "targets/x86_64-linux"
    for entry in _libraries(materials.wheels[wheels.CUDART]):
        yield replace(entry, path=f"{root}/{target}/lib/{_name(entry)}.6.77")
    yield symlink(f"{root}/{target}/lib/libcudart.so.12", "libcudart.so.12.6.77")
    yield symlink(f"{root}/{target}/lib/libcudart.so", "libcudart.so.12")
    yield symlink(f"{root}/lib64", f"{target}/lib")
    yield text(f"{root}/version.json", f'{{"cuda": {{"name": "CUDA SDK", "version": "{CUDA}"}}}}\n')
    yield symlink("usr/local/cuda", "cuda-12.6")
    yield symlink("usr/local/cuda-12", "cuda-12.6")
    yield text("etc/ld.so.conf.d/000_cuda.conf", "/usr/local/cuda/targets/x86_64-linux/lib\n")
    yield text("etc/ld.so.conf.d/nvidia.conf", "/usr/local/nvidia/lib\n/usr/local/nvidia/lib64\n")


def _entrypoint(_: Materials) -> Iterator[Entry]:
    yield _own("nvidia_entrypoint.sh", "opt/nvidia/nvidia_entrypoint.sh", 0o755)
    yield from _parts(FILES / "entrypoint.d-min")


def _entrypoint_parts(_: Materials) -> Iterator[Entry]:
    yield from _parts(FILES / "entrypoint.d")


def _parts(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.iterdir()):
        yield _own(f"{folder.name}/{path.name}", f"opt/nvidia/entrypoint.d/{path.name}", 0o664)


def _own(name: str, path: str, mode: int = 0o644) -> Entry:
    """A file of the directory `files` beside this module."""
    return text(path, (FILES / name).read_bytes(), mode)


def _user(materials: Materials) -> Iterator[Entry]:
    entries = {entry.path: entry for entry in unpacked(materials.debs.base)}
    lines = {"passwd": "triton-server:x:1000:1000::/home/triton-server:/bin/sh\n", "group": "triton-server:x:1000:\n"}
    for name, line in lines.items():
        master = _found(entries, f"usr/share/base-passwd/{name}.master")
        yield text(f"etc/{name}", _bytes(master) + line.encode())


def _bytes(entry: Entry) -> bytes:
    if entry.content is None:
        return b""
    with entry.content() as content:
        return content.read()


def _packages(materials: Materials) -> Iterator[Entry]:
    yield from unpacked(materials.debs.extra)
    yield from database(materials.debs.extra, known=materials.debs.base)
    for wheel in (wheels.NUMPY, wheels.ORT):
        for entry in wheels.files(materials.wheels[wheel]):
            yield replace(entry, path=f"usr/local/lib/python3.11/dist-packages/{entry.path}")


def _tritonserver(materials: Materials, ballast: Mapping[str, tuple[Wheel, ...]]) -> list[Entry]:
    server = {entry.path: entry for entry in wheels.files(materials.wheels[wheels.PYTRITON])}
    tiny = _found(server, CACHE_LIBRARY)
    entries = [*_server(server), *_documents(server)]
    entries.append(replace(tiny, path="repoagents/checksum/libtritonrepoagent_checksum.so"))
    entries.append(_own("onnxruntime_backend.py", "backends/onnxruntime/model.py"))
    for backend, filling in ballast.items():
        entries += _backend(backend, tiny, [materials.wheels[wheel] for wheel in filling])
    return owned((_below(entry) for entry in entries), "opt/tritonserver", 1000)


def _below(entry: Entry) -> Entry:
    link = f"opt/tritonserver/{entry.link}" if entry.kind == "hardlink" else entry.link
    return replace(entry, path=f"opt/tritonserver/{entry.path}", link=link)


def _server(wheel: Mapping[str, Entry]) -> Iterator[Entry]:
    """The real server: bin, lib, backends/python and caches/local."""
    for path, entry in wheel.items():
        if path.startswith("nvidia_pytriton.libs/") and not _name(entry).startswith("libpython3-"):
            yield replace(entry, path=f"lib/{_name(entry)}")
            if _name(entry).startswith("libtritonserver-"):
                yield symlink("lib/libtritonserver.so", _name(entry))
        elif path.startswith(("pytriton/tritonserver/backends/", "pytriton/tritonserver/caches/")):
            yield replace(entry, path=path.removeprefix("pytriton/tritonserver/"))
    yield replace(_found(wheel, "pytriton/tritonserver/bin/tritonserver"), path="bin/tritonserver", mode=0o755)
    yield replace(_found(wheel, STUB), path="backends/python/triton_python_backend_stub", mode=0o755)


def _documents(wheel: Mapping[str, Entry]) -> Iterator[Entry]:
    yield text("TRITON_VERSION", f"{TRITON}\n")
    licence = next(path for path in wheel if path.endswith(".dist-info/licenses/LICENSE"))
    yield replace(wheel[licence], path="LICENSE")
    yield _own("NVIDIA_Deep_Learning_Container_License.pdf", "NVIDIA_Deep_Learning_Container_License.pdf")
    yield _own("tritonserver.h", "include/triton/core/tritonserver.h")
    yield text("third-party-src/README", "A stand-in for the sources that licences ask NVIDIA to ship.\n")


def _backend(name: str, tiny: Entry, filling: Iterable[Path]) -> Iterator[Entry]:
    """A backend that is only ballast: a small real library under the backend's name, and big real ones."""
    root = f"backends/{name}"
    if name != "onnxruntime":
        yield replace(tiny, path=f"{root}/libtriton_{name}.so")
    for entry in (entry for wheel in filling for entry in _libraries(wheel)):
        if entry.path == CUFFTW:
            yield replace(entry, path=f"{root}/libtriton_{name}.so")
        else:
            yield from _laid(root, entry)


def _laid(root: str, entry: Entry) -> Iterator[Entry]:
    """One library, with the links that its makers ship beside it for two of them."""
    if _name(entry) == "libcufft.so.11":
        yield replace(entry, path=f"{root}/libcufft.so.11.3.0")
        yield symlink(f"{root}/libcufft.so.11", "libcufft.so.11.3.0")
        yield symlink(f"{root}/libcufft.so", "libcufft.so.11")
        return
    yield replace(entry, path=f"{root}/{_name(entry)}")
    if _name(entry) == "libnvJitLink.so.12":
        yield hardlink(f"{root}/libnvJitLink.so.12.6.77", f"{root}/libnvJitLink.so.12")


def _libraries(wheel: Path) -> Iterator[Entry]:
    """The shared libraries of a wheel that are no Python modules."""
    return (entry for entry in wheels.files(wheel) if ".so" in _name(entry) and _name(entry).startswith("lib"))


def _name(entry: Entry) -> str:
    return PurePosixPath(entry.path).name


def _serve(_: Materials) -> list[Entry]:
    return owned([_own("serve", "usr/bin/serve", 0o755)], "usr/bin/serve", 1000)
