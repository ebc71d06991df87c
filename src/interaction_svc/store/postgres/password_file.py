"""Password files as in libpq: `host:port:database:user:password`; the first match is used.

asyncpg's own reader keeps the backslash in front of an escaped colon (asyncpg #1249), and fails on
a line with too few fields.
"""

import stat
from pathlib import Path

from interaction_svc.store.postgres.dsn_parameters import ParameterError

_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_DEFAULT = ".pgpass"


def find_password(
    file: str | None, *, host: str | None, port: int, database: str, user: str
) -> str | None:
    """Return the password from the file, or from ~/.pgpass; None if no line matches.

    Raises ParameterError if the given `file` is unusable. An unusable ~/.pgpass is ignored.
    """
    try:
        path = Path(file) if file else Path.home() / _DEFAULT
        lines = _lines(path)
    except (OSError, RuntimeError, ValueError) as error:
        if file is None:
            return None
        if isinstance(error, UnicodeError):  # the error's text quotes the file
            problem = "it is not UTF-8"
        else:
            problem = getattr(error, "strerror", None) or str(error)
        raise ParameterError(f"the password file {file} can't be used: {problem}") from None
    names = {"localhost", host or "localhost"} if not host or host.startswith("/") else {host}
    for line in lines:
        fields = _fields(line)
        if len(fields) < 5 or fields[0] not in {"*", *names}:
            continue
        if all(
            given in ("*", wanted)
            for given, wanted in zip(fields[1:4], (str(port), database, user), strict=True)
        ):
            return fields[4]
    return None


def _lines(path: Path) -> list[str]:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError("it is not a file")
    if mode & _OF_OTHERS:
        raise ValueError("others may read it; set its mode to 0600")
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _fields(line: str) -> list[str]:
    """Split a line at each colon without a backslash before it; return at most 5 fields."""
    fields = [""]
    escapes = False
    for character in line:
        if not escapes and character == "\\":
            escapes = True
            continue
        if character == ":" and not escapes:
            fields.append("")
        else:
            fields[-1] += character
        escapes = False
    return fields[:5]
