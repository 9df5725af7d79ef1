"""What is to be mirrored, and where it goes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from composer.errors import NotFound, Unplannable
from composer.lock import images_of, references
from composer.network.routes import Routes
from composer.oci.names import TRANSPORTS, Reference, is_host, parse_reference, spellings, within
from composer.recipe import Recipe
from composer.words import short
from composer.workplace import Workplace

_LOCAL: Final = "local"
"""Where images go that come from no registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An image that is to be mirrored, by its name; `digest` is what a lock says that it means.

    `place` is where it was named: how it is reached. One that only follows from a recipe's release is not `needed`.
    """

    reference: Reference
    place: Workplace
    digest: str | None = None
    needed: bool = True

    @property
    def pinned(self) -> Reference:
        """The image itself, by digest where that is known."""
        return replace(self.reference, digest=self.digest) if self.digest else self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A registry, and the path in it that all images are below."""

    host: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read `docker://HOST[/PREFIX]`. Raises `NotFound`, and `Unplannable` for other places than registries."""
        transport, _, rest = text.partition(":")
        if transport in TRANSPORTS and transport != "docker":
            hint = "tricompose bundle create   (for files); or --to docker://registry.example.com/mirror"
            raise Unplannable(f"{text} is no registry, and a mirror is one", hint=hint)
        if transport != "docker":
            parse_reference(text)  # is refused, with what was probably meant
        try:
            known = parse_reference(f"docker:{rest.rstrip('/')}/x")
        except NotFound as error:
            raise NotFound(f"{text!r} names no registry", hint="docker://host[:port]/path/in/lower-case") from error
        return cls(host=known.host, prefix=known.repository.rpartition("/")[0])

    def place(self, *parts: str) -> str:
        """A place below this one."""
        return "/".join(part for part in (self.host, self.prefix, *parts) if part)

    def target(self, reference: Reference) -> Reference:
        """Where an image goes. One that is named by its digest alone gets a tag of it, so that it is not swept away."""
        if reference.transport == "docker-archive" and reference.tag:
            reference = parse_reference(f"docker-daemon:{reference.tag}")
        tag = reference.tag or (f"digest-{short(reference.digest)}" if reference.digest else "latest")
        return parse_reference(f"docker://{self.place(_within(reference))}:{tag}")

    def rules(self, wanted: Sequence[Wanted]) -> Routes:
        """The rules by which those images are found here, by registry."""
        references = [one.reference for one in wanted]
        hosts = dict.fromkeys(spellings(one.host)[0] for one in references if one.transport == "docker")
        insecure = {self.host} if any(self.host in one.place.access.insecure for one in wanted) and hosts else ()
        return Routes(mirrors={host: (self.place(_folder(host)),) for host in hosts}, insecure=frozenset(insecure))

    def authorities(self, wanted: Sequence[Wanted]) -> Mapping[str, str]:
        """The certificates that vouch for this registry, by its name, where any but the system's were given."""
        bundle = wanted[0].place.routes.ca_bundle
        try:
            return {self.host: bundle.read_text("utf-8", "surrogateescape")} if bundle else {}
        except OSError as error:
            raise NotFound(f"no certificates could be read from {bundle}: {error.strerror}", hint=f"ls -l {bundle}") \
                from error  # fmt: skip

    def __str__(self) -> str:
        return f"docker://{self.place()}"


def _folder(host: str) -> str:
    """A registry as a part of a repository's name."""
    if host.startswith("["):
        hint = "give it a name: network: {hosts: {registry.example.com: ADDRESS}}"
        raise Unplannable(f"images of {host} have no name in a mirror: repositories take no brackets", hint=hint)
    return host.lower().replace(":", "_")


def _within(reference: Reference) -> str:
    """The repository of an image below the prefix."""
    if reference.transport == "docker":
        host = spellings(reference.host)[0]
        return f"{_folder(host)}/{within(host, reference.repository)}"
    if reference.transport == "docker-daemon":
        head, slash, rest = reference.place.partition("/")
        return f"{_folder(head)}/{rest}" if slash and is_host(head) else f"{_LOCAL}/{reference.place or 'image'}"
    name = Path(reference.place).name.removesuffix(".tar").lower()
    return f"{_LOCAL}/{re.sub(r'[^a-z0-9]+', '-', name).strip('-') or 'image'}"


def of_recipe(recipe: Recipe, place: Workplace, *, pins: bool) -> Iterator[Wanted]:
    """The images that a recipe names; with `pins` as its lock has them, without the one that was not there then."""
    implied = None if recipe.upstream else references(recipe)[1]
    known = place.ledger.known.images if pins else {}
    for one in images_of(recipe):
        name = str(one.at(one.name))
        pin = known.get(name)
        if pin or name not in known:
            digest = pin.digest if pin else None
            yield Wanted(reference=one, place=place, digest=digest, needed=one != implied)
