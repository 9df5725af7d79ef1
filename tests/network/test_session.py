"""Requests that go by our names, proxies and trust, to real TLS servers: right names get through, wrong ones never."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from urllib3.connection import HTTPConnection

from composer import network
from composer.network import Routes
from composer.oci.names import parse_reference
from composer.oci.trouble import Trouble, diagnose
from composer.routing import Wanted, find_routes
from tests.network.certificates import DAY, Authority
from tests.network.servers import Seen, Talkative, server
from tests.services.dns import name_server
from tests.services.forward import Forward, forward_proxy
from tests.services.registry import free_port

NAME = "registry-1.docker.io"
LOGIN = "us er%40corp:p%40ss:w%2Frd+%C3%A9"
"""A login as an address has it: name `us er@corp`, password `p@ss:w/rd+é`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A TLS server of the right name, and the authority that vouches for it."""

    authority: Authority
    seen: Seen

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.seen.port}/v2/"

    @property
    def pinned(self) -> dict[str, tuple[str, ...]]:
        return {NAME: ("127.0.0.1",)}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    authority = Authority.make(tmp_path / "ca")
    with server(authority.certificate(NAME)) as seen:
        yield Place(authority=authority, seen=seen)


def get(url: str, routes: Routes, **also: object) -> requests.Response:
    return network.session(routes, stall=5).get(url, **also)  # type: ignore[arg-type]


def trouble(url: str, routes: Routes) -> Trouble:
    with pytest.raises(requests.RequestException) as caught:
        get(url, routes)
    return diagnose(caught.value, url.split("/")[2])


# -- names --------------------------------------------------------------------------------------------------------


def test_a_fixed_address_keeps_the_name_in_tls_and_host(place: Place) -> None:
    routes = Routes(hosts=place.pinned, ca_bundle=place.authority.file)
    assert get(place.url, routes).json() == {"path": "/v2/"}
    assert place.seen.names == [NAME]
    assert place.seen.hosts == [f"{NAME}:{place.seen.port}"]


def test_what_is_private_in_urllib3_is_still_there() -> None:
    """`connections` takes these of it. If this fails after an upgrade, all of this module has to be looked at."""
    made = HTTPConnection("name.test.", 80)
    assert made._dns_host == "name.test."
    assert made.host == "name.test"
    assert callable(made._new_conn)
    assert callable(made._tunnel)


def test_another_port_behind_the_name(place: Place) -> None:
    """As curl's and oras's `--resolve HOST:PORT:ADDR:PORT`."""
    hosts = {f"{NAME}:443": (f"127.0.0.1:{place.seen.port}",)}
    assert get(f"https://{NAME}/x", Routes(hosts=hosts, ca_bundle=place.authority.file)).ok
    assert place.seen.hosts == [NAME]
    hosts = {f"{NAME}:444": (f"127.0.0.1:{place.seen.port}",)}
    assert trouble("https://registry.invalid/x", Routes(hosts=hosts)).kind in ("nowhere", "slow")


def test_a_name_server_of_ones_own(place: Place) -> None:
    port = free_port()
    with name_server("127.0.0.1", {NAME: "127.0.0.1"}, port=port) as asked:
        routes = Routes(dns=(f"127.0.0.1:{port}",), ca_bundle=place.authority.file)
        assert get(place.url, routes).ok
    assert set(asked) == {NAME}
    assert place.seen.names == [NAME]


def test_the_error_has_all_that_was_tried_and_the_lines_to_add() -> None:
    port = free_port()
    with name_server("127.0.0.1", {}, port=port):
        found = trouble("https://registry.invalid/v2/", Routes(dns=(f"127.0.0.1:{port}",)))
    message, hint = found.error.message, found.error.hint or ""
    assert (
        f"the name of registry.invalid could not be resolved (DNS: 127.0.0.1:{port}: NXDOMAIN; this machine:" in message
    )
    assert "network: {hosts: {registry.invalid: ADDRESS}}" in hint
    assert "dns: [NAMESERVER]" in hint
    assert "mirrors: {registry.invalid: [HOST/PATH]}" in hint


def test_the_lines_to_add_hold_for_a_registry_on_another_port(tmp_path: Path) -> None:
    hint = trouble("https://registry.invalid:5000/v2/", Routes()).error.hint or ""
    line = re.search(r"mirrors: {.*?}", hint)
    assert line
    (tmp_path / "network.yaml").write_text(f"network: {{{line[0].replace('HOST/PATH', 'm.corp/x')}}}\n")
    routes = find_routes({}, tmp_path, None, Wanted(network=tmp_path / "network.yaml"))
    assert "docker://m.corp/x/a:1" in map(str, routes.places(parse_reference("docker://registry.invalid:5000/a:1")))


def test_addresses_that_do_not_answer_are_named(place: Place) -> None:
    routes = Routes(hosts={NAME: ("127.0.0.8", "127.0.0.9")})
    found = trouble(place.url, routes)
    assert found.kind == "refused"
    port = place.seen.port
    assert f"TCP: 127.0.0.8:{port}: refused; 127.0.0.9:{port}: refused" in found.error.message
    assert get(place.url, Routes(hosts={NAME: ("127.0.0.8", "127.0.0.1")}, ca_bundle=place.authority.file)).ok


# -- answers that come before all was sent ------------------------------------------------------------------------

PIECES = 64


@pytest.fixture(params=["plain", "TLS"])
def talkative(request: pytest.FixtureRequest, place: Place, tmp_path: Path) -> Iterator[tuple[Talkative, Routes]]:
    """A server that speaks before it has heard all, and the routes there."""
    certificate = place.authority.certificate("talk.test") if request.param == "TLS" else None
    with Talkative.running(certificate) as made:
        yield made, Routes(hosts={"talk.test": ("127.0.0.1",)}, ca_bundle=place.authority.file)


def send_much(session: requests.Session, url: str) -> tuple[int, int]:
    """Send 64 MiB after a short exchange: the status of the answer, and how many of them were sent."""
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(PIECES):
            sent += 1
            yield bytes(1 << 20)

    assert session.post(url).status_code == 202
    length = {"Content-Length": str(PIECES << 20)}
    return session.patch(url, data=pieces(), headers=length).status_code, sent


def test_a_refusal_is_heard_while_we_still_send(talkative: tuple[Talkative, Routes]) -> None:
    server, routes = talkative
    server.interrupts_with = "413 Too Much"
    session = network.session(routes, stall=5)
    status, sent = send_much(session, server.url)
    assert status == 413
    assert sent < PIECES / 2
    assert send_much(session, server.url)[0] == 413, "what was not sent to its end must not be used again"
    assert server.connections == 2


def test_a_server_that_says_something_else_meanwhile_gets_it_all(talkative: tuple[Talkative, Routes]) -> None:
    """100 is no answer, though nobody asked for it: that is found out once."""
    server, routes = talkative
    server.interrupts_with = "100 Continue"
    session = network.session(routes, stall=1)
    with pytest.raises(requests.Timeout):
        send_much(session, server.url)
    assert send_much(session, server.url) == (201, PIECES)


# -- certificates that must not be taken --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A certificate that is wrong, and what is said of it."""

    names: tuple[str, ...] = (NAME,)
    since: timedelta = -DAY
    until: timedelta = DAY
    known: bool = True
    says: str
    advises: str


