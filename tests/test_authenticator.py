"""Knowing callers: what is asked of the store, what is remembered, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interaction_svc.credentials import ANYONE, Right, Role
from interaction_svc.errors import RateLimited, Unauthenticated
from interaction_svc.exposure import check_exposure
from interaction_svc.keys import (
    SECONDS_KNOWN,
    Authenticator,
    NewKey,
    create_key,
    revoke_key,
)
from interaction_svc.settings import SettingsError, load_settings
from interaction_svc.store import Store, open_store
from tests.build import new_sid
from tests.clock import Time
from tests.keyring import basic
from tests.store import files

PEER = "192.0.2.1:5000"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(files.url(tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def authenticator(store: Store, time: Time) -> Authenticator:
    return Authenticator(store, serves_openly=True, clock=time)


def header(made: NewKey) -> str:
    return basic(made.key.sid, made.secret)


async def test_a_revoked_key_is_known_no_longer_than_said(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    made = await create_key(store, new_sid("AC"), Role.READ)
    caller = await authenticator.caller(header(made), PEER)
    assert (caller.key_sid, caller.account_sid) == (made.key.sid, made.key.account_sid)
    assert caller.rights == {Right.READ}
    await revoke_key(store, made.key.sid)
    time.now += SECONDS_KNOWN
    with pytest.raises(Unauthenticated):
        await authenticator.caller(header(made), PEER)
    time.now -= SECONDS_KNOWN  # and is forgotten
    with pytest.raises(Unauthenticated):
        await authenticator.caller(header(made), PEER)


async def test_who_was_right_is_not_slowed_down_by_others_at_the_address(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    made = await create_key(store, None, Role.ADMIN)
    await authenticator.caller(header(made), PEER)
    for number in range(10):
        with pytest.raises(Unauthenticated):
            await authenticator.caller(basic(made.key.sid, f"wrong{number}"), PEER)
    with pytest.raises(RateLimited):
        await authenticator.caller(basic(made.key.sid, "wrong"), PEER)
    time.now += SECONDS_KNOWN  # the store is asked again, and the others use up what there is
    for number in range(2):
        with pytest.raises(Unauthenticated):
            await authenticator.caller(basic(made.key.sid, f"more{number}"), PEER)
    with pytest.raises(RateLimited):
        await authenticator.caller(basic(made.key.sid, "wrong"), PEER)
    assert (await authenticator.caller(header(made), PEER)).key_sid == made.key.sid


async def test_many_calls_at_once_with_a_new_key_are_one_attempt(
    store: Store, authenticator: Authenticator
) -> None:
    made = await create_key(store, new_sid("AC"), Role.READ)
    callers = await asyncio.gather(*(authenticator.caller(header(made), PEER) for _ in range(50)))
    assert {caller.key_sid for caller in callers} == {made.key.sid}


async def test_it_is_open_until_the_first_key_and_never_again(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    account_sid = new_sid("AC")
    assert await authenticator.caller(None, PEER) == ANYONE
    assert (await authenticator.caller(basic(account_sid), PEER)).account_sid == account_sid
    made = await create_key(store, account_sid, Role.READ)
    time.now += SECONDS_KNOWN
    for authorization in (None, basic(account_sid)):
        with pytest.raises(Unauthenticated):
            await authenticator.caller(authorization, PEER)
    await revoke_key(store, made.key.sid)
    time.now += SECONDS_KNOWN
    with pytest.raises(Unauthenticated):
        await authenticator.caller(None, PEER)


async def test_where_it_may_not_be_open_it_is_not_open(store: Store, time: Time) -> None:
    closed = Authenticator(store, serves_openly=False, clock=time)
    with pytest.raises(Unauthenticated):
        await closed.caller(None, PEER)


async def test_where_it_is_reached_from_other_machines_it_may_not_be_open(store: Store) -> None:
    assert await check_exposure(load_settings(), store)
    exposed = load_settings(
        http_address="192.0.2.1:8080", tls_certificate=Path("c.pem"), tls_key=Path("k.pem")
    )
    with pytest.raises(SettingsError, match=r"http_address .* keys create"):
        await check_exposure(exposed, store)
    await create_key(store, None, Role.ADMIN)
    assert not await check_exposure(exposed, store)
