"""A hostile network, in the build: what a recipe's `network:` says is what makes a build succeed that fails without.

Containers reach this machine at the gateway of the engine's bridge, and nothing else: there is no internet in them.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.network_files import network_files
from composer.recipe import parse_recipe
from composer.rendering import template_text
from tests.aptbase import make_small
from tests.command import tricompose
from tests.conftest import require
from tests.services.apt import AptMirror, SigningKey
from tests.services.dns import name_server
from tests.services.dockerd import DOCKER, Dockerd, running_dockerd
from tests.services.forward import forward_proxy
from tests.services.index import make_index, make_wheel
from tests.services.registry import make_certificate
from tests.services.web import Web, web
from tests.turns import in_turn
from tests.upstream.image import Upstream

pytestmark = pytest.mark.docker

BASE = "min-apt:1"
KEYRINGS = {"1.0-1": "ubuntu2204/x86_64", "1.1-1": "ubuntu2404/x86_64"}
"""NVIDIA's packages of its own keys, by version, and which repository each is for."""
SUITES = (
    *("debian/dists/bookworm", "debian/dists/bookworm-updates", "debian-security/dists/bookworm-security"),
    *(f"cuda/{place}/" for place in KEYRINGS.values()),
)
SERVER = (*("libnuma1", "libgoogle-perftools4", "libre2-9", "libjemalloc2", "libarchive13", "libpython3.10"),)
"""What a Dockerfile of 24.10 installs for the server and the python backend, and the image does not have."""
WHEELS = {"probe": "1.0", "virtualenv": "20.0", "numpy": "1.26.4", "pip": "0.1", "setuptools": "0.1", "wheel": "0.1"}
UPDATE = "apt-get update -o APT::Update::Error-Mode=any -o Acquire::Retries=0"
INSTALL = "apt-get install -y --no-install-recommends"
APT = f"{UPDATE} && {INSTALL} libb64-0d && test -f /usr/lib/libb64-0d"
PIP = "pip3 install --retries 0 --timeout 3 --break-system-packages probe && python3 -c 'import probe'"
NAME = "mirror.test"
"""A name that only `network.hosts`, a name server of ours or a proxy knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The engine, the address at which its containers reach this machine, and what is served there."""

    engine: Dockerd
    gateway: str
    images: Upstream
    mirror: AptMirror
    key: SigningKey

    def build(
        self, folder: Path, network: str, *commands: str, builder: str, base: str = BASE, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Build a folder as people do, each command a RUN; the result is called `built`."""
        context(folder, network, commands, base)
        argv = [DOCKER, "--host", self.engine.host, "build", "--no-cache", "--tag", "built", *options, str(folder)]
        environ = {**os.environ, "DOCKER_BUILDKIT": "1" if builder == "buildkit" else "0", "BUILDKIT_PROGRESS": "plain"}
        ran = subprocess.run(
            argv, env=environ, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
        )
        # The classic builder paints what comes by standard error, letter by letter.
        ran.stdout = re.sub(r"\x1b\[[0-9]*m", "", ran.stdout)
        return ran


def context(folder: Path, network: str, commands: tuple[str, ...], base: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tricompose").mkdir(parents=True)
    recipe = parse_recipe(
        f'triton: "24.10"\nbackends: [python]\nnetwork: {network}\n', path=folder / "recipe.yaml", environ={}
    )
    for name, data in network_files(recipe).items():
        (folder / "tricompose" / name).write_bytes(data)
        (folder / "tricompose" / name).chmod(0o600)
    (folder / "tricompose/shell.sh").write_text(template_text("dockerfile/shell.sh"))
    lines = [f"FROM {base}", "COPY tricompose/ /tricompose/", 'SHELL ["/bin/sh", "/tricompose/shell.sh"]']
    # Nobody answers at the name server that containers have by default: not for long.
    lines.append('ENV RES_OPTIONS="timeout:1 attempts:1"')
    (folder / "Dockerfile").write_text("\n".join([*lines, *(f"RUN {command}" for command in commands)]) + "\n")


@pytest.fixture(scope="module")
def site(docker_engine: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    docker_engine.remove_everything()
    with site_of(docker_engine, tmp_path_factory.mktemp("site")) as made:
        yield made
    docker_engine.remove_everything()


@contextmanager
def site_of(engine: Dockerd, folder: Path) -> Iterator[Site]:
    require("gpg", "dpkg-deb", "openssl")
    with in_turn("upstream"):
        images = make_small(folder / "images")
    environ = {**os.environ, "DOCKER_HOST": engine.host}
    copied = tricompose("copy", images.min, f"docker-daemon:{BASE}", cwd=folder, env=environ)
    assert copied.returncode == 0, copied.stderr
    gateway = engine.docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    key = SigningKey.make(folder / "gpg")
    try:
        yield Site(engine=engine, gateway=gateway, images=images, mirror=mirror_of(folder / "www", key), key=key)
    finally:
        key.stop()


def mirror_of(folder: Path, key: SigningKey) -> AptMirror:
    """Debian's archives, NVIDIA's, and a package index."""
    mirror = AptMirror(folder=folder)
    for name in ("libb64-0d", "libgl1", *SERVER):
        mirror.add(name, "1.2-5", {f"usr/lib/{name}": b"a stand-in"})
    for name, version in (("datacenter-gpu-manager-4-core", "1:4.4.0-1"), ("datacenter-gpu-manager", "1:3.2.6")):
        mirror.add(name, version, {f"usr/lib/{name}": b"a stand-in"})
    source = "deb [signed-by=/usr/share/keyrings/cuda.gpg] https://developer.download.nvidia.com/compute/cuda/repos"
    for version, place in KEYRINGS.items():
        files = {
            "usr/share/keyrings/cuda.gpg": key.binary.read_bytes(),
            "etc/apt/sources.list.d/cuda.list": f"{source}/{place}/ /\n".encode(),
        }
        mirror.add("cuda-keyring", version, files)
    mirror.publish(SUITES, key=key)
    for version, place in KEYRINGS.items():
        # NVIDIA has the packages of its keys beside the index.
        deb = f"cuda-keyring_{version}_all.deb"
        (folder / "cuda" / place / deb).symlink_to(folder / "pool" / deb)
    make_index(folder, [make_wheel(folder / "wheels", name, version) for name, version in WHEELS.items()])
    return mirror


@pytest.fixture
def served(site: Site) -> Iterator[Web]:
    with web(site.mirror.folder, address=site.gateway) as running:
        yield running


@pytest.fixture(params=["classic", "buildkit"])
def builder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_packages_come_from_the_mirror_and_etc_apt_stays_as_it_was(
    site: Site, served: Web, builder: str, tmp_path: Path
) -> None:
    network = f"{{apt_mirror: '{served.url}/debian/', apt_key: {site.key.armored}}}"
    built = site.build(tmp_path / "c", network, APT, builder=builder)
    assert built.returncode == 0, built.stdout
    assert any(path.endswith("libb64-0d_1.2-5_all.deb") for path in served.asked)
    assert any(path.startswith("/debian-security/") for path in served.asked)
    listing = "find /etc/apt -printf '%p %m %U %s %T@\\n' | sort; cat /etc/apt/sources.list.d/*"
    before, after = (
        site.engine.docker("run", "--rm", "--entrypoint", "sh", image, "-c", listing) for image in (BASE, "built")
    )
    assert before == after


def test_without_a_mirror_there_are_no_packages(site: Site, builder: str, tmp_path: Path) -> None:
    built = site.build(tmp_path / "c", "{}", APT, builder=builder)
    assert built.returncode != 0
    assert re.search("Temporary failure resolving|Could not resolve", built.stdout)


def test_a_mirror_with_a_key_of_its_own_is_not_believed_without_it(
    site: Site, served: Web, builder: str, tmp_path: Path
) -> None:
    built = site.build(tmp_path / "c", f"{{apt_mirror: '{served.url}/debian'}}", APT, builder=builder)
    assert built.returncode != 0
    assert "NO_PUBKEY" in built.stdout


def test_a_key_that_the_image_knows_need_not_be_given(site: Site, served: Web, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/key.asc").write_bytes(site.key.armored.read_bytes())
    (tmp_path / "b/Dockerfile").write_text(
        f"FROM {BASE}\nCOPY key.asc /etc/apt/trusted.gpg.d/\n"
        "RUN rm /etc/apt/sources.list.d/* && "
        "echo 'deb http://archive.ubuntu.com/ubuntu bookworm main' > /etc/apt/sources.list\n"
    )
    site.engine.docker("build", "--tag", "known", str(tmp_path / "b"))
    network = f"{{apt_mirror: '{served.url}/debian'}}"
    built = site.build(tmp_path / "c", network, APT, builder="classic", base="known")
    assert built.returncode == 0, built.stdout


def test_a_key_for_an_image_with_keys_but_no_signed_by(site: Site, served: Web, tmp_path: Path) -> None:
    """Older Ubuntu: its sources name no key. The image's own stay good, and the mirror's is one more."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/Dockerfile").write_text(
        f"FROM {BASE}\nRUN rm /etc/apt/sources.list.d/* && "
        "echo 'deb [arch=amd64] http://archive.ubuntu.com/ubuntu bookworm main' > /etc/apt/sources.list\n"
    )
    site.engine.docker("build", "--tag", "older", str(tmp_path / "b"))
    network = f"{{apt_mirror: '{served.url}/debian', apt_key: {site.key.binary}}}"
    built = site.build(tmp_path / "c", network, APT, builder="classic", base="older")
    assert built.returncode == 0, built.stdout


