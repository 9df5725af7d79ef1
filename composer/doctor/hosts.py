"""Looks at one host, in the order of the way there: its name, the connection or the proxy, TLS, what it says."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVar
from urllib.parse import urlsplit

import requests

from composer import words
from composer.doctor.certificate import Certificate
from composer.doctor.finding import Finding, Level
from composer.doctor.reaching import (
    CONNECT,
    Fault,
    Handshake,
    Tried,
    answers_plain,
    left_of,
    opened,
    peek,
    shake,
    skew_of,
    through,
    try_all,
    wants_certificate,
)
from composer.doctor.resolving import judge_names, look_up
from composer.doctor.visit import Visit
from composer.errors import TricomposeError
from composer.network.addresses import is_address, parse_address
from composer.network.names import THIS_MACHINE
from composer.network.proxies import Proxy, address_for, from_environment, parse_proxy, passes
from composer.oci.obstacles import Obstructed
from composer.oci.trouble import diagnose

Result = TypeVar("Result")

_SOON: Final = 14
"""Days before its end from which a certificate is worth a word."""

_CLOCK: Final = (60.0, 300.0)
"""Seconds that clocks may differ before it is told, and before tokens are refused for it."""

_OLD: Final = ("TLSv1", "TLSv1.1", "SSLv3")


def names(visit: Visit) -> Iterator[Finding]:
    """Which addresses the name has, and who says otherwise. Of a host behind a proxy it is the proxy that must know."""
    try:
        visit.proxy = _proxy(visit)
    except TricomposeError as error:
        visit.blocked = True
        yield Finding(id="proxy.unusable", level="problem", saw=error.message, fix=error.hint or "")
        return
    host, port = (visit.proxy.host, visit.proxy.port) if visit.proxy else (visit.host.name, visit.host.port)
    found = look_up(host, port, visit.place.routes, visit.besides)
    yield from judge_names(found)
    if not found.addresses:
        visit.blocked = True
        return
    addresses = ["127.0.0.1" if one == THIS_MACHINE else one for one in found.addresses]
    visit.tried = [Tried(address=parse_address(one, port)) for one in addresses]


def _proxy(visit: Visit) -> Proxy | None:
    url = f"{visit.host.scheme}://{visit.host.authority}/"
    address = address_for(url, visit.place.routes.proxies)
    return parse_proxy(address) if address else None


def connection(visit: Visit) -> Iterator[Finding]:
    """Whether TCP connections are taken, by each address, and how soon."""
    visit.tried = try_all([one.address for one in visit.tried])
    good = [one for one in visit.tried if not one.fault]
    bad = [one for one in visit.tried if one.fault]
    facts: dict[str, object] = {one.shown: one.fault or round(one.seconds, 4) for one in visit.tried}
    if not good:
        visit.blocked = True
        yield _unconnected(visit, bad, facts)
        return
    took = ", ".join(f"{one.shown} in {words.latency(one.seconds)}" for one in good)
    yield Finding(id="connect.ok", level="ok", saw=f"{_whom(visit)} takes connections: {took}", facts=facts)
    if bad:
        yield Finding(
            id="connect.some",
            level="warning",
            saw=f"of its addresses {_listed(bad)} {_FAULTS[bad[0].fault]}",
            why="the tool goes on to the next one, and may have waited for nothing",
            network={"hosts": {visit.host.name: [one.address[0] for one in good]}} if not visit.proxy else {},
            facts=facts,
        )


_FAULTS: Final[dict[Fault, str]] = {
    "refused": "refused the connection: nothing listens there, or a firewall says no",
    "silent": f"did not answer within {CONNECT:.0f} s",
    "unreachable": "cannot be reached: there is no way there",
    "cut": "broke the connection off",
}
_WHYS: Final[dict[Fault, str]] = {
    "refused": "the machine is there, the service is not; or the port is another one",
    "silent": "a firewall drops what goes there, or the machine is down",
    "unreachable": "this machine has no route to that network, or its own firewall forbids it",
    "cut": "something on the way does not let it through",
}


def _unconnected(visit: Visit, bad: list[Tried], facts: dict[str, object]) -> Finding:
    fault: Fault = bad[0].fault if bad else "unreachable"
    kind = "proxy" if visit.proxy else "connect"
    return Finding(
        id=f"{kind}.{fault}",
        level="problem",
        saw=f"{_whom(visit)}: {_listed(bad)} {_FAULTS[fault]}",
        why=_WHYS[fault] + _gone_past(visit),
        fix=f"curl -v --connect-timeout 5 {visit.host.url}"
        if not visit.proxy
        else "echo $HTTPS_PROXY   (is it right?)",
        facts=facts,
    )


def _gone_past(visit: Visit) -> str:
    """A proxy that there is, and that `no_proxy` has this host go past."""
    given = visit.place.routes.proxies
    said = from_environment(visit.place.environ) if given is None else given
    if visit.proxy or not said.get(f"{visit.host.scheme}_proxy"):
        return ""
    past = passes(visit.host.name, visit.host.port, said.get("no_proxy", ""))
    return "; no_proxy has it go past the proxy that is set" if past else ""


def _whom(visit: Visit) -> str:
    return f"the proxy {visit.proxy.shown}" if visit.proxy else visit.host.authority


def _listed(tried: list[Tried]) -> str:
    return ", ".join(one.shown for one in tried)


# -- the proxy ----------------------------------------------------------------------------------------------------


def proxy(visit: Visit) -> Iterator[Finding]:
    """Whether the proxy connects us. Without TLS there is nothing to connect: the first request will tell."""
    if not visit.proxy or visit.host.scheme != "https":
        return
    goal = (visit.host.name, visit.host.port)
    for made in opened(visit.tried):
        try:
            through(made, visit.proxy, goal, visit.trust).close()
        except Obstructed as error:
            visit.blocked = True
            broke = isinstance(error.__cause__, OSError)
            yield _broke_off(visit.proxy, error.why) if broke else _refused(visit, error)
        except OSError as error:
            visit.blocked = True
            yield _broke_off(visit.proxy, error.strerror or type(error).__name__)
        else:
            saw = f"the proxy {visit.proxy.shown} connects us to {visit.host.authority}"
            yield Finding(id="proxy.ok", level="ok", saw=saw, facts={"login": visit.proxy.login is not None})


def _broke_off(proxy: Proxy, why: str) -> Finding:
    saw = f"the proxy {proxy.shown} broke off: {why}"
    return Finding(id="proxy.cut", level="problem", saw=saw, fix="echo $HTTPS_PROXY   (http:// or https://?)")


def _refused(visit: Visit, error: Obstructed) -> Finding:
    assert visit.proxy
    where, host = visit.proxy.shown, visit.host.name
    saw = f"the proxy {where} does not let us through: {error.why}"
    past = _private(host)
    if error.status == 407:
        with_login = visit.proxy.login is not None
        why = "the login is wrong, or has run out" if with_login else "it wants a login, and none is given"
        fix = f"export HTTPS_PROXY=http://USER:PASSWORD@{visit.proxy.host}:{visit.proxy.port}"
        return Finding(id="proxy.login", level="problem", saw=saw, why=why, fix=fix)
    if error.status in (403, 405):
        why = "it does not let this host through"
        fix = f"have {host}:{visit.host.port} allowed in the proxy, or use a mirror within the network"
        fix = f"export NO_PROXY={host}" if past else fix
        return Finding(id="proxy.forbidden", level="problem", saw=saw, why=why, fix=fix)
    if error.status is not None and error.status >= 500:
        why = "the proxy itself cannot find or reach that host" + ("; it is within this network" if past else "")
        fix = f"export NO_PROXY={host}" if past else f"curl -v -x {where} {visit.host.url}"
        return Finding(id="proxy.lost", level="problem", saw=saw, why=why, fix=fix)
    why = "that is not how an HTTP proxy answers: is it another kind of proxy, or another port?"
    return Finding(id="proxy.broken", level="problem", saw=saw, why=why, fix="echo $HTTPS_PROXY")


def _private(host: str) -> bool:
    """Whether a proxy is likely to have no business with a host."""
    with suppress(ValueError):
        return not ipaddress.ip_address(host).is_global
    return "." not in host


# -- TLS ----------------------------------------------------------------------------------------------------------


def tls(visit: Visit) -> Iterator[Finding]:
    """Whether it speaks TLS with a certificate that is trusted, in the protocols of today."""
    visit.scheme = visit.host.scheme
    if visit.scheme != "https":
        saw = f"{visit.host.authority} is asked without TLS"
        yield Finding(id="tls.plain", level="ok" if _loopback(visit) else "warning", saw=saw, why=_READABLE)
        return
    strict = visit.trust.context(visit.host.name, visit.host.port)
    seen = _shaken(visit, lambda made: shake(made, visit.host.name, strict))
    if seen.fault == "cut" and _over(visit, lambda made: answers_plain(made, visit.host.name)):
        seen = replace(seen, fault="none")
    if not seen.fault:
        yield from _fine(visit, seen)
    elif visit.insecure or (seen.fault == "none" and _loopback(visit)):
        visit.scheme = "http" if seen.fault == "none" else "https"
        saw = f"{visit.host.authority} {_TLS[seen.fault]}, and may: it is insecure"
        level: Level = "ok" if _loopback(visit) else "warning"
        yield Finding(id="tls.unchecked", level=level, saw=saw, why=_READABLE, facts=_about(seen))
    else:
        visit.blocked = True
        yield _mistrusted(visit, seen, _shaken(visit, lambda made: peek(made, visit.host.name)))


_READABLE: Final = "whoever is on the way can read and change what passes, logins too; digests are checked all the same"
_TLS: Final = {
    "untrusted": "has a certificate that nobody we trust signed",
    "expired": "has a certificate that has run out",
    "not-yet-valid": "has a certificate that does not hold yet",
    "wrong-name": "has a certificate for another name",
    "none": "does not speak TLS on this port",
    "old": "speaks no version of TLS that is still taken",
    "cut": "broke off while TLS was being agreed upon",
}


def _shaken(visit: Visit, how: Callable[[socket.socket], Handshake]) -> Handshake:
    """TLS over a connection as the tool would have it."""
    return _over(visit, how) or Handshake(fault="cut", words="no connection any more")


def _over(visit: Visit, how: Callable[[socket.socket], Result]) -> Result | None:
    """What is found over a connection as the tool would have it; None where there is none any more."""
    for made in opened(visit.tried):
        try:
            if visit.proxy:
                made = through(made, visit.proxy, (visit.host.name, visit.host.port), visit.trust)
            return how(made)
        except OSError:
            return None
        finally:
            made.close()
    return None


def _loopback(visit: Visit) -> bool:
    name = visit.host.name
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def _fine(visit: Visit, seen: Handshake) -> Iterator[Finding]:
    certificate = seen.certificate
    by = f", signed by {certificate.issuer}" if certificate else ""
    saw = f"{visit.host.authority} speaks {seen.version}{by}"
    yield Finding(id="tls.ok", level="ok", saw=saw, facts=_about(seen))
    if certificate and (days := left_of(certificate).days) < _SOON:
        saw = f"its certificate runs out in {words.count(days, 'day')}, on {certificate.ends:%Y-%m-%d}"
        yield Finding(id="tls.expires-soon", level="warning", saw=saw, why="from then on it is refused")
    if seen.version in _OLD:
        saw = f"{visit.host.authority} speaks {seen.version} at best"
        yield Finding(id="tls.old-version", level="warning", saw=saw, why="that protocol is no longer taken for safe")


def _mistrusted(visit: Visit, seen: Handshake, shown: Handshake) -> Finding:
    """A handshake that failed, with what the certificate itself says."""
    certificate = shown.certificate
    skewed = shown.skew is not None and abs(shown.skew) > _CLOCK[1]
    saw = f"{visit.host.authority} {_TLS[seen.fault]}" + _detail(seen, certificate)
    kind = f"tls.{seen.fault}"
    if skewed and seen.fault in ("expired", "not-yet-valid"):
        assert shown.skew is not None
        saw += f"; its clock is {_ahead(shown.skew)} ours"
        return Finding(
            id="clock.wrong",
            level="problem",
            saw=saw,
            why="by its own clock the certificate is in order: the clock of this machine is wrong, more likely",
            fix=f"date   (then: {visit.remedies.command('set-clock')})",
            facts={"tls": kind, **_about(shown)},
        )
    why, fix = _advice(visit, seen, shown)
    facts = _about(shown if shown.certificate else seen)
    return Finding(id=kind, level="problem", saw=saw, why=why, fix=fix, facts=facts)


def _detail(seen: Handshake, certificate: Certificate | None) -> str:
    if certificate is None:
        return f" ({seen.words})" if seen.words else ""
    if seen.fault in ("expired", "not-yet-valid"):
        return f" (it holds from {certificate.begins:%Y-%m-%d %H:%M} to {certificate.ends:%Y-%m-%d %H:%M} UTC)"
    return f"; it is for {', '.join(certificate.names) or certificate.subject}, signed by {certificate.issuer}"


def _advice(visit: Visit, seen: Handshake, shown: Handshake) -> tuple[str, str]:
    host = visit.host
    certificate = shown.certificate
    show = f"openssl s_client -showcerts -servername {host.name} -connect {host.name}:{host.port} </dev/null"
    match seen.fault:
        case "untrusted" if certificate and certificate.self_signed:
            why = "it signed itself: if it is the right one, it can be trusted by itself"
            fix = f"{show} | openssl x509 > {host.name}.pem"
            return why, f"{fix}   (compare it with the host's own; then: {_trusting(visit, host.name)})"
        case "untrusted":
            issuer = certificate.issuer if certificate else "its issuer"
            why = f"a company's proxy that opens TLS shows such certificates: it is {issuer} that is to be trusted"
            return why, f"get the PEM file of {issuer} from your administrators; then: {_trusting(visit, 'corp-ca')}"
        case "expired":
            return "it must be renewed by whoever runs it", f"date; {show} | openssl x509 -noout -dates"
        case "not-yet-valid":
            return "its clock, or the one that it was signed by, is ahead", f"date; {show} | openssl x509 -noout -dates"
        case "wrong-name":
            why = "an address that belongs to somebody else answers: a filter, a captive portal, or a wrong hosts line"
            return why, f"getent hosts {host.name}; {show} | openssl x509 -noout -ext subjectAltName"
        case "none":
            return "it is a registry without TLS, or a proxy; or something on the way answers in its place", (
                f"curl -v http://{host.authority}/   (if that is what you expect: --insecure {host.authority})"
            )
        case "old":
            return "it is too old to be safe: it must be updated by whoever runs it", show
        case _:
            return "a firewall that looks into TLS breaks off like this", show


def _trusting(visit: Visit, stem: str) -> str:
    """How an authority's file is trusted: by the recipe, or by this machine."""
    return f"network: {{ca_bundle: ./{stem}.pem}}, or {visit.remedies.command('trust', file=f'{stem}.pem', stem=stem)}"


def _about(seen: Handshake) -> dict[str, object]:
    made: dict[str, object] = {"version": seen.version or None, "reason": seen.words or None}
    if found := seen.certificate:
        made |= {"subject": found.subject, "issuer": found.issuer, "names": [*found.names]}
        made |= {"begins": found.begins.isoformat(), "ends": found.ends.isoformat()}
    return made


# -- what it says -------------------------------------------------------------------------------------------------


def greeting(visit: Visit) -> Iterator[Finding]:
    """Whether a registry, or a server of the web, answers; and by what clock."""
    host = visit.host
    urls = host.urls or (f"{visit.scheme}://{host.authority}/v2/",)
    for url in urls:
        method = "GET" if host.registry else "HEAD"
        try:
            with visit.place.access.session().request(
                method,
                url,
                stream=True,
                allow_redirects=not host.registry,
                verify=not visit.insecure,
                timeout=(CONNECT, CONNECT),
            ) as said:
                yield from _heard(visit, said, url)
        except (requests.RequestException, OSError) as error:
            visit.blocked = True
            yield _unheard(visit, error)
            return


def _unheard(visit: Visit, error: Exception) -> Finding:
    host = visit.host.authority
    why, fix = "the server hangs, or a firewall swallows what is said", f"curl -v --max-time 20 {visit.host.url}"
    if isinstance(error, requests.Timeout):
        saw = f"{host} took the connection and says nothing"
        return Finding(id="http.silent", level="problem", saw=saw, why=why, fix=fix)
    context = visit.trust.context(visit.host.name, visit.host.port)
    if visit.scheme == "https" and _over(visit, lambda made: wants_certificate(made, visit.host.name, context)):
        place = f"/etc/docker/certs.d/{host}"
        saw, why = f"{host} wants a certificate of ours", "who we are is proved there by a client certificate"
        return Finding(
            id="tls.client", level="problem", saw=saw, why=why, fix=f"ls {place}   (client.cert, client.key)"
        )
    return Finding(id="http.cut", level="problem", saw=diagnose(error, host).error.message, why=why, fix=fix)


def _heard(visit: Visit, said: requests.Response, url: str) -> Iterator[Finding]:
    yield from _clock(visit, said)
    if visit.host.registry:
        yield from _registry(visit, said)
    else:
        yield from _file(visit, said, url)


def _clock(visit: Visit, said: requests.Response) -> Iterator[Finding]:
    skew = skew_of(said.headers.get("Date", "")) if said.headers.get("Date") else None
    if skew is None or any(one.id.startswith("clock.") for one in visit.findings):
        return
    facts = {"seconds": round(skew)}
    if abs(skew) < _CLOCK[0]:
        yield Finding(id="clock.ok", level="ok", saw="its clock and ours agree", facts=facts)
        return
    yield Finding(
        id="clock.wrong",
        level="problem" if abs(skew) > _CLOCK[1] else "warning",
        saw=f"the clock of {visit.host.authority} is {_ahead(skew)} ours",
        why="tokens and certificates hold for a time, and are refused by a clock that is wrong",
        fix=f"date   (then: {visit.remedies.command('set-clock')})",
        facts=facts,
    )


def _ahead(skew: float) -> str:
    return f"{words.duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'}"


def _registry(visit: Visit, said: requests.Response) -> Iterator[Finding]:
    host = visit.host.authority
    facts = {"status": said.status_code, "server": said.headers.get("Server")}
    if said.status_code in (429, 503):
        visit.blocked = True
        after = said.headers.get("Retry-After")
        saw = f"{host} answers {said.status_code}" + (f", and asks to wait {after} s" if after else "")
        why = "it has had too many requests from this address; those who log in may ask more often"
        yield Finding(id="registry.busy", level="problem", saw=saw, why=why, fix=f"docker login {host}", facts=facts)
    elif said.status_code in (200, 401) and _speaks(said):
        how = "asks who we are" if said.status_code == 401 else "lets anybody in"
        yield Finding(id="registry.ok", level="ok", saw=f"{host} is a registry, and {how}", facts=facts)
        visit.elsewhere = _realm(said, host)
    else:
        visit.blocked = True
        saw = f"{host} answers {said.status_code} at /v2/, as no registry does"
        why = "a captive portal or a filter answers in its place, or the registry is under another name or port"
        yield Finding(
            id="registry.none", level="problem", saw=saw, why=why, fix=f"curl -v {visit.host.url}", facts=facts
        )


