"""From names to digests: what an upstream is at this moment. No tag is looked at again after this.

What a lock says is not looked up, and what the cache holds by digest is not fetched: with both, nobody is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from composer.errors import NotFound, UnknownRelease
from composer.events import Emit, Warned
from composer.lockfile import ImagePin, Ledger
from composer.oci.copy import Stack
from composer.oci.image import Descriptor, Image, Index, Manifest, Platform, parse_image, parse_manifest
from composer.oci.mirrors import found_at
from composer.oci.names import TRANSPORTS, Reference, parse_reference
from composer.oci.store import Store
from composer.recipe import CPU, Recipe
from composer.releases import release

NGC: Final = "docker://nvcr.io/nvidia/tritonserver"
UBUNTU: Final = "docker://docker.io/library/ubuntu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """One platform of an image, by digest, and where its blobs are.

    `origin` is what the image is called by those who asked for it; `reference` is where it was found, maybe a mirror.
    """

    reference: Reference
    origin: Reference
    store: Store
    image: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One platform of an upstream image, by digest, and where its blobs are.

    `base` holds the digests of the layers that it shares with its `-min` image, counted from the bottom without
    a gap; `base_of` names that image, or says why there is none. `least` is that image. `origin` is as in `Pinned`.
    """

    reference: Reference
    origin: Reference
    store: Store
    platform: Platform
    image: Image
    base: frozenset[str]
    base_of: str
    least: Pinned | None = None

    @property
    def pinned(self) -> Pinned:
        """The image itself."""
        return Pinned(reference=self.reference, origin=self.origin, store=self.store, image=self.image)


def references(recipe: Recipe) -> tuple[Reference, Reference | None]:
    """The full image that a recipe starts from, and its `-min`, if one is named or follows from the release.

    Source of NVIDIA's names: the tags of nvcr.io/nvidia/tritonserver, `<release>-<variant>` and `...-min`.
    """
    if recipe.upstream and not (recipe.variant == CPU and recipe.upstream.min is None):
        least = recipe.upstream.min
        return recipe.place(recipe.upstream.full), recipe.place(least) if least else None
    if recipe.triton is None:
        raise UnknownRelease("the recipe names neither a release nor an upstream", hint='triton: "24.10"')
    if recipe.variant == CPU:
        named = recipe.place(recipe.upstream.full) if recipe.upstream else parse_reference(f"{NGC}:{recipe.triton}-py3")
        return named, parse_reference(f"{UBUNTU}:{_ubuntu(recipe.triton)}")
    full = f"{NGC}:{recipe.triton}-{recipe.variant}"
    return parse_reference(full), parse_reference(f"{full}-min")


def images_of(recipe: Recipe) -> tuple[Reference, ...]:
    """Every image that a recipe starts from or takes something of: the full one, its `-min`, those that backends and
    models come from. Each once, in this order. A `-min` that only follows from the release need not exist.
    """
    full, least = references(recipe)
    donors = [recipe.place(one.image) for one in recipe.custom_backends if one.image]
    sources = [model.source for model in recipe.models if model.source]
    models = [recipe.place(parse_reference(one)) for one in sources if one.partition(":")[0] in TRANSPORTS]
    return tuple(dict.fromkeys(one for one in (full, least, *donors, *models) if one))


def _ubuntu(name: str) -> str:
    """The Ubuntu of a release. compose.py took 22.04 as the base without CUDA for all, which is wrong from 24.11 on."""
    found = release(name).ubuntu
    if found is None:
        raise UnknownRelease(f"nothing is known of the Ubuntu of {name}", hint="upstream: {full: ..., min: ...}")
    return found


