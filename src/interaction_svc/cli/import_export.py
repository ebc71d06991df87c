"""`import` and `export`."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from json import dumps
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from interaction_svc.app.ingest import Ingest
from interaction_svc.cli.options import AccountOption, checked_sid, takes_settings
from interaction_svc.cli.streams import print_utf8_json, standard_input
from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.sids import Sid
from interaction_svc.runtime.settings import Settings
from interaction_svc.store.factory import open_store
from interaction_svc.transfer import ImportReport, KeyForm, Problem, export_lines, import_stream
from interaction_svc.transports.address import Address

_STDIN = "-"


@takes_settings("store")
def import_(
    settings: Settings,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Files to read; - is standard input."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files, and do not change the store.")
    ] = False,
) -> None:
    """Record Interactions from files of Twilio's JSON.

    A file has one resource, a list of them, list pages with their envelope, or JSON lines; its
    content decides which. Dumps of the vendor's Node and Python SDKs can be imported, too.
    Importing the same file again changes nothing.

    A bad record is reported with its place, property and reason; good ones are recorded. The exit
    status is 1 if there was a bad one. It may run beside a server on the same store.
    """
    for name in files:
        if name != _STDIN and (not Path(name).exists() or Path(name).is_dir()):
            raise typer.BadParameter(f"{name} is not a file", param_hint="FILE...")
        if name != _STDIN and not os.access(name, os.R_OK):
            raise typer.BadParameter(f"{name} may not be read", param_hint="FILE...")
    report = ImportReport()
    try:
        asyncio.run(_import(files, settings, report, dry_run=dry_run))
    finally:  # records stay after an error, so print their counts
        _describe_keys(report)
        _print_counts(report, dry_run=dry_run)
    if report.rejected:
        raise typer.Exit(1)


def _print_counts(report: ImportReport, *, dry_run: bool) -> None:
    if dry_run:
        counts = [f"{report.checked:,} good"]
    else:
        counts = [
            f"{report.outcomes[outcome]:,} {outcome.name.lower()}"
            for outcome in Outcome
            if outcome is not Outcome.OWNER_MISMATCH
        ]
    typer.echo(", ".join([*counts, f"{report.rejected:,} rejected"]))


def _describe_keys(report: ImportReport) -> None:
    """Print ignored keys, and the naming styles of keys if any differs from the vendor's JSON."""
    if report.key_forms.keys() - {KeyForm.SNAKE_CASE}:
        forms = ", ".join(f"{report.key_forms[form]:,} {form.value}" for form in KeyForm)
        typer.echo(f"keys: {forms}", err=True)
    if report.ignored_keys:
        names = [f"{dumps(key)} in {count:,}" for key, count in sorted(report.ignored_keys.items())]
        more = ["others"] if report.has_more_ignored_keys else []
        typer.echo(f"ignored keys: {', '.join([*names, *more])}", err=True)


async def _import(
    files: list[str], settings: Settings, report: ImportReport, *, dry_run: bool
) -> None:
    console = Console(stderr=True)
    async with AsyncExitStack() as cleanups:
        ingest = None
        if not dry_run:
            opened = await open_store(settings.store)
            cleanups.push_async_callback(opened.close)
            ingest = Ingest(opened)
        for name in files:

            def report_problem(problem: Problem, name: str = name) -> None:
                console.print(f"{name}: {problem}", markup=False, highlight=False, soft_wrap=True)

            try:
                with _opened(name, console) as stream:
                    await import_stream(stream, ingest, report, report_problem)
            except OSError as error:
                raise OSError(f"{name}: {error.strerror or error}") from error


def _opened(name: str, console: Console) -> AbstractContextManager[BinaryIO]:
    """Open a file. On a terminal, a progress bar shows how much of it was read."""
    if name == _STDIN:
        return standard_input()
    path = Path(name)
    if not (console.is_terminal and path.is_file()):  # the length of a pipe is unknown
        return path.open("rb")
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    return _Watched(progress, path)


class _Watched:
    """A file with a progress bar, which is shown while the file is open."""

    def __init__(self, progress: Progress, path: Path) -> None:
        self._progress = progress
        self._path = path

    def __enter__(self) -> BinaryIO:
        self._progress.start()
        self._file = self._progress.open(self._path, "rb", description=self._path.name)
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._progress.stop()


@takes_settings("store", "public_url")
def export(
    settings: Settings,
    service: Annotated[
        str | None, typer.Option(metavar="KS...", help="Only this Service's Interactions.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="KC...", help="Only this Session's; needs --service.")
    ] = None,
    account: AccountOption = None,
) -> None:
    """Write Interactions to standard output as JSON lines.

    They are ordered by Session, account, creation and SID. Times have microseconds, unlike those
    of REST, so that importing the lines makes equal Interactions. Deleted Interactions and their
    tombstones are not exported.
    """
    if session is not None and service is None:
        raise typer.BadParameter("needs --service", param_hint="--session")
    wanted = {
        name: None if value is None else checked_sid(kind, option, value)
        for name, kind, option, value in (
            ("service_sid", Sid.SERVICE, "service", service),
            ("session_sid", Sid.SESSION, "session", session),
            ("account_sid", Sid.ACCOUNT, "account", account),
        )
    }
    asyncio.run(_export(settings, wanted))


async def _export(settings: Settings, wanted: Mapping[str, str | None]) -> None:
    base_url = settings.public_url or Address.parse(settings.http_address).url(settings.http_scheme)
    opened = await open_store(settings.store, migrate=False)
    try:
        async for line in export_lines(opened, base_url, **wanted):
            print_utf8_json(line)
    finally:
        await opened.close()


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("import")(import_)
    app.command()(export)
