"""An authority of the test's own, and certificates as good or as bad as wanted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Signs certificates. `file` is its own, in PEM."""

    folder: Path
    file: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path, called: str = "test authority") -> Authority:
        folder.mkdir(parents=True, exist_ok=True)
        name, key = _name(called), ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - DAY, now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        file = folder / "authority.pem"
        file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        return cls(folder=folder, file=file, name=name, key=key)

    def certificate(self, *names: str, since: timedelta = -DAY, until: timedelta = DAY, client: bool = False) -> Path:
        """A certificate for these names; its key lies beside it, as `.key`. `since` and `until` count from now."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        made = (
            x509.CertificateBuilder(
                self.name, _name(names[0]), key.public_key(), x509.random_serial_number(), now + since, now + until
            )
            .add_extension(x509.SubjectAlternativeName([_alternative(one) for one in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        file = self.folder / f"{names[0]}-{made.serial_number % 10**8}.cert"
        file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.with_suffix(".key").write_bytes(text)
        return file


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
