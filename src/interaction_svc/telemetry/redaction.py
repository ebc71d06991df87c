"""Redaction of secrets in texts for logs and errors."""

import re


def redact_url(url: str) -> str:
    """Return the part of an invalid URL that an error may show.

    A path or a URL of a file is returned without its query. For any other URL only the scheme is
    returned, because each other part may be a password.
    """
    text, is_cut, _ = url.strip().partition("?")
    if (text.startswith("sqlite:") and "@" not in text) or not re.search("[:@=]", text):
        return f"{text}?…" if is_cut else text
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://)", text)
    return f"{scheme[0]}://…" if scheme else "…"
