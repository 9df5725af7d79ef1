"""Whether the server sees GPUs, and runs on them the models that should: shown from outside, or it does not count.

No one sign is enough. An instance of kind GPU counts its executions as the GPU's though its program may never touch it;
a process on a GPU may be there for another model. So a model must have instances on GPUs, executions counted there, and
a GPU that has something to show for it. Nothing is run in the container.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from composer.checks.gpu.evidence import Moment, Processes, Visible, model_seen, moment, processes, visible
from composer.checks.gpu.nvml import Gpu, Look
from composer.checks.gpu.use import INSTANCES, Verdict, judge_model
from composer.checks.report import Outcome, Result
from composer.checks.subject import Subject, timed
from composer.protocol.http import model_path
from composer.releases.drivers import GpuNeeds, gpu_needs, parsed

if TYPE_CHECKING:
    from composer.recipe_proof import GpuProof

_POLL: Final = 2.5
"""Seconds after which the server's figures of GPUs are new: it reads them every two."""


def baseline(subject: Subject) -> Moment | None:
    """What is seen of GPUs before anything is asked of the server, to compare with; None where it is not wanted."""
    return None if subject.validation.gpu.mode == "off" else moment(subject)


def gpu(subject: Subject) -> Iterator[Result]:
    """`gpu:visible`, and `gpu:MODEL` for each model that should run on a GPU."""
    if subject.validation.gpu.mode == "off":
        yield Result(id="gpu:visible", kind="gpu", outcome="skipped", message="the recipe says gpu: off")
        return
    seen: list[_Scene] = []
    yield timed(subject, "gpu:visible", "gpu", lambda: _visible(subject, seen))
    for scene in seen:
        yield from _models(subject, scene)


def proved(results: Sequence[Result]) -> Literal["verified", "unverified", "off"]:
    """What results show of GPUs, in a word: `verified` only if a model ran on one, and every one that should."""
    ours = [result for result in results if result.kind == "gpu" and not result.id.startswith("after:")]
    if all(result.outcome == "skipped" for result in ours):
        return "off" if ours else "unverified"
    models = any(result.id != "gpu:visible" for result in ours)
    return "verified" if models and all(result.outcome == "passed" for result in ours) else "unverified"


# -- what is there -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """All that was seen."""

    before: Moment | None
    after: Moment
    log: str
    pids: Sequence[int]
    running: Processes
    visible: Visible


def _scene(subject: Subject) -> _Scene:
    log, pids, after = subject.running.logs(), subject.running.pids(), moment(subject)
    return _Scene(
        before=subject.before,
        after=after,
        log=log,
        pids=pids,
        running=processes(pids),
        visible=visible(log, after, pids),
    )


def _visible(subject: Subject, seen: list[_Scene]) -> Result:
    scene = _scene(subject)
    seen.append(scene)
    needs = gpu_needs(subject.terms.release)
    result = judge_visible(subject.validation.gpu, scene.visible, scene.after.look, needs)
    return replace(result, evidence=_shown(scene.visible, scene.after.look, needs))


def _shown(seen: Visible, here: Look, needs: GpuNeeds) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "visible": seen.count,
        "gpus": [_gpu_shown(gpu, here.driver) for gpu in seen.gpus],
        "models": [],
        "dcgm": seen.dcgm,
        "driver": here.driver,
        "needs": {"cuda": needs.cuda, "driver": needs.driver, "compute_capability": needs.compute_capability},
    }
    trouble = {"nvml": here.trouble, "no_dcgm": seen.no_dcgm}
    return evidence | {name: words for name, words in trouble.items() if words}


def _gpu_shown(gpu: Gpu, driver: str) -> dict[str, Any]:
    return {
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_total": gpu.memory_total,
        "driver": driver,
        "compute_capability": gpu.compute_capability,
        "mig": list(gpu.mig),
    }


def judge_visible(wanted: GpuProof, seen: Visible, here: Look, needs: GpuNeeds) -> Result:
    """Whether the server sees the GPUs that it must see."""
    if not seen.count:
        return _unseen(wanted, here, needs)
    faults = list(_faults(wanted, seen, here, needs))
    if faults:
        return _visible_result("failed", "; ".join(faults))
    names = ", ".join(gpu.name or gpu.uuid for gpu in seen.gpus) or f"{seen.count} of unknown name"
    unknown = list(_unknown(wanted, seen, here))
    if unknown:
        outcome = unproved(wanted)
        return _visible_result(outcome, f"the server sees {names}; {'; '.join(unknown)}")
    return _visible_result("passed", f"the server sees {names}{_old_driver(here, needs)}")


def _visible_result(outcome: Outcome, message: str, hint: str = "") -> Result:
    return Result(id="gpu:visible", kind="gpu", outcome=outcome, message=message, hint=hint)


def unproved(wanted: GpuProof) -> Outcome:
    """The outcome of what could not be shown."""
    return "failed" if wanted.mode == "required" else "unverified"


def _unseen(wanted: GpuProof, here: Look, needs: GpuNeeds) -> Result:
    if not here.gpus:
        trouble = f": {here.trouble}" if here.trouble else ""
        hint = "prove it on a machine with a GPU, or: gpu: auto" if wanted.mode == "required" else ""
        return _visible_result(unproved(wanted), f"the server sees no GPU{trouble}", hint)
    names = ", ".join(gpu.name for gpu in here.gpus)
    message = f"this machine has {names}, the server sees no GPU"
    if needs.driver and parsed(here.driver) < parsed(needs.driver):
        old = f": the driver is {here.driver}, CUDA {needs.cuda} takes {needs.driver} or newer"
        hint = f"install driver {needs.driver} or newer, or take an older release"
        return _visible_result(unproved(wanted), f"{message}{old}", hint)
    return _visible_result(unproved(wanted), message, "run: {gpus: all}, with the runner docker")


