"""Ports that several processes of this user listen on."""

import socket

from interaction_svc.addresses import Address
from interaction_svc.settings import SettingsError


class HeldPort:
    """A port kept for the sockets of workers, so that nobody else gets it while they start anew.

    Sockets with SO_REUSEPORT share it; the system gives each connection to one that listens. One
    that is only bound, as this is, gets none.
    """

    def __init__(self, address: Address) -> None:
        """Take the port; 0 is any free one. Raises OSError if it can't be had, SettingsError."""
        if not hasattr(socket, "SO_REUSEPORT"):
            raise SettingsError("workers: this system can't share a port; serve with one")
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            # Bound without sharing, it is refused where anyone else listens, be it another group;
            # from here on it shares.
            self._share(False)
            self._socket.bind((address.host, address.port))
            self._share(True)
        except OSError:
            self._socket.close()
            raise
        self.address = address._replace(port=self._socket.getsockname()[1])

    def close(self) -> None:
        """Give it up."""
        self._socket.close()

    def _share(self, shared: bool) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        # What a server before this one left waiting (TIME_WAIT) doesn't count; afterwards the same
        # option would let others in.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, not shared)
