"""Models for a real GPU that need nothing but its driver: no CUDA toolkit, no framework."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CONFIG = """\
backend: "python"
max_batch_size: 0
{instances}
input [{{ name: "X" data_type: TYPE_FP32 dims: [ 4 ] }}]
output [{{ name: "Y" data_type: TYPE_FP32 dims: [ 4 ] }}]
"""
ON_GPU = "instance_group [{ count: 1 kind: KIND_GPU }]"

PROGRAM = """\
import ctypes
import numpy as np
import triton_python_backend_utils as pb

MIB = 1 << 20


def sent_through(cuda, context, memory, array):
    # To the GPU and back, and in between something that takes it a while.
    check(cuda.cuCtxSetCurrent(context))
    back = np.empty_like(array)
    size = ctypes.c_size_t(array.nbytes)
    check(cuda.cuMemcpyHtoD_v2(memory, array.ctypes.data_as(ctypes.c_void_p), size))
    rest = ctypes.c_uint64(memory.value + MIB)
    for _ in range(200):
        check(cuda.cuMemsetD32_v2(rest, ctypes.c_uint(7), ctypes.c_size_t(63 * MIB)))
    check(cuda.cuMemcpyDtoH_v2(back.ctypes.data_as(ctypes.c_void_p), memory, size))
    return back


def check(code):
    if code:
        raise RuntimeError(f"the CUDA driver answers {code}")


def opened(number):
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    check(cuda.cuInit(0))
    check(cuda.cuDeviceGet(ctypes.byref(device), number))
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    check(cuda.cuCtxSetCurrent(context))
    check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(256 * MIB)))
    return cuda, context, memory


class TritonPythonModel:
    def initialize(self, args):
        self.willing = WILLING and args["model_instance_kind"] == "GPU"
        self.number = int(args["model_instance_device_id"])
        self.gpu = None

    def execute(self, requests):
        responses = []
        for request in requests:
            array = np.ascontiguousarray(pb.get_input_tensor_by_name(request, "X").as_numpy())
            if self.willing:
                # Only now, so that more of the GPU's memory is seen in use than before anything was asked.
                self.gpu = self.gpu or opened(self.number)
                array = sent_through(*self.gpu, array)
            responses.append(pb.InferenceResponse([pb.Tensor("Y", 2 * array)]))
        return responses
"""
MODELS = {
    "on_gpu": (ON_GPU, True),
    # It has an instance on the GPU, and its program never goes there: as one that found no GPU build of its framework.
    "fell": (ON_GPU, False),
    # Nobody said where it should run: a server that is built for GPUs takes one that is there.
    "unsaid": ("", True),
    "on_cpu": ("instance_group [{ count: 1 kind: KIND_CPU }]", True),
}


def write_models(folder: Path, names: Iterable[str]) -> Path:
    """A repository with some of the models."""
    for name in names:
        instances, willing = MODELS[name]
        version = folder / name / "1"
        version.mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(instances=instances))
        (version / "model.py").write_text(f"WILLING = {willing}\n\n{PROGRAM}")
    return folder
