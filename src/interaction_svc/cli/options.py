"""Options that several commands share; what they say comes from the settings themselves."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interaction_svc.settings import ENV_PREFIX, Settings


def setting(name: str, flag: str = "", metavar: str | None = None) -> Any:
    """Make the option of a setting, with its description, environment variable and default.

    The option's own default is None, "not given", so that the environment and the file count.
    """
    field = Settings.model_fields[name]
    default = "" if field.default is None else f"; default: {field.default}"
    return typer.Option(
        flag or f"--{name.replace('_', '-')}",
        metavar=metavar,
        help=f"{field.description} [env: {ENV_PREFIX}{name.upper()}{default}]",
        show_default=False,
    )


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", envvar=f"{ENV_PREFIX}CONFIG", help="A TOML file with settings."
    ),
]
StoreOption = Annotated[str | None, setting("store", metavar="URL")]
ServerOption = Annotated[str | None, setting("server", metavar="HOST:PORT")]
