"""What the names in a recipe meant when they were looked up: `RECIPE.lock.json`, and the ledger that a run keeps.

Everything outside is pinned by digest: images, fetched models, the wheels that requirements came to. An entry is known
by what the recipe says, not by the recipe as a whole: after a change the lock still holds for all that stayed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.disk import room, write_whole
from composer.errors import Problem, RecipeError, Unplannable

SUFFIX: Final = ".lock.json"

Pin = TypeVar("Pin")
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImagePin(_Part):
    """What an image's name meant: the manifest or index, by digest; its size is in bytes."""

    digest: Digest
    size: Size
    media_type: str


class ModelPin(_Part):
    """What a model's source came to: the digest of the file, or of the folder, and how many bytes in all.

    `uri` names it as exactly as its kind can: by revision, by digest. Logins are no part of it.
    """

    uri: str
    digest: Digest
    size: Size


class WheelPin(_Part):
    """A wheel that was chosen. `location` is where it was then, without login; `sha256` is in hex."""

    name: str
    version: str
    filename: str
    location: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Lock(_Part):
    """All that was looked up. `images` and `models` by what the recipe calls them; `wheels` by what was asked for.

    An image that is null was looked for and not there: a `-min` that only followed from the release.
    """

    version: Literal[1] = Field(default=1, validation_alias="schema", serialization_alias="schema")
    images: Mapping[str, ImagePin | None] = {}
    models: Mapping[str, ModelPin] = {}
    wheels: Mapping[str, tuple[WheelPin, ...]] = {}

    def to_json(self) -> dict[str, Any]:
        """As it is written, keys sorted."""
        document = self.model_dump(mode="json", by_alias=True)
        return {name: dict(sorted(part.items())) if isinstance(part, dict) else part for name, part in document.items()}


def lock_path(recipe: Path) -> Path:
    """Where the lock of a recipe lies: `recipe.lock.json` beside `recipe.yaml`."""
    return recipe.with_name(recipe.stem + SUFFIX)


def read_lock(path: Path) -> Lock | None:
    """The lock at `path`, or None where there is none. Raises `RecipeError` where it is none, or a later version's."""
    try:
        return Lock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = Problem(where=str(path), message=f"the lock cannot be read: {error.strerror}", hint=f"ls -l {path}")
        raise RecipeError([problem]) from error
    except ValidationError as error:
        hint = f"git checkout {path}, or make it anew: rm {path}; tricompose lock RECIPE"
        raise RecipeError([_problem(path, dict(one), hint) for one in error.errors()]) from error


def _problem(path: Path, error: Mapping[str, Any], hint: str) -> Problem:
    place = ".".join(map(str, error["loc"]))
    return Problem(where=str(path), message=f"{place}: {error['msg']}" if place else str(error["msg"]), hint=hint)


def write_lock(path: Path, lock: Lock) -> bool:
    """Write a lock, all at once. Whether that changed anything. Raises `NoRoom`."""
    text = json.dumps(lock.to_json(), indent=2, ensure_ascii=False) + "\n"
    with room(path):
        if path.exists() and path.read_text("utf-8") == text:
            return False
    write_whole(path, text.encode())
    return True


def differences(before: Lock | None, now: Lock) -> Mapping[str, str]:
    """What is `new`, `changed` or `gone` in `now`, by what the recipe calls it."""
    found: dict[str, str] = {}
    for part in ("images", "models", "wheels"):
        old, new = getattr(before or Lock(), part), getattr(now, part)
        found |= {name: "gone" for name in old if name not in new}
        found |= {name: "changed" if name in old else "new" for name, pin in new.items() if old.get(name, ...) != pin}
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What names mean in one run: by the lock where that knows them, else as they were looked up and noted here.

    With `strict`, what the lock does not know is refused: `Unplannable`. `used` is what the run came to, as a lock.
    """

    known: Lock = field(default_factory=Lock)
    strict: bool = False
    _images: dict[str, ImagePin | None] = field(default_factory=dict)
    _models: dict[str, ModelPin] = field(default_factory=dict)
    _wheels: dict[str, tuple[WheelPin, ...]] = field(default_factory=dict)

    def image(self, name: str) -> ImagePin | None:
        """What an image's name means, if that is known."""
        return self._find(name, self._images, self.known.images, name)

    def lacks(self, name: str) -> bool:
        """Whether an image is known not to be there."""
        return {**self.known.images, **self._images}.get(name, self) is None

    def model(self, source: str) -> ModelPin | None:
        """What a model's source means, if that is known."""
        return self._find(source, self._models, self.known.models, source)

    def wheels(self, question: str) -> tuple[WheelPin, ...] | None:
        """What requirements came to, if that is known."""
        return self._find(question, self._wheels, self.known.wheels, "packages.pip")

    def note_image(self, name: str, pin: ImagePin | None) -> None:
        """Remember what an image's name means; None: there is no such image."""
        self._images[name] = pin

    def note_model(self, source: str, pin: ModelPin) -> None:
        """Remember what a model's source came to."""
        self._models[source] = pin

    def note_wheels(self, question: str, pins: Sequence[WheelPin]) -> None:
        """Remember what requirements came to."""
        self._wheels[question] = tuple(pins)

    @property
    def used(self) -> Lock:
        """Everything that was asked for in this run, and no more."""
        return Lock(images=self._images, models=self._models, wheels=self._wheels)

    def _find(self, key: str, noted: dict[str, Pin], known: Mapping[str, Pin], said: str) -> Pin | None:
        if key in noted:
            return noted[key]
        if (pin := known.get(key)) is not None:
            noted[key] = pin
        elif self.strict:
            raise Unplannable(f"the lock does not say what {said} is", hint="tricompose lock RECIPE")
        return pin
