"""Compare the table of fixed limits in docs/configuration.md with the constants."""

import importlib
import re
from operator import attrgetter

from tests.docs.pages import ROOT

LIMITS = [
    ("domain/paging:DEFAULT_PAGE_SIZE", "domain/paging:MAX_PAGE_SIZE"),
    ("transports/rpc/interaction_service:MAX_PAGE_BYTES",),
    ("transports/rest/pages:READ_BYTES", "transports/rest/pages:_SENT_BYTES"),
    ("transports/asgi/compression:MIN_BYTES", "transports/rest/responses:UNCOUNTED_BYTES"),
    ("app/ingest:MAX_BATCH",),
    ("app/ingest:MAX_FAILURES",),
    (
        "domain/validation:MAX_DATA_BYTES",
        "domain/validation:MAX_RESOURCE_TYPE_LENGTH",
        "domain/validation:MAX_RESOURCE_URL_LENGTH",
    ),
    ("app/page_tokens:MAX_TOKEN_LENGTH",),
    ("telemetry/request_context:MAX_REQUEST_ID",),
    ("app/authentication:SECONDS_KNOWN", "app/authentication:MAX_KNOWN"),
    ("admission/rate_limits:WRONG_AT_ONCE", "admission/rate_limits:WRONG_PER_SECOND"),
    ("admission/token_bucket:KeyedTokenBucket.MAX_NAMES",),
    ("transports/tls:_POLL_SECONDS",),
    (
        "transports/grpcio/channel_options:_KEEPALIVE_TIMEOUT_SECONDS",
        "transports/grpcio/channel_options:_CLIENT_PING_SECONDS",
        "transports/grpcio/channel_options:_AGE_GRACE_SECONDS",
    ),
    (
        "transports/grpcio/channel_options:_WAITING_CALLS",
        "transports/grpcio/channel_options:_MAX_WAITING_CALLS",
    ),
    ("transports/grpcio/listener:MAX_RETIRED", "transports/grpcio/listener:_REOPEN_SECONDS"),
    (
        "transports/grpcio/interceptors/request_reader:MAX_UNLIMITED",
        "transports/grpcio/interceptors/request_reader:UNLIMITED_SECONDS",
    ),
    ("telemetry/library_logs:LINES_A_SECOND",),
    ("transports/http1/protocol:_LINGER_SECONDS",),
    ("transports/http1/listener:_PAUSE_SECONDS",),
    ("cli/interactions:_DEADLINE_SECONDS",),
    ("store/write_queue:MAX_WAITING_ROWS", "store/write_queue:MAX_WAITING_BYTES"),
    (
        "store/write_queue:MAX_ROWS_PER_COMMIT",
        "store/write_queue:MAX_ROWS_PER_ACCOUNT",
        "store/write_queue:MAX_BYTES_PER_COMMIT",
    ),
    ("store/postgres/dsn:CONNECT_SECONDS",),
    ("store/postgres/batching:GET_LANES", "store/postgres/batching:RECORD_LANES"),
    (
        "store/postgres/replica/replica:ANSWER_SECONDS",
        "store/postgres/replica/store:MOMENT_SECONDS",
    ),
    ("app/consistency:MAX_TOKEN_LENGTH",),
    ("store/postgres/pool:ATTEMPTS",),
    ("store/postgres/schema_lock:WAIT_FOR_ANOTHER_SECONDS",),
    ("store/sqlite/transactions:BUSY_TIMEOUT_SECONDS",),
    ("store/sqlite/connection:CACHE_BYTES", "store/sqlite/connection:JOURNAL_LIMIT_BYTES"),
    (
        "store/sqlite/erasure/wal_truncation:DELAY_SECONDS",
        "store/sqlite/erasure/wal_truncation:ERASED_WITHIN_SECONDS",
    ),
    ("runtime/health:PROBE_SECONDS", "runtime/health:PROBE_TIMEOUT_SECONDS"),
    ("store/sqlite/probe:QUICK_CHECK_SECONDS",),
    ("app/retention:PASS_SECONDS", "app/retention:PAUSE_SECONDS", "app/bulk_delete:BUSY_SECONDS"),
    ("store/bulk_delete:MAX_DELETED", "store/bulk_delete:MAX_EXAMINED"),
    ("transfer/resource_reader:MAX_LINE_BYTES", "transfer/resource_reader:_MAX_DEPTH"),
]
"""The constants of each row as `module:name`, in any order."""
UNITS = {"KiB": 1024, "MiB": 1024**2, "ms": 0.001, "hour": 3600}
WORDS = {"every second": "1 second", "an hour": "1 hour"}

_QUANTITY = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)(?: (\w+))?")
_FILE = re.compile(r"`([\w/]+\.py)`")

Row = tuple[frozenset[str], tuple[float, ...]]
"""The files and the values of a table row."""


def quantities(text: str) -> list[float]:
    """Return the numbers in a text, in seconds or bytes; `A less B` is the difference."""
    for words, digits in WORDS.items():
        text = text.replace(words, digits)
    found = [float(n.replace(",", "")) * UNITS.get(unit, 1) for n, unit in _QUANTITY.findall(text)]
    return [found[0] - found[1]] if " less " in text else found


def documented() -> set[Row]:
    text = (ROOT / "docs" / "configuration.md").read_text()
    table = text.partition("\n## What is not a setting\n")[2].partition("\n## ")[0]
    lines = table.strip().splitlines()[2:]
    return {
        (frozenset(_FILE.findall(where)), tuple(sorted(quantities(value))))
        for _, value, where in (line.strip("| ").split(" | ") for line in lines)
        if quantities(value)
    }


def constant(name: str) -> float:
    module, _, attribute = name.partition(":")
    found = importlib.import_module(f"interaction_svc.{module.replace('/', '.')}")
    return float(attrgetter(attribute)(found))


def test_the_table_of_fixed_limits_has_the_values_of_the_constants() -> None:
    constants = {
        (
            frozenset(f"{name.partition(':')[0]}.py" for name in row),
            tuple(sorted(map(constant, row))),
        )
        for row in LIMITS
    }
    assert documented() == constants
