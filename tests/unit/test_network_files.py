"""The network of a Docker build, as files: what a shell makes of them, whatever the recipe's values are."""

from __future__ import annotations

import base64
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import RecipeError
from composer.network_files import CUDA_REPOS, network_files
from composer.recipe import Network, Recipe, parse_recipe

# A blank ends an address, and a recipe's text has neither NUL nor half characters in it.
EVIL = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs", "Z", "Cc")), min_size=1
) | st.sampled_from(
    [
        "'",
        '"',
        "$(id>x)",
        "`id>x`",
        "a'b\"c",
        "\\",
        "'\\''",
        "${IFS}",
        "#",
        "&",
        "|",
        "%s",
        "{{x}}",
        "*",
        "~",
        "-e",
        "!",
    ]
)
URL = EVIL.map(lambda text: f"http://{text}")


def files_of(tmp_path: Path, text: str) -> dict[str, bytes]:
    recipe = parse_recipe(
        f'triton: "24.10"\nbackends: [python]\nnetwork: {text}\n', path=tmp_path / "recipe.yaml", environ={}
    )
    return dict(network_files(recipe))


def with_network(network: Network, base: Path) -> Recipe:
    """A recipe whose network nobody has checked: what a shell sees must not depend on that."""
    recipe = parse_recipe('backends: [python]\ntriton: "24.10"\n', path=base / "recipe.yaml", environ={})
    return recipe.model_copy(update={"network": network})


