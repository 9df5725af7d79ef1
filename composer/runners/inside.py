"""Becomes the first process of a container: namespaces, mounts, user, then the command. Run by `rootfs`, as a program.

Started as `python -I -S inside.py` with `rootfs.Spec` as JSON on standard input; it needs the standard library only.
Exits with the status of the command (128 + signal if one ended it), or with 125 and a line on standard error if the
container could not be made. An empty command makes the container and ends. When this process dies, so does all in it.

Source of the calls: mount(2), pivot_root(2), user_namespaces(7), prctl(2); the Python of today has none of them.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn

FAILED: Final = 125
"""The exit status when the container could not be made, as of `docker run`."""

KILL: Final = signal.SIGUSR1
"""Sent to us it is SIGKILL for the container: all of its processes are gone by the time that we exit."""

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID = 0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _MOVE, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 8192, 16384, 1 << 18
_LOCKED: Final = _NOSUID | _NODEV | _NOEXEC
"""What a user namespace may not take from a mount. They are the same numbers in statvfs(3)."""

_DETACH: Final = 2
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 24, 38

_KEPT_CAPABILITIES: Final = (0, 1, 3, 4, 5, 6, 7, 10)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE: what a server may need of root."""

_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS: Final = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1"} | {
    "stderr": "/proc/self/fd/2"
}
_READ_ONLY: Final = ("sys", "sysrq-trigger", "irq", "bus")
"""What of /proc would change the host."""

_NETWORK_FILES: Final = ("/etc/resolv.conf", "/etc/hosts")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Make the container that standard input describes, wait for its command, and exit as it did."""
    spec = json.load(sys.stdin)
    try:
        _die_with_parent()
        _separate()
        child = os.fork()
        if child == 0:
            _first_process(spec)
    except OSError as error:
        _give_up(error)
    _forward_signals(child)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _give_up(error: OSError) -> NoReturn:
    os.write(2, f"inside: {error.filename or 'the container'}: {error.strerror}\n".encode())
    os._exit(FAILED)


def _forward_signals(child: int) -> None:
    """What we are sent is for the command. To kill it, and be told when all of its processes are gone, is SIGUSR1."""

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL if number == KILL else number)

    for number in (signal.SIGTERM, signal.SIGINT, KILL):
        signal.signal(number, forward)


def _separate() -> None:
    """Enter namespaces of our own. Without root a user namespace comes first, in which we are."""
    uid, gid = os.geteuid(), os.getegid()
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID
    _call("unshare", flags if uid == 0 else flags | _NEWUSER)
    if uid == 0:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _first_process(spec: Mapping[str, Any]) -> NoReturn:
    """Runs as process 1 of the container."""
    try:
        _die_with_parent()
        socket.sethostname(spec["hostname"])
        network = {path: _content(path) for path in _NETWORK_FILES}
        network["/etc/hosts"] += "".join(f"\n{at}\t{name}" for name, at in spec["hosts"].items()).encode() + b"\n"
        _mount_all(spec["root"], spec["shm_size"])
        brought = [_bring(mount, f"{spec['root']}{_stage(number)}") for number, mount in enumerate(spec["mounts"])]
        _enter(spec["root"])
        for path, content in network.items():
            _replace(path, content)
        for number, (mount, flags) in enumerate(zip(spec["mounts"], brought, strict=True)):
            _place(_stage(number), mount, flags)
        os.makedirs(spec["workdir"], exist_ok=True)
        _limit(spec["limits"])
        _become(spec["uid"], spec["gid"], spec["groups"])
        os.chdir(spec["workdir"])
        _forget_python()
        if not spec["command"]:
            os._exit(0)
        os.execvpe(spec["command"][0], spec["command"], spec["env"])
    except OSError as error:
        _give_up(error)


def _mount_all(root: str, shm_size: int) -> None:
    _mount("none", "/", "", _REC | _PRIVATE)
    _mount(root, root, "", _BIND | _REC)
    for folder in ("proc", "sys", "dev"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    for name in _READ_ONLY:
        _show(f"{root}/proc/{name}", f"{root}/proc/{name}")
    _show("/sys", f"{root}/sys")
    _mount("tmpfs", f"{root}/dev", "tmpfs", _NOSUID, "mode=755,size=64k")
    _devices(f"{root}/dev")
    _mount("shm", f"{root}/dev/shm", "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={shm_size}")  # noqa: S108


def _show(source: str, target: str) -> None:
    """Have `source` at `target` to be read. A courtesy: where it cannot be had, a server does without."""
    with suppress(OSError):
        try:
            _mount(source, target, "", _BIND)
        except OSError:  # in a user namespace what is mounted below cannot be left out
            _mount(source, target, "", _BIND | _REC)
        _mount("none", target, "", _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _NOEXEC)


def _devices(folder: str) -> None:
    for name in _DEVICES:
        with suppress(FileNotFoundError):
            os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
            _mount(f"/dev/{name}", f"{folder}/{name}", "", _BIND)
    for name, target in _LINKS.items():
        os.symlink(target, f"{folder}/{name}")
    os.mkdir(f"{folder}/shm")


def _stage(number: int) -> str:
    """Where a mount waits: in our own /dev, as the image's paths mean something else before its root is ours."""
    return f"/dev/.mount-{number}"


