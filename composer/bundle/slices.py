"""A whole that lies in several files: which bytes of it are in which, to be read and written at any place."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composer.bundle.document import Part
from composer.disk import room, write_all
from composer.errors import Corrupt, NoRoom
from composer.oci.store import CHUNK

_DIGITS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A file of a whole: its name, the place in the whole that it begins at, its bytes."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Bytes of one file: the number of its slice, where they begin in it, how many they are."""

    slice: int
    offset: int
    size: int


def cut(name: str, size: int, part_size: int | None) -> tuple[Slice, ...]:
    """The slices of a whole: NAME.tar, or NAME.tar.001 and so on, of exactly `part_size` bytes but the last."""
    if part_size is None:
        return (Slice(name=f"{name}.tar", start=0, size=size),)
    count = max(1, -(-size // part_size))
    digits = max(_DIGITS, len(str(count)))
    starts = range(0, max(size, 1), part_size)
    return tuple(
        Slice(name=f"{name}.tar.{number:0{digits}}", start=start, size=min(part_size, size - start))
        for number, start in enumerate(starts, 1)
    )


def slices_of(parts: Sequence[Part]) -> tuple[Slice, ...]:
    """The slices that the parts of a bundle are."""
    found, start = [], 0
    for part in parts:
        found.append(Slice(name=part.name, start=start, size=part.size))
        start += part.size
    return tuple(found)


class Slices:
    """A whole in a folder. Several threads may read and write it at once, each other bytes."""

    def __init__(self, folder: Path, slices: Sequence[Slice]) -> None:
        self.folder = folder
        self.slices = tuple(slices)

    def path(self, number: int) -> Path:
        """Where a slice lies."""
        return self.folder / self.slices[number].name

    def stretches(self, offset: int, size: int) -> Iterator[Stretch]:
        """Where bytes of the whole lie, in order. Slices are all of one size but the last."""
        usual = self.slices[0].size
        while size > 0:
            number = offset // usual if usual else 0
            inner = offset - self.slices[number].start
            length = min(size, self.slices[number].size - inner)
            yield Stretch(slice=number, offset=inner, size=length)
            offset, size = offset + length, size - length

    def make(self) -> None:
        """Make the files that are not there, each of its size and without bytes. Raises `NoRoom`."""
        for number, one in enumerate(self.slices):
            with room(self.folder), self.path(number).open("ab") as file:
                try:
                    file.truncate(one.size)
                except OSError as error:
                    if error.errno != errno.EFBIG:
                        raise
                    message = f"{self.folder} takes no file of {one.size} bytes: its file system has none so large"
                    raise NoRoom(message, hint="--part-size 4GB   (FAT32 takes less than 4 GiB)") from error

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put bytes at a place of the whole. Raises `NoRoom`."""
        view = memoryview(data)
        for stretch in self.stretches(offset, len(view)):
            with room(self.folder), self.path(stretch.slice).open("r+b", buffering=0) as file:
                file.seek(stretch.offset)
                write_all(file, view[: stretch.size])
            view = view[stretch.size :]

    def read(self, offset: int, size: int) -> Iterator[bytes]:
        """Bytes of the whole in pieces of at most `CHUNK`. Raises `Corrupt` naming a file that is missing or short."""
        for stretch in self.stretches(offset, size):
            path, left = self.path(stretch.slice), stretch.size
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(stretch.offset)
                    while left and (chunk := file.read(min(CHUNK, left))):
                        left -= len(chunk)
                        yield chunk
            except OSError as error:
                raise Corrupt(
                    f"{path} cannot be read: {error.strerror}", hint=f"carry {path.name} here again"
                ) from error
            if left:
                raise Corrupt(f"{path} is cut short", hint=f"carry {path.name} here again")
