"""TLS credentials of the gRPC listener, and the names in a client's certificate."""

from collections.abc import Callable, Iterable, Mapping

import grpc

from interaction_svc.transports.tls import Certificates, PemFiles

_SUBJECT_PROPERTIES = ("x509_common_name", "x509_subject_alternative_name")


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that follow the certificates when their files change.

    With a client CA, clients need a certificate that it has signed. gRPC requires TLS 1.2 or later.
    Only one listener at a time may use the credentials.
    """
    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.pem),
        _changes(certificates),  # type: ignore[arg-type] # its stub lacks the None
        require_client_authentication=certificates.pem.client_ca is not None,
    )


def _configuration(pem: PemFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)


def _changes(
    certificates: Certificates,
) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """Return the callback that a thread of grpc calls at each new connection."""
    given = certificates.pem

    def change() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if given is certificates.pem:
            return None
        given = certificates.pem
        return _configuration(given)

    return change


def subject_names(auth_context: Mapping[str, Iterable[bytes]]) -> set[str]:
    """Return the names in a client's certificate, from `context.auth_context()` of a gRPC call.

    They are the subject's common name and the alternative names: DNS names, URIs, e-mail and IP
    addresses. There are none without a client certificate.
    """
    return {
        name.decode(errors="replace")
        for property_ in _SUBJECT_PROPERTIES
        for name in auth_context.get(property_, ())
        if name  # without a common name, there is an empty one
    }
