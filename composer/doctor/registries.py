"""Looks at one registry that answers: the login, the images to be pulled, the places to be pushed to, its speed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from composer import words
from composer.doctor import hosts
from composer.doctor.finding import Finding
from composer.doctor.needs import Host, Image
from composer.doctor.reaching import CONNECT
from composer.doctor.visit import Seen, Visit
from composer.errors import Corrupt, Denied, NotFound, TricomposeError
from composer.events import ignore
from composer.oci.gates import Gates
from composer.oci.image import Descriptor, Index, Manifest, Platform, parse_manifest
from composer.oci.layout import LayoutStore
from composer.oci.names import Reference
from composer.oci.patience import Interrupted
from composer.oci.registry import RegistryStore
from composer.oci.tokens import Scopes
from composer.oci.wire import Wire

_PATIENCE: Final = 3.0
"""Seconds for which something is tried again: what comes right only by patience is worth telling."""

_SAMPLE: Final = 8 << 20
_SECONDS: Final = 3.0
_TOO_FEW: Final = 256 << 10
"""Bytes of which a speed says nothing."""

_SLOW: Final = 1e6
"""Bytes in a second below which an image of 8 GB takes more than two hours."""


def store_of(visit: Visit, reference: Reference) -> RegistryStore:
    """A repository as the tool opens it; mirrors and all do not come into it."""
    access = visit.place.access
    return RegistryStore(
        reference,
        session=access.session(),
        credentials=access.credentials,
        insecure=access.insecure,
        emit=ignore,
        patience=_PATIENCE,
        gates=Gates(),
    )


def wire_of(visit: Visit, reference: Reference) -> tuple[Wire, str]:
    """The HTTP below such a store, for what a store keeps to itself; and the repository as the registry calls it."""
    access, store = visit.place.access, store_of(visit, reference)
    wire = Wire(
        host=store.host,
        repository=store.repository,
        session=access.session(),
        credentials=access.credentials,
        insecure=access.insecure,
        emit=ignore,
        patience=_PATIENCE,
        gates=Gates(),
    )
    return wire, store.repository


# -- who we are ---------------------------------------------------------------------------------------------------


def login(visit: Visit) -> Iterator[Finding]:
    """Whose credentials are shown, by where they are kept, and whether they are taken."""
    references = [*(one.place for one in visit.host.pulls), *visit.host.pushes]
    for reference in references[:1]:
        wire, repository = wire_of(visit, reference)
        found = visit.place.access.credentials.find(reference.host, repository)
        scopes = (f"repository:{repository}:pull",)
        whose = found.source if found else None
        facts = {"source": whose}

        def ask(wire: Wire = wire, scopes: Scopes = scopes) -> requests.Response:
            limits = (CONNECT, CONNECT)
            return wire.attempt("GET", "", scopes=scopes, what="its /v2/", accept=(200, 404), timeout=limits)

        try:
            wire.persist(ask)
        except Denied as error:
            visit.blocked = True
            yield _rejected(visit, reference, error, whose)
        except TricomposeError as error:
            visit.blocked = True
            why = "without tokens the registry lets nobody in"
            fix = error.hint or ""
            yield Finding(id="token.unreachable", level="problem", saw=error.message, why=why, fix=fix, facts=facts)
            yield from _way_to_tokens(visit)
        else:
            saw = f"the login {whose} is taken" if found else "no login is kept for it: it is asked as anybody"
            yield Finding(id="login.ok" if found else "login.none", level="ok", saw=saw, facts=facts)


def _way_to_tokens(visit: Visit) -> Iterator[Finding]:
    """What is wrong on the way to a token service that is another host than the registry."""
    if not visit.elsewhere:
        return
    parts = urlsplit(visit.elsewhere)
    other = replace(visit, host=Host(authority=parts.netloc, scheme=parts.scheme), findings=[], blocked=False)
    for look in (hosts.names, hosts.connection, hosts.proxy, hosts.tls):
        if not other.blocked:
            yield from (one for one in look(other) if one.level != "ok")


def _rejected(visit: Visit, reference: Reference, error: Denied, whose: str | None) -> Finding:
    kind = "login.refused" if whose else "login.needed"
    why = (
        "the login is wrong, has run out, or is for another account"
        if whose
        else "it lets in nobody whom it does not know"
    )
    return Finding(
        id=kind, level="problem", saw=error.message, why=why, fix=error.hint or "", facts={"source": whose}
    )  # fmt: skip


# -- what is pulled and pushed ------------------------------------------------------------------------------------


def pull(visit: Visit) -> Iterator[Finding]:
    """Whether the very images can be had: their manifests, and so how much is to be fetched."""
    for image in visit.host.pulls:
        facts: dict[str, Any] = {"image": str(image.origin), "place": str(image.place), "spare": image.spare}
        with closing(store_of(visit, image.place)) as store:
            try:
                root = store.resolve(image.place.name)
                seen = _seen(visit, image.place, store, root)
            except TricomposeError as error:
                yield _unpulled(image, error, facts)
                continue
        visit.images.append(seen)
        total = sum(layer.size for layer in seen.layers)
        facts |= {"digest": root.digest, "bytes": total, "missing": sum(layer.size for layer in seen.missing)}
        saw = f"{image.place.repository}:{image.place.name} can be pulled: {words.size(total)} in layers"
        yield Finding(id="pull.ok", level="ok", saw=saw, facts=facts)


def _unpulled(image: Image, error: TricomposeError, facts: Mapping[str, Any]) -> Finding:
    kinds: tuple[tuple[type, str, str], ...] = (
        (Denied, "pull.denied", "the account may not read this repository"),
        (NotFound, "pull.missing", "the name or the tag is not there, or is hidden from this account"),
        (Corrupt, "pull.corrupt", "what comes is not what it was called"),
        (TricomposeError, "pull.failing", "the registry is in trouble, or something on the way"),
    )
    kind, why = next((kind, why) for sort, kind, why in kinds if isinstance(error, sort))
    if image.optional and kind == "pull.missing":
        why = "it is not needed: without it every layer of the full image is read"
        return Finding(id=kind, level="warning", saw=error.message, why=why, facts=facts)
    return Finding(id=kind, level="problem", saw=error.message, why=why, fix=error.hint or "", facts=facts)


def _seen(visit: Visit, place: Reference, store: RegistryStore, root: Descriptor) -> Seen:
    layers: dict[str, Descriptor] = {}
    parsed = parse_manifest(store.manifest(root), root.media_type)
    for entry in _chosen(parsed, visit):
        one = parse_manifest(store.manifest(entry), entry.media_type) if entry else parsed
        layers |= {layer.digest: layer for layer in one.layers} if isinstance(one, Manifest) else {}
    missing: Iterable[Descriptor] = layers.values()
    with suppress(TricomposeError, OSError), closing(LayoutStore(visit.place.cache)) as cache:
        missing = [layer for layer in missing if not cache.has(layer)]
    return Seen(place=place, layers=tuple(layers.values()), missing=tuple(missing))


def _chosen(parsed: Manifest | Index, visit: Visit) -> Sequence[Descriptor | None]:
    if isinstance(parsed, Manifest):
        return (None,)
    platforms = visit.platforms or (Platform(os="linux", architecture="amd64"),)
    return [parsed.choose(platform) for platform in platforms]


def push(visit: Visit) -> Iterator[Finding]:
    """Whether uploads may be begun where outputs go. They are dropped again at once."""
    for reference in visit.host.pushes:
        facts = {"place": str(reference)}
        store = store_of(visit, reference)
        try:
            store.prepare()
        except Denied as error:
            why = "the account may not write there, or nobody is logged in"
            yield Finding(
                id="push.denied", level="problem", saw=error.message, why=why, fix=error.hint or "", facts=facts
            )
        except TricomposeError as error:
            why = "many registries want a project or repository to be made before anything is pushed to it"
            yield Finding(
                id="push.failing", level="problem", saw=error.message, why=why, fix=error.hint or "", facts=facts
            )
        else:
            saw = f"{reference.repository} takes uploads"
            yield Finding(id="push.ok", level="ok", saw=saw, facts=facts)
        finally:
            store.close()


def mount(visit: Visit) -> Iterator[Finding]:
    """Whether blobs pass from one repository of this registry to another without being sent.

    What is asked for is the smallest layer that a build would take over anyway.
    """
    sources = [one for one in visit.images if one.layers]
    for target in visit.host.pushes[:1] if _allowed(visit, "push.ok") else ():
        other = next((one for one in sources if one.place.repository != target.repository), None)
        if other is None:
            return
        blob = min(other.layers, key=lambda layer: layer.size)
        with closing(store_of(visit, target)) as sink, closing(store_of(visit, other.place)) as source:
            try:
                taken = sink.mount(blob, source)
            except TricomposeError:
                taken = False
        if taken:
            saw = f"layers of {other.place.repository} are taken over without being sent"
            yield Finding(id="mount.ok", level="ok", saw=saw)
        else:
            saw = f"layers of {other.place.repository} cannot be mounted in {target.repository}"
            yield Finding(id="mount.refused", level="warning", saw=saw, why="they are downloaded and sent again")


def _allowed(visit: Visit, kind: str) -> bool:
    return any(one.id == kind for one in visit.findings)


# -- how fast -----------------------------------------------------------------------------------------------------


def speed(visit: Visit) -> Iterator[Finding]:
    """Whether a download can go on in the middle, and how fast it is, by some of the largest layer."""
    layers = [(layer, seen) for seen in visit.images for layer in seen.layers if layer.size > 1]
    if not layers:
        return
    layer, seen = max(layers, key=lambda one: one[0].size)
    wire, repository = wire_of(visit, seen.place)
    last = min(layer.size - 1, _SAMPLE)
    begun = time.monotonic()
    try:
        said = wire.persist(lambda: _begun(wire, repository, layer, last))
        first = time.monotonic() - begun
        yield _ranges(visit, said)
        came, took = _fetched(wire, said, last)
    except (TricomposeError, Interrupted) as error:
        told = error.error if isinstance(error, Interrupted) else error
        why = "manifests come, layers do not: they may be on another host, which is shut off"
        yield Finding(id="blob.failing", level="problem", saw=told.message, why=why, fix=told.hint or "")
        return
    yield _fast(visit, came, took, first)


def _begun(wire: Wire, repository: str, layer: Descriptor, last: int) -> requests.Response:
    return wire.attempt(
        "GET",
        f"{repository}/blobs/{layer.digest}",
        scopes=(f"repository:{repository}:pull",),
        what=f"blob {layer.digest} of {repository}",
        accept=(200, 206),
        headers={"Range": f"bytes=1-{last}"},
        timeout=(CONNECT, CONNECT),
        stream=True,
    )


def _ranges(visit: Visit, said: requests.Response) -> Finding:
    host = visit.host.authority
    if said.status_code == 206:
        return Finding(id="range.ok", level="ok", saw="a download that is cut goes on where it was")
    why = "a download that is cut begins anew: on an unsteady line large layers may never come whole"
    return Finding(id="range.ignored", level="warning", saw=f"{host} does not give parts of layers", why=why)


def _fetched(wire: Wire, said: requests.Response, limit: int) -> tuple[int, float]:
    """Bytes that came, and the seconds that it took, up to a limit of both."""
    begun, came = time.monotonic(), 0
    try:
        for piece in wire.pieces(said):
            came += len(piece)
            if came >= limit or time.monotonic() - begun > _SECONDS:
                break
    finally:
        said.close()
    return came, max(time.monotonic() - begun, 1e-6)


def _fast(visit: Visit, came: int, took: float, first: float) -> Finding:
    rate = came / took
    blobs = {layer.digest: layer.size for seen in visit.images for layer in seen.missing}
    missing = sum(blobs.values())
    facts = {"bytes_per_second": round(rate), "sample": came, "latency": round(first, 4), "missing": missing}
    if came < _TOO_FEW and took < _SECONDS:
        saw = f"it answers within {words.latency(first)}; its layers are too small to tell how fast it is"
        return Finding(id="speed.ok", level="ok", saw=saw, facts=facts)
    needs = f"; the {words.size(missing)} that the cache lacks take {words.duration(missing / rate)} at most"
    saw = f"{words.size(int(rate))} in a second, the first byte after {words.latency(first)}" + (
        needs if missing else ""
    )
    if rate >= _SLOW:
        return Finding(id="speed.ok", level="ok", saw=saw, facts=facts)
    why = "a mirror nearby would be faster; what was fetched is kept, whatever comes between"
    return Finding(id="speed.slow", level="warning", saw=saw, why=why, facts=facts)
