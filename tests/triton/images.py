"""Real servers to start: the upstream without its ballast, as one layer that unpacks fast, and models on top of it."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.events import ignore
from composer.oci.image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Image,
    Manifest,
    canonical_json,
    make_manifest,
    parse_image,
    parse_manifest,
)
from composer.oci.layout import LayoutStore
from composer.oci.names import parse_reference
from composer.oci.unpack import unpack
from tests.turns import in_turn
from tests.upstream import make

BALLAST = (
    "usr/share/doc",
    "usr/share/locale",
    "usr/local/lib/python3.11/dist-packages/onnxruntime",
    "usr/local/cuda-12.6",
)
"""What no server here needs, besides all backends but python."""

PYTHON = """\
import os, time
import numpy as np
import triton_python_backend_utils as pb

def tensor(request, name):
    return pb.get_input_tensor_by_name(request, name).as_numpy()

def answer(**outputs):
    return pb.InferenceResponse([pb.Tensor(name, value) for name, value in outputs.items()])

class TritonPythonModel:
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A layout with a real server in it."""

    store: LayoutStore
    base: Descriptor
    settings: Mapping[str, Any]

    def image(
        self,
        models: Mapping[str, str],
        *flags: str,
        command: Sequence[str] = (),
        user: str = "",
        links: Mapping[str, str] | None = None,
        **settings: object,
    ) -> Image:
        """An image that serves `models` (files by path below /models) with the given flags.

        `links` are symbolic ones, by path, to what they lead to. `settings` go into the config: `entrypoint`,
        `volumes`, with a small letter.
        """
        layer = self._write(_tar({f"models/{path}": text for path, text in models.items()}, links or {}), OCI_LAYER)
        words = list(command or ("tritonserver", "--model-repository=/models", *flags))
        more = {name.capitalize(): value for name, value in settings.items()}
        config = {
            "os": "linux",
            "architecture": "amd64",
            "config": {**self.settings, "Cmd": words, "User": user, **more},
            "rootfs": {"type": "layers", "diff_ids": [self.base.digest, layer.digest]},
        }
        raw = canonical_json(config)
        manifest = make_manifest(OCI_MANIFEST, self._write(raw, OCI_CONFIG), [self.base, layer])
        self.store.publish(manifest.raw, manifest.media_type, None)
        return parse_image(manifest, raw)

    def _write(self, data: bytes, media_type: str) -> Descriptor:
        descriptor = Descriptor.of(data, media_type)
        self.store.write(descriptor, lambda: iter([data]))
        return descriptor


def make_bench(folder: Path) -> Bench:
    """Build the upstream, and from it a layout in `folder`."""
    with in_turn("upstream"):
        full, source = read_image(make(folder / "upstream").full)
    root = folder / "root"
    unpack(full, source, root, emit=ignore)
    backends = root / "opt/tritonserver/backends"
    for useless in (*(one for one in backends.iterdir() if one.name != "python"), *(root / path for path in BALLAST)):
        shutil.rmtree(useless)
    packed = folder / "base.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(root, arcname=".")
    shutil.rmtree(root)
    store = LayoutStore.ensure(folder / "bench")
    base = _adopt(store, packed)
    return Bench(store=store, base=base, settings=full.config["config"])


def read_image(reference: str) -> tuple[Image, LayoutStore]:
    """An image of a layout, and the layout."""
    name = parse_reference(reference)
    store = LayoutStore(Path(name.place))
    root = store.resolve(name.name)
    manifest = parse_manifest(store.manifest(root), root.media_type)
    assert isinstance(manifest, Manifest)
    return parse_image(manifest, b"".join(store.read(manifest.config))), store


def python_model(
    name: str, body: str, inputs: Mapping[str, str], outputs: Mapping[str, str], batch: int = 0
) -> dict[str, str]:
    """The files of a Python model. `body` is its methods; inputs and outputs are `DATATYPE dims` by name."""
    config = [f'backend: "python"\nmax_batch_size: {batch}\ninstance_group [{{ kind: KIND_CPU }}]']
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor, form in tensors.items():
            datatype, dims = form.split(" ", 1)
            config.append(f'{kind} [{{ name: "{tensor}" data_type: TYPE_{datatype} dims: {dims} }}]')
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return {f"{name}/config.pbtxt": "\n".join(config), f"{name}/1/model.py": PYTHON + indented}


def _adopt(store: LayoutStore, packed: Path) -> Descriptor:
    data = packed.read_bytes()
    packed.unlink()
    descriptor = Descriptor.of(data, OCI_LAYER)
    store.write(descriptor, lambda: iter([data]))
    return descriptor


def _tar(files: Mapping[str, str], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
        for path, target in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()
