"""A name server on port 53 of an address of choice: it answers for the names of the test, and no others exist."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

A, NO_SUCH_NAME = 1, 3


@contextmanager
def name_server(address: str, names: Mapping[str, str], *, port: int = 53) -> Iterator[list[str]]:
    """Answer with IPv4 addresses. What comes out is the list of names that were asked for, in order."""
    asked: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question, replying = self.request
            name, kind = _question(question)
            asked.append(name)
            replying.sendto(_answer(question, names.get(name.lower()), kind), self.client_address)

    with socketserver.ThreadingUDPServer((address, port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield asked
        finally:
            server.shutdown()


def _question(packet: bytes) -> tuple[str, int]:
    """The name that is asked for, and the type of record (RFC 1035, 4.1.2)."""
    labels, at = [], 12
    while length := packet[at]:
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), struct.unpack_from(">H", packet, at + 1)[0]


def _answer(packet: bytes, address: str | None, kind: int) -> bytes:
    end = packet.index(b"\0", 12) + 5
    found = address is not None and kind == A
    status = 0x8180 | (0 if address else NO_SUCH_NAME)
    head = packet[:2] + struct.pack(">HHHHH", status, 1, int(found), 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, A, 1, 60, 4) + socket.inet_aton(address) if found and address else b""
    return head + packet[12:end] + record
