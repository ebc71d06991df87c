"""Redaction of secrets in what logs and errors show."""

import re


def redact_url(url: str) -> str:
    """Return what an error may show of a URL that can't be parsed.

    A path and the URL of a file are shown whole, without their query. Of any other URL only the
    scheme is shown, because any other part may be a password.
    """
    text, is_cut, _ = url.strip().partition("?")
    if (text.startswith("sqlite:") and "@" not in text) or not re.search("[:@=]", text):
        return f"{text}?…" if is_cut else text
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://)", text)
    return f"{scheme[0]}://…" if scheme else "…"
