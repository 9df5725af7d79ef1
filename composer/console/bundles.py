"""Bundles as people and machines read them: what is in one, what is wrong with its parts, where its things went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from composer import words
from composer.bundle.document import Bundle, Found
from composer.bundle.reading import Damage
from composer.bundling.having import Inventory
from composer.bundling.loading import Outcome
from composer.console.tables import facts, table
from composer.network.writing import network_json

_FIRST = 6
"""As many parts are shown; of others only how many there are."""


def bundle_json(bundle: Bundle, path: Path) -> dict[str, Any]:
    """The document without the places of single blobs."""
    document = bundle.model_dump(mode="json", by_alias=True, exclude={"manifests", "blobs", "members", "contents"})
    tool = [one.path for one in bundle.members if "/" in one.path]
    return {"path": str(path), "blobs": len(bundle.blobs), "tool_files": tool, **document}


def bundle_text(bundle: Bundle, path: Path) -> Iterator[RenderableType]:
    """What is in it, its parts, and what it builds on."""
    things = table("name", "kind", "platforms", "digest", "size", numbers=("size",))
    sizes = {one.digest: one.size for one in bundle.stored()}
    for item in bundle.items:
        size = sum(sizes.get(digest, 0) for digest in bundle.contents.get(item.name, ()))
        digest = words.short(item.digest)
        things.add_row(*map(words.plain, (item.name, item.kind, ", ".join(item.platforms), digest, words.size(size))))
    yield things
    yield Text()
    yield facts(list(_facts(bundle, path)))


def _facts(bundle: Bundle, path: Path) -> Iterator[tuple[str, str]]:
    yield "bundle", str(path)
    yield "size", f"{words.size(bundle.size)} in {words.count(len(bundle.parts), 'part')}"
    names = [f"{part.name} ({words.size(part.size)})" for part in bundle.parts]
    more = f", and {len(names) - _FIRST} more" if len(names) > _FIRST else ""
    yield "parts", words.plain(", ".join(names[:_FIRST]) + more)
    if tool := [one for one in bundle.members if "/" in one.path]:
        told = f"{words.count(sum(one.path.endswith('.whl') for one in tool), 'wheel')} and install.sh:"
        yield "tool", f"{told} tar xf {bundle.parts[0].name} {tool[0].path.partition('/')[0]}"
    if bundle.needs:
        total = words.size(sum(one.size for one in bundle.needs))
        yield "builds on", f"{words.count(len(bundle.needs), 'blob')} that are not in here, {total}"
    if slight := [item.name for item in bundle.items if item.lacks]:
        yield "in part", words.plain(f"{', '.join(slight)}: the layers that no build reads are left out")


def verified_json(found: Found, damaged: Sequence[Damage], signer: str | None) -> dict[str, Any]:
    """Whether it is whole, and what is wrong with which parts."""
    return {
        "path": str(found.path),
        "ok": not damaged,
        "signer": signer,
        "parts": len(found.bundle.parts),
        "damaged": [asdict(one) for one in damaged],
    }


def verified_text(
    found: Found, damaged: Sequence[Damage], signer: str | None, only: Sequence[str]
) -> Iterator[RenderableType]:
    """The bad parts with what they affect, or that all is well."""
    if damaged:
        shown = table("part", "what is wrong", "affects")
        for one in damaged:
            shown.add_row(*map(words.plain, (one.part, one.wrong, ", ".join(one.items) or "nothing that is loaded")))
        yield shown
        return
    what = only[0] if only else f"{words.count(len(found.bundle.parts), 'part')}, {words.size(found.bundle.size)}"
    by = f"; signed by {signer}" if signer else ""
    yield Text(f"{found.path}: {what}: whole{by}")


def loaded_json(outcome: Outcome, files: Sequence[Path]) -> dict[str, Any]:
    """Where everything is."""
    return {
        "signer": outcome.signer,
        "things": [asdict(one) for one in outcome.loaded],
        "left_out": list(outcome.left),
        "recipes": [str(path) for path in outcome.recipes],
        "network": network_json(outcome.rules) if outcome.rules else None,
        "files": [str(file) for file in files],
    }


def loaded_text(outcome: Outcome, files: Sequence[Path], network: str) -> Iterator[RenderableType]:
    """Where everything is, and how it is found there."""
    shown = table("name", "kind", "digest", "now at")
    for one in outcome.loaded:
        shown.add_row(*map(words.plain, (one.name, one.kind, words.short(one.digest), one.place)))
    yield shown
    for path in (*outcome.recipes, *files):
        yield Text(f"{path} is written")
    if network:
        yield Text()
        yield Text(network)


def inventory_text(found: Inventory, out: Path) -> Iterator[RenderableType]:
    """How much there is."""
    told = f"{words.count(len(found.sizes), 'blob')}, {words.size(sum(found.sizes.values()))}"
    yield Text(f"{told} at {', '.join(found.places)}: written to {out}")