BAD: Mapping[str, Bad] = {
    "wrong name": Bad(names=("other.example",), says="ismatch", advises="another server answers there"),
    "expired": Bad(since=-2 * DAY, until=-DAY / 2, says="expired", advises="has to renew it"),
    "not yet valid": Bad(
        since=DAY / 2, says="not yet valid): the clock of this machine may be slow", advises="set-ntp"
    ),
    "unknown authority": Bad(known=False, says="unable to get local issuer", advises="ca_bundle:"),
}
WAYS = ("fixed", "dns", "proxy", "proxy over TLS", "fixed behind a proxy")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", BAD)
def test_a_wrong_certificate_is_refused_by_every_way(tmp_path: Path, way: str, bad: str) -> None:
    """And its good twin is taken by the same way, so that it is the certificate that matters."""
    fault = BAD[bad]
    trusted, other = Authority.make(tmp_path / "ca"), Authority.make(tmp_path / "other", "somebody else")
    signer = trusted if fault.known else other
    wrong = signer.certificate(*fault.names, since=fault.since, until=fault.until)
    with server(trusted.certificate(NAME)) as good, server(wrong) as evil:
        for seen in (good, evil):
            with by(way, seen, trusted) as routes:
                url = f"https://{NAME}:{seen.port}/"
                if seen is good:
                    assert get(url, routes).ok
                    continue
                found = trouble(url, routes)
                assert found.kind == "untrusted", found
                assert fault.says in found.error.message
                assert fault.advises in (found.error.hint or "")
                assert evil.hosts == [], "nothing was sent to it"


