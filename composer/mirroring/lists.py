"""Lists of images, as files: a name in each line, or YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from composer.errors import NotFound, Problem, RecipeError
from composer.oci.names import TRANSPORTS, Reference, parse_reference
from composer.recipe_yaml import read_yaml

_LISTS: Final = (".txt", ".list", ".lst")


def is_list(path: Path) -> bool:
    """Whether a file is a list of images, and no recipe: by its suffix, or as YAML with `images:`."""
    if path.suffix in _LISTS:
        return True
    try:
        return bool(re.search(r"^[\"']?images[\"']?\s*:", path.read_text("utf-8"), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return False


def read_list(text: str, path: str) -> tuple[Reference, ...]:
    """The images of a list: a name in each line, `#` begins a comment; or YAML, `images: [...]`.

    A name without a transport is one of a registry. Raises `RecipeError` with the place of every name that is none.
    """
    named = list(_of_yaml(text, path) if re.search(r"^[\"']?images[\"']?\s*:", text, re.MULTILINE) else _of_lines(text))
    problems: list[Problem] = []
    found: list[Reference] = []
    for name, where in named:
        try:
            found.append(parse_reference(name if name.partition(":")[0] in TRANSPORTS else f"docker://{name}"))
        except NotFound as error:
            problems.append(Problem(where=f"{path}:{where}", message=error.message, hint=error.hint))
    if problems:
        raise RecipeError(problems)
    return tuple(dict.fromkeys(found))


def _of_lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if name:
            yield name, f"{number}:{line.index(name) + 1}"


def _of_yaml(text: str, path: str) -> Iterator[tuple[str, str]]:
    document = read_yaml(text, environ={})
    faults = [(fault.message, fault.hint, document.place(fault.path)) for fault in document.faults]
    images = document.data.get("images") if isinstance(document.data, Mapping) else None
    if not faults and (not isinstance(images, tuple) or not all(isinstance(one, str) for one in images)):
        faults = [("images must be a list of names", "images: [nvcr.io/nvidia/tritonserver:24.10-py3]", (1, 1))]
    if faults:
        raise RecipeError(
            [Problem(where=f"{path}:{place[0]}:{place[1]}", message=said, hint=hint) for said, hint, place in faults]
        )
    for index, name in enumerate(images or ()):
        line, column = document.place(("images", index))
        yield name, f"{line}:{column}"
