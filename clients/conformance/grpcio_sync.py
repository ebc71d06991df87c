"""Calls a server with grpcio's synchronous API: `python -m … HOST:PORT OPTIONS.json`."""

import sys
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

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

    def __init__(self, channel: grpc.Channel, options: Options) -> None:
        self._options = options
        self._key = options.metadata()
        self._reading = InteractionServiceStub(channel)
        self._ingest = IngestServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def get(self) -> None:
        """Compare all fields of an Interaction."""
        response = self._reading.GetInteraction(
            self._options.first(), metadata=self._key, timeout=DEADLINE_SECONDS
        )
        expect("the Interaction", response, self._options.expected)

    def list_pages(self) -> None:
        """Read a Session to its end."""
        self._options.check_list("paged", self._pages("paged", 50), 3, 0)

    def list_1000(self) -> None:
        """Read a page of 1,000 Interactions."""
        self._options.check_list("thousand", self._pages("thousand", 1000), 1, 300_000)

    def list_4mib(self) -> None:
        """Read a page that ends before 4 MiB."""
        self._options.check_list("large", self._pages("large", 1000), 2, 3_900_000)

    def _pages(self, session: str, size: int) -> list[reading_pb.ListInteractionsResponse]:
        request = reading_pb.ListInteractionsRequest(
            service_sid=self._options.service_sid,
            session_sid=self._options.session_sid(session),
            page_size=size,
        )
        pages: list[reading_pb.ListInteractionsResponse] = []
        while not pages or request.page_token:
            pages.append(self._reading.ListInteractions(request, metadata=self._key))
            request.page_token = pages[-1].next_page_token
        return pages

    def record(self) -> None:
        """Record an Interaction twice, and read it."""
        request = self._options.record(0)
        created = self._ingest.RecordInteraction(request, metadata=self._key)
        again = self._ingest.RecordInteraction(request, metadata=self._key)
        expect("outcome", created.outcome, ingest_pb.RECORD_OUTCOME_CREATED)
        expect("outcome", again.outcome, ingest_pb.RECORD_OUTCOME_UNCHANGED)
        expect("recorded", created.interaction, request.interaction)
        read = self._reading.GetInteraction(
            self._options.get_request("written", request.interaction.sid), metadata=self._key
        )
        expect("read", read.interaction, request.interaction)

    def record_stream(self) -> None:
        """Record batches in a stream."""
        response = self._ingest.RecordInteractions(
            iter(self._options.batches()), metadata=self._key
        )
        expect("counts", (response.created, response.failed), (250, 0))

    def delete(self) -> None:
        """Delete an Interaction."""
        request = self._options.record(1)
        self._ingest.RecordInteraction(request, metadata=self._key)
        self._reading.DeleteInteraction(
            self._options.delete_request(request.interaction), metadata=self._key
        )
        missing = self._options.get_request("written", request.interaction.sid)
        self._fails(missing, Code.NOT_FOUND)

    def _fails(
        self, request: reading_pb.GetInteractionRequest, code: Code, reason: str | None = None
    ) -> None:
        try:
            self._reading.GetInteraction(request, metadata=self._key)
        except grpc.RpcError as error:
            expect_error(error, code, reason)
        else:
            raise CaseError(f"the call succeeded instead of {code}")

    def error_details(self) -> None:
        """Read the reason of an error."""
        self._fails(self._options.missing(), Code.NOT_FOUND, "ERROR_REASON_INTERACTION_NOT_FOUND")

    def metadata(self) -> None:
        """Read the request ID in the trailing metadata, and send wrong keys."""
        sent = f"{self._options.name}-metadata"
        _, call = self._reading.GetInteraction.with_call(
            self._options.first(), metadata=self._options.metadata(x_request_id=sent)
        )
        expect("x-request-id", values_of(call.trailing_metadata(), "x-request-id"), [sent])
        for key in ((), (("authorization", self._options.authorization + "x"),)):
            try:
                self._reading.GetInteraction(self._options.first(), metadata=key)
            except grpc.RpcError as error:
                expect_error(error, Code.UNAUTHENTICATED, "ERROR_REASON_UNAUTHENTICATED")
                expect("request IDs", len(request_ids(error)), 1)
            else:
                raise CaseError("a call without a right key succeeded")

    def deadline(self) -> None:
        """Check that a stream ends at the client's deadline."""
        requests: SimpleQueue[ingest_pb.RecordInteractionsRequest | None] = SimpleQueue()
        try:
            self._ingest.RecordInteractions(
                _until_end(requests),
                metadata=self._options.metadata(x_request_id=f"{self._options.name}-deadline"),
                timeout=SHORT_DEADLINE_SECONDS,
            )
        except grpc.RpcError as error:
            expect_error(error, Code.DEADLINE_EXCEEDED)
        else:
            raise CaseError("the stream has no end, but has a response")
        requests.put(None)
        self.get()

    def cancel(self) -> None:
        """Cancel a stream after its first batch was recorded."""
        requests: SimpleQueue[ingest_pb.RecordInteractionsRequest | None] = SimpleQueue()
        requests.put(self._options.batch(400, 10))
        call = self._ingest.RecordInteractions.future(
            _until_end(requests),
            metadata=self._options.metadata(x_request_id=f"{self._options.name}-cancel"),
        )
        self._await_recorded(400)
        call.cancel()
        expect("code", call.code(), Code.CANCELLED)
        requests.put(None)
        self.get()

    def _await_recorded(self, number: int) -> None:
        request = self._options.get_request("written", self._options.new_sids[number])
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            try:
                self._reading.GetInteraction(request, metadata=self._key)
            except grpc.RpcError as error:
                expect_error(error, Code.NOT_FOUND)
            else:
                return
        raise CaseError("the stream recorded nothing")

    def health_check(self) -> None:
        """Check the health of the server, of a service, and of an unknown one."""
        for name in HEALTH_NAMES:
            response = self._health.Check(health_pb2.HealthCheckRequest(service=name))
            expect("health", response.status, health_pb2.HealthCheckResponse.SERVING)
        try:
            self._health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        except grpc.RpcError as error:
            expect_error(error, Code.NOT_FOUND)
        else:
            raise CaseError("an unknown service has a health")

    def health_watch(self) -> None:
        """Watch the health, and cancel the watch."""
        watch = self._health.Watch(health_pb2.HealthCheckRequest())
        expect("health", next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()
        try:
            next(watch)
        except grpc.RpcError as error:
            expect_error(error, Code.CANCELLED)

    def gzip(self) -> None:
        """Send a request that is compressed with gzip."""
        request = self._options.record(2, "gzip" * 10_000)
        response = self._ingest.RecordInteraction(
            request, metadata=self._key, compression=grpc.Compression.Gzip
        )
        expect("recorded", response.interaction, request.interaction)

    def too_large(self) -> None:
        """Send a request of 5 MiB."""
        try:
            self._ingest.RecordInteraction(
                self._options.record(3, "x" * (5 << 20)), metadata=self._key
            )
        except grpc.RpcError as error:
            expect_error(error, Code.RESOURCE_EXHAUSTED)
        else:
            raise CaseError("5 MiB were accepted")
        self.get()

    def concurrent_500(self) -> None:
        """Make 500 calls at once."""
        self.get()
        calls = [
            self._reading.GetInteraction.future(self._options.first(), metadata=self._key)
            for _ in range(500)
        ]
        for call in calls:
            expect("the Interaction", call.result(), self._options.expected)

    def sequential_5000(self) -> None:
        """Make 5,000 calls one after the other."""
        for _ in range(5000):
            self.get()

    def permission_denied(self) -> None:
        """Be refused because of the name in the client's certificate."""
        self._fails(self._options.first(), Code.PERMISSION_DENIED)

    def reconnect(self) -> None:
        """Call before and after a restart of the server."""
        self.get()
        await_restart()
        self._reading.GetInteraction(
            self._options.first(),
            metadata=self._key,
            wait_for_ready=True,
            timeout=DEADLINE_SECONDS,
        )


def _until_end(
    requests: "SimpleQueue[ingest_pb.RecordInteractionsRequest | None]",
) -> Iterator[ingest_pb.RecordInteractionsRequest]:
    while (request := requests.get()) is not None:
        yield request


def main() -> None:
    """Run the cases."""
    options = Options(sys.argv[2])
    with (
        grpc.insecure_channel(sys.argv[1])
        if options.tls is None
        else grpc.secure_channel(sys.argv[1], options.credentials())
    ) as channel:
        client = Client(channel, options)
        for case in options.cases:
            run: Callable[[], None] = getattr(client, case)
            try:
                run()
            except (grpc.RpcError, CaseError) as error:
                report(case, error)
            else:
                report(case, None)


if __name__ == "__main__":
    main()
