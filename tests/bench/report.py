"""The results as a table of ratios and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.machine import Machine
from tests.bench.process import Cost
from tests.bench.rewriter import MB, Rewrite
from tests.bench.story import Comparison, Scenario

NOTHING = 0.2
"""Fewer seconds or MB than this count as none: manifests and requests move some, and their ratio says nothing."""

HEAD = "| | wall | CPU | memory | read | written | disk |\n|---|---|---|---|---|---|---|"


def markdown(
    command: str, machine: Machine, comparison: Comparison, rewrites: Sequence[tuple[str, Rewrite]]
) -> list[str]:
    """RESULTS.md in lines."""
    return [
        "# The direct engine beside Docker",
        "",
        f"Made by `{command}` on {machine.date}. Do not edit: run it again.",
        "",
        *_machine(machine),
        "",
        "Each cell: how many times as much Docker needs, and in brackets tricompose : Docker, all of one run. Compare",
        "the ratios; the numbers beside them are this machine's.",
        "",
        HEAD,
        *(_row(scenario) for scenario in comparison.scenarios),
        "",
        *_notes(comparison),
        "",
        "## The tar rewriter alone",
        "",
        "The server's layer of the upstream, from file to layout: read, verify, inflate, parse, hash, deflate, write.",
        "",
        "| kept | source tar per core | of the target of 250 MB/s | peak RSS | of the limit of 128 MB |",
        "|---|---|---|---|---|",
        *(_rewrite(title, rewrite) for title, rewrite in rewrites),
    ]


def _machine(machine: Machine) -> list[str]:
    before, after = machine.load
    pigz = "with" if machine.unpigz else "without"
    return [
        f"{machine.cores} cores ({machine.cpu}), {machine.memory / 1e9:.0f} GB of memory, Linux {machine.kernel}; "
        f"Python {machine.python}, isal {machine.isal}; Docker {machine.docker} on {machine.storage}, {pigz} unpigz. "
        f"Load average {before:.1f} before, {after:.1f} after.",
    ]


def _row(scenario: Scenario) -> str:
    direct, docker = scenario.direct, scenario.docker
    cells = [
        _cell(direct.wall, docker.wall, "s"),
        _cell(direct.cpu, docker.cpu, "s"),
        _cell(direct.memory / MB, docker.memory / MB, "MB"),
        _cell(direct.read / MB, docker.read / MB, "MB"),
        _cell(direct.written / MB, docker.written / MB, "MB"),
        _cell(direct.disk / MB, docker.disk / MB, "MB"),
    ]
    return f"| **{', '.join(scenario.backends)}** {scenario.title} | {' | '.join(cells)} |"


def _cell(direct: float, docker: float, unit: str) -> str:
    return f"**{_times(direct, docker)}** ({_short(direct)} : {_short(docker)} {unit})"


def _times(direct: float, docker: float) -> str:
    """How many times as much Docker needs. What rounds to nothing is nothing: its ratio would be noise."""
    if direct < NOTHING and docker < NOTHING:
        return "neither"
    if direct < NOTHING:
        return "only Docker"
    if docker < NOTHING:
        return "only tricompose"
    return f"{docker / direct:.2g} x" if docker / direct < 10 else f"{docker / direct:.0f} x"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}"


def _notes(comparison: Comparison) -> list[str]:
    toll = comparison.toll
    return [
        "Rows happen in one sequence on each side: what an earlier one left in the cache or in Docker is there for the",
        "later ones, and all go to one repository, but for the second and third. Wall and CPU of Docker are those of",
        "the command, dockerd and containerd; memory is the peak of the sum of their RSS (dockerd and containerd",
        f"alone: {_daemon(comparison.scenarios)} MB at most). Read and written are bytes on the wire to and from the",
        "registries; disk is the peak of the cache folder, or of Docker's data-root, above what was there before.",
        "Both images hold the same files (path, kind, mode, owner, size): the run checks that.",
        "Docker builds with BuildKit, the faster of its two builders here. compose.py fetches Debian and pip packages",
        "from the network, which Docker is spared: it gets them as local tars.",
        f"Counting the traffic cost {toll.cpu_per_gb:.2f} s of CPU per GB of the {toll.gigabytes:.1f} GB that passed.",
    ]


def _daemon(scenarios: Sequence[Scenario]) -> str:
    return _short(max(scenario.docker.daemon_memory for scenario in scenarios) / MB)


def _rewrite(title: str, rewrite: Rewrite) -> str:
    share = f"{rewrite.kept / rewrite.tar:.0%}"
    speed, memory = rewrite.per_core, rewrite.memory / MB
    cells = (f"{speed:.0f} MB/s", f"**{speed / 250:.2f} x**", f"{memory:.0f} MB", f"**{memory / 128:.2f} x**")
    return f"| {title} ({share}) | {' | '.join(cells)} |"


def ratios(scenario: Scenario) -> dict[str, float]:
    """Docker : direct for each measure, where direct is not zero."""
    direct, docker = scenario.direct, scenario.docker
    pairs = {name: (getattr(direct, name), getattr(docker, name)) for name in Cost.__slots__ if name != "steps"}
    return {name: round(theirs / ours, 2) for name, (ours, theirs) in pairs.items() if ours}
