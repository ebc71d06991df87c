"""`serve`."""

import asyncio
import os
from typing import Annotated, Any

import structlog
import typer

from interaction_svc.cli.examples import print_examples
from interaction_svc.cli.options import takes_settings
from interaction_svc.runtime import event_loop, process_tuning
from interaction_svc.runtime.server import Server, log_settings, wait_for_signal
from interaction_svc.runtime.settings import CLIENT_SETTINGS, Settings, SettingsError
from interaction_svc.runtime.workers.supervisor import Supervisor
from interaction_svc.store.factory import open_store, store_warnings
from interaction_svc.telemetry.library_logs import log_stray_errors
from interaction_svc.telemetry.logs import configure_logs

log = structlog.get_logger()


@takes_settings(*(name for name in Settings.model_fields if name not in CLIENT_SETTINGS))
def serve(
    settings: Settings,
    examples: Annotated[
        bool,
        typer.Option("--examples", help="Print example calls for a Session of the store."),
    ] = False,
) -> None:
    """Serve gRPC and REST.

    At SIGTERM or Ctrl-C it waits for running calls, up to --drain-seconds, and stops. A second
    signal ends it at once.

    On loopback addresses callers need no keys until the first one is made (interaction-svc keys
    create). On other addresses it requires keys and TLS, or --insecure.

    It prints the addresses with their real ports on standard output, and logs on standard error.
    """
    if not (settings.grpc or settings.http):
        raise SettingsError("with neither gRPC nor HTTP there is nothing to serve")
    configure_logs(settings.log_level)
    log_stray_errors()
    process_tuning.allow_open_files()
    log_settings(settings)
    if os.environ.get("GRPC_VERBOSITY", "NONE").upper() != "NONE":
        log.warning("GRPC_VERBOSITY is set: grpc writes bytes of requests to the log, keys too")
    for warning in store_warnings(settings.store):
        log.warning(warning)
    event_loop.run(_serve(settings, examples=examples))


async def _serve(settings: Settings, *, examples: bool) -> None:
    serving: Server | Supervisor
    if settings.workers == 1:
        serving = Server(settings)
        told = asyncio.create_task(wait_for_signal())
    else:
        serving = Supervisor(settings)
        told = asyncio.create_task(wait_for_signal(serving.end_at_once))
    async with serving as server:
        if isinstance(serving, Server):  # each worker tunes its own process
            process_tuning.apply()
        if server.grpc_address is not None:
            typer.echo(f"gRPC on {server.grpc_address}")
        if server.http_address is not None:
            typer.echo(f"REST on {server.http_address.url(settings.http_scheme)}")
        if server.metrics_address is not None:
            typer.echo(f"metrics on {server.metrics_address.url()}/metrics")
        if examples:
            await _print_examples(server, settings)
        ends: list[asyncio.Future[Any]] = [told, server.ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not told.done():
        raise OSError(serving.ended.result())


async def _print_examples(server: Server | Supervisor, settings: Settings) -> None:
    store = await open_store(settings.store, migrate=False)
    try:
        await print_examples(store, settings, server.grpc_address, server.http_address)
    finally:
        await store.close()


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
