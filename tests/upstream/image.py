"""The two images: layers from the cache or newly made, then the OCI image layout that holds them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .config import FULL_LABELS, configuration, history
from .contents import BASE_PACKAGES, EXTRA_PACKAGES, PROFILES, RELEASE, LayerPlan, Materials, full_layers, min_layers
from .debian import Debs, fetch_debs
from .inputs import Say, UpstreamError, settle, sweep, workspace
from .layers import Layer, write_layer
from .wheels import fetch_wheel

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
TAG = "org.opencontainers.image.ref.name"

LEVEL = 6
"""zlib's, and that of image builders."""

JOBS = 2
"""Layers made at a time, and wheels fetched at a time. The work is zlib's and SHA-256's, outside Python's lock."""

Document = dict[str, Any]
"""A JSON object of an image layout."""


@dataclass(frozen=True)
class Upstream:
    """References of a full image and of the min image that its lower layers come from: `oci:DIR:TAG`."""

    full: str
    min: str


def make(
    output: Path, *, profile: str = "quickstart", cache: Path | None = None, say: Say = lambda _: None
) -> Upstream:
    """Make both images in the OCI image layout `output`, whose other images stay. Raises `UpstreamError`.

    What was downloaded and what was finished stays in `cache` (default: `~/.cache/tricompose-upstream`) and is used
    again; an interrupted run can be repeated. The index of the layout is replaced last, when all it names is there.
    """
    if profile not in PROFILES:
        raise UpstreamError(f"no profile {profile!r}: there are {', '.join(PROFILES)}")
    cache = cache or Path.home() / ".cache" / "tricompose-upstream"
    sweep(cache)
    lower, upper = min_layers(), full_layers(profile)
    layers = _layers([*lower, *upper], cache, say)
    tags = {f"{RELEASE}-py3-min": (lower, {}), f"{RELEASE}-py3": ((*lower, *upper), FULL_LABELS)}
    with workspace(cache) as work:
        manifests = [_image(output, cache, work, tag, plans, layers, labels) for tag, (plans, labels) in tags.items()]
        _index(output, work, manifests)
    return Upstream(full=f"oci:{output}:{RELEASE}-py3", min=f"oci:{output}:{RELEASE}-py3-min")


def _layers(plans: Sequence[LayerPlan], cache: Path, say: Say) -> Mapping[str, Layer]:
    """Every planned layer by its name, those that the cache lacks made first."""
    made = {plan.name: layer for plan in plans if (layer := _cached(plan, cache))}
    missing = [plan for plan in plans if plan.name not in made]
    say(f"{len(made)} of {len(plans)} layers are in {cache}")
    if missing:
        materials = _materials(missing, cache, say)
        with ThreadPoolExecutor(JOBS) as pool:
            jobs = {plan.name: pool.submit(_made, plan, materials, cache, say) for plan in reversed(missing)}
            made |= {name: job.result() for name, job in jobs.items()}
    return made


def _materials(plans: Sequence[LayerPlan], cache: Path, say: Say) -> Materials:
    """Everything that the planned layers are made from, fetched."""
    wanted = {wheel for plan in plans for wheel in plan.wheels}
    with ThreadPoolExecutor(JOBS + 1) as pool:
        debs = Debs((), ())
        if any(plan.debian for plan in plans):
            say("fetching Debian packages")
            packages = pool.submit(fetch_debs, BASE_PACKAGES, EXTRA_PACKAGES, cache)
        say(f"fetching {len(wanted)} wheels")
        jobs = {wheel: pool.submit(fetch_wheel, wheel, cache) for wheel in wanted}
        if any(plan.debian for plan in plans):
            debs = packages.result()
        return Materials(debs, {wheel: job.result() for wheel, job in jobs.items()})


def _record(plan: LayerPlan, cache: Path) -> Path:
    """Where the cache keeps what it knows of a layer. Any change of this package makes another place."""
    sources = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".md")):
        sources.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return cache / "layers" / f"{plan.name}-{sources.hexdigest()[:16]}.json"


def _cached(plan: LayerPlan, cache: Path) -> Layer | None:
    record = _record(plan, cache)
    if not record.exists():
        return None
    layer = Layer(**json.loads(record.read_text()))
    blob = _blob(cache, layer.digest)
    return layer if blob.exists() and blob.stat().st_size == layer.size else None


def _made(plan: LayerPlan, materials: Materials, cache: Path, say: Say) -> Layer:
    with workspace(cache) as work:
        layer = write_layer(plan.entries(materials), work / "layer", LEVEL)
        settle(work / "layer", _blob(cache, layer.digest))
        (work / "record").write_text(json.dumps(asdict(layer)))
        settle(work / "record", _record(plan, cache))
    say(f"layer {plan.name}: {layer.uncompressed / 1e6:.1f} MB, {layer.size / 1e6:.1f} MB compressed")
    return layer


def _image(
    output: Path,
    cache: Path,
    work: Path,
    tag: str,
    plans: Sequence[LayerPlan],
    layers: Mapping[str, Layer],
    labels: Mapping[str, str],
) -> Document:
    """Bring one image's blobs into the layout. Returns the descriptor of its manifest."""
    stack = [layers[plan.name] for plan in plans]
    for layer in stack:
        _place(_blob(cache, layer.digest), _blob(output, layer.digest))
    config = _write(output, work, CONFIG_TYPE, configuration(stack, _steps(plans), labels))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in stack],
    }
    return {**_write(output, work, MANIFEST_TYPE, manifest), "annotations": {TAG: tag}}


def _steps(plans: Sequence[LayerPlan]) -> list[Document]:
    steps = []
    for plan in plans:
        steps.append(history(plan.created_by, empty=False))
        steps += [history(created_by, empty=True) for created_by in plan.then]
    return steps


def _write(output: Path, work: Path, media_type: str, document: Document) -> Document:
    """Write a document as a blob. Returns its descriptor."""
    raw = json.dumps(document).encode()
    name = hashlib.sha256(raw).hexdigest()
    (work / name).write_bytes(raw)
    _arrive(work / name, _blob(output, name))
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(raw)}


def _index(output: Path, work: Path, manifests: Sequence[Document]) -> None:
    """Put the manifests into the layout's index, in the place of those that have their tags."""
    index, tags = output / "index.json", {manifest["annotations"][TAG] for manifest in manifests}
    old = json.loads(index.read_text())["manifests"] if index.exists() else []
    kept = [manifest for manifest in old if manifest.get("annotations", {}).get(TAG) not in tags]
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*kept, *manifests]}
    for name, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", document)):
        (work / name).write_text(json.dumps(content))
        _arrive(work / name, output / name)


def _blob(root: Path, digest: str) -> Path:
    return root / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _place(source: Path, target: Path) -> None:
    """Have the bytes of `source` at `target` too, as the same file where the file system can."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    _arrive(source, target)


def _arrive(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with workspace(target.parent) as work:
        try:
            os.link(source, work / "new")
        except OSError:
            shutil.copyfile(source, work / "new")
        settle(work / "new", target)
