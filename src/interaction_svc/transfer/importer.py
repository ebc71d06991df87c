"""Importing: what a stream holds is checked and recorded, batch by batch."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO, NamedTuple

from interaction_svc.app.interactions import MAX_BATCH, Interactions
from interaction_svc.codec.twilio_json import CAMEL_CASE, PROPERTY_OF, from_json, property_of
from interaction_svc.domain.errors import InvalidField, ServiceError
from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.principals import ANONYMOUS
from interaction_svc.domain.validation import normalized
from interaction_svc.transfer.resource_reader import MAX_KEY_LENGTH, read_items
from interaction_svc.v1.interaction_pb2 import Interaction

MAX_IGNORED_KEYS = 20
"""How many names of ignored keys are kept: a file may have any number."""
_BATCH_BYTES = 4 * 1024 * 1024
_SNAKE_CASE = frozenset(CAMEL_CASE.values())


class Problem(NamedTuple):
    """Why one record was not taken: where it stands, which property, and what is wrong."""

    place: str
    property: str
    reason: str

    def __str__(self) -> str:
        what = f"{self.property}: {self.reason}" if self.property else self.reason
        return f"{self.place}: {what}"


class KeyForm(Enum):
    """How the keys of an entry are spelt."""

    SNAKE_CASE = "snake_case"
    """As in the vendor's JSON."""
    CAMEL_CASE = "camelCase"
    """As in dumps of the vendor's Node SDK."""
    MIXED = "mixed"


@dataclass
class ImportReport:
    """What an import did. In a dry run `checked` counts what would have been recorded."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    rejected: int = 0
    checked: int = 0
    key_forms: Counter[KeyForm] = field(default_factory=Counter)
    """Of all entries that are objects, also of those that were rejected."""
    ignored_keys: Counter[str] = field(default_factory=Counter)
    """In how many entries a key was that isn't the vendor's; at most MAX_IGNORED_KEYS of them."""
    has_more_ignored_keys: bool = False

    def note_keys(self, resource: Mapping[str, object]) -> None:
        """Count how the keys of an entry are spelt, and which are ignored."""
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
    interactions: Interactions | None,
    report: ImportReport,
    on_problem: Callable[[Problem], None],
) -> None:
    """Record all good Interactions of a stream, and count into the report.

    With None for `interactions` it is a dry run: all is checked, nothing is recorded. Memory is
    bounded by a batch, whatever the stream holds. Raises Unavailable.
    """
    batch: list[tuple[str, Interaction]] = []
    size = 0

    def reject(place: str, error: ServiceError) -> None:
        report.rejected += 1
        if isinstance(error, InvalidField):
            on_problem(Problem(place, property_of(error.field), error.problem))
        else:
            on_problem(Problem(place, "", error.message))

    async def flush() -> None:
        if interactions is None:
            return
        results = await interactions.record_many(ANONYMOUS, [record for _, record in batch])
        for (place, _), result in zip(batch, results, strict=True):
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
            record = normalized(from_json(item.resource), now_us=time.time_ns() // 1000)
        except InvalidField as error:
            reject(item.place, error)
            continue
        report.checked += 1
        batch.append((item.place, record))
        size += record.ByteSize()
        if len(batch) == MAX_BATCH or size > _BATCH_BYTES:
            await flush()
            batch.clear()
            size = 0
    await flush()
