"""A server that runs already, somewhere: it is asked, and otherwise left alone.

`remote:HOST[:HTTP[:GRPC[:METRICS]]]`, or `remote:https://HOST[:PORT][/PATH]` for what stands behind TLS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from composer.errors import NotFound
from composer.runners.ports import DEFAULTS

PREFIX: Final = "remote:"
SPELLING: Final = "remote:HOST[:HTTP[:GRPC[:METRICS]]], such as remote:triton.example.com:8000, or remote:https://HOST"

_PLACE: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?P<ports>(?::\d{1,5}){0,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A server of which nothing is known but where it answers. What is not known is the empty text."""

    http: str
    grpc: str
    metrics: str
    engine: str = "remote"

    def logs(self) -> str:
        """Nothing: they are elsewhere."""
        return ""

    def exit_code(self) -> int | None:
        """None: that it has ended can only be told from its silence."""
        return None

    def oom_killed(self) -> bool:
        """False: nobody can tell from here."""
        return False

    def pids(self) -> Sequence[int]:
        """None that we could see."""
        return ()

    def stop(self) -> None:
        """It is not ours to stop."""


def parse_remote(name: str) -> Remote:
    """The server that a runner's name means. Raises `NotFound` with the spelling."""
    where = name.removeprefix(PREFIX)
    if "://" in where:
        return _behind_tls(name, where)
    found = _PLACE.fullmatch(where)
    if not found or where == name:
        raise _misspelled(name)
    given = [int(port) for port in found["ports"].split(":")[1:]]
    if any(not 0 < port < 1 << 16 for port in given):
        raise _misspelled(name)
    ports = dict(zip(DEFAULTS, [*given, *list(DEFAULTS.values())[len(given) :]], strict=True))
    at = {service: f"{found['host']}:{port}" for service, port in ports.items()}
    return Remote(http=f"http://{at['http']}", grpc=at["grpc"], metrics=f"http://{at['metrics']}/metrics")


def _behind_tls(name: str, where: str) -> Remote:
    """What stands behind a proxy has one address. Where it keeps gRPC and the metrics cannot be told from that."""
    try:
        at = urlsplit(where)
        if at.scheme not in ("http", "https") or not at.hostname or at.port == 0 or at.query or at.fragment:
            raise _misspelled(name)
    except ValueError as error:
        raise _misspelled(name) from error
    return Remote(http=where.rstrip("/"), grpc="", metrics="")


def _misspelled(name: str) -> NotFound:
    return NotFound(f"{name!r} does not say where a server is", hint=SPELLING)
