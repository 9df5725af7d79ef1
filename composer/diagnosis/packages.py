"""Which package, or which part of a Triton image, brings a library: by its name. Facts, for hints.

Source: the contents of Ubuntu 22.04 and 24.04 (libraries of Debian 12 have the same names), NVIDIA's repository for
CUDA, and the folders of NVIDIA's images as `releases.toml` has them.
"""

from __future__ import annotations

import re
from typing import Final

_APT: Final = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libICE.so.6": "libice6",
    "libSM.so.6": "libsm6",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libaio.so.1": "libaio1",
    "libarchive.so.13": "libarchive13",
    "libasound.so.2": "libasound2",
    "libatomic.so.1": "libatomic1",
    "libb64.so.0d": "libb64-0d",
    "libbz2.so.1.0": "libbz2-1.0",
    "libcairo.so.2": "libcairo2",
    "libcrypto.so.3": "libssl3",
    "libcurl.so.4": "libcurl4",
    "libdcgm.so.4": "datacenter-gpu-manager-4-core",
    "libexpat.so.1": "libexpat1",
    "libffi.so.7": "libffi7",
    "libffi.so.8": "libffi8",
    "libgcc_s.so.1": "libgcc-s1",
    "libgfortran.so.5": "libgfortran5",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgobject-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libibverbs.so.1": "libibverbs1",
    "libjemalloc.so.2": "libjemalloc2",
    "liblzma.so.5": "liblzma5",
    "libmagic.so.1": "libmagic1",
    "libnuma.so.1": "libnuma1",
    "libopenblas.so.0": "libopenblas0",
    "libpoppler-cpp.so.0": "libpoppler-cpp0v5",
    "libportaudio.so.2": "libportaudio2",
    "libquadmath.so.0": "libquadmath0",
    "librdmacm.so.1": "librdmacm1",
    "libsndfile.so.1": "libsndfile1",
    "libsox.so.3": "libsox3",
    "libsqlite3.so.0": "libsqlite3-0",
    "libssl.so.1.1": "libssl1.1",
    "libssl.so.3": "libssl3",
    "libstdc++.so.6": "libstdc++6",
    "libtbb.so.12": "libtbb12",
    "libtbb.so.2": "libtbb2",
    "libtcmalloc.so.4": "libgoogle-perftools4",
    "libtcmalloc_minimal.so.4": "libtcmalloc-minimal4",
    "libunwind.so.8": "libunwind8",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libuuid.so.1": "libuuid1",
    "libxcb.so.1": "libxcb1",
    "libxml2.so.2": "libxml2",
    "libyaml-0.so.2": "libyaml-0-2",
    "libz.so.1": "zlib1g",
    "libzbar.so.0": "libzbar0",
    "libzstd.so.1": "libzstd1",
}

_NUMBERED: Final = (
    (re.compile(r"libpython(3\.\d+)\.so\.1\.0"), r"libpython\1"),
    (re.compile(r"libre2\.so\.(\d+)"), r"libre2-\1"),
    (re.compile(r"libdcgm\.so\.\d+"), "datacenter-gpu-manager"),
    (re.compile(r"libcudnn(?:_\w+)?\.so\.(8|9)"), r"libcudnn\1-cuda-{major}"),
    (re.compile(r"libnccl\.so\.2"), "libnccl2"),
    (re.compile(r"libnvinfer\.so\.(\d+)"), r"libnvinfer\1"),
    (re.compile(r"libnvinfer_plugin\.so\.(\d+)"), r"libnvinfer-plugin\1"),
    (re.compile(r"libnvonnxparser\.so\.(\d+)"), r"libnvonnxparsers\1"),
    (re.compile(r"libcudart\.so\.\d+"), r"cuda-cudart-{cuda}"),
    (re.compile(r"libcublas(?:Lt)?\.so\.\d+"), r"libcublas-{cuda}"),
    (re.compile(r"libcufftw?\.so\.\d+"), "libcufft-{cuda}"),
    (re.compile(r"libcurand\.so\.\d+"), "libcurand-{cuda}"),
    (re.compile(r"libcusolver(?:Mg)?\.so\.\d+"), "libcusolver-{cuda}"),
    (re.compile(r"libcusparse\.so\.\d+"), "libcusparse-{cuda}"),
    (re.compile(r"libnvrtc\.so\.\d+"), "cuda-nvrtc-{cuda}"),
    (re.compile(r"libcupti\.so\.\d+"), "cuda-cupti-{cuda}"),
)

_COMPONENTS: Final = (
    (re.compile(r"lib(?:torch\w*|c10\w*|caffe2\w*)\.so.*"), "backends/pytorch"),
    (re.compile(r"libonnxruntime\w*\.so.*"), "backends/onnxruntime"),
    (re.compile(r"lib(?:openvino\w*|plugins\.xml)\.so.*"), "backends/openvino"),
    (re.compile(r"libdali\w*\.so.*"), "backends/dali"),
    (re.compile(r"libtensorflow\w*\.so.*"), "backends/tensorflow"),
    (re.compile(r"libtriton_(\w+)\.so"), r"backends/\1"),
    (re.compile(r"libtritoncache_(\w+)\.so"), r"caches/\1"),
    (re.compile(r"libtritonrepoagent_(\w+)\.so"), r"repoagents/\1"),
)


def package_with(library: str, cuda: str) -> str | None:
    """The package of Ubuntu, or of NVIDIA's repository for a version of CUDA (`12.6.2`), that brings a library."""
    if library in _APT:
        return _APT[library]
    name = next((found.expand(name) for form, name in _NUMBERED if (found := form.fullmatch(library))), None)
    major, minor, *_ = [*cuda.split("."), "", ""]
    if name is None or ("{" in name and not (major and minor)):
        return None
    return name.format(major=major, cuda=f"{major}-{minor}")


def component_with(library: str) -> str | None:
    """The backend, cache or repository agent of NVIDIA's images that brings a library: `backends/pytorch`."""
    return next((found.expand(name) for form, name in _COMPONENTS if (found := form.fullmatch(library))), None)
