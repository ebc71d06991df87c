"""TLS for both listeners: one certificate, which is loaded anew when its files change."""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from interaction_svc.runtime.settings import Settings, SettingsError

log = structlog.get_logger()

_POLL_SECONDS = 1.0
_SUBJECT_PROPERTIES = ("x509_common_name", "x509_subject_alternative_name")


class TlsError(SettingsError):
    """A file of tls_certificate, tls_key or tls_client_ca can't be used. The text says why."""


class _Loaded(NamedTuple):
    """What one reading of the files gave; they fit together."""

    http: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration
    leaf: x509.Certificate


_Stamp = tuple[tuple[int, int, int] | None, ...]


def certificates_of(settings: Settings) -> "Certificates | None":
    """Load what the settings name; None: they don't ask for TLS.

    Raises SettingsError if the settings don't fit together, TlsError if a file can't be used.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if settings.tls_client_names and settings.tls_client_ca is None:
        raise SettingsError(
            "tls_client_names: without tls_client_ca no client shows a certificate; set it too"
        )
    if certificate is not None and key is not None:
        return Certificates(certificate, key, settings.tls_client_ca)
    if certificate is not None:
        raise SettingsError("tls_certificate: its private key is missing; set tls_key too")
    if key is not None:
        raise SettingsError("tls_key: its certificate is missing; set tls_certificate too")
    if settings.tls_client_ca is not None:
        raise SettingsError(
            "tls_client_ca: without a certificate there is no TLS;"
            " set tls_certificate and tls_key too"
        )
    return None


class Certificates:
    """The server's certificate and key, and the CAs of gRPC's clients.

    They are loaded at construction, which raises TlsError. After `start` they are loaded again
    within about a second of a change of their files, for new connections; what is open stays
    open. Files that can't be used, a key that isn't replaced yet for one, leave the old in force.
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
        """The HTTP listener's side: TLS 1.2 at least, and no client certificates."""
        # Each handshake takes the certificate that is in force by then; it asks even if the client
        # names no server. Loading into a context that is in use would not do: a certificate whose
        # key doesn't fit would leave it with neither.
        self.ssl_context.sni_callback = self._take_current
        _warn_of_its_dates(self._loaded.leaf)

    @property
    def grpc_credentials(self) -> grpc.ServerCredentials:
        """The gRPC listener's side; with a client CA, clients must have a certificate of it.

        gRPC's own least version is TLS 1.2. One listener at a time may use them.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.grpc,
            self._changes(),  # type: ignore[arg-type] # it may give None, which its stub forgets
            require_client_authentication="tls_client_ca" in self._paths,
        )

    async def start(self) -> None:
        """Begin to watch the files."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching them."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    async def _watch(self) -> None:
        # Polling sees what every file system and every way of replacing files does, such as the
        # links to links of a Kubernetes secret; three files a second cost nothing.
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                self._reload()
            except Exception:  # or nobody would look any more
                log.exception("the new certificate can't be looked at")

    def _reload(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            self._unusable = None
            return
        try:
            loaded = self._load()
            if self._stamp_now() != stamp:
                return  # they changed while they were read: the next time sees it
        except TlsError as error:
            if self._unusable != (stamp, str(error)):
                self._unusable = stamp, str(error)
                log.warning("the new certificate can't be used", problem=str(error))
            return  # what is wrong may be their permissions, which the stamp doesn't show
        self._stamp, self._loaded, self._unusable = stamp, loaded, None
        log.info(
            "certificate loaded",
            serial=f"{loaded.leaf.serial_number:x}",
            not_after=loaded.leaf.not_valid_after_utc.isoformat(),
        )
        _warn_of_its_dates(loaded.leaf)

    def _stamp_now(self) -> _Stamp:
        """Give what changes with the files; a link counts as what it leads to."""
        return tuple(_stamp_of(path) for path in self._paths.values())

    def _load(self) -> _Loaded:
        files = {name: _read(name, path) for name, path in self._paths.items()}
        chain = _certificates("tls_certificate", files["tls_certificate"])
        _check_key(files["tls_key"], chain[0])
        client_ca = files.get("tls_client_ca")
        if client_ca is not None:
            _check_authorities(client_ca)
        configuration = grpc.ssl_server_certificate_configuration(
            [(files["tls_key"], files["tls_certificate"])], client_ca
        )
        context = _context_with(self._paths["tls_certificate"], self._paths["tls_key"])
        return _Loaded(context, configuration, chain[0])

    def _take_current(self, connection: ssl.SSLObject, *_: object) -> None:
        connection.context = self._loaded.http

    def _changes(self) -> "Callable[[], grpc.ServerCertificateConfiguration | None]":
        """Make what gRPC asks, in a thread of its own, at each new connection."""
        given = self._loaded

        def change() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self._loaded:
                return None
            given = self._loaded
            return given.grpc

        return change


def subject_names(auth_context: Mapping[str, Iterable[bytes]]) -> set[str]:
    """Give the names in a client's certificate, from `context.auth_context()` of a gRPC call.

    They are the subject's common name and the alternative names: DNS names, URIs, e-mail and IP
    addresses. There are none without a client certificate.
    """
    return {
        name.decode(errors="replace")
        for property_ in _SUBJECT_PROPERTIES
        for name in auth_context.get(property_, ())
        if name  # without a common name, there is an empty one
    }


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
        # The empty password: without one it would ask the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "they changed while they were read"
        raise TlsError(f"tls_certificate: can't be used with tls_key: {reason}") from error
    return context


def _warn_of_its_dates(leaf: x509.Certificate) -> None:
    """Warn of a certificate that clients will refuse; the operator may want to serve even so."""
    if not leaf.not_valid_before_utc <= datetime.now(UTC) < leaf.not_valid_after_utc:
        log.warning(
            "the certificate is not valid at this time",
            not_before=leaf.not_valid_before_utc.isoformat(),
            not_after=leaf.not_valid_after_utc.isoformat(),
        )
