"""From layers to a folder, as a container runtime would show them. Nothing is ever written outside that folder.

Paths of a layer are resolved as if the folder were the root of the file system: symbolic links on the way are
followed, absolute ones from that root, and `..` does not lead above it. Source of the rules: the OCI image
specification, layer.md; where it is silent, containerd's `archive/tar.go`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from composer.errors import Corrupt, NoRoom
from composer.events import Emit, Transferred
from composer.oci import tar
from composer.oci.compression import inflate
from composer.oci.image import Descriptor, Image
from composer.oci.store import Store
from composer.oci.tar import Entry

_MAX_LINKS: Final = 255
_MAX_DEPTH: Final = 256
_IMPLIED_MODE: Final = 0o755
"""Of folders that no layer has an entry for: as containerd and Docker make them."""

_DEVICES: Final = {tar.CHAR: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK}
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_REFUSED: Final = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ERANGE, errno.E2BIG)


def unpack(image: Image, store: Store, target: Path, *, emit: Emit) -> None:
    """Apply the layers of `image` from the bottom up to `target`, a folder that is empty or not there yet.

    Owners are set where we are root; extended attributes and device nodes where the kernel lets us.
    Raises `Corrupt` for a layer that is not what its diff ID says or that cannot be applied, and `NoRoom` where
    the folder cannot be written. What was written by then stays: the caller owns the folder.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise NoRoom(f"{target} is not empty", hint="unpack into a new folder")
        tree = _Tree(target.resolve())
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
            _apply(layer, diff_id, store, tree, emit)
        tree.finish()
    except OSError as error:
        raise _explained(error, target) from error


def _apply(layer: Descriptor, diff_id: str, store: Store, tree: _Tree, emit: Emit) -> None:
    origin = f"layer {layer.digest} of {store.label}"
    compressed = _counted(store.read(layer), layer, emit)
    content = _checked(inflate(compressed, origin=origin), diff_id, origin)
    writer = _Layer(tree)
    try:
        for item in tar.read_tar(content, origin=origin):
            if isinstance(item, Entry):
                writer.begin(item)
            else:
                writer.write(item)
    finally:
        writer.end()


def _counted(chunks: Iterable[bytes], layer: Descriptor, emit: Emit) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        done += len(chunk)
        emit(Transferred(digest=layer.digest, title="unpack", action="read", done=done, total=layer.size))
        yield chunk


