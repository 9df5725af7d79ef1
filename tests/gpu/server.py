"""A real tritonserver on this machine, without a container: the one from PyPI, which is built for GPUs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from tests.bench.process import family
from tests.upstream.inputs import UpstreamError
from tests.upstream.wheels import NUMPY, PYTRITON, fetch_wheel

CACHE = Path.home() / ".cache/tricompose-upstream"
RELEASE = "24.10"
PYTHONS = ("3.11", "3.10", "3.12", "3.9")
"""Versions that the server has a program for to run Python models in, and NumPy 1 too."""
ASK = """
import json, sysconfig
value = sysconfig.get_config_var
print(json.dumps([value("LIBDIR"), value("INSTSONAME") or "", sysconfig.get_python_version()]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """A server that can be started: its folder, and the environment of its Python models."""

    server: Path
    python: Path
    libraries: Path

    def environment(self) -> dict[str, str]:
        """The server's, and that of the processes that it starts."""
        keep = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
        kept = {name: os.environ[name] for name in keep if name in os.environ}
        paths = [str(self.libraries), kept.get("LD_LIBRARY_PATH", "")]
        path = f"{self.python / 'bin'}:/usr/bin:/bin"
        return {**kept, "PATH": path, "HOME": "/tmp", "LD_LIBRARY_PATH": ":".join(filter(None, paths))}


def prepare(folder: Path) -> Kit:
    """Unpack the server (55 MB to download the first time) and make an environment for models.

    Raises `UpstreamError`.
    """
    libraries, version, program = _python()
    with zipfile.ZipFile(fetch_wheel(PYTRITON, CACHE)) as wheel:
        wheel.extractall(folder / "wheel")
    server = folder / "wheel/pytriton/tritonserver"
    stub = server / "backends/python/triton_python_backend_stub"
    shutil.copyfile(server / f"python_backend_stubs/{version}/triton_python_backend_stub", stub)
    for one in (stub, server / "bin/tritonserver"):
        one.chmod(0o755)
    for missing in ("repoagents", "caches"):
        (server / missing).mkdir(exist_ok=True)
    return Kit(server=server, python=_environment(folder / "python", version, program), libraries=libraries)


def _environment(folder: Path, version: str, program: str) -> Path:
    """A virtual environment with the NumPy that these programs need. The server finds it as the `python3` of PATH."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python3").symlink_to(program)
    (folder / "pyvenv.cfg").write_text(f"home = {Path(program).parent}\ninclude-system-site-packages = false\n")
    packages = folder / f"lib/python{version}/site-packages"
    if version == "3.11":
        with zipfile.ZipFile(fetch_wheel(NUMPY, CACHE)) as wheel:
            wheel.extractall(packages)
    else:
        _uv("pip", "install", "-q", "--python", program, "--target", str(packages), f"numpy=={NUMPY.version}")
    return folder


def _python() -> tuple[Path, str, str]:
    """The folder of a libpython that can be loaded, its version, and the program beside it."""
    for wanted in PYTHONS:
        for program in _found(wanted):
            said = subprocess.run([program, "-c", ASK], capture_output=True, text=True, check=False).stdout
            libraries, name, version = json.loads(said or '["", "", ""]')
            if version == wanted and name.startswith("libpython") and (Path(libraries) / name).exists():
                return Path(libraries), version, program
    versions = " or ".join(PYTHONS)
    raise UpstreamError(f"a Python {versions} with a shared libpython is needed: apt-get install libpython3.11")


def _found(version: str) -> Iterator[str]:
    """Debian's, which may have a libpython beside it, and then what uv knows or can download."""
    if (system := Path(f"/usr/bin/python{version}")).exists():
        yield str(system)
    asked = subprocess.run(
        [find_uv_bin(), "python", "find", "--system", version], capture_output=True, text=True, check=False
    )
    if asked.returncode == 0:
        yield asked.stdout.strip()
    managed = [find_uv_bin(), "python", "install", "-q", version]
    if subprocess.run(managed, capture_output=True, check=False).returncode == 0:
        yield subprocess.run(
            [find_uv_bin(), "python", "find", "--managed-python", version], capture_output=True, text=True, check=True
        ).stdout.strip()


def _asked(*words: str) -> list[str]:
    """What uv says, if it knows anything to say."""
    return subprocess.run([find_uv_bin(), *words], capture_output=True, text=True, check=False).stdout.split()


def _uv(*words: str) -> None:
    made = subprocess.run([find_uv_bin(), *words], capture_output=True, text=True, check=False)
    if made.returncode:
        raise UpstreamError(f"uv {' '.join(words)}: {made.stderr.strip()}")


@dataclass
class Native:
    """A server that was started here: a `Running`."""

    process: subprocess.Popen[bytes]
    log: Path
    ports: Mapping[str, int]
    engine: str = "none"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports['grpc']}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.ports['metrics']}/metrics"

    def logs(self) -> str:
        return self.log.read_text(errors="replace")

    def exit_code(self) -> int | None:
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def oom_killed(self) -> bool:
        return False

    def pids(self) -> Sequence[int]:
        """The server and all that it started."""
        return family(self.process.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@contextmanager
def started(
    kit: Kit, folder: Path, flags: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[Native]:
    """A server with the repository `folder`/models. At the end it is gone."""
    ports = {name: _free() for name in ("http", "grpc", "metrics")}
    command = [
        str(kit.server / "bin/tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={kit.server / 'backends'}",
        f"--repoagent-directory={kit.server / 'repoagents'}",
        f"--cache-directory={kit.server / 'caches'}",
        f"--backend-config=python,shm-region-prefix-name=gpu{os.getpid()}_",
        *(f"--{name}-port={port}" for name, port in ports.items()),
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        *flags,
    ]
    log = folder / "log"
    environment = {**kit.environment(), **env}
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    server = Native(process=process, log=log, ports=ports)
    try:
        yield server
    finally:
        server.stop()


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
