"""The accept loop: it survives any call, and the parts of grpc that it uses exist."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc
from testing import http2

from interaction_svc.transports.grpcio import accept_loop
from interaction_svc.transports.grpcio.accept_loop import AcceptingServer

METHOD = "/Test/Echo"


@asynccontextmanager
async def accepting(names: list[str]) -> AsyncIterator[tuple[AcceptingServer, str]]:
    """Serve METHOD. `names` gets the name of each method that is looked up."""

    async def echo(request: bytes, _: object) -> bytes:
        return request

    make: Any = grpc.unary_unary_rpc_method_handler

    def find(details: grpc.HandlerCallDetails) -> Any:
        names.append(details.method)
        return make(echo) if details.method == METHOD else None

    server = AcceptingServer({METHOD}, find, [("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def echo(channel: grpc.aio.Channel) -> bytes:
    call: Any = channel.unary_unary(METHOD)
    response: bytes = await call(b"request", timeout=20)
    return response


async def test_methods_are_known_by_their_names_and_others_are_nameless() -> None:
    names: list[str] = []
    async with accepting(names) as (_, address), grpc.aio.insecure_channel(address) as channel:
        assert await echo(channel) == b"request"
        other: Any = channel.unary_unary("/Test/Other")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await other(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert names == [METHOD, ""]


async def test_a_path_that_is_not_utf_8_gets_a_response() -> None:
    async with accepting([]) as (_, address), grpc.aio.insecure_channel(address) as channel:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        headers = http2.call_headers(b"/\xff")
        writer.write(http2.greeting() + http2.call(1, headers, http2.message(b"")))
        received = b""
        async with asyncio.timeout(20):
            while b"grpc-status" not in received:
                received += await reader.read(65536)
        writer.close()
        assert await echo(channel) == b"request"


async def test_after_an_error_in_the_loop_requests_for_calls_keep_their_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # grpc's core writes the next call into the memory of the request for it.
    async with accepting([]) as (server, address), grpc.aio.insecure_channel(address) as channel:
        assert await echo(channel) == b"request"
        waiting = [task for task in asyncio.all_tasks() if _name(task) == "AioServer._request_call"]
        assert len(waiting) == 1

        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(cygrpc, "_handle_rpc", fail)
        call: Any = channel.unary_unary(METHOD)
        unanswered = asyncio.create_task(call(b"", timeout=20).code())
        (loop,) = [task for task in asyncio.all_tasks() if _name(task) == _LOOP]
        await asyncio.wait([loop], timeout=20)
        assert isinstance(loop.exception(), RuntimeError)
        assert not waiting[0].cancelled()
        await server.stop(None)
        async with asyncio.timeout(20):
            await asyncio.wait(waiting)
        assert isinstance(waiting[0].exception(), cygrpc._RequestCallError)
        del loop
        unanswered.cancel()
        gc.collect()


_LOOP = "AioServer._server_main_loop"


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "")


def test_grpc_prints_no_exceptions(capfd: pytest.CaptureFixture[str]) -> None:
    assert accept_loop
    try:
        raise ValueError("bytes of a request")
    except ValueError:
        cygrpc.traceback.print_exc()
    assert capfd.readouterr() == ("", "")
    assert "print_exc" in vars(sys.modules["traceback"])
