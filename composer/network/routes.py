"""What is said of the way out, by machine, recipe and command line, as one frozen value.

    routes = machine(environ, home).then(of_the_recipe).then(of_the_network_file).then(of_the_options)
    routes.places(parse_reference("docker://nvcr.io/nvidia/tritonserver:24.10-py3"))

Source of how mirrors go: containers-registries.conf(5), `[[registry.mirror]]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from composer.oci.names import Reference, spellings, within


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """How other hosts are reached.

    * `hosts`: for a name, or `name:port`, its addresses, the first that takes a connection: `addr` or `addr:port`.
    * `dns`: name servers, `addr` or `addr:port`, that are asked before the machine's own.
    * `proxies`: by the names of the environment's variables in lower case; None: the environment's own hold.
    * `ca_bundle`: certificates in PEM that are trusted besides the system's; `certs`: folders in Docker's layout,
      `HOST[:PORT]/{*.crt,*.cert,*.key}`, the first that says something of a host wins.
    * `insecure`: `host[:port]` that may be spoken to without TLS, or with a certificate that nobody knows.
    * `mirrors`: for a registry, or a prefix of what is in it (`host/path`), places to ask before it: `host/path`.
      `*.domain` is for all hosts within it, `*` for all that nothing else is said of.
    * `blocked`: registries that are never asked themselves.
    """

    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    proxies: Mapping[str, str] | None = None
    ca_bundle: Path | None = None
    certs: tuple[Path, ...] = ()
    insecure: frozenset[str] = frozenset()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()

    def then(self, later: Routes) -> Routes:
        """These, and what `later` says: it beats what was said before, host by host."""
        return Routes(
            hosts={**self.hosts, **later.hosts},
            dns=later.dns or self.dns,
            proxies=self.proxies if later.proxies is None else later.proxies,
            ca_bundle=later.ca_bundle or self.ca_bundle,
            certs=tuple(dict.fromkeys((*later.certs, *self.certs))),
            insecure=self.insecure | later.insecure,
            mirrors={**self.mirrors, **later.mirrors},
            blocked=self.blocked | later.blocked,
        )

    def places(self, reference: Reference) -> tuple[Reference, ...]:
        """Where to ask for an image, in order: the mirrors of its place, then the place itself, unless it is blocked.

        Empty where nobody may be asked. What is in no registry is only where it is.
        """
        if reference.transport != "docker":
            return (reference,)
        host, path = reference.host, reference.repository
        full = within(host, path)
        places = (reference.place if place == f"{host}/{full}" else place for place in self._places(host, full))
        # A mirror of one repository must be a repository too.
        return tuple(replace(reference, place=place) for place in dict.fromkeys(places) if "/" in place)

    def addresses(self, url: str) -> tuple[str, ...]:
        """Where to ask for a file of the web: as `places`. Mirrors are not told the login in an address."""
        parts = urlsplit(url)
        host, path = parts.netloc.rpartition("@")[2], parts.path.lstrip("/")
        made = []
        for place in dict.fromkeys(self._places(host, path)):
            at, _, rest = place.partition("/")
            netloc = parts.netloc if place == f"{host}/{path}" else at
            made.append(parts._replace(netloc=netloc, path=f"/{rest}").geturl())
        return tuple(made)

    def _places(self, host: str, path: str) -> Iterator[str]:
        prefix, mirrors = self._mirrors(host, path)
        rest = f"{host}/{path}"[len(prefix) :].strip("/")
        yield from ("/".join(part for part in (mirror.strip("/"), rest) if part) for mirror in mirrors)
        if not self.is_blocked(host, path):
            yield f"{host}/{path}"

    def is_blocked(self, host: str, path: str = "") -> bool:
        """Whether a registry, or that part of it, is never asked itself."""
        covering = [key for key in (*self.mirrors, *self.blocked) if _covered(host, path, key) is not None]
        # `*` is for those that nothing else is said of.
        named = [key for key in covering if key != "*"] or covering
        return any(key in self.blocked for key in named)

    def _mirrors(self, host: str, path: str) -> tuple[str, tuple[str, ...]]:
        """The longest prefix of a place that has mirrors, as it is written there, and those mirrors."""
        found = [
            (len(key), covered, mirrors)
            for key, mirrors in self.mirrors.items()
            if (covered := _covered(host, path, key)) is not None
        ]
        _, prefix, mirrors = max(found, key=lambda one: one[0], default=(0, "", ()))
        return prefix, mirrors


def _covered(host: str, path: str, key: str) -> str | None:
    """The part of `host/path` that a key stands for, or None. Docker Hub has three names."""
    at, _, inner = key.strip("/").partition("/")
    alike = at == "*" or at in spellings(host) or (at.startswith("*.") and host.partition(":")[0].endswith(at[1:]))
    if not alike or not f"{path}/".startswith(f"{inner}/" if inner else ""):
        return None
    return f"{host}/{inner}".rstrip("/")
