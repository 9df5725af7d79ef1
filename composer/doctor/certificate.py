"""A server's certificate, read without believing it: who it is for, who signed it, when it holds.

The ssl module gives its fields only of those that it trusts, and the others are the ones that need explaining.
Source: RFC 5280, section 4.1; X.690 for the encoding.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_UTC_TIME: Final = 0x17
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS, _IP = 0x82, 0x87
_PARTS: Final = {bytes.fromhex("550403"): "CN", bytes.fromhex("55040a"): "O", bytes.fromhex("55040b"): "OU"}
_ALTERNATIVES: Final = bytes.fromhex("551d11")

Item = tuple[int, bytes]
"""A tag and its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a certificate says. `names` are those that it is for; `subject` and `issuer` are `CN=..., O=...`."""

    subject: str
    issuer: str
    begins: datetime
    ends: datetime
    names: tuple[str, ...]

    @property
    def self_signed(self) -> bool:
        """Whether it says that it signed itself."""
        return self.subject == self.issuer


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate from its DER. Raises `ValueError` where it is none."""
    try:
        return _certificate(der)
    except (IndexError, UnicodeDecodeError, StopIteration) as error:
        raise ValueError("this is no certificate") from error


def _certificate(der: bytes) -> Certificate:
    (_, whole), *_ = _items(der)
    (_, signed), *_ = _items(whole)
    fields = [item for item in _items(signed) if item[0] != _VERSION]
    _, _, issuer, validity, subject, *_ = (content for _, content in fields)
    begins, ends = (_time(*item) for item in _items(validity))
    extensions = next((content for tag, content in fields if tag == _EXTENSIONS), b"")
    return Certificate(
        subject=_name(subject),
        issuer=_name(issuer),
        begins=begins,
        ends=ends,
        names=tuple(_alternatives(extensions)),
    )


def _items(data: bytes) -> Iterator[Item]:
    place = 0
    while place < len(data):
        tag, length, place = data[place], data[place + 1], place + 2
        if length & 0x80:
            count = length & 0x7F
            length, place = int.from_bytes(data[place : place + count], "big"), place + count
        if place + length > len(data):
            raise ValueError("this is no certificate: it is cut short")
        yield tag, data[place : place + length]
        place += length


def _name(content: bytes) -> str:
    found = []
    for _, group in _items(content):
        for _, pair in _items(group):
            (_, oid), (_, value) = _items(pair)
            if oid in _PARTS:
                found.append(f"{_PARTS[oid]}={_printable(value)}")
    return ", ".join(found) or "nobody"


def _printable(value: bytes) -> str:
    text = value.decode("utf-8", errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text, form).replace(tzinfo=UTC)


def _alternatives(extensions: bytes) -> Iterator[str]:
    """The names and addresses of the extension subjectAltName."""
    for _, all_of_them in _items(extensions):
        for _, extension in _items(all_of_them):
            (_, oid), *_, (_, value) = _items(extension)
            if oid == _ALTERNATIVES:
                (_, names), *_ = _items(value)
                yield from (_alternative(*item) for item in _items(names) if item[0] in (_DNS, _IP))


def _alternative(tag: int, content: bytes) -> str:
    return str(ipaddress.ip_address(content)) if tag == _IP else _printable(content)
