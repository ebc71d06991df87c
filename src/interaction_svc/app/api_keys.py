"""Creation and revocation of API keys."""

import secrets
from collections.abc import Callable
from typing import NamedTuple

from interaction_svc.app.credentials import hash_secret, new_secret
from interaction_svc.app.store_calls import store_call
from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.principals import Role, format_roles
from interaction_svc.domain.sids import Sid, canonical_sid
from interaction_svc.domain.timestamps import now_us
from interaction_svc.domain.validation import check_sid
from interaction_svc.store import ApiKey, Store
from interaction_svc.telemetry.logs import audit


class NewKey(NamedTuple):
    """A new key and its secret. The store keeps only a hash of the secret."""

    key: ApiKey
    secret: str


async def create_key(
    store: Store,
    account_sid: str | None,
    role: Role,
    *more_roles: Role,
    show: Callable[[NewKey], None] = lambda _: None,
) -> NewKey:
    """Create a key and return it. Raises InvalidField, Unavailable, Overloaded, StoreFull.

    `show` is called before the key is stored. If it raises, for example because standard output
    is full, no key is created. A process that is killed between the two steps has shown a secret
    that is not valid. In the other order it would have stored a key with an unknown secret.
    """
    roles = {role, *more_roles}
    names = format_roles(roles)
    if Role.ADMIN in roles and len(roles) > 1:
        raise InvalidField(
            "role",
            "admin has all permissions in all accounts and can't be combined with other roles",
        )
    if account_sid is not None:
        check_sid(Sid.ACCOUNT, "account", account_sid)
        account_sid = canonical_sid(account_sid)
    elif Role.ADMIN not in roles:
        raise InvalidField("account", f"is required for a key with the role {names}")
    secret = new_secret()
    key = ApiKey(
        sid=f"SK{secrets.token_hex(16)}",
        account_sid=account_sid,
        role=names,
        secret_hash=hash_secret(secret),
        created_us=now_us(),
        revoked_us=None,
    )
    made = NewKey(key, secret)
    show(made)
    with store_call("add_key"):
        await store.add_key(key)
    audit("key created", key_sid=key.sid, role=key.role, of_account_sid=account_sid)
    return made


async def revoke_key(store: Store, sid: str) -> ApiKey | None:
    """Revoke a key permanently, and return its updated row; None if there is no such key.

    Raises InvalidField, Unavailable, Overloaded, StoreFull.
    """
    check_sid(Sid.API_KEY, "sid", sid)
    sid = canonical_sid(sid)
    at_us = now_us()
    with store_call("revoke_key"):
        key = await store.revoke_key(sid, at_us)
    if key is not None and key.revoked_us == at_us:  # False if it was revoked before
        audit("key revoked", key_sid=key.sid, role=key.role, of_account_sid=key.account_sid)
    return key
