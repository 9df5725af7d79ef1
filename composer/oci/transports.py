"""From a name to the place it names: the table of transports, each opened as a source or as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.errors import Unplannable, Unreachable
from composer.events import Emit
from composer.oci.archive import ArchiveTarget, open_docker_archive, open_oci_archive
from composer.oci.gates import Gates
from composer.oci.journal import Journal
from composer.oci.layout import LayoutStore
from composer.oci.mirrors import HASTE, Lost, Mirrors, Place
from composer.oci.names import Reference
from composer.oci.patience import PATIENCE
from composer.oci.store import Store, Target

if TYPE_CHECKING:
    import requests

    from composer.oci.credentials import Credentials
    from composer.oci.registry import RegistryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What opening a place may need. `session` is called only for registries, so that others need no HTTP client.

    `insecure` are the `host[:port]` that may be spoken to without TLS; `scratch` is a directory for large files that
    are in the way of an image from a Docker Engine. `mirrors` says in which places an image of a registry is looked
    for, in order. `patience` is for how many seconds something is tried again without any gain. `gates` and `lost` are
    what all stores of a session know of their hosts: which want a pause, and which were given up. `journal` is a
    folder where it is remembered for the next session which uploads were cut and where blobs are; `mount_from` are
    repositories, as `host/repository`, that blobs may be taken over from.
    """

    session: Callable[[], requests.Session]
    credentials: Credentials
    insecure: frozenset[str]
    scratch: Path
    emit: Emit
    mirrors: Callable[[Reference], tuple[Reference, ...]] = lambda reference: (reference,)
    patience: float = PATIENCE
    gates: Gates = field(default_factory=Gates)
    lost: Lost = field(default_factory=Lost)
    journal: Path | None = None
    mount_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """How one kind of place is opened."""

    source: Callable[[Reference, Access], Store]
    target: Callable[[Reference, Access], Target]


def open_source(reference: Reference, access: Access) -> Store:
    """The place to read `reference.name` from. Raises `NotFound`, `Unreachable`, `Denied`, `Corrupt`."""
    return TRANSPORTS[reference.transport].source(reference, access)


def open_target(reference: Reference, access: Access) -> Target:
    """The place to put something under `reference.name`. Raises `Unreachable`, `Denied`; writes nothing yet."""
    if reference.digest:
        hint = str(reference.at(reference.tag or "latest"))
        raise Unplannable(f"{reference} says what the image is to be, not what to call it", hint=hint)
    return TRANSPORTS[reference.transport].target(reference, access)


def _registry_source(reference: Reference, access: Access) -> Store:
    """A registry, or where it has mirrors, all of them and itself: each but the last is left soon."""
    places = access.mirrors(reference)
    if places == (reference,):
        return _registry(reference, access)
    if not places:
        hint = f"network: {{mirrors: {{{reference.host}: [mirror.example.com]}}}}"
        raise Unreachable(f"{reference.host} may not be asked, and has no mirror", hint=hint)
    hasty = replace(access, patience=min(HASTE, access.patience))
    opened = [Place(one, partial(_registry, one, hasty)) for one in places[:-1]]
    opened.append(Place(places[-1], partial(_registry, places[-1], access)))
    return Mirrors(reference, opened, lost=access.lost, emit=access.emit)


def _registry(reference: Reference, access: Access) -> RegistryStore:
    from composer.oci.registry import RegistryStore

    return RegistryStore(
        reference,
        session=access.session(),
        credentials=access.credentials,
        insecure=access.insecure,
        emit=access.emit,
        patience=access.patience,
        gates=access.gates,
        journal=Journal(access.journal) if access.journal else None,
        mount_from=tuple(
            place.partition("/")[2] for place in access.mount_from if place.partition("/")[0] == reference.host
        ),
    )


def _daemon_source(reference: Reference, access: Access) -> Store:
    from composer.oci.daemon import DaemonStore

    return DaemonStore(reference, scratch=access.scratch, emit=access.emit)


def _daemon_target(reference: Reference, access: Access) -> Target:
    from composer.oci.daemon import DaemonTarget

    return DaemonTarget(reference)


def _layout(reference: Reference, access: Access) -> LayoutStore:
    return LayoutStore(Path(reference.place))


TRANSPORTS: Final[Mapping[str, Transport]] = {
    "docker": Transport(source=_registry_source, target=_registry),
    "oci": Transport(source=_layout, target=_layout),
    "oci-archive": Transport(
        source=lambda reference, _: open_oci_archive(Path(reference.place)),
        target=lambda reference, _: ArchiveTarget(Path(reference.place), docker=False),
    ),
    "docker-archive": Transport(
        source=lambda reference, _: open_docker_archive(Path(reference.place)),
        target=lambda reference, _: ArchiveTarget(Path(reference.place), docker=True),
    ),
    "docker-daemon": Transport(source=_daemon_source, target=_daemon_target),
}