def shell(files: dict[str, bytes], root: Path, command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command behind network.sh, as root does it, with all places of the image below `root`."""
    own = root / "tricompose"
    own.mkdir(exist_ok=True)
    for name, data in files.items():
        moved = data.replace(b"/tricompose", bytes(own)).replace(b"/etc/", bytes(root / "etc") + b"/")
        moved = moved.replace(b'"$(id -u)"', b"0")
        (own / name).write_bytes(moved)
    argv = ["sh", "-c", f". {own}/network.sh || exit; {command}"]
    env = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(argv, capture_output=True, check=False, env=env, cwd=root)


def etc(root: Path, **files: str) -> None:
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/apt/trusted.gpg.d").mkdir()
    for name, text in files.items():
        target = root / "etc/apt" / name.replace("__", "/").replace("_", ".")
        target.write_text(text)


def test_a_recipe_without_a_network_sets_one_variable(tmp_path: Path) -> None:
    files = files_of(tmp_path, "{}")
    assert list(files) == ["network.sh"]
    ran = shell(files, tmp_path, 'printf "%s" "$CUDA_REPOS"; export -p')
    assert ran.stdout.decode().startswith(CUDA_REPOS)
    assert {line.split("=")[0].split()[1] for line in ran.stdout.decode().splitlines()[1:]} <= {
        "CUDA_REPOS",
        "PATH",
        "PWD",
    }


@given(
    proxy=URL,
    other=URL,
    index=URL,
    cuda=URL,
    hosts=st.lists(EVIL, max_size=3),
    names=st.lists(st.ip_addresses().map(str), max_size=3),
)
def test_every_value_is_what_a_shell_sees(
    proxy: str, other: str, index: str, cuda: str, hosts: list[str], names: list[str]
) -> None:
    network = Network.model_construct(
        proxy=Network.model_fields["proxy"].default.model_construct(http=proxy, https=other, no_proxy=tuple(hosts)),
        pip_index=index, cuda_mirror=cuda, insecure=("a", "b:1"), dns=tuple(names),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        etc(root)
        # pip's own judgement is another test's.
        recipe = with_network(network.model_copy(update={"pip_index": index.replace("http:", "https:")}), root)
        shown = (
            *("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"),
            *("PIP_INDEX_URL", "CUDA_REPOS", "PIP_TRUSTED_HOST", "no_proxy"),
        )
        words = " ".join(f'"${name}"' for name in shown)
        ran = shell(dict(network_files(recipe)), root, f"printf '%s\\0' {words}")
        assert ran.stderr == b""
        assert ran.stdout.decode().split("\0")[:-1] == [
            *(proxy, proxy, other, other, recipe.network.pip_index),
            *(cuda.rstrip("/"), "a b:1", ",".join(hosts)),
        ]
        assert [one.name for one in root.iterdir() if one.name not in ("etc", "tricompose")] == []
        if names:
            assert (root / "etc/resolv.conf").read_text() == "".join(f"nameserver {name}\n" for name in names)


@given(mirror=URL, cuda=URL)
def test_every_mirror_is_what_apts_sources_say(mirror: str, cuda: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        etc(
            root,
            sources_list="deb http://archive.ubuntu.com/ubuntu/ jammy main\n",
            sources_list_d__cuda_list=f"deb {CUDA_REPOS}/ubuntu2204/x86_64/ /\n",
        )
        recipe = with_network(Network.model_construct(apt_mirror=mirror, cuda_mirror=cuda), root)
        ran = shell(dict(network_files(recipe)), root, "true")
        assert (ran.returncode, ran.stderr) == (0, b"")
        copies = root / "tricompose/sources"
        assert (copies / "sources.list").read_text() == f"deb {mirror.rstrip('/')}/ jammy main\n"
        assert (copies / "parts/cuda.list").read_text() == f"deb {cuda.rstrip('/')}/ubuntu2204/x86_64/ /\n"


LINES = """\
# deb http://archive.ubuntu.com/ubuntu jammy-backports main
deb http://archive.ubuntu.com/ubuntu jammy main
deb-src [arch=amd64] http://de.archive.ubuntu.com/ubuntu/ jammy main
deb [signed-by=/usr/share/keyrings/u.gpg arch=amd64] http://security.ubuntu.com/ubuntu jammy-security main
deb [arch=arm64] http://ports.ubuntu.com/ubuntu-ports jammy main
deb [signed-by=ABCD] http://archive.ubuntu.com/ubuntu jammy main
deb https://example.com/ubuntu jammy main
"""
MOVED = """\
# deb http://m/u jammy-backports main
deb [signed-by=/R/etc/apt/trusted.gpg.d/a.gpg,/R/tricompose/apt-key.gpg] http://m/u jammy main
deb-src [arch=amd64 signed-by=/R/etc/apt/trusted.gpg.d/a.gpg,/R/tricompose/apt-key.gpg] http://m/u/ jammy main
deb [signed-by=/R/tricompose/apt-key.gpg,/usr/share/keyrings/u.gpg arch=amd64] http://m/u jammy-security main
deb [arch=arm64 signed-by=/R/etc/apt/trusted.gpg.d/a.gpg,/R/tricompose/apt-key.gpg] http://m/u jammy main
deb [signed-by=ABCD] http://m/u jammy main
deb https://example.com/ubuntu jammy main
"""
FIELDS = """\
# See http://archive.ubuntu.com/ubuntu
Types: deb
URIs: http://deb.debian.org/debian
 http://archive.ubuntu.com/ubuntu/
Suites: bookworm
Signed-By: /usr/share/keyrings/d.gpg

Signed-By: /usr/share/keyrings/d.gpg
Types: deb
URIs: http://security.debian.org/debian-security

Types: deb
URIs: https://example.com/ubuntu
Signed-By: /usr/share/keyrings/e.gpg

Types: deb
URIs: http://ports.ubuntu.com/ubuntu-ports
"""
MOVED_FIELDS = """\
# See http://archive.ubuntu.com/ubuntu
Types: deb
URIs: http://m/u
 http://m/u/
Suites: bookworm
Signed-By: /R/tricompose/apt-key.gpg /usr/share/keyrings/d.gpg

Signed-By: /R/tricompose/apt-key.gpg /usr/share/keyrings/d.gpg
Types: deb
URIs: http://m/u-security

Types: deb
URIs: https://example.com/ubuntu
Signed-By: /usr/share/keyrings/e.gpg

Types: deb
URIs: http://m/u
Signed-By: /R/etc/apt/trusted.gpg.d/a.gpg /R/tricompose/apt-key.gpg
"""
KEY = b"\x98\x33" + b"k" * 51


def test_sources_of_both_forms_and_the_keys_that_are_trusted(tmp_path: Path) -> None:
    etc(tmp_path, sources_list=LINES, sources_list_d__ubuntu_sources=FIELDS, trusted_gpg_d__a_gpg="key")
    before = {path: path.read_bytes() for path in (tmp_path / "etc").rglob("*") if path.is_file()}
    (tmp_path / "key.gpg").write_bytes(KEY)
    files = files_of(tmp_path, "{apt_mirror: http://m/u/, apt_key: key.gpg}")
    ran = shell(files, tmp_path, 'command -v apt-get; printf "%s" "$APT_CONFIG"')
    assert ran.stderr == b""
    assert ran.stdout.decode().split("\n") == [f"{tmp_path}/tricompose/bin/apt-get", f"{tmp_path}/tricompose/apt.conf"]
    copies = tmp_path / "tricompose/sources"
    assert (copies / "sources.list").read_text().replace(str(tmp_path), "/R") == MOVED
    assert (copies / "parts/ubuntu.sources").read_text().replace(str(tmp_path), "/R") == MOVED_FIELDS
    assert before == {path: path.read_bytes() for path in (tmp_path / "etc").rglob("*") if path.is_file()}


def test_a_key_without_a_mirror_leaves_the_addresses(tmp_path: Path) -> None:
    etc(tmp_path, sources_list="deb http://archive.ubuntu.com/ubuntu jammy main\n")
    (tmp_path / "key.gpg").write_bytes(KEY)
    shell(files_of(tmp_path, "{apt_key: key.gpg}"), tmp_path, "true")
    line = f"deb [signed-by={tmp_path}/tricompose/apt-key.gpg] http://archive.ubuntu.com/ubuntu jammy main\n"
    assert (tmp_path / "tricompose/sources/sources.list").read_text() == line


def test_a_source_that_a_command_adds_is_seen_by_the_next_apt_get(tmp_path: Path) -> None:
    """In /etc/apt, or where add-apt-repository finds the sources: among the copies. Those end up in /etc/apt."""
    etc(tmp_path, sources_list="deb http://archive.ubuntu.com/ubuntu jammy main\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text(f"#!/bin/sh\ncat {tmp_path}/tricompose/sources/sources.list parts/*\n")
    (tmp_path / "bin/apt-get").chmod(0o755)
    added = "deb http://archive.ubuntu.com/ubuntu jammy universe"
    own = f"{tmp_path}/tricompose/sources"
    command = (
        f"cd {own}; echo '{added}' > {tmp_path}/etc/apt/sources.list.d/a.list; echo '{added} 2' > parts/b.list;"
        "echo '# third' >> sources.list; apt-get; apt-get update"
    )
    ran = shell(files_of(tmp_path, "{apt_mirror: http://m/u}"), tmp_path, command, PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    moved = added.replace("archive.ubuntu.com/ubuntu", "m/u")
    once = f"deb http://m/u jammy main\n# third\n{moved}\n{moved} 2\n"
    assert (ran.stdout.decode(), ran.stderr) == (once * 2, b"")
    assert (tmp_path / "etc/apt/sources.list.d/b.list").read_text() == f"{added} 2\n"
    assert (tmp_path / "etc/apt/sources.list").read_text() == (
        "deb http://archive.ubuntu.com/ubuntu jammy main\n# third\n"
    )


def test_certificates_come_behind_the_images_own(tmp_path: Path) -> None:
    (tmp_path / "etc/ssl/certs").mkdir(parents=True)
    (tmp_path / "etc/ssl/certs/ca-certificates.crt").write_text("own, without a line's end")
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----")
    files = files_of(tmp_path, "{ca_bundle: ca.pem}")
    names = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO")
    ran = shell(files, tmp_path, f"cat {' '.join(f'${name}' for name in names)}; cat $WGETRC")
    one = "own, without a line's end\n-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"
    place = f"{tmp_path}/tricompose/certificates.pem"
    assert ran.stdout.decode() == one * len(names) + f"ca_certificate = {place}\n"
    assert b'CAInfo "/tricompose/certificates.pem"' in files["apt.conf"]


def test_name_servers_that_cannot_be_set_stop_the_build(tmp_path: Path) -> None:
    ran = shell(files_of(tmp_path, "{dns: [10.0.0.53]}"), tmp_path, "echo reached")
    assert ran.returncode != 0
    assert b"reached" not in ran.stdout
    assert b"network.dns" in ran.stderr


@pytest.mark.parametrize("armored", [True, False])
def test_a_key_is_brought_in_the_form_that_every_apt_reads(tmp_path: Path, armored: bool) -> None:
    text = base64.encodebytes(KEY).decode()
    block = f"-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: no\n\n{text}=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    (tmp_path / "any").write_bytes(f"uid x\r\n{block}{block}".encode() if armored else KEY * 2)
    assert files_of(tmp_path, "{apt_key: any}")["apt-key.gpg"] == KEY * 2


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("{apt_key: none}", "No such file"),
        ("{apt_key: keybox}", "no OpenPGP public key"),
        ("{apt_key: cut}", "no OpenPGP"),
        ("{ca_bundle: keybox}", "no certificate"),
        ("{pip_index: http://mirror:8080/simple}", "plain HTTP"),
        ("{pip_index: http://mirror:8080/simple, insecure: ['mirror:80']}", "plain HTTP"),
        ("{dns: [ns.example.com]}", "not an address"),
        ("{dns: ['10.0.0.1:53']}", "can have no port"),
        ("{hosts: {a: b}}", "not an address"),
    ],
)
def test_what_is_of_no_use_is_refused_where_it_stands(tmp_path: Path, network: str, words: str) -> None:
    (tmp_path / "keybox").write_bytes(b"\0\0\0\x20\1\1\0\2KBXf")
    (tmp_path / "cut").write_text(
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDM=ZZ*\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )
    with pytest.raises(RecipeError, match=words) as caught:
        files_of(tmp_path, network)
    assert caught.value.problems[0].where.startswith(f"{tmp_path / 'recipe.yaml'}:3:")
    assert caught.value.problems[0].hint


@pytest.mark.parametrize("index", ["http://u:p@mirror:8080/simple", "http://localhost/simple", "https://mirror/simple"])
def test_an_index_that_pip_asks_is_let_through(tmp_path: Path, index: str) -> None:
    assert index.encode() in files_of(tmp_path, f"{{pip_index: '{index}', insecure: ['mirror:8080']}}")["network.sh"]
