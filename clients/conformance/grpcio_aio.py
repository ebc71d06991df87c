"""Calls a server with grpcio's asynchronous API: `python -m … HOST:PORT OPTIONS.json`."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from clients.conformance.common import (
    DEADLINE_SECONDS,
    HEALTH_NAMES,
    SHORT_DEADLINE_SECONDS,
    CaseError,
    Options,
    await_restart,
    expect,
    expect_error,
    report,
    request_ids,
    values_of,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as reading_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

Code = grpc.StatusCode


class Client:
    """The cases. Each method raises an exception if an answer is wrong."""

    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        self._options = options
        self._key = options.metadata()
        self._reading = InteractionServiceStub(channel)
        self._ingest = IngestServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    async def get(self) -> None:
        """Compare all fields of an Interaction."""
        response = await self._reading.GetInteraction(
            self._options.first(), metadata=self._key, timeout=DEADLINE_SECONDS
        )
        expect("the Interaction", response, self._options.expected)

    async def list_pages(self) -> None:
        """Read a Session to its end."""
        self._options.check_list("paged", await self._pages("paged", 50), 3, 0)

    async def list_1000(self) -> None:
        """Read a page of 1,000 Interactions."""
        self._options.check_list("thousand", await self._pages("thousand", 1000), 1, 300_000)

    async def list_4mib(self) -> None:
        """Read a page that ends before 4 MiB."""
        self._options.check_list("large", await self._pages("large", 1000), 2, 3_900_000)

    async def _pages(self, session: str, size: int) -> list[reading_pb.ListInteractionsResponse]:
        request = reading_pb.ListInteractionsRequest(
            service_sid=self._options.service_sid,
            session_sid=self._options.session_sid(session),
            page_size=size,
        )
        pages: list[reading_pb.ListInteractionsResponse] = []
        while not pages or request.page_token:
            pages.append(await self._reading.ListInteractions(request, metadata=self._key))
            request.page_token = pages[-1].next_page_token
        return pages

    async def record(self) -> None:
        """Record an Interaction twice, and read it."""
        request = self._options.record(0)
        created = await self._ingest.RecordInteraction(request, metadata=self._key)
        again = await self._ingest.RecordInteraction(request, metadata=self._key)
        expect("outcome", created.outcome, ingest_pb.RECORD_OUTCOME_CREATED)
        expect("outcome", again.outcome, ingest_pb.RECORD_OUTCOME_UNCHANGED)
        expect("recorded", created.interaction, request.interaction)
        read = await self._reading.GetInteraction(
            self._options.get_request("written", request.interaction.sid), metadata=self._key
        )
        expect("read", read.interaction, request.interaction)

    async def record_stream(self) -> None:
        """Record batches in a stream."""
        response = await self._ingest.RecordInteractions(
            iter(self._options.batches()), metadata=self._key
        )
        expect("counts", (response.created, response.failed), (250, 0))

    async def delete(self) -> None:
        """Delete an Interaction."""
        request = self._options.record(1)
        await self._ingest.RecordInteraction(request, metadata=self._key)
        await self._reading.DeleteInteraction(
            self._options.delete_request(request.interaction), metadata=self._key
        )
        missing = self._options.get_request("written", request.interaction.sid)
        await self._fails(missing, Code.NOT_FOUND)

    async def _fails(
        self, request: reading_pb.GetInteractionRequest, code: Code, reason: str | None = None
    ) -> None:
        try:
            await self._reading.GetInteraction(request, metadata=self._key)
        except grpc.aio.AioRpcError as error:
            expect_error(error, code, reason)
        else:
            raise CaseError(f"the call succeeded instead of {code}")

    async def error_details(self) -> None:
        """Read the reason of an error."""
        await self._fails(
            self._options.missing(), Code.NOT_FOUND, "ERROR_REASON_INTERACTION_NOT_FOUND"
        )

    async def metadata(self) -> None:
        """Read the request ID in the trailing metadata, and send wrong keys."""
        sent = f"{self._options.name}-metadata"
        call = self._reading.GetInteraction(
            self._options.first(), metadata=self._options.metadata(x_request_id=sent)
        )
        await call
        expect("x-request-id", values_of(await call.trailing_metadata(), "x-request-id"), [sent])
        for key in ((), (("authorization", self._options.authorization + "x"),)):
            try:
                await self._reading.GetInteraction(self._options.first(), metadata=key)
            except grpc.aio.AioRpcError as error:
                expect_error(error, Code.UNAUTHENTICATED, "ERROR_REASON_UNAUTHENTICATED")
                expect("request IDs", len(request_ids(error)), 1)
            else:
                raise CaseError("a call without a right key succeeded")

    async def deadline(self) -> None:
        """Check that a stream ends at the client's deadline."""
        try:
            await self._ingest.RecordInteractions(
                _without_end(),
                metadata=self._options.metadata(x_request_id=f"{self._options.name}-deadline"),
                timeout=SHORT_DEADLINE_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            expect_error(error, Code.DEADLINE_EXCEEDED)
        else:
            raise CaseError("the stream has no end, but has a response")
        await self.get()

    async def cancel(self) -> None:
        """Cancel a stream after its first batch was recorded."""
        call = self._ingest.RecordInteractions(
            _without_end(self._options.batch(400, 10)),
            metadata=self._options.metadata(x_request_id=f"{self._options.name}-cancel"),
        )
        await self._await_recorded(400)
        call.cancel()
        expect("code", await call.code(), Code.CANCELLED)
        await self.get()

    async def _await_recorded(self, number: int) -> None:
        request = self._options.get_request("written", self._options.new_sids[number])
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            try:
                await self._reading.GetInteraction(request, metadata=self._key)
            except grpc.aio.AioRpcError as error:
                expect_error(error, Code.NOT_FOUND)
            else:
                return
        raise CaseError("the stream recorded nothing")

    async def health_check(self) -> None:
        """Check the health of the server, of a service, and of an unknown one."""
        for name in HEALTH_NAMES:
            response = await self._health.Check(health_pb2.HealthCheckRequest(service=name))
            expect("health", response.status, health_pb2.HealthCheckResponse.SERVING)
        try:
            await self._health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        except grpc.aio.AioRpcError as error:
            expect_error(error, Code.NOT_FOUND)
        else:
            raise CaseError("an unknown service has a health")

    async def health_watch(self) -> None:
        """Watch the health, and cancel the watch."""
        watch = self._health.Watch(health_pb2.HealthCheckRequest())
        response = await anext(aiter(watch))
        expect("health", response.status, health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()
        expect("code", await watch.code(), Code.CANCELLED)

    async def gzip(self) -> None:
        """Send a request that is compressed with gzip."""
        request = self._options.record(2, "gzip" * 10_000)
        response = await self._ingest.RecordInteraction(
            request, metadata=self._key, compression=grpc.Compression.Gzip
        )
        expect("recorded", response.interaction, request.interaction)

    async def too_large(self) -> None:
        """Send a request of 5 MiB."""
        try:
            await self._ingest.RecordInteraction(
                self._options.record(3, "x" * (5 << 20)), metadata=self._key
            )
        except grpc.aio.AioRpcError as error:
            expect_error(error, Code.RESOURCE_EXHAUSTED)
        else:
            raise CaseError("5 MiB were accepted")
        await self.get()

    async def concurrent_500(self) -> None:
        """Make 500 calls at once."""
        await self.get()
        await asyncio.gather(*(self.get() for _ in range(500)))

    async def sequential_5000(self) -> None:
        """Make 5,000 calls one after the other."""
        for _ in range(5000):
            await self.get()

    async def permission_denied(self) -> None:
        """Be refused because of the name in the client's certificate."""
        await self._fails(self._options.first(), Code.PERMISSION_DENIED)

    async def reconnect(self) -> None:
        """Call before and after a restart of the server."""
        await self.get()
        await asyncio.to_thread(await_restart)
        await self._reading.GetInteraction(
            self._options.first(),
            metadata=self._key,
            wait_for_ready=True,
            timeout=DEADLINE_SECONDS,
        )


async def _without_end(
    *requests: ingest_pb.RecordInteractionsRequest,
) -> AsyncIterator[ingest_pb.RecordInteractionsRequest]:
    for request in requests:
        yield request
    await asyncio.Event().wait()


async def main() -> None:
    """Run the cases."""
    options = Options(sys.argv[2])
    async with (
        grpc.aio.insecure_channel(sys.argv[1])
        if options.tls is None
        else grpc.aio.secure_channel(sys.argv[1], options.credentials())
    ) as channel:
        client = Client(channel, options)
        for case in options.cases:
            run: Callable[[], Awaitable[None]] = getattr(client, case)
            try:
                await run()
            except (grpc.aio.AioRpcError, CaseError) as error:
                report(case, error)
            else:
                report(case, None)


if __name__ == "__main__":
    asyncio.run(main())
