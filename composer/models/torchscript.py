"""What a PyTorch file says of itself, without torch: whether the server can run it, and what `forward` takes and gives.

torch.jit.save and torch.save both write zip archives with nothing compressed; only the first holds code, which is text
that is almost Python. Nothing is unpickled here. Source: caffe2/serialize/inline_container.cc, torch/jit/serialization.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from composer.models.opening import Broken, Unreadable, look_into

FILE: Final = "model.pt"

_ZIP: Final = b"PK\x03\x04"
_LEGACY: Final = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""A pickle of the number 0x1950a86a20f9469cfc6c: what torch.save began with before 1.6."""
_ROOT_CLASS: Final = re.compile(rb"\x80.c([\w.]+)\n(\w+)\n", re.DOTALL)
_MOST_CODE: Final = 4 << 20
_MOST_LISTED: Final = 64 << 20
_END: Final = b"PK\x05\x06"
_END_SIZE: Final = 22
_CONFUSED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    UnicodeError,
)
"""What the reader of zip archives raises, beside its own error, for one that makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An argument of `forward`, without `self`. `type` is TorchScript's, such as `Tensor`, as it stands there."""

    name: str
    type: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The signature of `forward`. `returns` is its type; `outputs` the types in it, None where they cannot be told."""

    arguments: tuple[Argument, ...]
    returns: str
    outputs: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchFile:
    """A file of PyTorch's.

    `kind` is `torchscript`, which the server runs; `aoti`, a package of AOTInductor's, which newer ones do;
    `exported`, a program of torch.export's that is not compiled; `weights`, what torch.save writes, with no code in it;
    `legacy`, the same as before torch 1.6; `archive`, a zip that is none of these.

    `forward` is None where the archive does not tell. `format` is the version of the archive's format.
    """

    kind: str
    format: int | None = None
    forward: Forward | None = None


def read_torch(path: Path) -> TorchFile | Unreadable:
    """What the file says, or why it cannot be told. Never raises. Weights are not read."""
    return look_into(path, _read)


def _read(file: IO[bytes], size: int) -> TorchFile:
    head = file.read(len(_LEGACY))
    if head == _LEGACY:
        return TorchFile(kind="legacy")
    if not head.startswith(_ZIP):
        raise Broken("garbage", "is no file of PyTorch's: neither a zip archive nor what older ones wrote")
    _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            return _Archive(archive).told()
    except _CONFUSED as error:
        raise Broken("garbage", "begins as a zip archive, and cannot be read as one") from error


def _check_end(file: IO[bytes], size: int) -> None:
    """Whether the list of contents is where a zip archive has it, and of a size that can be read."""
    start = max(0, size - _END_SIZE - 0xFFFF)
    file.seek(start)
    tail = file.read(size - start)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise Broken("truncated", f"ends in the middle, after {size} bytes: the list of what is in it is missing")
    listed = int.from_bytes(tail[at + 12 : at + 16], "little")
    if _MOST_LISTED < listed < 0xFFFFFFFF or (listed == 0xFFFFFFFF and _listed_64(file, start + at) > _MOST_LISTED):
        raise Broken("garbage", "begins as a zip archive, and says that its list of contents is larger than any is")
    file.seek(0)


def _listed_64(file: IO[bytes], end: int) -> int:
    """The size of the list in an archive of the 64-bit kind, whose end record lies before the one of the old kind."""
    file.seek(max(0, end - 20))
    locator = file.read(20)
    if locator[:4] != b"PK\x06\x07":
        return 0
    file.seek(min(int.from_bytes(locator[8:16], "little"), end))
    record = file.read(56)
    return int.from_bytes(record[40:48], "little") if record[:4] == b"PK\x06\x06" else 0


class _Archive:
    """An archive, in which everything lies in one folder."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = frozenset(archive.namelist())
        self._root = min((name.split("/", 1)[0] for name in self._names), default="")

    def told(self) -> TorchFile:
        kind = self._kind()
        told = (re.fullmatch(r"\s*(\d{1,9})\s*", self._text("version")), self._root_class())
        module, name = told[1] if kind == "torchscript" else ("", "")
        return TorchFile(
            kind=kind,
            format=int(told[0][1]) if told[0] else None,
            forward=_forward(self._text(f"code/{module.replace('.', '/')}.py"), name) if name else None,
        )

    def _kind(self) -> str:
        if self._has("constants.pkl") and self._has("data.pkl"):
            return "torchscript"
        if self._under("data/aotinductor/"):
            return "aoti"
        if self._text("archive_format").strip() == "pt2" or self._has("serialized_exported_program.json"):
            return "exported"
        if self._has("model.json"):
            return "torchscript"
        return "weights" if self._has("data.pkl") else "archive"

    def _has(self, name: str) -> bool:
        return f"{self._root}/{name}" in self._names or name in self._names

    def _under(self, folder: str) -> bool:
        return any(name.startswith((f"{self._root}/{folder}", folder)) for name in self._names)

    def _text(self, name: str) -> str:
        return self._read(name, _MOST_CODE).decode("utf-8", "replace")

    def _read(self, name: str, most: int) -> bytes:
        path = f"{self._root}/{name}" if f"{self._root}/{name}" in self._names else name
        if path not in self._names:
            return b""
        with self._archive.open(path) as entry:
            return entry.read(most)

    def _root_class(self) -> tuple[str, str]:
        """The module and the name of the class that the pickle makes an object of, first of all."""
        found = _ROOT_CLASS.match(self._read("data.pkl", 1024))
        return (found[1].decode("ascii", "replace"), found[2].decode("ascii", "replace")) if found else ("", "")


