"""The plain Python rival: the service's reads in the usual style.

`python -m bench.rivals.plain_grpc --db FILE` uses grpc.aio with the generated servicer and
aiosqlite, and builds a message from each row, field by field. It has no credentials, metrics, logs,
filters or limits.
"""

import argparse
import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import aiosqlite
import grpc

from bench.rivals.copy_db import COLUMNS
from bench.rivals.serving import CACHE_KIB, new_grpc_server, serve_grpc
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1 import interaction_service_pb2 as service_pb
from interaction_svc.v1 import interaction_service_pb2_grpc as service_grpc

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1000
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM interactions WHERE session_sid = ? AND service_sid = ?"
_GET = f"{_SELECT} AND sid = ?"
_ORDER = "ORDER BY created_us, sid LIMIT ?"
_FIRST_PAGE = f"{_SELECT} {_ORDER}"
_NEXT_PAGE = f"{_SELECT} AND (created_us, sid) > (?, ?) {_ORDER}"

Context = grpc.aio.ServicerContext[Any, Any]


class Interactions(service_grpc.InteractionServiceServicer):
    """Get and List."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db

    async def GetInteraction(
        self, request: service_pb.GetInteractionRequest, context: Context
    ) -> service_pb.GetInteractionResponse:
        """Get one Interaction."""
        rows = await self._fetch(_GET, request.session_sid, request.service_sid, request.sid)
        if not rows:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such Interaction")
        return service_pb.GetInteractionResponse(interaction=_interaction(rows[0]))

    async def ListInteractions(
        self, request: service_pb.ListInteractionsRequest, context: Context
    ) -> service_pb.ListInteractionsResponse:
        """Get a page of a Session's Interactions."""
        if request.page_size < 0:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "page_size is negative")
        size = min(request.page_size, _MAX_PAGE_SIZE) or _DEFAULT_PAGE_SIZE
        session = request.session_sid, request.service_sid
        # One more row than the page has, to know whether there is a next page.
        if request.page_token:
            rows = await self._fetch(
                _NEXT_PAGE, *session, *await _position(request.page_token, context), size + 1
            )
        else:
            rows = await self._fetch(_FIRST_PAGE, *session, size + 1)
        response = service_pb.ListInteractionsResponse(
            interactions=[_interaction(row) for row in rows[:size]]
        )
        if len(rows) > size:
            last = rows[size - 1]
            response.next_page_token = _token(last["created_us"], last["sid"])
        return response

    async def DeleteInteraction(
        self, request: service_pb.DeleteInteractionRequest, context: Context
    ) -> service_pb.DeleteInteractionResponse:
        """Refuse, because only reads are compared."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server only reads")

    async def _fetch(self, statement: str, *values: str | int) -> list[Any]:
        async with self._db.execute(statement, values) as cursor:
            return list(await cursor.fetchall())


def _interaction(row: Any) -> pb.Interaction:
    made = pb.Interaction(
        sid=row["sid"],
        account_sid=row["account_sid"],
        service_sid=row["service_sid"],
        session_sid=row["session_sid"],
        type=row["type"],
        data=row["data"],
        inbound=_leg(row, "inbound"),
        outbound=_leg(row, "outbound"),
    )
    made.create_time.FromMicroseconds(row["created_us"])
    made.update_time.FromMicroseconds(row["updated_us"])
    return made


def _leg(row: Any, side: str) -> pb.Leg | None:
    leg = pb.Leg(
        participant_sid=row[f"{side}_participant_sid"],
        resource_sid=row[f"{side}_resource_sid"],
        resource_status=row[f"{side}_resource_status"],
        resource_type=row[f"{side}_resource_type"],
        resource_url=row[f"{side}_resource_url"],
    )
    return leg if leg.ByteSize() else None


def _token(created_us: int, sid: str) -> str:
    return urlsafe_b64encode(f"{created_us} {sid}".encode()).decode()


async def _position(token: str, context: Context) -> tuple[int, str]:
    try:
        created_us, _, sid = urlsafe_b64decode(token).decode().partition(" ")
        return int(created_us), sid
    except ValueError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "page_token is damaged")


async def _serve(path: Path) -> None:
    async with aiosqlite.connect(path) as db:
        db.row_factory = aiosqlite.Row
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        server = new_grpc_server()
        service_grpc.add_InteractionServiceServicer_to_server(Interactions(db), server)
        await serve_grpc(server)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="see bench.rivals.copy_db")
    asyncio.run(_serve(parser.parse_args().db))


if __name__ == "__main__":
    main()
