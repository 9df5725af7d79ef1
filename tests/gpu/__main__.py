"""`make gpu`: run every scenario on this machine's GPU, say what came of it, and keep what was seen."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from composer.checks.gpu.nvml import Look, look
from tests.gpu.models import write_models
from tests.gpu.recording import RECORDED, gpu_outcomes, watched, write
from tests.gpu.scenarios import SCENARIOS, Scenario
from tests.gpu.server import RELEASE, Kit, prepare, started
from tests.upstream.inputs import UpstreamError


def main() -> int:
    here = look()
    if not here.gpus:
        print(f"error: there is no GPU here: {here.trouble}", file=sys.stderr)
        print("hint: run it where `nvidia-smi` lists one", file=sys.stderr)
        return 1
    print(f"{here.gpus[0].name}, driver {here.driver}, compute capability {here.gpus[0].compute_capability}")
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        try:
            kit = prepare(Path(name))
        except UpstreamError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        wrong = sum(not _run(one, scenario, kit, Path(name), machine(here)) for one, scenario in SCENARIOS.items())
    print(f"{len(SCENARIOS) - wrong} of {len(SCENARIOS)} as they must be; what was seen is in {RECORDED}")
    return 1 if wrong else 0


def machine(here: Look) -> dict[str, str]:
    """What is told of the machine with what was seen on it."""
    gpu = here.gpus[0]
    return {
        "gpu": gpu.name,
        "gpus": str(len(here.gpus)),
        "driver": here.driver,
        "compute_capability": gpu.compute_capability,
        "mig": str(bool(gpu.mig)),
        "kernel": platform.release(),
        "server": RELEASE,
    }


def _run(name: str, scenario: Scenario, kit: Kit, folder: Path, about: Mapping[str, str]) -> bool:
    place = folder / name
    write_models(place / "models", scenario.models)
    with started(kit, place, scenario.flags, scenario.env) as server:
        report, seen = watched(server, scenario)
    found = gpu_outcomes(report)
    right = found == scenario.outcomes
    print(f"{'ok' if right else 'WRONG'}  {name}")
    for result in report.results:
        if result.kind == "gpu" or not result.ok:
            print(f"      {result.outcome:<10} {result.id}: {result.message}")
    if right:
        write(name, about, report, seen)
    else:
        print(f"      must be: {dict(scenario.outcomes)}; its log: {server.logs()[-2000:]}")
    return right


if __name__ == "__main__":
    sys.exit(main())
