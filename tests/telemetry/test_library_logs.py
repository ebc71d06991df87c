"""Log lines of libraries: no bytes of requests, and a limited number."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testing.hostile_client import SECRET
from testing.log_lines import logged
from testing.process import served

from interaction_svc.telemetry.library_logs import LINES_A_SECOND, UNKNOWN, log_stray_errors
from interaction_svc.telemetry.logs import configure_logs


@contextmanager
def configured() -> Iterator[None]:
    before = logging.root.handlers[:], threading.excepthook, sys.unraisablehook
    configure_logs()
    try:
        yield
    finally:
        logging.root.handlers[:], threading.excepthook, sys.unraisablehook = before
        logging.captureWarnings(False)


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    text = capfd.readouterr().err
    assert SECRET not in text
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["grpc._cython.cygrpc", "grpc.aio", "grpc", "asyncio", None])
def test_messages_that_may_quote_a_request_are_not_shown(
    capfd: pytest.CaptureFixture[str], name: str | None
) -> None:
    logger = logging.getLogger(name)
    with configured():
        logger.error("Something with %s", SECRET)
        logger.error(f"Task exception was never retrieved\nfuture: {SECRET}")
        logger.error(ValueError(SECRET))
        try:
            raise ValueError(SECRET)
        except ValueError:
            logger.exception(f"Unexpected [ValueError] raised by servicer method [{SECRET}]")
    lines = lines_of(capfd)
    assert [line["event"] for line in lines] == [
        UNKNOWN, "Task exception was never retrieved", UNKNOWN, "Unexpected",
    ]  # fmt: skip
    assert {line["logger"] for line in lines} == {name or "root"}
    assert [line.get("exception", [""])[0] for line in lines] == [
        "", "", "builtins.ValueError", "builtins.ValueError",
    ]  # fmt: skip


def test_messages_about_faults_of_clients_are_not_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with configured():
        logging.error(f"Invalid encoding on {SECRET}")
        logging.getLogger("grpc").error(f"ExecuteBatchError raised in core by [{SECRET}]")
    assert lines_of(capfd) == []


def test_messages_of_other_libraries_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with configured():
        logging.getLogger("uvicorn.error").warning("a text of %s", "uvicorn")
    (line,) = lines_of(capfd)
    assert (line["event"], line["level"]) == ("a text of uvicorn", "warning")


def test_lines_of_libraries_are_limited_and_the_others_counted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 7.0
    monkeypatch.setattr("interaction_svc.telemetry.library_logs.time.monotonic", lambda: now)
    with configured():
        for _ in range(LINES_A_SECOND + 25):
            logging.getLogger("grpc").error("Unexpected")
        now = 8.0
        for _ in range(2):
            logging.getLogger("grpc").error("Unexpected")
    lines = lines_of(capfd)
    assert len(lines) == LINES_A_SECOND + 2
    assert [line.get("suppressed") for line in lines[-3:]] == [None, 25, None]


def test_a_record_that_can_not_be_formatted_is_not_shown(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with configured():
        logging.getLogger("uvicorn").error("%d", SECRET)
    assert [line["event"] for line in lines_of(capfd)] == [UNKNOWN]


def test_errors_of_threads_and_finalizers_are_logged_without_their_texts(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Bad:
        def __del__(self) -> None:
            raise ValueError(SECRET)

    def fail() -> None:
        raise ValueError(SECRET)

    with configured():
        log_stray_errors()
        bad: Any = Bad()
        del bad
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert [(line["event"], line["exception"][0]) for line in lines_of(capfd)] == [
        ("an error could not be raised", "builtins.ValueError"),
        ("a thread has ended unexpectedly", "builtins.ValueError"),
    ]


@pytest.mark.parametrize("verbosity", ["NONE", "ERROR"])
def test_a_set_grpc_verbosity_is_warned_of(tmp_path: Path, verbosity: str) -> None:
    with served(tmp_path, env={"GRPC_VERBOSITY": verbosity}) as server:
        lines = logged(
            server, "GRPC_VERBOSITY is set: grpc writes bytes of requests to the log, keys too"
        )
    assert len(lines) == (verbosity != "NONE")