def _faults(wanted: GpuProof, seen: Visible, here: Look, needs: GpuNeeds) -> Iterator[str]:
    if seen.count < wanted.visible.count:
        yield f"{_gpus(wanted.visible.count)} must be visible, the server sees {seen.count}"
    least = wanted.visible.min_compute_capability or needs.compute_capability
    for gpu in seen.gpus:
        if least and gpu.compute_capability and parsed(gpu.compute_capability) < parsed(least):
            yield f"{gpu.name} has compute capability {gpu.compute_capability}, {_by(wanted, least)} {least} is needed"
    # Whether a driver is too old for a release shows: the server would see no GPU. What the recipe says is law.
    driver = wanted.visible.min_driver
    if driver and here.driver and parsed(here.driver) < parsed(driver):
        yield f"the driver is {here.driver}, the recipe wants {driver} or newer"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _by(wanted: GpuProof, least: str) -> str:
    return "by the recipe" if wanted.visible.min_compute_capability == least else "by the release"


def _unknown(wanted: GpuProof, seen: Visible, here: Look) -> Iterator[str]:
    """What the recipe asks and nobody here can tell."""
    why = here.trouble or "this machine's driver does not know these GPUs"
    if wanted.visible.min_driver and not here.driver:
        yield f"the driver's version is not known: {why}"
    known = len(seen.gpus) == seen.count and all(gpu.compute_capability for gpu in seen.gpus)
    if wanted.visible.min_compute_capability and not known:
        yield f"their compute capability is not known: {why}"


def _old_driver(here: Look, needs: GpuNeeds) -> str:
    """Where it runs with an older driver than its CUDA came with, what makes that possible."""
    if not here.driver or not needs.own or parsed(here.driver) >= parsed(needs.own):
        return ""
    minor = needs.driver and parsed(here.driver) >= parsed(needs.driver)
    way = "minor version compatibility" if minor else "forward compatibility"
    return f"; the driver {here.driver} is older than CUDA {needs.cuda}: it runs by {way}"


# -- each model --------------------------------------------------------------------------------


def _models(subject: Subject, scene: _Scene) -> Iterator[Result]:
    wanted = subject.validation.gpu
    configs: dict[str, Mapping[str, Any]] = {}
    failed = timed(subject, "gpu:models", "gpu", lambda: _read_configs(subject, configs))
    if failed.outcome != "passed":
        yield failed
        return
    names = [name for name in configs if should_use(name, configs[name], wanted)]
    if not names and wanted.mode == "required" and scene.visible.count:
        message = "a GPU is required, and no model has instances on one"
        hint = f"gpu: {{mode: required, used_by: [MODEL]}}, or in its config.pbtxt: {INSTANCES}"
        yield Result(id="gpu:models", kind="gpu", outcome="failed", message=message, hint=hint)
    looks = _Looks(subject, scene)
    for name in names:
        yield timed(subject, f"gpu:{name}", "gpu", partial(_model, subject, name, configs[name], looks))


class _Looks:
    """What is seen at first, and once more where that does not tell: figures may be those from before a model ran."""

    def __init__(self, subject: Subject, first: _Scene) -> None:
        self._subject = subject
        self.first = first
        self._second: _Scene | None = None

    def second(self) -> _Scene:
        """Look again, when the server has; once for all models."""
        if self._second is None:
            time.sleep(_POLL)
            self._second = _scene(self._subject)
        return self._second


def _read_configs(subject: Subject, configs: dict[str, Mapping[str, Any]]) -> Result:
    """The configurations of all models that are there, and of those that the recipe names."""
    for name in dict.fromkeys([*_served(subject), *(subject.validation.gpu.used_by or ())]):
        answer = subject.client.get(f"{model_path(name)}/config")
        config = answer.json() if answer.status == 200 else {}
        configs[name] = config if isinstance(config, dict) else {}
    return Result(id="gpu:models", kind="gpu", outcome="passed", message="")


def _served(subject: Subject) -> Sequence[str]:
    if subject.terms.models is not None:
        return subject.terms.models
    rows = subject.client.post("/v2/repository/index", b"", {}).json()
    return [str(row["name"]) for row in rows if row.get("state") == "READY"]


def should_use(name: str, config: Mapping[str, Any], wanted: GpuProof) -> bool:
    """Whether a model should run on a GPU: the recipe says so, or else its instances are there."""
    if wanted.used_by is not None:
        return name in wanted.used_by
    return any(group.get("kind") == "KIND_GPU" for group in config.get("instance_group") or ())


def _model(subject: Subject, name: str, config: Mapping[str, Any], looks: _Looks) -> Result:
    if not config:
        message = "the server does not serve this model"
        return Result(id=f"gpu:{name}", kind="gpu", outcome="failed", message=message)
    verdict = _verdict(name, config, looks.first)
    if verdict.late and looks.first.visible.count:
        verdict = _verdict(name, config, looks.second())
    outcome: Outcome = "passed" if verdict.proof else "failed" if verdict.certain else unproved(subject.validation.gpu)
    evidence: dict[str, Any] = {"gpus": [], "models": [verdict.evidence]}
    if verdict.certain and verdict.evidence["kinds"]:
        evidence["on_cpu"] = name
    result = Result(id=f"gpu:{name}", kind="gpu", outcome=outcome, message=verdict.message, hint=verdict.hint)
    return replace(result, evidence=evidence)


def _verdict(name: str, config: Mapping[str, Any], scene: _Scene) -> Verdict:
    seen = model_seen(name, config, scene.log, scene.before, scene.after, scene.running)
    return judge_model(seen, scene.visible, scene.before, scene.after, scene.pids)
