"""The options of grpc's core for the limits of the listener."""

from interaction_svc.transports.rpc.limits import GrpcLimits

_KEEPALIVE_TIMEOUT_SECONDS = 20
_CLIENT_PING_SECONDS = 10
_AGE_GRACE_SECONDS = 60
_WAITING_CALLS = 512
_MAX_WAITING_CALLS = 1024
"""The most calls that may wait in grpc's queue for Python.

Above _WAITING_CALLS grpc refuses calls at random, with CANCELLED. Refusing a call in Python costs
as much as serving it, so that under overload only this queue can refuse calls cheaply. With its
default length, which is three times as long, calls would wait for seconds (docs/overload.md). Calls
of the health service have their own queue.
"""


def channel_options(limits: GrpcLimits, *, reuse_port: bool) -> list[tuple[str, int]]:
    """Return the options of grpc's core for these limits."""
    options = [
        # By default it is on, and a second server could bind the same port without an error and
        # get part of the calls. Only the workers of one supervisor share a port.
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        # Between these two sizes grpc refuses requests at random, so both are the same.
        ("grpc.max_metadata_size", limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
        ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
        # It counts calls that have ended until Python frees them, and refuses calls of clients that
        # keep to the limit. The queue of waiting calls bounds what a client can open and reset.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server.max_pending_requests", _WAITING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_WAITING_CALLS),
        ("grpc.server_handshake_timeout_ms", _ms(limits.header_timeout_seconds)),
        ("grpc.max_connection_idle_ms", _ms(limits.connection_idle_seconds)),
        ("grpc.keepalive_time_ms", _ms(limits.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _ms(_KEEPALIVE_TIMEOUT_SECONDS)),
        # The minimum time between two pings of a client, with or without calls.
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(_CLIENT_PING_SECONDS)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if limits.connection_age_seconds:
        options += [
            ("grpc.max_connection_age_ms", _ms(limits.connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", _ms(_AGE_GRACE_SECONDS)),
        ]
    return options


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
