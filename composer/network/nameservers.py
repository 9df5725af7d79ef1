"""Asking one name server for the addresses of a name: UDP, then TCP; IPv4, then IPv6.

Source: RFC 1035 and 7766.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import dns.message

PORT: Final = 53

_UDP_SECONDS: Final = 2.0
_TCP_SECONDS: Final = 4.0
_MORE_SECONDS: Final = 1.0
"""For the second kind of addresses, where there are some of the first: some servers never answer for IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The addresses of a name, in the order to be tried, and how many seconds that may be believed."""

    addresses: tuple[str, ...]
    seconds: float


class NoAnswer(Exception):
    """A name server does not know a name, or does not say. `passing`: it may another time."""

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.passing = passing


def ask(server: tuple[str, int], name: str) -> Answer:
    """What a name server, by its address and port, says of a name. Raises `NoAnswer`."""
    found = _records(server, name, "A", (_UDP_SECONDS, _TCP_SECONDS))
    if not found.addresses:
        found = _records(server, name, "AAAA", (_UDP_SECONDS, _TCP_SECONDS))
        if not found.addresses:
            raise NoAnswer("knows the name, and no address of it")
        return found
    try:
        more = _records(server, name, "AAAA", (_MORE_SECONDS, _MORE_SECONDS)).addresses
    except NoAnswer:
        more = ()
    return Answer(addresses=(*found.addresses, *more), seconds=found.seconds)


def _records(server: tuple[str, int], name: str, kind: str, seconds: tuple[float, float]) -> Answer:
    """The addresses of one kind, maybe none."""
    import dns.exception
    import dns.message
    import dns.rcode

    try:
        answer = _exchange(dns.message.make_query(name, kind), server, seconds)
        if answer.rcode() != dns.rcode.NOERROR:
            raise NoAnswer(dns.rcode.to_text(answer.rcode()), passing=answer.rcode() == dns.rcode.SERVFAIL)
        chain = answer.resolve_chaining()
    except (dns.exception.DNSException, UnicodeError) as error:
        raise NoAnswer(f"answers nonsense ({type(error).__name__})") from error
    records = chain.answer or ()
    return Answer(addresses=tuple(str(one.address) for one in records), seconds=float(chain.minimum_ttl))


def _exchange(
    query: dns.message.QueryMessage, server: tuple[str, int], seconds: tuple[float, float]
) -> dns.message.QueryMessage:
    """By UDP; by TCP where that is too short, or nothing comes back: some firewalls let only that through."""
    import dns.exception
    import dns.flags
    import dns.message
    import dns.query

    where, port = server
    answer: dns.message.Message
    try:
        answer = dns.query.udp(query, where, seconds[0], port, ignore_unexpected=True, ignore_errors=True)
        if not answer.flags & dns.flags.TC:
            return _asked(answer)
    except (dns.exception.Timeout, OSError):
        pass
    try:
        return _asked(dns.query.tcp(query, where, seconds[1], port))
    except (dns.exception.Timeout, TimeoutError) as error:
        raise NoAnswer("no answer", passing=True) from error
    except EOFError as error:
        raise NoAnswer("hangs up", passing=True) from error
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        raise NoAnswer("refused" if refused else error.strerror or type(error).__name__, passing=True) from error


def _asked(answer: dns.message.Message) -> dns.message.QueryMessage:
    import dns.message

    if not isinstance(answer, dns.message.QueryMessage):
        raise NoAnswer("answers nonsense")
    return answer