DCGM = (
    "curl -fsS -o /tmp/keyring.deb ${CUDA_REPOS}/ubuntu2404/x86_64/cuda-keyring_1.1-1_all.deb && "
    f"dpkg -i /tmp/keyring.deb && {UPDATE} && {INSTALL} datacenter-gpu-manager-4-core && "
    "test -f /usr/lib/datacenter-gpu-manager-4-core"
)


def test_cuda_packages_come_from_their_mirror_even_if_the_source_is_added_in_the_same_run(
    site: Site, served: Web, builder: str, tmp_path: Path
) -> None:
    network = f"{{cuda_mirror: '{served.url}/cuda', apt_mirror: '{served.url}/debian', apt_key: {site.key.armored}}}"
    built = site.build(tmp_path / "c", network, DCGM, builder=builder)
    assert built.returncode == 0, built.stdout
    assert "/cuda/ubuntu2404/x86_64/InRelease" in served.asked
    listed = site.engine.docker("run", "--rm", "--entrypoint", "cat", "built", "/etc/apt/sources.list.d/cuda.list")
    assert "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404" in listed
    assert site.gateway not in listed


def test_python_packages_come_from_the_index(site: Site, served: Web, builder: str, tmp_path: Path) -> None:
    host = f"{site.gateway}:{served.port}"
    network = f"{{pip_index: '{served.url}/simple', insecure: ['{host}']}}"
    built = site.build(tmp_path / "c", network, PIP, builder=builder)
    assert built.returncode == 0, built.stdout
    assert "/simple/probe/probe-1.0-py3-none-any.whl" in served.asked
    assert site.build(tmp_path / "c", "{}", PIP, builder=builder).returncode != 0


