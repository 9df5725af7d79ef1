"""What can be seen of GPUs from outside a server: its metrics and log, the driver of this machine, its processes.

Sources: Triton core, metrics.cc (names of metrics; `gpu_uuid` comes from DCGM), metric_model_reporter.cc (which
instances have it: those of KIND_GPU), cuda_memory_manager.cc, model_config_utils.cc (NormalizeInstanceGroup).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from composer.checks.gpu.nvml import Gpu, Look, look
from composer.checks.processes import PROC, Stub, of_model, stubs
from composer.checks.subject import Subject
from composer.protocol.http import Client
from composer.protocol.messages import NoAnswer

_SAMPLE: Final = re.compile(r"^(nv_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_COLLECTING: Final = re.compile(r'Collecting metrics for GPU (\d+): (.+?)"?$', re.MULTILINE)
_POOL: Final = re.compile(r"CUDA memory pool is created on device (\d+) with size")
_NO_DCGM: Final = re.compile(
    r"^.*(?:DCGM unable to start|error initializing DCGM|GPU metrics will not be available"
    r"|Unable to get device UUID).*",
    re.MULTILINE,
)
_FELL: Final = {
    "onnxruntime": re.compile(
        r"^.*Failed to load library \S*libonnxruntime_providers_cuda\.so with error.*", re.MULTILINE
    ),
}
"""What a backend writes that was to take a GPU and then took the CPU, and says no more of it."""

_GAUGES: Final = {
    "nv_gpu_memory_total_bytes": "memory_total",
    "nv_gpu_memory_used_bytes": "memory_used",
    "nv_gpu_utilization": "utilisation",
    "nv_energy_consumption": "energy",
    "nv_gpu_power_usage": "power",
}
_EXECUTIONS: Final = "nv_inference_exec_count"


# -- one moment --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What /metrics says. `executions` are by model and GPU ("" for none); all others by the GPU's UUID.

    Memory in bytes, `utilisation` 0 to 1, `energy` in joules since the server was started, `power` in watts.
    """

    executions: Mapping[tuple[str, str], float] = field(default_factory=dict)
    memory_total: Mapping[str, float] = field(default_factory=dict)
    memory_used: Mapping[str, float] = field(default_factory=dict)
    utilisation: Mapping[str, float] = field(default_factory=dict)
    energy: Mapping[str, float] = field(default_factory=dict)
    power: Mapping[str, float] = field(default_factory=dict)

    @property
    def gpus(self) -> Sequence[str]:
        """The UUIDs of all GPUs that it speaks of."""
        every = (self.memory_total, self.memory_used, self.utilisation, self.energy, self.power)
        return tuple(dict.fromkeys(uuid for gauge in every for uuid in gauge))


