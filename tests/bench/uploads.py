"""`python -m tests.bench.uploads`: pushes that are cut or killed at random places, against registries of two kinds.

How much is sent and fetched more than once, of a layer of 492 MiB that goes from one registry to another. Writes
tests/bench/UPLOADS.md. The same is held, at a smaller size, by tests/registry/test_uploads.py.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from composer.events import ignore
from composer.oci.copy import Contents, copy, survey
from composer.oci.layout import LayoutStore
from tests.bench.machine import cpu_name
from tests.bench.transfers import write_image
from tests.command import COMMAND
from tests.services.others import running_other
from tests.services.proxy import CutUpload, Proxy, Rules, StallUpload
from tests.services.registry import running_registry, store_at

RESULTS: Final = Path(__file__).parent / "UPLOADS.md"
MIB: Final = 1 << 20
SIZE: Final = 492 * MIB
TIMES: Final = 20
ALLOWED: Final = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One push: where it was cut; the MiB that all its runs sent and fetched, more than the image has."""

    at: float
    sent: float
    fetched: float
    seconds: float


@contextmanager
def keeping() -> Iterator[int]:
    """A registry that keeps cut uploads, empty."""
    with running_other("cue") as other:
        yield other.port


@contextmanager
def forgetting() -> Iterator[int]:
    """One that does not."""
    with tempfile.TemporaryDirectory() as folder, running_registry(Path(folder)) as registry:
        yield registry.port


def copied(near: Proxy, far: Proxy, cache: Path, *, until: int | None = None) -> None:
    """Copy the image in a process of its own; kill it once the target has `until` bytes."""
    names = [f"docker://{near.host}/a/b:1", f"docker://{far.host}/c/d:1"]
    process = subprocess.Popen([COMMAND, "copy", *names, "--cache", str(cache), "-q"], stdout=subprocess.DEVNULL)
    while until is not None and far.bytes_to_upstream < until and process.poll() is None:
        time.sleep(0.02)
    if until is not None:
        process.kill()
    status = process.wait(300)
    assert until is not None or status == 0, f"the copy ended with {status}"


def push(
    image: Contents, kind: Callable[[], AbstractContextManager[int]], source: int, at: int, *, killed: bool
) -> Outcome:
    """Push the image, cut or killed at one place of its layer."""
    rule: Rules = StallUpload(at=at, times=1) if killed else CutUpload(at=at, times=1)
    with tempfile.TemporaryDirectory() as folder, kind() as target, Proxy(source) as near, Proxy(target, [rule]) as far:
        started = time.monotonic()
        if killed:
            copied(near, far, Path(folder), until=at)
        copied(near, far, Path(folder))
        seconds = time.monotonic() - started
        held = store_at(f"127.0.0.1:{target}/c/d")
        assert held.resolve("1") == image.root.descriptor
        assert sum(len(piece) for blob in image.blobs for piece in held.read(blob)) >= SIZE
        whole = sum(blob.size for blob in image.blobs) + len(image.root.raw)
        sent, fetched = (far.bytes_to_upstream - whole) / MIB, (near.bytes_to_client - whole) / MIB
    return Outcome(at=at / MIB, sent=max(sent, 0), fetched=max(fetched, 0), seconds=seconds)


PLACES: Final = [random.Random(number).randrange(17 * MIB, SIZE - MIB) for number in range(TIMES)]
SERIES: Final = (
    ("cut, ociregistry", keeping, False),
    ("killed, ociregistry", keeping, True),
    ("cut, docker-registry 2.8", forgetting, False),
    ("killed, docker-registry 2.8", forgetting, True),
)


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """A line of the table."""
    sent, fetched = [one.sent for one in outcomes], [one.fetched for one in outcomes]
    seconds = max(one.seconds for one in outcomes)
    figures = (f"{sum(values) / len(values):.1f}, {max(values):.1f}" for values in (sent, fetched))
    return f"| {name} | {len(outcomes)} | {' | '.join(figures)} | {seconds:.1f} |"


def received() -> int:
    """The bytes that the kernel takes for one connection before anybody reads them."""
    return int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])


def main() -> None:
    """Push, and write down what it cost."""
    with tempfile.TemporaryDirectory() as folder, running_registry(Path(folder, "registry")) as source:
        layout = LayoutStore.ensure(Path(folder, "layout"))
        root = write_image(layout, "1", [SIZE], salts=[0])
        copy(layout, "1", store_at(f"{source.host}/a/b"), "1", platforms=None, emit=ignore, jobs=1)
        image = survey(layout, root)
        found = {}
        for name, kind, killed in SERIES:
            found[name] = [push(image, kind, source.port, at, killed=killed) for at in PLACES]
            print(row(name, found[name]), flush=True)
    kept = [one for name, outcomes in found.items() for one in outcomes if "ociregistry" in name]
    assert all(one.sent * MIB <= ALLOWED for one in kept), "more than 16 MiB were sent twice"
    lines = [
        "# Uploads that were cut or killed",
        "",
        f"Made by `make uploads` on {datetime.now(UTC):%Y-%m-%d}, {cpu_name()}. A layer of 492 MiB goes from one",
        f"registry to another and is cut, or the process killed (`kill -9`), at {TIMES} random places of it. What was",
        "killed is run again. Every push ended well, with the right bytes under the tag.",
        "",
        "| | pushes | MiB sent more than once: mean, most | MiB fetched more than once: mean, most | seconds at most |",
        "|---|---|---|---|---|",
        *(row(name, outcomes) for name, outcomes in found.items()),
        "",
        "ociregistry keeps what it has of an upload. docker-registry 2.8 forgets it, so that the blob is sent once",
        "more, and read once more from where it is; what was sent before the cut is what is wasted. What is fetched",
        "more than once had come to this machine and was not sent yet: the kernel takes as much as",
        f"{received() / MIB:.0f} MiB for a connection here (net.ipv4.tcp_rmem), where 6 MiB are usual.",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
