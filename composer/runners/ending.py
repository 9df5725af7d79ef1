"""How a server is ended: it is asked to, given as long as it makes sense to wait, and killed after that."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final, Protocol
from urllib.parse import urlsplit

GRACE: Final = 10.0
"""Seconds from SIGTERM to SIGKILL for a server that is ready: it unloads its models meanwhile."""

PROVED: Final = 3.0
"""The same for one that was only started to be proved: nobody needs what it would still do."""

BUSY: Final = 2.0
"""The same for one that waits for its clients, or for models to answer them: they may never."""

NOT_READY: Final = 1.0
"""The same for one that is not ready: it has nothing to lose, and while it loads it does not listen."""

_PROBE: Final = 0.5
_POLL: Final = 0.1
_WAITS: Final = re.compile(
    r"Timeout \d+: Found [1-9]\d* (?:HTTP service connections|model versions that have in-flight inferences)"
)
"""Triton counts down from --exit-timeout-secs and says whom it waits for: its clients, or its models' answers."""


class Ending(Protocol):
    """A server that is to end."""

    @property
    def http(self) -> str:
        """See `Running`."""
        ...

    @property
    def grace(self) -> float:
        """Seconds that it is given if it is ready."""
        ...

    def logs(self) -> str:
        """See `Running`."""
        ...

    def exit_code(self) -> int | None:
        """See `Running`."""
        ...


def asked_to_end(server: Ending, ask: Callable[[], None]) -> bool:
    """Have `ask` send SIGTERM, and wait. False if the server is still there and has to be killed."""
    if server.exit_code() is not None:
        return True
    ready = _is_ready(server.http)
    ask()
    begun = time.monotonic()
    while server.exit_code() is None:
        if _in_vain(time.monotonic() - begun, ready, server):
            return False
        time.sleep(_POLL)
    return True


def _in_vain(waited: float, ready: bool, server: Ending) -> bool:
    if not ready:
        return waited > NOT_READY
    return waited > server.grace or (waited > BUSY and waits_for_others(server.logs()))


def waits_for_others(log: str) -> bool:
    """Whether the last that a server has said is that it waits for requests or connections to end."""
    lines = log.rstrip().rsplit("\n", 1)
    return bool(_WAITS.search(lines[-1]))


def _is_ready(base: str) -> bool:
    """Whether the server says so, at once. What hangs does not."""
    at = urlsplit(base)
    try:
        with closing(http.client.HTTPConnection(at.hostname or "", at.port, timeout=_PROBE)) as connection:
            connection.request("GET", "/v2/health/ready", headers={"Connection": "close"})
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
