"""A real Docker Engine and a real registry, made to refuse, and what they said: text for the tests of diagnosis.

    python -m tests.judge.engines            needs root, gcc, Docker 20.10 and docker-registry

What comes out lies beside what tests/judge/failures.py records of servers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError
from docker.types import DeviceRequest

from tests.elves import elf
from tests.services.dockerd import running_dockerd
from tests.services.registry import running_registry

from .failures import PLACE

ENGINE = "Docker Engine 20.10.24"
_PROGRAMS = {
    "waits": "#include <unistd.h>\nint main(void) { pause(); }",
    "eats": "#include <stdlib.h>\n#include <string.h>\n"
    "int main(void) { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }",
    "crashes": "int main(void) { *(volatile int *)0 = 1; }",
    "aborts": "#include <stdlib.h>\nint main(void) { abort(); }",
    "illegal": "int main(void) { __builtin_trap(); }",
    "writes": '#include <stdio.h>\nint main(void) { static char b[1 << 20]; FILE *f = fopen("/small/file", "w");'
    '\nif (fwrite(b, 1, sizeof b, f) < sizeof b) perror("/small/file"); return 1; }',
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.judge.engines", description=__doc__)
    parser.add_argument("--place", type=Path, default=PLACE)
    place = parser.parse_args().place
    with running_dockerd() as engine:
        client = engine.client()
        _image(client)
        for name, facts, log in _seen(client):
            _write(place, name, facts, log)
        client.close()
    for name, words in _of_small_disk():
        _write(place, name, {"engine_error": words}, "")


def _write(place: Path, name: str, facts: Mapping[str, Any], log: str) -> None:
    """`name` is the class and the file's own name."""
    given = {"expect": [name.partition("/")[0]], "source": f"recorded: {ENGINE}", **facts}
    file = place / f"{name}-docker.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()) + f"---\n{log}")
    print(file.relative_to(place))


def _image(client: docker.DockerClient) -> None:
    """An image with a few programs, one of another architecture, and one without the run bit."""
    stream = io.BytesIO()
    with tempfile.TemporaryDirectory() as name, tarfile.open(fileobj=stream, mode="w") as tar:
        for program, code in _PROGRAMS.items():
            source, made = Path(name) / f"{program}.c", Path(name) / program
            source.write_text(code)
            subprocess.run(["gcc", "-static", "-o", made, source], check=True)
            tar.add(made, program)
        other = elf(machine="arm64")
        for program, mode in (("opt/tritonserver/bin/tritonserver", 0o755), ("opt/tritonserver/bin/other", 0o644)):
            info = tarfile.TarInfo(program)
            info.size, info.mode = len(other), mode
            tar.addfile(info, io.BytesIO(other))
    client.api.import_image_from_data(stream.getvalue(), repository="image", tag="1")


