"""Reflection, v1 and v1alpha, as clients such as grpcurl and ghz use it."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from interaction_svc.internal.v1 import page_token_pb2

pytestmark = pytest.mark.each_engine

Asked = reflection_pb2.ServerReflectionRequest
INTERACTIONS = "interaction_svc/v1/interaction.proto"
READING = "interaction_svc/v1/interaction_service.proto"
HEALTH = "grpc_health/v1/health.proto"
SYMBOLS = {
    "interaction_svc.v1.InteractionService": READING,
    "interaction_svc.v1.InteractionService.GetInteraction": READING,
    "interaction_svc.v1.ListInteractionsRequest.Order": READING,
    "interaction_svc.v1.Leg": INTERACTIONS,
    "interaction_svc.v1.Interaction.create_time": INTERACTIONS,
    "interaction_svc.v1.INTERACTION_TYPE_VOICE": INTERACTIONS,
    "interaction_svc.v1.InteractionType.INTERACTION_TYPE_VOICE": INTERACTIONS,
    "grpc.health.v1.Health.Check": HEALTH,
    "grpc.health.v1.HealthCheckResponse.SERVING": HEALTH,
    "grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING": HEALTH,
    "google.api.field_behavior": "google/api/field_behavior.proto",
    "google.rpc.ErrorInfo.reason": "google/rpc/error_details.proto",
    **{
        f"grpc.reflection.{version}.{name}": file
        for version, file in (
            ("v1", "grpc/reflection/v1/reflection.proto"),
            ("v1alpha", "grpc_reflection/v1alpha/reflection.proto"),
        )
        for name in (
            "ServerReflection",
            "ServerReflection.ServerReflectionInfo",
            "ServerReflectionRequest.message_request",
        )
    },
}


async def reflected(
    channel: grpc.aio.Channel,
    version: str,
    *requests: reflection_pb2.ServerReflectionRequest,
) -> list[reflection_pb2.ServerReflectionResponse]:
    raw: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=Asked.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [response async for response in raw(requests)]


def files_in(response: reflection_pb2.ServerReflectionResponse) -> list[FileDescriptorProto]:
    files = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file) for file in files]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_finds_every_symbol_by_its_name(
    channel: grpc.aio.Channel, version: str
) -> None:
    requests = [Asked(file_containing_symbol=symbol) for symbol in SYMBOLS]
    responses = await reflected(channel, version, *requests)
    assert {
        response.original_request.file_containing_symbol: files_in(response)[0].name
        for response in responses
    } == SYMBOLS
    for response in responses:  # with the files that it imports
        found = files_in(response)
        names = {file.name for file in found}
        assert all(names.issuperset(file.dependency) for file in found)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_answers_every_kind_of_request(
    channel: grpc.aio.Channel, version: str
) -> None:
    listed, by_name, extensions, *unknown = await reflected(
        channel,
        version,
        Asked(list_services=""),
        Asked(file_by_filename="grpc/reflection/v1/reflection.proto"),
        Asked(all_extension_numbers_of_type="interaction_svc.v1.Interaction"),
        Asked(file_by_filename="nothing.proto"),
        Asked(all_extension_numbers_of_type="nothing.Nothing"),
        *(
            Asked(file_containing_symbol=symbol)
            for symbol in (
                "",
                "interaction_svc.v1",
                "interaction_svc.v1.InteractionService.Nothing",
                "interaction_svc.v1.InteractionType.NOTHING",
                "interaction_svc.v1.Interaction.nothing",
                "interaction_svc.internal.v1.Nothing",
            )
        ),
    )
    assert [service.name for service in listed.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "interaction_svc.v1.IngestService",
        "interaction_svc.v1.InteractionService",
    ]
    (file,) = files_in(by_name)
    (service,) = file.service
    assert (file.package, service.name) == ("grpc.reflection.v1", "ServerReflection")
    assert service.method[0].input_type == ".grpc.reflection.v1.ServerReflectionRequest"
    numbers = extensions.all_extension_numbers_response
    assert numbers.base_type_name == "interaction_svc.v1.Interaction"
    assert not numbers.extension_number
    assert {response.error_response.error_code for response in unknown} == {5}


async def test_reflection_shows_nothing_that_is_not_served(channel: grpc.aio.Channel) -> None:
    private = page_token_pb2.DESCRIPTOR
    (message,) = private.message_types_by_name.values()
    responses = await reflected(
        channel,
        "v1",
        Asked(file_by_filename=private.name),
        Asked(file_containing_symbol=message.full_name),
    )
    assert [response.error_response.error_code for response in responses] == [5, 5]
