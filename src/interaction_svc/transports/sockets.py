"""Sockets to listen on, one for each address of a host name."""

import errno
import os
import socket
import stat
import sys
from contextlib import ExitStack, closing, suppress
from typing import NamedTuple

from interaction_svc.transports.address import Address

CHECK_SECONDS = 1.0
"""The time between two checks that a listener is still open."""
LOCALHOST = ("127.0.0.1", "::1")
_TRIES = 20
"""The number of random ports to try until one is free at all addresses of a name."""


def addresses_of(address: Address) -> list[Address]:
    """Return the addresses of a host. Raises OSError if its name is unknown.

    The addresses of `localhost` are 127.0.0.1 and ::1, if this machine has both.
    """
    if address.host == "localhost":
        hosts = [host for host in LOCALHOST if _is_here(host)] or [LOCALHOST[0]]
    else:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return [address._replace(host=host) for host in hosts]


def bind(address: Address, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return a bound socket for each of the addresses of a host, all with the same port.

    Port 0 is any free one. With `reuse_port` other sockets of this user may bind the same port, if
    they use `reuse_port` too. Raises OSError.
    """
    addresses = addresses_of(address)
    for _ in range(_TRIES if len(addresses) > 1 and not address.port else 1):
        try:
            return _bind_each(addresses, reuse_port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            in_use = error
    raise in_use


def cannot_listen(what: str, address: Address, error: OSError) -> OSError:
    """Return the error of a listener (gRPC, HTTP or metrics) with advice for the operator."""
    elsewhere = f"another with --{what.lower()}-address"
    if isinstance(error, socket.gaierror):
        problem = f"the name {address.host!r} can't be resolved; choose {elsewhere}"
    elif error.errno == errno.EADDRINUSE:
        problem = f"the port is in use; stop what listens there, or choose {elsewhere}"
    elif error.errno == errno.EADDRNOTAVAIL:
        problem = f"it is no address of this machine; choose {elsewhere}"
    elif error.errno in (errno.EACCES, errno.EPERM):
        problem = (
            "the port is kept for privileged processes;"
            f" grant the capability CAP_NET_BIND_SERVICE, or choose {elsewhere}"
        )
    else:
        problem = error.strerror or type(error).__name__
    return OSError(f"can't listen for {what} on {error.filename or address}: {problem}")


def listens(listener: socket.socket) -> bool:
    """Return whether a socket is open and listens."""
    is_open = listener.fileno() != -1
    return is_open and bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


class Listener(NamedTuple):
    """A listening socket of a library, identified by its file descriptor and inode."""

    descriptor: int
    inode: int

    def listens(self) -> bool:
        """Return whether the descriptor is still this socket, and the socket listens."""
        try:
            if os.fstat(self.descriptor).st_ino != self.inode:
                return False
            with closing(socket.socket(fileno=os.dup(self.descriptor))) as own:
                return listens(own)
        except OSError:
            return False


def listeners_on(port: int) -> list[Listener]:
    """Return the sockets of this process that listen on a TCP port."""
    found = []
    for name in os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"):
        descriptor = int(name)
        with suppress(OSError):  # it was the descriptor of the listing itself
            status = os.fstat(descriptor)
            if not stat.S_ISSOCK(status.st_mode):
                continue
            with closing(socket.socket(fileno=os.dup(descriptor))) as own:
                is_tcp = own.family in (socket.AF_INET, socket.AF_INET6)
                if is_tcp and listens(own) and own.getsockname()[1] == port:
                    found.append(Listener(descriptor, status.st_ino))
    return found


def _bind_each(addresses: list[Address], reuse_port: bool) -> list[socket.socket]:
    port = addresses[0].port
    with ExitStack() as opened:
        sockets = []
        for host, _ in addresses:
            bound = opened.enter_context(closing(_socket(host)))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
            if reuse_port:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
            try:
                bound.bind((host, port))
            except OSError as error:
                error.filename = str(Address(host, port))  # the address, for the message
                raise
            port = bound.getsockname()[1]
            sockets.append(bound)
        opened.pop_all()
    return sockets


def _socket(host: str) -> socket.socket:
    if ":" not in host:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    # `::` stands for all addresses, those of IPv4 too.
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
    return opened


def _is_here(host: str) -> bool:
    try:
        with closing(_socket(host)) as tried:
            tried.bind((host, 0))
    except OSError:
        return False
    return True
