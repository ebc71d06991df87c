"""The standard streams. They may be closed, full, without a reader, or not UTF-8."""

import errno
import fcntl
import io
import json
import os
import select
import stat
import sys
from contextlib import suppress
from typing import Any

import orjson
from rich.console import Console

from interaction_svc.domain.units import KIB

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_BUFFER_BYTES = 64 * KIB
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems without fsync."""
_MIN_COLUMNS = 80
"""The minimum width, which fits SIDs and times; a narrower terminal wraps the lines."""


class OutputError(Exception):
    """Standard output can't be written to. The text gives the reason."""


def prepare_streams() -> None:
    """Make the standard streams of the process safe to use.

    - The file descriptor of a closed stream is opened, so that no file or socket gets its number.
      Reading standard input or writing standard output then fails.
    - Errors of standard output become OutputError, except BrokenPipeError.
    - Errors of standard error are ignored.
    - Characters that the encoding lacks are replaced.
    """
    for number, mode in ((_STDIN, os.O_WRONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        if not _is_open(number):
            _open_null(number, mode)
    sys.stdout = _text(_Output(_STDOUT, "w", closefd=False), sys.stdout, "replace")
    sys.stderr = _text(_Messages(_STDERR, "w", closefd=False), sys.stderr, "backslashreplace")


def discard_output_if_closed() -> None:
    """Discard the output if standard output was closed, instead of failing."""
    if not _is_writable(_STDOUT):
        _open_null(_STDOUT, os.O_WRONLY)


def finish_output() -> None:
    """Flush standard output. Raises OutputError, BrokenPipeError.

    A file is also synced. Some file systems report only then that the disk is full, and a power
    failure must not lose the secret of a key that is stored.
    """
    sys.stdout.flush()
    try:
        number = sys.stdout.fileno()
    except OSError:  # in memory, in a test
        return
    if stat.S_ISREG(os.fstat(number).st_mode):
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise _output_error(error) from error


def abandon_output() -> None:
    """Discard the rest of the output, so that Python does not write it again at exit."""
    _open_null(_STDOUT, os.O_WRONLY)


def standard_input() -> io.BufferedReader:
    """Return standard input as bytes. Raises OSError, with a text for users, if it was closed."""
    if not _is_readable(_STDIN):
        raise OSError("standard input is closed")
    return open(_STDIN, "rb", closefd=False)


def print_json(value: Any, *, indented: bool = False) -> None:
    """Print a value as JSON, on one line or indented.

    If standard output is not UTF-8, the JSON is ASCII.
    """
    if sys.stdout.encoding.lower().replace("-", "") == "utf8":
        print_utf8_json(orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else 0) + b"\n")
    else:
        separators = None if indented else (",", ":")
        text_of = json.JSONEncoder(indent=2 if indented else None, separators=separators).encode
        sys.stdout.write(text_of(value) + "\n")


def print_utf8_json(text: bytes) -> None:
    """Print JSON in UTF-8; on a terminal, control characters are escaped."""
    if sys.stdout.isatty():
        sys.stdout.write("".join(map(_escaped, text.decode())))
    else:
        sys.stdout.buffer.write(text)


def _escaped(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def console_for_tables() -> Console:
    """Return a console of at least _MIN_COLUMNS columns, even if COLUMNS is smaller."""
    console = Console()
    console.width = max(console.width, _MIN_COLUMNS)
    return console


class _Output(io.FileIO):
    """Standard output."""

    def write(self, data: Any) -> int:
        """Write, and wait for a terminal or pipe that another program made non-blocking."""
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _output_error(error) from error
        return count


class _Messages(io.FileIO):
    """Standard error."""

    def write(self, data: Any) -> int:
        """Write, and ignore errors."""
        with suppress(OSError):
            if (count := super().write(data)) is not None:
                return count
        return len(data)


def _output_error(error: OSError) -> OutputError:
    why = "is closed" if not _is_writable(_STDOUT) else f"can't be written: {error.strerror}"
    return OutputError(f"standard output {why}")


def _text(raw: io.FileIO, before: Any, errors: str) -> io.TextIOWrapper:
    encoding = before.encoding if before is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw, _BUFFER_BYTES),
        encoding=encoding,
        errors=errors,
        line_buffering=raw.isatty() or raw.fileno() == _STDERR,
    )


def _open_null(number: int, mode: int) -> None:
    null = os.open(os.devnull, mode)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_readable(number: int) -> bool:
    return _mode(number) != os.O_WRONLY


def _is_writable(number: int) -> bool:
    return _mode(number) != os.O_RDONLY


def _mode(number: int) -> int:
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
