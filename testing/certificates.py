"""Certificate authorities and certificates for tests, as files."""

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
HOSTS = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Files:
    """The paths of a certificate chain and its key."""

    certificate: Path
    key: Path

    def flags(self) -> list[str]:
        return ["--tls-certificate", str(self.certificate), "--tls-key", str(self.key)]


class Authority:
    """A CA, and the certificates that it issues into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.pem)

    def issue(self, name: str = "server", *, until: datetime | None = None) -> Files:
        """Issue a certificate for HOSTS, and replace existing files of this name."""
        return self._issue(name, self._ca.issue_cert(*HOSTS, not_after=until))

    def client(self, name: str, common_name: str, *identities: str) -> Files:
        return self._issue(name, self._ca.issue_cert(*identities, common_name=common_name))

    def client_with_uri(self, name: str, uri: str) -> Files:
        """Issue a certificate with a URI, like those of SPIFFE; trustme can't issue them."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        signer = load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.load_pem_x509_certificate(self.pem).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True
            )
            .sign(signer, hashes.SHA256())
        )
        return self._write(
            name, certificate.public_bytes(Encoding.PEM), _key_pem(key, NoEncryption())
        )

    def context(self) -> ssl.SSLContext:
        """Return a client's TLS context that trusts only this CA."""
        return ssl.create_default_context(cadata=self.pem.decode())

    def _issue(self, name: str, issued: trustme.LeafCert) -> Files:
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return self._write(name, chain, issued.private_key_pem.bytes())

    def _write(self, name: str, chain: bytes, key: bytes) -> Files:
        files = Files(self._folder / f"{name}.pem", self._folder / f"{name}-key.pem")
        replace(files.certificate, chain)
        replace(files.key, key)
        return files


def encrypted(key: Path) -> Path:
    """Write a copy of a key, encrypted with a passphrase, and return its path."""
    path = key.with_suffix(".encrypted")
    loaded = load_pem_private_key(key.read_bytes(), None)
    path.write_bytes(_key_pem(loaded, BestAvailableEncryption(b"passphrase")))
    return path


def _key_pem(key: PrivateKeyTypes, encryption: KeySerializationEncryption) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def replace(path: Path, content: bytes) -> None:
    """Replace a file atomically."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)
