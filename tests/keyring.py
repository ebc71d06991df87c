"""Keys for tests, made as an operator makes them: with the command line, on the server's store."""

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


def new_key(store: Path, role: str, account_sid: str | None = None) -> Key:
    account = () if account_sid is None else ("--account", account_sid)
    made = run(
        "keys", "create", "--store", f"sqlite:///{store}", "--role", role, *account, "--json"
    )
    assert made.returncode == 0, made.stderr
    shown = json.loads(made.stdout)
    return Key(shown["sid"], shown["secret"])


def revoke(store: Path, key: Key) -> None:
    revoked = run("keys", "revoke", key.sid, "--store", f"sqlite:///{store}")
    assert revoked.returncode == 0, revoked.stderr
