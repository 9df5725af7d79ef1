"""Python wheels: which ones, at which version, with which digest, and the files in them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from .inputs import UpstreamError, run, settle, workspace
from .layers import Entry

PLATFORMS = ("2_35", "2_28", "2_27", "2_17")
"""The glibc of Debian bookworm is 2.36: these are the manylinux tags among the wheels below that it satisfies."""


@dataclass(frozen=True)
class Wheel:
    """A wheel for CPython 3.11 on x86_64, whatever Python runs this."""

    name: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The wheel as a line of a requirements file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


PYTRITON = Wheel("nvidia-pytriton", "0.7.0", "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df")
NUMPY = Wheel("numpy", "1.26.4", "666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5")
ORT = Wheel("onnxruntime", "1.19.2", "a36511dc07c5c964b916697e42e366fa43c48cdb3d3503578d78cef30417cb84")
ORT_GPU = Wheel("onnxruntime-gpu", "1.19.2", "562fc7c755393eaad9751e56149339dd201ffbfdb3ef5f43ff21d0619ba9045f")
CUDART = Wheel(
    "nvidia-cuda-runtime-cu12", "12.6.77", "ba3b56a4f896141e25e19ab287cd71e52a6a0f4b29d0d31609f60e3b4d5219b7"
)
NVRTC = Wheel("nvidia-cuda-nvrtc-cu12", "12.6.77", "35b0cc6ee3a9636d5409133e79273ce1f3fd087abb0532d2d2e8fff1fe9efc53")
NVJITLINK = Wheel(
    "nvidia-nvjitlink-cu12", "12.6.77", "9ae346d16203ae4ea513be416495167a0101d33d2d14935aa9c1829a3fb45142"
)
NVJPEG = Wheel("nvidia-nvjpeg-cu12", "12.3.3.54", "2816e85dab4d37cdd721af10dda23d4e74d0480ce6ce7de6837ab730dfc5bf31")
CUBLAS = Wheel("nvidia-cublas-cu12", "12.6.3.3", "f33fb68e101d99470c82d17f92a0dd9f74de2a21685c217f4716cdd63b1316eb")
CUDNN = Wheel("nvidia-cudnn-cu12", "9.5.0.50", "518d6cffad7d707871dfb9af667ddb619144f78d85b07f64c1e52449e6da6b9c")
CUFFT = Wheel("nvidia-cufft-cu12", "11.3.0.4", "ccba62eb9cef5559abd5e0d54ceed2d9934030f51163df018532142a8ec533e5")
CURAND = Wheel("nvidia-curand-cu12", "10.3.7.77", "a42cd1344297f70b9e39a1e4f467a4e1c10f1da54ff7a85c12197f6c652c8bdf")
CUSOLVER = Wheel("nvidia-cusolver-cu12", "11.7.1.2", "e9e49843a7707e42022babb9bcfa33c29857a93b88020c4e4434656a655b698c")
CUSPARSE = Wheel("nvidia-cusparse-cu12", "12.5.4.2", "7556d9eca156e18184b94947ade0fba5bb47d69cec46bf8660fd2c71a4b48b73")
NCCL = Wheel("nvidia-nccl-cu12", "2.22.3", "f9f5e03c00269dee2cd1aa57019f9a024478a74ae6e9b32d5341c849fe6f6302")


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """The wheel's file, from the cache or through pip, which checks the digest. Raises `UpstreamError`."""
    place = cache / "wheels" / f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}.whl"
    if place.exists():
        return place
    with workspace(cache) as work:
        (work / "requirements.txt").write_text(wheel.requirement + "\n")
        options = ["--quiet", "--no-cache-dir", "--no-deps", "--require-hashes", f"--dest={work}"]
        run([*_pip(), "download", *options, *_target(), f"--requirement={work / 'requirements.txt'}"])
        (found,) = work.glob("*.whl")
        return settle(found, place)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if pip := shutil.which("pip3") or shutil.which("pip"):
        return [pip]
    raise UpstreamError(f"pip is needed to download wheels: {sys.executable} -m ensurepip")


def _target() -> list[str]:
    tags = [f"--platform=manylinux_{tag}_x86_64" for tag in PLATFORMS] + ["--platform=manylinux2014_x86_64"]
    return ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311", *tags]


def files(wheel: Path) -> Iterator[Entry]:
    """Every file of a wheel under its own path, mode 0644, or 0755 if it is a program."""
    archive = zipfile.ZipFile(wheel)
    for info in archive.infolist():
        if not info.is_dir():
            mode = 0o755 if (info.external_attr >> 16) & 0o111 and ".so" not in info.filename else 0o644
            yield Entry(info.filename, "file", mode, size=info.file_size, content=partial(_open, archive, info))


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    return archive.open(info)
