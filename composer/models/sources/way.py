"""The way out: what a source may need of the machine and of the recipe, and how its addresses may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from composer.events import Emit
from composer.lockfile import Ledger
from composer.network.routes import Routes
from composer.oci.image import Platform
from composer.oci.transports import Access

PATIENCE = 60.0
"""Seconds without a gain after which a transfer is given up."""

AMD64 = Platform(os="linux", architecture="amd64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the outside is reached: `access` has sessions and credentials, `routes` mirrors, names and proxies.

    `base` is the folder that paths start from. `platform` is asked for where an image of models is there for several.
    """

    access: Access
    base: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    platform: Platform = AMD64
    ledger: Ledger = field(default_factory=Ledger)
    patience: float = PATIENCE

    @property
    def emit(self) -> Emit:
        """Where events go."""
        return self.access.emit

    def trusts(self, url: str) -> bool:
        """Whether its host may be spoken to without TLS, or with a certificate that nobody knows."""
        parts = urlsplit(url)
        return bool({parts.hostname, f"{parts.hostname}:{parts.port}"} & self.access.insecure)

    def setting(self, *names: str) -> str | None:
        """The first of these variables that is set to anything."""
        return next((value for name in names if (value := self.environ.get(name))), None)


def shown(address: str) -> str:
    """An address that may be shown and kept: logins, queries and fragments hold passwords and signatures.

    >>> shown("https://me:secret@host/model.onnx?token=secret")
    'https://host/model.onnx'
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    rest = rest.partition("?")[0].partition("#")[0]
    place, slash, path = rest.partition("/")
    # In s3:// and hf:// an @ behind the first slash is a part of the path, or names a revision.
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"
