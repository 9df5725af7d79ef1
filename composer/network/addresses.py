"""Addresses as they are written: `addr`, `addr:port`, `[v6]:port`."""

from __future__ import annotations

from ipaddress import ip_address

Address = tuple[str, int]
"""An IP address or a name, and a port."""


def is_address(text: str) -> bool:
    """Whether it is an IP address, without brackets."""
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def parse_address(text: str, port: int) -> Address:
    """`addr`, `addr:port`, `[v6]` or `[v6]:port`; `port` where none is said. Raises `ValueError`."""
    bare = text.strip("[]")
    if is_address(bare):
        return bare, port
    host, _, own = text.rpartition(":")
    if not is_address(host.strip("[]")) or not own.isdecimal() or not 0 < int(own) < 65536:
        raise ValueError(f"{text!r} is not an address")
    return host.strip("[]"), int(own)


def joined(host: str, port: int) -> str:
    """`host:port`, with brackets where they are due."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain(host: str) -> str:
    """A host in one spelling: names know no case, and may end in a dot; an address has no brackets."""
    return host.strip("[]").lower().rstrip(".")
