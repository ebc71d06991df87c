"""Rows that change between the search of a bulk deletion and its deletes."""

from pathlib import Path

from testing.build import NOON_US, Parents, new_interaction, new_leg

from interaction_svc.store import Expired, InvolvesParticipant, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite import bulk_delete
from interaction_svc.store.sqlite.store import SqliteStore
from interaction_svc.store.sqlite.transactions import transaction
from tests.store.contract.stores import EVERYONE, NOW_US, query, sids
from tests.store.sqlite.files import another_process, url


async def test_rows_deleted_or_changed_after_the_search_are_neither_deleted_nor_counted(
    tmp_path: Path, parents: Parents
) -> None:
    leg = new_leg()
    made = [new_interaction(parents, NOON_US + n, inbound=leg, outbound=None) for n in range(3)]
    store = await open_store(url(tmp_path))
    assert isinstance(store, SqliteStore)
    await store.record([row_of(interaction) for interaction in made])
    what = InvolvesParticipant(leg.participant_sid)
    rows, _ = await store._read.run(bulk_delete.find, what, None)
    assert len(rows) == 3
    await store.delete(EVERYONE, parents.key(made[0].sid), NOW_US)
    other = new_interaction(
        parents, NOON_US + 1, NOW_US, sid=made[1].sid, inbound=new_leg(), outbound=None
    )
    await store.record([row_of(other)])
    with another_process(tmp_path) as db, transaction(db):
        assert bulk_delete.delete(db, what, rows, NOW_US) == {parents.service_sid: 1}
    assert sids((await store.page(EVERYONE, query(parents))).frames) == [other.sid]
    with another_process(tmp_path) as db, transaction(db):
        assert bulk_delete.delete(db, Expired(NOW_US), rows, NOW_US) == {parents.service_sid: 1}
        assert bulk_delete.delete(db, Expired(NOW_US), rows, NOW_US) == {}
    await store.close()
