"""`python -m tests.bench`: measure, and write tests/bench/RESULTS.md and build/bench.json."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.bench.machine import Machine, describe
from tests.bench.report import markdown, ratios
from tests.bench.rewriter import Rewrite, big_layer, rewrite
from tests.bench.story import FIRST, Comparison, Say, compare
from tests.upstream import make

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Measure as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--profile", default="bench", help="of the upstream; quickstart tries the bench out")
    parser.add_argument("--results", type=Path, default=ROOT / "tests/bench/RESULTS.md", metavar="FILE")
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench.json", metavar="FILE")
    options = parser.parse_args()
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", flush=True)

    scratch = Path(tempfile.mkdtemp(prefix="tricompose-bench-"))
    try:
        results = _measure(options.profile, scratch, say)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    command = "make bench" if options.profile == "bench" else f"python -m tests.bench --profile {options.profile}"
    _write(command, *results, options.results, options.json)
    say(f"{options.results} and {options.json} are written")


def _measure(profile: str, scratch: Path, say: Say) -> tuple[Machine, Comparison, list[tuple[str, Rewrite]]]:
    upstream = make(scratch / "upstream", profile=profile, say=say)
    load = os.getloadavg()[0]
    rewrites = _rewrites(upstream.full, scratch / "cut", say)
    comparison = compare(upstream, scratch, say)
    return describe(comparison.storage, load), comparison, rewrites


def _rewrites(reference: str, scratch: Path, say: Say) -> list[tuple[str, Rewrite]]:
    layer = big_layer(reference)
    few = ("core", *(f"backends/{name}" for name in FIRST))
    found = []
    for title, wanted in ((", ".join(FIRST), few), ("everything", ())):
        say(f"the tar rewriter: {title}")
        found.append((title, rewrite(reference, layer, wanted, scratch)))
        shutil.rmtree(scratch)
    return found


def _write(
    command: str,
    machine: Machine,
    comparison: Comparison,
    rewrites: list[tuple[str, Rewrite]],
    results: Path,
    document: Path,
) -> None:
    results.write_text("\n".join(markdown(command, machine, comparison, rewrites)) + "\n")
    found = {
        "schema": 1,
        "command": command,
        "machine": asdict(machine),
        "scenarios": [asdict(one) | {"ratios": ratios(one)} for one in comparison.scenarios],
        "rewriter": [asdict(one) | {"title": title, "mb_per_core": one.per_core} for title, one in rewrites],
        "toll": asdict(comparison.toll),
    }
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
