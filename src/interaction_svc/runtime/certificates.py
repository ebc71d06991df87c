"""Loading of the certificates of the settings."""

from interaction_svc.runtime.settings import Settings, SettingsError
from interaction_svc.transports.tls import Certificates, TlsError


def certificates_of(settings: Settings) -> Certificates | None:
    """Return the certificates of the settings; None if none are set.

    Raises SettingsError if a setting lacks another that it needs, or a file can't be used.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if settings.tls_client_names and settings.tls_client_ca is None:
        raise SettingsError(
            "tls_client_names: without tls_client_ca no client shows a certificate; set it too"
        )
    if certificate is not None and key is not None:
        try:
            return Certificates(certificate, key, settings.tls_client_ca)
        except TlsError as error:
            raise SettingsError(str(error)) from error
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
