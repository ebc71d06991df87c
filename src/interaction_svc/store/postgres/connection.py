"""A connection to PostgreSQL with a time limit on every round trip."""

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

    If a statement gets no answer within its time limit, the connection is terminated. asyncpg's own
    timeout would send a cancel request to the unresponsive server (asyncpg #1326). For the same
    reason calls of asyncpg must not be cancelled; Pool ensures that. The methods raise asyncpg's
    errors and OSError.
    """

    def __init__(self, raw: asyncpg.Connection, seconds: float) -> None:
        self._raw = raw
        self._seconds = seconds
        self._timed_out = False

    @classmethod
    async def open(cls, dsn: Dsn, seconds: float) -> "Connection":
        """Connect with this time limit for statements; see `connect`. Raises NotConnectedError."""
        return cls(await connect(dsn, seconds), seconds)

    @property
    def is_closed(self) -> bool:
        """Return whether the connection is closed."""
        return self._raw.is_closed()

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        """Run a statement, and return its rows. Each statement text is prepared once."""
        return await self._bounded(self._raw.fetch(statement, *values))

    async def fetch_each(self, statement: str, values: Iterable[Sequence[object]]) -> list[Any]:
        """Run a statement for each tuple of values in one round trip, and return all rows."""
        return await self._bounded(self._raw.fetchmany(statement, values))

    async def execute(self, statement: str, *values: object) -> str:
        """Run a statement, and return its command tag, such as `DELETE 1`."""
        return await self._bounded(self._raw.execute(statement, *values))

    async def execute_each(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        """Run a statement for each tuple of values in one round trip."""
        await self._bounded(self._raw.executemany(statement, values))

    async def copy_in(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
    ) -> None:
        """Add rows by COPY. All of it fails if one of the rows already exists."""
        await self._bounded(self._raw.copy_records_to_table(table, records=rows, columns=columns))

    async def in_transaction(self, work: "Callable[[Connection], Awaitable[T]]") -> T:
        """Run work in a transaction, which is rolled back if the work raises."""
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
        """Drop the connection at once, without notifying the server."""
        self._raw.terminate()

    async def close(self) -> None:
        """Close the connection; drop it after one second without an answer."""
        with suppress(*FAILURES):
            await self._raw.close(timeout=_CLOSE_SECONDS)
