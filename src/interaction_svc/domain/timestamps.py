"""Times: microseconds since 1970 in the store, Timestamps in gRPC, ISO 8601 text in JSON."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import time_ns

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z, the first that a Timestamp may hold
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last
_YEARS = "must lie in the years 1 to 9999 in GMT"
_IN_HOUR = [f"{minute:02}:{second:02}Z" for minute in range(60) for second in range(60)]
_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?"
    r"(?:(Z|z| UTC)| ?([+-]\d\d(?::?\d\d)?))?",
    re.ASCII,
).fullmatch

FORM = "YYYY-MM-DDTHH:MM:SSZ, with fractional seconds and an offset instead of Z if you like"


def now_us() -> int:
    """Return the time of the system clock, in microseconds since 1970."""
    return time_ns() // 1000


def to_us(time: Timestamp) -> int:
    """Return a Timestamp in microseconds since 1970. Nanoseconds are cut off.

    Raises ValueError outside the years 1 to 9999. Its text names the valid values.
    """
    seconds, nanos = time.seconds, time.nanos
    if not (_FIRST_SECOND <= seconds <= _LAST_SECOND and 0 <= nanos < 1_000_000_000):
        raise ValueError("must lie in the years 1 to 9999, with nanos from 0 to 999,999,999")
    return seconds * 1_000_000 + nanos // 1000


def set_us(time: Timestamp, us: int) -> None:
    """Set a Timestamp from microseconds since 1970."""
    seconds, micros = divmod(us, 1_000_000)
    time.seconds = seconds
    time.nanos = micros * 1000


def parse(text: str) -> int:
    """Return the microseconds since 1970 of an ISO 8601 text with an offset.

    Accepts RFC 3339 with up to nine fractional digits, including lower-case t and z, and a space
    for T. Also accepts the forms that Python, Ruby and databases print: `2026-02-14 08:05:00+00`,
    `… +0000`, `… UTC`. Raises ValueError, whose text names a valid form.
    """
    match = _TEXT(text)
    if match is None:
        raise ValueError(f"is not a time; write {FORM}")
    day, clock, fraction, is_gmt, offset = match.groups()
    if not (is_gmt or offset):
        raise ValueError(f"is not a time without Z or an offset from GMT; write {FORM}")
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{offset or '+00:00'}")
        since_epoch = moment - _EPOCH
    except ValueError as error:
        raise ValueError(f"is not a time that exists; write {FORM}") from error
    us = since_epoch // _MICROSECOND + int((fraction or "").ljust(6, "0")[:6])
    if not _FIRST_SECOND <= us // 1_000_000 <= _LAST_SECOND:
        raise ValueError(_YEARS)
    return us


def text(us: int, *, fraction: bool = False) -> str:
    """Return a time as `YYYY-MM-DDTHH:MM:SSZ`. `fraction` adds the microseconds unless they are 0.

    Raises ValueError outside the years 1 to 9999.
    """
    seconds, micros = divmod(us, 1_000_000)
    whole = text_of_seconds(seconds)
    return f"{whole[:-1]}.{micros:06d}Z" if fraction and micros else whole


def text_of_seconds(seconds: int) -> str:
    """Return seconds since 1970 as `YYYY-MM-DDTHH:MM:SSZ`.

    Raises ValueError outside the years 1 to 9999.
    """
    # The cache reduces the cost from 1.2 to 0.3 µs. A page of 1,000 rows has 2,000 times.
    hours, second = divmod(seconds, 3600)
    return _hour(hours) + _IN_HOUR[second]


@lru_cache(maxsize=4096)
def _hour(hours: int) -> str:
    if not _FIRST_SECOND <= hours * 3600 <= _LAST_SECOND:
        raise ValueError(_YEARS)
    moment = _EPOCH + timedelta(hours=hours)
    return moment.replace(tzinfo=None).isoformat()[: len("YYYY-MM-DDTHH:")]
