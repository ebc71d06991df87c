"""The settings: from flags, then the environment, then a TOML file, then defaults.

The environment has them as INTERACTION_SVC_ and their name in capitals; the file under their name.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from interaction_svc.addresses import Address, without_password
from interaction_svc.store import DEFAULT_URL, StoreURLError, check_url

ENV_PREFIX = "INTERACTION_SVC_"
DEFAULT_FILE = Path("interaction-svc.toml")


class SettingsError(Exception):
    """A setting can't be used. The text names it and says what would be right."""


def _address(text: str) -> str:
    Address.parse(text)
    return text


def _store(url: str) -> str:
    try:
        check_url(url)
    except StoreURLError as error:
        raise ValueError(str(error)) from error
    return url


def _public_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise ValueError(
            f"{without_password(url)!r} is not a base URL;"
            " write http:// or https://, a host and perhaps a path"
        )
    return url.rstrip("/")


AddressText = Annotated[str, AfterValidator(_address)]


class Settings(BaseSettings):
    """All settings, checked."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    store: Annotated[str, AfterValidator(_store)] = Field(
        DEFAULT_URL, description="Where Interactions are kept: sqlite:///path/of/file.db"
    )
    grpc: bool = Field(True, description="Whether to serve gRPC.")
    grpc_address: AddressText = Field(
        "127.0.0.1:50051", description="The address that gRPC listens on; port 0 is any free one."
    )
    http: bool = Field(True, description="Whether to serve the REST API.")
    http_address: AddressText = Field(
        "127.0.0.1:8080", description="The address that HTTP listens on; port 0 is any free one."
    )
    public_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        None,
        description="What links in the REST API begin with, if it isn't the address it listens on.",
    )
    drain_seconds: float = Field(
        30, ge=0, le=3600, description="How long calls may take to finish once it is told to stop."
    )
    server: AddressText = Field(
        "127.0.0.1:50051", description="The gRPC server that get, list and delete call."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the sources in their order, the strongest first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def redacted(self) -> dict[str, Any]:
        """Give the settings for a log: a password in a URL is hidden."""
        return {
            name: without_password(value) if isinstance(value, str) else value
            for name, value in self.model_dump().items()
        }


def load_settings(file: Path | None = None, **flags: object) -> Settings:
    """Load the settings; flags that are None were not given. Raises SettingsError.

    Without a file, interaction-svc.toml of the working directory is read, if it is there.
    """
    if file is not None and not file.is_file():
        raise SettingsError(f"the settings file {file} is not a file that is there")

    class Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=file or DEFAULT_FILE)

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Loaded(**given)  # type: ignore[arg-type] # checked by the model
    except ValidationError as error:
        raise SettingsError("; ".join(_explained(problem) for problem in error.errors())) from error
    except ValueError as error:  # the file is not TOML
        raise SettingsError(f"the settings file {file or DEFAULT_FILE}: {error}") from error


def _explained(problem: Any) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; there are {', '.join(Settings.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else str(message)
