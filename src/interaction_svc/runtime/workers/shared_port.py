"""A port that several processes of one user listen on."""

import socket

from interaction_svc.runtime.settings import SettingsError
from interaction_svc.transports.address import Address
from interaction_svc.transports.sockets import bind


class ReservedPort:
    """A port reserved for the workers, so that no other program takes it while they restart.

    Sockets with SO_REUSEPORT share a port, and the system distributes connections to those that
    listen. The sockets of this class are bound but do not listen, so they get no connections.
    """

    def __init__(self, address: Address) -> None:
        """Reserve the port; 0 is any free one.

        Raises OSError if it is in use, SettingsError if this system can't share ports.
        """
        if not hasattr(socket, "SO_REUSEPORT"):
            raise SettingsError("workers: this system can't share a port; serve with one")
        # Bind without SO_REUSEPORT first, so that binding fails if another program, or another
        # supervisor, uses the port.
        self._sockets = bind(address)
        for held in self._sockets:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
            # `bind` set SO_REUSEADDR because of connections in TIME_WAIT of an earlier server.
            # It is cleared now, because it would let other programs bind the port.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, False)
        self.address = address._replace(port=self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Release the port."""
        for held in self._sockets:
            held.close()
