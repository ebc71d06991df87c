"""`get`, `list` and `delete`: calls to a running server over gRPC."""

import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import grpc
import typer
from rich.table import Table
from rich.text import Text

from interaction_svc.cli.options import AccountOption, JsonOption, takes_settings
from interaction_svc.cli.streams import console_for_tables, print_json
from interaction_svc.codec.twilio_json import Resource, to_json
from interaction_svc.codec.twilio_query import read_parameters
from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.paging import MAX_PAGE_SIZE
from interaction_svc.runtime.settings import CLIENT_SETTINGS, ENV_PREFIX, Settings, SettingsError
from interaction_svc.transports.address import Address
from interaction_svc.v1.interaction_pb2 import Interaction
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    GetInteractionRequest,
    ListInteractionsRequest,
)
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

_DEADLINE_SECONDS = 30
# No flag for the key: every user of the machine can read the flags of a process.
_CALLING = [name for name in CLIENT_SETTINGS if name != "api_key"]


def _check_utf8(text: str) -> str:
    if not text.isprintable():  # False also for bytes that are not UTF-8
        raise typer.BadParameter("is not printable UTF-8")
    return text


ServiceArgument = Annotated[
    str, typer.Argument(metavar="KS...", help="The Service.", callback=_check_utf8)
]
SessionArgument = Annotated[
    str, typer.Argument(metavar="KC...", help="The Session.", callback=_check_utf8)
]
InteractionArgument = Annotated[
    str, typer.Argument(metavar="KI...", help="The Interaction.", callback=_check_utf8)
]


class _Column(NamedTuple):
    heading: str
    property: str
    width: int | None
    from_width: int = 0
    """The minimum width of a terminal at which the column is shown, in characters."""


_COLUMNS = (
    _Column("sid", "sid", 34),
    _Column("created", "date_created", 20),
    _Column("type", "type", 7),
    _Column("inbound", "inbound_resource_status", 11, from_width=110),
    _Column("outbound", "outbound_resource_status", 11, from_width=110),
    _Column("data", "data", None),
)


@takes_settings(*_CALLING)
def get(
    settings: Settings,
    service: ServiceArgument,
    session: SessionArgument,
    sid: InteractionArgument,
    account: AccountOption = None,
) -> None:
    """Print one Interaction as JSON."""
    with _calling(settings) as stub:
        request = GetInteractionRequest(
            service_sid=service, session_sid=session, sid=sid, account_sid=account or ""
        )
        response = stub.GetInteraction(request, timeout=_DEADLINE_SECONDS)
    print_json(_resource(response.interaction), indented=True)