class LockedStore(Stack):
    """A registry of which a ledger says what its tags mean, behind a cache: what is there by digest is not fetched."""

    def __init__(self, reference: Reference, cache: Store, registry: Store, ledger: Ledger) -> None:
        super().__init__(cache, registry)
        self._reference = reference
        self._registry = registry
        self._ledger = ledger

    @property
    def label(self) -> str:
        """The registry's: nobody has asked for the cache."""
        return self._registry.label

    def resolve(self, name: str) -> Descriptor:
        """What a name means by the ledger, or else by the registry, which is noted. A digest means itself."""
        called = str(self._reference.at(name))
        if self._ledger.lacks(called):
            self._ledger.note_image(called, None)
            raise NotFound(f"{called} was not there when the lock was made", hint="tricompose lock RECIPE")
        if not name.startswith("sha256:") and (pin := self._ledger.image(called)):
            return Descriptor(media_type=pin.media_type, digest=pin.digest, size=pin.size)
        return self._looked_up(name, called)

    def _looked_up(self, name: str, called: str) -> Descriptor:
        try:
            found = super().resolve(name) if name.startswith("sha256:") else self._registry.resolve(name)
        except NotFound:
            self._ledger.note_image(called, None)
            raise
        self._ledger.note_image(called, ImagePin(digest=found.digest, size=found.size, media_type=found.media_type))
        return found


def resolve(recipe: Recipe, platform: Platform, open_source: Callable[[Reference], Store], emit: Emit) -> Upstream:
    """Look up the upstream of one platform, and which of its layers are its base. Raises what the stores raise."""
    full, least = references(recipe)
    found = pin(recipe, full, platform, open_source)
    below, base_of = _least(recipe, least, platform, open_source, emit)
    return Upstream(
        reference=found.reference,
        origin=found.origin,
        store=found.store,
        platform=platform,
        image=found.image,
        base=frozenset(_shared(found.image.manifest, below.image.manifest) if below else ()),
        base_of=base_of,
        least=below,
    )


def resolve_donor(
    recipe: Recipe, reference: Reference, upstream: Upstream, open_source: Callable[[Reference], Store]
) -> Upstream:
    """Look up an image that something is taken from. Its base are the layers that it shares with the upstream's base.

    Raises what the stores raise.
    """
    found = pin(recipe, reference, upstream.platform, open_source)
    shared = _shared(found.image.manifest, upstream.image.manifest)
    return Upstream(
        reference=found.reference,
        origin=found.origin,
        store=found.store,
        platform=upstream.platform,
        image=found.image,
        base=frozenset(digest for digest in shared if digest in upstream.base),
        base_of=upstream.base_of,
    )


def read_image(store: Store, root: Descriptor, platform: Platform) -> Image:
    """The image for a platform that a manifest or index names. Raises `NotFound` where there is none."""
    parsed = parse_manifest(store.manifest(root), root.media_type)
    if isinstance(parsed, Index):
        return read_image(store, parsed.choose(platform), platform)
    image = parse_image(parsed, b"".join(store.read(parsed.config)))
    if not platform.accepts(image.platform):
        raise NotFound(f"{store.label} is for {image.platform}, not {platform}", hint=f"platforms: [{image.platform}]")
    return image


def _least(
    recipe: Recipe,
    least: Reference | None,
    platform: Platform,
    open_source: Callable[[Reference], Store],
    emit: Emit,
) -> tuple[Pinned | None, str]:
    """The `-min` image, and its name, or why there is none."""
    if least is None:
        return None, "no -min image is named"
    try:
        return pin(recipe, least, platform, open_source), str(least)
    except NotFound as error:
        if recipe.upstream:
            raise
        emit(
            Warned(message=f"{error.message}: every layer of the full image will be read", hint="upstream: {min: ...}")
        )
        return None, "there is no -min image"


def pin(recipe: Recipe, reference: Reference, platform: Platform, open_source: Callable[[Reference], Store]) -> Pinned:
    """Look up one platform of an image, at the first place that has it. Raises what stores raise."""
    store = open_source(reference)
    image = read_image(store, store.resolve(reference.name), platform)
    digest = image.manifest.descriptor.digest
    found = found_at(store, reference)
    return Pinned(reference=found.at(digest), origin=reference.at(digest), store=store, image=image)


def _shared(full: Manifest, least: Manifest) -> list[str]:
    """The layers that both begin with. One that lies above a layer of its own is not base, whatever its digest."""
    shared: list[str] = []
    for upper, lower in zip(full.layers, least.layers, strict=False):
        if upper.digest != lower.digest:
            break
        shared.append(upper.digest)
    return shared
