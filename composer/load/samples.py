"""Answers that are to be verified: kept while the load runs, judged after it, equal ones once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

Verify = Callable[[bytes, bytes], str | None]
"""Given headers (none for gRPC) and body of an answer, says what is wrong with it, or None."""

KEPT: Final = 1 << 26
"""Bytes of different answers that are kept. Beyond that they are judged while the load runs, which slows it."""


class Samples:
    """What every Nth answer was."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._seen: Counter[tuple[bytes, bytes]] = Counter()
        self._kept = 0
        self._verified = 0
        self._wrong: Counter[str] = Counter()

    def take(self, head: bytes, body: bytes) -> None:
        """Have this answer verified in the end."""
        answer = (head, body)
        if answer not in self._seen:
            self._kept += len(head) + len(body)
        self._seen[answer] += 1
        if self._kept > KEPT:
            self._judge()

    def verdict(self) -> tuple[int, Mapping[str, int]]:
        """How many were verified, and how often they were wrong in which way."""
        self._judge()
        return self._verified, self._wrong

    def _judge(self) -> None:
        for (head, body), count in self._seen.items():
            fault = self._verify(head, body)
            self._verified += count
            if fault is not None:
                self._wrong[fault] += count
        self._seen.clear()
        self._kept = 0
