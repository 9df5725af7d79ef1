"""An apt repository of the test's own: real .deb files, indexes and signatures, as a folder to be served.

    mirror = AptMirror(folder)
    mirror.add("libb64-0d", "1.2-5", {"usr/lib/libb64.so.0d": b"..."})
    mirror.publish(["debian/dists/bookworm"], key=SigningKey.make(folder / "gpg"))
    with web(mirror.folder, address=gateway) as site: ...

Packages have true names, and nothing of the true ones in them. A name that ends in `/` is published flat, as NVIDIA's.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key of gpg that was made for a test. `armored` and `binary` are its public half, as files."""

    home: Path
    armored: Path
    binary: Path

    @classmethod
    def make(cls, home: Path, name: str = "A mirror <mirror@example.com>") -> SigningKey:
        home.mkdir(mode=0o700, parents=True)
        key = cls(home=home, armored=home / "key.asc", binary=home / "key.gpg")
        key._gpg("--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never")
        key.armored.write_bytes(key._gpg("--armor", "--export"))
        key.binary.write_bytes(key._gpg("--export"))
        return key

    def clearsign(self, text: str) -> bytes:
        return self._gpg("--clearsign", stdin=text.encode())

    def stop(self) -> None:
        """End the agent that gpg has started for this key."""
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False, capture_output=True)

    def _gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
        ran = subprocess.run(argv, input=stdin, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout


@dataclass(slots=True, kw_only=True)
class AptMirror:
    """The folder, and the packages that are in it."""

    folder: Path
    paragraphs: list[str] = field(default_factory=list)

    def add(
        self, name: str, version: str, files: Mapping[str, bytes], *, depends: str = "", script: str = ""
    ) -> AptMirror:
        """Make a package with these files, and a `postinst` where a script is given."""
        deb = self.folder / "pool" / f"{name}_{version.replace(':', '%3a')}_all.deb"
        deb.parent.mkdir(parents=True, exist_ok=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.com>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += f"Description: stands in for {name}\n"
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            (root / "DEBIAN").mkdir()
            (root / "DEBIAN/control").write_text(control)
            if script:
                (root / "DEBIAN/postinst").write_text(f"#!/bin/sh\nset -e\n{script}\n")
                (root / "DEBIAN/postinst").chmod(0o755)
            for path, data in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(data)
            root.chmod(0o755)
            argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", scratch, str(deb)]
            subprocess.run(argv, check=True, capture_output=True)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        self.paragraphs.append(control + f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
        return self

    def publish(self, places: Iterable[str], *, key: SigningKey | None) -> None:
        """Write the indexes of `ROOT/dists/SUITE`, or of `ROOT/` flat; signed where there is a key."""
        for place in places:
            flat = place.endswith("/")
            root = self.folder / (place if flat else place.partition("/dists/")[0])
            root.mkdir(parents=True, exist_ok=True)
            if not (root / "pool").exists():
                os.symlink(self.folder / "pool", root / "pool")
            self._index(self.folder / place, "" if flat else "main/binary-amd64/", key)

    def _index(self, folder: Path, below: str, key: SigningKey | None) -> None:
        packages = "\n".join(self.paragraphs).encode()
        (folder / below).mkdir(parents=True, exist_ok=True)
        (folder / below / "Packages").write_bytes(packages)
        suite = folder.name
        release = (
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {formatdate(usegmt=True)}\n"
            f"Architectures: amd64 all\nComponents: main\nNo-Support-for-Architecture-all: Packages\nSHA256:\n"
            f" {hashlib.sha256(packages).hexdigest()} {len(packages)} {below}Packages\n"
        )
        (folder / "Release").write_text(release)
        if key:
            (folder / "InRelease").write_bytes(key.clearsign(release))
