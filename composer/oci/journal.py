"""What is remembered of registries from one run to the next: uploads that were cut, and which repository holds a blob.

It only saves bytes. What is in it may be old or gone: it is asked after, never believed. So a journal that cannot be
read or written is no error, and the worst that a lost entry costs is one upload. Locations of uploads are secrets of
a kind, so nobody else may read them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote

FOLDER: Final = "transfers"
"""Where a journal is, in a cache."""

_STALE: Final = 7 * 24 * 3600.0
"""Seconds after which no registry keeps an upload that nobody goes on with: distribution removes them after a week."""

_MOST: Final = 20_000
"""Entries of a list of blobs, of about 120 bytes, before the older half of it is dropped."""


class Journal:
    """A folder of files. May be used by several threads and processes at once."""

    def __init__(self, folder: Path) -> None:
        self._uploads = folder / "uploads"
        self._blobs = folder / "blobs"
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int], dict[str, dict[str, None]]]] = {}

    def upload(self, host: str, repository: str, digest: str) -> Entry | None:
        """The entry of an upload, for us alone; None while another process or thread is at the same upload."""
        name = sha256(f"{host}/{repository}@{digest}".encode()).hexdigest()[:32]
        try:
            self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._forget_old()
            return Entry.take(self._uploads / name)
        except OSError:
            return None

    def holders(self, host: str, digest: str) -> tuple[str, ...]:
        """The repositories of a registry that held a blob when we last saw it, the last one first."""
        with self._lock, contextlib.suppress(OSError):
            return tuple(reversed(self._read(host).get(digest, {})))
        return ()

    def learn(self, host: str, repository: str, digests: Iterable[str]) -> None:
        """Remember that a repository holds blobs."""
        with self._lock, contextlib.suppress(OSError):
            known = self._read(host)
            fresh = [digest for digest in dict.fromkeys(digests) if repository not in known.get(digest, {})]
            self._append(host, [f"+ {digest} {repository}\n" for digest in fresh])

    def unlearn(self, host: str, repository: str, digest: str) -> None:
        """Remember that a repository does not hold a blob, or does not give it."""
        with self._lock, contextlib.suppress(OSError):
            self._append(host, [f"- {digest} {repository}\n"])

    def _file(self, host: str) -> Path:
        return self._blobs / quote(host, safe="")

    def _append(self, host: str, lines: list[str]) -> None:
        """Add lines at the end: one write, so that those of others do not come between."""
        if not lines:
            return
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._file(host), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, "".join(lines).encode())
        finally:
            os.close(handle)

    def _read(self, host: str) -> dict[str, dict[str, None]]:
        """Digest -> repositories, read once more when the file has changed."""
        try:
            state = os.stat(self._file(host))
        except FileNotFoundError:
            return {}
        stamp = (state.st_mtime_ns, state.st_size)
        if host not in self._known or self._known[host][0] != stamp:
            lines = self._file(host).read_text(errors="replace").splitlines()
            self._known[host] = (stamp, _gathered(self._shortened(host, lines)))
        return self._known[host][1]

    def _shortened(self, host: str, lines: list[str]) -> list[str]:
        """The lines that are kept. What others append meanwhile is lost, which costs them an upload at most."""
        if len(lines) <= _MOST:
            return lines
        kept = lines[-_MOST // 2 :]
        fresh = self._blobs / f".{os.getpid()}"
        fresh.write_text("\n".join(kept) + "\n")
        fresh.chmod(0o600)
        fresh.replace(self._file(host))
        return kept

    def _forget_old(self) -> None:
        """Remove the entries of uploads that their registries have forgotten."""
        old = time.time() - _STALE
        for file in self._uploads.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < old:
                    file.unlink()


class Entry:
    """Where one upload goes on. Held by a lock that ends with the process."""

    def __init__(self, file: Path, handle: int) -> None:
        self._file = file
        self._handle = handle

    @classmethod
    def take(cls, file: Path) -> Entry | None:
        """The entry in a file, which is made; None if somebody else holds it. Raises `OSError`."""
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return cls(file, handle)

    @property
    def location(self) -> str | None:
        """Where the registry said that the upload goes on, if one was begun."""
        try:
            found = json.loads(os.pread(self._handle, 1 << 20, 0))["location"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, str) else None

    def keep(self, location: str) -> None:
        """Write down where the upload goes on."""
        data = json.dumps({"location": location}).encode()
        with contextlib.suppress(OSError):
            os.pwrite(self._handle, data, 0)
            os.ftruncate(self._handle, len(data))

    def drop(self) -> None:
        """There is nothing to go on with: the upload is done, or was given up."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            self._file.unlink()

    def close(self) -> None:
        """Let others at it. What was kept stays."""
        os.close(self._handle)


def _gathered(lines: Iterable[str]) -> dict[str, dict[str, None]]:
    """Digest -> repositories, as an ordered set: what was learned last is the last."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        sign, _, rest = line.partition(" ")
        digest, _, repository = rest.partition(" ")
        holders = found.setdefault(digest, {})
        holders.pop(repository, None)
        if sign == "+" and repository:
            holders[repository] = None
    return found
