"""What is said of the network, by machine, recipe, network file and options: as routes, and as logins.

The later beats the earlier, host by host: machine, recipe, `--network FILE`, `--resolve` and its like. Such a file is a
recipe or any YAML with a `network:` mapping, a registries.conf, Docker's daemon.json, or containerd's certs.d folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.errors import NotFound, Problem, RecipeError
from composer.events import Emit, Warned, ignore
from composer.network.addresses import is_address, parse_address
from composer.network.routes import Routes
from composer.network.rules import read
from composer.network.trust import MACHINE
from composer.oci.credentials import Credential

if TYPE_CHECKING:
    # What reads recipes is loaded where one is read: a copy needs none, and is to be small.
    from composer.recipe import Network, Recipe

NGC_HOST: Final = "nvcr.io"
NGC_USER: Final = "$oauthtoken"
"""The user that NGC's API keys are for."""

_RULES: Final = (".conf", ".toml", ".json")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a command line says of the way out: the options `--network`, `--resolve`, `--insecure` and `--ca-bundle`."""

    network: Path | None = None
    resolve: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    ca_bundle: Path | None = None

    def routes(self) -> Routes:
        """The options but `--network`, as routes. Raises `NotFound` for one that makes no sense."""
        hosts: dict[str, tuple[str, ...]] = {}
        for text in self.resolve:
            name, address = _resolved(text)
            hosts[name] = (*hosts.get(name, ()), address)
        return Routes(hosts=hosts, insecure=frozenset(self.insecure), ca_bundle=self.ca_bundle)


def find_routes(
    environ: Mapping[str, str], home: Path, recipe: Recipe | None, wanted: Wanted, emit: Emit = ignore
) -> Routes:
    """All that holds for a command. Raises `RecipeError`, `NotFound` for files that cannot be read or understood."""
    found = of_machine(environ, home)
    if recipe:
        found = found.then(of_network(recipe.network, recipe.base))
    if wanted.network:
        found = found.then(of_file(wanted.network, environ, emit))
    return found.then(wanted.routes())


def of_machine(environ: Mapping[str, str], home: Path) -> Routes:
    """The folders of certificates that Docker and Podman keep. Proxies of the environment hold without being said."""
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return Routes(certs=(config / "containers" / "certs.d", *MACHINE))


def of_network(said: Network, base: Path) -> Routes:
    """What `network:` of a recipe says. `base` is the folder that its paths start from.

    Raises `NotFound` where the folder of certificates is not there.
    """
    proxy = said.proxy
    pairs = {"http_proxy": proxy.http, "https_proxy": proxy.https, "no_proxy": ",".join(proxy.no_proxy)}
    if said.certs_d and not (base / said.certs_d).is_dir():
        hint = "a folder with HOST[:PORT]/ca.crt, client.cert and client.key in it"
        raise NotFound(f"network.certs_d: there is no folder {base / said.certs_d}", hint=hint)
    return Routes(
        hosts=said.hosts,
        dns=said.dns,
        proxies={name: value for name, value in pairs.items() if value} or None,
        ca_bundle=base / said.ca_bundle if said.ca_bundle else None,
        certs=(base / said.certs_d,) if said.certs_d else (),
        insecure=frozenset(said.insecure),
        mirrors=said.mirrors,
        blocked=frozenset(said.blocked),
    )


def of_file(path: Path, environ: Mapping[str, str], emit: Emit = ignore) -> Routes:
    """What a network file says; `emit` is told what in it we cannot follow. Raises `RecipeError`, `NotFound`."""
    from composer.recipe import load_network

    if _has_rules(path):
        found = read(path)
        for line in found.passed_over:
            emit(Warned(message=line))
        return found.routes
    return of_network(load_network(path, environ=environ), path.parent)


def _has_rules(path: Path) -> bool:
    return path.is_dir() or path.suffix in _RULES


def overlaid(recipe: Recipe, path: Path | None, environ: Mapping[str, str]) -> Recipe:
    """A recipe whose `network:` says what a network file adds, for what goes by the recipe alone: Docker builds, pip.

    Raises `RecipeError`, `NotFound`.
    """
    from composer.recipe import Network, load_network

    if path is None:
        return recipe
    if _has_rules(path):
        found = read(path).routes
        said = Network.model_construct(
            mirrors=found.mirrors, insecure=tuple(sorted(found.insecure)), blocked=tuple(sorted(found.blocked))
        )
    else:
        said = load_network(path, environ=environ)
    return recipe.model_copy(update={"network": _merged(recipe.network, said, path.parent.absolute())})


def _merged(before: Network, later: Network, base: Path) -> Network:
    """What both say, `later` first. Its paths start from `base`."""
    update: dict[str, object] = {}
    for name in later.model_fields_set:
        value = getattr(later, name)
        if isinstance(value, Mapping):
            value = {**getattr(before, name), **value}
        elif name in ("insecure", "blocked"):
            value = tuple(dict.fromkeys((*getattr(before, name), *value)))
        elif isinstance(value, Path):
            value = base / value
        update[name] = value
    return before.model_copy(update=update)


def _resolved(text: str) -> tuple[str, str]:
    """`HOST:PORT:ADDR[:PORT]` as `host:port` and an address, as curl and oras have it."""
    host, _, rest = text.partition(":")
    port, _, address = rest.partition(":")
    bare = address.strip("[]")
    known = [address] if not is_address(bare) else [f"[{bare}]" if ":" in bare else bare]
    try:
        if not _NAME.fullmatch(host) or not 0 < int(port) < 65536:
            raise ValueError(text)
        parse_address(known[0], int(port))
    except ValueError as error:
        raise NotFound(f"--resolve {text} makes no sense", hint="--resolve registry-1.docker.io:443:10.0.0.7[:PORT]") \
            from error  # fmt: skip
    return f"{host}:{int(port)}", known[0]


# -- logins -------------------------------------------------------------------------------------------------------


def find_logins(recipe: Recipe | None, network: Path | None, environ: Mapping[str, str]) -> Mapping[str, Credential]:
    """The logins that `network.credentials` names, by host. Raises `RecipeError` for a variable that is not set."""
    found: dict[str, Credential] = {}
    problems: list[Problem] = []
    said = _said(network, environ)
    if said:
        for host in said.credentials:
            problems += _login(host, said, str(network), environ, found)
    if recipe:
        for host in recipe.network.credentials.keys() - (said.credentials.keys() if said else ()):
            where = recipe.where("network", "credentials", host)
            problems += _login(host, recipe.network, where, environ, found)
    if problems:
        raise RecipeError(problems)
    return found


def _said(network: Path | None, environ: Mapping[str, str]) -> Network | None:
    """What a network file says that is a recipe, or the part of one."""
    if network is None or _has_rules(network):
        return None
    from composer.recipe import load_network

    return load_network(network, environ=environ)


def _login(
    host: str, said: Network, where: str, environ: Mapping[str, str], found: dict[str, Credential]
) -> Iterator[Problem]:
    names = said.credentials[host]
    unset = [one for one in (names.username, names.password) if one and not environ.get(one)]
    for name in unset:
        yield Problem(
            where=where,
            message=f"network.credentials of {host}: the variable {name} is not set",
            hint=f"read -rs {name}; export {name}   (then the same command once more)",
        )
    if not names.username and host != NGC_HOST:
        yield Problem(
            where=where,
            message=f"network.credentials of {host}: who logs in is not said",
            hint=f"{{username: VARIABLE, password: {names.password}}}",
        )
    if not unset:
        username = environ[names.username] if names.username else NGC_USER
        source = f"for {host} in network.credentials (${names.password})"
        found[host] = Credential(username=username, secret=environ[names.password], source=source)