def _forward(code: str, class_name: str) -> Forward | None:
    """The signature in the code of an archive: `def forward(self: ..., x: Tensor) -> Tensor:` of that class."""
    start = re.search(rf"^class {re.escape(class_name)}\b", code, re.MULTILINE)
    if not start:
        return None
    end = re.compile(r"^class ", re.MULTILINE).search(code, start.end())
    body = code[start.end() : end.start() if end else len(code)]
    found = re.search(r"^  def forward\(", body, re.MULTILINE)
    if not found:
        return None
    arguments, rest = _closed(body, found.end())
    returns = re.match(r"\s*->\s*([^:]+):", body[rest:])
    given = " ".join(returns[1].split()) if returns else "Tensor"
    return Forward(
        arguments=tuple(_argument(text) for text in list(_parts(arguments))[1:]),
        returns=given,
        outputs=_outputs(given),
    )


def _closed(text: str, start: int) -> tuple[str, int]:
    """What stands before the bracket that closes the one before `start`, and where the rest begins."""
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] in "([") - (text[at] in ")]")
        if not depth:
            return text[start:at], at + 1
    return text[start:], len(text)


def _parts(text: str) -> Iterator[str]:
    """What commas part, those within brackets aside."""
    depth = begin = 0
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            yield text[begin:at].strip()
            begin = at + 1
    if text[begin:].strip():
        yield text[begin:].strip()


def _argument(text: str) -> Argument:
    told, default, _ = text.partition("=")
    name, _, kind = told.partition(":")
    shown = " ".join(kind.split())
    return Argument(name=name.strip(), type=shown or "Tensor", optional=bool(default) or shown.startswith("Optional["))


def _outputs(returns: str) -> tuple[str, ...] | None:
    """The outputs by a type: the server takes a tensor, a list of texts, or a tuple of those."""
    if returns == "Tensor" or re.fullmatch(r"List\[str\]", returns):
        return (returns,)
    inside = re.fullmatch(r"Tuple\[(.*)\]", returns)
    parts = tuple(_parts(inside[1])) if inside else ()
    return parts if parts and all(part in ("Tensor", "List[str]") for part in parts) else None
