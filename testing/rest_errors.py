"""Checks of HTTP errors."""

import re

import httpx


def assert_error(response: httpx.Response, status: int, code: int, message: str) -> None:
    """Check that a response is this error in the vendor's shape, without other properties."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert re.fullmatch(message, body.pop("message"), re.DOTALL)
    assert body == {
        "code": code,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }
