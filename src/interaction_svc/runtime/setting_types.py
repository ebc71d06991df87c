"""Validators of single settings. The texts of their ValueErrors are written for users."""

import re
from pathlib import Path

from pydantic import SecretStr

from interaction_svc.domain.sids import Sid
from interaction_svc.store import StoreURLError
from interaction_svc.store.factory import check_url
from interaction_svc.telemetry.redaction import redact_url
from interaction_svc.transports.address import Address

_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?"
).fullmatch
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def check_address(text: str) -> str:
    """Return `text`. Raises ValueError unless it is `host:port`."""
    Address.parse(text)
    return text


def check_store_url(url: str) -> str:
    """Return the URL of a store, stripped of white space. Raises ValueError."""
    try:
        check_url(url)
    except StoreURLError as error:
        raise ValueError(str(error)) from error
    return url.strip()


def check_database_url(url: str) -> str:
    """Return the URL of a database, stripped of white space. Raises ValueError."""
    url = check_store_url(url)
    if not is_database(url):
        raise ValueError(
            f"{redact_url(url)!r} is not the URL of a database;"
            " write postgresql://user@host:5432/database"
        )
    return url


def is_database(url: str) -> bool:
    """Return whether the URL of a store is that of a database, not of a file."""
    return not isinstance(check_url(url), Path)


def check_public_url(url: str) -> str:
    """Return a base URL without a slash at its end. Raises ValueError."""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise ValueError(
            f"{redact_url(url)!r} is not a base URL;"
            " write http:// or https://, a host and perhaps a path"
        )
    return url.rstrip("/")


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return `origins`. Raises ValueError unless all have the form that browsers send."""
    for origin in origins:
        match = _ORIGIN(origin)
        if match is None or match["port"] == _DEFAULT_PORTS[match["scheme"]]:
            raise ValueError(
                f"{redact_url(origin)!r} is not an origin as browsers write it; write https://"
                " or http://, a host in lower case (no wildcards), and a port unless it is the"
                " scheme's own, with no path and no slash at the end"
            )
    return origins


def split_list(given: object) -> object:
    """Return the parts of a text, split at commas; return other values unchanged."""
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return given


def split_mapping(given: object) -> object:
    """Return the mapping of a text `NAME=VALUE,...`; return other values unchanged.

    Raises ValueError if a part of the text has no `=`.
    """
    parts = split_list(given)
    if not isinstance(parts, list):
        return given
    pairs = [str(part).partition("=") for part in parts]
    if not all(found for _, found, _ in pairs):
        raise ValueError("write KS…=DAYS, and a comma between several")
    return {name.strip(): days.strip() for name, _, days in pairs}


def check_services(given: dict[str, int]) -> dict[str, int]:
    """Return `given`. Raises ValueError unless all its keys are SIDs of Services."""
    for sid in given:
        if not Sid.SERVICE.matches(sid):
            raise ValueError(f"{sid!r} is not the SID of a Service, KS and 32 hexadecimal digits")
    return given


def check_api_key(key: SecretStr) -> SecretStr:
    """Return `key`. Raises ValueError unless it is a key's SID, a colon and a secret."""
    sid, _, secret = key.get_secret_value().partition(":")
    if not (Sid.API_KEY.matches(sid) and secret):
        raise ValueError("write the key's SID, a colon and its secret, as in SK…:secret")
    return key
