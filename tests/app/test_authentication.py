"""Authentication: look-ups in the store, and the cache of successful authentications."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from testing.api_keys import basic
from testing.build import new_sid
from testing.clock import Time

from interaction_svc.admission.rate_limits import WRONG_AT_ONCE, WRONG_PER_SECOND
from interaction_svc.app.api_keys import NewKey, create_key, revoke_key
from interaction_svc.app.authentication import SECONDS_KNOWN, Authenticator
from interaction_svc.app.key_hashes import FRESH_SECONDS
from interaction_svc.domain.errors import RateLimited, Unauthenticated, Unavailable
from interaction_svc.domain.principals import ANONYMOUS, Permission, Role
from interaction_svc.runtime.listen_policy import check_listen_policy
from interaction_svc.runtime.settings import SettingsError, load_settings
from interaction_svc.store import Store
from interaction_svc.store.factory import open_store
from tests.store.sqlite import files

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
    return Authenticator(store, allows_anonymous=True, clock=time)


def header(made: NewKey) -> str:
    return basic(made.key.sid, made.secret)


async def test_a_revoked_key_is_refused_once_its_cache_entry_expires(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    made = await create_key(store, new_sid("AC"), Role.READ)
    caller = await authenticator.authenticate(header(made), PEER)
    assert (caller.key_sid, caller.account_sid) == (made.key.sid, made.key.account_sid)
    assert caller.rights == {Permission.READ}
    await revoke_key(store, made.key.sid)
    time.now += SECONDS_KNOWN
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header(made), PEER)
    time.now -= SECONDS_KNOWN  # the cache entry has expired
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header(made), PEER)


async def test_a_stream_s_revoked_key_is_detected_beyond_the_attempt_limit(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    made = await create_key(store, new_sid("AC"), Role.INGEST)
    await authenticator.authenticate(header(made), PEER)
    await revoke_key(store, made.key.sid)
    await use_up_the_attempts_of_the_address(authenticator)  # loads the hashes of active keys
    await authenticator.check_again(header(made))  # cached for 2 seconds
    time.now += SECONDS_KNOWN
    for number in range(2):  # the attempts that the limiter has refilled in these seconds
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(basic(new_sid("SK"), f"more{number}"), PEER)
    with pytest.raises(RateLimited):
        await authenticator.authenticate(basic(new_sid("SK"), "wrong"), PEER)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await authenticator.check_again(header(made))


async def test_streams_of_a_revoked_key_do_not_count_as_attempts(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    made, kept = [await create_key(store, new_sid("AC"), Role.INGEST) for _ in range(2)]
    await revoke_key(store, made.key.sid)
    for _ in range(2 * WRONG_AT_ONCE):
        with pytest.raises(Unauthenticated):
            await authenticator.check_again(header(made))
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(basic(new_sid("SK"), "wrong"), PEER)
    await authenticator.check_again(header(kept))


async def use_up_the_attempts_of_the_address(authenticator: Authenticator) -> None:
    for number in range(WRONG_AT_ONCE):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(basic(new_sid("SK"), f"wrong{number}"), PEER)
    with pytest.raises(RateLimited) as caught:
        await authenticator.authenticate(basic(new_sid("SK"), "wrong"), PEER)
    assert caught.value.retry_after_seconds == 1


async def test_valid_keys_are_accepted_beyond_the_attempt_limit(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    """Valid keys are accepted, whether cached or not; wrong ones get RateLimited."""
    known, *unseen = [await create_key(store, None, Role.ADMIN) for _ in range(3)]
    await authenticator.authenticate(header(known), PEER)
    for _ in range(2):
        await use_up_the_attempts_of_the_address(authenticator)
        for made in (known, unseen.pop()):
            for _ in range(20):
                assert (
                    await authenticator.authenticate(header(made), PEER)
                ).key_sid == made.key.sid
        with pytest.raises(RateLimited):
            await authenticator.authenticate(basic(known.key.sid, "wrong"), PEER)
        time.now += WRONG_AT_ONCE / WRONG_PER_SECOND


async def test_many_uncached_valid_keys_at_once_are_accepted(
    store: Store, authenticator: Authenticator
) -> None:
    made = [await create_key(store, new_sid("AC"), Role.READ) for _ in range(25)]
    callers = await asyncio.gather(*(authenticator.authenticate(header(one), PEER) for one in made))
    assert [caller.key_sid for caller in callers] == [one.key.sid for one in made]


async def test_wrong_keys_beyond_the_attempt_limit_cause_no_look_up(
    store: Store,
    time: Time,
    authenticator: Authenticator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await create_key(store, None, Role.ADMIN)
    await use_up_the_attempts_of_the_address(authenticator)
    asked: Counter[str] = Counter()
    for name in ("keys", "keys_of"):
        monkeypatch.setattr(store, name, counting(asked, name, getattr(store, name)))

    async def is_told_to_wait(number: int) -> None:
        with pytest.raises(RateLimited):
            await authenticator.authenticate(basic(new_sid("SK"), f"wrong{number}"), PEER)

    await asyncio.gather(*map(is_told_to_wait, range(100)))
    assert asked == {}
    time.now += FRESH_SECONDS  # 2 more attempts are allowed, and the hashes expire
    for number in range(2):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(basic(new_sid("SK"), f"more{number}"), PEER)
    await asyncio.gather(*map(is_told_to_wait, range(100)))
    assert asked == {"keys": 1, "keys_of": 2}


def counting(
    counts: Counter[str], name: str, method: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    async def counted(*given: Any) -> Any:
        counts[name] += 1
        return await method(*given)

    return counted


async def test_new_and_revoked_keys_take_effect_within_2_seconds_beyond_the_attempt_limit(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    revoked = await create_key(store, None, Role.ADMIN)
    await use_up_the_attempts_of_the_address(authenticator)
    await revoke_key(store, revoked.key.sid)
    made = await create_key(store, None, Role.ADMIN)
    time.now += FRESH_SECONDS
    for number in range(2):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(basic(made.key.sid, f"more{number}"), PEER)
    assert (await authenticator.authenticate(header(made), PEER)).key_sid == made.key.sid
    with pytest.raises(RateLimited):
        await authenticator.authenticate(header(revoked), PEER)


async def test_credentials_are_not_refused_while_the_store_is_unavailable(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    made = await create_key(store, None, Role.ADMIN)
    await use_up_the_attempts_of_the_address(authenticator)
    time.now += FRESH_SECONDS
    await store.close()
    with pytest.raises(Unavailable):
        await asyncio.gather(*(authenticator.authenticate(header(made), PEER) for _ in range(20)))


async def test_many_calls_at_once_with_a_new_key_are_one_attempt(
    store: Store, authenticator: Authenticator
) -> None:
    made = await create_key(store, new_sid("AC"), Role.READ)
    callers = await asyncio.gather(
        *(authenticator.authenticate(header(made), PEER) for _ in range(50))
    )
    assert {caller.key_sid for caller in callers} == {made.key.sid}


async def test_anonymous_access_ends_for_good_with_the_first_key(
    store: Store, time: Time, authenticator: Authenticator
) -> None:
    account_sid = new_sid("AC")
    assert await authenticator.authenticate(None, PEER) == ANONYMOUS
    assert (await authenticator.authenticate(basic(account_sid), PEER)).account_sid == account_sid
    made = await create_key(store, account_sid, Role.READ)
    time.now += SECONDS_KNOWN
    for authorization in (None, basic(account_sid)):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(authorization, PEER)
    await revoke_key(store, made.key.sid)
    time.now += SECONDS_KNOWN
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(None, PEER)


async def test_callers_need_keys_where_anonymous_access_is_not_allowed(
    store: Store, time: Time
) -> None:
    closed = Authenticator(store, allows_anonymous=False, clock=time)
    with pytest.raises(Unauthenticated):
        await closed.authenticate(None, PEER)


async def test_anonymous_access_is_refused_if_other_machines_can_connect(store: Store) -> None:
    assert await check_listen_policy(load_settings(), store)
    exposed = load_settings(
        http_address="192.0.2.1:8080", tls_certificate=Path("c.pem"), tls_key=Path("k.pem")
    )
    with pytest.raises(SettingsError, match=r"http_address .* keys create"):
        await check_listen_policy(exposed, store)
    await create_key(store, None, Role.ADMIN)
    assert not await check_listen_policy(exposed, store)
