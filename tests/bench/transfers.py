"""`python -m tests.bench.transfers`: copies between real registries beside skopeo's, on good lines and on bad ones.

Both take turns on the same image, and medians are compared. The faults are those of tests/services/proxy.py. Writes
tests/bench/TRANSFERS.md. The same is held, at a smaller size, by tests/faults.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from composer.bundle.draft import Thing, draft
from composer.bundle.writing import Supply, write
from composer.bundling import kinds
from composer.events import ignore
from composer.oci.copy import survey
from composer.oci.image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    canonical_json,
    make_manifest,
    parse_manifest,
)
from composer.oci.layout import LayoutStore
from tests.bench.machine import cpu_name
from tests.bench.process import Command, Cost, Probes, measure
from tests.bench.wire import Wire
from tests.command import COMMAND
from tests.services.proxy import Answer, Cut, Flip, IgnoreRange, Proxy, Rules, Slow, Stall
from tests.services.registry import Registry, running_registry, store_at

RESULTS: Final = Path(__file__).parent / "TRANSFERS.md"
MIB: Final = 1 << 20
LAYERS: Final = (1024 * MIB, 492 * MIB, 320 * MIB, 256 * MIB, 64 * MIB)
LONGEST: Final = 90.0
"""Seconds after which a copy that hangs is ended."""

PLAIN: Final = ("--src-tls-verify=false", "--dest-tls-verify=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Two registries: the first has the image as `i/image:1`, as `2` with its smallest layer changed, and `i/one:1`.

    `layer` is the digest of the only layer of that.
    """

    folder: Path
    near: Registry
    far: Registry
    layer: str


# -- what is copied -----------------------------------------------------------------------------------------------


def write_image(layout: LayoutStore, name: str, sizes: Sequence[int], *, salts: Sequence[int]) -> Descriptor:
    """An image of layers that do not compress; a layer depends on its size and its salt alone."""
    layers = [_layer(layout, size, salt) for size, salt in zip(sizes, salts, strict=True)]
    config = canonical_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [],
        }
    )
    described = Descriptor.of(config, OCI_CONFIG)
    layout.write(described, lambda: iter((config,)))
    return layout.publish(make_manifest(OCI_MANIFEST, described, layers).raw, OCI_MANIFEST, name)