def test_hosts_have_the_addresses_that_are_given(site: Site, served: Web, builder: str, tmp_path: Path) -> None:
    address = f"http://{NAME}:{served.port}/debian"
    network = f"{{apt_mirror: '{address}', apt_key: {site.key.armored}}}"
    known = site.build(tmp_path / "c", network, APT, builder=builder, options=("--add-host", f"{NAME}:{site.gateway}"))
    assert known.returncode == 0, known.stdout
    assert site.build(tmp_path / "c", network, APT, builder=builder).returncode != 0


def test_names_are_asked_of_the_name_server_that_is_given(site: Site, served: Web, tmp_path: Path) -> None:
    mirror = f"apt_mirror: 'http://{NAME}:{served.port}/debian', apt_key: {site.key.armored}"
    with name_server(site.gateway, {NAME: site.gateway}) as asked:
        built = site.build(tmp_path / "c", f"{{{mirror}, dns: ['{site.gateway}']}}", APT, builder="classic")
    assert built.returncode == 0, built.stdout
    assert NAME in asked
    assert site.build(tmp_path / "c", f"{{{mirror}}}", APT, builder="classic").returncode != 0
    resolv = site.engine.docker("create", "built")
    try:
        exported = site.engine.docker("cp", f"{resolv.strip()}:/etc/resolv.conf", "-")
    finally:
        site.engine.docker("rm", resolv.strip())
    assert f"nameserver {site.gateway}" not in exported


