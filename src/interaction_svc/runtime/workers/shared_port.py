"""Ports that several processes of this user listen on."""

import socket

from interaction_svc.runtime.settings import SettingsError
from interaction_svc.transports.address import Address
from interaction_svc.transports.sockets import bind


class ReservedPort:
    """A port kept for the sockets of workers, so that nobody else gets it while they start anew.

    Sockets with SO_REUSEPORT share it; the system gives each connection to one that listens. One
    that is only bound, as these are, gets none.
    """

    def __init__(self, address: Address) -> None:
        """Take the port; 0 is any free one. Raises OSError if it can't be had, SettingsError."""
        if not hasattr(socket, "SO_REUSEPORT"):
            raise SettingsError("workers: this system can't share a port; serve with one")
        # Bound without sharing, it is refused where anyone else listens, be it another group; from
        # here on it shares.
        self._sockets = bind(address)
        for held in self._sockets:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
            # What a server before this one left waiting (TIME_WAIT) doesn't count until it is
            # bound; afterwards the same option would let others in.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, False)
        self.address = address._replace(port=self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Return it up."""
        for held in self._sockets:
            held.close()
