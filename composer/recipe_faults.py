"""What pydantic found wrong, in the words of someone who writes recipes, with the key that was probably meant."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from composer.recipe_yaml import Document, Fault, KeyPath

_WANTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_LIMITS: Final = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "is empty",
    "too_long": "has more than {max_length} values",
}


def faults_of(error: ValidationError, model: type[BaseModel], document: Document) -> Iterator[Fault]:
    """One fault for each thing that pydantic found, at the place where it was written."""
    for detail in error.errors(include_url=False):
        # A list whose items were all refused also counts as too short, though it was not written so.
        if detail["type"] != "too_short" or not detail["input"]:
            yield _fault(detail, model, document)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint that names what was probably meant."""
    close = difflib.get_close_matches(name.lower(), list(known), 1, 0.6)
    return f'did you mean "{close[0]}"?' if close else None


def _fault(detail: ErrorDetails, model: type[BaseModel], document: Document) -> Fault:
    path = written(document.data, detail["loc"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "refused":
        at = written(document.data, (*path, *context["at"]))
        return Fault(path=at, message=context["message"], hint=context["hint"], on_key="[key]" in detail["loc"])
    if kind == "extra_forbidden":
        return _unknown(path, keys_at(model, detail["loc"][:-1]))
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        return Fault(path=path, message=f"{dotted(path)} has too few values")
    if kind == "missing":
        message = f'{_owner(path)} lacks "{detail["loc"][-1]}"'
        return Fault(path=path, message=message, hint=f"add {detail['loc'][-1]}: ...", on_key=True)
    if kind == "literal_error":
        return _no_choice(path, detail["input"], context["expected"])
    if kind in _LIMITS:
        return Fault(path=path, message=f"{dotted(path)} {_LIMITS[kind].format(**context)}")
    return _wrong_type(path, kind, detail["input"], document, keys_at(model, detail["loc"]))


def _unknown(path: KeyPath, known: Sequence[str]) -> Fault:
    name = str(path[-1])
    hint = nearest(name, known) or f"{_owner(path[:-1])} takes: {', '.join(known)}"
    return Fault(path=path, message=f'"{name}" is not a key of {_owner(path[:-1])}', hint=hint, on_key=True)


def _no_choice(path: KeyPath, value: object, expected: str) -> Fault:
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    hint = nearest(str(value), choices) or f"one of: {', '.join(choices)}"
    return Fault(path=path, message=f'{dotted(path)} cannot be "{value}"', hint=hint)


def _wrong_type(path: KeyPath, kind: str, value: object, document: Document, keys: Sequence[str]) -> Fault:
    if value is None:
        return Fault(
            path=path, message=f"{dotted(path)} is empty", hint="give it a value, or remove the line", on_key=True
        )
    wanted = _WANTED.get(kind, "something else")
    hint = _retyped(path, wanted, value, document.spot(path).text, keys)
    return Fault(path=path, message=f"{dotted(path)} must be {wanted}, not {_noun(value)}", hint=hint)


def _retyped(path: KeyPath, wanted: str, value: object, text: str | None, keys: Sequence[str]) -> str | None:
    """The line as it should be, where that can be told."""
    if wanted == "a mapping" and keys:
        return f"it takes: {', '.join(keys)}"
    prefix = f"{path[-1]}: " if path and isinstance(path[-1], str) else ""
    if wanted == "text" and text is not None:
        return f'put it in quotes: {prefix}"{text}"'
    if wanted == "a list" and text is not None:
        return f"{prefix}[{{{keys[0]}: {text}}}]" if keys else f"{prefix}[{text}]"
    if wanted in ("a whole number", "a number") and isinstance(value, str):
        bare = value.replace(".", "", 1).lstrip("-").isdigit()
        return f"without quotes: {prefix}{value}" if bare else None
    if wanted == "true or false" and str(value).lower() in ("yes", "no", "on", "off", "1", "0", "true", "false"):
        return f"{prefix}{'true' if str(value).lower() in ('yes', 'on', '1', 'true') else 'false'}"
    return None


def _noun(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return f'the text "{value}"' if isinstance(value, str) else f"the number {value}"


def dotted(path: KeyPath) -> str:
    """A path as people write it: `models[0].path`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.lstrip(".") or "the recipe"


def _owner(path: KeyPath) -> str:
    return dotted(path) if path else "a recipe"


def written(data: object, path: Iterable[str | int]) -> KeyPath:
    """The steps of a path that lead through the data. Pydantic's own, such as the arm of a union, are left out."""
    steps: list[str | int] = []
    for step in path:
        held = dict(enumerate(data)) if isinstance(data, tuple) else data
        if isinstance(held, Mapping) and step in held:
            steps, data = [*steps, step], held[step]
    return tuple(steps)


def keys_at(annotation: object, path: Sequence[str | int]) -> tuple[str, ...]:
    """The keys that may stand in the mapping that a path of pydantic's leads to."""
    for step in path:
        annotation = _inside(annotation, step)
    model = _model(annotation)
    return tuple(field.alias or name for name, field in model.model_fields.items()) if model else ()


def _inside(annotation: object, step: str | int) -> object:
    """What stands at a step: a model's field, or the items of a tuple or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        return fields.get(str(step), annotation)
    origin = get_origin(annotation)
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return get_args(annotation)[0 if origin is tuple else 1]
    if origin in (Annotated, Union, types.UnionType):
        arms = [arm for arm in get_args(annotation) if _model(arm)]
        return _inside(arms[0], step) if arms else annotation
    return annotation


def _model(annotation: object) -> type[BaseModel] | None:
    """The one model class in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arm in get_args(annotation) if (found := _model(arm))), None)
