"""Which addresses a host has: fixed, from given name servers, from the system; and what is said where nobody knows."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from composer.network import names as names_module
from composer.network import nameservers
from composer.network.addresses import parse_address
from composer.network.names import Names
from composer.network.nameservers import NoAnswer, ask
from composer.oci.obstacles import Unconnected, Unresolved
from tests.services.dns import name_server
from tests.services.registry import free_port

KNOWN = {"registry.test": ["127.0.0.9", "::1"], "six.test": "::1", "many.test": [f"127.0.1.{n}" for n in range(60)]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in vain is waited for a quarter as long."""
    for name in ("_UDP_SECONDS", "_TCP_SECONDS", "_MORE_SECONDS"):
        monkeypatch.setattr(nameservers, name, getattr(nameservers, name) / 4)
    monkeypatch.setattr(names_module, "_LEAST", 0.75)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which 127.0.0.9 takes connections, and no other address."""
    with socket.create_server(("127.0.0.9", 0)) as listener:
        yield listener.getsockname()[1]


def test_addresses_of_both_kinds_come_in_order(port: int) -> None:
    with name_server("127.0.0.1", KNOWN, port=port) as asked:
        names = Names({}, [f"127.0.0.1:{port}"])
        assert names.look_up("Registry.test.", 443) == (("127.0.0.9", 443), ("::1", 443))
        assert names.look_up("six.test", 5000) == (("::1", 5000),)
        before = len(asked)
        names.look_up("registry.test", 80)
        assert len(asked) == before, "an answer holds as long as its server says"


@pytest.mark.parametrize("manner", ["", "short", "tcp"])
def test_udp_then_tcp(port: int, manner: str) -> None:
    """Where UDP is too short, or nobody answers there."""
    with name_server("127.0.0.1", KNOWN, port=port, manner=manner):
        started = time.monotonic()
        assert len(ask(("127.0.0.1", port), "many.test").addresses) == 60
        assert time.monotonic() - started < 5


def test_a_server_that_never_answers_for_ipv6_costs_little(port: int) -> None:
    with name_server("127.0.0.1", KNOWN, port=port, manner="deaf-to-v6"):
        started = time.monotonic()
        assert ask(("127.0.0.1", port), "registry.test").addresses == ("127.0.0.9",)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("manner", "why", "passing"),
    [
        ("servfail", "SERVFAIL", True),
        ("refusing", "REFUSED", False),
        ("silent", "no answer", True),
        ("", "NXDOMAIN", False),
    ],
)
def test_why_a_server_does_not_know(port: int, manner: str, why: str, passing: bool) -> None:
    with name_server("127.0.0.1", KNOWN, port=port, manner=manner), pytest.raises(NoAnswer) as caught:
        ask(("127.0.0.1", port), "nobody.test")
    assert (caught.value.why, caught.value.passing) == (why, passing)


def test_nobody_at_that_port(port: int) -> None:
    with pytest.raises(NoAnswer, match="refused"):
        ask(("127.0.0.1", port), "registry.test")


def test_all_servers_are_asked_in_order_then_the_system(port: int) -> None:
    """What was tried, in what order, and why it failed stands in the exception."""
    with (
        name_server("127.0.0.2", {}, port=port),
        name_server("127.0.0.3", {}, port=port, manner="servfail"),
        name_server("127.0.0.4", KNOWN, port=port) as last,
    ):
        servers = [f"127.0.0.{n}:{port}" for n in (2, 3, 4)]
        assert Names({}, servers).look_up("six.test", 1) == (("::1", 1),)
        assert last
        with pytest.raises(Unresolved) as caught:
            Names({}, servers[:2]).look_up("registry.invalid", 443)
    tried = [str(one) for one in caught.value.tried]
    assert tried[:2] == [f"127.0.0.2:{port}: NXDOMAIN", f"127.0.0.3:{port}: SERVFAIL"]
    assert tried[2].startswith("this machine: ")
    assert isinstance(caught.value, socket.gaierror)
    assert caught.value.errno == socket.EAI_AGAIN, "one of them may know it another time"


def test_what_is_fixed_is_asked_of_nobody(port: int) -> None:
    with name_server("127.0.0.1", KNOWN, port=port) as asked:
        hosts = {"registry.test": ["10.0.0.7", "10.0.0.8:8443", "[fd00::7]"], "registry.test:5000": ["10.0.0.9"]}
        names = Names(hosts, [f"127.0.0.1:{port}"])
        assert names.look_up("REGISTRY.test", 443) == (("10.0.0.7", 443), ("10.0.0.8", 8443), ("fd00::7", 443))
        assert names.look_up("registry.test", 5000) == (("10.0.0.9", 5000),)
        assert names.look_up("10.0.0.1", 80) == (("10.0.0.1", 80),)
        assert names.look_up("[::1]", 80) == (("::1", 80),)
        assert names.look_up("localhost", 80)[0][0] in ("127.0.0.1", "::1")
    assert asked == []


def test_the_first_address_that_takes_a_connection(listening: int) -> None:
    names = Names({"a.test": ["127.0.0.8", "127.0.0.9"]}, [])
    with names.connect("a.test", listening) as made:
        assert made.getpeername()[0] == "127.0.0.9"
    assert names.look_up("a.test", listening)[0][0] == "127.0.0.9", "the dead one is asked last from now on"


def test_an_address_that_swallows_everything_leaves_time_for_the_next(listening: int) -> None:
    """A listener whose queue is full takes no connection, and refuses none."""
    with socket.socket() as full:
        full.bind(("127.0.0.8", listening))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.8", listening))
        started = time.monotonic()
        with Names({"a.test": ["127.0.0.8", "127.0.0.9"]}, []).connect("a.test", listening, timeout=1) as made:
            assert made.getpeername()[0] == "127.0.0.9"
        assert 0.6 < time.monotonic() - started < 1
        with pytest.raises(Unconnected) as caught:
            Names({"a.test": ["127.0.0.8", "127.0.0.7"]}, []).connect("a.test", listening, timeout=1)
        for one in waiting:
            one.close()
    tried = [str(one) for one in caught.value.tried]
    assert tried == [f"127.0.0.8:{listening}: no answer", f"127.0.0.7:{listening}: refused"]


def test_threads_share_one_answer(port: int) -> None:
    with name_server("127.0.0.1", KNOWN, port=port):
        names = Names({}, [f"127.0.0.1:{port}"])
        found: list[object] = []
        threads = [threading.Thread(target=lambda: found.append(names.look_up("six.test", 1))) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert found == [(("::1", 1),)] * 8


@pytest.mark.parametrize(
    "text", ["", "host", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:x", "1.2.3", ":53"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(text, 53)
