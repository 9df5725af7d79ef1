"""Tar streams: a push parser that runs in constant memory, and one canonical way to write a header.

Read are ustar, v7, GNU (long names, base-256 numbers, sparse) and PAX (also sparse 0.0, 0.1, 1.0). Written is
ustar where the entry fits and PAX where it does not, without user names, atime and ctime: equal entries give equal
bytes, whatever tar made the source. Global PAX headers are ignored, as containerd and Docker ignore them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from composer.errors import Corrupt

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
"""What ends a tar: two blocks of zeros."""

FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = "0", "1", "2", "3", "4", "5", "6"
"""The kinds of entry, by ustar's own letters."""

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
AUFS: Final = ".wh..wh."
"""Marks in a layer: `.wh.x` hides x below, the opaque mark all that its folder holds below; the rest are AUFS's own."""

_KINDS: Final = {b"0"[0]: FILE, 0: FILE, b"7"[0]: FILE, b"S"[0]: FILE} | {ord(kind): kind for kind in "123456"}
_MAX_META: Final = 1 << 22
_MAX_PATH: Final = 1 << 16
_NANO: Final = 1_000_000_000
_DROPPED_XATTRS: Final = ("security.selinux", "trusted.overlay.")
_XATTR: Final = "SCHILY.xattr."
_ZEROS: Final = memoryview(bytes(1 << 20))


class Entry(NamedTuple):
    """One member of a tar. Paths are relative to the root, without `./`, a trailing `/` or `..`; the root is "".

    Names that are not UTF-8 keep their bytes (surrogateescape). `size` is of the content, holes filled in; `mtime`
    is in nanoseconds; `link` is a path like `path` for hard links and free text for symbolic ones; `xattrs` are
    sorted pairs of name and value bytes.
    """

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The path of the folder that holds it."""
        return self.path.rpartition("/")[0]


def ancestors(path: str) -> Iterator[str]:
    """The folders on the way to `path`, outermost first, without the root."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


class _Source:
    """Exact reads from a stream of chunks of any size, without ever holding more than one and a bit."""

    __slots__ = ("_chunks", "_origin", "at", "buffer")

    def __init__(self, chunks: Iterable[bytes], origin: str) -> None:
        self._chunks = iter(chunks)
        self._origin = origin
        self.buffer = b""
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes; fewer only where the stream ends."""
        end = self.at + size
        if end > len(self.buffer):
            pieces = [self.buffer[self.at :]]
            missing = size - len(pieces[0])
            while missing > 0 and (chunk := next(self._chunks, b"")):
                pieces.append(chunk)
                missing -= len(chunk)
            self.buffer = b"".join(pieces)
            self.at, end = 0, size
        data = self.buffer[self.at : end]
        self.at = min(end, len(self.buffer))
        return data

    def stream(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes as views of the chunks that they came in. Raises `Corrupt` where the stream ends."""
        while size > 0:
            if self.at >= len(self.buffer):
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise Corrupt(f"{self._origin} ends in the middle of a file")
                self.buffer, self.at = chunk, 0
                continue
            view = memoryview(self.buffer)[self.at : self.at + size]
            self.at += len(view)
            size -= len(view)
            yield view

    def skip(self, size: int) -> None:
        for _ in self.stream(size):
            pass

    def drain(self) -> None:
        """Read to the end: what hashes the stream wants to see all of it."""
        for _ in self._chunks:
            pass


def read_tar(chunks: Iterable[bytes], *, origin: str) -> Iterator[Entry | memoryview]:
    """The entries of a tar in order, each followed by its content in pieces.

    The stream is read to its end, past the closing zeros. Raises `Corrupt` naming `origin` for anything that is
    not a tar, is cut short, or names a path outside the root.
    """
    source = _Source(chunks, origin)
    meta = _Meta()
    while True:
        header = source.take(BLOCK)
        if not header or not header.strip(b"\0"):
            break
        if len(header) < BLOCK or not _checksum_holds(header):
            raise Corrupt(f"{origin} is not a tar: its header number {meta.count} is damaged")
        meta.count += 1
        flag = header[156]
        if flag in b"xgLK":
            _read_meta(source, meta, header, flag, origin)
            continue
        try:
            entry, stored, holes = _entry(source, meta, header)
        except ValueError as error:
            raise Corrupt(f"{origin} has a damaged entry: {error}") from error
        meta.clear()
        yield entry
        if stored:
            yield from _fill(source.stream(stored), holes, entry.size) if holes is not None else source.stream(stored)
            source.skip(-stored % BLOCK)
        elif holes is not None:
            yield from _fill(iter(()), holes, entry.size)
    source.drain()


class _Meta:
    """What extended headers said of the entry that follows them."""

    __slots__ = ("count", "link", "path", "pax", "sparse")

    def __init__(self) -> None:
        self.count = 1
        self.clear()

    def clear(self) -> None:
        self.pax: dict[str, bytes] = {}
        self.sparse: list[int] = []
        self.path: bytes | None = None
        self.link: bytes | None = None


