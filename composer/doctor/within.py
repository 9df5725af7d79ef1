"""Things that may never end, done at once. What is not done in time is left behind, not waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, calls: Sequence[Callable[[], Result]]) -> list[Result | None]:
    """Call all of these at once. None stands for what was not done in time; what one raises is raised here."""
    results: list[Result | None] = [None] * len(calls)
    raised: list[BaseException] = []

    def do(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            raised.append(error)

    until = time.monotonic() + seconds
    # The system's resolver cannot be interrupted: only a thread that nobody waits for at the end will do.
    threads = [threading.Thread(target=do, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if raised:
        raise raised[0]
    return list(results)
