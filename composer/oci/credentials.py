"""Who we are to a registry, as Docker and Podman users have already said it. Nothing is ever written.

Sources of the format: docker-login(1), "Credential stores" and "Credential helpers" of Docker's manual,
containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from composer.events import Emit, Warned, ignore
from composer.oci.names import DOCKER_HUB, spellings

HUB_KEY: Final = "https://index.docker.io/v1/"
_HELPER_SECONDS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A name and a secret for one registry; `source` says where they are kept, and is the only part to be shown.

    With an identity token, `secret` is that token and `identity` is true: it buys access tokens and is no password.
    """

    username: str
    secret: str = field(repr=False)
    identity: bool = False
    source: str

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What was given for a registry by its host, then the files that are looked into: the first that knows it wins."""

    files: tuple[Path, ...]
    given: Mapping[str, Credential] = field(default_factory=dict)
    emit: Emit = ignore

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str],
        *,
        home: Path,
        given: Mapping[str, Credential] | None = None,
        emit: Emit = ignore,
    ) -> Credentials:
        """What was given, `REGISTRY_AUTH_FILE`, Docker's `config.json` (`DOCKER_CONFIG` or `~/.docker`), Podman's file.
        """  # fmt: skip
        files = []
        if named := environment.get("REGISTRY_AUTH_FILE"):
            files.append(Path(named))
        files.append(Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
        if runtime := environment.get("XDG_RUNTIME_DIR"):
            files.append(Path(runtime) / "containers" / "auth.json")
        return cls(files=tuple(files), given=given or {}, emit=emit)

    def find(self, host: str, repository: str) -> Credential | None:
        """What to be known as to `host`, or None for anonymous. A helper that fails is a warning, not an error."""
        for name in spellings(host):
            if name in self.given:
                return self.given[name]
        for path in self.files:
            if (config := self._load(path)) and (found := self._search(config, path, host, repository)):
                return found
        return None

    def _load(self, path: Path) -> dict[str, Any] | None:
        try:
            config = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._warn(f"{path} cannot be read ({error}): going on without its credentials")
            return None
        return config if isinstance(config, dict) else None

    def _search(self, config: Mapping[str, Any], path: Path, host: str, repository: str) -> Credential | None:
        helper = _helper(config, host)
        if helper and (found := self._ask(helper, host)):
            return found
        auths = config.get("auths")
        return _stored(auths, path, host, repository) if isinstance(auths, dict) else None

    def _ask(self, helper: str, host: str) -> Credential | None:
        """Run `docker-credential-<helper> get`. Source: the protocol of docker-credential-helpers."""
        command = f"docker-credential-{helper}"
        key = HUB_KEY if spellings(host)[0] == DOCKER_HUB else host
        try:
            done = subprocess.run(
                [command, "get"], input=key.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
            )
        except FileNotFoundError:
            self._warn(f"{command} is not installed: going on without the credentials it keeps for {host}")
            return None
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = "it did not answer" if isinstance(error, subprocess.TimeoutExpired) else error.strerror
            self._warn(f"{command} could not be asked for the credentials of {host}: {reason}")
            return None
        if done.returncode != 0:
            if b"not found" not in done.stdout + done.stderr:
                self._warn(f"{command} gave no credentials for {host}: exit status {done.returncode}")
            return None
        return self._answer(done.stdout, command, host)

    def _answer(self, output: bytes, command: str, host: str) -> Credential | None:
        try:
            answer = json.loads(output)
            username, secret = str(answer["Username"]), str(answer["Secret"])
        except (ValueError, KeyError, TypeError):
            self._warn(f"{command} gave no credentials for {host}: its answer is not what the protocol says")
            return None
        if not secret:
            return None
        return Credential(username=username, secret=secret, identity=username == "<token>", source=f"from {command}")

    def _warn(self, message: str) -> None:
        self.emit(Warned(message=message, hint="docker login HOST writes credentials that tricompose reads"))


def _helper(config: Mapping[str, Any], host: str) -> str | None:
    helpers = config.get("credHelpers")
    names = spellings(host)
    keys = (HUB_KEY, *names) if names[0] == DOCKER_HUB else names
    if isinstance(helpers, dict):
        for key in keys:
            if name := helpers.get(key):
                return str(name)
    store = config.get("credsStore")
    return str(store) if store else None


def _stored(auths: Mapping[str, Any], path: Path, host: str, repository: str) -> Credential | None:
    known = {_plain(key): entry for key, entry in auths.items() if isinstance(entry, dict)}
    for scope in _scopes(host, repository):
        if found := _credential(known.get(scope, {}), f"for {scope} in {_shown(path)}"):
            return found
    return None


def _scopes(host: str, repository: str) -> Iterator[str]:
    """What an entry may be kept under, the longest first: `host/a/b`, `host/a`, `host`."""
    parts = [spellings(host)[0], *repository.split("/")]
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _plain(key: str) -> str:
    """The host, and a path if there is one, of a key as old and new Dockers write it."""
    plain = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    plain = plain.removesuffix("/v1").removesuffix("/v2")
    return spellings(plain)[0]


def _credential(entry: Mapping[str, Any], source: str) -> Credential | None:
    username, password = entry.get("username"), entry.get("password")
    if encoded := entry.get("auth"):
        try:
            username, _, password = base64.b64decode(encoded).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, TypeError):
            return None
        password = password.rstrip("\0")
    if token := entry.get("identitytoken"):
        return Credential(username=str(username or "<token>"), secret=str(token), identity=True, source=source)
    if username and password:
        return Credential(username=str(username), secret=str(password), source=source)
    return None


def _shown(path: Path) -> str:
    home = os.path.expanduser("~")
    text = str(path)
    return "~" + text[len(home) :] if text.startswith(home + "/") else text
