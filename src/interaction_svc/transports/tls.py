"""TLS for both listeners. The certificate is loaded again when its files change."""

import asyncio
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from interaction_svc.domain.errors import OperatorError

log = structlog.get_logger()

_POLL_SECONDS = 1.0


class TlsError(OperatorError):
    """A file of tls_certificate, tls_key or tls_client_ca is unusable. The text states why."""


class PemFiles(NamedTuple):
    """The contents of the PEM files."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class _Loaded(NamedTuple):
    """The result of loading the files once, so that the certificate matches the key."""

    http: ssl.SSLContext
    pem: PemFiles
    leaf: x509.Certificate


_Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """The server's certificate and key, and the CAs of gRPC's clients.

    The files are loaded at construction, which raises TlsError. After `start` they are loaded again
    within about a second of a change. New connections use the new files; open ones stay open. While
    the new files are unusable, for example until the key is replaced too, the old ones are used.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._paths = {"tls_certificate": certificate, "tls_key": key}
        if client_ca is not None:
            self._paths["tls_client_ca"] = client_ca
        self._stamp = self._stamp_now()
        self._loaded = self._load()
        self._unusable: tuple[_Stamp, str] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.ssl_context = _context()
        """The context of the HTTP listener: TLS 1.2 or later, without client certificates."""
        # The callback sets the current context in each handshake, even if the client sends no SNI.
        # Loading into a context in use is no alternative: if the key does not match, the context
        # is left without a certificate.
        self.ssl_context.sni_callback = self._take_current
        _warn_of_its_dates(self._loaded.leaf)

    @property
    def pem(self) -> PemFiles:
        """Return the current files; a new object after each change."""
        return self._loaded.pem

    async def start(self) -> None:
        """Start to watch the files."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching the files."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    async def _watch(self) -> None:
        # Polling works for every file system and every way to replace files, such as the nested
        # symbolic links of a Kubernetes secret. Checking three files every second is cheap.
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                self._reload()
            except Exception:  # otherwise the watch would end
                log.exception("the new certificate can't be looked at")

    def _reload(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            self._unusable = None
            return
        try:
            loaded = self._load()
            if self._stamp_now() != stamp:
                return  # they changed while they were read: the next poll finds it
        except TlsError as error:
            if self._unusable != (stamp, str(error)):
                self._unusable = stamp, str(error)
                log.warning("the new certificate can't be used", problem=str(error))
            return  # retried at each poll: a change of permissions does not change the stamp
        self._stamp, self._loaded, self._unusable = stamp, loaded, None
        log.info(
            "certificate loaded",
            serial=f"{loaded.leaf.serial_number:x}",
            not_after=loaded.leaf.not_valid_after_utc.isoformat(),
        )
        _warn_of_its_dates(loaded.leaf)

    def _stamp_now(self) -> _Stamp:
        """Return the modification times, sizes and inodes of the files, following links."""
        return tuple(_stamp_of(path) for path in self._paths.values())

    def _load(self) -> _Loaded:
        files = {name: _read(name, path) for name, path in self._paths.items()}
        chain = _certificates("tls_certificate", files["tls_certificate"])
        _check_key(files["tls_key"], chain[0])
        client_ca = files.get("tls_client_ca")
        if client_ca is not None:
            _check_authorities(client_ca)
        pem = PemFiles(files["tls_certificate"], files["tls_key"], client_ca)
        context = _context_with(self._paths["tls_certificate"], self._paths["tls_key"])
        return _Loaded(context, pem, chain[0])

    def _take_current(self, connection: ssl.SSLObject, *_: object) -> None:
        connection.context = self._loaded.http


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(
            f"{name}: can't be read ({error.strerror}); name a PEM file that the service may read"
        ) from error


def _certificates(name: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise TlsError(
            f"{name}: is not a PEM file of certificates; it has one or more blocks that begin"
            " with -----BEGIN CERTIFICATE-----"
        ) from error


def _check_key(pem: bytes, leaf: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise TlsError("tls_key: is encrypted; it must be without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsError(
            "tls_key: is not a private key in PEM; it begins with -----BEGIN PRIVATE KEY-----,"
            " or the same with RSA or EC"
        ) from error
    if key.public_key() != leaf.public_key():
        raise TlsError(
            "tls_key: is not the key of tls_certificate, whose first certificate must be the"
            " server's own; name the two that were made together"
        )


def _check_authorities(pem: bytes) -> None:
    for certificate in _certificates("tls_client_ca", pem):
        with suppress(x509.ExtensionNotFound):  # old CAs lack it
            try:
                found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            except ValueError as error:  # they are read only now
                raise TlsError("tls_client_ca: has a certificate that can't be read") from error
            if not found.value.ca:
                raise TlsError(
                    "tls_client_ca: has a certificate that may not sign others; name the CA's,"
                    " not a client's"
                )


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _context_with(certificate: Path, key: Path) -> ssl.SSLContext:
    context = _context()
    try:
        # Without a password argument OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "they changed while they were read"
        raise TlsError(f"tls_certificate: can't be used with tls_key: {reason}") from error
    return context


def _warn_of_its_dates(leaf: x509.Certificate) -> None:
    """Warn if a certificate is not valid now. It is served, but clients will refuse it."""
    if not leaf.not_valid_before_utc <= datetime.now(UTC) < leaf.not_valid_after_utc:
        log.warning(
            "the certificate is not valid at this time",
            not_before=leaf.not_valid_before_utc.isoformat(),
            not_after=leaf.not_valid_after_utc.isoformat(),
        )
