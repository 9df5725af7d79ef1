"""What NVIDIA's images say of themselves: environment, labels, entrypoint and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .layers import EPOCH, Layer

CREATED = datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

BASE_ENV = {
    "PATH": "/opt/tritonserver/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin"
    ":/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": "/opt/tritonserver/lib:/usr/local/cuda/compat/lib:/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
    "CUDA_VERSION": "12.6.2.004",
    "CUDA_DRIVER_VERSION": "560.35.03",
    "CUDA_CACHE_DISABLE": "1",
    "CUDNN_VERSION": "9.5.0.50",
    "NCCL_VERSION": "2.22.3",
    "TRT_VERSION": "10.5.0.18",
    "NVIDIA_REQUIRE_CUDA": "cuda>=9.0",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility,video",
    "_CUDA_COMPAT_PATH": "/usr/local/cuda/compat",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
}
TRITON_ENV = {
    "TRITON_SERVER_VERSION": "2.51.0",
    "NVIDIA_TRITON_SERVER_VERSION": "24.10",
    "UCX_MEM_EVENTS": "no",
    "TF_ADJUST_HUE_FUSED": "1",
    "TF_ADJUST_SATURATION_FUSED": "1",
    "TF_ENABLE_WINOGRAD_NONFUSED": "1",
    "TF_AUTOTUNE_THRESHOLD": "2",
    "TRITON_SERVER_GPU_ENABLED": "1",
    "TRITON_SERVER_USER": "triton-server",
    "DEBIAN_FRONTEND": "noninteractive",
    "TCMALLOC_RELEASE_RATE": "200",
    "DCGM_VERSION": "3.2.6",
    "NVIDIA_PRODUCT_NAME": "Triton Server",
    "NVIDIA_BUILD_ID": "0",
}
BASE_LABELS = {
    "com.nvidia.volumes.needed": "nvidia_driver",
    "com.nvidia.cuda.version": "9.0",
    "com.nvidia.cudnn.version": "9.5.0.50",
    "com.nvidia.nccl.version": "2.22.3",
    "com.nvidia.tensorrt.version": "10.5.0.18",
    "com.nvidia.tritonserver.version": "2.51.0",
    "com.nvidia.build.id": "0",
    "com.nvidia.build.ref": "0000000000000000000000000000000000000000",
    "maintainer": "the tests of tricompose: a stand-in, not NVIDIA's image",
}
FULL_LABELS = {
    "com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true",
    "com.amazonaws.sagemaker.capabilities.multi-models": "true",
}
"""What only the full image adds."""

ENTRYPOINT = ["/opt/nvidia/nvidia_entrypoint.sh"]


def env_step(values: Mapping[str, str]) -> str:
    """The line of history that BuildKit writes for `ENV`."""
    return "ENV " + " ".join(f"{name}={value}" for name, value in values.items())


def label_step(values: Mapping[str, str]) -> str:
    """The line of history that BuildKit writes for `LABEL`."""
    return "LABEL " + " ".join(f"{name}={value}" for name, value in values.items())


def history(created_by: str, *, empty: bool) -> dict[str, Any]:
    """One entry of the history; an empty one has no layer."""
    entry: dict[str, Any] = {"created": CREATED, "created_by": created_by, "comment": "buildkit.dockerfile.v0"}
    return {**entry, "empty_layer": True} if empty else entry


def configuration(
    layers: Sequence[Layer], steps: Sequence[dict[str, Any]], extra_labels: Mapping[str, str]
) -> dict[str, Any]:
    """The OCI image configuration."""
    return {
        "created": CREATED,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": [f"{name}={value}" for name, value in {**BASE_ENV, **TRITON_ENV}.items()],
            "Entrypoint": ENTRYPOINT,
            "Cmd": ["/bin/bash"],
            "WorkingDir": "/opt/tritonserver",
            "Labels": {**BASE_LABELS, **extra_labels},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": list(steps),
    }
