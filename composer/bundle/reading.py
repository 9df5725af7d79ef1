"""Reading a bundle where it lies: a `Store` over its parts. Nothing is joined, and nothing is believed unread."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

from composer.bundle.document import Blob, Bundle, Found, Member, Part
from composer.bundle.slices import Slices, slices_of
from composer.bundle.writing import digest_of
from composer.errors import Corrupt
from composer.oci.archive import header, padded
from composer.oci.copy import run_all
from composer.oci.image import Descriptor
from composer.oci.layout import LayoutReader, blob_path

_AGAIN: Final = "carry {} here again; the other parts may stay as they are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A part that is not as it should be: its name, what is wrong, and the items that have bytes in it.

    `called` is the file beside it that is this part by its bytes, and only has another name.
    """

    part: str
    wrong: str
    items: tuple[str, ...]
    called: Path | None = None


class BundleStore(LayoutReader):
    """The images of a bundle. A blob that is not what its digest says is told by the part that it lies in."""

    def __init__(self, found: Found) -> None:
        super().__init__(str(found.path), _Files(found))
        self.bundle = found.bundle
        self._whole = Slices(found.folder, slices_of(found.bundle.parts))
        self._places = {one.digest: one for one in found.bundle.stored()}
        self._read: set[str] = set()

    def require_parts(self) -> None:
        """Raise `Corrupt` where a part is missing, or has not the size that it should have. Nothing is read."""
        if damaged := [one for one in map(self._missing, range(len(self.bundle.parts))) if one]:
            raise refused(damaged)

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob in pieces, verified. Raises `Corrupt` naming the parts that are bad."""
        try:
            yield from super().read(descriptor)
        except Corrupt as error:
            raise self._blamed(descriptor.digest, error) from error
        self._read.add(descriptor.digest)

    def read_from(self, descriptor: Descriptor, place: int) -> Iterator[bytes]:
        """A blob from a place on, not verified. The caller, who has what comes before it, verifies the whole."""
        offset = self._places[descriptor.digest].offset
        return self._whole.read(offset + place, descriptor.size - place)

    def check_rest(self) -> None:
        """Read what nobody has read yet, so that every byte has been looked at once. Raises `Corrupt`."""
        end = 0
        unread: list[Blob | Member] = []
        files: list[Blob | Member] = [*self.bundle.stored(), *self.bundle.members]
        for one in sorted(files, key=lambda one: one.offset):
            self._check(end, _head(one), one.offset - len(_head(one)))
            end = one.offset + padded(one.size)
            self._check(one.offset + one.size, bytes(end - one.offset - one.size), one.offset + one.size)
            if not (isinstance(one, Blob) and one.digest in self._read):
                unread.append(one)
        self._check(end, bytes(self.bundle.size - end), end)
        tasks = [partial(self._check_file, one) for one in unread]
        run_all(tasks, jobs=os.cpu_count() or 1, stop=Event())

    def _check(self, begin: int, wanted: bytes, offset: int) -> None:
        """Bytes that are known beforehand: they begin where the last ones ended."""
        if begin != offset or b"".join(self._whole.read(offset, len(wanted))) != wanted:
            raise self._blame(offset, max(len(wanted), 1))

    def _check_file(self, one: Blob | Member) -> None:
        digest = hashlib.sha256()
        for chunk in self._whole.read(one.offset, one.size):
            digest.update(chunk)
        if f"sha256:{digest.hexdigest()}" != one.digest:
            raise self._blame(one.offset, one.size)

    def _blamed(self, digest: str, error: Corrupt) -> Corrupt:
        place = self._places.get(digest)
        return self._blame(place.offset, place.size) if place else error

    def _blame(self, offset: int, size: int) -> Corrupt:
        """The error that names the parts in which these bytes are, but for those that are as they should be."""
        numbers = [stretch.slice for stretch in self._whole.stretches(offset, size)]
        damaged = [self.damage(number) for number in numbers]
        found = [one for one in damaged if one]
        if found:
            return refused(found)
        return Corrupt(
            f"{self.label} says what its parts do not: it does not belong to them", hint=_AGAIN.format(self.label)
        )

    def damage(self, number: int) -> Damage | None:
        """What is wrong with a part, if anything is. All of it is read."""
        part = self.bundle.parts[number]
        if missing := self._missing(number):
            called = self._elsewhere(part)
            wrong = f"{missing.wrong}; {called.name} has its bytes" if called else missing.wrong
            return replace(missing, wrong=wrong, called=called)
        found = digest_of(self._whole.path(number))
        if found == part.digest:
            return None
        other = next((one.name for one in self.bundle.parts if one.digest == found), None)
        return self._damage(number, f"it has the bytes of {other}" if other else "its bytes were changed")

    def _elsewhere(self, part: Part) -> Path | None:
        """A file beside it that is a part by its bytes, but is called otherwise."""
        names = {one.name for one in self.bundle.parts}
        for file in sorted(self._whole.folder.iterdir()):
            other = file.name not in names and file.is_file() and file.stat().st_size == part.size
            if other and digest_of(file) == part.digest:
                return file
        return None

    def _missing(self, number: int) -> Damage | None:
        path, size = self._whole.path(number), self.bundle.parts[number].size
        try:
            there = path.stat().st_size if path.is_file() else None
        except OSError as error:
            return self._damage(number, f"it cannot be looked at: {error.strerror}")
        if there is None:
            return self._damage(number, "it is missing")
        if there != size:
            return self._damage(number, f"it has {there} of its {size} bytes" if there < size else "it is too long")
        return None

    def _damage(self, number: int, wrong: str) -> Damage:
        return Damage(part=self.bundle.parts[number].name, wrong=wrong, items=self.bundle.touched(number))


def refused(damaged: list[Damage]) -> Corrupt:
    """The error that names bad parts."""
    names = ", ".join(one.part for one in damaged)
    told = "; ".join(f"{one.part}: {one.wrong}" for one in damaged)
    items = ", ".join(dict.fromkeys(name for one in damaged for name in one.items))
    hit = f" (of {items})" if items else ""
    return Corrupt(f"the bundle is damaged: {told}{hit}", hint=_renamed(damaged) or _AGAIN.format(names))


def _renamed(damaged: list[Damage]) -> str | None:
    """The command that mends it where parts only have other names."""
    moves = [["mv", str(one.called), str(one.called.with_name(one.part))] for one in damaged if one.called]
    return " && ".join(map(shlex.join, moves)) if len(moves) == len(damaged) else None


def _head(one: Blob | Member) -> bytes:
    if isinstance(one, Blob):
        return header(blob_path(one.digest), one.size)
    return header(one.path, one.size, one.mode)


class _Files:
    """The files of the layout, by the places that the document gives."""

    def __init__(self, found: Found) -> None:
        bundle: Bundle = found.bundle
        self._whole = Slices(found.folder, slices_of(bundle.parts))
        self._places: dict[str, Blob | Member] = {one.path: one for one in bundle.members}
        self._places |= {blob_path(one.digest): one for one in bundle.stored()}

    def size(self, path: str) -> int | None:
        """The size in bytes of a file, or None where there is none."""
        return self._places[path].size if path in self._places else None

    def read(self, path: str) -> Iterator[bytes]:
        """A file in pieces."""
        place = self._places[path]
        return self._whole.read(place.offset, place.size)
