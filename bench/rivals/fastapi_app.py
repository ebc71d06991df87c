"""The service's REST reads on FastAPI, SQLAlchemy and pydantic, tuned as their docs advise.

`python -m bench.rivals.fastapi_app --db FILE` accepts the user and the password `rival`, and has no
metrics, logs, filters or limits. It has response models, so that pydantic writes the JSON.
Statements are built once, and select columns rather than entities.
"""

import argparse
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    bindparam,
    create_engine,
    event,
    select,
    tuple_,
)

from bench.rivals.copy_db import RESOURCE_COLUMNS
from bench.rivals.serving import CACHE_KIB, serve_http

USER = PASSWORD = "rival"  # noqa: S105
_BASE_URL = "http://127.0.0.1:8080"
_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1000


class Interaction(BaseModel):
    """The vendor's resource."""

    sid: str
    session_sid: str
    service_sid: str
    account_sid: str
    data: str | None
    type: str
    inbound_participant_sid: str | None
    inbound_resource_sid: str | None
    inbound_resource_status: str | None
    inbound_resource_type: str | None
    inbound_resource_url: str | None
    outbound_participant_sid: str | None
    outbound_resource_sid: str | None
    outbound_resource_status: str | None
    outbound_resource_type: str | None
    outbound_resource_url: str | None
    date_created: str
    date_updated: str
    url: str


class Meta(BaseModel):
    """The vendor's description of a page."""

    page: int
    page_size: int
    first_page_url: str
    previous_page_url: str | None
    url: str
    next_page_url: str | None
    key: str


class InteractionPage(BaseModel):
    """The vendor's envelope."""

    interactions: list[Interaction]
    meta: Meta


_resources = Table(
    "resources",
    MetaData(),
    *(Column(name, Integer if name == "created_us" else String) for name in RESOURCE_COLUMNS),
)
_c = _resources.c
_NAMES = (*RESOURCE_COLUMNS, "url")
# Statements are built once, because building one costs more than running it.
_SELECT = select(
    _resources,
    f"{_BASE_URL}/v1/Services/"
    + _c.service_sid
    + "/Sessions/"
    + _c.session_sid
    + "/Interactions/"
    + _c.sid,
).where(_c.session_sid == bindparam("session_sid"), _c.service_sid == bindparam("service_sid"))
_GET = _SELECT.where(_c.sid == bindparam("sid"))
_FIRST_PAGE = _SELECT.order_by(_c.created_us, _c.sid).limit(bindparam("limit"))
_NEXT_PAGE = _FIRST_PAGE.where(
    tuple_(_c.created_us, _c.sid) > tuple_(bindparam("after_us"), bindparam("after_sid"))
)


def _engine(path: Path) -> Engine:
    # There are no writes, so that no read needs a rollback.
    engine = create_engine(
        f"sqlite:///{path}", isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    return engine


_basic = HTTPBasic()


async def _authenticated(given: Annotated[HTTPBasicCredentials, Depends(_basic)]) -> None:
    # Both are always compared, as FastAPI's docs advise, so that the time reveals nothing.
    is_user = secrets.compare_digest(given.username.encode(), USER.encode())
    is_password = secrets.compare_digest(given.password.encode(), PASSWORD.encode())
    if not (is_user and is_password):
        raise HTTPException(401, "Authenticate", {"WWW-Authenticate": "Basic"})


def _app(engine: Engine) -> FastAPI:
    app = FastAPI(dependencies=[Depends(_authenticated)])
    path = "/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"

    def fetch(statement: Select[Any], values: Mapping[str, object]) -> list[dict[str, Any]]:
        with engine.connect() as connection:
            rows = connection.execute(statement, values)
            # This is 25 % faster than rows.mappings() and than models from the rows' attributes.
            return [dict(zip(_NAMES, row, strict=True)) for row in rows]

    @app.get(path, response_model=InteractionPage)
    def of_session(
        service_sid: str,
        session_sid: str,
        page_size: Annotated[int, Query(alias="PageSize", ge=1)] = _DEFAULT_PAGE_SIZE,
        page: Annotated[int, Query(alias="Page", ge=0)] = 0,
        token: Annotated[str, Query(alias="PageToken")] = "",
    ) -> Any:
        """Get a page of a Session's Interactions."""
        page_size = min(page_size, _MAX_PAGE_SIZE)
        # One more row than the page has, to know whether there is a next page.
        values = {"service_sid": service_sid, "session_sid": session_sid, "limit": page_size + 1}
        if token:
            after_us, after_sid = _position(token)
            found = fetch(_NEXT_PAGE, {**values, "after_us": after_us, "after_sid": after_sid})
        else:
            found = fetch(_FIRST_PAGE, values)
        next_token = ""
        if len(found) > page_size:
            del found[page_size:]
            next_token = _token(found[-1]["created_us"], found[-1]["sid"])
        url = f"{_BASE_URL}/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"
        return {
            "interactions": found,
            "meta": {
                "page": page,
                "page_size": page_size,
                "first_page_url": _link(url, page_size, 0, ""),
                "previous_page_url": None,
                "url": _link(url, page_size, page, token),
                "next_page_url": (
                    _link(url, page_size, page + 1, next_token) if next_token else None
                ),
                "key": "interactions",
            },
        }

    @app.get(f"{path}/{{sid}}", response_model=Interaction)
    def of_interaction(service_sid: str, session_sid: str, sid: str) -> Any:
        """Get one Interaction."""
        found = fetch(_GET, {"service_sid": service_sid, "session_sid": session_sid, "sid": sid})
        if not found:
            raise HTTPException(404, "The requested resource was not found")
        return found[0]

    return app


def _link(url: str, page_size: int, page: int, token: str) -> str:
    query: dict[str, object] = {"PageSize": page_size, "Page": page}
    if token:
        query["PageToken"] = token
    return f"{url}?{urlencode(query)}"


def _token(created_us: int, sid: str) -> str:
    return urlsafe_b64encode(f"{created_us} {sid}".encode()).decode().rstrip("=")


def _position(token: str) -> tuple[int, str]:
    try:
        text = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        created_us, _, sid = text.partition(" ")
        return int(created_us), sid
    except ValueError as error:
        raise HTTPException(400, "PageToken is damaged") from error


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="see bench.rivals.copy_db")
    serve_http(_app(_engine(parser.parse_args().db)))


if __name__ == "__main__":
    main()
