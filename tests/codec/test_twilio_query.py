"""The query parameters of a list over HTTP."""

import httpx
import pytest
from testing.build import Parents, new_session, new_sid
from testing.requests import record
from testing.rest_errors import assert_error
from testing.stubs import Ingest


async def test_page_sizes_are_clamped(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    await record(ingest, *new_session(parents, 60))
    for query, size, count in (
        ("", 50, 50),
        ("?PageSize=1", 1, 1),
        ("?PageSize=0001", 1, 1),
        ("?PageSize=1000", 1000, 60),
        ("?PageSize=5000", 1000, 60),
        (f"?PageSize=1{'0' * 5000}", 1000, 60),
    ):
        body = (await http.get(parents.path + query)).json()
        assert (body["meta"]["page_size"], len(body["interactions"])) == (size, count)
        assert f"PageSize={size}&" in body["meta"]["url"]


async def test_the_smallest_of_several_page_sizes_is_used(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    """Twilio's Java SDK sends two of them."""
    await record(ingest, *new_session(parents, 25))
    for query in (
        "PageSize=50&PageSize=20",
        "PageSize=20&PageSize=5000",
        "PageSize=20&PageSize=20",
    ):
        page = (await http.get(f"{parents.path}?{query}")).json()
        assert (page["meta"]["page_size"], len(page["interactions"])) == (20, 20)
        assert page["meta"]["next_page_url"].count("PageSize=") == 1
        second = (await http.get(page["meta"]["next_page_url"])).json()
        assert len(second["interactions"]) == 5


async def test_a_parameter_may_be_repeated_with_an_equal_value(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    await record(ingest, *new_session(parents, 3))
    page = (await http.get(f"{parents.path}?PageSize=1&Order=desc&Order=desc")).json()
    link = page["meta"]["next_page_url"]
    _, _, query = link.partition("?")
    assert query.count("Order=") == 1
    twice = (await http.get(f"{link}&{query}")).json()
    assert twice == (await http.get(link)).json()
    assert twice["meta"]["url"] == link


async def test_the_links_of_a_page_with_the_highest_number_can_be_followed(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    await record(ingest, *new_session(parents, 4))
    link = (await http.get(f"{parents.path}?PageSize=1")).json()["meta"]["next_page_url"]
    link = link.replace("Page=1&", f"Page={2**31 - 1}&")
    for _ in range(2):
        page = (await http.get(link)).json()
        assert page["meta"]["page"] == 2**31 - 1
        for name in ("url", "first_page_url", "previous_page_url", "next_page_url"):
            assert (await http.get(page["meta"][name])).status_code == 200
        link = page["meta"]["next_page_url"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("PageSize=0", "PageSize: must be 1 or more.*"),
        ("PageSize=-1", "PageSize: must be a whole number.*"),
        ("PageSize=ten", "PageSize: must be a whole number.*"),
        ("PageSize=", "PageSize: must be a whole number.*"),
        ("PageSize=%D9%A5", "PageSize: must be a whole number.*"),
        ("PageSize=5&PageSize=0", "PageSize: must be 1 or more.*"),
        ("Page=0&Page=1&PageToken=x", "Page: is given twice with different values.*"),
        ("PageToken=x&PageToken=y", "PageToken: is given twice with different values.*"),
        ("PageToken=x&PageToken=", "PageToken: is given twice with different values.*"),
        ("Order=asc&Order=desc", "Order: is given twice with different values.*"),
        ("Type=voice&PageSize=1&Type=message", "Type: is given twice with different values.*"),
        ("Page=1", "Page: above 0 needs a PageToken.*"),
        ("Page=x&PageToken=x", "Page: must be a whole number.*"),
        ("Page=99999999999&PageToken=x", "Page: must be at most.*"),
        ("PageToken=nonsense", "PageToken: is damaged.*"),
        ("Page=1&PageToken=PT123", "PageToken: is damaged.*"),
        ("Order=up", "Order: must be one of asc, desc"),
        ("Type=fax", "Type: must be one of message, unknown, voice"),
        ("ResourceStatus=eaten", "ResourceStatus: must be one of .*"),
        ("ParticipantSid=KP1", r"ParticipantSid: must match \^KP.*"),
        ("ParticipantSid=", "ParticipantSid: must not be empty.*"),
        ("ResourceSid=1", r"ResourceSid: must match .*"),
        ("DateCreatedAtOrAfter=yesterday", "DateCreatedAtOrAfter: is not a time.*"),
        ("DateCreatedBefore=2026-02-30T00:00:00Z", "DateCreatedBefore: is not a time that.*"),
        ("page_size=5", "page_size: is not a parameter.*"),
    ],
)
async def test_errors_name_the_invalid_parameter(
    http: httpx.AsyncClient, parents: Parents, query: str, message: str
) -> None:
    assert_error(await http.get(f"{parents.path}?{query}"), 400, 20001, message)


async def test_a_token_of_another_list_is_refused(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    await record(ingest, *new_session(parents, 3))
    page = (await http.get(f"{parents.path}?PageSize=1")).json()
    link = httpx.URL(page["meta"]["next_page_url"])
    for changed, message in (
        ({"Order": "desc"}, "Order: changed since the page token was made.*"),
        ({"Type": "voice"}, "Type, .* and ResourceStatus: changed since.*"),
    ):
        assert_error(await http.get(link.copy_merge_params(changed)), 400, 20001, message)
    elsewhere = parents._replace(session_sid=new_sid("KC"))
    response = await http.get(elsewhere.path, params=dict(link.params))
    assert_error(response, 400, 20001, "SessionSid: changed since.*")
