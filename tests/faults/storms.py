"""Transfers over a network where everything goes wrong, a thousand times: what each one left, and what it cost.

`make storm` does it 1,000 times and writes STORMS.md; test_storms.py does some of them. A storm moves an image by one
of the FLOWS, with one to three of the faults below, or kill -9, at moments drawn by its number. Then it is looked at
what is under the name: nothing, what was there before, or all of the new image, and each byte of it. Then it is done
again in good weather, and must come to its end. The proxies count what moved twice.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from composer import errors, mirroring, moving, network
from composer.bundle.document import Found
from composer.bundle.draft import Thing, draft
from composer.bundle.writing import Supply, write
from composer.bundling import kinds
from composer.bundling.loading import load
from composer.events import ignore
from composer.oci.copy import survey
from composer.oci.image import OCI_CONFIG, OCI_LAYER, Descriptor, canonical_json, make_manifest, sha256
from composer.oci.layout import LayoutStore
from composer.oci.names import parse_reference
from composer.workplace import Workplace
from tests.images import Picture, layer_tar, put
from tests.services.others import running_other
from tests.services.proxy import (
    Answer,
    Cut,
    CutUpload,
    Flip,
    Hold,
    IgnoreRange,
    Lose,
    Proxy,
    Redirect,
    Rules,
    Short,
    Stall,
    Swap,
)
from tests.services.registry import Registry, free_port, running_registry, store_at

SEED: Final = 6
MIB: Final = 1 << 20
STALL: Final = 1.5
PATIENCE: Final = 5.0
"""Seconds, where people have 30 and 120."""

DOCUMENTED: Final = frozenset(
    kind.status for kind in errors.TricomposeError.__subclasses__() if kind.__module__ == errors.__name__
)
KILLED: Final = -signal.SIGKILL


# -- what is moved ------------------------------------------------------------------------------------------------


def make_picture(seed: int, sizes: Sequence[int]) -> Picture:
    """An image with layers of these sizes."""
    noise = random.Random(seed)
    tars = [layer_tar({f"file-{seed}-{number}": noise.randbytes(size)}) for number, size in enumerate(sizes)]
    blobs = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    config = canonical_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(tars))],
        }
    )
    layers = [Descriptor.of(blob, f"{OCI_LAYER}+gzip") for blob in blobs]
    manifest = make_manifest("application/vnd.oci.image.manifest.v1+json", Descriptor.of(config, OCI_CONFIG), layers)
    return Picture(manifest=manifest, data={sha256(raw): raw for raw in (config, manifest.raw, *blobs)})


def weight(image: Picture) -> int:
    """All bytes of an image, its manifest too."""
    return sum(map(len, image.data.values()))


OLD: Final = "old"
USUAL: Final = "usual"
LARGE: Final = "large"
_SLICES: Final = (5 * MIB,) * 4 + (3 * MIB,) * 3 + (1_500_000,) * 4 + (600_000,) * 4
LAYERS: Final[Mapping[str, Sequence[int]]] = {
    OLD: (1000, 2000),
    USUAL: (*_SLICES, 200_000, 100_000, 50_000, 20_000, 10_000, 5000, 2000, 1000, 500),
    LARGE: (32 * MIB, MIB, 1000),
}
"""Images by their tags in the source: how large their layers are.

`usual` is a Triton with some backends, 8 GB in layers of 1 GiB at most, on the scale of 1 to 200. `large` is nearly
all one layer: nothing is worse to break off.
"""

ALLOWED: Final = 0.05
"""The share of all bytes that may move twice, over a thousand storms."""

FORGETS: Final = "distribution 2.8.2"
KEEPS: Final = "cue's ociregistry"
"""The registries that are written to: what they do with an upload that was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sea:
    """Where storms are: images in `source` and in the layout `harbour`; the ports of the registries to go to."""

    folder: Path
    source: Registry
    targets: Mapping[str, int]
    images: Mapping[str, Picture]

    @property
    def harbour(self) -> Path:
        return self.folder / "harbour"


@contextmanager
def sea(folder: Path) -> Iterator[Sea]:
    """Three registries, and the images."""
    images = {name: make_picture(seed, sizes) for seed, (name, sizes) in enumerate(LAYERS.items())}
    with (
        running_registry(folder / "source") as source,
        running_registry(folder / "target") as forgets,
        running_other("cue") as keeps,
    ):
        targets = {FORGETS: forgets.port, KEEPS: keeps.port}
        made = Sea(folder=folder, source=source, targets=targets, images=images)
        for name, image in images.items():
            put(store_at(f"{source.host}/source/image"), image, name)
            put(LayoutStore.ensure(made.harbour), image, name)
            _bundle(LayoutStore(made.harbour), name, folder / "bundles")
        yield made


