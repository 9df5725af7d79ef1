"""A small image writer of the tests' own, and umoci as the judge of what an image unpacks to.

Independent of `composer`: what it writes is the input that `composer` is judged by.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Raw:
    """A layer: its blob as stored, and the digest of its tar."""

    blob: bytes
    diff_id: str
    media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip"
    judged: bytes | None = None
    """The same tar as umoci reads it, where it does not read `blob`."""

    def for_judge(self) -> Raw:
        return Raw(self.judged or self.blob, self.diff_id)


def tar(members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_layout(
    path: Path, layers: Sequence[Raw], tag: str = "image", settings: Mapping[str, object] | None = None
) -> None:
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        (blobs / digest(data)[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": dict(settings or {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": "test"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [put(layer.blob, layer.media_type) for layer in layers],
    }
    entry = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    index_path = path / "index.json"
    old = json.loads(index_path.read_text())["manifests"] if index_path.exists() else []
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index_path.write_text(json.dumps({"schemaVersion": 2, "manifests": [*old, entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def unpack(layout: Path, tag: str, bundle: Path) -> Path:
    """Unpack with umoci, as root; the rootfs. Raises `CalledProcessError` where umoci refuses the image."""
    shutil.rmtree(bundle, ignore_errors=True)
    command = ["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    return bundle


@dataclass(frozen=True)
class Seen:
    """What can be seen of one path of a file system."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime: int
    content: str
    device: int
    xattrs: tuple[tuple[str, bytes], ...]
    twins: frozenset[str]


def snapshot(root: Path) -> dict[str, Seen]:
    """Every path below `root`, relative to it."""
    paths = [os.path.join(folder, name) for folder, dirs, files in os.walk(root) for name in dirs + files]
    inodes: dict[int, set[str]] = defaultdict(set)
    for path in paths:
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode):
            inodes[info.st_ino].add(os.path.relpath(path, root))
    return {os.path.relpath(path, root): _see(path, inodes) for path in paths}


def _see(path: str, inodes: dict[int, set[str]]) -> Seen:
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    content = ""
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    names = os.listxattr(path, follow_symlinks=False)
    return Seen(
        kind=kind,
        mode=stat.S_IMODE(info.st_mode),
        owner=(info.st_uid, info.st_gid),
        mtime=info.st_mtime_ns,
        content=content,
        device=info.st_rdev,
        xattrs=tuple(sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)),
        twins=frozenset(inodes.get(info.st_ino, ())),
    )
