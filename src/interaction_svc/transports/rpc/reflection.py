"""Server reflection, v1 and v1alpha, for the served services and the details of their errors.

The library lacks two features that are added here: v1, which has the same messages as v1alpha, and
finding methods and enum values by their full names.
"""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from interaction_svc.transports.operations import REFLECTION, Operation
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.rpc.requests import parse_request
from interaction_svc.v1 import error_reason_pb2, ingest_service_pb2, interaction_service_pb2

V1 = "grpc.reflection.v1.ServerReflection"
_FILES = (
    interaction_service_pb2.DESCRIPTOR,
    ingest_service_pb2.DESCRIPTOR,
    error_reason_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)


def reflection_methods(services: tuple[str, ...]) -> dict[Operation, Method]:
    """Return the methods of both versions. They list `services`, health, and themselves."""
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME, V1)
    servicer = _Servicer(names, _pool())
    asked, answered = (
        reflection_pb2.ServerReflectionRequest,
        reflection_pb2.ServerReflectionResponse,
    )

    async def info(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        parsed = (parse_request(asked, request) async for request in requests)
        async for response in servicer.ServerReflectionInfo(parsed, None):
            yield response.SerializeToString()

    return dict.fromkeys(REFLECTION, Method(info, asked, answered))


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[misc] # it has no types
    """The library's servicer, which also finds methods and the values of enums."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        parent, _, name = fully_qualified_name.rpartition(".")
        for find, members in (
            (self._pool.FindServiceByName, "methods_by_name"),
            (self._pool.FindEnumTypeByName, "values_by_name"),
        ):
            try:
                found = find(parent)
            except KeyError:
                continue
            if name in getattr(found, members):
                return super()._file_containing_symbol(request, parent)
        return super()._file_containing_symbol(request, fully_qualified_name)


def _pool() -> DescriptorPool:
    """Return a pool with only the descriptors of the served services and their messages."""
    pool = DescriptorPool()
    added: set[str] = set()
    for file in _FILES:
        _add(pool, file, added)
    pool.AddSerializedFile(_v1().SerializeToString())
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    if file.name not in added:
        added.add(file.name)
        for dependency in file.dependencies:
            _add(pool, dependency, added)
        pool.AddSerializedFile(file.serialized_pb)


def _v1() -> FileDescriptorProto:
    """Return the file descriptor of v1: that of v1alpha in another package."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    earlier, file.package = f".{file.package}.", V1.rpartition(".")[0]
    file.name = "grpc/reflection/v1/reflection.proto"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:  # set if the type is a message
                field.type_name = field.type_name.replace(earlier, f".{file.package}.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(earlier, f".{file.package}.")
            method.output_type = method.output_type.replace(earlier, f".{file.package}.")
    return file
