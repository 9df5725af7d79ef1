"""A counter on the way to a registry: a loopback port that passes bytes on without looking at them.

The kernel moves them from socket to socket (splice), so that counting costs next to nothing beside the transfer.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType

_PIECE = 1 << 20


class Wire:
    """A running counter. `to_client` and `to_server` are bytes, HTTP's own included; `cpu` is what it cost, seconds."""

    def __init__(self, port: int) -> None:
        self.to_client = 0
        self.to_server = 0
        self.cpu = 0.0
        self._port = port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            with self._lock:
                self._open |= {client, server}
            asking = threading.Thread(target=self._pump, args=(client, server, "to_server"), daemon=True)
            asking.start()
            self._pump(server, client, "to_client")
            asking.join()
            with self._lock:
                self._open -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        out, into = os.pipe()
        before = time.thread_time()
        try:
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIECE)
            while size := os.splice(source.fileno(), into, _PIECE):
                before = self._count(direction, size, before)
                while size:
                    size -= os.splice(out, sink.fileno(), size)
        except OSError:
            pass
        finally:
            os.close(out)
            os.close(into)
            for end, how in ((source, socket.SHUT_RD), (sink, socket.SHUT_WR)):
                with suppress(OSError):
                    end.shutdown(how)

    def _count(self, direction: str, size: int, before: float) -> float:
        now = time.thread_time()
        with self._lock:
            setattr(self, direction, getattr(self, direction) + size)
            self.cpu += now - before
        return now
