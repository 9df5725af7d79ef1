"""Protobuf's text format, as `config.pbtxt` is written in it, read into nested values without a schema.

Errors stand at the line and column, from 1, where libprotobuf sees them, in its words where they say enough.
Source: https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from composer.errors import Problem, RecipeError


class Word(str):
    """A value without quotes: an enum's, `true`, `inf`."""

    __slots__ = ()


Message = Mapping[str, "tuple[Value, ...]"]
"""Fields by name; every field is a tuple, since without a schema nobody knows which are repeated."""
Value = str | Word | int | float | Message

MAX_DEPTH: Final = 100
"""libprotobuf's own limit."""

_TOKEN: Final = re.compile(
    r"""(?P<skip>[ \t\r\n\f\v]+|\#[^\n]*)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>0[xX][0-9a-fA-F]+ | (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<sign>[{}<>\[\]:,;-])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(
    r"""\\(?:(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})
          |(?P<letter>.))""",
    re.VERBOSE,
)
_LETTERS: Final = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str
    text: str
    offset: int


def parse(text: str, *, where: str) -> Message:
    """Read a message. Raises `RecipeError` at `where:line:column`."""
    return _Parser(text, where).message(end="", depth=0)


class _Parser:
    """Recursive descent over the tokens of one file."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where
        self._tokens = self._scan()
        self._next = next(self._tokens)

    def message(self, *, end: str, depth: int) -> Message:
        """The fields up to the closing bracket `end`, which is taken too."""
        if depth > MAX_DEPTH:
            raise self._error("Message is too deep, the parser exceeded the configured recursion limit.")
        fields: dict[str, tuple[Value, ...]] = {}
        while self._next.text != end:
            name = self._take("word", "identifier").text
            fields[name] = fields.get(name, ()) + self._values(depth)
            if self._next.text in (",", ";"):
                self._advance()
        self._advance()
        return fields

    def _values(self, depth: int) -> tuple[Value, ...]:
        """What stands behind a field's name: `: scalar`, `{...}`, `: {...}` or a list of them."""
        colon = self._skip(":")
        if not self._skip("["):
            return (self._value(depth, colon=colon),)
        values: list[Value] = []
        while not self._skip("]"):
            if values:
                self._expect(",")
            values.append(self._value(depth, colon=True))
        return tuple(values)

    def _value(self, depth: int, *, colon: bool) -> Value:
        for opening, closing in (("{", "}"), ("<", ">")):
            if self._skip(opening):
                return self.message(end=closing, depth=depth + 1)
        if not colon:
            raise self._error(f'Expected ":", found "{self._next.text}".')
        return self._scalar()

    def _scalar(self) -> Value:
        if self._next.kind == "text":
            return self._strings()
        negative = self._skip("-")
        token = self._next
        if token.kind == "word" and not (negative and token.text.lower() not in ("inf", "infinity", "nan")):
            return Word(("-" if negative else "") + self._advance().text)
        number = _number(self._take("number", "a value").text)
        return -number if negative else number

    def _strings(self) -> str:
        """Texts that follow one another are one text."""
        parts = []
        while self._next.kind == "text":
            parts.append(_unescape(self._advance().text[1:-1]))
        return b"".join(parts).decode("utf-8", "surrogateescape")

    def _skip(self, sign: str) -> bool:
        found = self._next.kind == "sign" and self._next.text == sign
        if found:
            self._advance()
        return found

    def _expect(self, sign: str) -> None:
        if not self._skip(sign):
            raise self._error(f'Expected "{sign}", found "{self._next.text}".')

    def _take(self, kind: str, what: str) -> _Token:
        if self._next.kind != kind:
            raise self._error(f"Expected {what}, got: {self._next.text}")
        return self._advance()

    def _advance(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = next(self._tokens)
        return token

    def _scan(self) -> Iterator[_Token]:
        offset = 0
        while offset < len(self._text):
            match = _TOKEN.match(self._text, offset)
            if match is None:
                raise self._strange(offset)
            if match.lastgroup != "skip":
                yield _Token(kind=str(match.lastgroup), text=match[0], offset=offset)
            offset = match.end()
        yield _Token(kind="end", text="", offset=offset)

    def _strange(self, offset: int) -> RecipeError:
        character = self._text[offset]
        if not character.isascii():
            return self._error(
                f"Interpreting non ascii codepoint {character.encode('utf-8', 'surrogateescape')[0]}.", offset
            )
        if character in "\"'":
            return self._error("Unexpected end of string.", offset)
        return self._error(f"Expected identifier, got: {character}", offset)

    def _error(self, message: str, offset: int | None = None) -> RecipeError:
        position = self._next.offset if offset is None else offset
        before = self._text[:position]
        line, column = before.count("\n") + 1, position - before.rfind("\n")
        return RecipeError([Problem(where=f"{self._where}:{line}:{column}", message=message, hint=_advice(message))])


def _number(text: str) -> int | float:
    if text[:2].lower() == "0x":
        return int(text, 16)
    if re.fullmatch(r"0[0-7]+", text):
        return int(text, 8)
    return int(text) if text.isdigit() else float(text.rstrip("fF"))


def _unescape(body: str) -> bytes:
    def replacement(match: re.Match[bytes]) -> bytes:
        if match["octal"]:
            return bytes([int(match["octal"], 8) & 0xFF])
        if match["hex"]:
            return bytes([int(match["hex"], 16)])
        if code := match["u"] or match["U"]:
            return chr(min(int(code, 16), 0x10FFFF)).encode("utf-8", "surrogatepass")
        return bytes([_LETTERS.get(match["letter"][0], match["letter"][0])])

    return re.sub(_ESCAPE.pattern.encode(), replacement, body.encode("utf-8", "surrogateescape"), flags=re.VERBOSE)


def _advice(message: str) -> str | None:
    return next((hint for words, hint in _ADVICE.items() if message.startswith(words)), None)


_ADVICE: Final = {
    "Expected identifier, got: {": 'this is text format, not JSON: name: "model", without braces around it all',
    "Expected identifier, got: /": "comments begin with #",
    "Expected identifier, got: }": "there is one closing brace too many",
    "Expected identifier": "a bracket may be missing before this",
    "Interpreting non ascii codepoint 239": "remove the byte order mark from the start of the file",
    "Interpreting non ascii": "only texts in quotes may hold this; the quotes themselves are plain ones",
    "Unexpected end of string": "close the quotes on the same line",
    'Expected ":"': "write a colon between the field and its value",
    "Expected a value": "is a variable left unfilled, or a comma too many?",
}
