"""A recipe's text as plain values, each with its place in the file. Knows YAML and `${VAR}`, nothing of recipes.

Mappings become dicts with text keys, sequences tuples, scalars what YAML 1.2 says they are. Everything wrong is
gathered, so that a file is refused once and for all its faults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, Event
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""

MAX_BYTES: Final = 1 << 20
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 40
"""Limits no recipe comes near: they stop files whose aliases multiply."""

_TAG: Final = "tag:yaml.org,2002:"
_DOLLAR: Final = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)(?P<end>\}?)")
_VARIABLE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong at `path`. `on_key` says that the key is at fault and not its value."""

    path: KeyPath
    message: str
    hint: str | None = None
    on_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where a value and its key begin, as (line, column) from 1, and the scalar as it was written."""

    key: tuple[int, int]
    value: tuple[int, int]
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a file says (`data`, None where it could not be read), where (`spots`), and what is wrong (`faults`).

    Faults of the YAML itself carry their own place, in `spots`, under a path that no value has.
    """

    data: Any
    spots: Mapping[KeyPath, Spot]
    faults: tuple[Fault, ...]

    def spot(self, path: KeyPath) -> Spot:
        """The place of a value, or of the nearest thing around it that was written."""
        while path and path not in self.spots:
            path = path[:-1]
        return self.spots.get(path, Spot(key=(1, 1), value=(1, 1), text=None))

    def place(self, path: KeyPath, *, key: bool = False) -> tuple[int, int]:
        """Line and column of a value, or of its key."""
        spot = self.spot(path)
        return spot.key if key else spot.value


