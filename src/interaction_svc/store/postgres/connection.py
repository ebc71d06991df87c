"""A connection to PostgreSQL whose every round trip is bounded in time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from interaction_svc.store.postgres.connect import connect
from interaction_svc.store.postgres.dsn import Dsn
from interaction_svc.store.postgres.errors import FAILURES, StatementTimeoutError

_CLOSE_SECONDS = 1.0
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

T = TypeVar("T")


class Connection:
    """One connection, for one task at a time.

    What isn't answered in time ends it: terminated, for asyncpg's own way is to ask a server that
    doesn't answer to cancel (asyncpg #1326). Its calls must not be cancelled, for the same reason;
    Pool sees to that. They raise asyncpg's errors and OSError.
    """

    def __init__(self, raw: asyncpg.Connection, seconds: float) -> None:
        self._raw = raw
        self._seconds = seconds
        self._timed_out = False

    @classmethod
    async def open(cls, dsn: Dsn, seconds: float) -> "Connection":
        """Connect to the first server that will do. Raises NotConnectedError."""
        return cls(await connect(dsn, seconds), seconds)

    @property
    def is_closed(self) -> bool:
        """Return whether it is of no use any more."""
        return self._raw.is_closed()

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        """Return the rows of a statement, which is prepared once."""
        return await self._bounded(self._raw.fetch(statement, *values))

    async def fetch_each(self, statement: str, values: Iterable[Sequence[object]]) -> list[Any]:
        """Return the rows of a statement that is run for each of these values: one round trip."""
        return await self._bounded(self._raw.fetchmany(statement, values))

    async def execute(self, statement: str, *values: object) -> str:
        """Run a statement, and give its tag."""
        return await self._bounded(self._raw.execute(statement, *values))

    async def execute_each(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        """Run a statement for each of these values: one round trip."""
        await self._bounded(self._raw.executemany(statement, values))

    async def copy_in(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
    ) -> None:
        """Add rows by COPY, which fails as a whole if one of them is there."""
        await self._bounded(self._raw.copy_records_to_table(table, records=rows, columns=columns))

    async def in_transaction(self, work: "Callable[[Connection], Awaitable[T]]") -> T:
        """Run work in a transaction: whole, or if it raises, not at all."""
        await self.execute(_BEGIN)
        try:
            result = await work(self)
            await self.execute("COMMIT")
        except BaseException:
            await self._roll_back()
            raise
        return result

    async def _roll_back(self) -> None:
        if self.is_closed:
            return
        try:
            await self.execute("ROLLBACK")
        except FAILURES:
            self.terminate()

    async def _bounded(self, answer: Awaitable[T]) -> T:
        timer = asyncio.get_running_loop().call_later(self._seconds, self._time_out)
        try:
            return await answer
        except FAILURES as error:
            if self._timed_out:
                raise StatementTimeoutError("a statement wasn't answered in time") from error
            raise
        finally:
            timer.cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self.terminate()

    def terminate(self) -> None:
        """Drop it, without a word to the server."""
        self._raw.terminate()

    async def close(self) -> None:
        """Close the connection, or abort it after one second."""
        with suppress(*FAILURES):
            await self._raw.close(timeout=_CLOSE_SECONDS)
