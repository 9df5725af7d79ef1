"""Whether a model ran on a GPU, by all that was seen of it. Decides, and looks at nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from composer.checks.gpu.evidence import ModelSeen, Moment, Visible, work

ON_CPU: Final = "it runs on the CPU"
"""What is said of a model that should run on a GPU and does not."""

OWN_PROCESS: Final = ("python", "vllm")
"""Backends whose models run in processes of their own, also where these cannot be seen from here."""

INSTANCES: Final = "instance_group [{ count: 1, kind: KIND_GPU }]"
"""What puts a model on GPUs, in its config.pbtxt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be said of a model. `proof` is what showed that it ran on a GPU; `certain` that it did not.

    `late` is whether a later look may show more.
    """

    message: str
    hint: str = ""
    proof: str | None = None
    certain: bool | None = None
    late: bool = False
    evidence: Mapping[str, Any]


def judge_model(seen: ModelSeen, sight: Visible, before: Moment | None, after: Moment, pids: Sequence[int]) -> Verdict:
    """Whether a model ran on a GPU, ran on the CPU, or cannot be told."""
    on_gpu = {pid for gpu in sight.gpus for pid in gpu.processes} & set(pids)
    signs = work(_its_gpus(seen, sight), before, after)
    evidence = _model_shown(seen, on_gpu, signs)
    for judge in (_not_meant, _fallen, _not_asked, _not_counted, _elsewhere):
        if verdict := judge(seen, sight, on_gpu):
            return replace(verdict, evidence=evidence | {"proof": None})
    proof, words = _proof(seen, signs, on_gpu)
    counted = _counted(seen, sight)
    if proof is None or (proof != "process" and not any(seen.executions)):
        message = f"{counted}, but nothing shows that a GPU worked for it"
        return Verdict(message=message, late=True, evidence=evidence | {"proof": None})
    return Verdict(message=f"{counted}; {words}", proof=proof, evidence=evidence | {"proof": proof})


def _its_gpus(seen: ModelSeen, sight: Visible) -> Sequence[str]:
    """The GPUs that it was executed on, or else all: Triton takes CUDA's number of a GPU for DCGM's, and may name
    another one."""
    known = [gpu.uuid for gpu in sight.gpus]
    return [uuid for uuid in seen.executions if uuid in known] or known


def _model_shown(seen: ModelSeen, on_gpu: set[int], signs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model": seen.name,
        "backend": seen.backend,
        "kinds": list(seen.kinds),
        "gpus": list(seen.gpus),
        "executions": {uuid: count for uuid, count in seen.executions.items() if uuid},
        "executions_elsewhere": seen.executions.get("", 0),
        "processes": list(seen.processes),
        "processes_on_gpu": sorted(on_gpu),
        "signs": dict(signs),
        "lines": list(seen.fell),
    }


def _fault(message: str, hint: str = "", *, certain: bool | None = True) -> Verdict:
    return Verdict(message=message, hint=hint, certain=certain, evidence={})


def _not_meant(seen: ModelSeen, sight: Visible, on_gpu: set[int]) -> Verdict | None:
    if seen.ensemble:
        return _fault("it is an ensemble, which runs nothing itself", "name its models in used_by")
    if not sight.count:
        return _fault("the server sees no GPU", certain=None)
    if not set(seen.kinds) & {"KIND_GPU", "KIND_MODEL"}:
        kinds = " and ".join(seen.kinds) or "of no kind"
        return _fault(f"{ON_CPU}: its instances are {kinds}", f"in its config.pbtxt: {INSTANCES}")
    return None


def _fallen(seen: ModelSeen, sight: Visible, on_gpu: set[int]) -> Verdict | None:
    if not seen.fell:
        return None
    hint = "bring the library that it names: packages: {apt: [...]}, or files: [...]"
    return _fault(f"{ON_CPU}: {seen.fell[0].strip()}", hint)


def _not_asked(seen: ModelSeen, sight: Visible, on_gpu: set[int]) -> Verdict | None:
    if any(seen.executions.values()):
        return None
    return _fault("it was not executed, so that nothing is known", f"add a check that asks {seen.name}", certain=None)


def _not_counted(seen: ModelSeen, sight: Visible, on_gpu: set[int]) -> Verdict | None:
    """Where the server has the GPUs' names, executions of instances on GPUs have one."""
    if (
        not sight.dcgm
        or "KIND_GPU" not in seen.kinds
        or any(seen.executions.get(uuid) for uuid in seen.executions if uuid)
    ):
        return None
    message = f"{ON_CPU}: it was executed {seen.executions['']:.0f} times, never on a GPU (no gpu_uuid)"
    return _fault(message, f"no instances on the CPU beside those on GPUs: {INSTANCES}")


def _elsewhere(seen: ModelSeen, sight: Visible, on_gpu: set[int]) -> Verdict | None:
    """A model that has processes of its own, of which none is on a GPU."""
    own = set(seen.processes)
    if not own or own & on_gpu:
        return None
    names = ", ".join(map(str, sorted(own)))
    if seen.driver is False:
        return _fault(f"{ON_CPU}: its process ({names}) has not loaded the driver's library, libcuda.so", _AS_IT_IS)
    if on_gpu:
        # The server's own process is seen there, so that this one would be.
        return _fault(f"{ON_CPU}: its process ({names}) is on no GPU", _AS_IT_IS)
    return None


_AS_IT_IS: Final = 'model.py must use args["model_instance_kind"] and args["model_instance_device_id"]'


def _counted(seen: ModelSeen, sight: Visible) -> str:
    counted = {uuid: count for uuid, count in seen.executions.items() if uuid}
    if not counted:
        total = sum(seen.executions.values())
        why = "" if sight.dcgm else ": the server has no metrics of GPUs (DCGM)"
        return f"it was executed {total:.0f} times, on which GPU is not told{why}"
    return " and ".join(f"it was executed {count:.0f} times on {uuid}" for uuid, count in counted.items())


def _proof(seen: ModelSeen, signs: Mapping[str, str], on_gpu: set[int]) -> tuple[str | None, str]:
    """The strongest sign: a process of the model's own, then what the GPU did, then the server's process on it."""
    own = sorted(set(seen.processes) & on_gpu)
    if own:
        return "process", f"its process {own[0]} is on a GPU"
    inside = not seen.processes and seen.backend not in OWN_PROCESS
    # Where this machine cannot tell whose the processes on a GPU are, what the GPU did is the model's if it may be.
    may_be = inside or (seen.driver is True and not on_gpu)
    for name in ("memory", "utilisation", "energy"):
        if name in signs and may_be:
            return name, f"meanwhile {signs[name]}"
    if on_gpu and inside:
        return "process", f"the server's process {min(on_gpu)} is on a GPU"
    return None, ""
