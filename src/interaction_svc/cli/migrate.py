"""`migrate`."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from interaction_svc.cli.options import takes_settings
from interaction_svc.runtime.settings import Settings
from interaction_svc.store.factory import check_store, distribute_store, open_store


@takes_settings("store")
def migrate(
    settings: Settings,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Change nothing, but check that the schema is up to date and every row's columns"
            " are those of its Interaction; exit status 1 if not.",
        ),
    ] = False,
    distribute: Annotated[
        bool,
        typer.Option(
            "--distribute",
            help="Then distribute the tables over the nodes of Citus, by Session. Does nothing if"
            " they are distributed.",
        ),
    ] = False,
) -> None:
    """Bring the store's schema up to date.

    serve and import do this by themselves. A store of an earlier layout is rewritten, which needs
    disk: --check prints how much. It may be interrupted and run again. A schema of a later version
    than this program's is refused and not changed.
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
    if report.migration_bytes:
        typer.echo(f"the migration needs {report.migration_bytes:,} bytes of disk while it runs")
    if report.is_current:
        typer.echo(f"{report.rows:,} rows checked, {report.bad_rows:,} bad")
        for session_sid, account_sid, sid in report.some_bad:
            typer.echo(f"bad: session {session_sid}, account {account_sid}, interaction {sid}")
    if not report.ok:
        raise typer.Exit(1)


async def _migrate(url: str) -> None:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done, total=total)

        store = await open_store(url, on_migration=show)
        await store.close()


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(migrate)
