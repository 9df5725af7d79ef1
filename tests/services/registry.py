"""A real registry on a loopback port: Debian's docker-registry (distribution 2.8)."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import requests

from composer import network
from composer.events import Emit, ignore
from composer.network.routes import Routes
from composer.oci.credentials import Credentials
from composer.oci.gates import Gates
from composer.oci.journal import Journal
from composer.oci.names import parse_reference
from composer.oci.registry import RegistryStore
from tests.services.namespaces import Machine

USERNAME = "tester"
PASSWORD = "swordfish"
_BCRYPT = "$2y$04$M4Zyemm2Ta.U56cxoXKvW.PxiecsTJ9AveOERrH9Xs3ZEYmwefDyO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry that is running. `certificate` is its CA, if it speaks TLS."""

    port: int
    storage: Path
    log: Path
    certificate: Path | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def blobs(self) -> set[str]:
        """The digests of all blobs that are stored."""
        found = self.storage.glob("docker/registry/v2/blobs/sha256/*/*/data")
        return {f"sha256:{path.parent.name}" for path in found}

    def sessions(self, repository: str) -> list[Path]:
        """Uploads that were begun and neither finished nor cancelled."""
        return list(self.storage.glob(f"docker/registry/v2/repositories/{repository}/_uploads/*/startedat"))


@contextmanager
def running_registry(
    directory: Path,
    *,
    basic: bool = False,
    tls: bool = False,
    name: str = "127.0.0.1",
    on: Machine | None = None,
    token: Path | None = None,
    realm: str = "",
) -> Iterator[Registry]:
    """Start a registry that keeps its things in `directory`; it is gone when the block ends.

    `basic` asks for USERNAME and PASSWORD; with `tls` it proves to be `name`; `token` is the certificate of a token
    service, at the URL `realm`. `on` is a machine that it runs on, at port 443.
    """
    directory.mkdir(parents=True, exist_ok=True)
    certificate = make_certificate(directory, name) if tls else None
    registry = Registry(
        port=443 if on else free_port(),
        storage=directory / "storage",
        log=directory / "registry.log",
        certificate=certificate,
    )
    (directory / "config.yml").write_text(_config(registry, directory, basic=basic, token=token, realm=realm))
    command = ["docker-registry", "serve", str(directory / "config.yml")]
    with registry.log.open("wb") as log:
        line = on.line(*command, cwd=directory) if on else command
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)
    try:
        with on.within() if on else nullcontext():
            _wait_until_ready(registry, process)
        yield registry
    finally:
        process.terminate()
        process.wait(10)


def store_at(
    place: str,
    *,
    credentials: Credentials | None = None,
    ca_bundle: Path | None = None,
    insecure: frozenset[str] = frozenset(),
    emit: Emit = ignore,
    stall: float = 30.0,
    patience: float = 20.0,
    journal: Path | None = None,
    mount_from: tuple[str, ...] = (),
    session: requests.Session | None = None,
    gates: Gates | None = None,
) -> RegistryStore:
    """A store as tricompose makes it, for `host/repository`; anonymous unless told otherwise."""
    return RegistryStore(
        parse_reference(f"docker://{place}"),
        session=session or network.session(Routes(ca_bundle=ca_bundle), stall=stall),
        credentials=credentials or Credentials(files=()),
        insecure=insecure,
        emit=emit,
        patience=patience,
        journal=Journal(journal) if journal else None,
        mount_from=mount_from,
        gates=gates,
    )


def login(directory: Path, host: str, **entry: str) -> Credentials:
    """A `config.json` that knows `host`: by USERNAME and PASSWORD, or by the `entry` given."""
    auth = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    path.write_text(json.dumps({"auths": {host: entry or {"auth": auth}}}))
    return Credentials(files=(path,))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def make_certificate(directory: Path, name: str) -> Path:
    """A self-signed certificate for `name` in `directory`, key beside it. It is its own authority."""
    key, certificate = directory / "tls.key", directory / "tls.pem"
    kind = "IP" if name[0].isdigit() else "DNS"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName={kind}:{name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


def _config(registry: Registry, directory: Path, *, basic: bool, token: Path | None, realm: str) -> str:
    lines = [
        "version: 0.1",
        "log: {level: info}",
        f"storage: {{filesystem: {{rootdirectory: {registry.storage}}}, delete: {{enabled: true}}}}",
        f"http: {{addr: '{registry.host}'}}",
    ]
    if registry.certificate:
        tls = f"{{certificate: {registry.certificate}, key: {directory / 'tls.key'}}}"
        lines[-1] = f"http: {{addr: '{registry.host}', tls: {tls}}}"
    if basic:
        (directory / "htpasswd").write_text(f"{USERNAME}:{_BCRYPT}\n")
        lines.append(f"auth: {{htpasswd: {{realm: tests, path: {directory / 'htpasswd'}}}}}")
    if token:
        fields = f"realm: '{realm}', service: tests, issuer: tests, rootcertbundle: {token}"
        lines.append(f"auth: {{token: {{{fields}}}}}")
    return "\n".join(lines) + "\n"


def _wait_until_ready(registry: Registry, process: subprocess.Popen[bytes]) -> None:
    scheme = "https" if registry.certificate else "http"
    context = ssl._create_unverified_context() if registry.certificate else None
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{scheme}://{registry.host}/v2/", timeout=2, context=context).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the registry did not start:\n{registry.log.read_text()}")
