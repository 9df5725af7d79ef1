"""Builds on a machine that reaches nothing: from the error alone to an image, by each way that `network:` offers.

The machine is a network namespace. Its name server knows no name, and its only ways out are those that a test opens.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import COMMAND, Said, environment, tricompose
from tests.conftest import require
from tests.network.certificates import Authority
from tests.network.servers import Front, tls_front
from tests.parity.place import BASE, Place, packed, server
from tests.services.dns import name_server
from tests.services.forward import forward_proxy
from tests.services.namespaces import Machine, machine
from tests.services.registry import PASSWORD, USERNAME, running_registry

pytestmark = pytest.mark.registry

HUB = "registry-1.docker.io"
HARBOR = "harbor.corp"
AT_HUB, AT_DNS, AT_HARBOR, AT_PROXY = "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"
PROXY_PASSWORD = "proxy p@ss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Docker Hub and a Harbor that mirrors it, both with TLS, the Hub with a login; and a machine that sees neither."""

    folder: Path
    authority: Authority
    hub: Front
    harbor: Front
    far: Machine

    def build(self, network: str, *options: str, name: str = "recipe", **env: str) -> Said:
        """Build there, into a layout of the recipe's name."""
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text(
            "upstream: {full: 'docker://docker.io/library/server:full', min: 'docker://docker.io/library/server:min'}\n"
            f'triton: "24.10"\nbackends: [python]\n'
            f"outputs: ['oci:out-{name}:1']\n{network}\n"
        )
        return self.run("build", recipe, "--no-validate", "--json", *options, **env)

    def run(self, *arguments: object, **env: str) -> Said:
        home = self.folder / "home"
        line = self.far.line(COMMAND, *arguments, "--cache", self.folder / "cache", cwd=self.folder)
        known = {"HUB_USER": USERNAME, "HUB_PASSWORD": PASSWORD, **env}
        said = subprocess.run(
            line, capture_output=True, text=True, env=environment(home, **known), timeout=100, check=False
        )
        with (self.folder / "said").open("a") as file:
            file.write(said.stdout + said.stderr)
        return said

    def cleared(self) -> Site:
        """With nothing in the cache."""
        tricompose("cache", "clear", "--cache", self.folder / "cache", cwd=self.folder)
        return self


LOGIN = "credentials: {docker.io: {username: HUB_USER, password: HUB_PASSWORD}}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require("docker-registry", "unshare", "nsenter", "ip")
    folder = tmp_path_factory.mktemp("hostile")
    authority = Authority.make(folder / "ca")
    (folder / "ca.pem").write_bytes(authority.file.read_bytes())
    with ExitStack() as stack:
        guarded = stack.enter_context(running_registry(folder / "guarded", basic=True))
        open_one = stack.enter_context(running_registry(folder / "open"))
        upstream = Place(folder)
        upstream.upstream(BASE, packed(server("python", "onnxruntime")), base=1)
        (folder / ".docker").mkdir()
        auth = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        (folder / ".docker/config.json").write_text(json.dumps({"auths": {guarded.host: {"auth": auth}}}))
        for host, prefix in ((guarded.host, ""), (open_one.host, "hub/")):
            for tag in ("full", "min"):
                done = tricompose(
                    "copy", f"oci:upstream:{tag}", f"docker://{host}/{prefix}library/server:{tag}", cwd=folder
                )
                assert done.returncode == 0, done.stderr
        (folder / ".docker/config.json").unlink()
        hub = stack.enter_context(tls_front(authority.certificate(HUB), ("127.0.0.1", guarded.port)))
        harbor = stack.enter_context(tls_front(authority.certificate(HARBOR), ("127.0.0.1", open_one.port)))
        far = stack.enter_context(machine(folder / "far", addresses=(AT_HUB, AT_DNS, AT_HARBOR, AT_PROXY)))
        yield Site(folder=folder, authority=authority, hub=hub, harbor=harbor, far=far)


def built(site: Site, said: Said, name: str) -> None:
    assert said.returncode == 0, said.stderr
    assert (site.folder / f"out-{name}" / "index.json").is_file()


def refused(said: Said) -> tuple[str, str]:
    assert said.returncode == 9, (said.returncode, said.stderr)
    error = json.loads(said.stdout)["error"]
    return error["message"], error["hint"]


def test_the_seed_s_own_failure_reproduced_and_mended(site: Site) -> None:
    """`lookup registry-1.docker.io: no such host`; the hint, with an address in it, goes into the recipe."""
    said = site.cleared().build(f"network: {{{LOGIN}, ca_bundle: ca.pem}}", name="seed")
    message, hint = refused(said)
    assert message.startswith(f"the name of {HUB} could not be resolved (DNS: this machine: ")
    [lines] = re.findall(r"network: \{(hosts: \{[^}]*\})\}", hint)
    pasted = lines.replace("ADDRESS", AT_HUB)
    with site.far.door((AT_HUB, 443), ("127.0.0.1", site.hub.port)):
        built(site, site.build(f"network: {{{pasted}, {LOGIN}, ca_bundle: ca.pem}}", name="seed"), "seed")
        found = site.cleared().run(
            "inspect", "docker://docker.io/library/server:full", "--resolve", f"{HUB}:443:{AT_HUB}", "--ca-bundle",
            "ca.pem", "--network", "seed.yaml", "--json",
        )  # fmt: skip
        assert found.returncode == 0, found.stderr


def test_a_name_server_of_ones_own(site: Site) -> None:
    with ExitStack() as stack:
        stack.enter_context(site.far.door((AT_HUB, 443), ("127.0.0.1", site.hub.port)))
        with site.far.within():
            asked = stack.enter_context(name_server(AT_DNS, {HUB: AT_HUB}))
        network = f"network: {{dns: ['{AT_DNS}'], {LOGIN}, ca_bundle: ca.pem}}"
        built(site, site.cleared().build(network, name="dns"), "dns")
        assert HUB in asked


