"""The table of operations agrees with the protos."""

from interaction_svc.domain.principals import Permission
from interaction_svc.transports import operations
from interaction_svc.transports.operations import Kind
from interaction_svc.transports.rpc.methods import INGEST_SERVICE, INTERACTION_SERVICE

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for service in (INTERACTION_SERVICE, INGEST_SERVICE)
    for method in service.methods
}


def test_each_method_of_the_protos_has_an_operation_of_its_kind() -> None:
    found = {operation.rpc: operation.kind for operation in operations.API}
    assert found.keys() == METHODS.keys()
    for rpc, method in METHODS.items():
        sides = (method.client_streaming, method.server_streaming)
        assert (found[rpc].streams_requests, found[rpc].streams_responses) == sides


def test_only_methods_without_side_effects_are_read_only() -> None:
    for operation in operations.API:
        is_read = METHODS[operation.rpc].GetOptions().idempotency_level == 1  # NO_SIDE_EFFECTS
        assert operation.changes_nothing == is_read == (operation.permission is Permission.READ)


def test_only_requests_without_streams_have_the_deadline() -> None:
    limited = [operation for operation in operations.API if not operation.has_deadline]
    assert limited == [operations.RECORD_STREAM]
    assert operations.RECORD_STREAM.kind is Kind.STREAM_UNARY


def test_no_two_operations_share_a_name_or_a_route() -> None:
    routes = [operation.route for operation in operations.HTTP]
    assert len({route and route.name for route in routes}) == len(routes)
    assert len({route and (route.method, route.path) for route in routes}) == len(routes)
    assert len(operations.RPCS) == len(operations.API + operations.HEALTH + operations.REFLECTION)