def test_buildkit_which_lets_nobody_choose_name_servers_says_so(site: Site, tmp_path: Path) -> None:
    built = site.build(tmp_path / "c", f"{{dns: ['{site.gateway}']}}", "echo reached", builder="buildkit")
    assert built.returncode != 0
    assert "network.dns: this builder lets no RUN choose its name servers" in built.stdout


@pytest.mark.parametrize("login", [None, "user:p%40ss"])
def test_everything_goes_through_the_proxy_but_what_is_excepted(
    site: Site, served: Web, builder: str, login: str | None, tmp_path: Path
) -> None:
    goal = (site.gateway, served.port)
    names = {"deb.debian.org": goal, "index.test": goal}
    plain = login.replace("%40", "@") if login else None
    with forward_proxy(names, address=site.gateway, login=plain) as proxy:
        address = proxy.url.replace(plain, login) if plain and login else proxy.url
        network = (
            f"{{proxy: {{http: '{address}', no_proxy: [{site.gateway}]}}, apt_key: {site.key.armored},"
            "pip_index: 'http://index.test/simple', insecure: [index.test]}"
        )
        direct = f"curl -fsS {served.url}/simple/probe/ | grep -q whl"
        built = site.build(tmp_path / "c", network, APT, PIP, direct, builder=builder)
    assert built.returncode == 0, built.stdout
    passed = " ".join(proxy.passed)
    assert "GET http://deb.debian.org/debian/pool/libb64-0d_1.2-5_all.deb" in passed
    assert "GET http://index.test/simple/probe/probe-1.0-py3-none-any.whl" in passed
    assert f"GET {served.url}" not in passed


TLS = (
    "curl -fsS {0}/simple/probe/ | grep -q whl",
    "python3 -c \"import urllib.request as u; u.urlopen('{0}/simple/')\"",
)


@pytest.mark.slow
def test_certificates_of_ones_own_are_trusted(site: Site, builder: str, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, site.gateway)
    with web(site.mirror.folder, address=site.gateway, certificate=certificate) as served:
        every = (APT, PIP, *(command.format(served.url) for command in TLS))
        places = f"apt_mirror: '{served.url}/debian', apt_key: {site.key.armored}, pip_index: '{served.url}/simple'"
        built = site.build(tmp_path / "c", f"{{{places}, ca_bundle: {certificate}}}", *every, builder=builder)
        assert built.returncode == 0, built.stdout
        if builder == "classic":
            for command in every:
                refused = site.build(tmp_path / "c", f"{{{places}}}", command, builder=builder)
                assert refused.returncode != 0
                assert re.search("certificate|CERTIFICATE", refused.stdout), refused.stdout


def test_a_proxy_is_passed_with_tls_through_it(site: Site, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, NAME)
    with (
        web(site.mirror.folder, address=site.gateway, certificate=certificate) as served,
        forward_proxy({NAME: (site.gateway, served.port)}, address=site.gateway, login="u:p") as proxy,
    ):
        network = (
            f"{{proxy: {{https: '{proxy.url}'}}, ca_bundle: {certificate}, apt_key: {site.key.armored},"
            f"apt_mirror: 'https://{NAME}/debian', pip_index: 'https://{NAME}/simple'}}"
        )
        built = site.build(tmp_path / "c", network, APT, PIP, builder="classic")
    assert built.returncode == 0, built.stdout
    assert set(proxy.passed) == {f"CONNECT {NAME}:443"}


