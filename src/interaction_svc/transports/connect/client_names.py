"""The names in a client's TLS certificate."""

from collections.abc import Collection
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID
from starlette.types import Scope


class AllowedNames:
    """Decides by the names in a client's certificate whether it may call."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    def __call__(self, scope: Scope) -> bool:
        """Return whether one of the names in the client's certificate is allowed."""
        chain = (scope.get("extensions") or {}).get("tls", {}).get("client_cert_chain")
        return bool(chain) and not self._names.isdisjoint(subject_names(chain[0]))


@lru_cache(maxsize=1024)
def subject_names(pem: str) -> frozenset[str]:
    """Return the subject's common names, and the alternative names that grpc returns, too.

    The alternative names are DNS names, URIs, e-mail and IP addresses.
    """
    certificate = x509.load_pem_x509_certificate(pem.encode())
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = {str(name.value) for name in common}
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset(names)
    for kind in (x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name, x509.IPAddress):
        names |= {str(name) for name in extension.value.get_values_for_type(kind)}
    return frozenset(names)
