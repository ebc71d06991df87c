"""`copy`."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from interaction_svc.store import PostgresLimits
from interaction_svc.store.factory import check_url, name_of, open_store
from interaction_svc.store.tables import TABLES, Table
from interaction_svc.transfer.copier import ForeignDataError, NamedStore, StoreCopier, Verified

_POSTGRES = PostgresLimits(statement_seconds=600)  # counting a large table takes minutes


def copy(
    from_: Annotated[str, typer.Option("--from", metavar="URL", help="The store to copy.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URL",
            help="The store to copy it into: an empty one, or the target of an earlier copy."
            " A file is created; a database must exist.",
        ),
    ],
    verify_only: Annotated[
        bool,
        typer.Option(
            "--verify-only", help="Copy nothing, but compare both; exit status 1 if they differ."
        ),
    ] = False,
) -> None:
    """Copy a store into another one: a file, a database, or from one to the other.

    Everything is copied unchanged: Interactions, tombstones of deleted ones, owners of Sessions,
    and keys, also revoked ones. Then both stores are compared; the exit status is 1 if they differ.

    Run it again to continue a copy that was interrupted, or to update one that was made while a
    server used the source; only differences are written. Nothing may write to either store during
    the last run. Put a password into PGPASSWORD or a password file, not into the URL.
    """
    if _are_the_same(from_, to):
        raise typer.BadParameter("is the store to copy from", param_hint="--to")
    if not asyncio.run(_copy(from_, to, verify_only=verify_only)):
        typer.echo(
            "interaction-svc: the stores differ: end what writes to them, and run"
            " interaction-svc copy again",
            err=True,
        )
        raise typer.Exit(1)


def _are_the_same(one: str, other: str) -> bool:
    here, there = check_url(one), check_url(other)
    if isinstance(here, Path) and isinstance(there, Path) and here.exists() and there.exists():
        return here.samefile(there)
    return here == there


async def _copy(from_: str, to: str, *, verify_only: bool) -> bool:
    async with AsyncExitStack() as cleanups:
        # Open the source first, so that no new file is created if the source can't be read.
        places = []
        for url, migrate in ((from_, False), (to, not verify_only)):
            store = await open_store(url, migrate=migrate, postgres=_POSTGRES)
            cleanups.push_async_callback(store.close)
            places.append(NamedStore(name_of(url), store))
        source, target = places
        shown = cleanups.enter_context(_ProgressBars())
        if shown.is_shown:
            shown.totals = {table: await source.store.count(table) for table in TABLES}
        copier = StoreCopier(source, target, shown.watch)
        copied = None if verify_only else await _copy_tables(copier)
        verified = [await copier.verify(table) for table in TABLES]
    for one in verified:
        done = "" if copied is None else f"{copied[one.table]:,} copied, "
        typer.echo(f"{one.table.name}: {done}{_describe(one, source.name, target.name)}")
    return all(one.ok for one in verified)


async def _copy_tables(copier: StoreCopier) -> dict[Table, int]:
    try:
        await copier.check_target()
    except ForeignDataError as error:
        typer.echo(f"interaction-svc: {error}", err=True)
        raise typer.Exit(1) from error
    return {table: await copier.copy(table) for table in TABLES}


def _describe(verified: Verified, source: str, target: str) -> str:
    if verified.ok:
        return f"{verified.source.count:,} in both, SHA-256 {verified.source.checksum}"
    return (
        f"{verified.source.count:,} in {source}, {verified.target.count:,} in {target}; they differ"
        f" first at {', '.join(verified.first_difference or ())}"
    )


class _ProgressBars(Progress):
    """Progress bars on a terminal, one for each activity with each table."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.is_shown = console.is_terminal
        self.totals: dict[Table, int] = {}
        self._bars: dict[tuple[str, Table], TaskID] = {}

    def watch(self, activity: str, table: Table, done: int) -> None:
        """Show the number of source rows processed; the callback of StoreCopier."""
        if (activity, table) not in self._bars:
            total = self.totals.get(table)
            self._bars[activity, table] = self.add_task(f"{activity} {table.name}", total=total)
        self.update(self._bars[activity, table], completed=done)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(copy)