def test_a_host_may_be_trusted_whoever_vouches_for_it(site: Site, builder: str, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "another.test")
    with web(site.mirror.folder, address=site.gateway, certificate=certificate) as served:
        places = f"apt_mirror: '{served.url}/debian', apt_key: {site.key.armored}, pip_index: '{served.url}/simple'"
        network = f"{{{places}, insecure: ['{site.gateway}:{served.port}']}}"
        built = site.build(tmp_path / "c", network, APT, PIP, builder=builder)
    assert built.returncode == 0, built.stdout


# -- the whole way: a recipe, tricompose build, and a search of the image --------------------------


@pytest.fixture(scope="module")
def buildkit_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_dockerd(buildkit=True) as engine, site_of(engine, tmp_path_factory.mktemp("site")) as made:
        yield made


RECIPE = """\
triton: "24.10"
upstream: {{full: "{site.images.full}", min: "{site.images.min}"}}
backends: [python]
engine: dockerfile
dockerfile: {{source: {source}}}
packages: {{apt: [libgl1]}}
steps: ["pip3 install probe", "touch /etc/stepped"]
network:
  apt_mirror: http://{name}:{port}/debian
  apt_key: {site.key.armored}
  cuda_mirror: https://cuda.far.test/cuda
  pip_index: https://index.far.test/simple
  proxy: {{http: "{proxy}", https: "{proxy}", no_proxy: [{name}]}}
  ca_bundle: {certificate}
  {reach}
outputs: ["oci:out:1"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["upstream", "network"])
@pytest.mark.parametrize("kind", ["classic", "buildkit"])
def test_a_recipe_is_built_through_all_of_it_and_no_trace_is_left(
    kind: str, source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    site: Site = request.getfixturevalue("site" if kind == "classic" else "buildkit_site")
    certificate = make_certificate(tmp_path, "*.far.test")
    with (
        web(site.mirror.folder, address=site.gateway) as plain,
        web(site.mirror.folder, address=site.gateway, certificate=certificate) as secure,
        forward_proxy(
            dict.fromkeys(("index.far.test", "cuda.far.test"), (site.gateway, secure.port)),
            address=site.gateway,
            login="someone:proxypass7",
        ) as proxy,
        name_server(site.gateway, {NAME: site.gateway}) as asked,
    ):
        reach = f"dns: [{site.gateway}]" if kind == "classic" else f"hosts: {{{NAME}: {site.gateway}}}"
        (tmp_path / "recipe.yaml").write_text(
            RECIPE.format(
                site=site,
                source=source,
                name=NAME,
                port=plain.port,
                proxy=proxy.url,
                certificate=certificate,
                reach=reach,
            )
        )
        environ = {**os.environ, "DOCKER_HOST": site.engine.host}
        built = tricompose("build", "recipe.yaml", "--no-validate", cwd=tmp_path, env=environ, timeout=300)
    assert built.returncode == 0, built.stderr
    assert any(path.startswith("/debian/pool/") for path in plain.asked)
    assert "CONNECT index.far.test:443" in proxy.passed
    assert (NAME in asked) == (kind == "classic")
    assert ("CONNECT cuda.far.test:443" in proxy.passed) == (source == "network")

    everything = list(texts(tmp_path / "out"))
    wanted = [b"usr/lib/libgl1", b"probe-1.0.dist-info", b"etc/stepped"]
    wanted += [f"usr/lib/{name}".encode() for name in (SERVER if source == "network" else ())]
    assert [one for one in wanted if not any(one in text for text in everything)] == []
    for trace in (*traces(site, certificate), b"\0tricompose/"):
        assert [text[max(0, text.index(trace) - 200) :][:400] for text in everything if trace in text] == []


def traces(site: Site, certificate: Path) -> Iterator[bytes]:
    """What nobody may find: names, addresses, passwords, the key, the certificate, and variables that say so."""
    yield from (
        name.encode() for name in (NAME, "far.test", site.gateway, "proxypass7", "apt-key.gpg", "PIP_INDEX_URL=")
    )
    yield certificate.read_bytes().splitlines()[1]
    yield site.key.armored.read_bytes().splitlines()[2]


def texts(layout: Path) -> Iterator[bytes]:
    """Every blob of a layout, unpacked: manifest, config with its history, and layers with all names in them."""
    for blob in (layout / "blobs/sha256").iterdir():
        data = blob.read_bytes()
        yield gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
