"""The recipe: what one image contains, how it runs, how it is proved and where it goes. Strict, immutable, located.

`load_recipe` is the way to one: it reports everything that is wrong at once, each with `file:line:column`.
Paths in a recipe start from the folder it lies in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from composer import server as flags
from composer.errors import NotFound, Problem, RecipeError
from composer.recipe_checks import (
    AllClose,
    ArgMax,
    Check,
    Expect,
    Golden,
    OutputExpect,
    Random,
    Refusal,
    Request,
    Responses,
    SameAs,
    Status,
    Step,
    Sum,
    TensorSpec,
    TopK,
)
from composer.recipe_faults import faults_of, nearest
from composer.recipe_proof import (
    Expected,
    FileExpect,
    GpuProof,
    ImageExpect,
    Load,
    ModelExpect,
    Objective,
    Startup,
    StrictLogs,
    Validate,
    Visible,
)
from composer.recipe_schema import (
    Conversion,
    Credential,
    CustomBackend,
    DockerfileChoices,
    FileSource,
    ModelSource,
    Mount,
    Network,
    Origin,
    Packages,
    Ports,
    Proxy,
    Recipe,
    Run,
    Ulimit,
    Upstream,
)
from composer.recipe_values import CPU
from composer.recipe_yaml import MAX_BYTES, Document, Fault, KeyPath, read_yaml

__all__ = [
    "CPU",
    "AllClose",
    "ArgMax",
    "Check",
    "Conversion",
    "Credential",
    "CustomBackend",
    "DockerfileChoices",
    "Expect",
    "Expected",
    "FileExpect",
    "FileSource",
    "Golden",
    "GpuProof",
    "ImageExpect",
    "Load",
    "ModelExpect",
    "ModelSource",
    "Mount",
    "Network",
    "Objective",
    "OutputExpect",
    "Packages",
    "Ports",
    "Proxy",
    "Random",
    "Recipe",
    "Refusal",
    "Request",
    "Responses",
    "Run",
    "SameAs",
    "Startup",
    "Status",
    "Step",
    "StrictLogs",
    "Sum",
    "TensorSpec",
    "TopK",
    "Ulimit",
    "Upstream",
    "Validate",
    "Visible",
    "flag_warnings",
    "json_schema",
    "load_network",
    "load_recipe",
    "not_yet",
    "parse_recipe",
    "refuse_unbuilt",
]


def load_recipe(path: Path, *, environ: Mapping[str, str]) -> Recipe:
    """Read a recipe. Raises `RecipeError` with every problem in file order, `NotFound` where there is no such file."""
    return parse_recipe(_text(path), path=path, environ=environ)


def parse_recipe(text: str, *, path: Path, environ: Mapping[str, str]) -> Recipe:
    """Read the text of a recipe that lies, or would lie, at `path`. Raises `RecipeError`."""
    document = read_yaml(text, environ=environ)
    recipe, faults = _validated(document)
    if recipe is None or faults:
        raise RecipeError(_problems(path, document, faults))
    recipe._origin = Origin(path=path, document=document)
    return recipe


class _Networked(BaseModel):
    """A file of which only the network is read: another recipe, or a file with nothing else in it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    network: Network


def load_network(path: Path, *, environ: Mapping[str, str]) -> Network:
    """The `network:` of a recipe, or of a file that has nothing else. Raises `RecipeError`, `NotFound`."""
    text = _text(path)
    document = read_yaml(text if text.strip() else "{}", environ=environ)
    others = set(document.data) - {"network"} if isinstance(document.data, Mapping) else set()
    faults = [fault for fault in document.faults if not fault.path or fault.path[0] not in others]
    found: Network | None = None
    if not faults and not (isinstance(document.data, Mapping) and "network" in document.data):
        hint = "network: {hosts: {HOST: ADDRESS}, proxy: {https: ...}, ca_bundle: ..., mirrors: ...}"
        faults = [Fault(path=(), message="the file says nothing of a network", hint=hint)]
    if not faults:
        try:
            found = _Networked.model_validate(document.data).network
        except ValidationError as error:
            faults = list(faults_of(error, _Networked, document))
    if found is None:
        raise RecipeError(_problems(path, document, faults))
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
        if data is None:
            raise _refused(path, "a recipe of more than 1 MiB is not read", "keep large tensors in .npy files")
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(f"there is no recipe {path}", hint=_neighbour(path)) from error
    except UnicodeDecodeError as error:
        raise RecipeError([_not_utf8(path, error)]) from error
    except OSError as error:
        raise _refused(path, f"the recipe cannot be read: {error.strerror}", f"ls -l {path}") from error


