"""Small images made on the spot, for every test that needs one."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from composer.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    canonical_json,
    make_index,
    make_manifest,
    sha256,
)
from composer.oci.store import Sink

AMD64 = Platform(os="linux", architecture="amd64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image and all its bytes."""

    manifest: Manifest
    data: Mapping[str, bytes]

    @property
    def root(self) -> Descriptor:
        return self.manifest.descriptor


def layer_tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o755
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def picture(
    *,
    family: str = "oci",
    layers: int = 2,
    filler: int = 0,
    platform: Platform = AMD64,
    compressed: bool = True,
    seed: int = 0,
    environment: tuple[str, ...] = (),
    program: bytes = b"",
) -> Picture:
    """An image whose layer N holds the file `layer-N` ("layer N"), and `filler` random bytes in the first.

    Another `seed` makes other layers. `program` is a static executable that containers run.
    """
    tars = [_tar(number, filler if number == 0 else 0, seed) for number in range(layers)]
    tars += [layer_tar({"program": program})] if program else []
    blobs = [gzip.compress(tar, 1, mtime=0) if compressed else tar for tar in tars]
    config = canonical_json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": {"Entrypoint": ["/program"], "Env": list(environment)},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(tars))],
        }
    )
    docker = family == "docker"
    kinds = (DOCKER_LAYER_GZIP, DOCKER_LAYER) if docker else (f"{OCI_LAYER}+gzip", OCI_LAYER)
    manifest = make_manifest(
        DOCKER_MANIFEST if docker else OCI_MANIFEST,
        Descriptor.of(config, DOCKER_CONFIG if docker else OCI_CONFIG),
        [Descriptor.of(blob, kinds[0] if compressed else kinds[1]) for blob in blobs],
    )
    data = {sha256(raw): raw for raw in (config, manifest.raw, *blobs)}
    return Picture(manifest=manifest, data=data)


def _tar(number: int, filler: int, seed: int) -> bytes:
    files = {f"layer-{number}": f"layer {number}".encode()}
    if filler:
        files["filler"] = random.Random(seed).randbytes(filler)
    if seed:
        files["seed"] = str(seed).encode()
    return layer_tar(files)


def entry(image: Picture, platform: Platform) -> Descriptor:
    """How an index lists an image."""
    root = image.root
    return Descriptor(media_type=root.media_type, digest=root.digest, size=root.size, platform=platform)


def index_of(*images: tuple[Picture, Platform], family: str = "oci") -> Index:
    """An index of images."""
    return make_index(
        DOCKER_LIST if family == "docker" else OCI_INDEX, [entry(image, platform) for image, platform in images]
    )


def put(sink: Sink, image: Picture, name: str | None) -> Descriptor:
    """Write an image into a sink by hand, without the copy under test."""
    for blob in (image.manifest.config, *image.manifest.layers):
        sink.write(blob, lambda blob=blob: iter([image.data[blob.digest]]))
    return sink.publish(image.manifest.raw, image.manifest.media_type, name)
