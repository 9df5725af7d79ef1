"""Backends that the upstream does not have: from a folder of this machine, or out of another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.errors import NotFound, Problem, RecipeError, Unplannable
from composer.files import LocalFile, local_files, unreadable
from composer.inventory import HOME, Component, Inventory, components
from composer.lock import Upstream
from composer.oci.names import Reference
from composer.oci.tar import SYMLINK
from composer.oci.tree import Tree
from composer.recipe import Recipe

BACKENDS = f"{HOME}/backends"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBackend:
    """A backend of this machine: its folder, and everything that the image gets of it, by path.

    `where` is its place in the recipe. The `target` of each file is in the image's folder of that backend.
    """

    name: str
    where: str
    path: Path
    files: tuple[LocalFile, ...]

    @property
    def folder(self) -> str:
        """Where it lies in the image, without leading slash."""
        return f"{BACKENDS}/{self.name}"

    @property
    def library(self) -> str:
        """What the server loads, if it is there: else it runs `model.py` through the python backend."""
        return f"{self.folder}/libtriton_{self.name}.so"

    @property
    def component(self) -> Component:
        """It, as a part of a server."""
        return Component(
            kind="backends",
            name=self.name,
            size=sum(file.size for file in self.files),
            files=sum(file.source is not None for file in self.files),
            needs=() if any(file.target == self.library for file in self.files) else ("python",),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """An image that a backend is taken from, for one platform, and what is known of its layers.

    `source` is its name in the recipe, `image` what that means now.
    The `base` of `image` are the layers that it has in common with the upstream's base: they are not read either.
    """

    name: str
    where: str
    source: Reference
    image: Upstream
    inventory: Inventory

    @property
    def key(self) -> str:
        """The component that is taken."""
        return f"backends/{self.name}"

    @property
    def unread(self) -> bool:
        """Whether a layer that may hold it was not read yet."""
        return any(digest not in self.image.base for digest in self.inventory.unread())

    def component(self, tree: Tree) -> Component:
        """The backend in the merged tree of the donor. Raises `NotFound` where all was read and it is not there."""
        there = [one for one in components(tree) if one.kind == "backends"]
        found = next((one for one in there if one.name == self.name), None)
        if found is None and not self.unread:
            names = ", ".join(one.name for one in there)
            raise NotFound(
                f"{self.where}: {self.image.reference} has no backend {self.name!r}", hint=f"it has: {names or 'none'}"
            )
        self._refuse_link(tree)
        return found or Component(kind="backends", name=self.name, size=0, files=0)

    def _refuse_link(self, tree: Tree) -> None:
        entry = tree.get(f"{BACKENDS}/{self.name}")
        if entry and entry.kind == SYMLINK:
            raise Unplannable(
                f"{self.where}: in {self.image.reference} the backend {self.name} is a link to {entry.link}",
                hint=f"docker cp it to a folder here, and name that: {{name: {self.name}, path: ./{self.name}}}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """All the backends that a recipe brings to the upstream, for one platform."""

    local: tuple[LocalBackend, ...] = ()
    donors: tuple[Donor, ...] = ()

    def components(self) -> tuple[Component, ...]:
        """They, as parts of a server."""
        return (
            *(one.component for one in self.local),
            *(donor.component(donor.inventory.tree()) for donor in self.donors),
        )


def survey_custom(recipe: Recipe) -> tuple[LocalBackend, ...]:
    """The backends that `custom_backends` names by `path`, in the recipe's order, each with all its files.

    Raises `RecipeError` for a folder that is missing, cannot be read, or holds nothing that the server could load.
    """
    problems: list[Problem] = []
    found: list[LocalBackend] = []
    for number, wanted in enumerate(recipe.custom_backends):
        if wanted.path is None:
            continue
        where = recipe.where("custom_backends", number, "path")
        path = recipe.base / wanted.path
        try:
            backend = _local(wanted.name, where, path)
        except OSError as error:
            problems.append(unreadable(where, error, path))
            continue
        problems += _faults(backend, wanted.path)
        found.append(backend)
    if problems:
        raise RecipeError(problems)
    return tuple(found)


def _local(name: str, where: str, path: Path) -> LocalBackend:
    files = tuple(
        sorted(
            # What Python leaves behind is of no use to the server, and never twice the same.
            (file for file in local_files(path, f"{BACKENDS}/{name}") if "__pycache__" not in file.target.split("/")),
            key=lambda file: file.target.split("/"),
        )
    )
    return LocalBackend(name=name, where=where, path=path, files=files)


def _faults(backend: LocalBackend, written: Path) -> Sequence[Problem]:
    """Why the server could not load what is `written` in the recipe. Source: Triton core, backend_manager.cc."""
    top = {file.target: file for file in backend.files if file.source is not None}
    if backend.folder in top:
        message = f"{backend.path} is a file: a backend is a folder with libtriton_{backend.name}.so or model.py"
        return [Problem(where=backend.where, message=message, hint=f"path: {written.parent}")]
    if backend.library in top or f"{backend.folder}/model.py" in top:
        return []
    message = f"{backend.path} holds neither libtriton_{backend.name}.so nor model.py"
    return [Problem(where=backend.where, message=message, hint=_meant(backend, written))]


def _meant(backend: LocalBackend, written: Path) -> str:
    """What was probably meant: the library goes by another name, or lies deeper."""
    for file in backend.files:
        inside = file.target.removeprefix(f"{backend.folder}/")
        folder, _, name = inside.rpartition("/")
        if name in (f"libtriton_{backend.name}.so", "model.py"):
            return f"path: {written / folder}"
        if not folder and name.startswith("libtriton_") and name.endswith(".so"):
            return f"name: {name.removeprefix('libtriton_').removesuffix('.so')}"
    return f"ls {backend.path}"