def read_metrics(text: str) -> Metrics:
    """What a page of metrics says; of versions of a model together. What is no number is left out."""
    gauges: dict[str, dict[str, float]] = {name: {} for name in _GAUGES.values()}
    executions: dict[tuple[str, str], float] = defaultdict(float)
    for name, labels, value in _samples(text):
        uuid = labels.get("gpu_uuid", "")
        if name == _EXECUTIONS:
            executions[labels.get("model", ""), uuid] += value
        elif name in _GAUGES and uuid:
            gauges[_GAUGES[name]][uuid] = value
    return Metrics(executions=dict(executions), **gauges)


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for name, labels, value in _SAMPLE.findall(text):
        try:
            yield name, dict(_LABEL.findall(labels)), float(value)
        except ValueError:
            continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is seen at one time, in seconds of some clock. `metrics` are None where the server has none."""

    at: float
    metrics: Metrics | None
    look: Look


def moment(subject: Subject) -> Moment:
    """Look at the server's metrics and at this machine's GPUs. Never raises for what it does not find."""
    return Moment(at=subject.clock(), metrics=_metrics(subject), look=look())


def _metrics(subject: Subject) -> Metrics | None:
    if not subject.running.metrics:
        return None
    client = Client(subject.running.metrics)
    try:
        answer = client.get("")
        return read_metrics(answer.body.decode(errors="replace")) if answer.status == 200 else None
    except NoAnswer:
        return None
    finally:
        client.close()


# -- the GPUs that a server sees ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """The GPUs that the server sees: how many, and what is known of each. `dcgm` is whether it has metrics of them."""

    count: int
    gpus: Sequence[Gpu] = ()
    dcgm: bool = False
    no_dcgm: str = ""


def visible(log: str, seen: Moment, pids: Sequence[int]) -> Visible:
    """What a server sees, by its metrics, or else by what it wrote of GPUs when it started."""
    uuids = seen.metrics.gpus if seen.metrics else ()
    names = {int(index): name for index, name in _COLLECTING.findall(log)}
    pools = {int(index) for index in _POOL.findall(log)}
    count = max(len(uuids), len(names), len(pools))
    said = _NO_DCGM.search(log)
    return Visible(
        count=count,
        gpus=_known(uuids, names, count, seen.look, pids),
        dcgm=bool(uuids) and said is None,
        no_dcgm=said[0].strip() if said else "",
    )


def _known(
    uuids: Sequence[str], names: Mapping[int, str], count: int, here: Look, pids: Sequence[int]
) -> Sequence[Gpu]:
    """What is known of the GPUs that a server sees. Without their UUIDs those count that its processes are on."""
    by_uuid = {uuid: gpu for gpu in here.gpus for uuid in (gpu.uuid, *gpu.mig)}
    if uuids:
        ordered = list(names.values())
        unknown = (Gpu(index=at, uuid=uuid, name=_at(ordered, at)) for at, uuid in enumerate(uuids))
        return tuple(by_uuid.get(gpu.uuid, gpu) for gpu in unknown)
    used = tuple(gpu for gpu in here.gpus if set(gpu.processes) & set(pids))
    if len(used) == count or len(here.gpus) == count:
        return used if len(used) == count else here.gpus
    return tuple(Gpu(index=index, uuid="", name=name) for index, name in names.items())


def _at(names: Sequence[str], at: int) -> str:
    return names[at] if at < len(names) else ""


# -- a model -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeen:
    """What was seen of a model between two moments.

    `kinds` and `gpus` are of its instance groups as the server completed them. `executions` grew by so much, by GPU
    ("" for none). `processes` are those that it runs in, where it has its own and they can be seen, with what they
    started; `driver` is whether any of them has loaded the driver's library, None where that is not known. `fell` are
    lines of the log that say that it took the CPU.
    """

    name: str
    backend: str = ""
    ensemble: bool = False
    kinds: Sequence[str] = ()
    gpus: Sequence[int] = ()
    executions: Mapping[str, float] = field(default_factory=dict)
    processes: Sequence[int] = ()
    driver: bool | None = None
    fell: Sequence[str] = ()


def model_seen(
    name: str, config: Mapping[str, Any], log: str, before: Moment | None, after: Moment, running: Processes
) -> ModelSeen:
    """Put together what was seen of a model. `config` is the one that the server completed."""
    groups = config.get("instance_group") or ()
    backend = str(config.get("backend") or "")
    own = of_model(config, running.stubs)
    family = [pid for stub in own for pid in (stub.pid, *running.below(stub.pid))]
    return ModelSeen(
        name=name,
        backend=backend,
        ensemble=config.get("platform") == "ensemble",
        kinds=tuple(dict.fromkeys(str(group.get("kind")) for group in groups)),
        gpus=tuple(sorted({int(gpu) for group in groups for gpu in group.get("gpus") or ()})),
        executions=_grown(name, before, after),
        processes=tuple(family),
        driver=_driver(own, alone=len(family) == len(own)),
        fell=_FELL[backend].findall(log)[:3] if backend in _FELL else (),
    )


def _grown(model: str, before: Moment | None, after: Moment) -> dict[str, float]:
    """How much executions grew, by GPU; since the start where there is no moment before."""
    then = before.metrics.executions if before and before.metrics else {}
    now = after.metrics.executions if after.metrics else {}
    grown = {uuid: count - then.get((name, uuid), 0) for (name, uuid), count in now.items() if name == model}
    return {uuid: count for uuid, count in grown.items() if count > 0}


def _driver(own: Sequence[Stub], *, alone: bool) -> bool | None:
    """Of processes that may not be looked into, and of those that others were started by, nothing is known.

    The Python backend's own process loads the library only when tensors come to it in a GPU's memory, or at its end.
    """
    if any("/libcuda.so" in path for stub in own for path in stub.libraries):
        return True
    return False if own and alone and all(stub.libraries for stub in own) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """A server's processes: those in which Python models run, and all of them, each with the one that started it."""

    stubs: Sequence[Stub] = ()
    parents: Mapping[int, int] = field(default_factory=dict)

    def below(self, pid: int) -> Sequence[int]:
        """What a process started, and what that started: engines that have processes of their own."""
        children = [child for child, parent in self.parents.items() if parent == pid]
        return [one for child in children for one in (child, *self.below(child))]