def _read_meta(source: _Source, meta: _Meta, header: bytes, flag: int, origin: str) -> None:
    size = _number(header[124:136])
    if not 0 <= size <= _MAX_META:
        raise Corrupt(f"{origin} has an extended header of {size} bytes")
    data = source.take(size)
    source.skip(-size % BLOCK)
    if len(data) < size:
        raise Corrupt(f"{origin} ends in the middle of an extended header")
    if flag == b"L"[0]:
        meta.path = data.split(b"\0", 1)[0]
    elif flag == b"K"[0]:
        meta.link = data.split(b"\0", 1)[0]
    elif flag == b"x"[0]:
        try:
            _read_pax(data, meta)
        except ValueError as error:
            raise Corrupt(f"{origin} has a damaged PAX header: {error}") from error


def _read_pax(data: bytes, meta: _Meta) -> None:
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > at else b""
        end = at + int(digits) if digits.isdigit() else 0
        if not at < space < end <= len(data) or data[end - 1] != 0x0A:
            raise ValueError(f"record at {at}")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise ValueError(f"record at {at} has no value")
        name = key.decode("utf-8", "surrogateescape")
        if name in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            meta.sparse.append(int(value))
        else:
            meta.pax[name] = value
        at = end


def _entry(source: _Source, meta: _Meta, header: bytes) -> tuple[Entry, int, list[int] | None]:
    """The entry, how many bytes of it are stored, and its map of offsets and lengths if it is sparse."""
    pax = meta.pax
    kind = _KINDS.get(header[156])
    if kind is None:
        raise ValueError(f"type {chr(header[156])!r} is not one that a layer can hold")
    name, link = _names(header, meta)
    if kind == FILE and name.endswith(b"/"):
        kind = DIRECTORY
    stored = int(pax["size"]) if pax.get("size") else _number(header[124:136])
    if stored < 0:
        raise ValueError(f"size {stored}")
    if kind != FILE:
        # Some tars write the target's size in the header of a link, with no content behind it.
        stored = 0
    holes, size, stored = _sparse(source, meta, header, stored)
    path = _clean(name)
    entry = Entry(
        path,
        kind,
        _number(header[100:108]) & 0o7777,
        int(pax["uid"]) if pax.get("uid") else _number(header[108:116]),
        int(pax["gid"]) if pax.get("gid") else _number(header[116:124]),
        size,
        _nanoseconds(pax["mtime"]) if pax.get("mtime") else _number(header[136:148]) * _NANO,
        _clean(link) if kind == LINK else _text(link) if kind == SYMLINK else "",
        (_number(header[329:337]), _number(header[337:345])) if kind in (CHAR, BLOCK_DEVICE) else (0, 0),
        _xattrs(pax) if pax else (),
    )
    return entry, stored, holes


def _names(header: bytes, meta: _Meta) -> tuple[bytes, bytes]:
    pax = meta.pax
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    name = pax.get("GNU.sparse.name") or pax.get("path") or meta.path or name
    link = pax.get("linkpath") or meta.link or header[157:257].split(b"\0", 1)[0]
    if len(name) > _MAX_PATH or len(link) > _MAX_PATH or b"\0" in name or b"\0" in link:
        raise ValueError("a name that no file system takes")
    return name, link


def _clean(name: bytes) -> str:
    """A path relative to the root. Leading slashes mean the root; `..` is refused, wherever it would lead."""
    text = _text(name)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"the path {text!r} leads out of the image")
    return "/".join(parts)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """Octal, or base-256 where the first bit is set (GNU, for numbers that octal has no room for)."""
    first = field[0]
    if first & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if first & 0x40 else value
    digits = field.strip(b" \0")
    return int(digits, 8) if digits else 0


