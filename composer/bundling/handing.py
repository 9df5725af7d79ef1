"""The recipes of a bundle, written out again with their files, locks and reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from composer.bundle.artifacts import lay_out, require_free, require_inner
from composer.bundle.document import Item
from composer.bundle.reading import BundleStore
from composer.bundling import kinds
from composer.bundling.yards import manifest_of, present, require_blobs
from composer.errors import Corrupt, NotFound
from composer.oci.copy import Stack, deliver, survey
from composer.oci.image import Manifest
from composer.oci.layout import LayoutStore
from composer.workplace import Workplace


class Recipes:
    """The recipes of a bundle, with their files and reports, in folders of their own."""

    def __init__(self, store: BundleStore, place: Workplace, into: Path) -> None:
        cache = LayoutStore(place.cache)
        self._emit, self._jobs = place.emit, place.jobs
        self._store = Stack(store, cache)
        self._bundle = store.bundle
        self._into = into
        self._cache = cache

    def require(self) -> None:
        """Raise what `write` would end with: another file is in the way, or a blob is nowhere."""
        names = {item.name for item in self._bundle.items if item.kind in (kinds.RECIPE, kinds.REPORT)}
        if not names:
            raise NotFound("the bundle has no recipes", hint="it was made with --images-only")
        require_blobs(self._cache, [one for one in self._bundle.needs if names.intersection(one.items)])
        for _, folder, manifest in self._all():
            require_free(manifest, folder)

    def write(self) -> Iterator[Path]:
        """Write them. Returns the recipes' files."""
        for item, folder, manifest in self._all():
            lay_out(manifest, self._store, folder)
            for path, images in _layouts(manifest).items():
                self._put_layout(folder / path, images)
            if item.kind == kinds.RECIPE:
                yield folder / manifest.annotations.get(kinds.RECIPE_PATH, "recipe.yaml")

    def _put_layout(self, place: Path, images: Mapping[str, str]) -> None:
        """Images that the recipe takes from a folder beside it, where there are none yet."""
        layout = LayoutStore.ensure(place)
        found = {item.name: item for item in self._bundle.items}
        for tag, name in images.items():
            if name in found and tag not in layout.tags():
                contents = present(survey(self._store, found[name].root), found[name])
                deliver(contents, self._store, layout, tag, emit=self._emit, jobs=self._jobs)

    def _all(self) -> Iterator[tuple[Item, Path, Manifest]]:
        for item in self._bundle.items:
            if item.kind in (kinds.RECIPE, kinds.REPORT):
                manifest = manifest_of(self._store, item)
                _layouts(manifest)
                yield item, self._into / _word(manifest.annotations), manifest


def _layouts(manifest: Manifest) -> Mapping[str, Mapping[str, str]]:
    """The image layouts that a recipe starts from. Raises `Corrupt` for a path that leads out of its folder."""
    try:
        found = json.loads(manifest.annotations.get(kinds.LAYOUTS, "{}"))
        layouts = {str(path): {str(tag): str(name) for tag, name in images.items()} for path, images in found.items()}
    except (ValueError, AttributeError) as error:
        raise Corrupt("the bundle has a recipe whose image layouts nobody can read") from error
    for path in layouts:
        require_inner(path)
    return layouts


def _word(notes: Mapping[str, str]) -> str:
    """The folder of a recipe."""
    name = notes.get(kinds.NAME, "")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise Corrupt(f"the bundle has a recipe that is called {name!r}")
    return name
