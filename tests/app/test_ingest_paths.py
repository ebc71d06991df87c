"""Repeated, reordered and partial records have the same result by each way of recording."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from testing.build import Parents, new_leg, new_sid
from testing.process import Served, run
from testing.requests import failure, get_request
from testing.stubs import Ingest, Reading

from interaction_svc.codec.twilio_json import from_json
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb

WAYS = ("import", "one by one", "stream")


def resource(parents: Parents, sid: str, status: str, updated: str, **given: Any) -> dict[str, Any]:
    """Return a message as the vendor's API returns it, with the body `hello`."""
    inbound, outbound = new_leg(), new_leg()
    made = {
        "sid": sid,
        **parents._asdict(),
        "data": '{"body":"hello"}',
        "type": "message",
        "date_created": "2026-02-14T08:05:00Z",
        "date_updated": updated,
    }
    for name, leg, leg_status in (("inbound", inbound, "received"), ("outbound", outbound, status)):
        made |= {
            f"{name}_participant_sid": f"KP{sid[2:]}",
            f"{name}_resource_sid": f"SM{sid[2:]}",
            f"{name}_resource_status": leg_status,
            f"{name}_resource_type": "Message",
            f"{name}_resource_url": leg.resource_url,
        }
    return made | given


async def put_in(
    way: str, resources: Sequence[dict[str, Any]], server: Served, ingest: Ingest, folder: Path
) -> None:
    if way == "import":
        file = folder / "records.jsonl"
        file.write_text("".join(f"{json.dumps(one)}\n" for one in resources))
        done = run("import", "--store", f"sqlite:///{server.store}", str(file))
        assert done.returncode == 0, done.stderr
    elif way == "stream":

        async def requests() -> AsyncIterator[ingest_pb.RecordInteractionsRequest]:
            for one in resources:
                yield ingest_pb.RecordInteractionsRequest(interactions=[from_json(one)])

        assert (await ingest.RecordInteractions(requests())).failed == 0
    else:
        for one in resources:
            request = ingest_pb.RecordInteractionRequest(interaction=from_json(one))
            await ingest.RecordInteraction(request)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            ("sent", "2026-02-14T08:05:01Z"),
            ("delivered", "2026-02-14T08:05:01Z"),
            id="two statuses in the same second",
        ),
        pytest.param(
            ("sent", "2026-02-14T08:05:01.7Z"),
            ("delivered", "2026-02-14T08:05:01Z"),
            id="two precisions",
        ),
        pytest.param(
            ("queued", "2026-02-14T08:05:01Z"),
            ("delivered", "2026-02-14T08:05:02Z"),
            id="two seconds",
        ),
    ],
)
async def test_the_later_status_is_kept_in_any_order_of_records(
    server: Served,
    ingest: Ingest,
    reading: Reading,
    parents: Parents,
    tmp_path: Path,
    way: str,
    is_reversed: bool,
    first: tuple[str, str],
    second: tuple[str, str],
) -> None:
    sid = new_sid("KI")
    resources = [resource(parents, sid, *one) for one in (first, second)]
    await put_in(way, resources[::-1] if is_reversed else resources, server, ingest, tmp_path)
    stored = await reading.GetInteraction(get_request(from_json(resources[0])))
    assert stored.interaction.outbound.resource_status == pb.RESOURCE_STATUS_DELIVERED


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_reversed", [False, True])
async def test_a_partial_record_keeps_the_stored_values_of_omitted_fields(
    server: Served,
    ingest: Ingest,
    reading: Reading,
    parents: Parents,
    tmp_path: Path,
    way: str,
    is_reversed: bool,
) -> None:
    sid = new_sid("KI")
    whole = resource(parents, sid, "sent", "2026-02-14T08:05:01Z")
    inbound = dict.fromkeys(name for name in whole if name.startswith("inbound_"))
    later = resource(parents, sid, "delivered", "2026-02-14T08:05:02Z", data=None, **inbound)
    resources = [later, whole] if is_reversed else [whole, later]
    await put_in(way, resources, server, ingest, tmp_path)
    stored = (await reading.GetInteraction(get_request(from_json(whole)))).interaction
    assert stored.data == whole["data"]
    assert stored.inbound == from_json(whole).inbound
    assert stored.outbound.resource_status == pb.RESOURCE_STATUS_DELIVERED


IMPLAUSIBLE = [
    ("create_time", "date_created", "1970-01-01T00:00:00Z"),
    ("create_time", "date_created", "2007-12-31T23:59:59Z"),
    ("create_time", "date_created", "9999-12-31T23:59:59Z"),
    ("update_time", "date_updated", "2026-02-14T08:04:59Z"),
    ("update_time", "date_updated", "9999-12-31T23:59:59Z"),
    ("inbound.resource_url", "inbound_resource_url", "javascript:alert(1)"),
    ("outbound.resource_url", "outbound_resource_url", "file:///etc/passwd"),
    ("outbound.resource_url", "outbound_resource_url", "https:///no-host"),
    ("outbound.resource_url", "outbound_resource_url", "https://a.example/\u007f"),
]


@pytest.mark.parametrize(("field", "name", "value"), IMPLAUSIBLE)
async def test_implausible_values_are_refused_by_field_and_correct_ones_accepted(
    ingest: Ingest, parents: Parents, field: str, name: str, value: str
) -> None:
    right = resource(parents, new_sid("KI"), "sent", "2026-02-14T08:05:01Z")
    wrong = ingest_pb.RecordInteractionRequest(interaction=from_json(right | {name: value}))
    _, reason, details = await failure(ingest.RecordInteraction(wrong))
    assert reason == "ERROR_REASON_INVALID_FIELD"
    violation = details["BadRequest"].field_violations[0]  # type: ignore[attr-defined]
    assert violation.field == f"interaction.{field}"
    taken = await ingest.RecordInteraction(
        ingest_pb.RecordInteractionRequest(interaction=from_json(right))
    )
    assert taken.outcome == ingest_pb.RECORD_OUTCOME_CREATED


def test_an_import_rejects_implausible_values_and_accepts_correct_ones(
    server: Served, parents: Parents, tmp_path: Path
) -> None:
    lines = []
    for _, name, value in IMPLAUSIBLE:
        right = resource(parents, new_sid("KI"), "sent", "2026-02-14T08:05:01Z")
        lines += [json.dumps(right | {name: value}), json.dumps(right)]
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(lines))
    done = run("import", "--store", f"sqlite:///{server.store}", str(file))
    assert done.returncode == 1
    for number, (_, name, _) in enumerate(IMPLAUSIBLE):
        assert f"{file}: line {2 * number + 1}: {name}: " in done.stderr.decode()
    count = len(IMPLAUSIBLE)
    assert f"{count} created" in done.stdout.decode()
    assert f"{count} rejected" in done.stdout.decode()
