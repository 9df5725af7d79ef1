"""Checking the parts of a bundle: each by itself, several at once, as fast as they can be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import Event

from composer.bundle.reading import BundleStore, Damage
from composer.events import Emit, Transferred
from composer.oci.copy import run_all


def check_parts(store: BundleStore, only: Sequence[str], *, emit: Emit) -> tuple[Damage, ...]:
    """What is wrong with the parts of a bundle, or with those named; nothing where they are whole. Joins nothing."""
    numbers = [number for number, part in enumerate(store.bundle.parts) if not only or part.name in only]
    found: dict[int, Damage | None] = {}

    def task(number: int) -> Callable[[], None]:
        def look() -> None:
            part = store.bundle.parts[number]
            found[number] = store.damage(number)
            emit(Transferred(digest=part.digest, title=part.name, action="read", done=part.size, total=part.size))

        return look

    run_all([task(number) for number in numbers], jobs=os.cpu_count() or 1, stop=Event())
    return tuple(damage for number in numbers if (damage := found[number]))
