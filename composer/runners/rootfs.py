"""Start a server without Docker: its image unpacked into a temporary folder, and run in namespaces of its own.

It has its own files, processes, /dev/shm and host name, and only those rights of root that a server needs. The
network is the host's, so the server is told to listen on ports that are free. The host's GPU driver is not brought
in: to serve on a GPU takes the docker runner.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from composer.errors import NoRoom, Unplannable
from composer.events import Emit, Logged, Warned
from composer.interruptions import shielded
from composer.oci.image import Image
from composer.oci.store import Store
from composer.oci.unpack import unpack
from composer.runners import inside
from composer.runners import ports as port_rules
from composer.runners.ending import GRACE, PROVED, asked_to_end
from composer.runners.mounts import Mounted, mounted

if TYPE_CHECKING:
    from composer.recipe import Run

PREFIX: Final = "tricompose-rootfs-"
"""What the folders begin with that images are unpacked into."""

_KILLED: Final = 5.0
"""Seconds until all processes of a container that was killed are gone."""

_TRIES, _PAUSE = 20, 0.1
_LOOPBACK: Final = "127.0.0.1"
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
    mounts: Sequence[Mapping[str, object]] = ()
    hosts: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[int, Sequence[int]] = field(default_factory=dict)
    hostname: str = "tricompose"


class RootfsRunner:
    """The runner for machines without Docker. As root or not."""

    name = "rootfs"

    def refusal(self) -> str | None:
        """Tries to make an empty container; the reason is the kernel's own."""
        if sys.platform != "linux":
            return "it needs Linux; use Docker on this machine"
        with shielded(), _workspace() as folder:
            process = _launch(Spec(root=str(folder), command=(), env={}), subprocess.PIPE)
            assert process.stdout
            with process.stdout as output:
                complaint = output.read().decode(errors="replace").strip()
            process.wait()
        return None if process.returncode == 0 else f"the kernel gives us no namespaces ({complaint}); {_advice()}"

    @contextmanager
    def start(
        self,
        image: Image,
        store: Store,
        run: Run,
        *,
        emit: Emit,
        ports: Mapping[str, int] | None = None,
        base: Path = Path(),
    ) -> Iterator[_Server]:
        """See `Runner.start`. The image is unpacked below TMPDIR, and gone at the end."""
        _refuse_foreign(image)
        _refuse_network(run)
        given = mounted(run, base)
        for lacking in _lacks(run):
            emit(lacking)
        with shielded() as shield, ExitStack() as stack:
            _sweep(emit)
            folder = stack.enter_context(_workspace())
            with shield.lowered():
                unpack(image, store, folder / "rootfs", emit=emit)
            command, chosen = stack.enter_context(port_rules.placed(port_rules.command_of(image), ports))
            spec = _spec(image, folder / "rootfs", command, run, given)
            emit(Logged(text=f"starting on the host's network: {' '.join(command)}", source=self.name))
            grace = GRACE if ports else PROVED
            server = stack.enter_context(_started(spec, folder / "log", chosen, grace))
            with shield.lowered():
                yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """A server in namespaces of its own, and the file that it writes to."""

    http: str
    grpc: str
    metrics: str
    grace: float
    process: subprocess.Popen[bytes]
    log: Path
    engine: str = "rootfs"

    def logs(self) -> str:
        return self.log.read_text(errors="replace")

    def exit_code(self) -> int | None:
        return self.process.poll()

    def oom_killed(self) -> bool:
        # Nobody tells whom the kernel killed for it: there is no limit of our own.
        return False

    def pids(self) -> Sequence[int]:
        return _below(self.process.pid)

    def stop(self) -> None:
        # SIGTERM is handed on to the server. Had we killed `inside`, nobody could say when its processes are gone.
        if asked_to_end(self, self.process.terminate):
            return
        self.process.send_signal(inside.KILL)
        try:
            self.process.wait(_KILLED)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def _started(spec: Spec, log: Path, ports: Mapping[str, int], grace: float) -> Iterator[_Server]:
    with log.open("wb") as output:
        process = _launch(spec, output)
    at = {name: f"{port_rules.HOST}:{port}" for name, port in ports.items()}
    server = _Server(
        http=f"http://{at['http']}",
        grpc=at["grpc"],
        metrics=f"http://{at['metrics']}/metrics",
        grace=grace,
        process=process,
        log=log,
    )
    try:
        yield server
    finally:
        server.stop()


