"""What can be said of an image without starting it: nothing of it is run, and no layer is read twice.

Each look is a pure function of a `Still`, the image with what was noted of its files; `LOOKS` lists them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from composer import words
from composer.checks.image.driver import driver
from composer.checks.image.expected import expected
from composer.checks.image.exposed import exposed
from composer.checks.image.libraries import libraries
from composer.checks.image.problem import Problem, result
from composer.checks.image.python import python
from composer.checks.image.reading import Reading, read_file, read_layers
from composer.checks.image.repository import links, models
from composer.checks.image.start import start
from composer.checks.image.subject import Still
from composer.checks.report import Result
from composer.errors import Corrupt, TricomposeError
from composer.events import Emit
from composer.inventory import HOME, Inventory
from composer.knowledge import Knowledge
from composer.oci.image import Image
from composer.oci.store import Store

if TYPE_CHECKING:
    from composer.recipe_proof import ImageExpect

__all__ = ["LOOKS", "check_image", "dropped_libraries"]

Look = Callable[[Still], Result]

LOOKS: Final[Mapping[str, Look]] = {
    "libraries": libraries,
    "start": start,
    "driver": driver,
    "python": python,
    "models": models,
    "links": links,
    "secrets": exposed,
}
"""Every look at an image that is not started, in the order in which they are reported."""


def check_image(
    image: Image,
    store: Store,
    wanted: ImageExpect | None,
    *,
    knowledge: Knowledge,
    models: Sequence[str],
    emit: Emit,
    env: Mapping[str, str] | None = None,
    gpu: bool = True,
    dropped: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Result]:
    """Look at an image, layer by layer, without starting it. Never raises for what is in it.

    `wanted` is the recipe's `expect.image`; `models` are the names that it must hold. `env` are variables that it will
    be started with on top of its own, `gpu` whether a GPU is wanted at all, and `dropped` are the libraries of
    components that were left out of it (`dropped_libraries`), for hints. What is learned of layers is kept in
    `knowledge`.
    """
    begun = clock()
    try:
        reading = read_layers(image, store, knowledge, _asked(wanted), emit)
    except TricomposeError as error:
        yield _unread(error, clock() - begun)
        return
    still = Still(
        image=image,
        layers=reading.layers,
        models=models,
        added=env or {},
        gpu=gpu,
        dropped=dropped or {},
        known_secrets=wanted.known_secrets if wanted else (),
    )
    yield replace(_layers(still, reading), seconds=clock() - begun)
    for name, look in LOOKS.items():
        yield _timed(name, lambda look=look: look(still), clock)  # type: ignore[misc]
    if wanted is not None:
        yield _timed(
            "expected",
            lambda: expected(still, wanted, _contents(still, wanted, reading, store, knowledge, emit)),
            clock,
        )


def dropped_libraries(upstream: Inventory, components: Sequence[str]) -> Mapping[str, str]:
    """The libraries in components that are left out (`backends/pytorch`), with the component that each lies in."""
    tree = upstream.tree()
    return {
        entry.name: component
        for component in components
        for entry in tree.walk(f"{HOME}/{component}")
        if ".so" in entry.name
    }


def _asked(wanted: ImageExpect | None) -> frozenset[str]:
    """The paths of files that must be read whole, as layers mostly have them."""
    files = wanted.files if wanted else ()
    return frozenset(file.path.strip("/") for file in files if file.contains is not None)


def _contents(
    still: Still, wanted: ImageExpect, reading: Reading, store: Store, knowledge: Knowledge, emit: Emit
) -> Mapping[str, bytes]:
    """The files that `contains:` asks of, by their paths in the recipe. A known layer is read again for one."""
    found: dict[str, bytes] = {}
    for file in wanted.files:
        place = still.origin(file.path) if file.contains is not None else None
        if place is None:
            continue
        held = reading.kept.get(place)
        found[file.path] = held if held is not None else read_file(still.image, *place, store, knowledge, emit)
    return found


def _layers(still: Still, reading: Reading) -> Result:
    size = sum(layer.size for layer in still.image.layers)
    content = sum(entry.size for layer in still.layers for entry in layer.entries)
    known = len(still.layers) - reading.read
    how = f"; {words.count(known, 'layer')} known" if known else ""
    good = f"{words.count(len(still.layers), 'layer')}, {words.size(size)}, each as its digest says{how}"
    backends = list(still.tree.children(f"{HOME}/backends"))
    return result(
        "layers",
        good,
        [],
        size=size,
        content=content,
        layers=len(still.layers),
        read=reading.read,
        backends=backends,
    )


def _unread(error: TricomposeError, seconds: float) -> Result:
    if isinstance(error, Corrupt):
        return replace(result("layers", "", [Problem(message=error.message, hint=error.hint or "")]), seconds=seconds)
    message, hint = error.message, error.hint or ""
    return Result(id="image:layers", kind="image", outcome="error", message=message, hint=hint, seconds=seconds)


def _timed(name: str, look: Callable[[], Result], clock: Callable[[], float]) -> Result:
    begun = clock()
    try:
        found = look()
    except TricomposeError as error:
        found = Result(id=f"image:{name}", kind="image", outcome="error", message=error.message, hint=error.hint or "")
    return replace(found, seconds=clock() - begun)
