"""The floor of gRPC: an empty RPC with a fixed response, on grpc.aio and asyncio's loop.

`python -m bench.rivals.empty_grpc --answers FILE` serves the unary methods of InteractionService
and IngestService. The response to a request is the bytes that FILE has for the request's bytes.
"""

import argparse
import asyncio
from pathlib import Path

import grpc

from bench.rivals.answers import DEFAULT, read_answers
from bench.rivals.serving import new_grpc_server, serve_grpc

_METHODS = {
    "interaction_svc.v1.InteractionService": (
        "GetInteraction",
        "ListInteractions",
        "DeleteInteraction",
    ),
    "interaction_svc.v1.IngestService": ("RecordInteraction",),
}


async def _serve(answers: dict[bytes, bytes]) -> None:
    server, default = new_grpc_server(), answers.get(DEFAULT)

    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        found = answers.get(request, default)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no answer to this")
        return found

    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                service, {name: grpc.unary_unary_rpc_method_handler(answer) for name in names}
            )
            for service, names in _METHODS.items()
        ]
    )
    await serve_grpc(server)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=Path, required=True, help="see bench.rivals.answers")
    asyncio.run(_serve(read_answers(parser.parse_args().answers)))


if __name__ == "__main__":
    main()
