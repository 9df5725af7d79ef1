"""From names to digests: what an upstream is at this moment. No tag is looked at again after this."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from composer.errors import Denied, NotFound, UnknownRelease, Unreachable
from composer.events import Emit, Warned
from composer.oci.image import Descriptor, Image, Index, Manifest, Platform, parse_image, parse_manifest
from composer.oci.names import Reference, mirrored, parse_reference
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


def _ubuntu(name: str) -> str:
    """The Ubuntu of a release. compose.py took 22.04 as the base without CUDA for all, which is wrong from 24.11 on."""
    found = release(name).ubuntu
    if found is None:
        raise UnknownRelease(f"nothing is known of the Ubuntu of {name}", hint="upstream: {full: ..., min: ...}")
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
    """Look up one platform of an image, at the first mirror of its registry that has it. Raises what stores raise."""
    *others, last = mirrored(reference, recipe.network.mirrors)
    for mirror in others:
        with suppress(NotFound, Denied, Unreachable):
            return _pin(mirror, reference, platform, open_source)
    return _pin(last, reference, platform, open_source)


def _pin(found: Reference, origin: Reference, platform: Platform, open_source: Callable[[Reference], Store]) -> Pinned:
    store = open_source(found)
    image = read_image(store, store.resolve(found.name), platform)
    digest = image.manifest.descriptor.digest
    return Pinned(reference=found.at(digest), origin=origin.at(digest), store=store, image=image)


def _shared(full: Manifest, least: Manifest) -> list[str]:
    """The layers that both begin with. One that lies above a layer of its own is not base, whatever its digest."""
    shared: list[str] = []
    for upper, lower in zip(full.layers, least.layers, strict=False):
        if upper.digest != lower.digest:
            break
        shared.append(upper.digest)
    return shared
