"""One request and its response, which uvicorn calls a cycle.

It sends the headers of a response together with the body in one system call. With two system calls
an empty request costs 10 % more. It creates no reference cycles for the garbage collector. A
response in several parts is sent with chunked encoding. Over HTTP/1.0 the end of the connection
ends the response.

If the application has not read the whole request body, the connection ends with the response. So no
part of a body can be parsed as a request.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import Message, Scope

from interaction_svc.domain.errors import Internal, ServiceError
from interaction_svc.domain.units import KIB
from interaction_svc.transports.asgi.client_gone import ClientGoneError
from interaction_svc.transports.http1.uvicorn_internals import STATUS_LINE

if TYPE_CHECKING:
    from interaction_svc.transports.http1.protocol import RestProtocol

log = structlog.get_logger()

_WAITING_BODY_BYTES = 64 * KIB
"""The connection is not read while this many bytes of a body wait for the application."""
_JOINED_BYTES = 64 * KIB
"""A body up to this size is copied to send it with its headers. Above it two sends are cheaper."""


class RequestCycle:
    """A request that the application answers. uvicorn uses the public attributes."""

    __slots__ = (
        "_body",
        "_body_is_read",
        "_expects_continue",
        "_head",
        "_is_asked",
        "_is_chunked",
        "_is_told",
        "_protocol",
        "_scope",
        "body_complete",
        "disconnected",
        "keep_alive",
        "message_event",
        "response_complete",
        "response_started",
        "task",
    )

    def __init__(
        self,
        protocol: "RestProtocol",
        scope: Scope,
        *,
        keep_alive: bool,
        has_body: bool,
        expects_continue: bool,
    ) -> None:
        self._protocol = protocol
        self._scope = scope
        self._body = bytearray()  # received, but not yet read by the application
        self._body_is_read = not has_body
        self._is_asked = False  # whether the application has asked for the body
        self._is_told = False  # whether the application has received the end of the body
        self._expects_continue = expects_continue
        self.body_complete = not has_body
        """Whether all of the request's body has arrived."""
        self._head = b""  # status line and headers that are not sent yet
        self._is_chunked = False
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.message_event = asyncio.Event()
        """Set when a part of the body arrives, and at the end of the connection or the response."""
        self.task: asyncio.Task[None] | None = None

    async def run(self, app: Any) -> None:
        """Run the application. An incomplete response ends the connection."""
        try:
            await app(self._scope, self.receive, self.send)
        except BaseException as cause:
            if self.response_started and isinstance(cause, ServiceError):
                return  # the error is in the request's log line
            error = Internal()
            log.error("the application sent no response", reference=error.reference, exc_info=cause)
            if not self.response_started:
                response = self._protocol.render_error(error, "")
                await response(self._scope, self.receive, self.send)
        finally:
            if not self.response_complete and not self.disconnected:
                # The application failed, or the client did not read the response before the
                # deadline. After the abort the client knows that the response is incomplete.
                self._protocol.transport.abort()
            if self.task is not None:
                self._protocol.tasks.discard(self.task)

    async def receive(self) -> Message:
        """Return the next part of the body. After the last part, wait for the disconnection."""
        while not (self.disconnected or self.response_complete):
            if self._body or (self.body_complete and not self._is_told):
                return self._next_part()
            self.message_event.clear()
            if not self.body_complete:
                self._ask_for_body()
            await self.message_event.wait()
        return {"type": "http.disconnect"}

    def add_body(self, part: bytes) -> None:
        """Add a part of the body. `receive` returns it to the application."""
        self._body += part
        self.message_event.set()

    def end_body(self) -> None:
        """Mark the body as complete."""
        self.body_complete = True
        self.message_event.set()

    def _next_part(self) -> Message:
        part = bytes(self._body)
        self._body.clear()
        self._is_told = self._body_is_read = self.body_complete
        return {"type": "http.request", "body": part, "more_body": not self.body_complete}

    def _ask_for_body(self) -> None:
        self._is_asked = True
        if self._expects_continue:
            self._expects_continue = False
            if not self.response_started:
                self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._protocol.read_on()

    @property
    def wants_body(self) -> bool:
        """Return whether the application has asked for the body, and the buffer has room."""
        return self._is_asked and not self.body_complete and len(self._body) < _WAITING_BODY_BYTES

    async def send(self, message: Message) -> None:
        """Send the start of a response, its whole body, or a part of the body.

        A body that is sent as a whole needs a Content-Length among the headers. The method waits
        until uvicorn's flow control permits more. While it waits, the request keeps its place, and
        its deadline runs. Raises ClientGoneError if the client disconnects before the last part.
        """
        if message["type"] == "http.response.start":
            if not self.disconnected:
                self._begin(message["status"], message["headers"])
            return
        is_last = not message.get("more_body", False)
        if not self.disconnected:
            if is_last and not self._is_chunked:
                self._write(b"" if self._scope["method"] == "HEAD" else message["body"])
            else:
                self._write_part(message["body"], is_last=is_last)
            flow = self._protocol.flow
            if flow.write_paused:
                await flow.drain()
        if self.disconnected:
            if not is_last:
                raise ClientGoneError
        elif is_last:
            self._end()

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        headers = [*self._protocol.server_state.default_headers, *headers]
        self.keep_alive = self.keep_alive and self._body_is_read
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
        # asyncio keeps a slice of the data that the kernel does not accept at once. Slicing a
        # memoryview copies nothing.
        write(memoryview(body))

    def _write_part(self, part: bytes, *, is_last: bool) -> None:
        head, self._head = self._head, b""
        has_chunks = self._scope["http_version"] != "1.0"
        if has_chunks and head:
            head = b"%btransfer-encoding: chunked\r\n\r\n" % head[:-2]
        self._is_chunked = True
        pieces = [head]
        if self._scope["method"] != "HEAD":
            if not has_chunks:
                pieces.append(part)
            elif part:  # an empty chunk would end the body
                pieces += (b"%x\r\n" % len(part), part, b"\r\n")
            if has_chunks and is_last:
                pieces.append(b"0\r\n\r\n")
        self._protocol.transport.writelines(pieces)

    def _end(self) -> None:
        self.response_complete = True
        self.message_event.set()
        self._protocol.response_sent(self)