def read_yaml(text: str, *, environ: Mapping[str, str]) -> Document:
    """Read one YAML document and expand `${VAR}` and `${VAR:-default}` in its string values.

    The default stands in for a variable that is unset or empty, as in a shell. `$${` gives a literal `${`; any other
    dollar is itself. What a variable holds is always text, and is not expanded again.
    """
    try:
        if deep := _too_deep(text):
            return _unreadable(deep, "the file is nested too deeply", "no recipe needs more than a few levels")
        root = YAML(typ="rt", pure=True).compose(text)
    except (YAMLError, ValueError) as error:
        return _broken(text, error)
    if root is None:
        return _unreadable((1, 1), "the file is empty", 'begin with `version: 1` and `triton: "24.10"`')
    reader = _Reader(environ=environ)
    data = reader.value(root, (), _place(root))
    if reader.too_much:
        return _unreadable((1, 1), "the file unfolds to more values or levels than any recipe has", "use no aliases")
    return Document(data=data, spots=reader.spots, faults=tuple(reader.faults))


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Turns nodes into values, noting places and faults on the way."""

    environ: Mapping[str, str]
    spots: dict[KeyPath, Spot] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    too_much: bool = False

    def value(self, node: Node, path: KeyPath, key: tuple[int, int]) -> object:
        text = node.value if isinstance(node, ScalarNode) else None
        # An aliased node is the anchor's own: its value's place is there, only the key's is where the alias stands.
        self.spots[path] = Spot(key=key, value=_place(node), text=text)
        if len(self.spots) > MAX_NODES or len(path) > MAX_DEPTH:
            self.too_much = True
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return tuple(self.value(item, (*path, i), _place(item)) for i, item in enumerate(node.value))
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if (key := self._key(key_node, path, result)) is not None:
                result[key] = self.value(value_node, (*path, key), _place(key_node))
        return result

    def _key(self, node: Node, path: KeyPath, seen: Mapping[str, Any]) -> str | None:
        """The key, or None where it cannot be one. Its fault stands at a path made for it."""
        if isinstance(node, ScalarNode) and node.tag == f"{_TAG}merge":
            self._at(node, path, "merge keys are not read in recipes", "write the keys out")
            return None
        if not isinstance(node, ScalarNode):
            self._at(node, path, "a key must be a word", 'put quotes around it: "key": value')
            return None
        key = str(node.value)
        if key in seen:
            first = self.spots[(*path, key)].key[0]
            self._at(node, path, f'"{key}" stands twice', f"it stands in line {first} already: keep one of them")
            return None
        return key

    def _scalar(self, node: Node, path: KeyPath) -> object:
        kind = str(node.tag).removeprefix(_TAG)
        if kind in ("str", "timestamp"):
            return self._expand(node.value, path)
        if kind in _SCALARS:
            try:
                return _SCALARS[kind](node.value)
            except ValueError:
                message = f'"{node.value[:40]}" is no possible {kind}'
                self.faults.append(Fault(path=path, message=message, hint=f'put it in quotes: "{node.value[:40]}"'))
                return None
        self.faults.append(Fault(path=path, message=f"the tag {node.tag} is not read", hint="leave the tag out"))
        return None

    def _expand(self, text: str, path: KeyPath) -> str:
        def replacement(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            parts = _VARIABLE.fullmatch(match["body"]) if match["end"] else None
            if parts is None:
                hint = "${NAME} or ${NAME:-default}; $${ stands for a literal ${"
                self.faults.append(Fault(path=path, message=f'"{match[0]}" names no variable', hint=hint))
                return ""
            return self._variable(parts["name"], parts["default"], path)

        return _DOLLAR.sub(replacement, text)

    def _variable(self, name: str, default: str | None, path: KeyPath) -> str:
        held = self.environ.get(name)
        if default is not None:
            return held or default
        if held is None:
            hint = f"export {name}=..., or write ${{{name}:-default}}"
            self.faults.append(Fault(path=path, message=f"the variable {name} is not set", hint=hint))
        return held or ""

    def _at(self, node: Node, path: KeyPath, message: str, hint: str) -> None:
        spot = _place(node)
        own = (*path, f"\0{spot}")
        self.spots[own] = Spot(key=spot, value=spot, text=None)
        self.faults.append(Fault(path=own, message=message, hint=hint))


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0) if re.match(r"[-+]?0[box]", digits) else int(digits)


def _float(text: str) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))


_SCALARS: Final = {
    "null": lambda text: None,
    "bool": _bool,
    "int": _integer,
    "float": _float,
}


def _place(node: Node | Event) -> tuple[int, int]:
    return (node.start_mark.line + 1, node.start_mark.column + 1)


def _too_deep(text: str) -> tuple[int, int] | None:
    """Where the nesting passes the limit. Looked for first, since ruamel's time grows with the square of the depth."""
    depth = 0
    for event in YAML(typ="rt", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            return _place(event)
    return None


def _code(character: str | int) -> int:
    return character if isinstance(character, int) else ord(character)


def _unreadable(place: tuple[int, int], message: str, hint: str | None) -> Document:
    spots: dict[KeyPath, Spot] = {(): Spot(key=place, value=place, text=None)}
    return Document(data=None, spots=spots, faults=(Fault(path=(), message=message, hint=hint),))


def _broken(text: str, error: Exception) -> Document:
    """Say where and why the text is not YAML."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reason = " ".join(part for part in (error.problem, error.context) if part)
        return _unreadable(place, f"this is not YAML: {reason}", _advice(reason))
    if isinstance(error, ReaderError):
        before = text[: error.position]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        return _unreadable(place, f"the character U+{_code(error.character):04X} may not stand in YAML", "remove it")
    return _unreadable((1, 1), f"this is not YAML: {error}", None)


def _advice(reason: str) -> str | None:
    return next((hint for words, hint in _ADVICE.items() if words in reason), None)


_ADVICE: Final = {
    r"'\t'": "indent with spaces: YAML takes no tabs",
    "expected <block end>": "a line is indented more, or less, than its neighbours",
    "mapping values are not allowed": 'is a key indented too far, or a text with ": " not in quotes?',
    "expected a single document": "one recipe per file: remove the `---` and what follows it",
    "could not find expected ':'": "is a colon missing, or a line indented too little?",
    "undefined alias": "define it before with &name",
    "expected ',' or": "a bracket or a comma is missing",
    "cannot start any token": "put the text in quotes",
}
