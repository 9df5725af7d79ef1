"""Whom we trust over TLS, and who we are there: authorities and client certificates, for all hosts and for one.

Trusted are the system's authorities, those of certifi, and the bundle given; for a host also the `*.crt` of its folder,
where Docker's users have put them: `certs.d/HOST[:PORT]/{ca.crt, client.cert, client.key}`.

Source of that layout: Docker's manual, "Verify repository client with certificates"; containers-certs.d(5).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Final
from urllib.parse import urlsplit

import certifi

from composer.errors import NotFound
from composer.oci.names import spellings

MACHINE: Final = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
"""Where a machine keeps such folders; besides them ~/.config/containers/certs.d."""

_PORTS: Final = {"https": 443, "http": 80}


class Trust:
    """TLS contexts, each made once. May be used by several threads."""

    def __init__(self, ca_bundle: Path | None, certs: tuple[Path, ...]) -> None:
        self._bundle = ca_bundle
        self._certs = certs
        self._lock = threading.Lock()
        self._made: dict[tuple[Path | None, bool], ssl.SSLContext] = {}
        # What cannot be read is told at once, not at the first host.
        self.context("", 443)

    def context(self, host: str, port: int, *, blind: bool = False) -> ssl.SSLContext:
        """What to speak TLS to a host with; `blind` takes any certificate. Raises `NotFound` for unusable files."""
        folder = self.folder(host, port)
        with self._lock:
            if (folder, blind) not in self._made:
                self._made[folder, blind] = self._make(folder, blind=blind)
            return self._made[folder, blind]

    def folder(self, host: str, port: int) -> Path | None:
        """The folder that says something of a host, if there is one: the first, with the port before without."""
        names = dict.fromkeys((host, *spellings(host)))
        spelt = [name for one in names if one for name in (f"{one}:{port}", *([one] if port == 443 else []))]
        found = (place / name for place in self._certs for name in spelt)
        return next((one for one in found if _files(one)), None)

    def pem(self, urls: Iterable[str]) -> str:
        """All authorities that are trusted, and those for the hosts of some URLs, for programs that take one file.

        Raises `NotFound` where one cannot be read.
        """
        system = ssl.get_default_verify_paths().cafile
        files = [Path(certifi.where()), *([Path(system)] if system else [])]
        files += [file for url in ("", *urls) for file in self.adds(url)]
        try:
            return "\n".join(file.read_text("utf-8") for file in dict.fromkeys(files))
        except (OSError, ValueError) as error:
            raise NotFound(f"the certificates cannot be read: {error}", hint=f"ls -l {self._bundle}") from error

    def adds(self, url: str) -> list[Path]:
        """The files of authorities that are trusted at a URL besides the system's."""
        parts = urlsplit(url)
        folder = self.folder(parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)) if parts.hostname else None
        own = [one for one in _files(folder) if one.suffix == ".crt"] if folder else []
        return [*([self._bundle] if self._bundle else []), *own]

    def _make(self, folder: Path | None, *, blind: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if blind:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(cafile=certifi.where())
            if self._bundle:
                _trust(context, self._bundle, _BUNDLE)
        for file in _files(folder) if folder else ():
            if file.suffix == ".crt" and not blind:
                _trust(context, file, f"PEM certificates in {file}, or remove it")
            if file.suffix == ".cert":
                _be(context, file)
        return context


_BUNDLE: Final = "ca_bundle: a file of PEM certificates (-----BEGIN CERTIFICATE-----)"


def _files(folder: Path) -> list[Path]:
    """What lies in a folder for a host, in order. What we may not look into is as if it were not there."""
    try:
        return sorted(one for one in folder.iterdir() if one.suffix in (".crt", ".cert", ".key"))
    except OSError:
        return []


def _trust(context: ssl.SSLContext, file: Path, hint: str) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise NotFound(f"no certificates could be read from {file}: {error.strerror or error}", hint=hint) from error


def _be(context: ssl.SSLContext, certificate: Path) -> None:
    key = certificate.with_suffix(".key")
    try:
        # Without a password of its own OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or "no key in PEM form"
        raise NotFound(
            f"the client certificate {certificate} cannot be used with {key.name}: {why}",
            hint=f"ls -l {quote(str(certificate.parent))}   (NAME.cert and NAME.key, in PEM form, without a password)",
        ) from error