class by:  # noqa: N801 - it reads like a word
    """Routes that lead to a server by one of the ways."""

    def __init__(self, way: str, seen: Seen, authority: Authority) -> None:
        self._way, self._seen, self._authority = way, seen, authority

    def __enter__(self) -> Routes:
        self._open = self._routes()
        return next(self._open)

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _routes(self) -> Iterator[Routes]:
        bundle, goal = self._authority.file, ("127.0.0.1", self._seen.port)
        if self._way == "fixed":
            yield Routes(hosts={NAME: ("127.0.0.1",)}, ca_bundle=bundle)
        elif self._way == "dns":
            port = free_port()
            with name_server("127.0.0.1", {NAME: "127.0.0.1"}, port=port):
                yield Routes(dns=(f"127.0.0.1:{port}",), ca_bundle=bundle)
        elif self._way == "proxy over TLS":
            certificate = self._authority.certificate("proxy.test")
            with forward_proxy({NAME: goal}, certificate=certificate) as proxy:
                address = {"https_proxy": f"https://proxy.test:{proxy.port}"}
                yield Routes(proxies=address, hosts={"proxy.test": ("127.0.0.1",)}, ca_bundle=bundle)
        elif self._way == "fixed behind a proxy":
            with forward_proxy({"127.0.0.42": goal}) as proxy:
                yield Routes(proxies={"https_proxy": proxy.url}, hosts={NAME: ("127.0.0.42",)}, ca_bundle=bundle)
                assert all(one.startswith("CONNECT 127.0.0.42:") for one in proxy.passed)
        else:
            with forward_proxy({NAME: goal}) as proxy:
                yield Routes(proxies={"https_proxy": proxy.url}, ca_bundle=bundle)
                assert all(one.startswith(f"CONNECT {NAME}:") for one in proxy.passed)


def test_insecure_is_for_one_call(place: Place) -> None:
    routes = Routes(hosts=place.pinned)
    session = network.session(routes, stall=5)
    assert session.get(place.url, verify=False).ok
    with pytest.raises(requests.exceptions.SSLError):
        session.get(place.url)


# -- proxies ------------------------------------------------------------------------------------------------------


def test_an_address_behind_a_proxy_fails_over(place: Place) -> None:
    """A fixed host is asked of the proxy by its address: the next one, where the proxy does not reach the first."""
    goal = ("127.0.0.1", place.seen.port)
    with forward_proxy({"127.0.0.42": goal}) as proxy:
        hosts = {NAME: ("127.0.0.41", "127.0.0.42:444")}
        routes = Routes(proxies={"https_proxy": proxy.url}, hosts=hosts, ca_bundle=place.authority.file)
        assert get(place.url, routes).ok
        assert proxy.passed == ["CONNECT 127.0.0.42:444"]
    assert place.seen.names == [NAME]


def test_a_proxy_with_a_login(place: Place) -> None:
    goal = ("127.0.0.1", place.seen.port)
    with forward_proxy({NAME: goal}, login="us er@corp:p@ss:w/rd+é") as proxy:
        address = f"http://{LOGIN}@127.0.0.1:{proxy.port}"
        routes = Routes(proxies={"https_proxy": address}, ca_bundle=place.authority.file)
        assert get(place.url, routes).ok
        assert all("Authorization" not in name for name in place.seen.headers[0]), "the login is the proxy's alone"
        wrong = trouble(place.url, Routes(proxies={"https_proxy": f"http://me:hush-hush@127.0.0.1:{proxy.port}"}))
    assert wrong.kind == "proxy"
    shown = f"the proxy http://127.0.0.1:{proxy.port} on the way to {NAME}:{place.seen.port} wants a login"
    assert wrong.error.message.startswith(shown)
    assert "(407)" in wrong.error.message
    assert "hush" not in f"{wrong}"


