"""The machines of these tests reach what they are given and nothing else, or what is told of them proves nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.services.namespaces import machine

NAME, ADDRESS = "harbor.example.com", "10.0.0.5"


def test_nothing_is_reached_from_the_far_side(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as here, machine(tmp_path) as far:
        port = here.getsockname()[1]
        assert not far.reaches(("127.0.0.1", port)), "a service on our loopback"
        assert not any(far.reaches((address, port)) for address in own_addresses()), "or on our network"
        assert not far.reaches(("198.51.100.1", 443)), "or anywhere"
        assert far.run("ip", "route", cwd=tmp_path).stdout == ""
        assert far.run("getent", "hosts", NAME, cwd=tmp_path).returncode == 2


def own_addresses() -> list[str]:
    """This machine's, as far as it has any besides the loopback."""
    found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    return sorted({str(address[0]) for *_, address in found} - {"127.0.0.1", "127.0.1.1"})


def test_a_door_leads_where_it_should_until_it_is_closed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as here, machine(tmp_path, names={NAME: ADDRESS}) as far:
        assert far.run("getent", "hosts", NAME, cwd=tmp_path).stdout.split() == [ADDRESS, NAME]
        assert far.asked == [NAME, NAME], "for IPv6, then for IPv4"
        with far.door((ADDRESS, 443), here.getsockname()):
            assert far.reaches((ADDRESS, 443))
            assert not far.reaches(("127.0.0.1", here.getsockname()[1]))
        assert not far.reaches((ADDRESS, 443))


def test_nothing_of_a_machine_is_seen_outside(tmp_path: Path) -> None:
    before = os.stat("/proc/self/ns/net").st_ino, Path("/etc/hosts").read_text(), Path("/etc/resolv.conf").read_text()
    with machine(tmp_path, mounts={"/mnt": tmp_path}) as far:
        (tmp_path / "seen").touch()
        assert far.run("ls", "/mnt", cwd=tmp_path).stdout.split() == ["hosts", "resolv.conf", "seen"]
        with far.within():
            assert os.stat("/proc/thread-self/ns/net").st_ino != before[0]
        assert not Path("/mnt/seen").exists()
    after = os.stat("/proc/self/ns/net").st_ino, Path("/etc/hosts").read_text(), Path("/etc/resolv.conf").read_text()
    assert after == before
    assert not Path(f"/proc/{far.pid}").exists()