def _below(parent: int) -> list[int]:
    """All descendants of a process. Those whose parent has died stay below the first one of their container."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(file.read_text().rpartition(")")[2].split()[1]), []).append(int(file.parent.name))
    found, ahead = [], children.get(parent, [])
    while ahead:
        found.append(ahead.pop())
        ahead.extend(children.get(found[-1], ()))
    return found


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


def _refuse_network(run: Run) -> None:
    """The network is the host's: what another one would reach, or keep out, would not be proved."""
    if run.network not in (None, "host"):
        raise Unplannable(
            f"the rootfs runner has the host's network only, the recipe wants {run.network!r}", hint="--runner docker"
        )


def _lacks(run: Run) -> Iterator[Warned]:
    """What the recipe wants and this runner cannot give, but which does not change what is proved."""
    if run.gpus not in ("none", "auto"):
        yield Warned(message="the rootfs runner gives the server no GPU", hint="--runner docker")
    low = [name for name, one in run.ulimits.items() if _allowed(name, one.soft, one.hard) != (one.soft, one.hard)]
    if low:
        yield Warned(
            message=f"only root may raise these limits, so they stay below what the recipe wants: {', '.join(low)}",
            hint="--runner docker",
        )


def _allowed(name: str, soft: int, hard: int) -> tuple[int, int]:
    """A limit, as near as we may set it."""
    number = _LIMITS[name]
    before = resource.getrlimit(number)
    if _least(hard, before[1]) == hard or _may_raise(number, before, hard):
        return soft, hard
    return _least(soft, before[1]), before[1]


def _least(one: int, other: int) -> int:
    """-1 is RLIM_INFINITY, and more than any other."""
    return max(one, other) if -1 in (one, other) else min(one, other)


def _may_raise(number: int, before: tuple[int, int], hard: int) -> bool:
    """Tries it: root may, but not in every container."""
    try:
        resource.setrlimit(number, (before[0], hard))
    except (ValueError, OSError):
        return False
    resource.setrlimit(number, before)
    return True


_LIMITS: Final[Mapping[str, int]] = {"locks": 10} | {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name) for name in dir(resource) if "RLIMIT_" in name
}
"""The kernel's numbers of limits. Python leaves out the one that does nothing any more."""


def _spec(image: Image, root: Path, command: Sequence[str], run: Run, given: Sequence[Mounted]) -> Spec:
    settings = image.config.get("config") or {}
    uid, gid, groups, home = _account(root, settings.get("User") or "")
    env = {"PATH": _DEFAULT_PATH, "HOME": home} | dict(
        line.split("=", 1) for line in settings.get("Env") or () if "=" in line
    )
    return Spec(
        root=str(root),
        command=command,
        env=env | dict(run.env),
        workdir=settings.get("WorkingDir") or "/",
        uid=uid,
        gid=gid,
        groups=groups,
        shm_size=run.shm_size,
        mounts=[asdict(one) for one in given],
        hosts={name: _LOOPBACK if at == "host-gateway" else at for name, at in run.extra_hosts.items()},
        limits={_LIMITS[name]: _allowed(name, one.soft, one.hard) for name, one in run.ulimits.items()},
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
    folder, _, name = path.rpartition("/")
    try:
        within = os.open(root / folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            # A pipe would be waited for.
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=within)
        finally:
            os.close(within)
    except OSError:
        return []
    with open(descriptor, errors="replace") as file:
        plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
        rows = [line.rstrip("\n").split(":") for line in file] if plain else []
    return [row for row in rows if len(row) > colons - 1 and row[2].isdecimal()]


@contextmanager
def _workspace() -> Iterator[Path]:
    """A folder that is gone at the end, whatever modes an image gave to what is in it. Its lock keeps `_sweep` away."""
    folder, lock = _locked_folder()
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _locked_folder() -> tuple[Path, int]:
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        except OSError as error:
            raise NoRoom(f"no temporary folder can be made: {error.strerror}", hint="set TMPDIR") from error
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # swept before it was opened
            continue
        with suppress(OSError):  # a file system without locks: then nobody can sweep there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(folder), os.fstat(lock)):
                return folder, lock
        os.close(lock)  # swept before it was locked


def _sweep(emit: Emit) -> None:
    """Remove the folders of runs that were killed: nobody holds their locks. Processes and mounts died with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    emit(Logged(text=f"removing what a run has left that was killed: {folder}", source="rootfs"))
                    _remove(folder)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder that may not let us in, and in which processes that are being killed may still be writing."""
    for _ in range(_TRIES):
        with suppress(OSError):
            shutil.rmtree(folder)
            return
        with suppress(OSError):
            _open_up(folder)
        time.sleep(_PAUSE)
    shutil.rmtree(folder)


def _open_up(folder: Path) -> None:
    """Let ourselves into every folder: without root, a mode of the image may keep us out."""
    for path, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
