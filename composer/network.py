"""How tricompose reaches other hosts: one HTTP session with the house's rules.

Proxies come from the environment (`HTTPS_PROXY`, `NO_PROXY` and so on), and nothing else does: a `~/.netrc` would
take the place of a registry's own credentials, and `REQUESTS_CA_BUNDLE` would silently beat the CA that was given.
Trusted are the system's certificates, those of certifi, and the bundle given.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import certifi
import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, should_bypass_proxies
from urllib3.exceptions import InsecureRequestWarning

from composer.errors import NotFound

CONNECT: Final = 15.0
"""Seconds to wait for a host to take a connection."""

STALL: Final = 30.0
"""Seconds without one byte after which a connection counts as dead. Every read and every write has this limit."""

_POOL: Final = 16


def session(
    *, ca_bundle: Path | None = None, stall: float = STALL, proxies: Mapping[str, str] | None = None
) -> requests.Session:
    """A session that may be shared by threads. `ca_bundle` is a PEM file, trusted besides the system's own.

    `proxies` stand in for the environment's, by the names of its variables in lower case: `https_proxy`, `no_proxy`.
    Raises `NotFound` where the bundle cannot be read.
    """
    # Whoever turned checking off for a host has been told so by us; urllib3 would say it for every request.
    warnings.filterwarnings("ignore", category=InsecureRequestWarning)
    made = _Session(proxies)
    made.trust_env = False
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    made.headers.update({"User-Agent": f"tricompose/{version('tricompose')}", "Accept-Encoding": "identity"})
    adapter = _Adapter(_trust(ca_bundle), timeout=(CONNECT, stall))
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made


def _trust(ca_bundle: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    if ca_bundle:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise NotFound(
                f"no certificates could be read from {ca_bundle}: {error.strerror or error}",
                hint="ca_bundle: a file of PEM certificates (-----BEGIN CERTIFICATE-----)",
            ) from error
    return context


class _Session(requests.Session):
    """Takes proxies from the environment for each URL by itself, so that `NO_PROXY` holds after a redirect too."""

    def __init__(self, proxies: Mapping[str, str] | None) -> None:
        super().__init__()
        self._given = proxies

    def merge_environment_settings(
        self,
        url: Any,  # noqa: ANN401
        proxies: Any,  # noqa: ANN401
        stream: bool | None,
        verify: bool | str | None,
        cert: str | tuple[str, str] | None,
    ) -> Any:  # noqa: ANN401
        found = {**self._proxies_for(url), **(proxies or {})}
        return super().merge_environment_settings(url, found, stream, verify, cert)

    def _proxies_for(self, url: str) -> Mapping[str, str]:
        if self._given is None:
            return get_environ_proxies(url, no_proxy=None)
        if should_bypass_proxies(url, no_proxy=self._given.get("no_proxy", "")):
            return {}
        return {scheme: way for scheme in ("http", "https") if (way := self._given.get(f"{scheme}_proxy"))}


class _Adapter(HTTPAdapter):
    """Gives every connection our trust and our time limits. `verify=False` on a call turns checking off for it."""

    def __init__(self, trust: ssl.SSLContext, *, timeout: tuple[float, float]) -> None:
        self._trust = trust
        self._timeout = timeout
        self._blind = ssl.create_default_context()
        self._blind.check_hostname = False
        self._blind.verify_mode = ssl.CERT_NONE
        super().__init__(pool_connections=_POOL, pool_maxsize=_POOL, max_retries=0)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: object, cert: object = None
    ) -> tuple[Any, Any]:
        host, pool = super().build_connection_pool_key_attributes(request, bool(verify))
        return host, {**pool, "ssl_context": self._trust if verify else self._blind}

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """Nothing to add: the context says it all, and loading certifi once more for each connection is slow."""

    def send(  # type: ignore[override]
        self,
        request: requests.PreparedRequest,
        *,
        timeout: tuple[float, float] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> requests.Response:
        return super().send(request, timeout=timeout or self._timeout, **options)
