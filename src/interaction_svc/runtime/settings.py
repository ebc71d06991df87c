"""The settings: from flags, then the environment, then a TOML file, then defaults.

A variable of the environment is INTERACTION_SVC_ and the name of the setting in capitals. The file
has the name itself.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from interaction_svc.domain.errors import OperatorError
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.runtime.setting_types import (
    check_address,
    check_api_key,
    check_database_url,
    check_origins,
    check_public_url,
    check_services,
    check_store_url,
    is_database,
    split_list,
    split_mapping,
)
from interaction_svc.store import PostgresLimits, ReplicaStore
from interaction_svc.store.factory import DEFAULT_URL, shown_url
from interaction_svc.telemetry.redaction import redact_url

ENV_PREFIX = "INTERACTION_SVC_"
DEFAULT_FILE = Path("interaction-svc.toml")

CLIENT_SETTINGS = (
    "server", "server_tls", "server_ca", "api_key", "client_certificate", "client_key",
)  # fmt: skip
"""Settings of the commands that call a server; `serve` does not use them."""


class SettingsError(OperatorError):
    """A setting can't be used. The text names it and the right form."""


AddressText = Annotated[str, AfterValidator(check_address)]
Days = Annotated[int, Field(ge=0, le=36_500)]


class Settings(BaseSettings):
    """All settings. This class checks each alone. The code that uses a combination checks it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a store's URL has a password in it
    )

    store: Annotated[str, AfterValidator(check_store_url)] = Field(
        DEFAULT_URL,
        description="The URL of the store: sqlite:///path/of/file.db, or"
        " postgresql://user@host/database.",
    )
    postgres_connections: int = Field(
        PostgresLimits().connections,
        ge=1,
        le=1000,
        description="Maximum number of connections to PostgreSQL, without the health probe's.",
    )
    postgres_statement_seconds: float = Field(
        PostgresLimits().statement_seconds,
        ge=0.1,
        le=3600,
        description="Time limit of a PostgreSQL statement, and of the wait for a free connection.",
    )
    replica_store: Annotated[str, AfterValidator(check_database_url)] | None = Field(
        None, description="The URL of a PostgreSQL standby that serves Gets and Lists."
    )
    replica_wait_seconds: float = Field(
        ReplicaStore("").wait_seconds,
        ge=0,
        le=30,
        description="How long a read with a consistency token waits for the replica to catch up,"
        " before it goes to the primary.",
    )
    grpc: bool = Field(True, description="Whether to serve gRPC.")
    grpc_address: AddressText = Field(
        "127.0.0.1:50051",
        description="The address of the gRPC listener; port 0 selects a free port.",
    )
    grpc_engine: Literal["grpcio", "h2corn"] = Field(
        "grpcio",
        description="The HTTP/2 server of the gRPC listener; h2corn is an optional package.",
    )
    http: bool = Field(True, description="Whether to serve the REST API.")
    http_address: AddressText = Field(
        "127.0.0.1:8080",
        description="The address of the HTTP listener; port 0 selects a free port.",
    )
    public_url: Annotated[str, AfterValidator(check_public_url)] | None = Field(
        None,
        description="The base URL of links in REST responses, if it differs from the HTTP address.",
    )
    http_cors_origins: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(split_list), AfterValidator(check_origins)
    ] = Field(
        (), description="Web origins that may read responses in a browser; none: CORS is off."
    )
    metrics: bool = Field(True, description="Whether to serve metrics for Prometheus.")
    metrics_address: AddressText = Field(
        "127.0.0.1:9464",
        description="The address of the metrics listener, which has no TLS and needs no key.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of processes that share the ports; each has the limits for itself.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged; calls are info, health checks debug."
    )

    insecure: bool = Field(
        False,
        description="Allow addresses other than loopback without keys and without TLS.",
    )
    tls_certificate: Path | None = Field(
        None,
        description="The certificate chain of both listeners, PEM. It is reloaded when it changes.",
    )
    tls_key: Path | None = Field(None, description="The certificate's private key, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="Require gRPC client certificates that one of these CAs signed, PEM."
    )
    tls_client_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)] = Field(
        (),
        description="Subject names that client certificates may have; none: any name.",
    )

    max_message_bytes: int = Field(
        4 * MIB, ge=64 * KIB, le=64 * MIB, description="Largest message of an RPC that is accepted."
    )
    max_header_bytes: int = Field(
        16 * KIB, ge=KIB, le=MIB, description="Largest headers of a request that are accepted."
    )
    max_connections: int = Field(
        4096, ge=1, le=1_000_000, description="Maximum number of connections of each listener."
    )
    max_streams_per_connection: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Maximum number of concurrent calls on a gRPC connection.",
    )
    max_concurrent_calls: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Maximum number of concurrent calls, without health checks.",
    )
    max_waiting_calls: int = Field(
        512,
        ge=0,
        le=100_000,
        description="Maximum number of calls that wait until other calls end; 0: none waits.",
    )
    calls_per_second: int = Field(
        10_000,
        ge=0,
        le=1_000_000,
        description="Maximum number of calls a second of each account; 0: no limit.",
    )
    account_call_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="Share of max_concurrent_calls, and of max_waiting_calls, for one account.",
    )
    account_stream_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of max_concurrent_calls that the streams of one account may take.",
    )
    max_streams_per_key: int = Field(
        32, ge=1, le=1_000_000, description="Maximum number of concurrent gRPC streams of a key."
    )
    deadline_seconds: float = Field(
        30,
        gt=0,
        le=3600,
        description="Time limit of a call; a client's own deadline may be shorter.",
    )
    stream_idle_seconds: float = Field(
        60,
        gt=0,
        le=3600,
        description="A stream of requests ends after this time without a request.",
    )
    stream_seconds: float = Field(
        3600,
        gt=0,
        le=86_400,
        description="Time limit of a stream of requests, regardless of the client's deadline.",
    )
    header_timeout_seconds: float = Field(
        10,
        gt=0,
        le=3600,
        description="Time limit of a TLS handshake, and of receiving the headers of a request.",
    )
    keepalive_seconds: float = Field(
        60, ge=1, le=86_400, description="gRPC pings a silent client after this time."
    )
    connection_idle_seconds: float = Field(
        300, ge=1, le=86_400, description="A connection without calls is closed after this time."
    )
    connection_age_seconds: float = Field(
        3600,
        ge=0,
        le=86_400,
        description="A gRPC connection is asked to reconnect after this time; 0: never.",
    )
    drain_delay_seconds: float = Field(
        0,
        ge=0,
        le=600,
        description="How long it keeps serving, with health NOT_SERVING, after SIGTERM.",
    )
    drain_seconds: float = Field(
        30,
        ge=0,
        le=3600,
        description="How long calls may take to finish after the server stops accepting new ones.",
    )

    retain_days: Days = Field(
        0, description="Delete Interactions this many days after their creation; 0: keep them."
    )
    retain_days_by_service: Annotated[
        dict[str, Days], NoDecode, BeforeValidator(split_mapping), AfterValidator(check_services)
    ] = Field({}, description="Retention of single Services, in place of retain_days; 0: keep.")

    server: AddressText = Field(
        "127.0.0.1:50051", description="The gRPC server that get, list and delete call."
    )
    server_tls: bool = Field(False, description="Whether get, list and delete use TLS.")
    server_ca: Path | None = Field(
        None, description="The CAs to trust with TLS, PEM, in place of gRPC's own."
    )
    api_key: Annotated[SecretStr, AfterValidator(check_api_key)] | None = Field(
        None,
        description="The API key of get, list and delete, SK…:secret. Others could see a flag.",
    )
    client_certificate: Path | None = Field(
        None, description="The client certificate of get, list and delete, PEM."
    )
    client_key: Path | None = Field(
        None, description="The private key of the client certificate, PEM."
    )

    @model_validator(mode="before")
    @classmethod
    def _strip(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Cut white space at the ends of texts: files and secrets often end with a line break."""
        return {
            name: value.strip() if isinstance(value, str) else value
            for name, value in given.items()
        }

    def check_engine(self) -> None:
        """Raise SettingsError if a setting is given that the engine does not have."""
        if self.grpc_engine == "grpcio":
            return
        for name, what in (
            ("connection_age_seconds", "does not limit the age of connections"),
            ("keepalive_seconds", "sends no pings"),
        ):
            if name in self.model_fields_set:
                raise SettingsError(
                    f"{name}: the engine h2corn {what}; leave it out, or use grpc_engine grpcio"
                )

    @property
    def postgres_limits(self) -> PostgresLimits:
        """The limits of connections to a PostgreSQL store."""
        return PostgresLimits(self.postgres_connections, self.postgres_statement_seconds)

    @property
    def replica(self) -> ReplicaStore | None:
        """The replica to read from; None: there is none. Raises SettingsError."""
        if self.replica_store is None:
            return None
        if not is_database(self.store):
            raise SettingsError(
                "replica_store: only a postgresql:// store can have a replica, and store is"
                f" {redact_url(self.store)!r}"
            )
        return ReplicaStore(self.replica_store, self.replica_wait_seconds)

    @property
    def http_scheme(self) -> str:
        """`https` if HTTP is served with TLS, else `http`."""
        return "https" if self.tls_certificate else "http"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in the order of precedence."""
        if isinstance(env_settings, EnvSettingsSource):  # a blank variable counts as not given
            env_settings.env_vars = {
                name: value
                for name, value in env_settings.env_vars.items()
                if (value or "").strip()
            }
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def redacted(self) -> dict[str, Any]:
        """Return the settings for a log, without secrets and without passwords in URLs."""
        shown = self.model_dump(mode="json")
        for name in ("store", "replica_store"):
            if shown[name] is not None:
                shown[name] = shown_url(shown[name])
        return shown


def load_settings(file: Path | None = None, **flags: object) -> Settings:
    """Load the settings; flags that are None were not given. Raises SettingsError.

    If `file` is None, interaction-svc.toml in the working directory is read, if it exists.
    """
    if file is not None:
        file = Path(str(file).strip())
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
