"""Which addresses a host has, and a connection to one of them: by what was fixed, given name servers, the system.

What was tried, in what order and why it failed is in the exception: `Unresolved`, `Unconnected`.

Source: RFC 6761, section 6.3, for `localhost`.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from composer.network.addresses import Address, is_address, joined, parse_address, plain
from composer.network.nameservers import PORT, NoAnswer, ask
from composer.oci.obstacles import Tried, Unconnected, Unresolved

CONNECT: Final = 15.0
"""Seconds to wait for a host to take a connection: for all its addresses together, and before that for its name."""

THIS_MACHINE: Final = "host-gateway"
"""What Docker takes for the address of the machine that its engine runs on; for us that is our own."""

SYSTEM: Final = "this machine"
"""Who was tried, where it was the machine's own resolver."""

_LEAST: Final = 3.0
"""Seconds that an address is given, however many others there are: a packet may be lost."""

_KEPT: Final = (5.0, 300.0)
"""Seconds that an answer of a name server is believed at least and at most."""


class Names:
    """Names and their addresses. May be used by several threads; what a name server says is kept as long as it says."""

    def __init__(self, hosts: Mapping[str, Sequence[str]], dns: Sequence[str]) -> None:
        self._hosts = {name.lower().rstrip("."): tuple(found) for name, found in hosts.items()}
        self._dns = tuple(dns)
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._dead: set[Address] = set()

    def fixed(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses that were fixed for a host, if any were: of this port, or else of all its ports."""
        name = plain(host)
        found = self._hosts.get(f"{name}:{port}") or self._hosts.get(name) or ()
        return tuple(("127.0.0.1", port) if one == THIS_MACHINE else parse_address(one, port) for one in found)

    def look_up(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of a host, those last that took no connection before. Raises `Unresolved`."""
        return tuple(sorted(self._look_up(host, port), key=self._dead.__contains__))

    def _look_up(self, host: str, port: int) -> Iterable[Address]:
        name = plain(host)
        if found := self.fixed(host, port):
            return found
        if is_address(name):
            return ((name, port),)
        tried: list[Tried] = []
        local = name == "localhost" or name.endswith(".localhost")
        if not local and (asked := self._asked(name, tried)):
            return [(one, port) for one in asked]
        return of_system(host, port, tried)

    def _asked(self, name: str, tried: list[Tried]) -> tuple[str, ...]:
        """What the given name servers say, one after the other until one knows it."""
        until, found = self._known.get(name, (0.0, ()))
        if time.monotonic() < until:
            return found
        for server in self._dns:
            try:
                answer = ask(parse_address(server, PORT), name)
            except NoAnswer as error:
                tried.append(Tried(who=server, why=error.why, passing=error.passing))
                continue
            kept = min(max(answer.seconds, _KEPT[0]), _KEPT[1])
            self._known[name] = (time.monotonic() + kept, answer.addresses)
            return answer.addresses
        return ()

    def connect(
        self,
        host: str,
        port: int,
        *,
        timeout: float | None = CONNECT,
        source: tuple[str, int] | None = None,
        options: Iterable[tuple[int, int, int | bytes]] = (),
    ) -> socket.socket:
        """A connection to the first address that takes one, all within `timeout` seconds.

        Raises `Unresolved`, `Unconnected`.
        """
        addresses = self.look_up(host, port)
        until = time.monotonic() + (timeout or CONNECT)
        tried: list[Tried] = []
        for number, address in enumerate(addresses):
            # Each may take its share of what is left, so that one that swallows everything leaves time for the next.
            left = max(until - time.monotonic(), 0.1)
            share = max(left / (len(addresses) - number), min(left, _LEAST))
            try:
                made = _connected(address, share, source, options)
            except OSError as error:
                self._dead.add(address)
                tried.append(_failed(address, error))
                continue
            self._dead.discard(address)
            made.settimeout(timeout)
            return made
        raise Unconnected(host, tried)


def _connected(
    address: Address, timeout: float, source: tuple[str, int] | None, options: Iterable[tuple[int, int, int | bytes]]
) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for option in options:
            made.setsockopt(*option)
        made.settimeout(timeout)
        if source:
            made.bind(source)
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _failed(address: Address, error: OSError) -> Tried:
    who = joined(*address)
    if isinstance(error, ConnectionRefusedError):
        return Tried(who=who, why="refused")
    passing = isinstance(error, TimeoutError)
    return Tried(who=who, why="no answer" if passing else error.strerror or type(error).__name__, passing=passing)


# -- the system ---------------------------------------------------------------------------------------------------


def of_system(host: str, port: int, tried: Sequence[Tried] = ()) -> tuple[Address, ...]:
    """What the machine's own resolver says: its files, its name servers. Raises `Unresolved`: all that was tried."""
    try:
        found = _in_time(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except socket.gaierror as error:
        last = Tried(who=SYSTEM, why=error.strerror or str(error), passing=error.errno == socket.EAI_AGAIN)
        raise Unresolved(host, (*tried, last)) from error
    except UnicodeError as error:
        raise Unresolved(host, (*tried, Tried(who=SYSTEM, why="no name can be spelled like that"))) from error
    except TimeoutError as error:
        last = Tried(who=SYSTEM, why=f"no answer within {CONNECT:.0f} s", passing=True)
        raise Unresolved(host, (*tried, last)) from error
    return tuple(dict.fromkeys((str(one[4][0]), int(one[4][1])) for one in found))


def _in_time(look: Callable[[], list[Any]]) -> list[Any]:
    """The resolver of a system knows no time limit of ours, so it is asked from the side."""
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def asking() -> None:
        try:
            answers.put(look())
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            answers.put(error)

    threading.Thread(target=asking, daemon=True, name="resolver").start()
    try:
        answer = answers.get(timeout=CONNECT)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer
