"""Which addresses a name has, by whom: each is asked by itself, so that what they say can be compared."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from composer.doctor.finding import Finding
from composer.doctor.within import within
from composer.network.addresses import is_address, parse_address
from composer.network.nameservers import PORT, NoAnswer, ask
from composer.network.routes import Routes

Fault = Literal["", "unknown", "silent", "failing", "refused", "empty"]

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_SERVER: Final = 7.0
"""Seconds for one name server, by UDP and then by TCP."""

_SYSTEM: Final = 6.0
"""Seconds for the system, which asks several servers one after the other."""

_SAID: Final = {
    "unknown": "says that there is no such name (NXDOMAIN)",
    "silent": "does not answer",
    "failing": "answers that it cannot find out (SERVFAIL)",
    "refused": "refuses to answer us (REFUSED)",
    "empty": "knows the name, but no address of it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one of those asked says of a name. `server` is its address, or empty for the system itself."""

    server: str = ""
    addresses: tuple[str, ...] = ()
    fault: Fault = ""

    @property
    def whom(self) -> str:
        """Who said it."""
        return f"name server {self.server}" if self.server else "this machine"

    @property
    def said(self) -> str:
        """What was said, after the name of who said it."""
        return _SAID[self.fault] if self.fault else f"says {', '.join(self.addresses)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """All that was said of one name: where we go by (`used`), and what others say whom we do not ask."""

    name: str
    fixed: tuple[str, ...] = ()
    asked: Sequence[Answer] = ()
    others: Sequence[Answer] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we go: what is fixed, or the first answer that has addresses."""
        return self.fixed or next((one.addresses for one in self.asked if one.addresses), ())


def look_up(name: str, port: int, routes: Routes, besides: Sequence[str] = ()) -> Names:
    """Ask everybody at once: the servers that the routes name, the system and its servers, and those `besides`."""
    if is_address(name):
        return Names(name=name, fixed=(name,))
    known = {key.lower().rstrip("."): addresses for key, addresses in routes.hosts.items()}
    plain = name.lower().rstrip(".")
    fixed = known.get(f"{plain}:{port}") or known.get(plain) or ()
    if plain == "localhost" or plain.endswith(".localhost"):  # by RFC 6761 no server's business
        return Names(name=name, fixed=fixed, asked=[ask_system(name)])
    others = [one for one in besides if one not in routes.dns]
    calls = [partial(ask_server, one, name) for one in (*routes.dns, *others)]
    answers = within(_SERVER, [*calls, partial(ask_system, name)])
    told = [one or Answer(fault="silent") for one in answers]
    count = len(routes.dns)
    return Names(name=name, fixed=fixed, asked=(*told[:count], told[-1]), others=told[count:-1])


def ask_system(name: str, conf: Path = RESOLV_CONF) -> Answer:
    """What the system says. Where it knows nothing, the servers that it asks are asked why."""
    try:
        found = within(_SYSTEM, [partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)])[0]
    except socket.gaierror as error:
        return _why(name, error.errno, conf)
    except (OSError, UnicodeError):
        return Answer(fault="unknown")
    if found is None:
        return Answer(fault="silent")
    return Answer(addresses=tuple(dict.fromkeys(str(address[4][0]) for address in found)))


def _why(name: str, code: int | None, conf: Path) -> Answer:
    answers = within(_SERVER, [partial(ask_server, one, name) for one in _servers(conf)])
    # A server that knows the name after all is past the system's own troubles, and no fault of its servers.
    faults = [one.fault for one in answers if one and one.fault and one.fault != "silent"]
    unsure: Fault = "unknown" if code in (socket.EAI_NONAME, socket.EAI_NODATA) else "silent"
    return Answer(fault=next(iter(faults), unsure))


def _servers(conf: Path) -> tuple[str, ...]:
    with suppress(OSError, UnicodeDecodeError):
        lines = (line.split() for line in conf.read_text().splitlines())
        return tuple(line[1] for line in lines if len(line) > 1 and line[0] == "nameserver")
    return ()


def ask_server(server: str, name: str) -> Answer:
    """What one name server says, IPv4 before IPv6. `server` is an address, or `address:port`."""
    try:
        return Answer(server=server, addresses=ask(parse_address(server, PORT), name).addresses)
    except NoAnswer as error:
        return Answer(server=server, fault=_FAULTS.get(error.why, "failing" if not error.passing else "silent"))


_FAULTS: Final[Mapping[str, Fault]] = {
    "NXDOMAIN": "unknown",
    "SERVFAIL": "failing",
    "REFUSED": "refused",
    "knows the name, and no address of it": "empty",
}


# -- what it means: pure ------------------------------------------------------------------------------------------


def judge_names(names: Names) -> Iterator[Finding]:
    """What is wrong with how a name is resolved, and the lines that would mend it."""
    if is_address(names.name):
        return
    if names.fixed:
        saw = f"{names.name} is fixed at {', '.join(names.fixed)}"
        yield Finding(id="name.fixed", level="ok", saw=saw, facts=_facts(names))
    elif not names.addresses:
        yield _lost(names)
    elif all(ipaddress.ip_address(_bare(one)).is_unspecified for one in names.addresses):
        yield _sinkhole(names)
    else:
        yield from _found(names)


def _found(names: Names) -> Iterator[Finding]:
    used = next(one for one in names.asked if one.addresses)
    saw = f"{names.name} is {', '.join(names.addresses)}, {used.whom} says"
    yield Finding(id="name.ok", level="ok", saw=saw, facts=_facts(names))
    for passed in names.asked[: names.asked.index(used)]:
        yield Finding(
            id="name.server",
            level="warning",
            saw=f"{passed.whom} {passed.said}",
            why="it is asked before those that know the name, and each connection waits for it",
            fix=f"network: {{dns: [...]}} without {passed.server}",
        )
    if other := next((one for one in _telling(names, used) if _differ(used.addresses, one.addresses)), None):
        yield _differing(names, used, other)


def _telling(names: Names, used: Answer) -> list[Answer]:
    return [one for one in (*names.asked, *names.others) if one.addresses and one != used]


def _differ(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether one is within a private network and the other is not: content networks differ too, and are right."""
    return not set(ours) & set(theirs) and any(map(_public, ours)) != any(map(_public, theirs))


def _public(address: str) -> bool:
    return ipaddress.ip_address(_bare(address)).is_global


def _bare(address: str) -> str:
    return address.partition("%")[0]


def _differing(names: Names, used: Answer, other: Answer) -> Finding:
    return Finding(
        id="name.differs",
        level="warning",
        saw=f"{used.whom} {used.said} of {names.name}; {other.whom} {other.said}",
        why="one is an address of a private network: a mirror or a filter stands in for it, or is passed by",
        fix=f"dig +short {names.name}" + (f" @{other.server}" if other.server else ""),
        facts=_facts(names),
    )


def _sinkhole(names: Names) -> Finding:
    used = next(one for one in names.asked if one.addresses)
    better = next((one for one in _telling(names, used) if any(map(_public, one.addresses))), None)
    return Finding(
        id="name.sinkhole",
        level="problem",
        saw=f"{names.name} is {', '.join(names.addresses)}, {used.whom} says: an address of nobody",
        why="a filter (a company's, or an ad blocker's) answers so for names that it does not let through",
        fix=f"ask for {names.name} to be let through, or for a mirror of it that may be reached",
        network=_lines(names, better),
        facts=_facts(names),
    )


def _lost(names: Names) -> Finding:
    """Nobody whom we ask has an address. The last one asked is the system."""
    telling = next((one for one in names.others if one.addresses), None)
    fault = _fault(names.asked)
    said = "; ".join(f"{one.whom} {one.said}" for one in (*names.asked, *names.others))
    return Finding(
        id=f"name.{fault}",
        level="problem",
        saw=f"{names.name}: {said}",
        why=_REASONS[fault],
        fix="" if telling else _ADVICE,
        network=_lines(names, telling),
        facts=_facts(names),
    )


def _fault(asked: Sequence[Answer]) -> Fault:
    """What is told of several that failed: that a name does not exist weighs more than that somebody is silent."""
    order: tuple[Fault, ...] = ("unknown", "empty", "refused", "failing", "silent")
    return min((one.fault for one in asked if one.fault), key=order.index, default="silent")


_REASONS: Final = {
    "unknown": "the name is misspelt, or this network's name server does not know names outside of it",
    "silent": "no name server can be reached: the network is down, or a firewall drops what goes to port 53",
    "failing": "the name server itself cannot reach those that know: it is cut off, or the domain's servers are",
    "refused": "the name server is not for us: it answers its own network only",
    "empty": "the name exists for other things than addresses, or a filter took them out",
}
_ADVICE: Final = (
    "tricompose doctor --dns ADDRESS   (any name server that knows it: the lines that mend it are then written)"
)


def _lines(names: Names, telling: Answer | None) -> dict[str, object]:
    return {"hosts": {names.name: list(telling.addresses)}} if telling else {}


def _facts(names: Names) -> dict[str, object]:
    asked = [*names.asked, *names.others]
    said = [{"server": one.server or None, "addresses": [*one.addresses], "fault": one.fault or None} for one in asked]
    return {"name": names.name, "fixed": [*names.fixed], "answers": said}
