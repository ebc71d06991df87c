"""API keys for tests, created in the store of a server as the command line does.

A store is the path of a SQLite file, or a URL. Commas separate several roles: `ingest,read`.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from interaction_svc.app.api_keys import create_key, revoke_key
from interaction_svc.domain.principals import parse_roles
from interaction_svc.store import Store
from interaction_svc.store.factory import open_store

T = TypeVar("T")


class IssuedKey(NamedTuple):
    """An API key with its secret."""

    sid: str
    secret: str

    @property
    def basic(self) -> str:
        return basic(self.sid, self.secret)

    @property
    def bearer(self) -> str:
        return f"Bearer {self.sid}.{self.secret}"


def basic(user: str, secret: str = "secret") -> str:
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def _url(store: Path | str) -> str:
    return f"sqlite:///{store}" if isinstance(store, Path) else store


def new_key(store: Path | str, role: str, account_sid: str | None = None) -> IssuedKey:
    key, secret = _with_store(
        store, lambda opened: create_key(opened, account_sid, *parse_roles(role))
    )
    return IssuedKey(key.sid, secret)


def revoke(store: Path | str, key: IssuedKey) -> None:
    assert _with_store(store, lambda opened: revoke_key(opened, key.sid)) is not None


def _with_store(store: Path | str, work: Callable[[Store], Awaitable[T]]) -> T:
    async def with_store() -> T:
        opened = await open_store(_url(store))
        try:
            return await work(opened)
        finally:
            await opened.close()

    # In another thread, because this one may already run an event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, with_store()).result()