def _bundle(store: LayoutStore, name: str, folder: Path) -> None:
    """An image as a bundle in parts of 3 MB, called by its name."""
    folder.mkdir(exist_ok=True)
    contents = survey(store, store.resolve(name))
    thing = Thing(name=f"source/image:{name}", kind=kinds.COMPOSED, contents=contents, source=store)
    made = draft([thing], [], {}, tool="storms")
    supply = Supply([thing], [])
    write(made, supply, folder, name, part_size=3_000_000, finish=lambda _: None, emit=ignore, jobs=2)


# -- what goes wrong ----------------------------------------------------------------------------------------------

Draw = random.Random
BLOB: Final = "/blobs/sha256:"
MANIFEST: Final = "/manifests/"
UPLOADS: Final = "/blobs/uploads/"


def _blob(draw: Draw, image: Picture) -> tuple[str, int]:
    """One of an image's blobs, a large one more often than a small one: a pattern for its path, and its size."""
    blobs = [image.manifest.config, *image.manifest.layers]
    chosen = draw.choices(blobs, [one.size for one in blobs])[0]
    return f"{BLOB[:-7]}{chosen.digest}", chosen.size


def _few(draw: Draw) -> float:
    """How often a fault comes: once or twice as a rule, now and then always."""
    return draw.choice((1, 1, 1, 2, 2, 3, float("inf")))


def _cut(draw: Draw, image: Picture, *, reset: bool = False) -> Rules:
    path, size = _blob(draw, image)
    return Cut(path=path, at=draw.randrange(size), times=_few(draw), reset=reset)


def _cut_all(draw: Draw, image: Picture) -> Rules:
    return Cut(at=draw.randrange(200_000, 2 * MIB), times=draw.choice((3, 8, float("inf"))))


def _stall(draw: Draw, image: Picture) -> Rules:
    path, size = _blob(draw, image)
    return Stall(path=path, at=draw.randrange(size), times=draw.choice((1, 1, 2)))


def _flip(draw: Draw, image: Picture) -> Rules:
    path, size = _blob(draw, image)
    return Flip(path=path, at=draw.randrange(size), times=draw.choice((1, 1, 1, 1, float("inf"))))


def _flip_manifest(draw: Draw, image: Picture) -> Rules:
    size = len(image.manifest.raw)
    return Flip(path=MANIFEST, at=draw.randrange(size), times=draw.choice((1, 1, float("inf"))))


def _short(draw: Draw, image: Picture) -> Rules:
    path, size = _blob(draw, image)
    return Short(path=path, at=draw.randrange(size), times=draw.choice((1, 1, 1, 2, float("inf"))))


def _swap(draw: Draw, image: Picture) -> Rules:
    one, other = draw.sample(image.manifest.layers, 2)
    return Swap(path=one.digest, instead=f"/v2/source/image/blobs/{other.digest}", times=draw.choice((1, 1, 2)))


def _swap_manifest(draw: Draw, image: Picture) -> Rules:
    return Swap(path=f"{MANIFEST}sha256:", instead="/v2/source/image/manifests/old", times=draw.choice((1, 2)))


def _failing(draw: Draw, image: Picture, *, method: str, path: str) -> Rules:
    status = draw.choice((500, 502, 503, 504))
    return Answer(method=method, path=path, status=status, times=_few(draw), after=draw.randrange(4))


def _limited(draw: Draw, image: Picture, *, method: str, path: str) -> Rules:
    return Answer(
        method=method,
        path=path,
        status=429,
        retry_after=1,
        dated=draw.random() < 0.5,
        times=draw.choice((1, 2)),
        after=draw.randrange(4),
    )


def _refused(draw: Draw, image: Picture, *, method: str, path: str) -> Rules:
    status = draw.choice((401, 403, 404))
    return Answer(method=method, path=path, status=status, times=draw.choice((1, float("inf"))))


def _dead_end(draw: Draw, image: Picture) -> Rules:
    return Redirect(port=free_port(), path=_blob(draw, image)[0], times=draw.choice((1, 2, float("inf"))))