def _refused(path: Path, message: str, hint: str) -> RecipeError:
    return RecipeError([Problem(where=str(path), message=message, hint=hint)])


def _validated(document: Document) -> tuple[Recipe | None, list[Fault]]:
    """The recipe, if the schema takes it, and everything that is wrong, in no order."""
    data, faults = document.data, list(document.faults)
    if data is None and faults:
        return None, faults
    if data is None:
        return None, [Fault(path=(), message="the file is empty", hint='triton: "24.10"')]
    if not isinstance(data, Mapping):
        return None, [
            *faults,
            Fault(path=(), message="a recipe is a mapping of keys to values", hint='triton: "24.10"'),
        ]
    faults += (fault for rule in (_origins, _contents, _references, _server_flags) for fault in rule(data))
    try:
        return Recipe.model_validate(data), faults
    except ValidationError as error:
        # A value that is at fault already, such as one with an unset variable, need not be judged again.
        ill = {fault.path for fault in document.faults}
        return None, faults + [fault for fault in faults_of(error, Recipe, document) if fault.path not in ill]


def _problems(path: Path, document: Document, faults: Iterable[Fault]) -> list[Problem]:
    """The faults as problems, in file order."""
    placed = [(document.place(fault.path, key=fault.on_key), fault) for fault in faults]
    return [
        Problem(where=f"{path}:{line}:{column}", message=fault.message, hint=fault.hint)
        for (line, column), fault in sorted(placed, key=lambda one: one[0])
    ]


def _neighbour(path: Path) -> str:
    """The recipe that was probably meant."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except OSError:
        return f"there is no folder {path.parent} either"
    close = difflib.get_close_matches(path.name, names, 1, 0.4)
    return f"did you mean {path.with_name(close[0])}?" if close else "tricompose init writes one"


def _not_utf8(path: Path, error: UnicodeDecodeError) -> Problem:
    before = error.object[: error.start]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    hint = f"iconv -f WINDOWS-1252 -t UTF-8 {path}"
    return Problem(
        where=f"{path}:{line}:{column}", message=f"the byte {error.object[error.start]:#04x} is not UTF-8", hint=hint
    )


# -- rules that look at several keys; they take the plain data, so that they speak beside the schema's own -----


def _origins(data: Mapping[str, Any]) -> Iterator[Fault]:
    if data.get("triton") is None and data.get("upstream") is None:
        yield Fault(path=(), message="the recipe names no server", hint='add triton: "24.10", or upstream: <image>')


def _contents(data: Mapping[str, Any]) -> Iterator[Fault]:
    if data.get("custom_backends"):
        return
    if not data.get("models") and "backends" not in data:
        hint = "add backends: [onnxruntime, python], or models: [{path: ./models}]"
        yield Fault(path=(), message="the recipe names neither backends nor models", hint=hint)
    elif not data.get("models") and data.get("backends") == "auto":
        hint = "add models: [{path: ./models}], or name the backends"
        yield Fault(path=("backends",), message="backends: auto follows from the models, and there are none", hint=hint)


def _references(data: Mapping[str, Any]) -> Iterator[Fault]:
    checks = [entry.get("id") for entry in _entries(data, "checks")]
    known = list(dict.fromkeys(identity for identity in checks if isinstance(identity, str)))
    for index, entry in enumerate(_entries(data, "load")):
        if isinstance(name := entry.get("check"), str) and name not in known:
            yield _no_check(("validate", "load", index, "check"), name, known)
    after = data["validate"].get("after") if isinstance(data.get("validate"), Mapping) else ()
    for index, name in enumerate(after if isinstance(after, tuple) else ()):
        if isinstance(name, str) and name not in (*known, "health", "gpu"):
            yield _no_check(("validate", "after", index), name, [*known, "health", "gpu"])


def _entries(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The mappings in a list under `validate`; an empty one in place of whatever else stands there."""
    validate = data.get("validate")
    items = validate.get(key) if isinstance(validate, Mapping) else ()
    return [item if isinstance(item, Mapping) else {} for item in items] if isinstance(items, tuple) else []


