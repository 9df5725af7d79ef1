"""Why trtexec failed, in words, and what to do: from what it has said and its exit status.

What it says is known from its source, from that of onnx-tensorrt, and from issues of github.com/NVIDIA/TensorRT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_SIGNS: Final[Sequence[tuple[str, str, str]]] = (
    (
        r"Unknown option: (?P<it>\S+)",
        "this trtexec has no flag {it}",
        "its TensorRT is not the one that its image names: docker run --rm {image} trtexec --help",
    ),
    (
        r"(?:could not find plugin|Plugin not found).*",
        "the model has an operator that TensorRT lacks{op}, and no plugin for it was given",
        "plugins: [./libyours.so], or export the model with standard operators (another opset may do)",
    ),
    (
        r"UNSUPPORTED_NODE.*|[Uu]nsupported operator (?P<it>\S+)",
        "the model has an operator that TensorRT cannot convert{op}",
        "export the model with another opset: torch.onnx.export(..., opset_version=17); or plugins: [./libyours.so]",
    ),
    (
        r"no optimization profile has been defined|Required optimization profile is invalid",
        "TensorRT was not told the shapes of all inputs",
        "shapes: {INPUT: {min: [1, ...], opt: [8, ...], max: [32, ...]}}",
    ),
    (
        r"driver version is insufficient|forward compatibility was attempted|unsupported display driver",
        "the NVIDIA driver of this machine is too old for the container's CUDA",
        "nvidia-smi shows its version; which one a release needs: "
        "https://docs.nvidia.com/deeplearning/frameworks/support-matrix",
    ),
    (
        r"Cannot find any available devices|no CUDA-capable device|Cannot find device ID",
        "trtexec sees no GPU in the container",
        "docker run --rm --gpus all {image} nvidia-smi",
    ),
    (
        r"out of memory|OutOfMemory|GPU memory .* could not be allocated|bad_alloc",
        "there was not enough memory on the GPU",
        "stop what else runs on it (nvidia-smi), or less workspace (workspace: 1GiB), or smaller max shapes",
    ),
    (
        r"insufficient workspace|try increasing the workspace size",
        "the workspace is too small for one of the layers",
        "workspace: 8GiB, or remove it: then all of the GPU's memory may be used",
    ),
    (
        r"Could not find any implementation for node (?P<it>\S+)",
        "TensorRT has no kernel for {it} that fits",
        "more workspace, another precision, or flags: {builderOptimizationLevel: 3}",
    ),
    (
        r"does not (?:support|have fast native) (?:FP16|FP8|INT8|BF16|fp16|fp8|int8|bf16)\b.*",
        "this GPU does not compute in that type",
        "precision: fp16",
    ),
    (
        r"(?P<it>\S+\.so[.\d]*): cannot open shared object file",
        "a plugin needs {it}, which the container lacks",
        "name it in plugins as well, before the one that needs it",
    ),
    (
        r"undefined symbol: (?P<it>\S+)",
        "a plugin was built for another TensorRT: it lacks {it}",
        "build it against {image}",
    ),
    (
        r"[Ff]ailed to parse (?:ONNX model|onnx file).*|ModelImporter.*ERROR.*",
        "TensorRT cannot read the model",
        "see the lines above; the model's opset may be too new for this release",
    ),
)
"""What trtexec says, what it means, and what to do: the first that fits, from the cause to its consequences."""

_CODES: Final = {
    127: ("the image has no trtexec", "an image of nvcr.io/nvidia/tensorrt: convert: {image: ...}"),
    137: ("it was killed, as it is for want of memory", "free -h; docker info --format '{{.MemTotal}}'"),
}


def explain(said: Sequence[str], code: int, *, image: str) -> tuple[str, str]:
    """What kept trtexec from making a plan, and what to do. `image` is the one that it ran in."""
    message, hint = _CODES.get(code) or _reason("\n".join(said))
    return message, hint.replace("{image}", image)


def _reason(text: str) -> tuple[str, str]:
    for sign, message, hint in _SIGNS:
        if found := re.search(sign, text):
            unknown = re.findall(r"No importer registered for op: (\w+)", text)
            operator = f" ({unknown[-1]})" if unknown else ""
            it = found.groupdict().get("it") or "it"
            return message.replace("{it}", it).replace("{op}", operator), hint
    return "trtexec failed", "its last lines say why; all of them are shown with --verbose"