def _deaf(draw: Draw, image: Picture) -> Rules:
    """Ranges are ignored; what is cut besides, `_cut` says."""
    return IgnoreRange()


def _cut_upload(draw: Draw, image: Picture, *, reset: bool = False) -> Rules:
    at = draw.choice((0, draw.randrange(1000), draw.randrange(900_000), draw.randrange(4 * MIB)))
    return CutUpload(at=at, times=draw.choice((1, 1, 2, 3)), after=draw.randrange(4), reset=reset)


def _lose(draw: Draw, image: Picture, *, method: str, path: str = UPLOADS) -> Rules:
    return Lose(method=method, path=path, times=draw.choice((1, 1, 2)), after=draw.randrange(3))


def _hold(draw: Draw, image: Picture, *, method: str, path: str) -> Rules:
    return Hold(method=method, path=path, times=draw.choice((1, 1, 2)), after=draw.randrange(3))


Fault = Callable[[Draw, Picture], Rules]

READING: Final[Mapping[str, Fault]] = {
    "download cut": _cut,
    "download reset": partial(_cut, reset=True),
    "every download cut": _cut_all,
    "download stalls": _stall,
    "no answer to a download": partial(_hold, method="GET", path=BLOB),
    "no answer to HEAD": partial(_hold, method="HEAD", path=MANIFEST),
    "flipped bit": _flip,
    "flipped bit in a manifest": _flip_manifest,
    "truncated, Content-Length says so": _short,
    "another blob's bytes": _swap,
    "another manifest's bytes": _swap_manifest,
    "5xx for downloads": partial(_failing, method="GET", path=BLOB),
    "5xx for manifests": partial(_failing, method="GET|HEAD", path=MANIFEST),
    "429 for downloads": partial(_limited, method="GET", path=BLOB),
    "429 for all": partial(_limited, method="GET|HEAD", path="/v2/"),
    "401, 403 or 404 for downloads": partial(_refused, method="GET", path=BLOB),
    "redirect to a dead URL": _dead_end,
    "ranges ignored": _deaf,
}
WRITING: Final[Mapping[str, Fault]] = {
    "upload cut": _cut_upload,
    "upload reset": partial(_cut_upload, reset=True),
    "lost answer to POST": partial(_lose, method="POST"),
    "lost answer to PATCH": partial(_lose, method="PATCH"),
    "lost answer to PUT": partial(_lose, method="PUT"),
    "lost answer to the manifest": partial(_lose, method="PUT", path=MANIFEST),
    "no answer to PATCH": partial(_hold, method="PATCH", path=UPLOADS),
    "no answer to PUT": partial(_hold, method="PUT", path=UPLOADS),
    "no answer to the manifest": partial(_hold, method="PUT", path=MANIFEST),
    "5xx for uploads": partial(_failing, method="POST|PATCH|PUT", path=UPLOADS),
    "5xx for the manifest": partial(_failing, method="PUT", path=MANIFEST),
    "5xx for HEAD": partial(_failing, method="HEAD", path="/v2/"),
    "429 for uploads": partial(_limited, method="POST|PATCH|PUT", path=UPLOADS),
    "429 for all": partial(_limited, method="POST|PATCH|PUT|HEAD", path="/v2/"),
    "403 for uploads": partial(_refused, method="POST|PATCH", path=UPLOADS),
    "403 for the manifest": partial(_refused, method="PUT", path=MANIFEST),
}
KILL: Final = "kill -9"
LONG: Final = "no answer to PUT"
"""What is waited for as long as people wait, 30 s, as a registry may hash the blob: one in eight is enough."""

WRONG: Final = frozenset({"flipped bit", "truncated, Content-Length says so", "another blob's bytes"})
"""What is wrong in a blob says not where: it has to be fetched again whole, unless its size tells at once."""

CUT: Final = frozenset(
    {"upload cut", "upload reset", "lost answer to PATCH", "no answer to PATCH", "5xx for uploads", "429 for uploads"}
    | {"429 for all", "403 for uploads", KILL}
)
"""What an upload does not survive where the registry forgets it: the blob has to be sent again whole."""


