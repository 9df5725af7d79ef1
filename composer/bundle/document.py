"""What stands beside the parts, in NAME.bundle.json: all that must be known of a bundle before one part is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.errors import Corrupt, NotFound
from composer.oci.image import Descriptor, canonical_json, sha256

SUFFIX: Final = ".bundle.json"
SIGNED: Final = ".sig"
"""What the name of a signature ends with, behind the name of what it signs."""

_PART: Final = re.compile(r"(?P<name>.+)\.tar(?:\.[0-9]{3,})?")
_LARGEST: Final = 64 << 20
"""A document larger than this is refused rather than read into memory."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^[^/\x00]*[^/\x00.][^/\x00]*$")]
InnerPath = Annotated[str, Field(pattern=r"^[^/\x00][^\x00]*$")]


class _Piece(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Piece):
    """A slice of the tar: a file beside the document, its bytes, its digest."""

    name: FileName
    size: Count
    digest: Digest


class Member(_Piece):
    """A file of the tar that is no blob: what an image layout has beside these, and what is to be unpacked by hand.

    `offset` is where its bytes begin in the whole.
    """

    path: InnerPath
    mode: Literal[0o644, 0o755] = 0o644
    offset: Count
    size: Count
    digest: Digest


class Blob(_Piece):
    """A blob: its digest, its bytes, and where these begin in the whole."""

    digest: Digest
    offset: Count
    size: Count


class Item(_Piece):
    """An image, or an artifact: what it is called, what kind of thing it is, its manifest or index.

    `source` is what it was called where it came from, if it came from elsewhere. `lacks` are layers that nobody who has
    this bundle needs, so that they are not in it: such an image cannot be pushed.
    """

    name: str
    kind: str
    source: str | None = None
    media_type: str
    digest: Digest
    size: Count
    platforms: tuple[str, ...] = ()
    lacks: tuple[Digest, ...] = ()

    @property
    def root(self) -> Descriptor:
        """Its manifest or index."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)


class Need(_Piece):
    """A blob that is not in here, whoever loads this has it. `items` need it; `at`: where it was seen."""

    digest: Digest
    size: Count
    items: tuple[str, ...]
    at: tuple[str, ...] = ()


class Bundle(_Piece):
    """The document. `size` is that of the whole tar; `manifests` and `blobs` are in the order of the tar."""

    version: Literal[1] = Field(default=1, validation_alias="schema", serialization_alias="schema")
    tool: str
    size: Count
    parts: tuple[Part, ...]
    items: tuple[Item, ...]
    members: tuple[Member, ...]
    manifests: tuple[Blob, ...]
    blobs: tuple[Blob, ...]
    needs: tuple[Need, ...] = ()
    contents: Mapping[str, tuple[Digest, ...]] = {}
    """For each item by its name, the manifests and blobs of it that are in here."""

    def raw(self) -> bytes:
        """As it is written: for people to look into, with a digest of its own at the end."""
        document = self.model_dump(mode="json", by_alias=True)
        return _pretty({**document, "checksum": sha256(canonical_json(document))})

    def stored(self) -> Iterator[Blob]:
        """All that is in here by digest."""
        yield from self.manifests
        yield from self.blobs

    def touched(self, part: int) -> tuple[str, ...]:
        """The names of the items that have bytes in a part, by its place in `parts`."""
        start = sum(one.size for one in self.parts[:part])
        end = start + self.parts[part].size
        hit = {one.digest for one in self.stored() if one.offset < end and one.offset + one.size > start}
        return tuple(item.name for item in self.items if not hit.isdisjoint(self.contents.get(item.name, ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A bundle where it lies: its document, its bytes, and the folder that its parts are in."""

    path: Path
    raw: bytes
    bundle: Bundle

    @property
    def folder(self) -> Path:
        """Where the parts lie."""
        return self.path.parent

    @property
    def signature(self) -> Path:
        """Where its signature lies, or would lie."""
        return self.path.with_name(self.path.name + SIGNED)

    @classmethod
    def at(cls, named: Path) -> Self:
        """The bundle that a path means. Raises `NotFound`; `Corrupt` where its document is none, or was changed."""
        path = document_of(named)
        try:
            raw = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
        except OSError as error:
            hint = f"ls {path.parent}   (it lies beside the parts, and is small: carry it along)"
            raise NotFound(f"there is no bundle {path}: {error.strerror}", hint=hint) from error
        return cls(path=path, raw=raw, bundle=parse(raw, str(path)))


def document_of(named: Path) -> Path:
    """The document that a path means: itself, the name without its ending, or that of one of the parts.

    Raises `NotFound` for a path that ends in no name.
    """
    if named.name in ("", ".."):
        raise NotFound(f"{named} is a folder, and names no bundle in it", hint=f"{named / 'NAME'}")
    if named.name.endswith(SUFFIX):
        return named
    if part := _PART.fullmatch(named.name):
        return named.with_name(part["name"] + SUFFIX)
    return named.with_name(named.name + SUFFIX)


def is_part(named: Path) -> bool:
    """Whether a path names one part and not the whole."""
    return not named.name.endswith(SUFFIX) and _PART.fullmatch(named.name) is not None


def parse(raw: bytes, label: str) -> Bundle:
    """Read a document. Raises `Corrupt`, naming `label`, for what is none, for a later version's, for a changed one."""
    hint = f"carry {label.rpartition('/')[2]} here again"
    try:
        document = json.loads(raw)
        said = document.pop("checksum", None)
        bundle = Bundle.model_validate(document)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        why = _first(error) if isinstance(error, ValidationError) else str(error)
        raise Corrupt(f"{label} is not the document of a bundle: {why}", hint=hint) from error
    if said != sha256(canonical_json(bundle.model_dump(mode="json", by_alias=True))):
        raise Corrupt(f"{label} was changed: it is not what its own checksum says", hint=hint)
    _require_sense(bundle, label, hint)
    return bundle


def _first(error: ValidationError) -> str:
    one = error.errors()[0]
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"


def _require_sense(bundle: Bundle, label: str, hint: str) -> None:
    """Nothing lies outside of the whole, and the parts make the whole."""
    places: Iterable[Blob | Member] = (*bundle.stored(), *bundle.members)
    inside = all(one.offset + one.size <= bundle.size for one in places)
    sizes = [part.size for part in bundle.parts]
    even = all(size == sizes[0] for size in sizes[:-1]) and sizes[-1:] <= sizes[:1]
    if not sizes or not inside or not even or sum(sizes) != bundle.size:
        raise Corrupt(f"{label} does not fit together: its parts are not its whole", hint=hint)


def _pretty(document: Mapping[str, Any]) -> bytes:
    """JSON with a line for each entry of a list: it can be read, and compared line by line."""

    def line(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)

    rows = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            inner = ",\n".join(f"    {line(one)}" for one in value)
            rows.append(f"  {line(key)}: [\n{inner}\n  ]")
        else:
            rows.append(f"  {line(key)}: {line(value)}")
    return ("{\n" + ",\n".join(rows) + "\n}\n").encode()
