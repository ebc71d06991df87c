"""Listen addresses, and the errors of those that can't be used."""

import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import httpx
import pytest
from testing.build import Parents
from testing.process import run, served
from testing.requests import list_request

from interaction_svc.transports.address import Address
from interaction_svc.transports.sockets import addresses_of, cannot_listen
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

LISTENERS = ("gRPC", "HTTP", "metrics")
COUNTS = ("1", "2")


@pytest.fixture
def taken() -> Iterator[Address]:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        yield Address(*other.getsockname())


def failure(folder: Path, listener: str, address: str, count: str) -> str:
    """Serve on addresses of which one can't be used, and return the error message."""
    addresses = dict.fromkeys(LISTENERS, "127.0.0.1:0") | {listener: address}
    answer = run(
        "serve", "--insecure", "--workers", count,
        "--store", f"sqlite:///{folder}/interactions.db",
        "--grpc-address", addresses["gRPC"], "--http-address", addresses["HTTP"],
        "--metrics-address", addresses["metrics"],
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stdout == b""
    return answer.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("listener", LISTENERS)
def test_a_port_in_use_is_reported(
    tmp_path: Path, taken: Address, listener: str, count: str
) -> None:
    assert failure(tmp_path, listener, str(taken), count) == (
        f"interaction-svc: can't listen for {listener} on {taken}: the port is in use;"
        f" stop what listens there, or choose another with --{listener.lower()}-address"
    )


@pytest.mark.parametrize(("listener", "count"), [("gRPC", "1"), ("HTTP", "2"), ("metrics", "1")])
def test_an_unresolvable_name_is_reported(tmp_path: Path, listener: str, count: str) -> None:
    assert failure(tmp_path, listener, "nowhere.invalid:8080", count) == (
        f"interaction-svc: can't listen for {listener} on nowhere.invalid:8080:"
        " the name 'nowhere.invalid' can't be resolved;"
        f" choose another with --{listener.lower()}-address"
    )


def test_an_address_of_another_machine_fails_with_its_address(tmp_path: Path) -> None:
    assert failure(tmp_path, "gRPC", "192.0.2.1:0", "1") == (
        "interaction-svc: can't listen for gRPC on 192.0.2.1:0: it is no address of this"
        " machine; choose another with --grpc-address"
    )


def test_a_privileged_port_fails_with_its_address() -> None:
    refused = PermissionError(errno.EACCES, "Permission denied")
    assert str(cannot_listen("HTTP", Address("127.0.0.1", 80), refused)) == (
        "can't listen for HTTP on 127.0.0.1:80: the port is kept for privileged processes; grant"
        " the capability CAP_NET_BIND_SERVICE, or choose another with --http-address"
    )


@pytest.mark.parametrize("count", COUNTS)
async def test_localhost_is_served_on_both_families(
    tmp_path: Path, parents: Parents, count: str
) -> None:
    somewhere = "localhost:0"
    flags = ("--grpc-address", somewhere, "--http-address", somewhere)
    with served(tmp_path, *flags, "--metrics-address", somewhere, "--workers", count) as server:
        host, _, port = server.grpc_address.rpartition(":")
        assert host == "localhost"
        here = addresses_of(Address(host, int(port)))
        assert Address("127.0.0.1", int(port)) in here
        assert (Address("::1", int(port)) in here) == has_ipv6()
        for address in here:
            async with grpc.aio.insecure_channel(str(address)) as channel:
                await InteractionServiceStub(channel).ListInteractions(list_request(parents))
            async with httpx.AsyncClient(trust_env=False) as http:
                for url, path in ((server.base_url, "/readyz"), (server.metrics_url, "")):
                    assert url.startswith("http://localhost:")
                    there = url.replace("localhost", str(address._replace(port=0))[:-2])
                    assert (await http.get(f"{there}{path}")).status_code == 200


def has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_localhost_fails_with_the_address_whose_port_is_in_use(
    tmp_path: Path, taken: Address
) -> None:
    message = failure(tmp_path, "HTTP", f"localhost:{taken.port}", "1")
    assert f"can't listen for HTTP on {taken}: the port is in use" in message


async def test_connections_of_both_families_count_together(tmp_path: Path) -> None:
    # The timeout is so long that silent connections stay open during the test.
    limits = ("--max-connections", "2", "--header-timeout-seconds", "600")
    with served(tmp_path, "--http-address", "localhost:0", *limits) as server:
        port = int(server.base_url.rpartition(":")[2])
        hosts = [address.host for address in addresses_of(Address("localhost", port))]
        with closing(socket.create_connection((hosts[0], port))) as first:
            first.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert first.recv(9) == b"HTTP/1.1 "
            with closing(socket.create_connection((hosts[-1], port))) as second:
                second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert second.recv(9) == b"HTTP/1.1 "
                with closing(socket.create_connection((hosts[0], port), timeout=20)) as third:
                    assert third.recv(1) == b""
