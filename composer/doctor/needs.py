"""Whom a recipe needs: every host that building, proving and delivering it would talk to, and what for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from composer.errors import TricomposeError
from composer.lock import NGC, images_of, references
from composer.network.routes import Routes
from composer.network_files import CUDA_REPOS
from composer.oci.names import Reference, asked_at, parse_reference
from composer.recipe import Recipe
from composer.wheels.sources import find_sources
from composer.workplace import Workplace

_PYPI: Final = ("https://pypi.org/simple/", "https://files.pythonhosted.org/")
_UBUNTU: Final = "http://archive.ubuntu.com/ubuntu"
_HUGGING_FACE: Final = "https://huggingface.co"
_GOOGLE: Final = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as it is asked for in one place. `origin` is what the recipe calls it; `optional`: it need not exist.

    `spare`: nobody goes there yet; it is looked at because it may have the same.
    """

    place: Reference
    origin: Reference
    optional: bool = False
    spare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host and port. `scheme` is what is spoken there; a registry's may turn out to be another.

    `pulls` are images to be read there, `pushes` places to be written to; `urls` what is fetched by the web, and may
    hold logins. `uses` says the same in words.
    """

    authority: str
    scheme: str = "https"
    registry: bool = False
    uses: tuple[str, ...] = ()
    pulls: tuple[Image, ...] = ()
    pushes: tuple[Reference, ...] = ()
    urls: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name or address alone."""
        return urlsplit(f"//{self.authority}").hostname or self.authority

    @property
    def port(self) -> int:
        """Its port."""
        return urlsplit(f"//{self.authority}").port or (443 if self.scheme == "https" else 80)

    @property
    def url(self) -> str:
        """What stands for all of it, without logins and signatures."""
        parts = urlsplit(next(iter(self.urls), "/v2/" if self.registry else "/"))
        return f"{self.scheme}://{self.authority}{parts.path}"


def hosts_of(recipe: Recipe | None, place: Workplace, spare: Routes) -> tuple[Host, ...]:
    """Every host that a recipe needs, each once; without a recipe NVIDIA's registry. `spare` has mirrors to try."""
    found = [*_registries(recipe, place.routes, spare), *(_web(recipe, place) if recipe else ())]
    made: dict[tuple[str, str, bool], Host] = {}
    for one in found:
        key = (one.scheme, one.authority, one.registry)
        made[key] = _joined(made[key], one) if key in made else one
    return tuple(made.values())


def _joined(one: Host, other: Host) -> Host:
    return replace(
        one,
        uses=tuple(dict.fromkeys((*one.uses, *other.uses))),
        pulls=tuple(dict.fromkeys((*one.pulls, *other.pulls))),
        pushes=tuple(dict.fromkeys((*one.pushes, *other.pushes))),
        urls=tuple(dict.fromkeys((*one.urls, *other.urls))),
    )


# -- registries ---------------------------------------------------------------------------------------------------


def _registries(recipe: Recipe | None, routes: Routes, spare: Routes) -> Iterator[Host]:
    if recipe is None:
        yield from _without_recipe(parse_reference(NGC), routes, spare)
        return
    least = references(recipe)[1]
    for origin in images_of(recipe):
        if origin.transport == "docker":
            follows = origin == least and not (recipe.upstream and recipe.upstream.min)
            yield from _sources(origin, routes, spare, optional=follows)
    for output in (recipe.place(one) for one in recipe.outputs):
        if output.transport == "docker":
            yield _at(output.host, uses=(f"push {output.repository}",), pushes=(output,))


def _without_recipe(origin: Reference, routes: Routes, spare: Routes) -> Iterator[Host]:
    for one in _places(origin, routes, spare):
        of = f", a mirror of {origin.host}" if one.host != origin.host else ""
        yield _at(one.host, uses=(f"Triton's images{of}",))


def _places(origin: Reference, routes: Routes, spare: Routes) -> dict[Reference, bool]:
    """Where to ask for an image, and whether that is only tried."""
    tried = [one for one in spare.places(origin) if one != origin]
    return {**dict.fromkeys(tried, True), **dict.fromkeys(routes.places(origin), False)}


def _sources(origin: Reference, routes: Routes, spare: Routes, *, optional: bool) -> Iterator[Host]:
    for place, tried in _places(origin, routes, spare).items():
        of = f", a mirror of {origin.host}" if place.host != origin.host else ""
        image = Image(place=place, origin=origin, optional=optional, spare=tried)
        yield _at(place.host, uses=(f"pull {place.repository}:{place.name}{of}",), pulls=(image,))


def _at(host: str, *, uses: tuple[str, ...], pulls: tuple[Image, ...] = (), pushes: tuple[Reference, ...] = ()) -> Host:
    return Host(authority=asked_at(host), registry=True, uses=uses, pulls=pulls, pushes=pushes)


# -- the web ------------------------------------------------------------------------------------------------------


def _web(recipe: Recipe, place: Workplace) -> Iterator[Host]:
    yield from _models(recipe, place)
    for url in _indexes(recipe, place) if recipe.packages.pip else ():
        yield from _urls([url], "Python packages", fetch=False)
    builds = recipe.engine == "dockerfile" and recipe.dockerfile.source == "network"
    if builds or recipe.packages.apt:
        yield from _urls([str(recipe.network.apt_mirror or _UBUNTU)], "Ubuntu's packages", fetch=False)
    if builds:
        yield from _urls([str(recipe.network.cuda_mirror or CUDA_REPOS)], "NVIDIA's packages", fetch=False)


def _models(recipe: Recipe, place: Workplace) -> Iterator[Host]:
    for model in recipe.models:
        source = model.source or ""
        scheme = source.partition(":")[0].lower()
        use = f"model {model.name}" if model.name else "a model"
        if scheme in ("http", "https"):
            yield from _urls(place.routes.addresses(source), use)
        elif scheme == "hf":
            yield from _urls([place.environ.get("HF_ENDPOINT") or _HUGGING_FACE], use, fetch=False)
        elif scheme == "gs":
            yield from _urls([_GOOGLE], use, fetch=False)
        elif scheme == "s3":
            yield from _urls([_amazon(source, place)], use, fetch=False)


def _amazon(source: str, place: Workplace) -> str:
    """Where a bucket is. Source: AWS, "Virtual hosting of buckets"."""
    named = place.environ.get("AWS_ENDPOINT_URL_S3") or place.environ.get("AWS_ENDPOINT_URL")
    return named or f"https://{urlsplit(source).hostname}.s3.amazonaws.com"


def _indexes(recipe: Recipe, place: Workplace) -> Sequence[str]:
    try:
        found = find_sources(recipe, place.environ, place.routes)
    except TricomposeError:
        return [recipe.network.pip_index] if recipe.network.pip_index else []
    named = [*found.indexes, *found.find_links]
    return [url for one in named for url in ([one] if one else _PYPI) if "://" in url]


def _urls(urls: Iterable[str], use: str, *, fetch: bool = True) -> Iterator[Host]:
    """The hosts of some addresses. With `fetch` they are asked for these very files, else only for any answer."""
    for url in urls:
        parts = urlsplit(url)
        authority = parts.netloc.rpartition("@")[2]
        if parts.scheme in ("http", "https") and authority:
            root = f"{parts.scheme}://{authority}/"
            yield Host(authority=authority, scheme=parts.scheme, uses=(use,), urls=(url if fetch else root,))
