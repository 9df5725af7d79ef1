"""What all parts of a recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from composer.recipe_values import refusal


class Part(BaseModel):
    """What all parts of a recipe have in common: no unknown keys, no conversions, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def one_of(part: Part, *names: str) -> None:
    """Refuse a part that gives none, or more than one, of the keys that say the same thing in different ways."""
    given = [name for name in names if getattr(part, name) is not None]
    # A trailing underscore is Python's: the key itself is a word that pydantic or Python has taken.
    known = [name.rstrip("_") for name in names]
    if not given:
        raise refusal(f"one of {', '.join(known)} is missing", f"add {known[0]}: ...")
    if len(given) > 1:
        first, second = (name.rstrip("_") for name in given[:2])
        raise refusal(f"{first} and {second} exclude each other", f"keep one of {', '.join(known)}", at=(second,))
