"""Test the guide's client configuration: clients distribute calls and leave a draining server."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

import grpc
from testing.build import Parents
from testing.process import Served, served
from testing.requests import list_request
from testing.wait import wait_until

from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.deploy.manifests import GUIDE


def service_config() -> str:
    """Return the service config of the guide."""
    blocks = GUIDE.read_text().split("```")[1::2]
    (block,) = (text.removeprefix("json\n") for text in blocks if text.startswith("json\n"))
    return json.dumps(json.loads(block))


def calls(server: Served) -> int:
    """Return the number of Lists that a server has answered."""
    lines = (json.loads(line) for line in server.log.read_text().splitlines())
    return Counter(line.get("code") for line in lines if line["event"] == "call")["OK"]


async def test_calls_reach_both_servers_and_leave_one_that_drains(
    tmp_path: Path, parents: Parents
) -> None:
    for name in ("going", "staying"):
        (tmp_path / name).mkdir()
    store = ("--store", f"sqlite:///{tmp_path}/interactions.db")
    # The server drains until the second signal.
    drain = ("--drain-delay-seconds", "600")
    with (
        served(tmp_path / "staying", *store) as staying,
        served(tmp_path / "going", *store, *drain, status=128 + signal.SIGTERM) as going,
    ):
        target = f"ipv4:{going.grpc_address},{staying.grpc_address}"
        options = [("grpc.service_config", service_config())]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            stub = InteractionServiceStub(channel)

            made = 0

            async def call() -> tuple[int, int]:
                """Make 20 calls; return the total of each server once all calls are logged."""
                nonlocal made
                for _ in range(20):
                    await stub.ListInteractions(list_request(parents), timeout=20)
                    made += 1
                await asyncio.to_thread(wait_until, lambda: calls(going) + calls(staying) == made)
                return calls(going), calls(staying)

            async with asyncio.timeout(60):
                while not all(await call()):
                    pass
                going.terminate()
                had, _ = await call()
                while (now := (await call())[0]) != had:
                    had = now
            assert going.process.poll() is None, "it still served: nobody was refused"
            going.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(going.exit_status) == 128 + signal.SIGTERM
            await call()