def _speaks(said: requests.Response) -> bool:
    """Whether it is a registry's answer: to a page for people /v2/ is one more address."""
    if said.status_code == 401:
        return bool(said.headers.get("WWW-Authenticate"))
    return "text/html" not in said.headers.get("Content-Type", "")


def _realm(said: requests.Response, host: str) -> str | None:
    """The token service, where it is another host than the registry."""
    found = re.search(r'\brealm="(https?://[^"]+)"', said.headers.get("WWW-Authenticate", ""), re.IGNORECASE)
    return found[1] if found and urlsplit(found[1]).netloc != host else None


def _file(visit: Visit, said: requests.Response, url: str) -> Iterator[Finding]:
    parts, host = urlsplit(url), visit.host.authority
    shown = f"{host}{parts.path}"
    facts = {"status": said.status_code, "size": said.headers.get("Content-Length")}
    whole = parts.path in ("", "/")
    if said.status_code < 400 or said.status_code == 405 or (whole and said.status_code < 500):
        yield Finding(id="web.ok", level="ok", saw=f"{shown} answers {said.status_code}", facts=facts)
        if not whole and said.headers.get("Accept-Ranges", "").lower() == "none":
            why = "a download that is cut begins anew"
            yield Finding(id="range.ignored", level="warning", saw=f"{host} gives no parts of files", why=why)
    elif said.status_code in (401, 403):
        why = "it wants a login, or does not let this address in"
        yield Finding(id="web.denied", level="problem", saw=f"{shown} answers {said.status_code}", why=why, facts=facts)
    elif said.status_code == 404:
        saw = f"{shown} is not there (404)"
        yield Finding(id="web.missing", level="problem", saw=saw, why="it was moved, or is misspelt", facts=facts)
    else:
        saw = f"{shown} answers {said.status_code}"
        yield Finding(id="web.failing", level="problem", saw=saw, why="the server is in trouble", facts=facts)
