"""Contract of stores: API keys."""

from pathlib import Path

from testing.build import NOON_US, new_sid

from interaction_svc.store import ApiKey, Store
from tests.store.contract.stores import NOW_US, StoreTests


def new_key(created_us: int = NOON_US, account_sid: str | None = None) -> ApiKey:
    return ApiKey(new_sid("SK"), account_sid, "read", b"\x00\xff" * 16, created_us, None)


class ApiKeyTests(StoreTests):
    """Tests of adding, finding and revoking keys. Keys are never removed."""

    async def test_keys_are_found_by_their_sid_and_by_their_account(self, store: Store) -> None:
        mine, other = new_sid("AC"), new_sid("AC")
        later, first, others = new_key(NOON_US + 9, mine), new_key(NOON_US, mine), new_key(0, other)
        of_all = new_key()
        for key in (later, first, others, of_all):
            await store.add_key(key)
        assert await store.keys_of(mine) == [first, later]
        assert await store.keys_of(later.sid) == [later]
        assert await store.keys_of(of_all.sid) == [of_all]
        for nobody in (new_sid("AC"), "", mine.upper()):
            assert await store.keys_of(nobody) == []
        assert await store.keys() == [others, first, of_all, later]

    async def test_a_revoked_key_stays_with_its_first_revocation_time(self, store: Store) -> None:
        key, other = new_key(), new_key(NOON_US + 1)
        await store.add_key(key)
        await store.add_key(other)
        revoked = key._replace(revoked_us=NOW_US)
        assert await store.revoke_key(key.sid, NOW_US) == revoked
        assert await store.revoke_key(key.sid, NOW_US + 1) == revoked
        assert await store.revoke_key(new_sid("SK"), NOW_US) is None
        assert await store.keys_of(key.sid) == [revoked]
        assert await store.keys() == [revoked, other]

    async def test_has_keys_stays_true_after_revocation(self, store: Store, tmp_path: Path) -> None:
        assert not await store.has_keys()
        key = new_key()
        await store.add_key(key)
        assert await store.has_keys()
        await store.revoke_key(key.sid, NOW_US)
        assert await store.has_keys()
        async with self.opened(tmp_path) as another:
            assert await another.has_keys()
            assert await another.keys() == [key._replace(revoked_us=NOW_US)]
