"""What an image starts and where that listens, and what to add so that it listens elsewhere."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from composer.errors import Unplannable
from composer.oci.image import Image

HOST: Final = "127.0.0.1"
"""A server that is proved is reachable from this machine only."""

DEFAULTS: Final[Mapping[str, int]] = {"http": 8000, "grpc": 8001, "metrics": 8002}
"""Triton's own ports. Source: `tritonserver --help`."""


def command_of(image: Image) -> list[str]:
    """The words of the image's entrypoint and command. Raises `Unplannable` if it has neither."""
    settings = image.config.get("config") or {}
    command = [*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())]
    if not command:
        raise Unplannable("the image starts nothing: it has neither entrypoint nor command")
    return command


def starts_triton(command: Sequence[str]) -> bool:
    """Whether flags at the end of `command` reach a tritonserver: false for a shell's one-liner."""
    return any(word.rpartition("/")[2] == "tritonserver" for word in command)


def listened(command: Sequence[str]) -> dict[str, int]:
    """The ports by protocol that `command` makes a server listen on; the last of equal flags counts, as in Triton."""
    ports = dict(DEFAULTS)
    for word, following in zip(command, [*command[1:], ""], strict=True):
        flag, _, value = word.partition("=")
        name = flag.removeprefix("--").removesuffix("-port")
        number = value or following
        if flag == f"--{name}-port" and name in ports and number.isdecimal():
            ports[name] = int(number)
    return ports


def moved(command: Sequence[str], ports: Mapping[str, int]) -> list[str]:
    """`command` with flags that make its server listen on `ports` of this machine.

    The metrics follow the address of HTTP; older servers have no flag for theirs.
    """
    numbers = [f"--{name}-port={port}" for name, port in ports.items()]
    return [*command, f"--http-address={HOST}", f"--grpc-address={HOST}", *numbers]


@contextmanager
def placed(command: Sequence[str], wanted: Mapping[str, int] | None) -> Iterator[tuple[list[str], Mapping[str, int]]]:
    """The command for a server on this machine's own network, and the ports that it will answer on.

    Without `wanted` they are free ones; a command that takes no flags keeps its own. As long as this lasts no other
    tricompose takes them. Raises `Unplannable` if one is taken.
    """
    own, obeys = listened(command), starts_triton(command)
    with ExitStack() as stack:
        if obeys and not wanted:
            ports = _free(stack)
        else:
            ports = {**own, **wanted} if wanted and obeys else own
            for name, port in ports.items():
                _claim(name, port, stack)
        refuse_taken(ports)
        yield moved(command, ports) if obeys else list(command), ports


def free_ports() -> dict[str, int]:
    """Ports of this machine that nobody listens on, one for each protocol. They are held until all are found."""
    with ExitStack() as stack:
        return _free(stack)


def _free(stack: ExitStack) -> dict[str, int]:
    """Ports that nobody has, claimed for as long as `stack` lasts.

    They are none of those that the kernel gives to whoever asks for any: a server takes seconds until it listens, and
    they shall still be free then.
    """
    found: dict[str, int] = {}
    while len(found) < len(DEFAULTS):
        name, port = list(DEFAULTS)[len(found)], random.randrange(_LOWEST, _lowest_given())
        with suppress(Unplannable):
            refuse_taken({name: port})
            _claim(name, port, stack)
            found[name] = port
    return found


_LOWEST: Final = 15_000
_USUAL: Final = 32_768


def _lowest_given() -> int:
    """Where the ports begin that the kernel gives away by itself."""
    with suppress(OSError, ValueError):
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        return lowest if lowest > _LOWEST + 1000 else _USUAL
    return _USUAL


def _claim(name: str, port: int, stack: ExitStack) -> None:
    """Have a port to ourselves among all tricompose on this machine's network.

    The claim is a name in the kernel: it belongs to a network as the port does, and is gone with whoever holds it.
    Source: unix(7), abstract sockets.
    """
    claim = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
    try:
        claim.bind(f"\0tricompose-port-{port}")
    except OSError as error:
        raise Unplannable(
            f"port {port}, wanted for {name}, belongs to another server that tricompose starts just now",
            hint="tricompose run --http-port 9000 --grpc-port 9001 --metrics-port 9002 ...",
        ) from error


def refuse_taken(ports: Mapping[str, int]) -> None:
    """Raise `Unplannable` if somebody listens on one of `ports`: we would prove somebody else's server."""
    for name, port in ports.items():
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise Unplannable(
                    f"port {port}, wanted for {name}, cannot be listened on: {error.strerror}",
                    hint=f"see who has it: ss -ltnp 'sport = :{port}'",
                ) from error
