"""The configuration of h2corn: HTTP/2 only, with a limit on everything that a client can send."""

from pathlib import Path
from typing import NamedTuple

from h2corn import Config, RequestPolicy

from interaction_svc.domain.units import KIB, MIB
from interaction_svc.transports.rpc.limits import GrpcLimits

_STREAM_WINDOW_BYTES = 256 * KIB
_CONNECTION_WINDOW_BYTES = MIB
"""The most bytes of requests that a connection can hold before the application reads them."""
_FRAME_BYTES = 16 * KIB
_BLOCKS_A_LIST = 4
"""The size of an encoded header block, in sizes of its headers. A larger block ends the connection,
too large headers only their call.
"""
MAX_HEADER_FIELDS = 100
"""The most headers of a request."""
UNREAD_SECONDS = 30.0
"""A call ends, and with it a connection, whose client reads no bytes of a response for so long."""
_REFUSED_CALLS = 8192
"""The places for health checks, and for calls that wait until they are refused.

Above it h2corn refuses every call with the HTTP status 503, health checks too. A call takes a few
KiB until the event loop comes to it.
"""


class PemPaths(NamedTuple):
    """The paths of the TLS files."""

    certificate: Path
    key: Path
    client_ca: Path | None


def config_of(
    limits: GrpcLimits, descriptors: list[int], pem: PemPaths | None, *, max_connections: int
) -> Config:
    """Return the configuration of a server on sockets that listen already.

    The application limits the size and the time of a request's body, because h2corn's limits reset
    the call without a reason. With a client CA, clients need a certificate.
    """
    client_ca = None if pem is None else pem.client_ca
    return Config(
        bind=tuple(f"fd://{descriptor}" for descriptor in descriptors),
        certfile=None if pem is None else pem.certificate,
        keyfile=None if pem is None else pem.key,
        ca_certs=client_ca,
        cert_reqs="none" if client_ca is None else "required",
        # Over HTTP/1.1 it notices neither a client that is gone nor one that reads nothing.
        http1=False,
        grpc=True,
        lifespan="off",
        access_log=False,
        log_format="json",
        date_header=False,
        runtime_threads=1,  # a second one costs a call 20 %
        max_concurrent_streams=limits.max_streams_per_connection,
        limit_connections=max_connections,
        limit_concurrency=limits.max_calls + _REFUSED_CALLS,
        limit_request_fields=MAX_HEADER_FIELDS,
        h2_max_header_list_size=limits.max_header_bytes,
        h2_max_header_block_size=_BLOCKS_A_LIST * limits.max_header_bytes,
        h2_max_inbound_frame_size=_FRAME_BYTES,
        h2_initial_stream_window_size=_STREAM_WINDOW_BYTES,
        h2_initial_connection_window_size=_CONNECTION_WINDOW_BYTES,
        request_policies=(
            RequestPolicy(
                path="/*",
                max_request_body_size=0,
                timeout_request_body_idle=0,
                h2_timeout_response_stall=UNREAD_SECONDS,
            ),
        ),
        timeout_handshake=limits.header_timeout_seconds,
        timeout_request_header=limits.header_timeout_seconds,
        timeout_keep_alive=limits.connection_idle_seconds,
        timeout_graceful_shutdown=limits.drain_seconds,
        h2_timeout_response_stall=UNREAD_SECONDS,
        h2_timeout_write=UNREAD_SECONDS,
    )
