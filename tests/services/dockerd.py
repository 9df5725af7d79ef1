"""A Docker Engine of our own: its data, sockets, network and names are in one folder, and go with it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker import DockerClient

DOCKERD = "/usr/sbin/dockerd"
DOCKER = "/usr/bin/docker"
"""The command line of the same package: another one, of another version, may come first in PATH."""

_OWN_MOUNTS = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
    'mkdir -p /etc/docker; mount -t tmpfs tmpfs /etc/docker; exec "$@"',
    "sh",
)
"""What an engine mounts goes with it, and the key that it writes to /etc/docker no matter what stays out of there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerd:
    """An engine that runs. `host` is what DOCKER_HOST takes."""

    host: str
    root: Path

    def client(self) -> DockerClient:
        import docker

        return docker.DockerClient(base_url=self.host, timeout=60)

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run Docker's own command against this engine and return what it prints."""
        argv = [DOCKER, "--host", self.host, *arguments]
        ran = subprocess.run(argv, input=stdin, capture_output=True, check=False)
        if ran.returncode:
            raise AssertionError(f"{' '.join(argv)} ended with {ran.returncode}: {ran.stderr.decode()}")
        return ran.stdout.decode()

    def remove_everything(self) -> None:
        """Back to an engine without containers and images."""
        client = self.client()
        try:
            for container in client.containers.list(all=True):
                container.remove(force=True, v=True)
            for image in client.api.images(all=True):
                with suppress(Exception):
                    client.api.remove_image(image["Id"], force=True)
        finally:
            client.close()


@contextmanager
def running_dockerd(*, buildkit: bool = False) -> Iterator[Dockerd]:
    """Start an engine (root is needed, systemd is not), wait until it answers, and leave nothing of it behind.

    With `buildkit` it offers that for builds, as engines do from 23.0 on; without, as 20.10 is installed.

    Containers reach each other and publish ports on loopback by `docker-proxy`: the host's packet filter and its
    forwarding are left as they are.
    """
    root = Path(tempfile.mkdtemp(prefix="dockerd-"))
    bridge = f"tc{secrets.token_hex(3)}"
    _make_bridge(bridge)
    try:
        process = _start(root, bridge, {"features": {"buildkit": True}} if buildkit else {})
        try:
            yield Dockerd(host=_wait_until_ready(root, process), root=root)
        finally:
            _stop(process)
    finally:
        _ip("link", "delete", bridge)
        shutil.rmtree(root)


def _start(root: Path, bridge: str, settings: Mapping[str, object]) -> subprocess.Popen[bytes]:
    (root / "daemon.json").write_text(json.dumps(settings))
    argv = [
        *_OWN_MOUNTS,
        DOCKERD,
        f"--config-file={root / 'daemon.json'}",
        f"--data-root={root / 'data'}",
        f"--exec-root={root / 'run'}",
        f"--pidfile={root / 'pid'}",
        f"--host=unix://{root / 'sock'}",
        f"--bridge={bridge}",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--ip-masq=false",
    ]
    with (root / "log").open("wb") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def _wait_until_ready(root: Path, process: subprocess.Popen[bytes]) -> str:
    host = f"unix://{root / 'sock'}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run([DOCKER, "--host", host, "version"], capture_output=True, check=False).returncode == 0:
            return host
        time.sleep(0.1)
    raise AssertionError(f"dockerd did not start:\n{(root / 'log').read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _make_bridge(name: str) -> None:
    """A bridge with a network that nobody else has: the tests of several people may run at once."""
    for _ in range(50):
        network = f"10.213.{secrets.randbelow(256)}"
        if network not in subprocess.run(["ip", "-4", "address"], capture_output=True, text=True, check=True).stdout:
            break
    _ip("link", "add", name, "type", "bridge")
    _ip("address", "add", f"{network}.1/24", "dev", name)
    _ip("link", "set", name, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
