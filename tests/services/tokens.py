"""A token service for a registry with `auth: token`: signs what a table of users allows.

Source of the format: distribution.github.io/distribution/spec/auth/jwt.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from tests.services.registry import make_certificate

ANONYMOUS = ""


class TokenService:
    """Gives tokens at `realm`, checked by whoever trusts `certificate`.

    `users` maps `name:password` to the actions it may take on every repository; `identities` maps an identity token
    to a user. `ANONYMOUS` is who shows nothing. `asked` records what each request wanted.
    """

    def __init__(
        self,
        directory: Path,
        users: Mapping[str, frozenset[str]],
        *,
        identities: Mapping[str, str] | None = None,
        lifetime: float = 300,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = make_certificate(directory, "127.0.0.1")
        self.users = users
        self.identities = identities or {}
        self.lifetime = lifetime
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.hidden: str | None = None
        """A repository for which nobody gets a token, nor for anything else in the same request."""
        self._key = directory / "tls.key"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.realm = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> TokenService:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                scheme, _, value = self.headers.get("Authorization", "").partition(" ")
                user = base64.b64decode(value).decode() if scheme == "Basic" else ANONYMOUS
                service.reply(self, user, parse_qs(urlsplit(self.path).query).get("scope", []), "token")

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                user = service.identities.get(form["refresh_token"][0], "nobody")
                service.reply(self, user, form["scope"][0].split(), "access_token")

            def log_message(self, *values: object) -> None:
                pass

        return Handler

    def reply(self, request: BaseHTTPRequestHandler, user: str, scopes: Sequence[str], field: str) -> None:
        self.asked.append((user.partition(":")[0], tuple(scopes)))
        known = user in self.users and not any(f":{self.hidden}:" in scope for scope in scopes)
        answer = {field: self._token(user, scopes)} if known else {"errors": [{"code": "DENIED", "message": "no"}]}
        body = json.dumps({**answer, "expires_in": self.lifetime}).encode()
        request.send_response(200 if known else 401)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _token(self, user: str, scopes: Sequence[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted = sorted(self.users[user] & set(actions.split(",")))
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [_der(self.certificate)]}
        claims: dict[str, object] = {
            "iss": "tests",
            "sub": user.partition(":")[0],
            "aud": "tests",
            "jti": str(time.monotonic_ns()),
        }
        claims |= {"nbf": now - 10, "iat": now, "exp": now + int(self.lifetime), "access": access}
        signed = b".".join(_text(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=signed, capture_output=True, check=True).stdout
        return (signed + b"." + _text(signature)).decode()


def _der(certificate: Path) -> str:
    return base64.b64encode(ssl.PEM_cert_to_DER_cert(certificate.read_text())).decode()


def _text(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
