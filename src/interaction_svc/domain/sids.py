"""String identifiers (SIDs): their patterns, and the generation of new ones.

A SID is a prefix of two letters and 32 hexadecimal digits of either case, as in Twilio's public
description of Proxy v1. `KIab…` and `KIAB…` are the same SID. It is stored and returned with
lower-case digits (`canonical_sid`).
"""

import re
import secrets
from collections.abc import Callable
from enum import Enum


class Sid(Enum):
    """The kinds of SID, each with the pattern of the whole text."""

    ACCOUNT = "AC[0-9a-fA-F]{32}"
    SERVICE = "KS[0-9a-fA-F]{32}"
    SESSION = "KC[0-9a-fA-F]{32}"
    INTERACTION = "KI[0-9a-fA-F]{32}"
    PARTICIPANT = "KP[0-9a-fA-F]{32}"
    API_KEY = "SK[0-9a-fA-F]{32}"
    RESOURCE = "[a-zA-Z]{2}[0-9a-fA-F]{32}"

    def __init__(self, pattern: str) -> None:
        self.pattern = f"^{pattern}$"
        self.canonical = pattern.replace("0-9a-fA-F", "0-9a-f")
        """The pattern of a SID in canonical spelling."""
        # A bound method, because matching a record's eight SIDs takes a third of its validation.
        self.matches: Callable[[str], object | None] = re.compile(pattern).fullmatch
        """Return a match if a text is a SID of this kind, else None."""


def canonical_sid(sid: str) -> str:
    """Return a SID with its hexadecimal digits in lower case and its two letters unchanged."""
    return sid[:2] + sid[2:].lower()


def new_interaction_sid(now_us: int) -> str:
    """Return a new SID of an Interaction: `KI`, 12 digits of milliseconds, 20 random digits.

    The milliseconds come first, so SIDs generated one after the other are neighbours in an index.
    """
    return f"KI{now_us // 1000:012x}{secrets.token_hex(10)}"
