"""`purge` and `erase`."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from interaction_svc.app.bulk_delete import bulk_delete
from interaction_svc.app.retention import retention_criteria
from interaction_svc.cli.options import AccountOption, checked_sid, takes_settings
from interaction_svc.domain.sids import Sid
from interaction_svc.domain.timestamps import now_us
from interaction_svc.runtime.settings import Settings, SettingsError
from interaction_svc.store import Expired, InvolvesParticipant, Store
from interaction_svc.store.factory import open_store

ERASE_TRACES_SECONDS = 10.0
"""The maximum wait for other processes that still read deleted content."""
_RETRY_SECONDS = 0.2

_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Delete nothing, but print what would be deleted.")
]


@takes_settings("store", "retain_days", "retain_days_by_service")
def purge(settings: Settings, dry_run: _DryRun = False) -> None:
    """Delete Interactions that are older than the retention time.

    A server with the same settings does this once an hour. This command may run at the same time.
    """
    if not (settings.retain_days or any(settings.retain_days_by_service.values())):
        raise SettingsError(
            "retain_days: everything is kept for ever; give --retain-days DAYS,"
            " or --retain-days-by-service KS...=DAYS"
        )
    at_us = now_us()
    expired = retention_criteria(at_us, settings.retain_days, settings.retain_days_by_service)
    asyncio.run(_delete(settings.store, expired, at_us, dry_run=dry_run))


@takes_settings("store")
def erase(
    settings: Settings,
    participant: Annotated[
        str, typer.Option(metavar="KP...", help="The participant, on either leg.")
    ],
    account: AccountOption = None,
    dry_run: _DryRun = False,
) -> None:
    """Delete every Interaction in which a participant took part.

    A server may use the store at the same time. It may miss Interactions that are recorded while
    it runs: run it again when no more of them are recorded.
    """
    criteria = InvolvesParticipant(
        checked_sid(Sid.PARTICIPANT, "participant", participant),
        None if account is None else checked_sid(Sid.ACCOUNT, "account", account),
    )
    asyncio.run(_delete(settings.store, criteria, now_us(), dry_run=dry_run))


async def _delete(
    url: str, criteria: Expired | InvolvesParticipant, at_us: int, *, dry_run: bool
) -> None:
    console = Console(stderr=True)
    store = await open_store(url, migrate=False)
    try:
        with console.status("0 so far") as status:

            def show(so_far: int) -> None:
                status.update(f"{so_far:,} so far")

            counts = await bulk_delete(
                store, criteria, now_us=at_us, dry_run=dry_run, on_progress=show
            )
        done = "would be deleted" if dry_run else "deleted"
        for service_sid, count in sorted(counts.items()):
            typer.echo(f"{service_sid}: {count:,} {done}")
        typer.echo(f"{sum(counts.values()):,} Interactions {done}")
        if not (dry_run or await _traces_are_erased(store)):
            typer.echo(
                "interaction-svc: another process is reading the store, and keeps what was deleted"
                " in its write-ahead log; run this again once that has ended",
                err=True,
            )
            raise typer.Exit(1)
    finally:
        await store.close()


async def _traces_are_erased(store: Store) -> bool:
    try:
        async with asyncio.timeout(ERASE_TRACES_SECONDS):
            while True:
                if await store.erase_traces():
                    return True
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        return False


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(purge)
    app.command()(erase)
