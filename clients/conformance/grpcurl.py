"""Calls a server with grpcurl and its reflection: `python -m … HOST:PORT OPTIONS.json`."""

import json
import re
import subprocess
import sys
from typing import Any

from clients.conformance.common import (
    DEADLINE_SECONDS,
    HEALTH_NAMES,
    SHORT_DEADLINE_SECONDS,
    CaseError,
    Options,
    expect,
    report,
)
from google.protobuf import json_format
from google.protobuf.message import Message

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as reading_pb

GET = "interaction_svc.v1.InteractionService/GetInteraction"
LIST = "interaction_svc.v1.InteractionService/ListInteractions"
DELETE = "interaction_svc.v1.InteractionService/DeleteInteraction"
RECORD = "interaction_svc.v1.IngestService/RecordInteraction"
RECORD_STREAM = "interaction_svc.v1.IngestService/RecordInteractions"
CHECK, WATCH = "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"
SERVICES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "interaction_svc.v1.IngestService",
    "interaction_svc.v1.InteractionService",
)


class FailedCall(Exception):
    """A call that failed: its code, message and details as grpcurl prints them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        found = re.search(r"Code: (\w+)", text)
        self.code = found[1] if found else ""


class Client:
    """The cases. Each method raises an exception if an answer is wrong."""

    def __init__(self, address: str, options: Options) -> None:
        self._address = address
        self._options = options
        self._flags = ["-plaintext"]
        if options.tls is not None:
            names = {"ca": "-cacert", "certificate": "-cert", "key": "-key"}
            files = {flag: options.tls[name] for name, flag in names.items()}
            self._flags = [part for flag, file in files.items() if file for part in (flag, file)]

    def _grpcurl(
        self,
        *arguments: str,
        flags: tuple[str, ...] = (),
        stdin: str = "",
        authorization: str | None = None,
    ) -> str:
        key = self._options.authorization if authorization is None else authorization
        # Calls without the key read the descriptors with it: reflection needs a key, too.
        headers = ["-reflect-header", f"authorization: {self._options.authorization}"]
        headers += ["-rpc-header", f"authorization: {key}"] if key else []
        ran = subprocess.run(
            ["grpcurl", *self._flags, *headers, *flags, self._address, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        if ran.returncode:
            raise FailedCall(ran.stderr + ran.stdout)
        return ran.stdout

    def _call(self, method: str, *requests: Message | dict[str, Any], **given: Any) -> str:
        texts = [
            json.dumps(request)
            if isinstance(request, dict)
            else json_format.MessageToJson(request, preserving_proto_field_name=True)
            for request in requests
        ]
        flags = ("-d", "@", "-max-msg-sz", str(8 << 20), *given.pop("flags", ()))
        return self._grpcurl(method, flags=flags, stdin="\n".join(texts), **given)

    def _get(self, request: reading_pb.GetInteractionRequest) -> reading_pb.GetInteractionResponse:
        return json_format.Parse(self._call(GET, request), reading_pb.GetInteractionResponse())

    def get(self) -> None:
        """Compare all fields of an Interaction."""
        expect("the Interaction", self._get(self._options.first()), self._options.expected)

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
            printed = self._call(LIST, request)
            pages.append(json_format.Parse(printed, reading_pb.ListInteractionsResponse()))
            request.page_token = pages[-1].next_page_token
        return pages

    def record(self) -> None:
        """Record an Interaction twice, and read it."""
        request = self._options.record(0)
        created = self._record(request)
        again = self._record(request)
        expect("outcome", created.outcome, ingest_pb.RECORD_OUTCOME_CREATED)
        expect("outcome", again.outcome, ingest_pb.RECORD_OUTCOME_UNCHANGED)
        expect("recorded", created.interaction, request.interaction)
        read = self._get(self._options.get_request("written", request.interaction.sid))
        expect("read", read.interaction, request.interaction)

    def _record(
        self, request: ingest_pb.RecordInteractionRequest
    ) -> ingest_pb.RecordInteractionResponse:
        return json_format.Parse(self._call(RECORD, request), ingest_pb.RecordInteractionResponse())

    def record_stream(self) -> None:
        """Record batches in a stream."""
        printed = self._call(RECORD_STREAM, *self._options.batches())
        response = json_format.Parse(printed, ingest_pb.RecordInteractionsResponse())
        expect("counts", (response.created, response.failed), (250, 0))

    def delete(self) -> None:
        """Delete an Interaction."""
        request = self._options.record(1)
        self._record(request)
        self._call(DELETE, self._options.delete_request(request.interaction))
        self._fails("NotFound", GET, self._options.get_request("written", request.interaction.sid))

    def _fails(
        self, code: str, method: str, request: Message | dict[str, Any], **given: Any
    ) -> str:
        try:
            self._call(method, request, **given)
        except FailedCall as error:
            expect("code", error.code, code)
            return str(error)
        raise CaseError(f"the call succeeded instead of {code}")

    def error_details(self) -> None:
        """Read the reason of an error."""
        printed = self._fails("NotFound", GET, self._options.missing())
        expect("has the reason", "ERROR_REASON_INTERACTION_NOT_FOUND" in printed, expected=True)

    def metadata(self) -> None:
        """Read the request ID in the trailing metadata, and send wrong keys."""
        sent = f"{self._options.name}-metadata"
        flags = ("-v", "-rpc-header", f"x-request-id: {sent}")
        printed = self._call(GET, self._options.first(), flags=flags)
        _, _, trailers = printed.partition("Response trailers received:")
        expect("x-request-id", re.findall(r"x-request-id: (.*)", trailers), [sent])
        for key in ("", self._options.authorization + "x"):
            printed = self._fails("Unauthenticated", GET, self._options.first(), authorization=key)
            expect("has the reason", "ERROR_REASON_UNAUTHENTICATED" in printed, expected=True)

    def deadline(self) -> None:
        """Check that a watch ends at the client's deadline."""
        flags = (
            *("-max-time", str(SHORT_DEADLINE_SECONDS)),
            *("-rpc-header", f"x-request-id: {self._options.name}-deadline"),
        )
        self._fails("DeadlineExceeded", WATCH, {}, flags=flags)

    def health_check(self) -> None:
        """Check the health of the server, of a service, and of an unknown one."""
        for name in HEALTH_NAMES:
            expect("health", json.loads(self._call(CHECK, {"service": name})), _SERVING)
        self._fails("NotFound", CHECK, {"service": "unknown"})

    def health_watch(self) -> None:
        """Watch the health until a deadline."""
        printed = self._fails("DeadlineExceeded", WATCH, {}, flags=("-max-time", "2"))
        expect("has the health", '"status": "SERVING"' in printed, expected=True)

    def too_large(self) -> None:
        """Send a request of 5 MiB."""
        self._fails("ResourceExhausted", RECORD, self._options.record(3, "x" * (5 << 20)))

    def reflection(self) -> None:
        """List and describe the services and the messages."""
        expect("services", sorted(self._grpcurl("list").split()), list(SERVICES))
        methods = self._grpcurl("list", "interaction_svc.v1.IngestService").split()
        expect("methods", methods, [each.replace("/", ".") for each in (RECORD, RECORD_STREAM)])
        described = self._grpcurl("describe", "interaction_svc.v1.Interaction")
        expect("fields", len(re.findall(r" = \d+", described)), 10)
        described = self._grpcurl("describe", "interaction_svc.v1.IngestService.RecordInteractions")
        expect("is a stream", "( stream .interaction_svc.v1" in described, expected=True)

    def permission_denied(self) -> None:
        """Be refused because of the name in the client's certificate."""
        self._fails("PermissionDenied", GET, self._options.first())


_SERVING = {"status": "SERVING"}


def main() -> None:
    """Run the cases."""
    options = Options(sys.argv[2])
    client = Client(sys.argv[1], options)
    for case in options.cases:
        try:
            getattr(client, case)()
        except (FailedCall, CaseError) as error:
            report(case, error)
        else:
            report(case, None)


if __name__ == "__main__":
    main()
