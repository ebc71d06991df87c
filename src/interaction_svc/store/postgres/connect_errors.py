"""Texts for operators about a failed connection: the cause and the remedy.

An error of the server is classified by its SQLSTATE, and an error of asyncpg by its message. No
text quotes data from a server.
"""

import os
import re
import socket
import ssl
from pathlib import Path

import asyncpg

from interaction_svc.store.postgres.dsn import Dsn, Host
from interaction_svc.store.postgres.dsn_parameters import ParameterError
from interaction_svc.store.postgres.errors import described, last_words, sqlstate
from interaction_svc.store.postgres.pgbouncer import (
    PROTOCOL_VIOLATION,
    pooler_text,
    unsupported_parameter,
)

_FROM_FILE = (
    "the server doesn't take the password, or there is none: set PGPASSWORD, or write a password"
    " file (PGPASSFILE, ~/.pgpass)"
)
_STATES = {
    "28000": "the server doesn't let this user in from here{mode}: pg_hba.conf has no rule for it,"
    " the role is missing or may not log in, or its certificate isn't taken",
    "28P01": "the server doesn't take the password",
    "3D000": "there is no such database",
    "42501": "the user may not connect to the database, or not make a setting that the URL asks"
    " for",
    "42704": "the server doesn't know a setting that the URL asks for",
    "22023": "the server doesn't take the value of a setting that the URL asks for",
    "55P02": "a setting that the URL asks for can't be set by a connection",
    "42601": "the server can't read `options` of the URL",
    "0A000": "the server speaks another version of PostgreSQL's protocol",
}
"""The meaning of a SQLSTATE at connection, if it differs from the meaning in a statement."""

_NO_TLS = "rejected SSL upgrade"
_TLS_REFUSED = "the server doesn't speak TLS: set ssl = on there; or it is no PostgreSQL"
_OTHER_PROGRAM = "what answers there is no PostgreSQL"
_WITHOUT_TLS_TOO = (None, "allow", "prefer")
_FROM_DRIVER = {
    "server sent an error response during SSL": "the server refuses the connection before TLS: its"
    " log says why",
    "unexpected connection_lost": "the connection was closed before the server sent anything: it is"
    " no PostgreSQL, or a proxy without a server behind it",
    "unsupported SASL Authentication methods": "the server asks for a way to authenticate that the"
    " driver doesn't know; it knows SCRAM-SHA-256 without channel binding",
    "could not verify server signature": "the server doesn't prove that it knows the password: it"
    " may be another",
    "unsupported authentication method": "the server asks for a way to authenticate that the driver"
    " doesn't know",
    "gssapi module not found": "the server asks for Kerberos: pip install 'asyncpg[gssauth]'",
    "unexpected error while performing authentication": "the driver can't log in the way the server"
    " asks for",
    "root certificate file": "sslmode=verify-ca and verify-full need a CA to trust: write"
    " sslrootcert=FILE, or sslrootcert=system",
    "target attribute": "no server is of the kind that target_session_attrs asks for",
}
"""Maps part of a message of asyncpg or asyncio to our text."""

_OF_FILES = (ssl.SSLError, FileNotFoundError, PermissionError, IsADirectoryError)
"""The errors that the files of the TLS parameters cause. A socket can raise them too."""


def explained(error: Exception, dsn: Dsn, host: Host) -> str:
    """Return the cause of a failed connection to this host of the URL."""
    error = last_words(error)
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error, dsn)
    if isinstance(error, ParameterError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, host)
    in_files = _of_files(dsn) if isinstance(error, _OF_FILES) else None
    return in_files or _of_link(error, dsn)


def _of_server(error: asyncpg.PostgresError, dsn: Dsn) -> str:
    state = sqlstate(error)
    if state == PROTOCOL_VIOLATION:
        return f"{_of_pooler(error, dsn)} (SQLSTATE {state})"
    if isinstance(error, asyncpg.ConnectionDoesNotExistError):  # raised by asyncpg
        return f"the connection was closed while we logged in; perhaps {_OTHER_PROGRAM}"
    if state == "28P01" and not dsn.get("password"):
        return f"{_FROM_FILE} (SQLSTATE {state})"
    text = _STATES.get(state)
    if text is None:
        return described(state)
    mode = f" with sslmode={dsn.sslmode or 'prefer'}"
    return f"{text.format(mode=mode)} (SQLSTATE {state})"