def _nanoseconds(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    nanos = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    seconds = int(whole or b"0")
    return seconds * _NANO - nanos if whole.startswith(b"-") else seconds * _NANO + nanos


def _xattrs(pax: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    found = ((key[len(_XATTR) :], value) for key, value in pax.items() if key.startswith(_XATTR))
    return tuple(sorted(pair for pair in found if not pair[0].startswith(_DROPPED_XATTRS)))


def _checksum_holds(header: bytes) -> bool:
    try:
        stated = _number(header[148:156])
    except ValueError:
        return False
    plain = sum(header) - sum(header[148:156]) + 8 * 32
    if stated == plain:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 8 * 32
    return stated == signed


def _sparse(source: _Source, meta: _Meta, header: bytes, stored: int) -> tuple[list[int] | None, int, int]:
    """The map of a sparse file, its real size, and the bytes that are still to come of it."""
    pax = meta.pax
    if header[156] == b"S"[0]:
        return _old_gnu_map(source, header), _number(header[483:495]), stored
    if pax.get("GNU.sparse.major") == b"1":
        holes, used = _map_in_content(source)
        return holes, int(pax["GNU.sparse.realsize"]), stored - used
    if "GNU.sparse.map" in pax:
        text = pax["GNU.sparse.map"]
        return [int(number) for number in text.split(b",")] if text else [], int(pax["GNU.sparse.size"]), stored
    if "GNU.sparse.size" in pax:
        return meta.sparse, int(pax["GNU.sparse.size"]), stored
    return None, stored, stored


def _old_gnu_map(source: _Source, header: bytes) -> list[int]:
    holes: list[int] = []
    block, first, count, more = header, 386, 4, header[482]
    while True:
        for at in range(first, first + count * 24, 24):
            if block[at]:
                holes += (_number(block[at : at + 12]), _number(block[at + 12 : at + 24]))
        if not more:
            return holes
        block, first, count = source.take(BLOCK), 0, 21
        if len(block) < BLOCK or len(holes) > _MAX_META:
            raise ValueError("a sparse map without end")
        more = block[504]


def _map_in_content(source: _Source) -> tuple[list[int], int]:
    """PAX sparse 1.0: the map stands before the content, a decimal number a line, padded to whole blocks."""
    text, wanted = source.take(BLOCK), 1
    while text.count(b"\n") < wanted or wanted == 1:
        if text.count(b"\n") >= 1 and wanted == 1:
            wanted = 1 + 2 * int(text.split(b"\n", 1)[0])
            continue
        block = source.take(BLOCK)
        if len(block) < BLOCK or len(text) > _MAX_META:
            raise ValueError("a sparse map without end")
        text += block
    return [int(line) for line in text.split(b"\n")[1:wanted]], len(text)


def _fill(stored: Iterator[memoryview], holes: list[int], size: int) -> Iterator[memoryview]:
    """The content of a sparse file with zeros where its holes are."""
    at, piece = 0, memoryview(b"")
    for offset, length in zip(holes[::2], holes[1::2], strict=True):
        if offset < at or offset + length > size:
            raise Corrupt("a sparse file whose map does not fit its size")
        yield from _zeros(offset - at)
        at = offset + length
        while length:
            if not piece:
                piece = next(stored, piece)
                if not piece:
                    raise Corrupt("a sparse file with less content than its map says")
            part, piece = piece[:length], piece[length:]
            length -= len(part)
            yield part
    yield from _zeros(size - at)
    for _ in stored:
        pass


def _zeros(count: int) -> Iterator[memoryview]:
    while count > 0:
        yield _ZEROS[:count]
        count -= len(_ZEROS)


def header(entry: Entry) -> bytes:
    """The canonical header of an entry: one ustar block, after a PAX header where ustar has no room."""
    name = entry.path.encode("utf-8", "surrogateescape")
    name = name + b"/" if entry.kind == DIRECTORY and name else name or b"./"
    link = entry.link.encode("utf-8", "surrogateescape")
    seconds, nanos = divmod(entry.mtime, _NANO)
    records: list[tuple[bytes, bytes]] = []
    if len(name) > 100 or not name.isascii():
        records.append((b"path", name))
        name = name[:100].decode("ascii", "replace").encode("ascii", "replace")
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
        link = link[:100].decode("ascii", "replace").encode("ascii", "replace")
    if nanos or not 0 <= seconds < 1 << 33:
        records.append((b"mtime", _decimal(entry.mtime)))
        seconds = 0
    big = ((b"uid", entry.uid, 21), (b"gid", entry.gid, 21), (b"size", entry.size, 33))
    records += [(key, b"%d" % value) for key, value, bits in big if not 0 <= value < 1 << bits]
    uid, gid, size = (value if 0 <= value < 1 << bits else 0 for _, value, bits in big)
    records += [(_XATTR.encode() + name.encode("utf-8", "surrogateescape"), value) for name, value in entry.xattrs]
    block = _block(name, entry.mode, uid, gid, size, seconds, entry.kind.encode(), link, entry.device)
    return _pax(sorted(records)) + block if records else block


def _block(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes, device: tuple[int, int]
) -> bytes:
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    devices = b"%07o\0%07o\0" % device if device != (0, 0) else b"0000000\x000000000\0"
    tail = b"%s%sustar\x0000%s%s%s" % (kind, link.ljust(100, b"\0"), bytes(64), devices, bytes(167))
    return b"%s%06o\0 %s" % (head, sum(head) + sum(tail) + 256, tail)


def _pax(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(_record(key, value) for key, value in records)
    block = _block(b"././@PaxHeader", 0o644, 0, 0, len(body), 0, b"x", b"", (0, 0))
    return block + body + bytes(-len(body) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    # The length counts its own digits, which may tip it over to one digit more.
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d%s" % (length, rest)


def _decimal(mtime: int) -> bytes:
    sign, (seconds, nanos) = (b"-" if mtime < 0 else b""), divmod(abs(mtime), _NANO)
    fraction = b".%09d" % nanos if nanos else b""
    return b"%s%d%s" % (sign, seconds, fraction.rstrip(b"0") if fraction else b"")
