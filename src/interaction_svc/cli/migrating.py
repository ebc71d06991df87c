"""`migrate`."""

import asyncio
from typing import Annotated

import typer

from interaction_svc.cli.options import takes_settings
from interaction_svc.settings import Settings
from interaction_svc.store import check_store, distribute_store, open_store


@takes_settings("store")
def migrate(
    settings: Settings,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Change nothing: say whether the schema is up to date and every row's key columns"
            " are those of its Interaction; exit status 1 if not.",
        ),
    ] = False,
    distribute: Annotated[
        bool,
        typer.Option(
            "--distribute",
            help="Then distribute the tables over the nodes of Citus, by Session. Once done it"
            " changes nothing.",
        ),
    ] = False,
) -> None:
    """Bring the store's schema up to date.

    serve and import do so by themselves. A schema of a later version than this program's is
    refused and left alone.
    """
    if check and distribute:
        raise typer.BadParameter(
            "--check changes nothing: use one of --check and --distribute",
            param_hint="--distribute",
        )
    if distribute:
        tables = asyncio.run(distribute_store(settings.store))
        typer.echo(f"distributed: {', '.join(tables) or 'all tables are already'}")
    elif not check:
        asyncio.run(_migrate(settings.store))
    report = asyncio.run(check_store(settings.store))
    typer.echo(f"schema {report.schema_version} of {report.known_version}")
    if report.is_current:
        typer.echo(f"{report.rows:,} rows checked, {report.bad_rows:,} bad")
        for session_sid, account_sid, sid in report.some_bad:
            typer.echo(f"bad: session {session_sid}, account {account_sid}, interaction {sid}")
    if not report.ok:
        raise typer.Exit(1)


async def _migrate(url: str) -> None:
    store = await open_store(url)
    await store.close()


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(migrate)
