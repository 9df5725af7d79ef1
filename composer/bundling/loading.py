"""From a bundle to where it is wanted: a registry, a layout, a Docker Engine, the cache. Nobody else is asked.

Every byte of the bundle is read once and verified; blobs move first, and no tag is there before all of them are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from composer.bundle.document import Found
from composer.bundle.reading import BundleStore
from composer.bundle.signing import Trust, require_signature
from composer.bundling.handing import Recipes
from composer.bundling.yards import Loaded, opened
from composer.events import StageFinished, StageStarted
from composer.network.routes import Routes
from composer.words import count
from composer.workplace import Workplace


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What loading came to: whose signature the bundle has, where its things are, which recipes were written where.

    `left` are the names of things that could not go there, `rules` say how images are found in the registry.
    """

    signer: str | None
    loaded: Sequence[Loaded]
    left: Sequence[str]
    recipes: Sequence[Path]
    rules: Routes | None


def load(found: Found, to: str | None, place: Workplace, *, into: Path | None, trust: Trust | None) -> Outcome:
    """Put what is in a bundle into a place: `docker://HOST/PREFIX`, `oci:DIR`, `docker-daemon:`; None: the cache.

    With `into` the recipes are written there, each in a folder of its own. Raises `Corrupt` naming a bad part, before
    any tag is made; `NotFound` with all blobs that the place should have and has not, before anything moves.
    """
    signer = require_signature(found, trust)
    store = BundleStore(found)
    store.require_parts()
    place.emit(StageStarted(stage="load", detail=f"{found.path} to {to or 'the cache'}"))
    with ExitStack() as stack:
        yard = opened(to, store, place, stack)
        recipes = Recipes(store, place, into) if into else None
        yard.require()
        if recipes:
            recipes.require()
        loaded = tuple(yard.bring())
        written = tuple(recipes.write()) if recipes else ()
    told = f"{count(len(loaded), 'thing')} at {to or place.cache}"
    place.emit(StageFinished(stage="load", detail=told))
    return Outcome(signer=signer, loaded=loaded, left=tuple(yard.left), recipes=written, rules=yard.rules())
