"""Servers that something is wrong with: certificates of every kind, clocks, name servers, ports that swallow."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Somebody who signs certificates. `file` is its own, in PEM."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path

    def sign(
        self, folder: Path, name: str, *, begins: timedelta = -timedelta(1), ends: timedelta = timedelta(30)
    ) -> Path:
        """A certificate for a name, from and until so long from now; its key beside it (`.key`)."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(name, key, self.certificate.subject, self.key, begins, ends, authority=False)
        return _written(folder, name, made, key)


def authority(folder: Path, name: str = "Corp Root") -> Authority:
    """A new one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = _certificate(name, key, subject, key, -timedelta(1), timedelta(30), authority=True)
    return Authority(key=key, certificate=made, file=_written(folder, name.replace(" ", "-"), made, key))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    begins: timedelta,
    ends: timedelta,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    kind = x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([kind]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _written(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{certificate.serial_number % 10**6}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form, coding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    path.with_suffix(".key").write_bytes(key.private_bytes(coding, form, serialization.NoEncryption()))
    return path


@contextmanager
def server(
    certificate: Path | None = None,
    *,
    clock: timedelta = timedelta(),
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    clients: Path | None = None,
    status: int = 200,
    headers: Sequence[tuple[str, str]] = (),
) -> Iterator[int]:
    """A server of the web that answers everything so, by a clock that is so far ahead. What comes out is its port.

    `newest` is the last version of TLS that it knows; `clients` is who signs the certificates that it wants to see.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            self.send_header("Date", format_datetime(datetime.now(UTC) + clock, usegmt=True))
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *values: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.handle_error = lambda *_: None  # type: ignore[method-assign]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made.server_port
    finally:
        made.shutdown()
        made.server_close()


@contextmanager
def saying(words: bytes) -> Iterator[int]:
    """A port where everybody hears the same words, whatever they say, and is hung up on."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                with client, suppress(OSError):
                    client.recv(1 << 14)
                    client.sendall(words)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


@contextmanager
def swallowing() -> Iterator[int]:
    """A port to which no connection is ever made, as behind a firewall that drops: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield port


@contextmanager
def odd_name_server(code: int | None, *, address: str = "127.0.0.1") -> Iterator[str]:
    """A name server that answers everything with this code and nothing else; None: it says nothing at all."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                question, whence = made.recvfrom(1 << 12)
                if code is not None:
                    head = question[:2] + bytes([0x81, 0x80 | code]) + question[4:6] + bytes(6)
                    made.sendto(head + question[12 : question.index(b"\0", 12) + 5], whence)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"{address}:{made.getsockname()[1]}"
    finally:
        made.close()
