"""One config.pbtxt: what it says, where each field of it stands, and what keeps the server from reading it.

Protobuf's own reader judges the text, by Triton's own schema; the walk over its tokens beside it only finds places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.models import schema
from composer.models.schema import ModelConfig

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.text_format import Tokenizer

Key = tuple[str | int, ...]
"""The way to a value: `("input", 0, "dims", 1)`; the entry of a map by its key, `("parameters", "KEY")`."""

MAX_BYTES: Final = 8 << 20
"""No config that people write is larger; more is not read, so that nothing can make reading it long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something stands in a text: line and column from 1, and how many characters it is long."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What keeps the server from reading the text. `kind` is one of `KINDS`, `words` are libprotobuf's own.

    `name` is what the fault is about: a field, a value.
    """

    kind: str
    place: Place
    words: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A field of the schema that the text uses, or the value of an enum: what it is, and where it stands."""

    message: str
    name: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A config.pbtxt, or none: then `path` is where it would be, and `message` is empty.

    `message` is a ModelConfig; it is empty too where there are `faults`. `repeated_keys` are the map entries whose key
    was there before.
    """

    path: Path
    text: str | None
    message: ModelConfig
    faults: tuple[Fault, ...] = ()
    places: Mapping[Key, Place] = field(default_factory=dict)
    uses: tuple[Use, ...] = ()
    repeated_keys: tuple[Key, ...] = ()

    @property
    def readable(self) -> bool:
        """Whether the server can read it. No file at all is readable: everything has its default."""
        return not self.faults

    def place(self, *key: str | int) -> Place | None:
        """Where a value stands, or else what it would be part of; None where there is no text."""
        for end in range(len(key), 0, -1):
            if found := self.places.get(key[:end]):
                return found
        return Place(line=1, column=1) if self.text is not None else None

    def has(self, *key: str | int) -> bool:
        """Whether the text gives this value, be it the default."""
        return key in self.places


def no_configuration(path: Path) -> Configuration:
    """What holds where there is no config.pbtxt at `path`."""
    return Configuration(path=path, text=None, message=schema.new_config())


def read_configuration(path: Path) -> Configuration:
    """Read the config.pbtxt at `path`. Never raises: what is wrong with it becomes its faults."""
    try:
        if not path.is_file():
            return no_configuration(path)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _broken(path, "", "unreadable", f"failed to open text file for read {path}: {error.strerror}")
    if len(data) > MAX_BYTES:
        return _broken(path, "", "too_large", "")
    return parse_configuration(data, path=path)


def parse_configuration(data: bytes, *, path: Path) -> Configuration:
    """Read the bytes of a config.pbtxt that lies, or would lie, at `path`. Never raises."""
    text = data.decode("utf-8", "surrogateescape")
    if fault := _strange_character(text):
        return Configuration(path=path, text=text, message=schema.new_config(), faults=(fault,))
    walk = _Walk(text)
    message, fault = _parse(text)
    faults = _all_faults(fault, walk.faults)
    return Configuration(
        path=path,
        text=text,
        message=schema.new_config() if faults else message,
        faults=faults,
        places=walk.places,
        uses=tuple(walk.uses),
        repeated_keys=tuple(walk.repeated_keys),
    )


def _broken(path: Path, text: str, kind: str, words: str) -> Configuration:
    fault = Fault(kind=kind, place=Place(line=1, column=1), words=words)
    return Configuration(path=path, text=text, message=schema.new_config(), faults=(fault,))


def _all_faults(first: Fault | None, walked: list[Fault]) -> tuple[Fault, ...]:
    """libprotobuf stops at its first error; unknown names behind it are said at once too."""
    if first is None:
        return tuple(walked)
    twin = next((fault for fault in walked if _position(fault) == _position(first) and fault.kind == first.kind), first)
    rest, first = [fault for fault in walked if _position(fault) != _position(first)], twin
    if first.kind in ("unknown_field", "unknown_enum"):
        return (first, *(fault for fault in rest if fault.name != first.name or fault.place != first.place))
    return (first, *rest)


def _position(fault: Fault) -> tuple[int, int]:
    return fault.place.line, fault.place.column


# -- the judge ------------------------------------------------------------------------------------


def _parse(text: str) -> tuple[ModelConfig, Fault | None]:
    from google.protobuf import text_format

    message = schema.new_config()
    try:
        # libprotobuf takes texts that are not UTF-8, and only writes of it in its log.
        text_format.Parse(_ESCAPES.sub("?", re.sub("[\udc80-\udcff]", "?", text)), message)
    except text_format.ParseError as error:
        line, column = error.GetLine() or 1, error.GetColumn() or 1
        return message, _fault(text, str(error), line, column)
    except (RecursionError, ValueError, UnicodeError) as error:
        return message, Fault(kind="syntax", place=Place(line=1, column=1), words=str(error))
    return message, None


_OCTAL: Final = "Numbers starting with leading zero must be in octal."
_UNENDED: Final = "String literals cannot cross line boundaries."
_CUT_OFF: Final = "Unexpected end of string."
_NO_END: Final = "Expected identifier, got: "

_FAULTS: Final = (
    (r'has no field named "(?P<name>[^"]*)"', "unknown_field", None),
    (r"has no value named (?P<name>\".*)\.$", "quoted_word", "Expected integer or identifier, got: {name}"),
    (r"has no value named (?P<name>.*)\.$", "unknown_enum", 'Unknown enumeration value of "{name}".'),
    (
        r'should not have multiple "(?P<name>[^"]*)"',
        "given_twice",
        'Non-repeated field "{name}" is specified multiple times.',
    ),
    (
        r'Field "(?P<name>\w*)" is specified along with field "(?P<other>\w*)", another member of oneof "(?P<set>\w*)"',
        "exclusive",
        'Field "{name}" is specified along with field "{other}", another member of oneof "{set}".',
    ),
    (r"Value out of range: (?P<name>\d+)", "syntax", "Integer out of range ({name})"),
    (r"Value out of range: -", "syntax", "Expected integer, got: -"),
    (r"String missing ending quote", "syntax", _UNENDED),
    (r'Expected "[}>]"', "syntax", _NO_END),
    (r"Couldn't parse integer: (?P<name>\".*)", "quoted_word", "Expected integer, got: {name}"),
    (r"Couldn't parse integer: (?P<name>[$%]|\{)", "unfilled", "Expected integer, got: {name}"),
    (r"Couldn't parse integer: (?P<name>-?0\d.*)", "syntax", _OCTAL),
    (r"Couldn't parse integer: (?P<name>.*)", "syntax", "Expected integer, got: {name}"),
    (r"Expected string but found: '(?P<name>[$%]|\{)'", "unfilled", "Expected string, got: {name}"),
    (r"Expected string but found: '(?P<name>.*)'", "syntax", "Expected string, got: {name}"),
    (r"Expected identifier or number, got (?P<name>/)\.", "slashes", "Expected identifier, got: /"),
    (r"Expected identifier or number, got (?P<name>[$%])\.", "unfilled", "Expected identifier, got: {name}"),
    (r"Expected identifier or number, got (?P<name>.*)\.$", "syntax", "Expected identifier, got: {name}"),
    (r'Expected "\{"', "no_message", 'Expected "{{", found "{found}".'),
    (r'Expected "true" or "false"', "syntax", 'Expected "true" or "false".'),
    (r'Expected "(?P<name>[:,])"', "syntax", 'Expected "{name}", found "{found}".'),
)
"""What protobuf's Python reader says, the kind of fault that it is, and libprotobuf's words for it."""

KINDS: Final = frozenset(kind for _, kind, _ in _FAULTS) | {
    "byte_order_mark",
    "non_ascii",
    "json",
    "trailing_comma",
    "unreadable",
    "too_large",
    "not_text",
}


_ESCAPES: Final = re.compile(r"\\(?:[xX][89a-fA-F][0-9a-fA-F]|[2-3][0-7][0-7])")
"""Bytes above 127, written as escapes. They may be UTF-8 or not: it does not matter to any rule."""


def _fault(text: str, said: str, line: int, column: int) -> Fault:
    words = re.sub(r"^\d+:\d+ : ", "", said)
    own = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
    words = words.removeprefix(f"'{own}': ")
    found = _token_at(own, column)
    for pattern, kind, form in _FAULTS:
        if match := re.search(pattern, words, re.DOTALL):
            name = match.groupdict().get("name") or ""
            spoken = form.format(**{**match.groupdict(), "name": name, "found": found}) if form else words
            if spoken == _UNENDED and line > text.count("\n"):
                spoken = _CUT_OFF
            return Fault(kind=_finer(kind, text, found), place=_there(line, column, found), words=spoken, name=name)
    return Fault(kind="syntax", place=_there(line, column, found), words=words)


def _there(line: int, column: int, found: str) -> Place:
    return Place(line=line, column=column, length=max(1, len(found)))


def _finer(kind: str, text: str, found: str) -> str:
    if kind == "no_message" and found == "]":
        return "trailing_comma"
    if kind == "syntax" and found == "{" and text.lstrip().startswith("{"):
        return "json"
    return kind


def _token_at(line: str, column: int) -> str:
    found = re.match(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[\w.+-]+|\S", line[column - 1 :])
    return found[0] if found else ""


_BETWEEN: Final = re.compile(r"(?:\s|#[^\n]*)*")


def reported_at(text: str, fault: Fault) -> tuple[int, int]:
    """The line and column that libprotobuf names for a fault: often the token behind the one that it is about."""
    lines = text.split("\n")
    start = sum(len(line) + 1 for line in lines[: fault.place.line - 1]) + fault.place.column - 1
    if fault.words == _OCTAL:
        start += len(text[start:]) - len(text[start:].lstrip("-01234567"))
    elif fault.words == _NO_END:
        start = len(text)
    elif fault.words in (_UNENDED, _CUT_OFF):
        start += len(lines[fault.place.line - 1]) - fault.place.column + 1
    elif fault.kind in ("unknown_field", "unknown_enum", "exclusive", "newer"):
        at = start + len(fault.name)
        between = _BETWEEN.match(text, at)
        start = between.end() if between else at
    elif fault.kind == "given_twice":
        colon = re.search(r":(?:\s|#[^\n]*\n)*$", text[max(0, start - _NEAR) : start])
        start = max(0, start - _NEAR) + colon.start() if colon else start
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)


_NEAR: Final = 1000
"""As far as a value is looked for behind its colon."""

# A string that does not end goes to the end of its line: without that, each quote in it would be tried as a start.
_STRINGS: Final = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|#[^\n]*")


def _strange_character(text: str) -> Fault | None:
    """What libprotobuf's tokenizer refuses, and Python's does not or in other words: the first one of it."""
    bare = _STRINGS.sub(_blank, text)
    if found := re.search(r"[^\x00-\x7f]|[\x00-\x08\x0e-\x1f\x7f]|\b\d+_", bare):
        line, column = bare.count("\n", 0, found.start()) + 1, found.start() - bare.rfind("\n", 0, found.start())
        return _strange_fault(found[0], Place(line=line, column=column), first=found.start() == 0)
    return None


def _blank(match: re.Match[str]) -> str:
    """What may hold any character, taken away; but of a comment what even that may not hold."""
    return " " * len(match[0]) if match[0][0] != "#" else re.sub(r"[^\x00-\x08\x0e-\x1f]", " ", match[0])


def _strange_fault(found: str, place: Place, *, first: bool) -> Fault:
    if found[0].isdigit():
        return Fault(kind="syntax", place=place, words="Need space between number and identifier.", name=found)
    byte = found.encode("utf-8", "surrogateescape")[0]
    if found.isascii():
        words = "Invalid control characters encountered in text."
        return Fault(kind="not_text", place=place, words=words, name=f"0x{byte:02x}")
    kind = "byte_order_mark" if found == "\ufeff" and first else "non_ascii"
    return Fault(kind=kind, place=place, words=f"Interpreting non ascii codepoint {byte}.", name=found)


# -- where everything stands ----------------------------------------------------------------------


class _Lost(Exception):
    """The text is not what the walk takes it for. The judge says why."""


_MOST_FAULTS: Final = 100
"""Unknown names that are said at once: a text with more of them is something else."""


class _Walk:
    """One walk over the tokens of a text, by the schema: places of all values, and names that the schema lacks."""

    def __init__(self, text: str) -> None:
        from google.protobuf import text_format

        self.places: dict[Key, Place] = {}
        self.faults: list[Fault] = []
        self.uses: list[Use] = []
        self.repeated_keys: list[Key] = []
        self._words: dict[Key, str] = {}
        # Control characters that the reader calls white space would be tokens to splitlines.
        self._tokens: Tokenizer = text_format.Tokenizer(text.split("\n"))
        with suppress(_Lost, text_format.ParseError, RecursionError):
            self._message(schema.model_config(), (), "")

    # -- tokens

    @property
    def _token(self) -> str:
        return str(self._tokens.token)

    def _here(self) -> Place:
        # What its ParseError would say; but that copies the whole line each time.
        line: int = self._tokens._line  # type: ignore[attr-defined]
        column: int = self._tokens._column  # type: ignore[attr-defined]
        return Place(line=line + 1, column=column + 1, length=max(1, len(self._token)))

    def _take(self) -> str:
        if self._tokens.AtEnd():
            raise _Lost
        token = self._token
        self._tokens.NextToken()
        return token

    def _skip(self, *signs: str) -> str | None:
        return self._take() if not self._tokens.AtEnd() and self._token in signs else None

    # -- fields

    def _message(self, kind: Descriptor, key: Key, end: str) -> None:
        counts: dict[str, int] = {}
        while not (self._tokens.AtEnd() if not end else self._token == end):
            place = self._here()
            name = self._take()
            known = kind.fields_by_name.get(name) if name.isascii() else None  # no bytes that are no text
            self._uses(kind, name, place)
            if known is None:
                self._unknown(kind, name, place)
            else:
                self._values(known, key, place, counts)
            self._skip(",", ";")
        if end:
            self._take()

    def _uses(self, kind: Descriptor, name: str, place: Place) -> None:
        message = kind.full_name.removeprefix(f"{schema.PACKAGE}.")
        self.uses.append(Use(message=message, name=name, place=place))

    def _unknown(self, kind: Descriptor, name: str, place: Place) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise _Lost
        if len(self.faults) >= _MOST_FAULTS:
            raise _Lost
        words = f'Message type "{kind.full_name}" has no field named "{name}".'
        self.faults.append(Fault(kind="unknown_field", place=place, words=words, name=name))
        self._pass_value()

    def _pass_value(self) -> None:
        """Go past the value of an unknown field."""
        self._skip(":")
        depth = 0
        while True:
            token = self._take()
            depth += token in ("{", "<", "[")
            depth -= token in ("}", ">", "]")
            if depth < 0:
                raise _Lost
            if depth == 0 and not (token[0] in "\"'" and self._token[:1] in ("'", '"')):
                return

    def _values(self, known: FieldDescriptor, key: Key, place: Place, counts: dict[str, int]) -> None:
        self._skip(":")
        if not self._skip("["):
            self._value(known, self._numbered(known, key, counts), place)
            return
        self.places.setdefault((*key, known.name), place)
        while not self._skip("]"):
            self._value(known, self._numbered(known, key, counts), self._here())
            self._skip(",")

    def _numbered(self, known: FieldDescriptor, key: Key, counts: dict[str, int]) -> Key:
        if not known.is_repeated:
            return (*key, known.name)
        counts[known.name] = counts.get(known.name, -1) + 1
        return (*key, known.name, counts[known.name])

    def _value(self, known: FieldDescriptor, key: Key, place: Place) -> None:
        if known.is_repeated:
            self.places.setdefault(key[:-1], place)
        if known.message_type is None:
            self._scalar(known, key)
            return
        self.places[key] = place
        end = {"{": "}", "<": ">"}.get(self._take())
        if end is None:
            raise _Lost
        self._message(known.message_type, key, end)
        if known.message_type.GetOptions().map_entry:
            self._rename_entry(key)

    def _scalar(self, known: FieldDescriptor, key: Key) -> None:
        place, token = self._here(), self._take()
        if token == "-":  # noqa: S105 - a sign, and no secret
            token += self._take()
        while token[0] in "\"'" and self._token[:1] in ("'", '"'):
            token += self._take()
        self.places[key] = place
        self._words[key] = token
        if known.enum_type is None or token[0] in "\"'" or token.lstrip("-").isdigit():
            return
        self.uses.append(Use(message=known.enum_type.name, name=token, place=place))
        if token not in known.enum_type.values_by_name:
            words = f'Unknown enumeration value of "{token}" for field "{known.name}".'
            self.faults.append(Fault(kind="unknown_enum", place=place, words=words, name=token))

    def _rename_entry(self, key: Key) -> None:
        """Put what stands below the number of a map's entry below its key instead."""
        own = self._words.get((*key, "key"), "''").strip("\"'")
        renamed = (*key[:-1], own)
        if renamed in self.places:
            self.repeated_keys.append(renamed)
        # They are the last ones that were put there.
        inside = list(takewhile(lambda each: each[: len(key)] == key, reversed(self.places)))
        for old in reversed(inside):
            rest, place = old[len(key) :], self.places.pop(old)
            if rest == ("value",) and old not in self._words:
                continue  # a message: its entry stands for it
            self.places[(*renamed, *(rest[1:] if rest[:1] == ("value",) else rest))] = place