# -- how it is moved ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A way for images. `reads` and `writes`: whether a network is at that end, to be stormy.

    `below` is where the image ends up within the place that is named, by the port that it comes from.
    """

    reads: bool
    writes: bool
    act: Callable[[str, str, Workplace], None]
    below: str = ""


def _copy(source: str, target: str, place: Workplace) -> None:
    moving.copy(parse_reference(source), parse_reference(target), place, platforms=None)


def _mirror(source: str, target: str, place: Workplace) -> None:
    wanted = [mirroring.Wanted(reference=parse_reference(source), place=place)]
    to = mirroring.Destination.parse(target)
    found = mirroring.mirror(wanted, to, mirroring.Manner(), jobs=place.jobs, emit=place.emit)
    if error := mirroring.failure(found):
        raise error


def _load(source: str, target: str, place: Workplace) -> None:
    load(Found.at(Path(source)), target, place, into=None, trust=None)


FLOWS: Final[Mapping[str, Flow]] = {
    "pull": Flow(reads=True, writes=False, act=_copy),
    "push": Flow(reads=False, writes=True, act=_copy),
    "mirror": Flow(reads=True, writes=True, act=_mirror, below="/127.0.0.1_{}/source/image"),
    "bundle load": Flow(reads=False, writes=True, act=_load, below="/source/image"),
}


def workplace(cache: Path) -> Workplace:
    """As the command makes it, with less time for everything."""
    environ = {"HOME": str(cache.parent), "DOCKER_CONFIG": str(cache.parent)}
    place = Workplace.from_environment(environ, home=cache.parent, cache=cache)
    session = network.session(place.routes, stall=STALL)
    return replace(place, access=replace(place.access, session=lambda: session, patience=PATIENCE))


def act(flow: str, source: str, target: str, cache: Path) -> int:
    """Move an image; the exit status that the command would have."""
    try:
        FLOWS[flow].act(source, target, workplace(cache))
    except errors.TricomposeError as error:
        return error.status
    return 0


# -- a storm ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What is drawn for a number. `share` is at which part of the bytes the process is killed, if it is."""

    number: int
    flow: str
    image: str
    target: str
    before: bool
    """Whether an older image has the name already."""
    reading: tuple[tuple[str, Rules], ...]
    writing: tuple[tuple[str, Rules], ...]
    share: float | None

    @property
    def faults(self) -> list[str]:
        """By name."""
        return [name for name, _ in (*self.reading, *self.writing)] + ([KILL] if self.share is not None else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What came of a storm: its exit status, the bytes that were needed and moved twice, and all that was `wrong`."""

    number: int
    flow: str
    image: str
    target: str
    faults: Sequence[str]
    status: int
    seconds: float
    needed: int
    twice: int
    wrong: Sequence[str]

    @property
    def apart(self) -> str | None:
        """Why bytes had to move again whoever moves them, or None."""
        faults = set(self.faults)
        if faults & WRONG:
            return "a blob came wrong: it says not where, and is fetched again whole"
        if "ranges ignored" in faults:
            return "the registry ignores ranges: what is cut begins again"
        if FLOWS[self.flow].writes and self.target == FORGETS and faults & CUT:
            return f"{FORGETS} forgets an upload that is cut: the blob is sent again whole"
        return None


def drawn(number: int, images: Mapping[str, Picture]) -> Storm:
    """The same for the same number, every time."""
    draw = random.Random(f"{SEED}-{number}")
    flow = list(FLOWS)[number % len(FLOWS)]
    chosen = draw.choices((USUAL, LARGE), (7, 1))[0]
    image = images[chosen]
    killed = draw.random() < 0.15
    count = draw.choice((0, 1)) if killed else draw.choice((1, 1, 1, 2, 2, 3))
    tables = [table for table, has in ((READING, FLOWS[flow].reads), (WRITING, FLOWS[flow].writes)) if has]
    reading, writing = [], []
    for _ in range(count):
        table = draw.choice(tables)
        name = draw.choice(list(table))
        if name == LONG and draw.random() < 7 / 8:
            name = "lost answer to PUT"
        (reading if table is READING else writing).append((name, table[name](draw, image)))
    if any(name == "ranges ignored" for name, _ in reading):
        reading.append(("download cut", _cut(draw, image)))
    return Storm(
        number=number,
        flow=flow,
        image=chosen,
        target=draw.choice((FORGETS, KEEPS)),
        before=draw.random() < 0.5,
        reading=tuple(reading),
        writing=tuple(writing),
        share=draw.random() if killed else None,
    )


@dataclass(slots=True, kw_only=True)
class Voyage:
    """The places of one storm: proxies at both ends, a folder and a repository of its own."""

    sea: Sea
    storm: Storm
    folder: Path
    source: Proxy
    target: Proxy
    wrong: list[str] = field(default_factory=list)

    @property
    def flow(self) -> Flow:
        return FLOWS[self.storm.flow]

    @property
    def image(self) -> Picture:
        return self.sea.images[self.storm.image]

    @property
    def repository(self) -> str:
        """Where it goes in the registry, if it does."""
        return f"storms/{self.storm.number}" + self.flow.below.format(self.source.port)

    @property
    def tag(self) -> str:
        return self.storm.image

    @property
    def origin(self) -> str:
        if self.flow.reads:
            return f"docker://{self.source.host}/source/image:{self.tag}"
        from_bundle = self.sea.folder / "bundles" / self.tag
        return str(from_bundle) if self.storm.flow == "bundle load" else f"oci:{self.sea.harbour}:{self.tag}"

    @property
    def goal(self) -> str:
        if not self.flow.writes:
            return f"oci:{self.folder / 'result'}:{self.tag}"
        place = f"docker://{self.target.host}/storms/{self.storm.number}"
        return place if self.flow.below else f"{place}:{self.tag}"

    @property
    def moved(self) -> int:
        """So far, both ways."""
        return self.source.bytes_to_client + self.target.bytes_to_upstream

    @property
    def needed(self) -> int:
        """What moves in good weather."""
        return weight(self.image) * (self.flow.reads + self.flow.writes)


def weather(storm: Storm, sea: Sea, folder: Path) -> Passed:
    """Go through one storm, and again without it."""
    folder.mkdir(parents=True)
    begun = time.monotonic()
    source, target = Proxy(sea.source.port), Proxy(sea.targets[storm.target])
    with source, target:
        voyage = Voyage(sea=sea, storm=storm, folder=folder, source=source, target=target)
        if storm.before:
            _lay_before(voyage)
        source.rules, target.rules = [rule for _, rule in storm.reading], [rule for _, rule in storm.writing]
        status = _killed(voyage) if storm.share is not None else _done(voyage)
        _look(voyage, whole=status == 0)
        if status not in {0, *DOCUMENTED, KILLED}:
            voyage.wrong.append(f"exits with {status}, which is not documented")
        source.rules, target.rules = [], []
        if status != 0:
            if (again := _done(voyage)) != 0:
                voyage.wrong.append(f"exits with {again} in good weather")
            _look(voyage, whole=True)
        twice = max(0, voyage.moved - voyage.needed)
    _look_around(voyage)
    shutil.rmtree(folder)
    return Passed(
        number=storm.number,
        flow=storm.flow,
        image=storm.image,
        target=storm.target,
        faults=storm.faults,
        status=status,
        seconds=time.monotonic() - begun,
        needed=voyage.needed,
        twice=twice,
        wrong=voyage.wrong,
    )


def _lay_before(voyage: Voyage) -> None:
    image = voyage.sea.images[OLD]
    if voyage.flow.writes:
        put(store_at(f"127.0.0.1:{voyage.sea.targets[voyage.storm.target]}/{voyage.repository}"), image, voyage.tag)
    else:
        put(LayoutStore.ensure(voyage.folder / "result"), image, voyage.tag)


def _done(voyage: Voyage) -> int:
    """Within this process; a way to fail that is nobody's is told as one."""
    try:
        return act(voyage.storm.flow, voyage.origin, voyage.goal, voyage.folder / "cache")
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        voyage.wrong.append(f"{type(error).__name__}: {error}")
        return 70


def _killed(voyage: Voyage) -> int:
    """In a process of its own, until so many bytes have moved."""
    assert voyage.storm.share is not None
    line = [sys.executable, "-m", "tests.faults.storms", "act", voyage.storm.flow, voyage.origin, voyage.goal]
    process = subprocess.Popen(
        [*line, str(voyage.folder / "cache")], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    while process.poll() is None and voyage.moved < voyage.storm.share * voyage.needed:
        time.sleep(0.001)
    process.kill()
    said = process.communicate()[1]
    if "Traceback" in said:
        voyage.wrong.append(said)
    return process.returncode


# -- what is there afterwards -------------------------------------------------------------------------------------


def _look(voyage: Voyage, *, whole: bool) -> None:
    """What is under the name: all of the new image if it must be there, else that, the old one or nothing."""
    found = _in_registry(voyage) if voyage.flow.writes else _in_layout(voyage)
    allowed = {voyage.tag} if whole else {voyage.tag, OLD if voyage.storm.before else "nothing"}
    if found not in allowed:
        voyage.wrong.append(f"under the name is {found}, where {' or '.join(sorted(allowed))} should be")


def _judged(voyage: Voyage, manifest: bytes, blob: Callable[[str], bytes | None]) -> str:
    """Which image a manifest is, and whether each of its blobs is there and right."""
    digest = _sha256(manifest)
    name = next((name for name, image in voyage.sea.images.items() if image.root.digest == digest), None)
    if name is None:
        return f"another manifest, {digest}"
    listed = json.loads(manifest)
    for one in (listed["config"], *listed["layers"]):
        data = blob(one["digest"])
        if data is None or _sha256(data) != one["digest"]:
            return f"the {name} image with {one['digest']} {'missing' if data is None else 'wrong'}"
    return name


def _in_registry(voyage: Voyage) -> str:
    root = f"http://127.0.0.1:{voyage.sea.targets[voyage.storm.target]}/v2/{voyage.repository}"
    manifest = _get(f"{root}/manifests/{voyage.tag}")
    return "nothing" if manifest is None else _judged(voyage, manifest, lambda digest: _get(f"{root}/blobs/{digest}"))


def _get(url: str) -> bytes | None:
    request = urllib.request.Request(url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            data: bytes = answer.read()
            return data
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _in_layout(voyage: Voyage) -> str:
    folder = voyage.folder / "result"

    def blob(digest: str) -> bytes | None:
        path = folder / "blobs" / digest.replace(":", "/")
        return path.read_bytes() if path.exists() else None

    index = folder / "index.json"
    listed = json.loads(index.read_text())["manifests"] if index.exists() else []
    named = [one for one in listed if one.get("annotations", {}).get("org.opencontainers.image.ref.name") == voyage.tag]
    if len(named) > 1:
        return "two images"
    manifest = blob(named[0]["digest"]) if named else None
    return "nothing" if not named else "no manifest" if manifest is None else _judged(voyage, manifest, blob)


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _look_around(voyage: Voyage) -> None:
    """After the end nothing half-made is left, neither beside the result nor in the cache."""
    for place in (voyage.folder / "result", voyage.folder / "cache"):
        found = [path for path in place.rglob("*") if path.is_file() and _half_made(path)]
        voyage.wrong += [f"{path.relative_to(voyage.folder)} is left" for path in found]


def _half_made(path: Path) -> bool:
    return path.parent.name == "ingest" or ".tmp" in path.name or path.suffix == ".part"


# -- a thousand of them -------------------------------------------------------------------------------------------

BATCH: Final = 50


def batch(numbers: Sequence[int]) -> list[Passed]:
    """Go through some of them, on a sea of their own."""
    with tempfile.TemporaryDirectory(prefix="storms-") as name, sea(Path(name)) as where:
        passed = []
        for number in numbers:
            passed.append(weather(drawn(number, where.images), where, Path(name) / f"storm-{number}"))
            tell(passed[-1])
        return passed


def main(count: int, lanes: int = 2) -> int:
    """Go through them in `lanes` at once; prints and writes what came of it.

    Returns 1 if anything was wrong, or too much moved twice.
    """
    begun = time.monotonic()
    with ProcessPoolExecutor(lanes) as pool:
        batches = [range(count)[start : start + BATCH] for start in range(0, count, BATCH)]
        passed = [one for some in pool.map(batch, batches) for one in some]
    text = report(passed, time.monotonic() - begun)
    (Path(__file__).parent / "STORMS.md").write_text(text)
    print(text)
    return 1 if any(one.wrong for one in passed) or share(passed) > ALLOWED else 0


def tell(one: Passed) -> None:
    """In a line, and another one for all that was wrong."""
    what = f"{one.number:4} {one.flow:11} {one.status:3} {one.twice:9} {one.seconds:5.1f} s"
    print(f"{what}  {' + '.join(one.faults)} ({one.target})", flush=True)
    for wrong in one.wrong:
        print(f"     WRONG: {wrong}", flush=True)


def report(passed: Sequence[Passed], seconds: float) -> str:
    """STORMS.md."""
    return _TEXT.format(
        count=len(passed),
        minutes=round(seconds / 60),
        cores=os.cpu_count(),
        usual=sum(LAYERS[USUAL]) / 1e6,
        layers=len(LAYERS[USUAL]),
        largest=max(LAYERS[USUAL]) / 1e6,
        large=sum(LAYERS[LARGE]) / 1e6,
        flows="\n".join(_flow_row(flow, [one for one in passed if one.flow == flow]) for flow in FLOWS),
        faults="\n".join(_fault_rows(passed)),
        bytes="\n".join(_byte_rows(passed)),
        found="; ".join(f"{one.number}: {wrong}" for one in passed for wrong in one.wrong) or "nothing",
    )


_TEXT = """\
# Storms

Written by `make storm`: {count} transfers over a network where everything goes wrong, drawn by a seed, in {minutes}
minutes on a machine with {cores} cores. Each moves an image through a loopback proxy that does what the table of faults
says, one to three of them at once, one in seven killed by SIGKILL at a random byte. Seven of eight images have the
shape of a Triton with some backends: {usual:.0f} MB in {layers} layers, the largest of {largest:.1f} MB, as 8 GB in
layers of 1 GiB would be. The eighth is the worst there is: {large:.0f} MB, nearly all of it one layer. Time is short: a
connection stalls after 1.5 s, patience ends after 5 s; people have 30 and 120. Only the answer to the PUT that closes
an upload is waited for as long as people wait for it.

After each storm every byte of what is under the name is read without tricompose: it is nothing, or what was there
before, or the new image and whole. Then the same command runs again in good weather, and must succeed.

| flow | storms | came through | exit statuses of the others | done by running again |
|---|---|---|---|---|
{flows}

Statuses are those of [errors.md](../../docs/errors.md); -9 is SIGKILL. Pushes and mirrors go to two kinds of registries
in turn: distribution 2.8.2, which forgets an upload that is cut, and the CUE project's ociregistry, which keeps it.

| bytes | needed | moved twice | share |
|---|---|---|---|
{bytes}

The share depends on the image, and on how a registry refuses. Of the first 200 storms, with the same faults: 6.4 % with
the image that was used before, of 8 layers with 40 % of it in one; 8.5 % if besides the proxy reads a body to its end
before it refuses it; 10.8 % with the code as it was then. With the images above and such a proxy: 4.4 %.

| fault | storms with it | came through |
|---|---|---|
{faults}

What was wrong: {found}.
"""


def _flow_row(flow: str, some: Sequence[Passed]) -> str:
    statuses = Counter(one.status for one in some if one.status != 0)
    shown = ", ".join(f"{status} ({count})" for status, count in sorted(statuses.items()))
    again = [one for one in some if one.status != 0]
    done = sum(not one.wrong for one in again)
    return f"| {flow} | {len(some)} | {len(some) - len(again)} | {shown} | {done} of {len(again)} |"


def _fault_rows(passed: Sequence[Passed]) -> Iterator[str]:
    for name in sorted({*READING, *WRITING, KILL}):
        some = [one for one in passed if name in one.faults]
        yield f"| {name} | {len(some)} | {sum(one.status == 0 for one in some)} |"


def _byte_rows(passed: Sequence[Passed]) -> Iterator[str]:
    kinds: dict[str, list[Passed]] = defaultdict(list)
    for one in passed:
        kinds[one.apart or "where less is possible"].append(one)
    for reason, some in sorted(kinds.items(), key=lambda item: item[0] != "where less is possible"):
        yield _byte_row(reason, some)
    for name, what in ((USUAL, "the images of many layers"), (LARGE, "those of one")):
        yield _byte_row(what, [one for one in passed if one.image == name])
    yield _byte_row(f"all, of {100 * ALLOWED:.0f} % that are allowed", passed)


def share(some: Sequence[Passed]) -> float:
    """How much of what was needed moved twice."""
    return sum(one.twice for one in some) / (sum(one.needed for one in some) or 1)


def _byte_row(reason: str, some: Sequence[Passed]) -> str:
    needed, twice = sum(one.needed for one in some), sum(one.twice for one in some)
    return f"| {reason} | {needed / 1e6:.0f} MB | {twice / 1e6:.1f} MB | {100 * share(some):.1f} % |"


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "act":
        sys.exit(act(*rest[:3], Path(rest[3])))
    if what == "numbers":  # to look at some again
        sys.exit(any(one.wrong for one in batch([int(number) for number in rest])))
    sys.exit(main(int(what)))
