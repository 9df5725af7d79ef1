"""A name server on port 53 of an address of choice: it answers for the names of the test, and no others exist."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

A, AAAA = 1, 28
SERVFAIL, NO_SUCH_NAME, REFUSED = 2, 3, 5


@contextmanager
def name_server(
    address: str, names: Mapping[str, str | Sequence[str]], *, port: int = 53, manner: str = ""
) -> Iterator[list[str]]:
    """Answer with addresses. What comes out is the list of names that were asked for, in order.

    `manner` is what is wrong with the server: `servfail`, `refusing` and `silent` answer nothing of use, `garbage` is
    no DNS, `short` cuts every answer over UDP, so that TCP must be asked; `tcp` has nobody at UDP; `deaf-to-v6` never
    answers for IPv6.
    """
    asked: list[str] = []

    def reply(question: bytes) -> bytes | None:
        name, kind = _question(question)
        asked.append(name)
        if manner == "silent" or (manner == "deaf-to-v6" and kind == AAAA):
            return None
        if manner == "garbage":
            return question[:2] + b"\xff" * 30
        known = names.get(name.lower(), ())
        found = (known,) if isinstance(known, str) else tuple(known)
        status = {"servfail": SERVFAIL, "refusing": REFUSED}.get(manner, 0 if found else NO_SUCH_NAME)
        return _answer(question, () if status else found, kind, status)

    class Datagrams(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question, replying = self.request
            answer = reply(question)
            if answer and manner == "short":
                answer = answer[:2] + struct.pack(">H", 0x8380) + question[4:6] + bytes(6) + question[12:]
            if answer:
                replying.sendto(answer, self.client_address)

    class Streams(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (length,) = struct.unpack(">H", self.rfile.read(2))
            if answer := reply(self.rfile.read(length)):
                self.wfile.write(struct.pack(">H", len(answer)) + answer)
            else:
                self.rfile.read(1)

    with ExitStack() as stack:
        kinds = [] if manner == "tcp" else [socketserver.ThreadingUDPServer((address, port), Datagrams)]
        for server in (*kinds, _Streams((address, port), Streams)):
            stack.enter_context(server)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(server.shutdown)
        yield asked


class _Streams(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _question(packet: bytes) -> tuple[str, int]:
    """The name that is asked for, and the type of record (RFC 1035, 4.1.2)."""
    labels, at = [], 12
    while length := packet[at]:
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), struct.unpack_from(">H", packet, at + 1)[0]


def _answer(packet: bytes, addresses: Sequence[str], kind: int, status: int) -> bytes:
    end = packet.index(b"\0", 12) + 5
    family, size = (socket.AF_INET6, 16) if kind == AAAA else (socket.AF_INET, 4)
    fitting = [one for one in addresses if (":" in one) == (kind == AAAA)] if kind in (A, AAAA) else []
    head = packet[:2] + struct.pack(">HHHHH", 0x8180 | status, 1, len(fitting), 0, 0)
    records = [struct.pack(">HHHIH", 0xC00C, kind, 1, 60, size) + socket.inet_pton(family, one) for one in fitting]
    return head + packet[12:end] + b"".join(records)
