"""Start a server from an image, wherever the user can: in Docker, or in namespaces of our own without it.

Or take one that runs already, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from composer.errors import NotFound, Unplannable
from composer.events import Emit
from composer.oci.image import Image
from composer.oci.store import Store

if TYPE_CHECKING:
    from composer.recipe import Run


class Running(Protocol):
    """A server that was started. It may still be loading, be ready, or have ended."""

    @property
    def http(self) -> str:
        """Where HTTP is answered: `http://127.0.0.1:PORT`; of a server elsewhere `https://...` too."""
        ...

    @property
    def grpc(self) -> str:
        """Where gRPC is answered: `127.0.0.1:PORT`. Empty where that is not known."""
        ...

    @property
    def metrics(self) -> str:
        """Where Prometheus metrics are: `http://127.0.0.1:PORT/metrics`. Empty where that is not known."""
        ...

    @property
    def engine(self) -> str:
        """What it runs in, with its version: `docker 20.10.24`, `rootfs`, `remote`."""
        ...

    def logs(self) -> str:
        """All that the server has written so far, to both of its streams."""
        ...

    def exit_code(self) -> int | None:
        """None while it lives; 128 + signal if a signal ended it."""
        ...

    def oom_killed(self) -> bool:
        """Whether it was killed for want of memory, as far as what it runs in can tell."""
        ...

    def pids(self) -> Sequence[int]:
        """The numbers that the server's processes have on this machine, outside of its container."""
        ...

    def stop(self) -> None:
        """Ask it to end, and make it end if it does not: see `ending`. Harmless where it has ended."""
        ...


class Runner(Protocol):
    """A way to start servers."""

    name: str

    def refusal(self) -> str | None:
        """Why it cannot be used here and what to do about it, or None if it can."""
        ...

    def start(
        self,
        image: Image,
        store: Store,
        run: Run,
        *,
        emit: Emit,
        ports: Mapping[str, int] | None = None,
        base: Path = Path(),
    ) -> AbstractContextManager[Running]:
        """Start what the image starts. At the end of the context nothing of it is left on this machine.

        `ports` (by `http`, `grpc`, `metrics`) are the ports of 127.0.0.1 to answer on; without them free ones are
        taken. Paths in `run` start from `base`. What an earlier run has left that was killed is removed first.
        Raises `NotFound`, `Unplannable`, `Corrupt`, `NoRoom`, `Unreachable`.
        """
        ...


def _docker() -> Runner:
    from composer.runners.docker import DockerRunner

    return DockerRunner()


def _rootfs() -> Runner:
    from composer.runners.rootfs import RootfsRunner

    return RootfsRunner()


RUNNERS: Final[Mapping[str, Callable[[], Runner]]] = {"docker": _docker, "rootfs": _rootfs}
"""Every way to start a server, the one to be preferred first. A server that runs already needs none: see `remote`."""


def pick(name: str) -> Runner:
    """The runner of that name, or for `auto` the first that can be used here.

    Raises `NotFound` for a name that there is not, and `Unplannable` with every reason where none can be used.
    """
    if name != "auto" and name not in RUNNERS:
        raise NotFound(f"there is no runner {name!r}", hint=f"one of: auto, {', '.join(RUNNERS)}")
    refusals = []
    for candidate in RUNNERS if name == "auto" else (name,):
        runner = RUNNERS[candidate]()
        reason = runner.refusal()
        if reason is None:
            return runner
        refusals.append(f"{candidate}: {reason}")
    raise Unplannable(
        "no server can be started here to prove the image\n" + "\n".join(refusals),
        hint="do one of the above, or build without proof: tricompose build --no-validate",
    )