@takes_settings(*_CALLING)
def list_(
    settings: Settings,
    service: ServiceArgument,
    session: SessionArgument,
    account: AccountOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most this many. [default: all]")
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(metavar="asc|desc", help="Oldest first, or newest first. [default: asc]"),
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="message, voice or unknown.")
    ] = None,
    created_at_or_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Created at this time or later, as in 2026-01-31T12:00:00Z."
        ),
    ] = None,
    created_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Created before this time.")
    ] = None,
    participant: Annotated[
        str | None, typer.Option(metavar="KP...", help="Only with this participant.")
    ] = None,
    resource: Annotated[
        str | None, typer.Option(metavar="SID", help="Only with this Message or Call.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS", help="Only with this status on either leg, such as delivered."
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Print a Session's Interactions, following its pages."""
    conditions = {
        "AccountSid": ("--account", account),
        "Order": ("--order", order),
        "Type": ("--type", type_),
        "DateCreatedAtOrAfter": ("--created-at-or-after", created_at_or_after),
        "DateCreatedBefore": ("--created-before", created_before),
        "ParticipantSid": ("--participant", participant),
        "ResourceSid": ("--resource", resource),
        "ResourceStatus": ("--status", status),
    }
    given = [(name, value) for name, (_, value) in conditions.items() if value is not None]
    try:
        request = read_parameters(service, session, given).request
    except InvalidField as error:
        raise typer.BadParameter(error.problem, param_hint=conditions[error.field][0]) from error
    as_json = json if json is not None else not sys.stdout.isatty()
    with _calling(settings) as stub:
        pages = _pages(stub, request, limit)
        if as_json:
            for page in pages:
                for interaction in page:
                    print_json(_resource(interaction))
        else:
            _print_tables(pages)


@takes_settings(*_CALLING)
def delete(
    settings: Settings,
    service: ServiceArgument,
    session: SessionArgument,
    sid: InteractionArgument,
    account: AccountOption = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Succeed if there is no such Interaction.")
    ] = False,
) -> None:
    """Delete one Interaction for good.

    Recording it again doesn't bring it back.
    """
    with _calling(settings) as stub:
        request = DeleteInteractionRequest(
            service_sid=service,
            session_sid=session,
            sid=sid,
            account_sid=account or "",
            allow_missing=allow_missing,
        )
        stub.DeleteInteraction(request, timeout=_DEADLINE_SECONDS)


@contextmanager
def _calling(settings: Settings) -> Iterator[InteractionServiceStub]:
    """Yield a stub. If a call fails, print its status and exit with status 1."""
    try:
        with _channel(settings) as channel:
            yield InteractionServiceStub(channel)
    except grpc.RpcError as error:
        call: grpc.Call = error  # type: ignore[assignment] # every RpcError of a channel is a Call
        hint = ""
        if call.code() is grpc.StatusCode.UNAUTHENTICATED:
            hint = f"; set {ENV_PREFIX}API_KEY to a key of that server, as SK...:secret"
        message = _printable(call.details() or "")  # a server's text is not trusted
        typer.echo(
            f"interaction-svc: {settings.server}: {call.code().name}: {message}{hint}", err=True
        )
        raise typer.Exit(1) from error


def _channel(settings: Settings) -> grpc.Channel:
    # The proxy of http_proxy can't reach this machine's loopback.
    options = [("grpc.enable_http_proxy", 0)] if Address.parse(settings.server).is_loopback else []
    channel = (
        grpc.secure_channel(settings.server, _channel_credentials(settings), options)
        if settings.server_tls
        else grpc.insecure_channel(settings.server, options)
    )
    if settings.api_key is None:
        return channel
    return grpc.intercept_channel(channel, _Authorization(settings.api_key.get_secret_value()))


def _channel_credentials(settings: Settings) -> grpc.ChannelCredentials:
    if (settings.client_certificate is None) != (settings.client_key is None):
        raise SettingsError("client_certificate and client_key go together")

    def content(name: str) -> bytes | None:
        file: Path | None = getattr(settings, name)
        try:
            return None if file is None else file.read_bytes()
        except OSError as error:
            raise SettingsError(f"{name}: {file} can't be read: {error.strerror}") from error

    return grpc.ssl_channel_credentials(
        content("server_ca"), content("client_key"), content("client_certificate")
    )


class _Authorization(grpc.UnaryUnaryClientInterceptor):
    """Adds the key to every call."""

    def __init__(self, key: str) -> None:
        self._header = ("authorization", f"Basic {b64encode(key.encode()).decode()}")

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Make the call."""
        metadata = [*(details.metadata or ()), self._header]
        return continuation(details._replace(metadata=metadata), request)


def _pages(
    stub: InteractionServiceStub, request: ListInteractionsRequest, limit: int | None
) -> Iterator[Sequence[Interaction]]:
    left = limit
    while left is None or left > 0:
        request.page_size = MAX_PAGE_SIZE if left is None else min(left, MAX_PAGE_SIZE)
        page = stub.ListInteractions(request, timeout=_DEADLINE_SECONDS)
        yield page.interactions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
        left = None if left is None else left - len(page.interactions)


def _resource(interaction: Interaction) -> Resource:
    """Return the vendor's JSON object without `url`, because the REST address is not known here."""
    resource = to_json(interaction, "", fraction=True)
    del resource["url"]
    return resource


def _print_tables(pages: Iterable[Sequence[Interaction]]) -> None:
    """Print each page as it arrives, with a heading above the first.

    SIDs and times are never truncated. A narrow terminal shows no statuses.
    """
    console = console_for_tables()
    columns = [column for column in _COLUMNS if console.width >= column.from_width]
    for number, page in enumerate(pages):
        table = Table(box=None, show_header=number == 0, pad_edge=False, expand=True)
        for column in columns:
            ratio = None if column.width else 1  # the data has the remaining width
            table.add_column(
                column.heading, width=column.width, ratio=ratio, no_wrap=True, overflow="ellipsis"
            )
        for interaction in page:
            resource = to_json(interaction, "")
            texts = (resource[column.property] or "-" for column in columns)
            table.add_row(*(Text(_printable(text), overflow="ellipsis") for text in texts))
        console.print(table)


def _printable(text: str) -> str:
    """Replace control characters, which a terminal could take for commands."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(get)
    app.command("list")(list_)
    app.command()(delete)
