"""What was seen of a server, kept so that it can be judged again on another machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from composer.checks import Report, Terms, prove
from composer.checks.gpu import evidence as gpu_evidence
from composer.checks.gpu.evidence import Processes
from composer.checks.gpu.nvml import Gpu, Look
from composer.checks.processes import Stub
from composer.events import ignore
from composer.protocol.http import Client
from composer.protocol.messages import NoAnswer
from composer.runners import Running
from tests.gpu.scenarios import Scenario
from tests.gpu.server import RELEASE

RECORDED = Path(__file__).parent / "recorded"
GPU = sys.modules["composer.checks.gpu"]


@dataclass
class Seen:
    """All that `gpu` was told, in turn: metrics as text, what the driver said, the processes. JSON values."""

    metrics: list[str] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    log: str = ""
    configs: dict[str, Any] = field(default_factory=dict)


@contextmanager
def patched(owner: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def watched(running: Running, scenario: Scenario) -> tuple[Report, Seen]:
    """Prove a server as a recipe would have it proved, and keep what was seen."""
    seen = Seen()
    spies = {
        "look": _spy(gpu_evidence.look, lambda look: seen.looks.append(asdict(look))),
        "read_metrics": _spy_on_text(gpu_evidence.read_metrics, seen.metrics),
    }
    keep = _spy(gpu_evidence.processes, lambda found: seen.processes.append(_plain(found)))
    terms = Terms(validation=scenario.validation(), models=scenario.models, base=Path(), release=RELEASE)
    with patched(gpu_evidence, **spies), patched(GPU, processes=keep):
        report = prove(running, terms, emit=ignore)
    seen.pids, seen.log = list(running.pids()), running.logs()
    with suppress(NoAnswer):  # of a server that has ended there is nothing more to see
        client = Client(running.http)
        seen.configs = {name: client.get(f"/v2/models/{name}/config").json() for name in scenario.models}
    return report, seen


def _spy(function: Callable[..., Any], note: Callable[[Any], object]) -> Callable[..., Any]:
    def spy(*args: Any) -> Any:
        found = function(*args)
        note(found)
        return found

    return spy


def _spy_on_text(function: Callable[[str], Any], texts: list[str]) -> Callable[[str], Any]:
    def spy(text: str) -> Any:
        texts.append(text)
        return function(text)

    return spy


def _plain(found: Processes) -> dict[str, Any]:
    """Of the processes what counts: not their environment, and of what they loaded the driver and one thing more."""
    rows = [
        {"pid": stub.pid, "instance": stub.instance, "libraries": sorted(_telling(stub.libraries))}
        for stub in found.stubs
    ]
    return {"stubs": rows, "parents": [[pid, parent] for pid, parent in found.parents.items()]}


def _telling(libraries: frozenset[str]) -> set[str]:
    return {path for path in libraries if "/libcuda" in path or "/libc.so" in path}


# -- again -------------------------------------------------------------------------------------


def look_of(row: Mapping[str, Any]) -> Look:
    gpus = (
        Gpu(
            **{**gpu, "mig": tuple(gpu["mig"]), "processes": {int(pid): used for pid, used in gpu["processes"].items()}}
        )
        for gpu in row["gpus"]
    )
    return Look(gpus=tuple(gpus), driver=row["driver"], trouble=row["trouble"])


def processes_of(row: Mapping[str, Any]) -> Processes:
    stubs = (
        Stub(
            pid=one["pid"],
            program="triton_python_backend_stub",
            instance=one["instance"],
            env={},
            libraries=frozenset(one["libraries"]),
            root=Path("/"),
        )
        for one in row["stubs"]
    )
    return Processes(stubs=tuple(stubs), parents=dict(row["parents"]))


def write(name: str, machine: Mapping[str, str], report: Report, seen: Seen, folder: Path = RECORDED) -> Path:
    """Keep a scenario's run: the machine, what was seen, and what was said of it."""
    said = [result.to_json() for result in report.results]
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    document = {"scenario": name, "machine": dict(machine), "results": said, "seen": asdict(seen)}
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return path


def gpu_outcomes(report: Report) -> dict[str, str]:
    """What was said of GPUs, by the result's id."""
    return {result.id: result.outcome for result in report.results if result.kind == "gpu"}


def recorded(folder: Path = RECORDED) -> Sequence[Path]:
    """The runs that are kept."""
    return sorted(folder.glob("*.json"))