def _bring(mount: Mapping[str, Any], stage: str) -> int:
    """Have a file or folder of the host at `stage`. Returns the flags that its own file system is mounted with."""
    _make_point(stage, folder=os.path.isdir(mount["source"]))
    _mount(mount["source"], stage, "", _BIND | _REC)
    return os.statvfs(mount["source"]).f_flag & _LOCKED


def _place(stage: str, mount: Mapping[str, Any], flags: int) -> None:
    """Move it from there to where the image shall have it. Links on the way lead where the image says."""
    target, folder = os.path.realpath(mount["target"]), os.path.isdir(stage)
    if not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _make_point(target, folder=folder)
    _mount(stage, target, "", _MOVE)
    if mount["read_only"]:
        _mount("none", target, "", _BIND | _REMOUNT | _RDONLY | flags)
    (os.rmdir if folder else os.unlink)(stage)


def _make_point(path: str, *, folder: bool) -> None:
    if folder:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _enter(root: str) -> None:
    """Make `root` the root, and let go of the host's: the new one is put over the old one, which is then lifted off."""
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/")


def _content(path: str) -> bytes:
    with suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""


def _replace(path: str, content: bytes) -> None:
    """The network is the host's, and so are its names. An image whose /etc cannot be written keeps its own."""
    with suppress(OSError):
        if os.path.lexists(path):
            os.unlink(path)
        with open(path, "wb") as file:
            file.write(content)


def _limit(limits: Mapping[str, list[int]]) -> None:
    for number, (soft, hard) in limits.items():
        resource.setrlimit(int(number), (soft, hard))


def _become(uid: int, gid: int, groups: list[int]) -> None:
    """Drop what root can do and a server need not, then become the user. In a user namespace only root exists."""
    for capability in range(64):
        if capability not in _KEPT_CAPABILITIES:
            with suppress(OSError):  # more than this kernel knows
                _call("prctl", _CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    if _may_set_groups():
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    _die_with_parent()


def _may_set_groups() -> bool:
    return _content("/proc/self/setgroups").strip() != b"deny"


def _forget_python() -> None:
    """Leave the command neither our standard input nor the signals that Python ignores."""
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0, inheritable=True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _die_with_parent() -> None:
    """Asked for again after every change of user, which clears it."""
    _call("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode(), at=target)


def _call(name: str, *arguments: object, at: str = "") -> None:
    function: Callable[..., int] = getattr(_libc, name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", at or None)


if __name__ == "__main__":
    main()
