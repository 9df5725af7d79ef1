"""Programs that go their own way, by ours: curl to see it, uv and the libraries of buckets because they need it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from composer.errors import Unreachable
from composer.network import Routes
from composer.network.door import Door, needed
from composer.oci.image import Platform
from composer.oci.layout import LayoutStore
from composer.recipe import parse_recipe
from composer.routing import of_network
from composer.wheels import Shelf, Wheels, survey_wheels
from tests.bench.process import family
from tests.conftest import require
from tests.network.certificates import Authority
from tests.network.servers import server
from tests.services.dns import name_server
from tests.services.forward import forward_proxy
from tests.services.index import make_index, make_wheel
from tests.services.registry import free_port
from tests.services.web import web

NAME = "index.test"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca")


def curl(door: Door, *arguments: str) -> subprocess.CompletedProcess[str]:
    require("curl")
    line = ["curl", "--silent", "--show-error", "--max-time", "20", *arguments]
    environ = {**os.environ, **door.environment}
    return subprocess.run(line, capture_output=True, text=True, env=environ, check=False)


def test_it_goes_by_our_addresses(authority: Authority) -> None:
    with server(authority.certificate(NAME)) as seen, Door(Routes(hosts={NAME: ("127.0.0.1",)})) as door:
        done = curl(door, "--cacert", str(authority.file), f"https://{NAME}:{seen.port}/x")
        assert done.stdout == '{"path": "/x"}', done.stderr
        assert seen.names == [NAME]


def test_plain_requests_are_passed_on_without_its_login() -> None:
    with server(None) as seen, Door(Routes(hosts={NAME: ("127.0.0.1",)})) as door:
        done = curl(door, f"http://{NAME}:{seen.port}/x?y=z", "--data-binary", "", "-X", "GET")
        assert done.stdout == '{"path": "/x?y=z"}', done.stderr
        assert seen.hosts == [f"{NAME}:{seen.port}"]
        assert not [name for name in seen.headers[0] if name.lower().startswith("proxy-")]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "over TLS"])
def test_it_goes_by_our_proxy(authority: Authority, secure: bool) -> None:
    """And by the address that is fixed, behind it."""
    certificate = authority.certificate("127.0.0.1") if secure else None
    with (
        server(authority.certificate(NAME)) as seen,
        server(None) as plain,
        forward_proxy(
            {"127.0.0.42": ("127.0.0.1", seen.port), "plain.test": ("127.0.0.1", plain.port)},
            login="me:p@ss",
            certificate=certificate,
        ) as proxy,
    ):
        address = f"{proxy.scheme}://me:p%40ss@127.0.0.1:{proxy.port}"
        routes = Routes(
            hosts={NAME: ("127.0.0.41", "127.0.0.42")},
            proxies={"https_proxy": address, "http_proxy": address},
            ca_bundle=authority.file,
        )
        with Door(routes) as door:
            done = curl(door, "--cacert", str(authority.file), f"https://{NAME}/x")
            assert done.stdout == '{"path": "/x"}', done.stderr
            done = curl(door, "http://plain.test/y")
            assert done.stdout == '{"path": "/y"}', done.stderr
        assert proxy.passed == ["CONNECT 127.0.0.42:443", "GET http://plain.test/y"]


def test_nobody_gets_in_without_the_login(authority: Authority) -> None:
    with server(None) as seen, Door(Routes(hosts={NAME: ("127.0.0.1",)})) as door, Door(Routes()) as other:
        address = door.url.rpartition("@")[2]
        password = other.url.split("//")[1].partition("@")[0]
        for login in ("", "tricompose:guess@", f"{password}@"):
            with_it = ["--proxy", f"http://{login}{address}", f"http://{NAME}:{seen.port}/x", "-o", "/dev/null"]
            done = curl(door, *with_it, "--write-out", "%{http_code}")
            assert done.stdout == "407", done.stderr
        assert seen.hosts == []


def test_why_a_host_was_not_reached_is_kept() -> None:
    with Door(Routes(dns=("127.0.0.1:9",))) as door:
        done = curl(door, "https://registry.invalid/", "--write-out", "%{http_connect}")
        assert done.stdout == "502"
        [(host, error)] = door.failures.items()
    assert host == "registry.invalid:443"
    assert "127.0.0.1:9: refused" in error.message
    assert "hosts: {registry.invalid: ADDRESS}" in (error.hint or "")


def test_what_makes_no_sense_is_refused() -> None:
    with Door(Routes()) as door:
        port = int(door.url.rpartition(":")[2])
        for head in (b"GET / HTTP/1.1\r\n\r\n", b"CONNECT \r\n\r\n", b"GET ftp://a/ HTTP/1.1\r\n\r\n", b"\0\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as made:
                made.sendall(head)
                assert made.recv(100).startswith(b"HTTP/1.1 400")


def test_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not needed(Routes())
    assert not needed(Routes(proxies={}))
    assert needed(Routes(dns=("10.0.0.1",)))
    assert needed(Routes(hosts={"a": ("10.0.0.1",)}))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert needed(Routes())
    assert not needed(Routes(proxies={}))


# -- uv -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    make_index(folder, [make_wheel(tmp_path / "wheels", "probe", "1.0")])
    return folder


def wheels(folder: Path, network: str) -> Wheels:
    text = f'triton: "24.10"\nbackends: [python]\npackages: {{pip: [probe]}}\nnetwork: {{{network}}}\n'
    recipe = parse_recipe(text, path=folder / "recipe.yaml", environ={})
    shelf = Shelf(
        cache=LayoutStore.ensure(folder / "cache"),
        environ={"PIP_CONFIG_FILE": os.devnull},
        routes=of_network(recipe.network, recipe.base),
        emit=lambda _: None,
    )
    return survey_wheels(recipe, Platform(os="linux", architecture="amd64"), None, shelf, python="3.10", ubuntu="22.04")


def test_packages_of_an_index_whose_name_only_the_recipe_knows(
    tmp_path: Path, index: Path, authority: Authority
) -> None:
    with web(index, certificate=authority.certificate(NAME)) as site:
        said = f"pip_index: '{site.at(NAME)}/simple', ca_bundle: '{authority.file}'"
        port = free_port()
        with name_server("127.0.0.1", {}, port=port), pytest.raises(Unreachable) as caught:
            wheels(tmp_path, f"{said}, dns: ['127.0.0.1:{port}']")
        told = f"the name of {NAME}:{site.port} could not be resolved (DNS: 127.0.0.1:{port}: NXDOMAIN; this machine: "
        assert told in caught.value.message
        assert f"hosts: {{{NAME}: ADDRESS}}" in (caught.value.hint or "")
        found = wheels(tmp_path, f"{said}, hosts: {{{NAME}: 127.0.0.1}}")
        assert [wheel.name for wheel in found.wheels] == ["probe"]


def test_no_command_line_holds_its_login(tmp_path: Path, index: Path, authority: Authority) -> None:
    """Anybody on the machine can read those; uv has it from the environment."""
    lines: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            for process in family(os.getpid())[1:]:
                with suppress(OSError):
                    lines.add(Path(f"/proc/{process}/cmdline").read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with web(index, certificate=authority.certificate(NAME)) as site:
        said = f"pip_index: '{site.at(NAME)}/simple', ca_bundle: '{authority.file}', hosts: {{{NAME}: 127.0.0.1}}"
        wheels(tmp_path, said)
    over.set()
    watcher.join()
    assert [line for line in lines if b"/uv\0pip\0compile" in line], "uv was seen"
    assert not [line for line in lines if b"tricompose:" in line or (b"127.0.0.1:" in line and b"/uv\0" in line)]


def test_packages_by_a_proxy_with_a_login(tmp_path: Path, index: Path, authority: Authority) -> None:
    with (
        web(index, certificate=authority.certificate(NAME)) as site,
        forward_proxy({NAME: ("127.0.0.1", site.port)}, login="me:p@ss") as proxy,
    ):
        said = f"pip_index: 'https://{NAME}/simple', ca_bundle: '{authority.file}'"
        found = wheels(tmp_path, f"{said}, proxy: {{https: 'http://me:p%40ss@127.0.0.1:{proxy.port}'}}")
        assert [wheel.name for wheel in found.wheels] == ["probe"]
        assert set(proxy.passed) == {f"CONNECT {NAME}:443"}


def test_wheels_come_from_mirrors_of_their_host(tmp_path: Path, index: Path, authority: Authority) -> None:
    """The first that has them; the index itself is asked what there is."""
    (tmp_path / "empty").mkdir()
    with (
        web(index, certificate=authority.certificate(NAME)) as site,
        web(tmp_path / "empty", certificate=authority.certificate("127.0.0.1")) as empty,
        web(index, certificate=authority.certificate("127.0.0.1")) as mirror,
    ):
        places = f"['127.0.0.1:{empty.port}', '127.0.0.1:{mirror.port}']"
        said = f"pip_index: '{site.at(NAME)}/simple', ca_bundle: '{authority.file}', hosts: {{{NAME}: 127.0.0.1}}"
        found = wheels(tmp_path, f"{said}, mirrors: {{'{NAME}:{site.port}': {places}}}")
        assert [wheel.name for wheel in found.wheels] == ["probe"]
        asked = {one: [path for path in seen.asked if path.endswith(".whl")] for one, seen in
                 (("site", site), ("empty", empty), ("mirror", mirror))}  # fmt: skip
        assert [len(asked[one]) for one in ("site", "empty", "mirror")] == [0, 1, 1]
