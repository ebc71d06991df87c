"""A limit on the bytes of requests that have not arrived completely."""

from typing import Self

from interaction_svc.domain.errors import Overloaded
from interaction_svc.domain.units import MIB


class RequestBytes:
    """The bytes of all unfinished requests over HTTP, in one process.

    A limit on each request does not bound their total: a caller may send many requests almost
    completely, and finish none.
    """

    MAX_BYTES = 64 * MIB

    def __init__(self) -> None:
        self.held = 0
        """The bytes of all unfinished requests."""

    def request(self) -> "RequestBody":
        """Return a context manager that counts the bytes of one request until its end."""
        return RequestBody(self)


class RequestBody:
    """The bytes of one request."""

    def __init__(self, limit: RequestBytes) -> None:
        self._limit = limit
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.held -= self._held

    def add(self, size: int) -> None:
        """Count further bytes. Raises Overloaded if all requests together exceed MAX_BYTES."""
        if self._limit.held + size > RequestBytes.MAX_BYTES:
            raise Overloaded("Too many bytes of unfinished requests: send this request again later")
        self._held += size
        self._limit.held += size

    def release(self, size: int) -> None:
        """Stop counting bytes of a message that is complete."""
        self._held -= size
        self._limit.held -= size