def processes(pids: Sequence[int]) -> Processes:
    """What this machine says of a server's processes; nothing where they cannot be seen from here."""
    return Processes(stubs=stubs(pids) or (), parents={pid: _parent(pid) for pid in pids})


def _parent(pid: int) -> int:
    try:
        # The name before it, in parentheses, may hold anything.
        return int((PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


# -- what GPUs did -----------------------------------------------------------------------------

_MIB: Final = 1 << 20
_MORE_THAN_AT_REST: Final = 1.1
"""How much more than at rest a GPU must have drawn on average: it draws something whatever it does."""


def work(uuids: Sequence[str], before: Moment | None, after: Moment) -> dict[str, str]:
    """What shows that any of some GPUs worked between two moments, in words, by what it is shown with."""
    signs = (sign for uuid in uuids for sign in _signs(uuid, before, after))
    return {name: words for name, words in signs if words}


def _signs(uuid: str, before: Moment | None, after: Moment) -> Iterator[tuple[str, str]]:
    grown = max((now - then for then, now in _used(uuid, before, after)), default=0.0)
    yield "memory", f"{grown / _MIB:.0f} MiB more of its memory are in use" if grown >= _MIB else ""
    busy = max(_utilisation(uuid, after), default=0.0)
    yield "utilisation", f"it was {busy:.0%} busy" if busy else ""
    yield "energy", _energy(uuid, before, after)


def _used(uuid: str, before: Moment | None, after: Moment) -> Iterator[tuple[float, float]]:
    """Bytes in use at both moments, by each that knows. The server says 0 until it has looked for the first time."""
    if before is None:
        return
    gpus = ({gpu.uuid: gpu.memory_used or 0 for gpu in one.look.gpus} for one in (before, after))
    told = (one.metrics.memory_used if one.metrics else {} for one in (before, after))
    for then, now in (gpus, told):
        if then.get(uuid) and now.get(uuid):
            yield then[uuid], now[uuid]


def _utilisation(uuid: str, seen: Moment) -> Iterator[float]:
    yield from (gpu.utilisation for gpu in seen.look.gpus if gpu.uuid == uuid and gpu.utilisation)
    if seen.metrics:
        yield seen.metrics.utilisation.get(uuid, 0.0)


def _energy(uuid: str, before: Moment | None, after: Moment) -> str:
    if not (before and before.metrics and after.metrics and after.at > before.at):
        return ""
    then, now = (one.energy.get(uuid, 0.0) for one in (before.metrics, after.metrics))
    rest, drawn = before.metrics.power.get(uuid), (now - then) / (after.at - before.at)
    # Before the server has looked for the first time, all that it used to start would count.
    more = then and rest and drawn > rest * _MORE_THAN_AT_REST
    return f"it drew {drawn:.0f} W, {rest:.0f} W at rest" if more else ""