def test_a_plain_request_through_a_proxy(tmp_path: Path) -> None:
    with server(None) as seen, forward_proxy({"plain.test": ("127.0.0.1", seen.port)}, login="a:b") as proxy:
        routes = Routes(proxies={"http_proxy": f"http://a:b@127.0.0.1:{proxy.port}"})
        assert get("http://plain.test/x", routes).json() == {"path": "/x"}
        found = trouble("http://plain.test/x", Routes(proxies={"http_proxy": f"http://127.0.0.1:{proxy.port}"}))
        assert (found.kind, "407" in found.error.message) == ("proxy", True)


def test_a_plain_request_through_a_proxy_over_tls(place: Place) -> None:
    """The proxy is held to our trust, even for a host that anything is allowed."""
    certificate = place.authority.certificate("127.0.0.1")
    with (
        server(None) as seen,
        forward_proxy({"plain.test": ("127.0.0.1", seen.port)}, certificate=certificate) as proxy,
    ):
        given = {"http_proxy": f"https://127.0.0.1:{proxy.port}"}
        trusting = Routes(proxies=given, ca_bundle=place.authority.file)
        assert get("http://plain.test/x", trusting, verify=False).json() == {"path": "/x"}
        with pytest.raises(requests.RequestException) as caught:
            get("http://plain.test/x", Routes(proxies=given), verify=False)
        assert diagnose(caught.value, "plain.test").kind == "proxy"
        assert seen.hosts == ["plain.test"]


def test_the_proxy_s_own_name_is_looked_up_our_way(place: Place) -> None:
    with forward_proxy({NAME: ("127.0.0.1", place.seen.port)}) as proxy:
        address = {"https_proxy": f"http://proxy.invalid:{proxy.port}"}
        routes = Routes(proxies=address, hosts={"proxy.invalid": ("127.0.0.1",)}, ca_bundle=place.authority.file)
        assert get(place.url, routes).ok
        found = trouble(place.url, Routes(proxies=address, ca_bundle=place.authority.file))
    assert found.kind == "proxy"
    assert "the proxy http://proxy.invalid:" in found.error.message
    assert "its name could not be resolved (DNS: this machine:" in found.error.message


@pytest.mark.parametrize("given", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "socks5://127.0.0.1:{port}"])
def test_what_is_no_proxy(given: str, place: Place) -> None:
    """Nothing listens there; what listens speaks no TLS; or it is of another kind."""
    port = free_port() if given.startswith("http:") else place.seen.port
    if given.startswith("https:"):
        with forward_proxy({}) as proxy:
            found = trouble(place.url, Routes(proxies={"https_proxy": given.format(port=proxy.port)}))
        assert "TLS with it fails" in found.error.message
    elif given.startswith("socks"):
        with pytest.raises(Exception, match="a proxy that speaks socks5 is of no use"):
            get(place.url, Routes(proxies={"https_proxy": given.format(port=port)}))
    else:
        found = trouble(place.url, Routes(proxies={"https_proxy": given.format(port=port)}))
        assert found.kind == "proxy"
        assert f"it takes no connection (TCP: 127.0.0.1:{port}: refused)" in found.error.message


def test_no_proxy_holds_after_a_redirect(place: Place, tmp_path: Path) -> None:
    with forward_proxy({}) as proxy:
        given = {"https_proxy": proxy.url, "no_proxy": f"10.0.0.0/8,{NAME}:{place.seen.port}"}
        assert get(place.url, Routes(proxies=given, hosts=place.pinned, ca_bundle=place.authority.file)).ok
        assert trouble(f"https://{NAME}:1/", Routes(proxies=given, hosts=place.pinned)).kind == "proxy"
        assert proxy.passed == []


# -- traps of the machine -----------------------------------------------------------------------------------------


