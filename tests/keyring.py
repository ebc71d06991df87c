"""Keys for tests, made as an operator makes them: with the command line, on the server's store.

A path is that of a file of SQLite, a text the URL of a store.
"""

import base64
import json
from pathlib import Path
from typing import NamedTuple

from tests.serving import run


class Key(NamedTuple):
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


def new_key(store: Path | str, role: str, account_sid: str | None = None) -> Key:
    account = () if account_sid is None else ("--account", account_sid)
    made = run("keys", "create", "--store", _url(store), "--role", role, *account, "--json")
    assert made.returncode == 0, made.stderr
    shown = json.loads(made.stdout)
    return Key(shown["sid"], shown["secret"])


def revoke(store: Path | str, key: Key) -> None:
    revoked = run("keys", "revoke", key.sid, "--store", _url(store))
    assert revoked.returncode == 0, revoked.stderr
