"""Start a server without Docker: its image unpacked into a temporary folder, and run in namespaces of its own.

It has its own files, processes, /dev/shm and host name, and only those rights of root that a server needs. The
network is the host's, so the server is told to listen on ports that are free. The host's GPU driver is not brought
in: to serve on a GPU takes the docker runner.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from composer.errors import NoRoom, Unplannable
from composer.events import Emit, Logged, Warned
from composer.oci.image import Image
from composer.oci.store import Store
from composer.oci.unpack import unpack
from composer.runners import inside
from composer.runners import ports as port_rules

if TYPE_CHECKING:
    from composer.recipe import Run

GRACE: Final = 10.0
"""Seconds from SIGTERM to SIGKILL: Triton unloads its models meanwhile."""

_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_SWITCHES: Final = {
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "/proc/sys/user/max_user_namespaces": ("0", "sudo sysctl -w user.max_user_namespaces=15000"),
}
"""What turns user namespaces off, by file: the value that does, and the command that turns them on again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What `inside` makes: everything already decided. `env` is all the environment there will be."""

    root: str
    command: Sequence[str]
    env: Mapping[str, str]
    workdir: str = "/"
    uid: int = 0
    gid: int = 0
    groups: Sequence[int] = ()
    shm_size: int = 1 << 26
    hostname: str = "tricompose"


class RootfsRunner:
    """The runner for machines without Docker. As root or not."""

    name = "rootfs"

    def refusal(self) -> str | None:
        """Tries to make an empty container; the reason is the kernel's own."""
        if sys.platform != "linux":
            return "it needs Linux; use Docker on this machine"
        with tempfile.TemporaryDirectory(prefix="tricompose-") as folder:
            process = _launch(Spec(root=folder, command=(), env={}), subprocess.PIPE)
            assert process.stdout
            with process.stdout as output:
                complaint = output.read().decode(errors="replace").strip()
            process.wait()
        return None if process.returncode == 0 else f"the kernel gives us no namespaces ({complaint}); {_advice()}"

    @contextmanager
    def start(
        self, image: Image, store: Store, run: Run, *, emit: Emit, ports: Mapping[str, int] | None = None
    ) -> Iterator[_Server]:
        """See `Runner.start`. The image is unpacked below TMPDIR, and gone at the end."""
        _refuse_foreign(image)
        if run.gpus not in ("none", "auto"):
            emit(Warned(message="the rootfs runner gives the server no GPU", hint="--runner docker"))
        with _workspace() as folder:
            root = folder / "rootfs"
            unpack(image, store, root, emit=emit)
            command, chosen = _placed(port_rules.command_of(image), ports)
            spec = _spec(image, root, command, run.shm_size)
            emit(Logged(text=f"starting on the host's network: {' '.join(command)}", source=self.name))
            with _started(spec, folder / "log", chosen) as server:
                yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """A server in namespaces of its own, and the file that it writes to."""

    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log: Path

    def logs(self) -> str:
        return self.log.read_text(errors="replace")

    def exit_code(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        # SIGTERM is handed on to the server. SIGKILL is not: the kernel then ends all processes of the container.
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def _started(spec: Spec, log: Path, ports: Mapping[str, int]) -> Iterator[_Server]:
    with log.open("wb") as output:
        process = _launch(spec, output)
    at = {name: f"{port_rules.HOST}:{port}" for name, port in ports.items()}
    server = _Server(
        http=f"http://{at['http']}",
        grpc=at["grpc"],
        metrics=f"http://{at['metrics']}/metrics",
        process=process,
        log=log,
    )
    try:
        yield server
    finally:
        server.stop()


def _launch(spec: Spec, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start `inside` with nothing of our environment, in a session of its own: Ctrl-C is for us to handle."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", inside.__file__],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={},
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(asdict(spec)).encode())
    return process


def _advice() -> str:
    for file, (off, command) in _SWITCHES.items():
        with suppress(OSError):
            if Path(file).read_text().strip() == off:
                return f"allow them: {command}"
    return "use Docker, run as root, or start the container around us with --privileged"


def _refuse_foreign(image: Image) -> None:
    machine = platform.machine()
    if image.platform.architecture != _MACHINES.get(machine, machine):
        raise Unplannable(
            f"the image is for {image.platform}, this machine is {machine}",
            hint="prove it on such a machine, or with Docker and QEMU: --runner docker",
        )


def _placed(command: list[str], ports: Mapping[str, int] | None) -> tuple[list[str], Mapping[str, int]]:
    """The command and the ports that it will answer on. A command that takes no flags keeps its own ports."""
    if port_rules.starts_triton(command):
        chosen = {**port_rules.listened(command), **ports} if ports else port_rules.free_ports()
        port_rules.refuse_taken(chosen)
        return port_rules.moved(command, chosen), chosen
    own = port_rules.listened(command)
    port_rules.refuse_taken(own)
    return command, own


def _spec(image: Image, root: Path, command: Sequence[str], shm_size: int) -> Spec:
    settings = image.config.get("config") or {}
    uid, gid, groups, home = _account(root, settings.get("User") or "")
    env = {"PATH": _DEFAULT_PATH, "HOME": home} | dict(
        line.split("=", 1) for line in settings.get("Env") or () if "=" in line
    )
    return Spec(
        root=str(root),
        command=command,
        env=env,
        workdir=settings.get("WorkingDir") or "/",
        uid=uid,
        gid=gid,
        groups=groups,
        shm_size=shm_size,
    )


def _account(root: Path, user: str) -> tuple[int, int, list[int], str]:
    """User ID, group ID, further groups and home of the config's `User`: `user[:group]`, as names or numbers."""
    name, _, group = user.partition(":")
    users, groups = _table(root, "etc/passwd", 6), _table(root, "etc/group", 3)
    entry = next((row for row in users if name and name in (row[0], row[2])), None)
    if entry is None and name and not name.isdecimal():
        raise Unplannable(f"the image starts as {name!r}, a user that its /etc/passwd does not have")
    uid = int(entry[2]) if entry else int(name or 0)
    home = entry[5] if entry else "/root" if uid == 0 else "/"
    if group:
        return uid, _group(groups, group), [], home
    member_of = [int(row[2]) for row in groups if entry and entry[0] in row[3].split(",")]
    return uid, int(entry[3]) if entry else 0, member_of, home


def _group(groups: Sequence[Sequence[str]], wanted: str) -> int:
    number = next((row[2] for row in groups if wanted in (row[0], row[2])), wanted)
    if not number.isdecimal():
        raise Unplannable(f"the image starts in the group {wanted!r}, which its /etc/group does not have")
    return int(number)


def _table(root: Path, path: str, colons: int) -> list[list[str]]:
    """The rows of an account file of the image. One that is a link is not read: it may lead out of the image."""
    try:
        descriptor = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return []
    with open(descriptor, errors="replace") as file:
        rows = [line.rstrip("\n").split(":") for line in file]
    return [row for row in rows if len(row) > colons - 1 and row[2].isdecimal()]


@contextmanager
def _workspace() -> Iterator[Path]:
    """A folder that is gone at the end, whatever modes an image gave to what is in it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="tricompose-"))
    except OSError as error:
        raise NoRoom(f"no temporary folder can be made: {error.strerror}", hint="set TMPDIR") from error
    try:
        yield folder
    finally:
        _open_up(folder)
        shutil.rmtree(folder)


def _open_up(folder: Path) -> None:
    """Let ourselves into every folder: without root, a mode of the image may keep us out."""
    for path, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
