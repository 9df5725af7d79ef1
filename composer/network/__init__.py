"""How tricompose reaches other hosts: one HTTP session with the house's rules.

    session = network.session(routes)      # `routes`: what recipe, command line and machine say

Names, proxies and trust are those of the routes, and nothing else's: a `~/.netrc` would take the place of a registry's
own credentials, and `REQUESTS_CA_BUNDLE` would silently beat the CA that was given.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from composer.network.names import CONNECT, Names
from composer.network.routes import Routes
from composer.network.trust import Trust

if TYPE_CHECKING:
    import requests

__all__ = ["CONNECT", "STALL", "Names", "Routes", "Trust", "session"]

STALL: Final = 30.0
"""Seconds without one byte after which a connection counts as dead. Every read and every write has this limit."""


def session(routes: Routes | None = None, *, stall: float = STALL) -> requests.Session:
    """A session that may be shared by threads. Without `routes` the environment's proxies hold, and nothing more.

    Raises `NotFound` where certificates cannot be read.
    """
    from http.cookiejar import DefaultCookiePolicy
    from importlib.metadata import version

    from urllib3.exceptions import InsecureRequestWarning

    from composer.network.connections import Adapter, Session

    # Whoever turned checking off for a host has been told so by us; urllib3 would say it for every request.
    warnings.filterwarnings("ignore", category=InsecureRequestWarning)
    given = routes or Routes()
    made = Session()
    made.trust_env = False
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    made.headers.update({"User-Agent": f"tricompose/{version('tricompose')}", "Accept-Encoding": "identity"})
    adapter = Adapter(
        Names(given.hosts, given.dns), given.proxies, Trust(given.ca_bundle, given.certs), timeout=(CONNECT, stall)
    )
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made