def _no_check(path: KeyPath, name: str, known: Sequence[str]) -> Fault:
    hint = nearest(name, known) or f"the checks are: {', '.join(known) or 'none'}"
    return Fault(path=path, message=f'there is no check "{name}"', hint=hint)


def _server_flags(data: Mapping[str, Any]) -> Iterator[Fault]:
    for fault in flags.flag_faults(_given_flags(data.get("server")), _release_of(data.get("triton"))):
        yield Fault(path=("server", fault.flag), message=fault.message, hint=fault.hint, on_key=fault.of_name)


def _given_flags(given: object) -> Mapping[str, Any]:
    """The flags that can be judged: a value that no flag has is the schema's to refuse."""
    named = given.items() if isinstance(given, Mapping) else ()
    return {name: value for name, value in named if isinstance(name, str) and flags.is_flag_value(value)}


def _release_of(said: object) -> str | None:
    """The release that a recipe names, if that is one at all."""
    return said if isinstance(said, str) and re.fullmatch(r"[0-9]{2}\.[0-9]{2}", said) else None


def flag_warnings(recipe: Recipe) -> tuple[Problem, ...]:
    """Flags of `server:` that are written otherwise for the recipe's release, and what is not known of them."""
    return tuple(
        Problem(where=recipe.where("server", note.flag, key=True), message=note.message, hint=note.hint)
        for note in flags.flag_notes(recipe.server, recipe.triton)
    )


# -- what is not built yet ------------------------------------------------------------------------


def not_yet(recipe: Recipe) -> tuple[Problem, ...]:
    """What the recipe asks for and tricompose cannot do yet, in file order."""
    found = list(_unbuilt_parts(recipe))
    document = recipe._origin.document if recipe._origin else Document(data=None, spots={}, faults=())
    return tuple(
        Problem(where=recipe.where(*path, key=True), message=f'"{what}" is not built yet', hint=hint)
        for path, what, hint in sorted(found, key=lambda one: document.place(one[0], key=True))
    )


def refuse_unbuilt(recipe: Recipe) -> None:
    """Raise `RecipeError` for what `not_yet` finds, so that nothing a recipe asks for is silently left out."""
    if problems := not_yet(recipe):
        raise RecipeError(problems)


_Unbuilt = tuple[KeyPath, str, str]

_REMOVE: Final = "remove it"


def _unbuilt_parts(recipe: Recipe) -> Iterator[_Unbuilt]:
    plain = Recipe.model_validate({})
    for name in ("keep", "drop"):
        if getattr(recipe, name) != getattr(plain, name):
            yield (name,), name, _REMOVE
    if recipe.slim != "backends":
        yield ("slim",), f"slim: {recipe.slim}", "slim: backends"


# -- for editors ----------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file (draft 2020-12), with what each key means and examples."""
    schema = Recipe.model_json_schema(by_alias=True)
    example = {
        "version": 1,
        "triton": "24.10",
        "backends": ["onnxruntime", "python"],
        "outputs": ["oci:build/slim:24.10"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "tricompose recipe",
        "examples": [example],
    }
