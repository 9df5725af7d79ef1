"""The network of a Docker build: what `network:` of a recipe becomes for the RUNs of a Dockerfile.

The files lie in the folder `tricompose` of the build's context, and in /tricompose of the side stage; `network.sh` is
read at the beginning of each RUN. Names and addresses of hosts (`network.hosts`) are for the builder itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final

from composer.errors import Problem, RecipeError
from composer.network.addresses import is_address
from composer.recipe import Network, Recipe
from composer.rendering import render

CUDA_REPOS: Final = "https://developer.download.nvidia.com/compute/cuda/repos"
"""Where NVIDIA's own CUDA packages are."""

_KEY: Final = "apt-key.gpg"
_CERTIFICATES: Final = "ca.pem"
_PLACE: Final = "/tricompose"

_ARMOR: Final = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(?:[^\r\n]+\r?\n)*[ \t]*\r?\n(.*?)"
    rb"-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)
_CHECKSUM: Final = re.compile(rb"^=[A-Za-z0-9+/]{4}\s*$", re.MULTILINE)
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
"""Hosts that pip asks over HTTP without more words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What the templates say. All texts are as a shell reads them, but `insecure`, which are apt's names of hosts."""

    cuda_repos: str
    variables: tuple[tuple[str, str], ...]
    name_servers: str
    certificates: bool
    sources: bool
    insecure: tuple[str, ...]
    mirror: str
    cuda: str
    key: str

    @property
    def settings(self) -> bool:
        """Whether apt is told anything."""
        return bool(self.sources or self.certificates or self.insecure)


def network_files(recipe: Recipe) -> Mapping[str, bytes]:
    """The files by their names: `network.sh` always, the others where the recipe asks for them.

    Any of them may hold a secret: addresses of proxies and mirrors may have passwords in them. Raises `RecipeError`
    for a file that cannot be read or is of no use, an index that pip would not ask, an address that is none.
    """
    network = recipe.network
    problems: list[Problem] = []
    files = dict(_local_files(recipe, problems))
    problems += [*_of_pip(recipe), *_of_servers(recipe)]
    if problems:
        raise RecipeError(problems)
    settings = _settings(network)
    files["network.sh"] = _filled("network.sh.j2", settings)
    if settings.settings:
        files["apt.conf"] = _filled("apt.conf.j2", settings)
    if settings.sources:
        files["sources.sh"] = _filled("sources.sh.j2", settings)
    return {name: files[name] for name in sorted(files)}


def _filled(template: str, settings: _Settings) -> bytes:
    return render(template, "n", settings).encode()


def _settings(network: Network) -> _Settings:
    return _Settings(
        cuda_repos=quote(_place(network.cuda_mirror) or CUDA_REPOS),
        variables=tuple((name, quote(value)) for name, value in _variables(network)),
        name_servers=" ".join(quote(server.strip("[]")) for server in network.dns),
        certificates=network.ca_bundle is not None,
        sources=bool(network.apt_mirror or network.apt_key or network.cuda_mirror),
        insecure=tuple(dict.fromkeys(_name(host) for host in network.insecure if not host.startswith("["))),
        mirror=quote(_place(network.apt_mirror)),
        cuda=quote(_place(network.cuda_mirror)),
        key=quote(f"{_PLACE}/{_KEY}" if network.apt_key else ""),
    )


def _place(address: str | None) -> str:
    """An address that a path can be put behind."""
    return (address or "").rstrip("/")


def _name(host: str) -> str:
    """A host without its port: apt knows hosts only."""
    return host.partition(":")[0]


def _variables(network: Network) -> Iterator[tuple[str, str]]:
    """Environment variables, in both spellings where programs differ in which they read."""
    proxy = network.proxy
    for name, value in (("http_proxy", proxy.http), ("https_proxy", proxy.https), ("no_proxy", _list(proxy.no_proxy))):
        if value:
            yield from ((name, value), (name.upper(), value))
    if network.pip_index:
        yield "PIP_INDEX_URL", network.pip_index
    if network.insecure:
        yield "PIP_TRUSTED_HOST", " ".join(network.insecure)


def _list(hosts: tuple[str, ...]) -> str:
    return ",".join(hosts)


def _of_pip(recipe: Recipe) -> Iterator[Problem]:
    """pip passes over an index that is asked without TLS, unless it is told that its host may be trusted."""
    address = recipe.network.pip_index or ""
    host = re.sub(r"^http://([^/?#]*@)?|[/?#].*", "", address)
    trusted = {*recipe.network.insecure, *_LOOPBACK}
    if address.startswith("http://") and not trusted & {host, re.sub(r":[0-9]*$", "", host)}:
        yield Problem(
            where=recipe.where("network", "pip_index"),
            message="pip asks no index over plain HTTP whose host is not in network.insecure",
            hint=f'insecure: ["{host}"]',
        )


def _of_servers(recipe: Recipe) -> Iterator[Problem]:
    """/etc/resolv.conf, which the steps go by, knows no ports."""
    for number, server in enumerate(recipe.network.dns):
        if not is_address(server.strip("[]")):
            yield Problem(
                where=recipe.where("network", "dns", number),
                message=f'in a Docker build the name server "{server}" can have no port',
                hint="one on port 53: 10.0.0.53",
            )


# -- the two files of this machine ----------------------------------------------------------------


def _local_files(recipe: Recipe, problems: list[Problem]) -> Iterator[tuple[str, bytes]]:
    network = recipe.network
    wanted = (("apt_key", network.apt_key, _KEY, _key), ("ca_bundle", network.ca_bundle, _CERTIFICATES, _certificates))
    for key, path, name, reading in wanted:
        if path is None:
            continue
        try:
            yield name, reading(recipe.base / path)
        except OSError as error:
            message, hint = f"{recipe.base / path}: {error.strerror}", f"ls -l {quote(str(recipe.base / path))}"
            problems.append(Problem(where=recipe.where("network", key), message=message, hint=hint))
        except _Unfit as error:
            problems.append(Problem(where=recipe.where("network", key), message=error.words, hint=error.hint))


class _Unfit(Exception):
    def __init__(self, words: str, hint: str) -> None:
        super().__init__(words)
        self.words = words
        self.hint = hint


def _key(path: Path) -> bytes:
    """Public keys in the one form that every apt reads: OpenPGP packets, without armor (RFC 9580, section 6)."""
    data = path.read_bytes()
    armored = _ARMOR.findall(data)
    try:
        packets = b"".join(base64.b64decode(b"".join(_CHECKSUM.sub(b"", block).split()), validate=True)
                           for block in armored) if armored else data  # fmt: skip
    except binascii.Error as error:
        raise _Unfit(f"{path} is no OpenPGP key: {error}", f"gpg --armor --export KEY > {quote(path.name)}") from error
    # The first packet is a public key: tag 6, in the old form of its header or the new.
    if not packets or (packets[0] & 0xFC != 0x98 and packets[0] != 0xC6):
        raise _Unfit(f"{path} is no OpenPGP public key", f"gpg --export KEY > {quote(path.with_suffix('.gpg').name)}")
    return packets


def _certificates(path: Path) -> bytes:
    data = path.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in data and b"-----BEGIN TRUSTED CERTIFICATE-----" not in data:
        raise _Unfit(f"{path} holds no certificate in PEM form", f"openssl x509 -inform der -in {quote(path.name)}")
    return data if data.endswith(b"\n") else data + b"\n"