def _layer(layout: LayoutStore, size: int, salt: int) -> Descriptor:
    block = random.Random(salt * size).randbytes(MIB - 8)
    digest = hashlib.sha256()
    with layout.incoming() as incoming:
        for number in range(size // MIB):
            piece = number.to_bytes(8, "big") + block
            digest.update(piece)
            incoming.write(piece)
        name = f"sha256:{digest.hexdigest()}"
        incoming.commit(name, size)
    return Descriptor(media_type=f"{OCI_LAYER}+gzip", digest=name, size=size)


@contextmanager
def places(folder: Path) -> Iterator[Place]:
    layout = LayoutStore.ensure(folder / "layout")
    write_image(layout, "1", LAYERS, salts=(1, 1, 1, 1, 1))
    write_image(layout, "2", LAYERS, salts=(1, 1, 1, 1, 2))
    write_image(layout, "one", LAYERS[1:2], salts=(1,))
    with running_registry(folder / "near") as near, running_registry(folder / "far") as far:
        for tag, name in (("1", "i/image:1"), ("2", "i/image:2"), ("one", "i/one:1")):
            argv = ["skopeo", "copy", "-q", *PLAIN[1:], f"oci:{layout.path}:{tag}", f"docker://{near.host}/{name}"]
            subprocess.run(argv, check=True)
        shutil.rmtree(layout.path)
        # skopeo compresses what it pushes, so that only the registry knows what layers are called now.
        there = store_at(f"{near.host}/i/one")
        one = parse_manifest(there.manifest(there.resolve("1")), OCI_MANIFEST)
        assert isinstance(one, Manifest)
        yield Place(folder=folder, near=near, far=far, layer=one.layers[0].digest)


def skopeo(source: str, target: str) -> Command:
    return Command(name="skopeo", argv=("skopeo", "copy", "-q", *PLAIN, source, target))


def ours(source: str, target: str, cache: Path) -> Command:
    return Command(name="tricompose", argv=(COMMAND, "copy", "-q", source, target, "--cache", str(cache)))


# -- good lines ---------------------------------------------------------------------------------------------------


def clean(place: Place, rounds: int) -> list[str]:
    """Whole copies in turn, each into an empty registry; then one layer of it changes; then nothing does."""
    found: dict[str, list[Cost]] = {"skopeo": [], "tricompose": []}
    lines = ["| | wall | CPU | memory | disk beside the registries |", "|---|---|---|---|---|"]
    for number in range(rounds):
        for tool in found:
            found[tool].append(_copy(place, tool, "1", f"{tool}/clean{number}"))
            _empty(place.far)
    lines += [_row(tool, costs) for tool, costs in found.items()]
    ratio = statistics.median(b.wall / a.wall for a, b in zip(found["skopeo"], found["tricompose"], strict=True))
    lines += ["", f"tricompose : skopeo, median of the {rounds} pairs: **{ratio:.2f}**", ""]
    return [*lines, *_again(place)]


def _copy(place: Place, tool: str, tag: str, repository: str) -> Cost:
    scratch = place.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(scratch)
    with Wire(place.near.port) as source, Wire(place.far.port) as target:
        names = f"docker://{source.host}/i/image:{tag}", f"docker://{target.host}/{repository}:{tag}"
        command = skopeo(*names) if tool == "skopeo" else ours(*names, scratch / "cache")
        return measure([command], Probes(wires=[source, target], folders=[scratch]), log=place.folder / "log")


def _row(tool: str, costs: Sequence[Cost]) -> str:
    def middle(name: str) -> float:
        return statistics.median(getattr(cost, name) for cost in costs)

    memory = max(cost.memory for cost in costs) / MIB
    disk = max(cost.disk for cost in costs) / MIB
    return f"| {tool} | {middle('wall'):.1f} s | {middle('cpu'):.1f} s | {memory:.0f} MiB | {disk:.1f} MiB |"


def _again(place: Place) -> list[str]:
    _, changed, same = (_copy(place, "tricompose", tag, "again/image") for tag in ("1", "2", "2"))
    with Proxy(place.near.port) as near, Proxy(place.far.port) as far:
        target = f"docker://{far.host}/again/image:2"
        _run(ours(f"docker://{near.host}/i/image:2", target, place.folder / "scratch/cache"))
        requests = len(near.requests) + len(far.requests)
    moved, kept = (changed.read + changed.written) / 2 / MIB, (same.read + same.written) / MIB
    return [
        f"The same image with one layer of {LAYERS[-1] // MIB} MiB changed: {moved:.1f} MiB moved."
        f" The same image once more: {kept:.3f} MiB, {requests} requests.",
    ]


# -- bad lines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a line does, and what is allowed: seconds, and how many times the size of the layer."""

    name: str
    rules: Sequence[Rules]
    seconds: float
    share: float


def faults(layer: str) -> list[Fault]:
    """Of the layer with that digest, and anew each time: a rule wears out."""

    def refused(status: int, times: int, retry_after: int | None = None) -> Answer:
        return Answer(path=layer, status=status, times=times, retry_after=retry_after)

    def cut(at: int, times: float = float("inf")) -> Cut:
        return Cut(path=layer, at=at, times=times)

    return [
        Fault(name="none", rules=[], seconds=10, share=1.02),
        Fault(name="cut every 60 MiB", rules=[cut(60 * MIB)], seconds=6, share=1.02),
        Fault(name="cut every 600 kB, 40 times", rules=[cut(600_000, 40)], seconds=30, share=1.02),
        Fault(name="cut once at 250 MiB", rules=[cut(250 * MIB, 1)], seconds=10, share=1.02),
        Fault(name="cut at 250 MiB, no ranges", rules=[cut(250 * MIB, 1), IgnoreRange()], seconds=15, share=1.6),
        Fault(name="3 x 429, wait 2 s", rules=[refused(429, 3, 2)], seconds=8, share=1.02),
        Fault(name="12 x 429, wait 1 s", rules=[refused(429, 12, 1)], seconds=16, share=1.02),
        Fault(name="silence after 100 MiB", rules=[Stall(path=layer, at=100 * MIB, times=1)], seconds=40, share=1.02),
        Fault(name="2 x 503", rules=[refused(503, 2)], seconds=10, share=1.02),
        Fault(name="a flipped byte", rules=[Flip(path=layer, at=50 * MIB, times=1)], seconds=20, share=2.02),
    ]


def bad_lines(place: Place) -> list[str]:
    lines = ["| the line | skopeo | tricompose | allowed |", "|---|---|---|---|"]
    for theirs, our in zip(faults(place.layer), faults(place.layer), strict=True):
        cells = _through(place, theirs, "skopeo"), _through(place, our, "tricompose")
        lines.append(f"| {our.name} | {cells[0]} | {cells[1]} | {our.share:.2f} x in {our.seconds:.0f} s |")
    return lines


def _through(place: Place, fault: Fault, tool: str) -> str:
    with Proxy(place.near.port, fault.rules) as proxy:
        names = f"docker://{proxy.host}/i/one:1", f"docker://{place.far.host}/{tool}/one:1"
        status, took = _run(skopeo(*names) if tool == "skopeo" else ours(*names, place.folder / "scratch/cache"))
        moved = proxy.bytes_to_client
    _empty(place.far)
    outcome = {0: "ok", None: "hangs"}.get(status, "**fails**")
    held = status == 0 and took <= fault.seconds and moved <= fault.share * LAYERS[1]
    broken = "" if held or tool == "skopeo" else " **(not held)**"
    return f"{outcome}, {moved / MIB:.0f} MiB, {took:.1f} s{broken}"


def _run(command: Command) -> tuple[int | None, float]:
    """Its exit status, None where it hung, and the seconds that it took."""
    began = time.monotonic()
    try:
        done = subprocess.run(command.argv, capture_output=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return None, time.monotonic() - began
    return done.returncode, time.monotonic() - began


def _empty(registry: Registry) -> None:
    shutil.rmtree(registry.storage / "docker", ignore_errors=True)


# -- kill -9 ------------------------------------------------------------------------------------------------------


def killed(place: Place, times: int) -> list[str]:
    """Pulls that are killed at random, and run again: bytes fetched beyond those that were missing."""
    chance, total = random.Random(6), sum(LAYERS)
    excesses = []
    for number in range(times):
        share = chance.uniform(0.02, 0.98)
        excesses.append(_killed_at(place, int(share * total), place.folder / f"killed{number}"))
    worst, usual = max(excesses) / MIB, statistics.median(excesses) / MIB
    held = "" if worst <= 64 else " **(not held)**"
    return [
        f"{times} pulls of {total // MIB} MiB into a layout, 4 layers at once, each killed with `kill -9` at a random"
        f" moment and run again: all ended with the right digest. Fetched twice: {usual:.1f} MiB in the median,"
        f" {worst:.1f} MiB at most, of 64 MiB that are allowed (16 for each open stream){held}.",
    ]


def _killed_at(place: Place, size: int, folder: Path) -> int:
    with Proxy(place.near.port, [Slow(rate=150 * MIB)]) as proxy:
        command = ours(f"docker://{proxy.host}/i/image:1", f"oci:{folder}:1", place.folder / "scratch/cache")
        process = subprocess.Popen(command.argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while proxy.bytes_to_client < size and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        proxy.rules.clear()
        status, _ = _run(command)
        assert status == 0, f"the run after a kill at {size} bytes ended with {status}"
        moved = proxy.bytes_to_client
    done = subprocess.run(["skopeo", "copy", "-q", f"oci:{folder}:1", f"dir:{folder}.checked"], check=False)
    assert done.returncode == 0, "another tool finds the image broken"
    shutil.rmtree(folder)
    shutil.rmtree(f"{folder}.checked")
    return moved - sum(LAYERS)


# -- bundles ------------------------------------------------------------------------------------------------------


def verified(place: Place, rounds: int) -> list[str]:
    """A bundle in parts is verified, in turns with `sha256sum` of all parts at once."""
    folder = _bundled(place.folder / "bundled")
    parts = sorted(folder.glob("b.tar.*"))
    size = sum(part.stat().st_size for part in parts)
    took, ratios = [], []
    for _ in range(rounds):
        status, wall = _run(Command(name="verify", argv=(COMMAND, "bundle", "verify", str(folder / "b"))))
        assert status == 0, f"bundle verify ended with {status}"
        took.append(wall)
        ratios.append(wall / _summed(parts))
    shutil.rmtree(folder.parent)
    rate = size / statistics.median(took) / 1e9
    held = "" if rate >= 1 else " **(not held)**"
    return [
        f"`bundle verify` of {size / 1e9:.2f} GB in {len(parts)} parts, which are in the page cache: {rate:.2f} GB/s of"
        f" wall time in the median of {rounds}, of 1 GB/s that is asked for{held};"
        f" {statistics.median(ratios):.2f} of the time that `sha256sum` takes, one for each part, all at once.",
    ]


def _bundled(folder: Path) -> Path:
    layout = LayoutStore.ensure(folder / "layout")
    write_image(layout, "1", LAYERS, salts=(1, 1, 1, 1, 1))
    contents = survey(layout, layout.resolve("1"))
    thing = Thing(name="i/image:1", kind=kinds.COMPOSED, contents=contents, source=layout)
    made = draft([thing], [], {}, tool="bench")
    write(
        made, Supply([thing], []), folder / "out", "b", part_size=700 * MIB, finish=lambda _: None, emit=ignore, jobs=2
    )
    shutil.rmtree(layout.path)
    return folder / "out"


def _summed(parts: Sequence[Path]) -> float:
    """The seconds that coreutils need for the checksums of all parts."""
    began = time.monotonic()
    for process in [subprocess.Popen(["sha256sum", str(part)], stdout=subprocess.DEVNULL) for part in parts]:
        assert process.wait() == 0
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tricompose-transfers-") as name, places(Path(name)) as place:
        parts = [
            ("## Between two registries", clean(place, arguments.rounds)),
            (f"## Bad lines: one layer of {LAYERS[1] // MIB} MiB, from registry to registry", bad_lines(place)),
            ("## Killed", killed(place, arguments.kills)),
            ("## Bundles", verified(place, arguments.rounds)),
        ]
    version = subprocess.run(["skopeo", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    lines = [
        "# Transfers",
        "",
        "Written by `make transfers` (tests/bench/transfers.py). Registries are Debian's docker-registry (distribution"
        f" 2.8) over loopback; beside it {version} without retries."
        f" An image of {sum(LAYERS) // MIB} MiB in {len(LAYERS)} layers.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cpu_name()}, {os.cpu_count()} cores, load {load:.1f} before and"
        f" {os.getloadavg()[0]:.1f} after.",
    ]
    for title, found in parts:
        lines += ["", title, "", *found]
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