def _checked(chunks: Iterable[bytes], diff_id: str, origin: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if (found := "sha256:" + digest.hexdigest()) != diff_id:
        raise Corrupt(f"{origin} holds {found} where the image config says {diff_id}")


class _Tree:
    """The folder as it grows: where paths lead, and what its folders shall look like in the end."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._real: dict[str, str] = {"": self.root}
        self._folders: dict[str, Entry] = {}
        self._is_root = os.geteuid() == 0

    def folder(self, path: str) -> str:
        """The real folder that `path` leads to, made where it is missing. Raises `Corrupt` if a file is in the way."""
        known = self._real.get(path)
        if known is None:
            known = self._real[path] = self._walk(path)
        return known

    def place(self, path: str) -> str:
        """Where the entry `path` really is: its folder resolved, its own name not followed."""
        head, _, name = path.rpartition("/")
        return f"{self.folder(head)}/{name}" if name else self.root

    def _walk(self, path: str) -> str:
        at, ahead, links = self.root, path.split("/")[::-1], 0
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = at if at == self.root else os.path.dirname(at)
                continue
            step = f"{at}/{part}"
            if not os.path.islink(step):
                at = _enter(step, path)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise Corrupt(f"the path /{path} of the image goes round in symbolic links")
            target = os.readlink(step)
            at = self.root if target.startswith("/") else at
            ahead.extend(target.split("/")[::-1])
        return at

    def remove(self, real: str) -> None:
        """Take away whatever is at `real`, and what was known of it."""
        if _is_folder(real):
            for name in os.listdir(real):
                self.remove(f"{real}/{name}")
            os.rmdir(real)
            self._folders.pop(real, None)
        else:
            os.unlink(real)
        self._real = {"": self.root}

    def adorn_later(self, real: str, folder: Entry) -> None:
        """Folders are still written to: what they look like is set in `finish`."""
        self._folders[real] = folder

    def adorn(self, where: str | int, entry: Entry) -> None:
        """Give what is at a path or behind a descriptor its owner, mode, attributes and time."""
        follow = isinstance(where, int)
        # Owner first, as a new one clears the set-user-ID bits; time last, as all else changes it.
        if self._is_root:
            with _best_effort():
                os.chown(where, entry.uid, entry.gid, follow_symlinks=follow)
        if entry.kind != tar.SYMLINK:
            os.chmod(where, entry.mode)
        for name, value in entry.xattrs:
            with _best_effort():
                os.setxattr(where, name, value, follow_symlinks=follow)
        with _best_effort():
            os.utime(where, ns=(entry.mtime, entry.mtime), follow_symlinks=follow)

    def finish(self) -> None:
        """Adorn the folders, inner ones first: an outer one may then no longer be entered."""
        for real in sorted(self._folders, key=len, reverse=True):
            self.adorn(real, self._folders[real])


class _Layer:
    """One layer on its way into a tree. It knows what it has written: its marks hide only what lies below it."""

    def __init__(self, tree: _Tree) -> None:
        self._tree = tree
        self._written = {tree.root}
        self._open: tuple[int, Entry] | None = None

    def begin(self, entry: Entry) -> None:
        """Make the entry, or obey it if it is a mark. The content of a file comes next, by `write`."""
        self.end()
        if entry.name == tar.OPAQUE:
            self._hide_below(self._tree.folder(entry.parent))
        elif any(part.startswith(tar.AUFS) for part in entry.path.split("/")):
            return
        elif entry.name.startswith(tar.WHITEOUT):
            self._hide(entry)
        else:
            self._make(entry)

    def write(self, piece: memoryview) -> None:
        """Take the next piece of the file that was begun last."""
        while self._open and piece:
            piece = piece[os.write(self._open[0], piece) :]

    def end(self) -> None:
        """Finish the file that was begun last, if it was one."""
        if not self._open:
            return
        (descriptor, entry), self._open = self._open, None
        try:
            self._tree.adorn(descriptor, entry)
        finally:
            os.close(descriptor)

    def _hide(self, mark: Entry) -> None:
        name = mark.name.removeprefix(tar.WHITEOUT)
        if name in ("", ".", ".."):
            raise Corrupt(f"the whiteout /{mark.path} names nothing that could be hidden")
        real = f"{self._tree.folder(mark.parent)}/{name}"
        if os.path.lexists(real):
            self._hide_at(real)

    def _hide_at(self, real: str) -> None:
        if real not in self._written:
            self._tree.remove(real)
        elif _is_folder(real):
            self._hide_below(real)

    def _hide_below(self, folder: str) -> None:
        for name in os.listdir(folder):
            self._hide_at(f"{folder}/{name}")

    def _make(self, entry: Entry) -> None:
        real = self._tree.place(entry.path)
        self._clear_way(real, entry)
        self._note(real)
        if entry.kind == tar.FILE:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._open = os.open(real, flags, 0o600), entry
        elif entry.kind == tar.DIRECTORY:
            with suppress(FileExistsError):
                os.mkdir(real, 0o755)
            self._tree.adorn_later(real, entry)
        elif entry.kind == tar.LINK:
            self._link(real, entry)
        elif _made_special(real, entry):
            self._tree.adorn(real, entry)

    def _clear_way(self, real: str, entry: Entry) -> None:
        """A folder over a folder merges; anything else takes the place of what was there."""
        if not os.path.lexists(real) or (entry.kind == tar.DIRECTORY and _is_folder(real)):
            return
        if real == self._tree.root:
            raise Corrupt("an entry of the image would take the place of its root folder")
        self._tree.remove(real)

    def _note(self, real: str) -> None:
        while real not in self._written:
            self._written.add(real)
            real = os.path.dirname(real)

    def _link(self, real: str, entry: Entry) -> None:
        try:
            os.link(self._tree.place(entry.link), real, follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as error:
            raise Corrupt(f"/{entry.path} is a hard link to /{entry.link}, which cannot be linked to") from error


def _made_special(real: str, entry: Entry) -> bool:
    """Make a symbolic link, FIFO or device node. False for a device where we may not make one."""
    if entry.kind == tar.SYMLINK:
        os.symlink(entry.link, real)
    elif entry.kind == tar.FIFO:
        os.mkfifo(real, 0o600)
    else:
        with _best_effort():
            os.mknod(real, 0o600 | _DEVICES[entry.kind], os.makedev(*entry.device))
    return os.path.lexists(real)


def _enter(step: str, path: str) -> str:
    """`step` as a folder on the way to `path`, made if nothing is there."""
    if step.count("/") > _MAX_DEPTH:
        raise Corrupt(f"the path /{path} of the image is more than {_MAX_DEPTH} folders deep")
    if not os.path.lexists(step):
        os.mkdir(step)
        os.chmod(step, _IMPLIED_MODE)
    elif not _is_folder(step):
        raise Corrupt(f"the path /{path} of the image leads through a file")
    return step


def _is_folder(real: str) -> bool:
    """Whether a folder is there: not a link to one."""
    return os.path.isdir(real) and not os.path.islink(real)


@contextmanager
def _best_effort() -> Iterator[None]:
    """For what a kernel or file system may refuse and a runtime does without."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise


def _explained(error: OSError, target: Path) -> Corrupt | NoRoom:
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return NoRoom(f"the image cannot be unpacked into {target}: {reason}", hint=f"df -h {target.parent}")
    return Corrupt(f"the image cannot be unpacked: {error.filename or target}: {reason}")
