"""One request and its answer: what uvicorn calls a cycle.

It does less than uvicorn's, for this API takes no bodies and streams no answers; and it sends the
headers of an answer together with its body. That is a system call fewer: a tenth of what an empty
request costs. Nor does it leave anything to the garbage collector.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import Message, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from interaction_svc.errors import Internal
from interaction_svc.rest.responses import error_response

if TYPE_CHECKING:
    from interaction_svc.rest.protocol import RestProtocol

log = structlog.get_logger()

_JOINED_BYTES = 64 * 1024
"""Up to which size a body is copied behind its headers; to copy more costs more than to send."""


class Exchange:
    """A request that the application answers; uvicorn asks for the attributes without a `_`."""

    __slots__ = (
        "_ended",
        "_head",
        "_protocol",
        "_received",
        "_scope",
        "disconnected",
        "keep_alive",
        "response_complete",
        "response_started",
        "task",
    )

    def __init__(self, protocol: "RestProtocol", scope: Scope, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self._scope = scope
        self._received = False
        self._head = b""  # what is to be sent before the body
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._ended: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None

    async def run(self, app: Any) -> None:
        """Have the request answered; what is only half answered ends the connection.

        In the end its task takes itself off uvicorn's list; a callback of the task is dearer.
        """
        try:
            await app(self._scope, self.receive, self.send)
        except BaseException as cause:
            error = Internal()
            log.error("no answer was made", reference=error.reference, exc_info=cause)
            if not self.response_started:
                await error_response(error, "")(self._scope, self.receive, self.send)
        finally:
            if not self.response_complete and not self.disconnected:
                # The client hasn't taken the answer in the time that a request has; and what it
                # hasn't taken would wait in memory.
                self._protocol.transport.abort()
            if self.task is not None:
                self._protocol.tasks.discard(self.task)

    async def receive(self) -> Message:
        """Give the body, which is none, and then wait for the end."""
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.message_event.wait()
        return {"type": "http.disconnect"}

    @property
    def message_event(self) -> asyncio.Event:
        """Is set when the connection, or the answer, has ended. Made for who waits for that."""
        if self._ended is None:
            self._ended = asyncio.Event()
            if self.response_complete or self.disconnected:
                self._ended.set()
        return self._ended

    async def send(self, message: Message) -> None:
        """Send the beginning of an answer, or of its body the whole or a part.

        What has a body has its Content-Length among its headers. Returns when the client has taken
        all but a little: until then a call that is answered holds its place, and its time runs.
        """
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message["headers"])
            return
        self._write(b"" if self._scope["method"] == "HEAD" else message["body"])
        flow = self._protocol.flow
        if flow.write_paused:
            await flow.drain()
        if not message.get("more_body", False) and not self.disconnected:
            self._end()

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        headers = [*self._protocol.server_state.default_headers, *headers]
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        fields = b"".join([b"%b: %b\r\n" % header for header in headers])
        if fields.count(b"\n") != len(headers):
            raise ValueError("a header has a line break in it")
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], fields)

    def _write(self, body: bytes) -> None:
        write, head = self._protocol.transport.write, self._head
        if head:
            self._head = b""
            if len(body) <= _JOINED_BYTES:
                write(head + body)
                return
            write(head)
        # What the kernel doesn't take at once, asyncio cuts off: of a view that is no copy.
        write(memoryview(body))

    def _end(self) -> None:
        self.response_complete = True
        if self._ended is not None:
            self._ended.set()
        self._protocol.go_on(self)
