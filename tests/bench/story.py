"""What is compared: the same images made by tricompose and by Docker, each with the history that it had in between."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from composer.oci.compression import inflate
from composer.oci.image import Manifest, parse_manifest
from composer.oci.layer import scan
from composer.oci.layout import LayoutStore
from composer.oci.names import parse_reference
from composer.oci.store import Store
from composer.oci.tar import DIRECTORY
from composer.oci.tree import Tree
from tests.bench.direct import Direct
from tests.bench.peer import Peer, small_layers
from tests.bench.process import Command, Cost, Probes, measure
from tests.bench.wire import Wire
from tests.services.dockerd import Dockerd, running_dockerd
from tests.services.registry import Registry, running_registry, store_at
from tests.upstream import Upstream

FIRST = ("python", "onnxruntime")
NEW_PART = ("python", "pytorch")
KNOWN_PARTS = ("python", "onnxruntime", "pytorch")
SUBSET = ("python",)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One image made in both ways."""

    title: str
    backends: Sequence[str]
    direct: Cost
    docker: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What counting costs: seconds of CPU per GB that passed a wire."""

    cpu_per_gb: float
    gigabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All scenarios; the storage driver that Docker used."""

    scenarios: Sequence[Scenario]
    storage: str
    toll: Toll


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Two registries, each behind a wire; the upstream is in the one called `near`."""

    near: Wire
    far: Wire
    full: str
    least: str
    registry: Registry


def compare(upstream: Upstream, scratch: Path, say: Say) -> Comparison:
    """Make all images in both ways, each side with a registry, an engine and a cache that begin empty."""
    with _stage(upstream, scratch) as stage:
        direct = _direct_costs(stage, scratch, say)
        docker, storage = _docker_costs(stage, upstream, scratch, say)
        say("comparing the files of the images")
        for name in ("first", "new-part", "known-parts", "subset"):
            _require_same(stage.registry, name)
        toll = _toll(stage)
    return Comparison(scenarios=_scenarios(direct, docker), storage=storage, toll=toll)


@contextmanager
def _stage(upstream: Upstream, scratch: Path) -> Iterator[Stage]:
    with (
        running_registry(scratch / "near") as near,
        running_registry(scratch / "far") as far,
        Wire(near.port) as near_wire,
        Wire(far.port) as far_wire,
    ):
        for image, tag in ((upstream.full, "full"), (upstream.min, "min")):
            into = f"docker://{near.host}/upstream:{tag}"
            subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", image, into], check=True)
        place = f"{near_wire.host}/upstream"
        yield Stage(near=near_wire, far=far_wire, full=f"{place}:full", least=f"{place}:min", registry=near)


# -- tricompose ---------------------------------------------------------------------------------------------------


def _direct_costs(stage: Stage, scratch: Path, say: Say) -> dict[str, Cost]:
    near, far = f"docker://{stage.near.host}", f"docker://{stage.far.host}"
    home, away, bare = (_direct(stage, scratch / f"direct-{name}") for name in ("home", "away", "bare"))
    costs = {
        "first": _built(stage, home, home.build(FIRST, f"{near}/direct:first"), say),
        "far": _built(stage, away, away.build(FIRST, f"{far}/direct:first"), say),
        "new-part": _built(stage, home, home.build(NEW_PART, f"{near}/direct:new-part"), say),
        "known-parts": _built(stage, home, home.build(KNOWN_PARTS, f"{near}/direct:known-parts"), say),
        "subset": _built(stage, home, home.build(SUBSET, f"{near}/direct:subset"), say),
    }
    knowledge = f"{near}/knowledge"
    _built(stage, home, home.publish(FIRST, knowledge), say)
    fetched = bare.build(FIRST, f"{near}/fetched:first", knowledge=knowledge)
    return costs | {"fetched": _built(stage, bare, fetched, say)}


def _direct(stage: Stage, folder: Path) -> Direct:
    return Direct(folder=folder, full=f"docker://{stage.full}", least=f"docker://{stage.least}")


def _built(stage: Stage, direct: Direct, command: Command, say: Say) -> Cost:
    say(f"tricompose: {' '.join(command.argv[1:4])}")
    probes = Probes(wires=[stage.near, stage.far], folders=[direct.cache])
    return measure([command], probes, log=direct.log)


# -- Docker -------------------------------------------------------------------------------------------------------


def _docker_costs(stage: Stage, upstream: Upstream, scratch: Path, say: Say) -> tuple[dict[str, Cost], str]:
    with running_dockerd() as engine:
        small = _small(upstream)
        peer = Peer(host=engine.host, folder=scratch / "docker", full=stage.full, least=stage.least)
        peer.folder.mkdir()

        def run(commands: Sequence[Command]) -> Cost:
            say(f"docker: {', '.join(command.name for command in commands)}")
            return measure(commands, _probes(stage, engine), log=peer.log)

        def make(backends: Sequence[str], tag: str) -> list[Command]:
            name = f"{stage.near.host}/docker:{tag}"
            return [peer.build(backends, name, small), peer.push(name)]

        build, push = make(FIRST, "first")
        pulled = run([*peer.pull(), build])
        elsewhere = f"{stage.far.host}/docker:first"
        costs = {
            "first": pulled.then(run([push])),
            "far": pulled.then(run([peer.tag(f"{stage.near.host}/docker:first", elsewhere), peer.push(elsewhere)])),
            "new-part": run(make(NEW_PART, "new-part")),
            "known-parts": run(make(KNOWN_PARTS, "known-parts")),
            "subset": run(make(SUBSET, "subset")),
        }
        return costs | {"fetched": costs["first"]}, engine.docker("info", "--format", "{{.Driver}}").strip()


def _probes(stage: Stage, engine: Dockerd) -> Probes:
    daemon = int((engine.root / "pid").read_text())
    return Probes(wires=[stage.near, stage.far], folders=[engine.root / "data"], daemon=daemon)


def _small(upstream: Upstream) -> list[Path]:
    store = LayoutStore(Path(parse_reference(upstream.full).place))
    full, least = (_manifest(store, parse_reference(name).name) for name in (upstream.full, upstream.min))
    return small_layers(full, least, store)


# -- both ---------------------------------------------------------------------------------------------------------

TITLES = {
    "first": (FIRST, "nothing cached, target in the upstream's registry"),
    "far": (FIRST, "nothing cached, target in another registry"),
    "fetched": (FIRST, "nothing cached, knowledge of the layers published in the registry (Docker: as above)"),
    "new-part": (NEW_PART, "next recipe: one backend is new"),
    "known-parts": (KNOWN_PARTS, "next recipe: a new combination of backends that were built before"),
    "subset": (SUBSET, "next recipe: Docker has every step in its layer cache"),
}


def _scenarios(direct: dict[str, Cost], docker: dict[str, Cost]) -> list[Scenario]:
    return [
        Scenario(title=title, backends=backends, direct=direct[name], docker=docker[name])
        for name, (backends, title) in TITLES.items()
    ]


def _require_same(registry: Registry, tag: str) -> None:
    """Both ways must have made the same files, or the comparison means nothing."""
    direct, docker = (_files(registry, repository, tag) for repository in ("direct", "docker"))
    if direct != docker:
        differ = sorted(path for path in direct.keys() | docker.keys() if direct.get(path) != docker.get(path))
        raise AssertionError(f"{tag}: the two images differ in {len(differ)} files: {differ[:5]}")


def _files(registry: Registry, repository: str, tag: str) -> dict[str, tuple[object, ...]]:
    """Everything in an image but folders: kind, mode, owner, size, target."""
    store = store_at(f"{registry.host}/{repository}:{tag}")
    tree = Tree()
    for layer in _manifest(store, tag).layers:
        tree.apply(scan(inflate(store.read(layer), origin=layer.digest), origin=layer.digest))
    store.close()
    entries = (node.entry for node in tree.nodes())
    return {one.path: (*one[1:6], one.link) for one in entries if one.kind != DIRECTORY}


def _manifest(store: Store, name: str) -> Manifest:
    root = store.resolve(name)
    manifest = parse_manifest(store.manifest(root), root.media_type)
    assert isinstance(manifest, Manifest)
    return manifest


def _toll(stage: Stage) -> Toll:
    wires = (stage.near, stage.far)
    moved = sum(wire.to_client + wire.to_server for wire in wires) / 1e9
    return Toll(cpu_per_gb=sum(wire.cpu for wire in wires) / moved, gigabytes=moved)
