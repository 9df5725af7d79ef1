"""This machine itself: room on its disk, shared memory, limits, namespaces, and rules of others that we do not read."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from composer import words
from composer.disk import free_bytes
from composer.doctor.finding import Finding, Level
from composer.doctor.rules import Rules
from composer.doctor.subject import Subject
from composer.lock import images_of
from composer.runners.rootfs import RootfsRunner

_SHM: Final = Path("/dev/shm")  # noqa: S108 - it is looked at
_SPARE: Final = 1.1
_UNPACKED: Final = 2.5
"""How many times as large layers are when they are unpacked: Triton's, roughly."""


# -- disk ---------------------------------------------------------------------------------------------------------


def disk(subject: Subject) -> Iterator[Finding]:
    """Free space where layers are kept, against what is not there yet; and where an image is unpacked to be proved."""
    cache = subject.place.cache
    free = free_bytes(cache)
    missing = _missing(subject)
    facts = {"free": free, "missing": missing, "path": str(cache)}
    if not os.access(_existing(cache), os.W_OK):
        saw, fix = f"{cache} may not be written to", "--cache DIR, or TRICOMPOSE_CACHE"
        yield Finding(id="disk.denied", level="problem", saw=saw, fix=fix, facts=facts)
    elif missing is None:
        saw = f"{words.size(free)} are free in {cache}; how much is to be fetched is not known"
        yield Finding(id="disk.unknown", level="unknown" if _fetches(subject) else "ok", saw=saw, facts=facts)
    elif free < missing * _SPARE:
        saw = f"only {words.size(free)} are free in {cache}, and up to {words.size(missing)} are to be fetched"
        why = "what is cut out of the layers is kept there, and files that are fetched"
        fix = "tricompose cache clear, or --cache DIR on another disk"
        yield Finding(id="disk.full", level="problem", saw=saw, why=why, fix=fix, facts=facts)
    else:
        saw = f"{words.size(free)} are free in {cache}; up to {words.size(missing)} are to be fetched"
        yield Finding(id="disk.ok", level="ok", saw=saw, facts=facts)
    yield from _unpacking(subject)


def _unpacking(subject: Subject) -> Iterator[Finding]:
    layers = {layer.digest: layer.size for visit in subject.visits for seen in visit.images for layer in seen.layers}
    place = Path(tempfile.gettempdir())
    wanted = round(sum(layers.values()) * _UNPACKED)
    free = free_bytes(place)
    if subject.proves and free < wanted:
        saw = f"only {words.size(free)} are free in {place}; the full image unpacked would take {words.size(wanted)}"
        why = "what is composed is unpacked there to be started, unless Docker does it: it may be much smaller"
        facts = {"free": free, "wanted": wanted}
        yield Finding(id="disk.tmp", level="warning", saw=saw, why=why, fix="export TMPDIR=/another/disk", facts=facts)


def _missing(subject: Subject) -> int | None:
    """Bytes of layers that the cache lacks, at most; None where no image was seen."""
    images = [seen for visit in subject.visits for seen in visit.images]
    blobs = {layer.digest: layer.size for seen in images for layer in seen.missing}
    return sum(blobs.values()) if images else None


def _fetches(subject: Subject) -> bool:
    return any(image.transport == "docker" for recipe in subject.recipes for image in images_of(recipe))


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


# -- what a server is started with --------------------------------------------------------------------------------


def memory(subject: Subject) -> Iterator[Finding]:
    """Shared memory and locked memory, against what the recipes give their servers."""
    wanted = max((recipe.run.shm_size for recipe in subject.recipes), default=0)
    total = _total_memory()
    if total and wanted > total:
        saw = f"run.shm_size is {words.size(wanted)}, and this machine has {words.size(total)} of memory"
        why = "shared memory is memory: models that fill it are killed"
        yield Finding(id="shm.beyond", level="warning", saw=saw, why=why, fix=f"run: {{shm_size: {total >> 21}m}}")
    try:
        here = shutil.disk_usage(_SHM).total
    except OSError:
        yield Finding(
            id="shm.none", level="warning", saw="there is no /dev/shm", why="Python models move tensors by it"
        )
        return
    facts = {"bytes": here, "wanted": wanted}
    if here < wanted:
        saw = f"{_SHM} has {words.size(here)}, and the recipe wants {words.size(wanted)}"
        why = "a container is given its own by run.shm_size; this one is used with --ipc=host, or by a server in here"
        fix = f"sudo mount -o remount,size={wanted >> 20}m /dev/shm   (of a container: docker run --shm-size)"
        yield Finding(id="shm.small", level="warning", saw=saw, why=why, fix=fix, facts=facts)
    else:
        yield Finding(id="shm.ok", level="ok", saw=f"{_SHM} has {words.size(here)}", facts=facts)
    yield from _locked(subject)


def _total_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _locked(subject: Subject) -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    limits = [recipe.run.ulimits["memlock"].hard for recipe in subject.recipes if "memlock" in recipe.run.ulimits]
    short = [one for one in limits if hard != resource.RLIM_INFINITY and (one == -1 or one > hard)]
    if short and os.geteuid() != 0:
        saw = f"the recipe's memlock is beyond this account's {words.size(hard)}"
        fix = f'echo "{os.environ.get("USER", "USER")} hard memlock unlimited" | sudo tee -a /etc/security/limits.conf'
        yield Finding(id="memlock.low", level="warning", saw=saw, why="without root it cannot be raised", fix=fix)


def namespaces(subject: Subject) -> Iterator[Finding]:
    """Whether a server can be started without Docker: an empty container is made, and gone again."""
    refusal = RootfsRunner().refusal()
    if refusal is None:
        yield Finding(id="namespaces.ok", level="ok", saw="servers can be started here without Docker")
        return
    what, _, advice = refusal.partition("; ")
    level: Level = "warning" if subject.proves else "ok"
    why = "images are proved in Docker then, or not at all"
    yield Finding(id="namespaces.off", level=level, saw=what, why=why, fix=advice.removeprefix("allow them: "))


# -- rules --------------------------------------------------------------------------------------------------------


def rules(subject: Subject, rules: Rules) -> Iterator[Finding]:
    """Mirrors that other programs of this machine go by, and we do not unless told."""
    hosts = {image.origin.host for visit in subject.visits for image in visit.host.pulls}
    for path, found in rules.files.items():
        told = {key: places for key, places in found.mirrors.items() if key.partition("/")[0] in hosts and places}
        told = {key: places for key, places in told.items() if key not in subject.place.routes.mirrors}
        if told:
            named = "; ".join(f"{key}: {', '.join(places)}" for key, places in told.items())
            why = "they are for other programs: tricompose goes by them when it is told to"
            fix = f"tricompose build --network {path} recipe.yaml"
            saw = f"{path} has mirrors that are not used: {named}"
            yield Finding(id="rules.unread", level="warning", saw=saw, why=why, fix=fix, facts={"path": str(path)})
    for path, message in rules.broken.items():
        yield Finding(
            id="rules.broken", level="warning", saw=message, why="what is in it is not known", fix=f"sudoedit {path}"
        )