def test_nothing_of_the_environment_beats_what_was_given(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests would take another CA from these, and a login from ~/.netrc."""
    other = Authority.make(tmp_path / "other")
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {NAME} login somebody password hush-hush\n")
    netrc.chmod(0o600)
    for name, value in (
        ("REQUESTS_CA_BUNDLE", other.file), ("CURL_CA_BUNDLE", other.file), ("HOME", tmp_path), ("NETRC", netrc),
    ):  # fmt: skip
        monkeypatch.setenv(name, str(value))
    routes = Routes(hosts=place.pinned, ca_bundle=place.authority.file)
    assert get(place.url, routes).ok
    assert "Authorization" not in place.seen.headers[0]
    assert get(place.url, routes, headers={"Authorization": "Bearer x"}).ok
    assert place.seen.headers[1]["Authorization"] == "Bearer x"
    # The one that only the environment knows is not trusted.
    with server(other.certificate(NAME)) as evil:
        assert trouble(f"https://{NAME}:{evil.port}/", routes).kind == "untrusted"


# -- certificates of one's own ------------------------------------------------------------------------------------


def folder_for(root: Path, host: str, *files: tuple[str, Path]) -> Path:
    place = root / host
    place.mkdir(parents=True)
    for name, file in files:
        (place / name).write_bytes(file.read_bytes())
    return root


def test_folders_as_docker_has_them(tmp_path: Path) -> None:
    """Authorities and a client certificate, for one host and its port, and for no other."""
    authority, people = Authority.make(tmp_path / "ca"), Authority.make(tmp_path / "people")
    client = people.certificate("build-7", client=True)
    with server(authority.certificate(NAME, "127.0.0.1"), clients=people.file) as seen:
        url = f"https://{NAME}:{seen.port}/"
        files = (("ca.crt", authority.file), ("client.cert", client), ("client.key", client.with_suffix(".key")))
        certs = folder_for(tmp_path / "certs.d", f"{NAME}:{seen.port}", *files)
        routes = Routes(hosts={NAME: ("127.0.0.1",)}, certs=(tmp_path / "nowhere", certs))
        assert get(url, routes).ok
        assert seen.clients == ["build-7"]
        found = trouble(f"https://127.0.0.1:{seen.port}/", routes)
        assert found.kind == "untrusted", "the folder is for another host"
        bare = folder_for(tmp_path / "bare", f"{NAME}:{seen.port}", files[0])
        found = trouble(url, Routes(hosts={NAME: ("127.0.0.1",)}, certs=(bare,)))
        # Whether its last word arrives before it hangs up is a matter of luck.
        assert "client certificate" in found.error.message
        assert f"network: {{certs_d: DIR}}, with DIR/{NAME}:{seen.port}/client.cert" in (found.error.hint or "")


def test_docker_hub_has_three_names(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    certs = folder_for(tmp_path / "certs.d", "docker.io", ("ca.crt", authority.file))
    with server(authority.certificate(NAME)) as seen:
        hosts = {f"{NAME}:443": (f"127.0.0.1:{seen.port}",)}
        assert get(f"https://{NAME}/v2/", Routes(hosts=hosts, certs=(certs,))).ok


@pytest.mark.parametrize("fault", ["no key", "no certificate", "not PEM"])
def test_files_that_cannot_be_used_are_named(tmp_path: Path, fault: str) -> None:
    authority = Authority.make(tmp_path / "ca")
    client = authority.certificate("build-7", client=True)
    junk = tmp_path / "junk"
    junk.write_bytes(b"\0\1")
    files = {
        "no key": [("client.cert", client)],
        "no certificate": [("client.cert", junk), ("client.key", client.with_suffix(".key"))],
        "not PEM": [("ca.crt", junk)],
    }[fault]
    certs = folder_for(tmp_path / "certs.d", "a.test", *files)
    with pytest.raises(Exception, match=r"certs\.d/a\.test/") as caught:
        get("https://a.test/", Routes(certs=(certs,), hosts={"a.test": ("127.0.0.1",)}))
    assert getattr(caught.value, "hint", None)


def test_a_black_hole_ends_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence 4: host, address and phase are named."""
    with socket.socket() as full:
        full.bind(("127.0.0.8", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.8", port))
        session = network.session(Routes(hosts={"hole.test": ("127.0.0.8",)}))
        with pytest.raises(requests.RequestException) as caught:
            session.get(f"https://hole.test:{port}/", timeout=(1, 1))
        for one in waiting:
            one.close()
    found = diagnose(caught.value, f"hole.test:{port}")
    assert found.kind == "slow"
    assert (
        f"hole.test:{port} did not take a connection in time (TCP: 127.0.0.8:{port}: no answer)" in found.error.message
    )


def test_a_proxy_is_shown_without_its_login(place: Place) -> None:
    with forward_proxy({}) as proxy:
        assert isinstance(proxy, Forward)
        found = trouble(place.url, Routes(proxies={"https_proxy": f"http://me:hush-hush@127.0.0.1:{proxy.port}"}))
    assert "it answers 502" in found.error.message
    assert "hush" not in f"{found.error.message}{found.error.hint}"
