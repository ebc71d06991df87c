"""`keys create`, `keys list` and `keys revoke`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from interaction_svc.app.api_keys import NewKey, create_key, revoke_key
from interaction_svc.cli.options import JsonOption, takes_settings
from interaction_svc.cli.streams import OutputError, console_for_tables, finish_output, print_json
from interaction_svc.domain.errors import InvalidField, ServiceError
from interaction_svc.domain.principals import Role
from interaction_svc.runtime.settings import Settings
from interaction_svc.store import ApiKey, Store, StoreError
from interaction_svc.store.factory import open_store

T = TypeVar("T")

keys = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, list and revoke the keys of callers.\n\nThe store keeps their hashes."
    " Running servers on the same store notice changes within seconds. Once there has been a key,"
    " every caller needs one.",
)


@takes_settings("store")
def create(
    settings: Settings,
    role: Annotated[
        list[Role],
        typer.Option(
            help="Its role; several times for several roles. read: get and list; operate: also"
            " delete; ingest: record; admin: everything, in all accounts, with no other role.",
        ),
    ],
    account: Annotated[
        str | None,
        typer.Option(
            metavar="AC...",
            help="The account whose Interactions it reaches. An admin key needs none; with one,"
            " callers may send the account's SID in place of the key's.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Make a key, and print its SID and its secret.

    The secret is printed only now, and stored nowhere. If it can't be printed, no key is made.
    """
    shown: list[NewKey] = []

    def show(made: NewKey) -> None:
        try:
            if json:
                print_json({**_shown(made.key), "secret": made.secret})
            else:
                typer.echo(f"sid     {made.key.sid}\nsecret  {made.secret}")
            finish_output()
        except OutputError as error:
            raise OutputError(f"{error}; no key was made") from error
        except BrokenPipeError as error:
            raise OutputError("nobody reads standard output; no key was made") from error
        shown.append(made)

    async def create_in(store: Store) -> None:
        await create_key(store, account, *role, show=show)

    try:
        _with_store(settings, create_in, make=True)
    except InvalidField as error:
        raise typer.BadParameter(error.problem, param_hint=f"--{error.field}") from error
    except (ServiceError, StoreError):
        for made in shown:  # a database may have stored it before the connection was lost
            typer.echo(
                f"interaction-svc: storing the key {made.key.sid} failed:"
                " it is valid only if keys list prints it",
                err=True,
            )
        raise


@takes_settings("store")
def list_(
    settings: Settings,
    json: JsonOption = None,
) -> None:
    """Print all keys, the oldest first, revoked ones included."""

    async def keys_of(store: Store) -> list[ApiKey]:
        return await store.keys()

    found = [_shown(key) for key in _with_store(settings, keys_of)]
    if json if json is not None else not sys.stdout.isatty():
        for key in found:
            print_json(key)
        return
    headings = ("sid", "role", "account_sid", "created", "revoked")
    table = Table(*headings, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for key in found:
        table.add_row(*(key[heading] or "-" for heading in headings))
    console_for_tables().print(table)


@takes_settings("store")
def revoke(
    settings: Settings,
    sid: Annotated[str, typer.Argument(metavar="SK...", help="The key.")],
) -> None:
    """Revoke a key for good. Running servers refuse it within seconds."""

    async def revoke_in(store: Store) -> ApiKey | None:
        return await revoke_key(store, sid)

    try:
        key = _with_store(settings, revoke_in)
    except InvalidField as error:
        raise typer.BadParameter(error.problem, param_hint="SK...") from error
    if key is None:
        raise typer.BadParameter(f"there is no key {sid}", param_hint="SK...")
    typer.echo(f"{key.sid} is revoked")


def _with_store(
    settings: Settings, work: Callable[[Store], Awaitable[T]], *, make: bool = False
) -> T:
    async def with_store() -> T:
        store = await open_store(settings.store, migrate=make)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(with_store())


def _shown(key: ApiKey) -> dict[str, str | None]:
    return {
        "sid": key.sid,
        "role": key.role,
        "account_sid": key.account_sid,
        "created": _time(key.created_us),
        "revoked": _time(key.revoked_us),
    }


def _time(us: int | None) -> str | None:
    if us is None:
        return None
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    keys.command()(create)
    keys.command("list")(list_)
    keys.command()(revoke)
    app.add_typer(keys, name="keys")
