"""Machines that reach nothing but what they are given: network namespaces, each with name resolution of its own.

    with machine(tmp_path, names={"harbor.example.com": "10.0.0.5"}) as far:
        with far.door(("10.0.0.5", 443), ("127.0.0.1", registry.port)):
            far.run("curl", "https://harbor.example.com/v2/")

There is no route out of it: its only interface is its own loopback, on which every address of `names` is up. What is
outside is reached through a `door` alone. It needs root, and neither systemd nor a place under /run; all of it is
gone when the process that holds it ends, and that ends with the test run.
"""

from __future__ import annotations

import ctypes
import os
import select
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.services.dns import name_server

Address = tuple[str, int]

NOBODY = "127.0.0.53"
"""Where the name server of a machine is."""

_NEWNET = 0x40000000
"""CLONE_NEWNET. Source: setns(2)."""

_SETUP = """\
ip link set lo up
for address in {addresses}; do ip address add "$address/32" dev lo; done
mount --bind {folder}/resolv.conf /etc/resolv.conf
mount --bind {folder}/hosts /etc/hosts
{mounts}
echo ready
exec cat
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A namespace, held by the process `pid`. `asked` are the names that its name server was asked for, in order."""

    pid: int
    folder: Path
    asked: list[str] = field(default_factory=list)

    def line(self, *argv: object, cwd: Path) -> list[str]:
        """A command line that runs another one there."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--"]
        return [*enter, "env", f"--chdir={cwd}", *map(str, argv)]

    def run(
        self, *argv: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""
        line = self.line(*argv, cwd=cwd)
        return subprocess.run(line, capture_output=True, text=True, env=env, timeout=timeout, check=False)

    @contextmanager
    def within(self) -> Iterator[None]:
        """Whatever socket this thread makes is made there."""
        with ExitStack() as stack:
            here = stack.enter_context(Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net").open("rb"))
            there = stack.enter_context(Path(f"/proc/{self.pid}/ns/net").open("rb"))
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def reaches(self, address: Address, *, within: float = 2.0) -> bool:
        """Whether somebody there takes a connection to `address`."""
        with self.within(), suppress(OSError), socket.create_connection(address, timeout=within):
            return True
        return False

    @contextmanager
    def door(self, address: Address, goal: Address) -> Iterator[None]:
        """Whoever connects to `address` there is led to `goal`, which is an address of this side."""
        with self.within():
            listener = socket.create_server(address, backlog=64)
        threading.Thread(target=_lead, args=(listener, goal), daemon=True).start()
        try:
            yield
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@contextmanager
def machine(
    folder: Path,
    *,
    names: Mapping[str, str] | None = None,
    addresses: Sequence[str] = (),
    mounts: Mapping[str, Path] | None = None,
) -> Iterator[Machine]:
    """A machine whose name server knows `names` and nothing else.

    `folder` holds its files; it is made. `addresses` are its own, besides those of `names`; `mounts` are folders that
    it sees elsewhere, by where that is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text("127.0.0.1\tlocalhost\n")
    (folder / "resolv.conf").write_text(f"nameserver {NOBODY}\noptions timeout:1 attempts:1\n")
    own = {address for address in (*(names or {}).values(), *addresses) if not address.startswith("127.")}
    script = _SETUP.format(
        addresses=" ".join(sorted(own)),
        folder=shlex.quote(str(folder)),
        mounts="\n".join(f"mount --bind {shlex.quote(str(path))} {place}" for place, path in (mounts or {}).items()),
    )
    line = ["unshare", "--net", "--mount", "--propagation=private", "sh", "-ec", script]
    holder = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "ready\n", "no network namespace: this needs root, and iproute2"
        bare = Machine(pid=holder.pid, folder=folder)
        with ExitStack() as stack:
            with bare.within():
                asked = stack.enter_context(name_server(NOBODY, names or {}))
            yield Machine(pid=holder.pid, folder=folder, asked=asked)
    finally:
        holder.communicate()


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _lead(listener: socket.socket, goal: Address) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_carry, args=(client, goal), daemon=True).start()


def _carry(client: socket.socket, goal: Address) -> None:
    """Carry bytes both ways until either side is done."""
    with client, suppress(OSError), socket.create_connection(goal, timeout=20) as server:
        peers = {client: server, server: client}
        while ready := select.select(list(peers), [], [], 300)[0]:
            for one in ready:
                data = one.recv(1 << 18)
                if not data:
                    return
                peers[one].sendall(data)
