"""The cache as a thing of its own: what is in it, and how it goes away. It is an OCI image layout that can be lost."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composer.disk import free_bytes, room
from composer.errors import NoRoom
from composer.oci.journal import FOLDER as JOURNAL
from composer.oci.layout import INDEX, MARKER, LayoutStore

IMAGE_TAG: Final = "image-"
"""What the tags of images begin with that were built and have nowhere else to be."""

_TAGS: Final = (IMAGE_TAG, "inventory-", "cut-", "binaries-", "notes-")
_OURS: Final = (
    *("blobs", "wheels", "models", "plans", "reports", "partial", "ingest", JOURNAL),
    *(INDEX, f"{INDEX}.lock", MARKER),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContents:
    """What a cache holds: its bytes, number of blobs, images, and layers that were read and cut. `free` in bytes."""

    path: Path
    size: int
    blobs: int
    images: int
    inventories: int
    cuts: int
    free: int


def default_cache(environ: Mapping[str, str], home: Path) -> Path:
    """`TRICOMPOSE_CACHE`, else `tricompose` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    if named := environ.get("TRICOMPOSE_CACHE"):
        return Path(named)
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "tricompose"


def look(path: Path) -> CacheContents:
    """Look into a cache. One that is not there yet is empty. Raises `NoRoom` for a folder that is something else."""
    there = _is_cache(path)
    tags = LayoutStore(path).tags() if there else ()
    sizes = [file.stat().st_size for file in (path / "blobs").rglob("*") if file.is_file()] if there else []
    folders = ("wheels", "models", "plans", "partial")
    others = (file for name in folders for file in (path / name).rglob("*") if file.is_file())
    beside = [file.stat().st_size for file in others] if there else []
    return CacheContents(
        path=path,
        size=sum(sizes) + sum(beside),
        blobs=len(sizes),
        images=sum(tag.startswith(IMAGE_TAG) for tag in tags),
        inventories=sum(tag.startswith("inventory-") for tag in tags),
        cuts=sum(tag.startswith("cut-") for tag in tags),
        free=free_bytes(path),
    )


def clear(path: Path) -> int:
    """Remove a cache, and nothing else that lies in its folder. Returns the bytes that it held. Raises `NoRoom`."""
    size = look(path).size
    with room(path):
        for name in _OURS if _is_cache(path) else (JOURNAL,):
            entry = path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    return size


def _is_cache(path: Path) -> bool:
    """Whether there is one. Somebody's files, or somebody's images, are refused: they were named by mistake."""
    if not path.is_dir() or all(entry.name == JOURNAL for entry in path.iterdir()):
        return False
    if not (path / MARKER).exists() or not all(tag.startswith(_TAGS) for tag in LayoutStore(path).tags()):
        raise NoRoom(f"{path} is no cache of tricompose", hint="--cache and TRICOMPOSE_CACHE name it")
    return True