@pytest.mark.parametrize("said_by", ["the recipe", "a network file", "a registries.conf"])
def test_a_mirror_only(site: Site, said_by: str) -> None:
    """The Hub cannot be reached, by any name."""
    hosts = f"hosts: {{{HARBOR}: {AT_HARBOR}}}, ca_bundle: ca.pem"
    mirrors = f"mirrors: {{docker.io: ['{HARBOR}/hub']}}"
    name = f"mirror-{said_by.rpartition(' ')[2]}".replace(".", "-")
    options: Sequence[str] = ()
    (site.folder / "net.yaml").write_text(f"network: {{{mirrors}}}\n")
    (site.folder / "registries.conf").write_text(
        f'[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "{HARBOR}/hub"\n'
    )
    if said_by != "the recipe":
        options = ("--network", "net.yaml" if said_by == "a network file" else "registries.conf")
    with site.far.door((AT_HARBOR, 443), ("127.0.0.1", site.harbor.port)):
        network = f"network: {{{hosts}{', ' + mirrors if not options else ''}}}"
        built(site, site.cleared().build(network, *options, name=name), name)
    assert_silent(site.harbor, "nothing of the Hub's login is told to its mirror")


def assert_silent(front: Front, why: str) -> None:
    assert b"uthorization" not in front.heard, why


def test_a_proxy_with_a_login_only(site: Site) -> None:
    goal = ("127.0.0.1", site.hub.port)
    with (
        forward_proxy({HUB: goal}, login=f"me:{PROXY_PASSWORD}") as proxy,
        site.far.door((AT_PROXY, 3128), ("127.0.0.1", proxy.port)),
    ):
        network = f"network: {{proxy: {{https: '${{PROXY}}'}}, {LOGIN}, ca_bundle: ca.pem}}"
        address = f"{AT_PROXY}:3128"
        said = site.cleared().build(network, name="proxy", PROXY=f"http://me:proxy%20p%40ss@{address}")
        built(site, said, "proxy")
        assert set(proxy.passed) == {f"CONNECT {HUB}:443"}
        message, hint = refused(site.cleared().build(network, name="proxy", PROXY=f"http://me:wr0ng-one@{address}"))
        assert f"the proxy http://{address} on the way to {HUB} wants a login, or another one (407)" in message
        assert "proxy" in hint
        message, _ = refused(site.build(network, name="proxy", PROXY=f"http://{AT_PROXY}:1"))
        assert f"it takes no connection (TCP: {AT_PROXY}:1: refused)" in message
    assert b"Proxy-Authorization" not in site.hub.heard, "the proxy's login is the proxy's alone"


@pytest.mark.parametrize("way", ["fixed", "mirror"])
def test_a_private_authority_only(site: Site, way: str) -> None:
    """Without it the certificate is refused each time, and nothing of ours has been sent."""
    said = {
        "fixed": f"hosts: {{{HUB}: {AT_HUB}}}",
        "mirror": f"hosts: {{{HARBOR}: {AT_HARBOR}}}, blocked: [docker.io], mirrors: {{docker.io: ['{HARBOR}/hub']}}",
    }[way]
    certs = site.folder / "certs.d"
    for host in (HUB, HARBOR):
        (certs / host).mkdir(parents=True, exist_ok=True)
        (certs / host / "ca.crt").write_bytes(site.authority.file.read_bytes())
    with (
        site.far.door((AT_HUB, 443), ("127.0.0.1", site.hub.port)),
        site.far.door((AT_HARBOR, 443), ("127.0.0.1", site.harbor.port)),
    ):
        heard = len(site.hub.heard) + len(site.harbor.heard)
        message, _ = refused(site.cleared().build(f"network: {{{said}, {LOGIN}}}", name="private"))
        assert "certificate" in message
        assert len(site.hub.heard) + len(site.harbor.heard) == heard
        built(
            site, site.build(f"network: {{{said}, {LOGIN}, certs_d: certs.d}}", name=f"private-{way}"), f"private-{way}"
        )


def test_a_login_that_is_not_set_is_told_by_its_line(site: Site) -> None:
    said = site.build("network: {credentials: {docker.io: {username: HUB_USER, password: NOT_SET}}}", name="unset")
    assert said.returncode == 3
    [problem] = json.loads(said.stdout)["error"]["problems"]
    assert re.search(r"unset\.yaml:\d+:\d+", problem["where"])
    assert "NOT_SET is not set" in problem["message"]


def test_no_secret_is_left_behind(site: Site) -> None:
    """What all these runs said, kept and made, and their recipes and Dockerfiles too."""
    network = f"network: {{hosts: {{{HUB}: {AT_HUB}}}, {LOGIN}, ca_bundle: ca.pem}}"
    with site.far.door((AT_HUB, 443), ("127.0.0.1", site.hub.port)):
        built(site, site.cleared().build(network, "--verbose", "--progress", "json", name="secrets"), "secrets")
        done = site.run("plan", "secrets.yaml", "--dockerfile", "folder")
        assert done.returncode == 0, done.stderr
    assert b"uthorization: Basic" in site.hub.heard, "the login was used"
    basic = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode())
    forms = (PASSWORD.encode(), basic, b"proxy p@ss", b"proxy%20p%40ss", b"wr0ng-one")
    kept = [
        path for path in site.folder.rglob("*") if path.is_file() and not path.is_relative_to(site.folder / "guarded")
    ]
    assert len(kept) > 20
    assert [str(path) for path in kept if any(form in path.read_bytes() for form in forms)] == []
