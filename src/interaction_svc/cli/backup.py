"""`backup`."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from interaction_svc.cli.options import takes_settings
from interaction_svc.runtime.settings import Settings
from interaction_svc.store.factory import backup_store


@takes_settings("store")
def backup(
    settings: Settings,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to create; it must not exist yet.")
    ],
) -> None:
    """Copy the store into a file, also while a server is using it.

    The copy is a consistent snapshot, with every write that was acknowledged before the backup
    began. To restore it, serve it: interaction-svc serve --store sqlite:///FILE. It contains
    people's messages, and still has them after they are deleted from the store.
    """
    # SIGTERM raises SystemExit, so that a partial copy is removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(file.name, total=None)
        replaced = backup_store(
            settings.store,
            file,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if replaced:
        typer.echo(f"{file}.part, left by a backup that was killed, was replaced", err=True)
    typer.echo(f"{file}: {file.stat().st_size:,} bytes")


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(backup)
