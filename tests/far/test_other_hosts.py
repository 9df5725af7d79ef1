"""Hosts that would like to have a login that is not theirs: they are sent requests, and write down all that comes."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from composer.oci.layout import LayoutStore
from tests.command import environment, tricompose
from tests.images import picture, put
from tests.services.proxy import Answer, Proxy, Redirect, Rules
from tests.services.registry import PASSWORD, USERNAME, Registry, login, running_registry, store_at

pytestmark = pytest.mark.registry

IMAGE = picture(filler=50_000, seed=77)
FORMS = (PASSWORD.encode(), base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()))


@dataclass(slots=True)
class Curious:
    """A host that asks for a login with `challenge`, if it has one, and is given what comes."""

    challenge: str = ""
    heard: list[bytes] = field(default_factory=list)
    server: ThreadingHTTPServer = field(init=False)

    def __enter__(self) -> Curious:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *trouble: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def host(self) -> str:
        return f"localhost:{self.server.server_port}"


def _handler(host: Curious) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            host.heard.append(f"{self.requestline}\n{self.headers}\n".encode() + body)
            self.send_response(401 if host.challenge else 404)
            if host.challenge:
                self.send_header("WWW-Authenticate", host.challenge.replace("HOST", host.host))
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = reply  # noqa: N815

        def log_message(self, *values: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One that asks for a login, with an image in it."""
    folder = tmp_path_factory.mktemp("asking")
    with running_registry(folder, basic=True) as running:
        put(store_at(f"{running.host}/a/image", credentials=login(folder, running.host)), IMAGE, "1")
        yield running


BASIC = 'Basic realm="all of you"'
BEARER = 'Bearer realm="http://HOST/token",service="registry",scope="repository:a/image:pull"'


def sent_elsewhere(how: str, port: int) -> Rules:
    """How a registry sends its clients to another host."""
    there = (("Location", f"http://localhost:{port}/v2/a/image/blobs/uploads/1"),)
    return {
        "a download is redirected": Redirect(port=port),
        "a manifest is redirected": Redirect(path="/manifests/", port=port),
        "an upload is to go on there": Answer(method="POST", path="/uploads/", status=202, headers=there),
        "an upload is redirected": Answer(method="POST|PUT|PATCH", path="/uploads/", status=307, headers=there),
    }[how]


@pytest.mark.parametrize(
    ("how", "challenge"),
    [
        ("a download is redirected", BEARER),
        ("a manifest is redirected", BASIC),
        ("an upload is to go on there", BASIC),
        ("an upload is to go on there", ""),
        ("an upload is redirected", BEARER),
    ],
)
def test_where_a_registry_sends_us_nobody_learns_who_we_are(
    registry: Registry, tmp_path: Path, how: str, challenge: str
) -> None:
    with (
        Curious(challenge) as curious,
        Proxy(registry.port, [sent_elsewhere(how, curious.server.server_port)]) as proxy,
    ):
        login(tmp_path / ".docker", proxy.host)
        uploads = how.startswith("an upload")
        place = f"docker://{proxy.host}/a/{'fresh' if uploads else 'image'}"
        put(LayoutStore.ensure(tmp_path / "here"), IMAGE, "1")
        ends = ("oci:here:1", f"{place}:2") if uploads else (f"{place}:1", "oci:there:1")
        said = tricompose("copy", *ends, "--max-wait", 2, cwd=tmp_path, env=environment(tmp_path))
    assert said.returncode != 0, "what is there is nothing of use"
    assert_nothing_learned(curious)
    assert_nothing_shown(said.stdout + said.stderr)


@pytest.mark.parametrize("challenge", ["", BASIC, BEARER], ids=["asks nothing", "basic", "bearer"])
def test_a_mirror_does_not_learn_who_we_are_to_the_registry(registry: Registry, tmp_path: Path, challenge: str) -> None:
    """And the registry itself is asked when the mirror is of no use."""
    with Curious(challenge) as curious:
        login(tmp_path / ".docker", registry.host)
        rules = f"network: {{mirrors: {{'{registry.host}': [{curious.host}/copies]}}}}\n"
        (tmp_path / "network.yaml").write_text(rules)
        ends = (f"docker://{registry.host}/a/image:1", "oci:there:1")
        said = tricompose(
            "copy", *ends, "--network", "network.yaml", "--max-wait", 5, cwd=tmp_path, env=environment(tmp_path)
        )
    assert said.returncode == 0, said.stderr
    assert_nothing_learned(curious)
    assert_nothing_shown(said.stdout + said.stderr)


def test_a_host_that_is_listened_to_would_be_told(tmp_path: Path) -> None:
    """The host whose login it is: what comes there is what is looked for."""
    with Curious(BASIC) as curious:
        login(tmp_path / ".docker", curious.host)
        tricompose("inspect", f"docker://{curious.host}/a/image:1", cwd=tmp_path, env=environment(tmp_path))
    assert any(form in heard for heard in curious.heard for form in FORMS)


def assert_nothing_learned(curious: Curious) -> None:
    assert curious.heard, "nobody came, so this would prove nothing"
    for heard in curious.heard:
        assert not any(form in heard for form in FORMS), heard
        assert b"\nauthorization:" not in heard.lower(), heard


def assert_nothing_shown(said: str) -> None:
    assert not any(form.decode() in said for form in FORMS)
