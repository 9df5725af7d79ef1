"""What this machine's NVIDIA driver says of its GPUs, and of the processes on them. Nothing in a container is asked.

Goes through `nvidia-ml-py`, NVIDIA's own binding to the library that comes with the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

_UNITS: Final = 32
"""Parts that a GPU can be cut into, at most; today it is 7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU. What the driver does not tell is None or empty.

    `memory_total` and `memory_used` are bytes, `utilisation` 0 to 1, `energy` joules since the driver was loaded.
    `processes` are bytes of GPU memory by process (None: not told), with the numbers that processes have on this
    machine. `mig` are the UUIDs of the parts that it is cut into, where it is; their processes count as its own.
    """

    index: int
    uuid: str
    name: str
    memory_total: int | None = None
    memory_used: int | None = None
    compute_capability: str = ""
    utilisation: float | None = None
    energy: float | None = None
    processes: Mapping[int, int | None] = field(default_factory=dict)
    mig: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The GPUs of this machine at one moment. `trouble` says why the driver could not be asked, if so."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    trouble: str = ""


def look() -> Look:
    """Ask the driver. Never raises: a machine without one has no GPUs, and says why."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        return Look(trouble=f"NVIDIA's driver cannot be asked: {error}")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Look(trouble=_why(pynvml, error))
    try:
        return _look(pynvml)
    except pynvml.NVMLError as error:
        return Look(trouble=f"NVIDIA's driver does not answer: {error}")
    finally:
        pynvml.nvmlShutdown()


def _why(nvml: Any, error: Exception) -> str:  # noqa: ANN401
    if isinstance(error, nvml.NVMLError_LibraryNotFound):
        return "this machine has no NVIDIA driver: there is no libnvidia-ml.so.1"
    return f"NVIDIA's driver does not answer: {error}"


def _look(nvml: Any) -> Look:  # noqa: ANN401
    gpus = (_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    return Look(gpus=tuple(gpus), driver=_text(nvml.nvmlSystemGetDriverVersion()))


def _gpu(nvml: Any, index: int) -> Gpu:  # noqa: ANN401
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    parts = tuple(_parts(nvml, handle))
    ask = _Asking(nvml, handle)
    memory, version = ask(nvml.nvmlDeviceGetMemoryInfo), ask(nvml.nvmlDeviceGetCudaComputeCapability)
    rates, energy = ask(nvml.nvmlDeviceGetUtilizationRates), ask(nvml.nvmlDeviceGetTotalEnergyConsumption)
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_total=memory.total if memory else None,
        memory_used=memory.used if memory else None,
        compute_capability=".".join(map(str, version)) if version else "",
        utilisation=rates.gpu / 100 if rates else None,
        energy=energy / 1000 if energy is not None else None,
        processes={pid: used for unit in (handle, *parts) for pid, used in _processes(nvml, unit)},
        mig=tuple(_text(nvml.nvmlDeviceGetUUID(part)) for part in parts),
    )


class _Asking:
    """Asks one GPU things that it may not know: those of a GPU cut into parts, or too old for them."""

    def __init__(self, nvml: Any, handle: Any) -> None:  # noqa: ANN401
        self._nvml, self._handle = nvml, handle

    def __call__(self, question: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        try:
            return question(self._handle)
        except self._nvml.NVMLError:
            return None


def _parts(nvml: Any, handle: Any) -> Iterator[Any]:  # noqa: ANN401
    """The parts that a GPU is cut into (MIG)."""
    ask = _Asking(nvml, handle)
    mode = ask(nvml.nvmlDeviceGetMigMode)
    if not mode or not mode[0]:
        return
    for index in range(min(ask(nvml.nvmlDeviceGetMaxMigDeviceCount) or 0, _UNITS)):
        part = ask(partial(nvml.nvmlDeviceGetMigDeviceHandleByIndex, index=index))
        if part is not None:
            yield part


def _processes(nvml: Any, handle: Any) -> Iterator[tuple[int, int | None]]:  # noqa: ANN401
    ask = _Asking(nvml, handle)
    found = ask(nvml.nvmlDeviceGetComputeRunningProcesses)
    if found is None:  # drivers before 510 know the form before this one
        found = ask(nvml.nvmlDeviceGetComputeRunningProcesses_v2) or ()
    return ((process.pid, process.usedGpuMemory) for process in found)


def _text(value: str | bytes) -> str:
    """Older versions of the binding answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value
