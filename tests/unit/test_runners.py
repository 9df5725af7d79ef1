"""What runners decide by themselves: where a server elsewhere is, whose leftovers are whose, how long to wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from composer.errors import NotFound, Unplannable
from composer.runners import ending, owner, pick, ports, rootfs
from composer.runners.ending import asked_to_end, waits_for_others
from composer.runners.remote import parse_remote

# -- remote -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "http", "grpc", "metrics"),
    [
        ("remote:triton", "http://triton:8000", "triton:8001", "http://triton:8002/metrics"),
        ("remote:10.0.0.1:80", "http://10.0.0.1:80", "10.0.0.1:8001", "http://10.0.0.1:8002/metrics"),
        ("remote:a.example.com:1:2:3", "http://a.example.com:1", "a.example.com:2", "http://a.example.com:3/metrics"),
        ("remote:[::1]", "http://[::1]:8000", "[::1]:8001", "http://[::1]:8002/metrics"),
        ("remote:[fe80::1]:9:8", "http://[fe80::1]:9", "[fe80::1]:8", "http://[fe80::1]:8002/metrics"),
        ("remote:https://a.example.com", "https://a.example.com", "", ""),
        ("remote:https://a.example.com:8443/triton/", "https://a.example.com:8443/triton", "", ""),
    ],
)
def test_where_a_server_elsewhere_is(name: str, http: str, grpc: str, metrics: str) -> None:
    found = parse_remote(name)
    assert (found.http, found.grpc, found.metrics) == (http, grpc, metrics)
    assert (found.engine, found.logs(), found.exit_code(), found.pids()) == ("remote", "", None, ())


@pytest.mark.parametrize(
    "name",
    [
        *("remote", "remote:", "remote::8000", "remote:a:0", "remote:a:65536", "remote:a:1:2:3:4", "remote:a b"),
        *("remote:ftp://a", "remote:https://", "remote:https://a:x", "remote:https://a:99999", "remote:https://a?x=1"),
        *("remote:[::1", "remote:a/b", "remotely"),
    ],
)
def test_what_names_no_server(name: str) -> None:
    with pytest.raises(NotFound, match="does not say where a server is") as raised:
        parse_remote(name)
    assert "remote:HOST" in (raised.value.hint or "")


def test_a_runner_that_there_is_not() -> None:
    with pytest.raises(NotFound) as raised:
        pick("podman")
    assert raised.value.hint == "one of: auto, docker, rootfs"


# -- owners -------------------------------------------------------------------------------------------------------


def test_we_are_alive_and_so_is_whoever_started_us() -> None:
    assert not owner.is_gone(f"tricompose-validate:{owner.ourselves()}-abcdef")


def test_a_process_that_has_ended_is_gone() -> None:
    script = "from composer.runners.owner import ourselves; print(ourselves())"
    mark = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert owner.is_gone(mark)
    assert owner.is_gone(f"tricompose-validate:{mark}-abcdef")


def test_a_number_that_is_used_again_is_another_process() -> None:
    pid, began, *place = owner.ourselves().split("-")
    assert owner.is_gone("-".join([pid, str(int(began) - 1), *place]))


def test_of_those_that_we_cannot_see_nothing_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another namespace, another machine's engine; but of our own machine before it was started anew all is gone."""
    first, boot = owner._FIRST_NAMESPACE, "00000000"
    monkeypatch.setattr(owner, "_place", lambda: f"{first}-11111111")
    assert owner.is_gone(f"1-1-{first}-{boot}")
    assert not owner.is_gone(f"1-1-4026532999-{boot}")
    monkeypatch.setattr(owner, "_place", lambda: "4026532999-11111111")
    assert not owner.is_gone(f"1-1-{first}-{boot}")
    assert not owner.is_gone("1-1-4026532888-11111111")


@pytest.mark.parametrize("mark", ["", "abc", "tricompose-validate:slim", "1-2-3", "1-2-3-xyz"])
def test_what_is_no_mark_is_nobody_s(mark: str) -> None:
    assert not owner.is_gone(mark)


# -- how a server is ended ----------------------------------------------------------------------------------------


