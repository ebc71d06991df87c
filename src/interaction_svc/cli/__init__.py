"""The command line, `interaction-svc`: a module for each command or group of commands."""

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

# grpc's core writes bytes of requests to standard error, line breaks included, so that strangers
# could forge log lines. It reads this variable when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from interaction_svc import __version__
from interaction_svc.cli import (
    backup,
    bulk_delete,
    copy,
    import_export,
    interactions,
    keys,
    migrate,
    serve,
)
from interaction_svc.cli.streams import (
    OutputError,
    abandon_output,
    discard_output_if_closed,
    finish_output,
    prepare_streams,
)
from interaction_svc.domain.errors import ServiceError
from interaction_svc.runtime.settings import SettingsError
from interaction_svc.store import StoreError
from interaction_svc.telemetry.logs import configure_logs

app = typer.Typer(
    name="interaction-svc",
    help="Serves the log of Twilio Proxy Interactions on your own machine, over gRPC and the"
    " vendor's REST API.\n\nEvery setting can be given as a flag, as INTERACTION_SVC_ and its name"
    " in the environment, or in a TOML file (--config FILE, INTERACTION_SVC_CONFIG, or"
    " interaction-svc.toml in the working directory). If several of these have a setting, the"
    " first one applies.",
    epilog="Begin with: interaction-svc import FILE, then interaction-svc serve",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (serve, keys, import_export, interactions, migrate, backup, copy, bulk_delete):
    module.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"interaction-svc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,  # works without a command
            help="Print the version and end.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand == "serve":  # it only prints its addresses there
        discard_output_if_closed()


def main() -> None:
    """Run the command line. The exit status is 1 after a failure, 2 after a wrong use."""
    prepare_streams()
    configure_logs()
    try:
        try:
            app()
        except SystemExit:
            finish_output()
            raise
    except SettingsError as error:
        _fail(str(error), 2)
    except StoreError as error:
        _fail(f"the store can't be used: {error}", 1)
    except ServiceError as error:
        cause = f": {error.__cause__}" if isinstance(error.__cause__, StoreError) else ""
        _fail(f"{error.message}{cause}", 1)
    except BrokenPipeError:  # the reader of a pipe has closed it
        _fail(None, 1)
    except (OutputError, OSError) as error:
        _fail(str(error), 1)


def _fail(message: str | None, status: int) -> None:
    with suppress(OutputError, BrokenPipeError):
        finish_output()
    if message is not None:
        typer.echo(f"interaction-svc: {message}", err=True)
    abandon_output()
    sys.exit(status)
