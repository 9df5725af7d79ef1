"""A visit to one host: what is known of it so far, so that each look can go on where the last one ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from composer.doctor.finding import Finding
from composer.doctor.needs import Host
from composer.doctor.reaching import Tried
from composer.doctor.remedies import Remedies
from composer.network.proxies import Proxy
from composer.network.trust import Trust
from composer.oci.image import Descriptor, Platform
from composer.oci.names import Reference
from composer.workplace import Workplace


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An image that answered: the layers of one platform, and which of them the cache lacks."""

    place: Reference
    layers: Sequence[Descriptor]
    missing: Sequence[Descriptor]


@dataclass(slots=True, kw_only=True)
class Visit:
    """What looks are given, and leave behind for those after them. `besides` are name servers to ask besides.

    `blocked`: the way ends here, so that later looks have nothing to look at; `now` is the one under way. `tried` are
    the addresses that connections were made to: the host's, or those of `proxy`. `scheme` is what is spoken there.
    """

    host: Host
    place: Workplace
    trust: Trust
    remedies: Remedies
    besides: Sequence[str] = ()
    platforms: Sequence[Platform] = ()
    findings: list[Finding] = field(default_factory=list)
    blocked: bool = False
    now: str = "the name"
    proxy: Proxy | None = None
    tried: Sequence[Tried] = ()
    scheme: str = "https"
    images: list[Seen] = field(default_factory=list)
    elsewhere: str | None = None
    """The URL of a token service on another host, once the registry has named it."""

    @property
    def insecure(self) -> bool:
        """Whether somebody said that this host may do without TLS, or without a known certificate."""
        return bool({self.host.authority, f"{self.host.name}:{self.host.port}"} & self.place.access.insecure)
