"""The block that `tricompose hosts` keeps in /etc/hosts, and nothing else in there: not a byte of it is touched.

The block stands at the top, as the first line that names a host is the one that holds, and as a last line without
its newline can then stay so. In a container the file is a mount of its own, which cannot be replaced, only written to.
Source of the format: hosts(5).
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composer.errors import NoRoom, NotFound, Unplannable, Unreachable
from composer.events import Warned
from composer.interruptions import shielded
from composer.network.addresses import is_address
from composer.network.names import THIS_MACHINE
from composer.network.routes import Routes

HOSTS: Final = Path("/etc/hosts")
BACKUP: Final = ".tricompose.bak"
"""What the copy is called that is kept of the file without the block: this follows the file's own name."""

Entries = Mapping[str, Sequence[str]]
"""For each name its addresses, the first to be tried first."""

_BEGIN: Final = b"# >>> tricompose hosts >>>"
_END: Final = b"# <<< tricompose hosts <<<"
_NOTE: Final = b"# Kept by `tricompose hosts apply`; `tricompose hosts revert` takes it out again."
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_TEMPORARY: Final = ".tricompose-hosts-"
_WAIT: Final = 10.0
"""Seconds for another one that is just writing the same file."""

_IN_PLACE: Final = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.ENOTSUP)
"""What replacing a file fails with that is a mount of its own, or whose owner we cannot give to another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was done to a hosts file: the block before and after, and whether a byte of the file is another now.

    `beside` are lines of others that name the same hosts, as `line number: text`. `backup` is the copy, if there is
    one.
    """

    path: Path
    before: Entries
    after: Entries
    changed: bool
    beside: Sequence[str] = ()
    backup: Path | None = None


# -- what is to be in it: pure ------------------------------------------------------------------------------------


def require_entries(entries: Entries) -> dict[str, tuple[str, ...]]:
    """The entries in one spelling. Raises `NotFound` for names and addresses that a hosts file cannot hold."""
    made: dict[str, tuple[str, ...]] = {}
    for name, addresses in entries.items():
        plain = name.lower().rstrip(".")
        labels = plain.split(".")
        if len(plain) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or is_address(plain):
            raise NotFound(f"{name!r} is no host's name", hint="tricompose hosts apply registry.example.com=10.0.0.7")
        if not addresses:
            raise NotFound(f"no address is given for {name}", hint=f"tricompose hosts apply {plain}=10.0.0.7")
        made[plain] = tuple(dict.fromkeys(map(_address, addresses)))
    return made


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        hint = "a hosts file holds numbers alone, without a port: 10.0.0.7, or 2001:db8::7"
        raise NotFound(f"{text!r} is no address", hint=hint) from None


def of_routes(routes: Routes) -> tuple[dict[str, tuple[str, ...]], list[Warned]]:
    """The hosts that routes fix, as far as a hosts file can say it: it knows no ports."""
    entries: dict[str, tuple[str, ...]] = {}
    warnings: list[Warned] = []
    for key, addresses in routes.hosts.items():
        name = key.rpartition(":")[0] or key
        here = tuple("127.0.0.1" if one == THIS_MACHINE else one for one in addresses)
        whole = tuple(one for one in here if is_address(one.strip("[]")))
        if len(whole) < len(here):
            hint = "leave it in network.hosts, or in --resolve"
            warnings.append(
                Warned(message=f"{key} goes to a port of its own, which a hosts file cannot say", hint=hint)
            )
        if whole:
            entries[name] = tuple(dict.fromkeys((*entries.get(name, ()), *whole)))
    return entries, warnings


def with_block(data: bytes, entries: Entries, path: Path) -> bytes:
    """The file with this block in place of the one that is there, or at its top. Raises `Unplannable`, `NotFound`."""
    found = _block(data, path)
    start, end = found or (0, 0)
    return data[:start] + _written(require_entries(entries), _newline(data)) + data[end:]


def without_block(data: bytes, path: Path) -> bytes:
    """The file as it would be if nobody had ever put a block into it. Raises `Unplannable`."""
    found = _block(data, path)
    return data[: found[0]] + data[found[1] :] if found else data


def block_in(data: bytes, path: Path) -> dict[str, tuple[str, ...]]:
    """The entries of the block that is in there. Raises `Unplannable`."""
    found = _block(data, path)
    entries: dict[str, tuple[str, ...]] = {}
    for address, *names in _lines_of(data[found[0] : found[1]]) if found else ():
        for name in names:
            entries[name] = (*entries.get(name, ()), address)
    return entries


def beside(data: bytes, entries: Entries, path: Path) -> tuple[str, ...]:
    """The lines outside the block that name one of these hosts, as `line number: text`."""
    found = _block(data, path) or (0, 0)
    told, place = [], 0
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not found[0] <= place < found[1]:
            words = [word for parts in _lines_of(line) for word in parts[1:]]
            if any(word.lower().rstrip(".") in entries for word in words):
                told.append(f"{number}: {line.strip().decode(errors='replace')}")
        place += len(line)
    return tuple(told)


def _lines_of(data: bytes) -> Iterator[list[str]]:
    """The fields of each line that names something."""
    for line in data.splitlines():
        fields = line.partition(b"#")[0].decode("utf-8", errors="replace").split()
        if len(fields) > 1:
            yield fields


