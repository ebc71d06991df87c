"""Addresses to listen on."""

import ipaddress
from typing import NamedTuple, Self

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 recognized, not bound


class Address(NamedTuple):
    """A host and a port; port 0 stands for any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `host:port` or `[ipv6]:port`. Raises ValueError, which shows the right form."""
        host, _, port = text.rpartition(":")
        if "/" in text:
            raise ValueError(f"{text!r} is a URL or a path; write host:port, as in 127.0.0.1:8080")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8080")
        if not (host and port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
            raise ValueError(f"{text!r} is not an address; write host:port, as in 127.0.0.1:8080")
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def url(self, scheme: str = "http") -> str:
        """Return the URL by which a client on this machine reaches it."""
        return f"{scheme}://{self._replace(host='localhost') if self.host in _WILDCARDS else self}"
