"""The service enforces `google.api.field_behavior` of the protos."""

from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from testing.build import Parents, new_interaction, new_leg
from testing.paths import ROOT
from testing.requests import Code, failure, record
from testing.stubs import Ingest, Reading

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as reading_pb

pytestmark = pytest.mark.each_engine

REQUIRED, OPTIONAL = field_behavior_pb2.REQUIRED, field_behavior_pb2.OPTIONAL
REQUESTS: tuple[type[Message], ...] = (
    reading_pb.GetInteractionRequest,
    reading_pb.ListInteractionsRequest,
    reading_pb.DeleteInteractionRequest,
    ingest_pb.RecordInteractionRequest,
)


def behavior_of(field: FieldDescriptor) -> set[int]:
    return set(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def fields_of(message: Any, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all fields of the service's messages, also of nested messages."""
    for field in message.fields:
        path = (*parents, field.name)
        yield path
        inner = field.message_type
        if inner is not None and inner.full_name.startswith("interaction_svc."):
            yield from fields_of(inner, path)


def field_at(message: Any, path: tuple[str, ...]) -> FieldDescriptor:
    *parents, name = path
    for parent in parents:
        message = message.fields_by_name[parent].message_type
    field: FieldDescriptor = message.fields_by_name[name]
    return field


def without(message: Message, path: tuple[str, ...]) -> Message:
    copied = type(message)()
    copied.CopyFrom(message)
    inner: Any = copied
    for parent in path[:-1]:
        inner = getattr(inner, parent)
    inner.ClearField(path[-1])
    return copied


def paths(behavior: int) -> list[Any]:
    return [
        pytest.param(request, path, id=f"{request.DESCRIPTOR.name}.{'.'.join(path)}")
        for request in REQUESTS
        for path in fields_of(request.DESCRIPTOR)
        if behavior in behavior_of(field_at(request.DESCRIPTOR, path))
    ]


@pytest.fixture
def call(reading: Reading, ingest: Ingest) -> Any:
    def of(request: Any) -> Awaitable[Any]:
        methods: dict[type[Message], Any] = {
            reading_pb.GetInteractionRequest: reading.GetInteraction,
            reading_pb.ListInteractionsRequest: reading.ListInteractions,
            reading_pb.DeleteInteractionRequest: reading.DeleteInteraction,
            ingest_pb.RecordInteractionRequest: ingest.RecordInteraction,
        }
        result: Awaitable[Any] = methods[type(request)](request)
        return result

    return of


async def complete(kind: type[Message], ingest: Ingest, parents: Parents) -> Any:
    """Return a request with every field set that the service accepts."""
    interaction = new_interaction(parents, data="{}", inbound=new_leg(), outbound=new_leg())
    interaction.update_time.CopyFrom(interaction.create_time)
    if kind is ingest_pb.RecordInteractionRequest:
        return kind(interaction=interaction)
    await record(ingest, interaction)
    request: Any = kind()
    request.service_sid, request.session_sid = parents.service_sid, parents.session_sid
    request.account_sid = interaction.account_sid
    if kind is reading_pb.ListInteractionsRequest:
        request.page_size = 10
        request.order = reading_pb.ListInteractionsRequest.ORDER_CREATED_DESC
        request.filter.type = interaction.type
        request.filter.created_at_or_after.CopyFrom(interaction.create_time)
        request.filter.created_before.CopyFrom(interaction.create_time)
        request.filter.created_before.seconds += 1
        request.filter.participant_sid = interaction.inbound.participant_sid
        request.filter.resource_sid = interaction.inbound.resource_sid
        request.filter.resource_status = interaction.inbound.resource_status
    else:
        request.sid = interaction.sid
    return request


@pytest.mark.parametrize("request_type", [*REQUESTS, ingest_pb.RecordInteractionsRequest])
def test_every_field_of_a_request_is_required_or_optional(request_type: type[Message]) -> None:
    for path in fields_of(request_type.DESCRIPTOR):
        behavior = behavior_of(field_at(request_type.DESCRIPTOR, path))
        assert (REQUIRED in behavior) != (OPTIONAL in behavior), path


@pytest.mark.parametrize(("request_type", "path"), paths(REQUIRED))
async def test_a_request_without_a_required_field_is_refused_by_its_name(
    request_type: type[Message], path: tuple[str, ...], call: Any, ingest: Ingest, parents: Parents
) -> None:
    request = await complete(request_type, ingest, parents)
    code, reason, details = await failure(call(without(request, path)))
    assert (code, reason) == (Code.INVALID_ARGUMENT, "ERROR_REASON_INVALID_FIELD")
    bad: Any = details["BadRequest"]
    assert [violation.field for violation in bad.field_violations] == [".".join(path)]


@pytest.mark.parametrize(("request_type", "path"), paths(OPTIONAL))
async def test_a_request_without_an_optional_field_is_answered(
    request_type: type[Message], path: tuple[str, ...], call: Any, ingest: Ingest, parents: Parents
) -> None:
    request = await complete(request_type, ingest, parents)
    if path == ("interaction", "create_time"):  # required with a sid, see its comment
        request.interaction.sid = ""
        request.interaction.ClearField("update_time")  # it would be before the new create_time
    await call(without(request, path))


@pytest.mark.parametrize("module", [field_behavior_pb2, error_details_pb2, status_pb2])
def test_the_copied_protos_of_google_are_those_of_the_installed_package(module: Any) -> None:
    name = module.DESCRIPTOR.name
    installed = Path(module.__file__).with_name(Path(name).name)
    assert (ROOT / "third_party/googleapis" / name).read_text() == installed.read_text()