class Server:
    """Ends after so many seconds of a clock that only sleeping moves; None: never."""

    http = "http://127.0.0.1:1"
    grace = ending.GRACE

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: float | None, *, ready: bool, log: str = "") -> None:
        self.now, self.ends, self.log, self.asked = 0.0, ends, log, False
        monkeypatch.setattr(ending, "_is_ready", lambda base: ready)
        monkeypatch.setattr(ending.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(ending.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def ask(self) -> None:
        self.asked = True

    def logs(self) -> str:
        return self.log

    def exit_code(self) -> int | None:
        return 0 if self.ends is not None and self.now >= self.ends else None


IN_FLIGHT = 'I1121 17:27:38.4 1 server.cc:1] "Timeout 21: Found 1 model versions that have in-flight inferences"\n'
CLIENTS = 'I1121 17:27:38.4 1 http_server.cc:248] "Timeout 21: Found 1 HTTP service connections"\n'
UNLOADING = (
    'I1121 17:27:38.4 1 server.cc:345] "Timeout 29: Found 3 live models and 0 in-flight non-inference requests"\n'
)


@pytest.mark.parametrize(
    ("ends", "ready", "log", "ended", "waited"),
    [
        (4.0, True, UNLOADING, True, 4.0),
        (None, True, UNLOADING, False, ending.GRACE),
        (None, True, CLIENTS, False, ending.BUSY),
        (None, True, IN_FLIGHT, False, ending.BUSY),
        (None, True, IN_FLIGHT + UNLOADING, False, ending.GRACE),
        (0.5, False, "", True, 0.5),
        (None, False, UNLOADING, False, ending.NOT_READY),
    ],
)
def test_how_long_a_server_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, ends: float | None, ready: bool, log: str, ended: bool, waited: float
) -> None:
    server = Server(monkeypatch, ends, ready=ready, log=log)
    assert asked_to_end(server, server.ask) is ended
    assert server.asked
    assert waited <= server.now <= waited + 0.3


def test_one_that_has_ended_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, 0.0, ready=False)
    assert asked_to_end(server, server.ask)
    assert not server.asked


@pytest.mark.parametrize("log", ["", "\n", UNLOADING, CLIENTS.replace("Found 1", "Found 0"), CLIENTS + "more\n"])
def test_who_waits_for_nobody(log: str) -> None:
    assert not waits_for_others(log)


# -- ports --------------------------------------------------------------------------------------------------------


def test_ports_are_ours_as_long_as_we_hold_them() -> None:
    with ports.placed(["tritonserver"], None) as (command, found):
        assert {f"--{name}-port={port}" for name, port in found.items()} <= set(command)
        assert len(set(found.values())) == 3
        with (
            pytest.raises(Unplannable, match="belongs to another server that tricompose starts"),
            ports.placed(["tritonserver"], found),
        ):
            pytest.fail("two servers on one port")
    with ports.placed(["tritonserver"], found) as (_, again):
        assert again == found


def test_ports_of_many_at_once_differ() -> None:
    with ExitStack() as stack:
        found = [stack.enter_context(ports.placed(["tritonserver"], None))[1] for _ in range(40)]
        numbers = [port for one in found for port in one.values()]
        assert len(set(numbers)) == len(numbers) == 120


def test_ports_are_none_that_the_kernel_gives_away() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert lowest < 20_000 or max(ports.free_ports().values()) < lowest


def test_another_process_holds_them_too() -> None:
    script = """
import sys
from composer.runners.ports import placed
with placed(["tritonserver"], None) as (_, found):
    print(found["http"], flush=True)
    sys.stdin.read()
"""
    argv: Sequence[str] = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        wanted = {"http": port, "grpc": port + 1, "metrics": port + 2}
        with (
            pytest.raises(Unplannable, match=f"port {port}, wanted for http"),
            ports.placed(["tritonserver"], wanted),
        ):
            pytest.fail("two servers on one port")
        os.kill(process.pid, 9)
    with ports.placed(["tritonserver", f"--http-port={port}"], {"http": port}):
        pass


def test_accounts_are_read_of_plain_files_in_the_image_alone(tmp_path: Path) -> None:
    """A pipe would be waited for, and a folder that is a link may lead out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("me:x:1:1::/:/bin/sh\n")
    for name in ("plain", "piped", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain/etc").mkdir()
    (tmp_path / "plain/etc/passwd").write_text("me:x:1:1::/:/bin/sh\nbroken\n")
    (tmp_path / "piped/etc").mkdir()
    os.mkfifo(tmp_path / "piped/etc/passwd")
    (tmp_path / "linked/etc").symlink_to(outside)
    assert [row[0] for row in rootfs._table(tmp_path / "plain", "etc/passwd", 6)] == ["me"]
    assert rootfs._table(tmp_path / "piped", "etc/passwd", 6) == []
    assert rootfs._table(tmp_path / "linked", "etc/passwd", 6) == []
    assert rootfs._table(tmp_path / "outside", "etc/passwd", 6) == []