def _of_pooler(error: asyncpg.PostgresError, dsn: Dsn) -> str:
    name = unsupported_parameter(error)
    if name is None:
        return pooler_text(error) or "the server or a pooler refuses the connection: see its log"
    if name == "statement_timeout":
        return (
            "PgBouncer doesn't take the startup parameter statement_timeout: write"
            " statement_cache_size=0 into the URL, which transaction pooling needs as well, or set"
            " ignore_startup_parameters = statement_timeout in pgbouncer.ini"
        )
    # Only a name that we sent is shown, because another program at the address may send any text.
    sent = name in dsn.settings or name in dsn.parameters or name in (dsn.get("options") or "")
    return (
        f"PgBouncer doesn't take the startup parameter{f' {name}' if sent else ''}: leave it out of"
        " the URL and set it with ALTER ROLE, or name it in ignore_startup_parameters in"
        " pgbouncer.ini"
    )


def _of_certificate(error: ssl.SSLCertVerificationError, host: Host) -> str:
    reason = error.verify_message
    if error.verify_code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
        return f"TLS: the server's certificate is not for the host {host.name} ({reason})"
    if error.verify_code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED
        return f"TLS: the server's certificate isn't valid now ({reason})"
    return (
        f"TLS: the server's certificate isn't trusted ({reason}): sslrootcert has to be the CA that"
        " signed it"
    )


def _of_files(dsn: Dsn) -> str | None:
    """Return the text about the unusable file of the TLS parameters; None if all are usable."""
    files = {
        name: path
        for name in ("sslrootcert", "sslcrl", "sslcert", "sslkey")
        if (path := dsn.get(name)) and path != "system"
    }
    for name, path in files.items():
        try:
            Path(path).read_bytes()
        except OSError as error:
            return f"{name} can't be read: {error.strerror}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl"):
        try:
            if name in files:
                context.load_verify_locations(files[name])
        except ssl.SSLError:
            return f"{name}: the file has nothing in PEM that can be used"
    try:
        if "sslcert" in files:
            password = dsn.get("sslpassword") or ""
            context.load_cert_chain(files["sslcert"], files.get("sslkey"), lambda: password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "sslkey: the key is of another certificate than sslcert"
        return (
            "sslcert, sslkey: one of them is not PEM, or the key is encrypted and sslpassword"
            " doesn't open it"
        )
    return None


def _of_link(error: Exception, dsn: Dsn) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or 'the handshake was broken off'}"
    reason = _reason(error)
    if reason is not None:
        return f"PostgreSQL can't be reached: {reason}"
    if isinstance(error, TimeoutError):
        return (
            "PostgreSQL can't be reached in time: nothing that speaks its protocol answers within"
            f" {dsn.connect_seconds} seconds"
        )
    return _of_message(error, dsn)


def _of_message(error: Exception, dsn: Dsn) -> str:
    message = str(error)
    if _NO_TLS in message:  # with `prefer`, asyncpg accepts PostgreSQL's own refusal of TLS
        return _OTHER_PROGRAM if dsn.sslmode in _WITHOUT_TLS_TOO else _TLS_REFUSED
    found = next((text for part, text in _FROM_DRIVER.items() if part in message), None)
    if found is None and dsn.get("sslnegotiation") == "direct":
        return "the connection was closed: sslnegotiation=direct needs PostgreSQL 17 or newer"
    if found is None and isinstance(error, asyncpg.InternalClientError):
        return _OTHER_PROGRAM
    return found or "the connection was closed before the server let us in"


def _reason(error: Exception) -> str | None:
    """Return the text of an error of the operating system; None for another error."""
    if isinstance(error, UnicodeError):
        return "the host is not a valid DNS name"
    if isinstance(error, socket.gaierror):
        return error.strerror
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    # asyncio combines the errors of a name's addresses into one error without an errno.
    several = re.search(r"\[Errno (\d+)\]", str(error))
    return os.strerror(int(several[1])) if several else None
