"""The classes of failure that no words tell: functions over all that was seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from composer.diagnosis.book import classes
from composer.diagnosis.logs import failures, loading, records
from composer.diagnosis.matching import Found
from composer.diagnosis.seen import Seen

_EXPLAINS_NONE: Final = frozenset(["models-failed", "gpu-metrics", "pinned-memory", "leftovers", "gpu-none"])
"""Classes that do not say why a model did not load, though they name one."""

_NEEDED: Final = ("compute", "utility")
"""What of the driver a server needs: CUDA, and NVML."""

_AWAITS_STUB: Final = "25.08"
"""The release from which on a server gives up a Python process that died before it said anything."""

_NUMPY_2: Final = "24.11"
"""The release from which on the Python backend works with numpy 2."""

_MOST: Final = 10
"""Models that are told of, at most."""


def fitting(seen: Seen, told: Sequence[Found]) -> Iterator[Found]:
    """Every class that what was seen comes to, besides those that its words tell."""
    for name, holds in _SITUATIONS.items():
        kind = classes()[name]
        if seen.gpu_wanted or not kind.gpu:
            for names in holds(seen, told):
                named = {key: value for key, value in names.items() if key not in ("model", "line")}
                lines = tuple(line for line in (names.get("line"),) if line)
                yield Found(kind=kind, names=named, lines=lines, model=names.get("model", ""))


# -- GPUs ---------------------------------------------------------------------------------------------------------


def _hidden(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    value = seen.env.get("NVIDIA_VISIBLE_DEVICES")
    if value is not None and value.strip() in ("", "void", "none") and not seen.gpus:
        yield {"value": value or '""', "line": f"NVIDIA_VISIBLE_DEVICES={value}"}


def _capabilities(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    value = seen.env.get("NVIDIA_DRIVER_CAPABILITIES")
    if value is None:
        return
    given = {one.strip() for one in value.split(",")}
    missing = [one for one in _NEEDED if one not in given and "all" not in given]
    if missing:
        names = {"missing": " and ".join(missing), "value": value or '""'}
        yield {**names, "line": f"NVIDIA_DRIVER_CAPABILITIES={value}"}


def _mig(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    if seen.mig > 1:
        yield {"count": str(seen.mig)}


def _no_gpu(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    if seen.gpus == 0 and not any(one.kind.id == "gpu-none" for one in told):
        yield {}


def _on_cpu(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    for model in seen.on_cpu if seen.gpus != 0 else ():
        yield {"model": model}


# -- how it ended -------------------------------------------------------------------------------------------------


def _ended(code: int) -> Callable[[Seen, Sequence[Found]], Iterator[Mapping[str, str]]]:
    def holds(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
        if seen.exit_code == code and not _told_by_words(told, code):
            yield {"line": f"exit status {code}", "program": "program to start"}

    return holds


_TOLD: Final = {
    126: {"program-not-executable"},
    127: {"program-not-in-image", "library-missing"},
    132: {"illegal-instruction"},
    139: {"crashed"},
}
"""Classes that say of an exit status what is to be said."""


_SIGABRT: Final = 134
_THROWN: Final = re.compile(r"terminate called after throwing an instance of '([^']+)'")
_ABORTING: Final = re.compile(rf"{_THROWN.pattern}|Signal \(6\) received")


def _told_by_words(told: Sequence[Found], code: int) -> bool:
    return any(one.kind.id in _TOLD.get(code, ()) for one in told)


def _aborted(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    signs = [line.raw for line in records(seen.log) if _ABORTING.match(line.message) and not line.level]
    if seen.exit_code != _SIGABRT and not any("Signal (6)" in line for line in signs):
        return
    thrown = next((_THROWN.match(line) for line in signs if _THROWN.match(line)), None)
    exception = f"an exception ({thrown[1]})" if thrown else "an error"
    causes, remedy = _OF_REGIONS if "lock_exception" in exception else _OF_CONFIGS
    line = signs[0] if signs else f"exit status {seen.exit_code}"
    yield {"exception": exception, "causes": causes, "remedy": remedy, "line": line}


_OF_CONFIGS: Final = (
    "a label_filename or config.pbtxt that is a folder does that, or a number in a config that does not fit",
    "tricompose models lint MODELS   knows what is known to do it",
)
_OF_REGIONS: Final = (
    "two Python models do that in 23.10 to 24.03 where shm-region-prefix-name is set: their regions are called alike",
    "remove shm-region-prefix-name from --backend-config=python, or take a release from 24.05 on",
)
"""What is known to abort a server, and what to do. The latter was seen in five releases, and not in others."""


def _refused(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    if seen.exit_code == 125:
        last = [line.raw for line in records(seen.log)][-1:]
        yield {"line": last[0] if last else "exit status 125"}


def _out_of_memory(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    if seen.oom_killed:
        yield {"line": "the engine says: OOMKilled"}


def _at_deadline(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    if seen.exit_code == 137 and seen.stopped and not seen.oom_killed and not seen.hung:
        yield {"line": "exit status 137"}


def _killed(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    if seen.exit_code == 137 and not seen.stopped and not seen.oom_killed:
        yield {"line": "exit status 137"}


# -- hangs --------------------------------------------------------------------------------------------------------


def _hang(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    hanging = loading(seen.log)
    if not seen.hung or not hanging:
        return
    models = ", ".join(f"{model} (version {version})" for model, version in hanging)
    stub = _stub_words(seen)
    why, fix = _hang_words(seen, stub)
    yield {
        "models": models,
        "hang_why": why,
        "hang_fix": fix,
        "line": stub or _loading_line(seen, hanging[0][0]),
        "model": hanging[0][0] if len(hanging) == 1 else "",
    }


_STUB_SAID: Final = re.compile(
    r"\s*(?:Failed to preinitialize Python stub|Expected \d+ arguments, found|what\(\): "
    r"|.*error while loading shared libraries: )"
)
"""What a Python process says that dies before the server has heard of it."""


def _stub_words(seen: Seen) -> str:
    said = [line.raw for line in records(seen.log) if _STUB_SAID.match(line.message)]
    return said[-1] if said else ""


def _hang_words(seen: Seen, stub: str) -> tuple[str, str]:
    if stub:
        said = stub.rpartition("] ")[2].strip()
        since = f"until {_AWAITS_STUB} " if not seen.release or seen.release < _AWAITS_STUB else ""
        why = (
            f"its Python process died before it could say so to the server, which {since}waits for it for ever: {said}"
        )
        return why, "tricompose models lint MODELS   knows what does it: model.py, names, the Python of an environment"
    why = "they began to load and did not end: a download, a lock, a large file, or an endless loop in initialize"
    if not seen.release or seen.release < _AWAITS_STUB:
        why += f"; until {_AWAITS_STUB} also a Python process that ended at once"
    return why, "validate: {startup: {deadline: 900s}}   if it only needs longer; else tricompose models lint MODELS"


def _loading_line(seen: Seen, model: str) -> str:
    return next(line.raw for line in records(seen.log) if line.message.startswith(f"loading: {model}:"))


# -- models -------------------------------------------------------------------------------------------------------


def _failed(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    """The models that failed, for a reason that no class knows."""
    explained = {one.model for one in told if one.kind.id not in _EXPLAINS_NONE and not one.kind.signs["answer"]}
    reasons = {**dict(_unavailable(seen)), **failures(seen.log)}
    for model in [model for model in reasons if model not in explained][:_MOST]:
        reason = reasons[model].strip()
        yield {
            "title_failed": f"the model {model} did not load",
            "reason": reason,
            "model": model,
            "line": f"{model}: {reason}",
        }
    if not reasons and not told and "failed to load all models" in seen.log:
        yield {
            "title_failed": "models did not load",
            "reason": "the server does not say which",
            "line": "failed to load all models",
        }


def _unavailable(seen: Seen) -> Iterator[tuple[str, str]]:
    for row in seen.index:
        if row.get("state") == "UNAVAILABLE" and row.get("reason") not in (None, "", "unloaded"):
            yield str(row["name"]), str(row["reason"])


def _unanswered(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    for model in seen.unanswered:
        yield {"model": model}


def _empty(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    major = seen.numpy.partition(".")[0]
    if (major.isdecimal() and int(major) < 2) or (seen.release and seen.release >= _NUMPY_2):
        return
    for model in seen.empty:
        yield {"model": model, "numpy": seen.numpy or "2 or later, as it seems,"}


def _leftovers(seen: Seen, told: Sequence[Found]) -> Iterator[Mapping[str, str]]:
    if seen.leftovers:
        yield {"count": str(len(seen.leftovers)), "line": ", ".join(seen.leftovers[:_MOST])}


_SITUATIONS: Final[Mapping[str, Callable[[Seen, Sequence[Found]], Iterator[Mapping[str, str]]]]] = {
    "gpu-hidden-by-env": _hidden,
    "gpu-capabilities": _capabilities,
    "gpu-mig": _mig,
    "gpu-none": _no_gpu,
    "gpu-unused": _on_cpu,
    "engine-refused": _refused,
    "program-not-executable": _ended(126),
    "program-not-in-image": _ended(127),
    "illegal-instruction": _ended(132),
    "aborted": _aborted,
    "crashed": _ended(139),
    "killed-for-memory": _out_of_memory,
    "killed-at-deadline": _at_deadline,
    "killed": _killed,
    "hang": _hang,
    "models-failed": _failed,
    "request-unanswered": _unanswered,
    "outputs-empty": _empty,
    "leftovers": _leftovers,
}
