"""The listeners of both gRPC engines, for servers that a test builds in its own process."""

from collections.abc import Collection, Mapping

from interaction_svc.transports.address import Address
from interaction_svc.transports.connect.app import RpcApp
from interaction_svc.transports.grpcio.server import GrpcServer
from interaction_svc.transports.h2corn.server import H2cornServer
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rpc.limits import GrpcLimits
from interaction_svc.transports.rpc.method import Method
from testing.pipelines import GRPC_LIMITS, STREAM_TIMES

LOOPBACK = Address("127.0.0.1", 0)


def grpc_listener(
    engine: str,
    methods: Mapping[Operation, Method],
    pipeline: Pipeline,
    *,
    times: StreamTimes = STREAM_TIMES,
    limits: GrpcLimits = GRPC_LIMITS,
    allowed_names: Collection[str] = (),
) -> GrpcServer | H2cornServer:
    """Return a listener of the engine on a free port of loopback."""
    if engine == "grpcio":
        return GrpcServer(methods, pipeline, times, LOOPBACK, limits, allowed_names=allowed_names)
    app = RpcApp(
        methods,
        pipeline,
        times,
        max_message_bytes=limits.max_message_bytes,
        allowed_names=allowed_names,
    )
    return H2cornServer(app, LOOPBACK, limits)
