"""Import: checks the resources of a stream and records them in batches."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO, NamedTuple

from interaction_svc.app.ingest import MAX_BATCH, Ingest, PreparedBatch, prepare_row
from interaction_svc.codec.twilio_json import CAMEL_CASE, PROPERTY_OF, from_json, property_of
from interaction_svc.domain.errors import InvalidField, ServiceError
from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.principals import ANONYMOUS
from interaction_svc.domain.units import MIB
from interaction_svc.store import Row
from interaction_svc.transfer.resource_reader import MAX_KEY_LENGTH, read_items

MAX_IGNORED_KEYS = 20
"""The maximum number of distinct ignored keys that are counted; a file may have more."""
_BATCH_BYTES = 4 * MIB
_SNAKE_CASE = frozenset(CAMEL_CASE.values())


class Problem(NamedTuple):
    """Why a record was rejected: its place in the stream, the property, and the reason."""

    place: str
    property: str
    reason: str

    def __str__(self) -> str:
        what = f"{self.property}: {self.reason}" if self.property else self.reason
        return f"{self.place}: {what}"


class KeyForm(Enum):
    """The naming style of the keys of an entry."""

    SNAKE_CASE = "snake_case"
    """The vendor's JSON."""
    CAMEL_CASE = "camelCase"
    """Dumps of the vendor's Node SDK."""
    MIXED = "mixed"


@dataclass
class ImportReport:
    """The counts of an import. `checked` counts the valid Interactions, in a dry run too."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    rejected: int = 0
    checked: int = 0
    key_forms: Counter[KeyForm] = field(default_factory=Counter)
    """The number of entries of each form. Rejected entries count if they are objects."""
    ignored_keys: Counter[str] = field(default_factory=Counter)
    """The number of entries with a key that isn't the vendor's, for at most MAX_IGNORED_KEYS."""
    has_more_ignored_keys: bool = False

    def note_keys(self, resource: Mapping[str, object]) -> None:
        """Count the naming style of an entry's keys, and its ignored keys."""
        keys = resource.keys()
        if keys.isdisjoint(CAMEL_CASE):
            form = KeyForm.SNAKE_CASE
        else:
            form = KeyForm.CAMEL_CASE if keys.isdisjoint(_SNAKE_CASE) else KeyForm.MIXED
        self.key_forms[form] += 1
        for key in sorted(keys - PROPERTY_OF.keys()):
            name = key[:MAX_KEY_LENGTH]
            if name in self.ignored_keys or len(self.ignored_keys) < MAX_IGNORED_KEYS:
                self.ignored_keys[name] += 1
            else:
                self.has_more_ignored_keys = True
                break


async def import_stream(
    stream: BinaryIO,
    ingest: Ingest | None,
    report: ImportReport,
    on_problem: Callable[[Problem], None],
) -> None:
    """Record all valid Interactions of a stream, and add their counts to `report`.

    If `ingest` is None, it is a dry run: all are checked, and none is recorded. At most one batch
    is in memory. Raises Unavailable, Overloaded, StoreFull.
    """
    places: list[str] = []
    rows: list[Row] = []
    size = 0

    def reject(place: str, error: ServiceError) -> None:
        report.rejected += 1
        if isinstance(error, InvalidField):
            on_problem(Problem(place, property_of(error.field), error.problem))
        else:
            on_problem(Problem(place, "", error.message))

    async def flush() -> None:
        if ingest is None:
            return
        results = await ingest.commit(PreparedBatch.of(rows))
        for place, result in zip(places, results, strict=True):
            if isinstance(result, Outcome):
                report.outcomes[result] += 1
            else:
                reject(place, result)

    for item in read_items(stream):
        if item.problem:
            report.rejected += 1
            on_problem(Problem(item.place, "", item.problem))
            continue
        if isinstance(item.resource, Mapping):
            report.note_keys(item.resource)
        try:
            row = prepare_row(ANONYMOUS, from_json(item.resource))
        except InvalidField as error:
            reject(item.place, error)
            continue
        report.checked += 1
        places.append(item.place)
        rows.append(row)
        size += len(row.frame)
        if len(rows) == MAX_BATCH or size > _BATCH_BYTES:
            await flush()
            places.clear()
            rows.clear()
            size = 0
    await flush()
