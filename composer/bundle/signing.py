"""Signatures of bundles, made and verified by `ssh-keygen -Y`: over the document, whose digests are over all the rest.

Source: ssh-keygen(1), "-Y"; OpenSSH's PROTOCOL.sshsig. Keys may be in an agent or on a hardware token.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composer.bundle.document import Found
from composer.errors import Corrupt, Denied, NotFound

NAMESPACE: Final = "tricompose-bundle"
"""What a signature is for: one that was made for something else does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose signature is accepted: of those in a file of allowed signers, of `signer` among them, of a public key."""

    allowed: Path | None = None
    signer: str | None = None
    key: Path | None = None


def sign(document: Path, key: Path) -> None:
    """Put the signature of a document beside it. `key` is a private key, or a public one whose private part an agent
    has. Raises `NotFound`, `Denied`.
    """
    if not key.exists():
        raise NotFound(f"there is no key {key}", hint="ssh-keygen -t ed25519 -f KEY")
    done = _ssh_keygen(["-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE, str(document)])
    if done.returncode:
        raise Denied(f"{key} signs nothing: {_last(done)}", hint=f"ssh-keygen -y -f {key}   (is it a private key?)")


def require_signature(found: Found, trust: Trust | None) -> str | None:
    """Whose signature a bundle has, or None where it has none and nobody asks for one.

    Raises `Denied` for a bundle without a signature where `trust` is given, and for one of somebody else; `Corrupt`
    for a signature that is not of this document, whether or not anybody asks.
    """
    signature = found.signature
    if not signature.exists():
        if trust is None:
            return None
        raise Denied(f"{found.path} is not signed", hint=f"carry {signature.name} here, or sign it: --sign KEY")
    if trust is None:
        _require_whole(found)
        return None
    if trust.allowed:
        if not trust.allowed.is_file():
            raise NotFound(f"there is no file {trust.allowed} of allowed signers", hint=f"ls -l {trust.allowed}")
        return _verified(found, trust.allowed, trust.signer or _principal(found, trust.allowed))
    with tempfile.TemporaryDirectory() as scratch:
        return _verified(found, _of_key(trust.key, Path(scratch)), str(trust.key))


def _require_whole(found: Found) -> None:
    """That a signature nobody asks for is one of this document, as far as that can be told without knowing whose."""
    if shutil.which("ssh-keygen") is None:
        return
    done = _ssh_keygen(["-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(found.signature)], found.raw)
    if done.returncode:
        raise _not_its_own(found, done)


def _of_key(key: Path | None, scratch: Path) -> Path:
    assert key
    try:
        text = key.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"the key {key} cannot be read: {error}", hint=f"ls -l {key}") from error
    if "PRIVATE KEY" in text:
        raise NotFound(f"{key} is a private key, and it is verified by the public one", hint=f"--key {key}.pub")
    allowed = scratch / "allowed"
    allowed.write_text(f'"{key}" namespaces="{NAMESPACE}" {text}\n')
    return allowed


def _principal(found: Found, allowed: Path) -> str:
    done = _ssh_keygen(["-Y", "find-principals", "-s", str(found.signature), "-f", str(allowed)])
    if done.returncode or not done.stdout.strip():
        raise Denied(f"{found.signature} is of nobody who is allowed to sign", hint=f"those allowed stand in {allowed}")
    return done.stdout.decode(errors="replace").splitlines()[0].partition(",")[0]


def _verified(found: Found, allowed: Path, signer: str) -> str:
    options = ["-Y", "verify", "-f", str(allowed), "-I", signer, "-n", NAMESPACE, "-s", str(found.signature)]
    done = _ssh_keygen(options, found.raw)
    if done.returncode == 0:
        return signer
    _require_whole(found)
    raise Denied(f"{found.signature} is not accepted as {signer}'s: {_last(done)}", hint="--signer, --allowed-signers")


def _not_its_own(found: Found, done: subprocess.CompletedProcess[bytes]) -> Corrupt:
    hint = f"carry {found.path.name} and {found.signature.name} here again"
    return Corrupt(f"{found.signature} is no signature of {found.path.name}: {_last(done)}", hint=hint)


def _ssh_keygen(options: Sequence[str], data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise NotFound("ssh-keygen is missing, which signs and verifies", hint="apt-get install openssh-client")
    return subprocess.run([program, *options], input=data, capture_output=True, check=False)


def _last(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ssh-keygen ended with {done.returncode}"