def _seen(client: docker.DockerClient) -> Iterator[tuple[str, dict[str, Any], str]]:
    gpu = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    cdi = [DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"])]
    refused: dict[str, Callable[[], Any]] = {
        "gpu-driver-not-selectable/gpus-all": lambda: _run(client, "/waits", device_requests=gpu),
        "gpu-driver-not-selectable/gpus-driver": lambda: _run(
            client, "/waits", device_requests=[DeviceRequest(driver="nvidia", count=-1, capabilities=[["gpu"]])]
        ),
        "gpu-cdi-off/cdi": lambda: _run(client, "/waits", device_requests=cdi),
        "gpu-runtime-unknown/runtime": lambda: _run(client, "/waits", runtime="nvidia"),
        "program-not-in-image/path": lambda: _run(client, "/opt/tritonserver/nvidia_entrypoint.sh"),
        "program-not-in-image/name": lambda: _run(client, "tritonserver"),
        "program-not-executable/mode": lambda: _run(client, "/opt/tritonserver/bin/other"),
        "image-of-another-platform/engine": lambda: _run(client, "/opt/tritonserver/bin/tritonserver"),
    }
    with _taken() as port:
        refused["port-taken/port"] = lambda: _run(client, "/waits", ports={"8000/tcp": ("127.0.0.1", port)})
        for name, act in refused.items():
            if words := _words(act):
                yield name, {"engine_error": words}, ""
    yield "port-taken/container", {"engine_error": _twice(client)}, ""
    yield from _ended(client)
    yield from _of_registry(client)


def _ended(client: docker.DockerClient) -> Iterator[tuple[str, dict[str, Any], str]]:
    for name, program, more in (
        ("image-of-another-platform/log", "/opt/tritonserver/bin/tritonserver", {}),
        ("killed-for-memory/limit", "/eats", {"mem_limit": "30m", "memswap_limit": "30m"}),
        ("crashed/status", "/crashes", {}),
        ("aborted/status", "/aborts", {"init": True}),
        ("illegal-instruction/status", "/illegal", {}),
        ("disk-full/log", "/writes", {"tmpfs": {"/small": "size=64k"}}),
    ):
        try:
            container = client.containers.run("image:1", program, detach=True, **more)
        except APIError:
            continue
        container.wait(timeout=60)
        container.reload()
        state = container.attrs["State"]
        facts = {"exit_code": state["ExitCode"]} | ({"oom_killed": True} if state["OOMKilled"] else {})
        yield name, facts, container.logs().decode()
        container.remove()


def _twice(client: docker.DockerClient) -> str:
    """What is said where another container has the port."""
    first = client.containers.run("image:1", "/waits", detach=True, ports={"8000/tcp": ("127.0.0.1", None)})
    try:
        first.reload()
        port = int(first.ports["8000/tcp"][0]["HostPort"])
        return _words(lambda: _run(client, "/waits", ports={"8000/tcp": ("127.0.0.1", port)}))
    finally:
        first.remove(force=True)


def _run(client: docker.DockerClient, program: str, **more: Any) -> None:
    container = client.containers.create("image:1", program, **more)
    try:
        container.start()
    finally:
        container.remove(force=True)


def _words(act: Callable[[], Any]) -> str:
    """What a runner would have: the engine's explanation, on one line."""
    try:
        act()
    except APIError as error:
        return " ".join(str(error.explanation or error).split())
    except requests.RequestException as error:
        return str(error)
    return ""


def _of_registry(client: docker.DockerClient) -> Iterator[tuple[str, dict[str, Any], str]]:
    with tempfile.TemporaryDirectory() as name, running_registry(Path(name)) as registry:
        where = registry.host
        client.images.get("image:1").tag(f"{where}/nvidia/tritonserver", "24.10-py3")
        client.images.push(f"{where}/nvidia/tritonserver", tag="24.10-py3")
        words = _words(lambda: client.images.pull(f"{where}/nvidia/tritonserver", tag="20.01-min"))
        yield "image-tag-unknown/pull", {"engine_error": words.replace(where, "nvcr.io")}, ""
    with tempfile.TemporaryDirectory() as name, running_registry(Path(name), basic=True) as registry:
        words = _words(lambda: client.images.pull(f"{registry.host}/nvidia/tritonserver", tag="24.10-py3"))
        yield "image-login-needed/pull", {"engine_error": words.replace(registry.host, "nvcr.io")}, ""


def _of_small_disk() -> Iterator[tuple[str, str]]:
    """An engine whose disk has 40 MB gets an image of 60."""
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", name], check=True)
        before, tempfile.tempdir = tempfile.tempdir, name
        try:
            with running_dockerd() as engine:
                yield "disk-full/import", _words(lambda: _import_large(engine.client()))
        finally:
            tempfile.tempdir = before
            subprocess.run(["umount", name], check=True)


def _import_large(client: docker.DockerClient) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("large")
        info.size = 60 << 20
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    answer = client.api.import_image_from_data(stream.getvalue(), repository="large", tag="1")
    for line in str(answer).splitlines():
        if error := json.loads(line).get("error"):
            raise APIError(error, explanation=error)


@contextmanager
def _taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


if __name__ == "__main__":
    if shutil.which("gcc") is None:
        raise SystemExit("gcc is needed")
    main()