def _written(entries: Entries, newline: bytes) -> bytes:
    lines = [f"{address} {name}".encode() for name, addresses in entries.items() for address in addresses]
    return newline.join([_BEGIN, _NOTE, *lines, _END, b""])


def _newline(data: bytes) -> bytes:
    first = data.partition(b"\n")[0]
    return b"\r\n" if first.endswith(b"\r") and first != data else b"\n"


def _block(data: bytes, path: Path) -> tuple[int, int] | None:
    """Where the block begins and ends. Raises `Unplannable` with the line where its marks are not one of each."""
    start = end = None
    place = 0
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        mark = line.strip()
        if mark == _BEGIN:
            if start is not None:
                raise _broken(path, number, "a second block begins")
            start, begun = place, number
        if mark == _END:
            if start is None or end is not None:
                raise _broken(path, number, "a block ends that did not begin")
            end = place + len(line)
        place += len(line)
    if start is None:
        return None
    if end is None:
        raise _broken(path, begun, "a block begins that does not end")
    return start, end


def _broken(path: Path, number: int, what: str) -> Unplannable:
    hint = f"remove its lines by hand: sudoedit {path}   (what it was before is in {path}{BACKUP})"
    return Unplannable(f"{path}:{number}: {what}, so that nothing is certain of what is ours", hint=hint)


# -- putting it there ---------------------------------------------------------------------------------------------


def show(path: Path) -> Change:
    """What is in the block. Raises `NotFound`, `Unplannable`."""
    data = _read(path)
    entries = block_in(data, path)
    return _change(path, data, data, entries)


def apply(path: Path, entries: Entries) -> Change:
    """Have exactly these entries in the block.

    Raises `NoRoom`, `NotFound`, `Unplannable`, `Unreachable`; `PermissionError` with the path for want of rights.
    """
    with _alone(path) as place:
        data = _read(place)
        made = with_block(data, entries, path)
        if without_block(data, path) == data:
            _keep(place, data)
        _put(place, data, made)
        return _change(path, data, made, require_entries(entries))


def revert(path: Path) -> Change:
    """Take the block out. The copy goes too, where it says nothing else. Raises as `apply` does."""
    with _alone(path) as place:
        data = _read(place)
        made = without_block(data, path)
        _put(place, data, made)
        backup = _backup(place)
        if backup.exists() and backup.read_bytes() == made:
            backup.unlink()
        return _change(path, data, made, block_in(data, path))


def _change(path: Path, data: bytes, made: bytes, entries: Entries) -> Change:
    backup = _backup(Path(os.path.realpath(path)))
    return Change(
        path=path,
        before=block_in(data, path),
        after=block_in(made, path),
        changed=made != data,
        beside=beside(made, entries, path),
        backup=backup if backup.exists() else None,
    )


def _backup(place: Path) -> Path:
    return place.with_name(place.name + BACKUP)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", hint="--file names another one") from None
    except OSError as error:
        raise NoRoom(f"{path} cannot be read: {error.strerror}", hint=f"ls -ld {path}") from error


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Where the file really is, kept from others like us. The lock is its folder's, so that none is left behind."""
    place = Path(os.path.realpath(path))
    try:
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no folder {place.parent}", hint="--file names another one") from None
    try:
        _lock(folder, path)
        with shielded():
            _sweep(place.parent)
            yield place
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise NoRoom(f"{path} could not be written: {error.strerror}", hint=f"df -h {place.parent}") from error
    finally:
        os.close(folder)


def _lock(folder: int, path: Path) -> None:
    until = time.monotonic() + _WAIT
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                hint = f"fuser -v {path.parent}   (shows who)"
                raise Unreachable(f"somebody else has been writing {path} for {_WAIT:.0f} s", hint=hint) from None
            time.sleep(0.05)


def _sweep(folder: Path) -> None:
    """Away with what one of us left who was killed: the lock is ours, so nobody is at it."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            left.unlink()


def _keep(place: Path, data: bytes) -> None:
    """A copy of the file as it is without us, with all that belongs to it."""
    temporary = _beside(place, data)
    temporary.replace(_backup(place))


def _put(place: Path, before: bytes, data: bytes) -> None:
    if before == data:
        return
    if place.stat().st_nlink > 1:  # another name of the same file would be left with the old one
        _overwrite(place, data)
        return
    try:
        _beside(place, data).replace(place)
    except OSError as error:
        if error.errno not in _IN_PLACE:
            raise
        _sweep(place.parent)
        _overwrite(place, data)


def _beside(place: Path, data: bytes) -> Path:
    """A new file with this content, and with mode, owner and attributes of the one at `place`."""
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            _take_after(handle, place)
            os.fsync(handle)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _take_after(handle: int, place: Path) -> None:
    about = place.stat()
    if (about.st_uid, about.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(handle, about.st_uid, about.st_gid)
    for name in os.listxattr(place):
        with suppress(OSError):  # the kernel's own, such as security labels, may be given by it already
            os.setxattr(handle, name, os.getxattr(place, name))
    os.fchmod(handle, stat.S_IMODE(about.st_mode))


def _overwrite(place: Path, data: bytes) -> None:
    """Write into the file itself, in one go: readers see the old content or the new, unless the machine dies in it."""
    handle = os.open(place, os.O_WRONLY)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(handle, data[done:], done)
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    finally:
        os.close(handle)
