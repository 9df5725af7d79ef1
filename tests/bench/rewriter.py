"""The tar rewriter alone: `python -m tests.bench.rewriter REFERENCE DIGEST SCRATCH [COMPONENT...]` cuts one layer.

Run as a process of its own, for its memory and CPU time to be its own. Without components all are kept.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.inventory import component_of
from composer.oci.compression import inflate
from composer.oci.image import Descriptor, Manifest, parse_manifest
from composer.oci.layer import Cut, cut
from composer.oci.layout import LayoutStore
from composer.oci.names import parse_reference
from tests.bench.process import run_json

MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One cut of a layer: `tar` bytes came out of its `blob` bytes of gzip, `kept` of them went into new layers.

    `wall` and `cpu` (all threads, user and system) are seconds, `memory` is the peak RSS in bytes.
    """

    blob: int
    tar: int
    kept: int
    entries: int
    wall: float
    cpu: float
    memory: int

    @property
    def per_core(self) -> float:
        """MB of source tar per second of CPU."""
        return self.tar / MB / self.cpu


def rewrite(reference: str, layer: Descriptor, wanted: Sequence[str], scratch: Path) -> Rewrite:
    """Cut a layer in a process of its own; what it writes stays in `scratch`."""
    argv = [sys.executable, "-m", "tests.bench.rewriter", reference, layer.digest, str(scratch), *wanted]
    return Rewrite(**run_json(argv))


def big_layer(reference: str) -> Descriptor:
    """The largest layer of an image in a layout: the server's."""
    return max(_layers(reference), key=lambda layer: layer.size)


def _layers(reference: str) -> Sequence[Descriptor]:
    name = parse_reference(reference)
    store = LayoutStore(Path(name.place))
    root = store.resolve(name.name)
    manifest = parse_manifest(store.manifest(root), root.media_type)
    assert isinstance(manifest, Manifest)
    return manifest.layers


def _measure(reference: str, digest: str, wanted: frozenset[str], scratch: Path) -> Rewrite:
    source = LayoutStore(Path(parse_reference(reference).place))
    target = LayoutStore.ensure(scratch)
    layer = next(one for one in _layers(reference) if one.digest == digest)
    how = Cut(
        component_of=component_of,
        wanted=(lambda name: name in wanted) if wanted else (lambda name: True),
        max_size=1 << 30,
    )
    counted = _Counted(inflate(source.read(layer), origin=digest))
    began, before = time.monotonic(), _cpu()
    outcome = cut(counted, how, origin=digest, create=target.incoming)
    wall, cpu = time.monotonic() - began, _cpu() - before
    return Rewrite(
        blob=layer.size,
        tar=counted.size,
        kept=sum(part.blob.tar_size for part in outcome.parts),
        entries=len(outcome.entries),
        wall=wall,
        cpu=cpu,
        memory=_peak(),
    )


class _Counted:
    """Chunks on their way, and how many bytes have passed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak() -> int:
    """The peak RSS of this process in bytes. getrusage would count what its parent had when it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    reference, digest, scratch, *wanted = sys.argv[1:]
    print(json.dumps(asdict(_measure(reference, digest, frozenset(wanted), Path(scratch)))))
