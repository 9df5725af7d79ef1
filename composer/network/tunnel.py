"""Having a proxy connect us to a host. Source: RFC 9110, section 9.3.6."""

from __future__ import annotations

import re
import socket
from typing import Final

from composer.network.addresses import Address, joined
from composer.network.proxies import Proxy, login_header
from composer.oci.obstacles import Obstructed

_LARGEST_HEAD: Final = 1 << 16
_LONGEST_WORDS: Final = 100


def tunnel(made: socket.socket, proxy: Proxy, goal: Address, *, timeout: float) -> socket.socket:
    """A connection to a proxy made one to `goal`; each step may take `timeout` seconds.

    Raises `Obstructed`, after which the connection is closed; its cause is an `OSError` where that one broke.
    """
    place = joined(*goal)
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", *(f"{k}: {v}" for k, v in login_header(proxy).items())]
    try:
        made.settimeout(timeout)
        made.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        status, words = _answer(made)
    except OSError as error:
        made.close()
        raise Obstructed(proxy.shown, str(error) or type(error).__name__) from error
    if status != 200:
        made.close()
        why = f"it answers {status} {words}".rstrip() if status else words
        raise Obstructed(proxy.shown, why, status=status)
    return made


def _answer(made: socket.socket) -> tuple[int | None, str]:
    """The status and the words of an answer, byte by byte: what comes after its head is the host's.

    None, and what is wrong, where it is no answer of HTTP's.
    """
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < _LARGEST_HEAD:
        piece = made.recv(1)
        if not piece:
            break
        head += piece
    found = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ?([^\r\n]*)", head)
    if not found:
        return None, "it does not speak HTTP" if head else "it hangs up"
    words = found[2].decode("latin-1")[:_LONGEST_WORDS]
    return int(found[1]), "".join(letter if letter.isprintable() else "?" for letter in words)
