"""From names to digests: what an upstream is at this moment. No tag is looked at again after this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from composer.errors import NotFound, UnknownRelease
from composer.events import Emit, Warned
from composer.oci.image import Descriptor, Image, Index, Manifest, Platform, parse_image, parse_manifest
from composer.oci.names import Reference, parse_reference
from composer.oci.store import Store
from composer.recipe import Recipe

NGC: Final = "docker://nvcr.io/nvidia/tritonserver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One platform of an upstream image, by digest, and where its blobs are.

    `base` holds the digests of the layers that it shares with its `-min` image, counted from the bottom without
    a gap; `base_of` names that image, or says why there is none.
    """

    reference: Reference
    store: Store
    platform: Platform
    image: Image
    base: frozenset[str]
    base_of: str


def references(recipe: Recipe) -> tuple[Reference, Reference | None]:
    """The full image that a recipe starts from, and its `-min`, if one is named or follows from the release.

    Source of NVIDIA's names: the tags of nvcr.io/nvidia/tritonserver, `<release>-<variant>` and `...-min`.
    """
    if recipe.upstream:
        least = recipe.upstream.min
        return recipe.place(recipe.upstream.full), recipe.place(least) if least else None
    if recipe.triton is None:
        raise UnknownRelease("the recipe names neither a release nor an upstream", hint='triton: "24.10"')
    full = f"{NGC}:{recipe.triton}-{recipe.variant}"
    return parse_reference(full), parse_reference(f"{full}-min")


def resolve(recipe: Recipe, platform: Platform, open_source: Callable[[Reference], Store], emit: Emit) -> Upstream:
    """Look up the upstream of one platform, and which of its layers are its base. Raises what the stores raise."""
    full, least = references(recipe)
    store = open_source(full)
    image = read_image(store, store.resolve(full.name), platform)
    base, base_of = _base(recipe, image, least, platform, open_source, emit)
    pinned = full.at(image.manifest.descriptor.digest)
    return Upstream(reference=pinned, store=store, platform=platform, image=image, base=base, base_of=base_of)


def read_image(store: Store, root: Descriptor, platform: Platform) -> Image:
    """The image for a platform that a manifest or index names. Raises `NotFound` where there is none."""
    parsed = parse_manifest(store.manifest(root), root.media_type)
    if isinstance(parsed, Index):
        return read_image(store, parsed.choose(platform), platform)
    image = parse_image(parsed, b"".join(store.read(parsed.config)))
    if not platform.accepts(image.platform):
        raise NotFound(f"{store.label} is for {image.platform}, not {platform}", hint=f"platforms: [{image.platform}]")
    return image


def _base(
    recipe: Recipe,
    image: Image,
    least: Reference | None,
    platform: Platform,
    open_source: Callable[[Reference], Store],
    emit: Emit,
) -> tuple[frozenset[str], str]:
    if least is None:
        return frozenset(), "no -min image is named"
    store = open_source(least)
    try:
        below = read_image(store, store.resolve(least.name), platform)
    except NotFound as error:
        if recipe.upstream:
            raise
        emit(
            Warned(message=f"{error.message}: every layer of the full image will be read", hint="upstream: {min: ...}")
        )
        return frozenset(), "there is no -min image"
    return frozenset(_shared(image.manifest, below.manifest)), str(least)


def _shared(full: Manifest, least: Manifest) -> list[str]:
    """The layers that both begin with. One that lies above a layer of its own is not base, whatever its digest."""
    shared: list[str] = []
    for upper, lower in zip(full.layers, least.layers, strict=False):
        if upper.digest != lower.digest:
            break
        shared.append(upper.digest)
    return shared
