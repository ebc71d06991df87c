"""InstrumentedStore: every method is passed on and measured."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from testing.build import Parents, new_interaction

from interaction_svc.domain.interactions import Scope
from interaction_svc.store import Revision, Store, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.instrumented import InstrumentedStore
from tests.store.sqlite import files

NOT_MEASURED = {"at_least", "close"}
METHODS = sorted(
    name for name, _ in inspect.getmembers(Store, inspect.isfunction) if name[0] != "_"
)


class Recorder:
    """A store that notes its calls and returns the name of each method."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        async def method(*given: Any, **named: Any) -> str:
            self.calls.append((name, (*given, *named.values())))
            return name

        return method


def measured(operation: str) -> float:
    name = "interaction_svc_store_duration_seconds_count"
    return REGISTRY.get_sample_value(name, {"operation": operation}) or 0.0


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_MEASURED])
async def test_each_method_is_passed_on_and_measured(name: str) -> None:
    recorder: Any = Recorder()
    store = InstrumentedStore(recorder)
    parameters = inspect.signature(getattr(Store, name)).parameters.values()
    given = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD][1:]
    named = {one.name: one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    before = measured(name)
    returned = await getattr(store, name)(*given, **named)
    assert recorder.calls == [(name, (*given, *named.values()))]
    assert returned in (name, None)
    assert measured(name) == before + 1


async def test_a_call_that_fails_is_measured() -> None:
    class Failing(Recorder):
        async def has_keys(self) -> bool:
            raise RuntimeError

    failing: Any = Failing()
    before = measured("has_keys")
    with pytest.raises(RuntimeError):
        await InstrumentedStore(failing).has_keys()
    assert measured("has_keys") == before + 1


async def test_reads_at_a_revision_are_measured() -> None:
    class Replicated(Recorder):
        def at_least(self, _: Revision) -> "Replicated":
            return Replicated()

    replicated: Any = Replicated()
    wanted: Any = None
    reads = InstrumentedStore(replicated).at_least(Revision(1, 2, 3))
    before = measured("get"), measured("page")
    await reads.get(wanted, wanted)
    await reads.page(wanted, wanted)
    assert (measured("get"), measured("page")) == (before[0] + 1, before[1] + 1)


async def test_a_store_without_a_replica_reads_from_itself_at_any_revision(
    tmp_path: Path, parents: Parents
) -> None:
    store = InstrumentedStore(await open_store(files.url(tmp_path)))
    try:
        interaction = new_interaction(parents)
        await store.record([row_of(interaction)])
        reads = store.at_least(Revision(1, 2, 3))
        assert reads is store
        found = await reads.get(Scope(None), parents.key(interaction.sid))
        assert found == row_of(interaction).frame
    finally:
        await store.close()
