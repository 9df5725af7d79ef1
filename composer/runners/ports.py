"""What an image starts and where that listens, and what to add so that it listens elsewhere."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
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


def free_ports() -> dict[str, int]:
    """Ports of this machine that nobody listens on, one for each protocol. They are held until all are found."""
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(closing(socket.socket())) for name in DEFAULTS}
        for found in sockets.values():
            found.bind((HOST, 0))
        return {name: found.getsockname()[1] for name, found in sockets.items()}


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
