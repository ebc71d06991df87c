"""Five Interactions of a Session in the vendor's JSON, and file formats that contain them."""

import json
from typing import Any

from interaction_svc.codec.twilio_json import to_envelope, to_json
from testing.build import new_parents, new_session

BASE_URL = "http://127.0.0.1:8080"


PARENTS = new_parents()


FIVE = [to_json(interaction, BASE_URL) for interaction in new_session(PARENTS, 5)]


URL = f"{BASE_URL}{PARENTS.path}"


def envelope(resources: list[Any]) -> dict[str, object]:
    return to_envelope(
        resources, URL, page=0, page_size=50, page_token="", next_page_token="",
        previous_page_token="",
    )  # fmt: skip


def lines(resources: list[Any], end: str = "\n") -> str:
    return "".join(json.dumps(resource) + end for resource in resources)


def broken(**changes: Any) -> dict[str, Any]:
    return {**FIVE[1], **changes}
