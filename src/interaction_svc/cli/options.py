"""Command-line options generated from the settings, with their descriptions and defaults.

An option that is not given is None. Its value then comes from the environment or the file.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.sids import Sid, canonical_sid
from interaction_svc.domain.validation import check_sid
from interaction_svc.runtime.settings import ENV_PREFIX, Settings, load_settings

_METAVARS = {
    "store": "URL",
    "replica_store": "URL",
    "public_url": "URL",
    "http_cors_origins": "ORIGIN,...",
    "tls_client_names": "NAME,...",
    "log_level": "LEVEL",
    "retain_days": "DAYS",
    "retain_days_by_service": "KS...=DAYS,...",
}
_SECONDS = "SECONDS"

JsonOption = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        help="JSON lines, or a table. [default: a table on a terminal, else JSON lines]",
        show_default=False,
    ),
]


AccountOption = Annotated[
    str | None,
    typer.Option(
        "--account", metavar="AC...", help="Only this account's. [default: every account's]"
    ),
]


def checked_sid(kind: Sid, option: str, value: str) -> str:
    """Return the canonical SID of an option. Raises typer.BadParameter."""
    try:
        check_sid(kind, option, value)
    except InvalidField as error:
        raise typer.BadParameter(error.problem, param_hint=f"--{option}") from error
    return canonical_sid(value)


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the options of these settings, and `--config`, to a command.

    The command gets the loaded settings as its first argument. Calling it raises SettingsError.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]
        hints = get_type_hints(command, include_extras=True)
        options = {name: _option(name) for name in names} | {"config": _CONFIG}

        @wraps(command)
        def with_settings(**given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            command(load_settings(given.pop("config"), **flags), **given)

        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in options.items()
        ]
        kept = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        # typer reads the options of a command from its signature and annotations.
        with_settings.__signature__ = inspect.Signature([*kept, *made])  # type: ignore[attr-defined]
        with_settings.__annotations__ = {
            **{parameter.name: hints[parameter.name] for parameter in own},
            **options,
        }
        return with_settings

    return decorate


def _option(name: str) -> Any:
    field = Settings.model_fields[name]
    kind = field.annotation
    flag = f"--{name.replace('_', '-')}"
    default = "" if field.default in (None, (), {}) else f"; default: {_default(field.default)}"
    metavar = _METAVARS.get(name)
    if kind is bool:
        kind, flag = bool, f"{flag}/--no-{name.replace('_', '-')}"
    elif name.endswith("_address") or name == "server":
        kind, metavar = str, "HOST:PORT"
    elif name.endswith("_seconds"):
        kind, metavar = float, _SECONDS
    elif kind is int:
        metavar = metavar or "N"
    elif Path in (kind, *get_args(kind)):
        kind, metavar = Path, "FILE"
    else:
        kind = str
    return Annotated[
        kind | None,
        typer.Option(
            flag,
            metavar=metavar,
            help=f"{field.description} [env: {ENV_PREFIX}{name.upper()}{default}]",
            show_default=False,
        ),
    ]


def _default(value: object) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", envvar=f"{ENV_PREFIX}CONFIG", help="A TOML file with settings."
    ),
]
