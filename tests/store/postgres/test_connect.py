"""Errors of connection attempts, to a real server and to listeners that are not PostgreSQL."""

import asyncio
import getpass
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from testing.certificates import Authority, encrypted
from testing.postgres import HOST, PASSWORD, USER, Cluster, free_port, running_cluster

from interaction_svc.runtime.health import Health
from interaction_svc.store import PostgresLimits, StoreUnavailableError
from interaction_svc.store.factory import open_store
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.dsn import Dsn
from tests.store.postgres.databases import database, opened_store

__all__ = ["database"]

# asyncpg does not wait until TLS of a refused connection has ended.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")

OTHER_HOST = "127.0.0.2"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Cluster]:
    """A server with TLS at two addresses. Its certificate is for one of them."""
    with running_cluster() as cluster:
        files = authority.issue("postgres")
        for name, source in (
            ("server.crt", files.certificate),
            ("server.key", files.key),
            ("ca.crt", authority.path),
        ):
            path = cluster.data / name
            path.write_bytes(source.read_bytes())
            path.chmod(0o600)
            cluster.own(path)
        rules = cluster.data / "pg_hba.conf"
        rules.write_text(f"hostssl all by_certificate all cert\n{rules.read_text()}")
        cluster.configure(ssl="on", ssl_ca_file="ca.crt", listen_addresses=f"{HOST},{OTHER_HOST}")
        cluster.stop()
        cluster.start()
        cluster.sql(
            "postgres", "CREATE ROLE by_certificate LOGIN; CREATE ROLE no_login PASSWORD 'p'"
        )
        yield cluster


async def problem_of(url: str) -> str:
    with pytest.raises(StoreUnavailableError) as raised:
        await open_store(url, postgres=PostgresLimits(statement_seconds=5))
    text = str(raised.value)
    assert PASSWORD not in text
    assert "connection to PostgreSQL is lost" not in text
    return text


def url_of(cluster: Cluster, host: str = HOST, **options: object) -> str:
    given = {name: str(value) for name, value in options.items()}
    return cluster.url("postgres", port=None, **given).replace(f"@{HOST}", f"@{host}")


async def test_a_server_with_a_trusted_certificate_is_connected_to(
    secured: Cluster, authority: Authority
) -> None:
    name = secured.new_database()
    url = secured.url(name, sslmode="verify-full", sslrootcert=str(authority.path))
    async with opened_store(url) as store:
        await store.probe()


@pytest.mark.parametrize(
    ("host", "options", "problem"),
    [
        (
            HOST,
            {"sslrootcert": "other"},
            "certificate isn't trusted .*sslrootcert has to be the CA",
        ),
        (HOST, {"sslrootcert": "system"}, "certificate isn't trusted"),
        (HOST, {}, "need a CA to trust: write sslrootcert"),
        (OTHER_HOST, {"sslrootcert": "ca"}, f"not for the host {OTHER_HOST}"),
        (HOST, {"sslrootcert": "none"}, "sslrootcert can't be read: No such file"),
        (HOST, {"sslrootcert": "folder"}, "sslrootcert can't be read: Is a directory"),
        (HOST, {"sslrootcert": "key"}, "sslrootcert: the file has nothing in PEM"),
        (HOST, {"sslrootcert": "ca", "sslcrl": "none"}, "sslcrl can't be read: No such file"),
        (HOST, {"sslrootcert": "ca", "sslcert": "none"}, "sslcert can't be read: No such file"),
        (
            HOST,
            {"sslrootcert": "ca", "sslcert": "client", "sslkey": "none"},
            "sslkey can't be read: No such file",
        ),
        (
            HOST,
            {"sslrootcert": "ca", "sslcert": "client", "sslkey": "other-key"},
            "sslkey: the key is of another certificate",
        ),
        (
            HOST,
            {"sslrootcert": "ca", "sslcert": "client", "sslkey": "encrypted"},
            "sslpassword doesn't open it",
        ),
        (HOST, {"sslrootcert": "ca", "sslnegotiation": "direct"}, "needs PostgreSQL 17"),
    ],
)
async def test_tls_errors_name_their_cause(
    secured: Cluster,
    authority: Authority,
    tmp_path: Path,
    host: str,
    options: dict[str, str],
    problem: str,
) -> None:
    mine = Authority(tmp_path)
    client = mine.issue("client")
    files = {
        "ca": authority.path,
        "other": mine.path,
        "none": tmp_path / "none.pem",
        "folder": tmp_path,
        "key": client.key,
        "client": client.certificate,
        "other-key": mine.issue("other").key,
        "encrypted": encrypted(client.key),
    }
    given = {name: files.get(value, value) for name, value in options.items()}
    text = await problem_of(url_of(secured, host, sslmode="verify-full", **given))
    assert re.search(problem, text), text


async def test_a_client_certificate_is_accepted(
    secured: Cluster, authority: Authority, tmp_path: Path
) -> None:
    files = authority.client("client", "by_certificate", "client.example.com")
    url = (
        f"postgresql://by_certificate@{HOST}:{secured.port}/postgres?sslmode=verify-full"
        f"&sslrootcert={authority.path}&sslcert={files.certificate}&sslkey={encrypted(files.key)}"
    )
    db = await Connection.open(Dsn.parse(f"{url}&sslpassword=passphrase"), 5)
    assert (await db.fetch("SELECT current_user"))[0][0] == "by_certificate"
    await db.close()
    assert "sslpassword doesn't open it" in await problem_of(f"{url}&sslpassword=wrong")
    without = f"postgresql://by_certificate@{HOST}:{secured.port}/postgres?sslmode=require"
    assert re.search("with sslmode=require: pg_hba.conf .*28000", await problem_of(without))


@pytest.mark.parametrize(
    ("user", "database", "query", "problem"),
    [
        ("nobody:p", "postgres", "", "doesn't take the password .SQLSTATE 28P01"),
        (USER, "postgres", "", "or there is none: set PGPASSWORD.*28P01"),
        (f"{USER}:{{}}", "nowhere", "", "no such database .SQLSTATE 3D000"),
        (f"{USER}:{{}}", "postgres", "sslmode=require", "doesn't speak TLS: set ssl = on"),
        (f"{USER}:{{}}", "postgres", "work_mem=much", "value of a setting.*22023"),
        (f"{USER}:{{}}", "postgres", "options=-c%20no.such%20x", "`options`"),
        (f"{USER}:{{}}", "postgres", "options=-c%20nothing%3D1", "know a setting.*42704"),
    ],
)
async def test_refusals_of_the_server_name_their_cause(
    cluster: Cluster, user: str, database: str, query: str, problem: str
) -> None:
    credentials = user.format(PASSWORD.replace(" ", "%20"))
    url = f"postgresql://{credentials}@{HOST}:{cluster.port}/{database}?{query}"
    text = await problem_of(url.rstrip("?"))
    assert re.search(problem, text), text


async def test_an_exhausted_connection_limit_is_reported(cluster: Cluster) -> None:
    name = cluster.new_database()
    cluster.sql("postgres", f"ALTER DATABASE {name} CONNECTION LIMIT 0; CREATE ROLE few LOGIN")
    cluster.sql("postgres", "ALTER ROLE few PASSWORD 'p'")
    url = f"postgresql://few:p@{HOST}:{cluster.port}/{name}"
    assert "takes no more connections (SQLSTATE 53300)" in await problem_of(url)


async def test_each_of_several_servers_is_listed_with_its_problem(cluster: Cluster) -> None:
    port = free_port()
    url = f"postgresql://{USER}:wrong@{HOST}:{port},{HOST}:{cluster.port}/postgres"
    text = await problem_of(url)
    assert f"{HOST}:{port}: PostgreSQL can't be reached: Connection refused; " in text
    assert f"{HOST}:{cluster.port}: the server doesn't take the password" in text


async def test_a_name_with_two_refusing_addresses_is_reported() -> None:
    assert "Connection refused" in await problem_of(f"postgresql://localhost:{free_port()}/d")


async def test_an_unknown_host_is_reported() -> None:
    text = await problem_of("postgresql://nowhere.invalid/d")
    assert re.search("can't be reached: (Name or service|Temporary failure)", text)


@asynccontextmanager
async def listener(answer: bytes) -> AsyncIterator[int]:
    """Answer the first message of each connection with `answer`, and close it; yield the port."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(answered, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!l", 4 + len(content)) + content


def sasl(method: bytes) -> bytes:
    return message(b"R", struct.pack("!l", 10) + method + b"\0\0")


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "mode", "problem"),
    [
        (HTTP, "prefer", "what answers there is no PostgreSQL"),
        (HTTP, "verify-full&sslrootcert=system", "doesn't speak TLS.* or it is no PostgreSQL"),
        (HTTP, "disable", "closed while we logged in; perhaps .* is no PostgreSQL"),
        (b"", "prefer", "is no PostgreSQL, or a proxy without a server"),
        (b"", "disable", "is no PostgreSQL"),
        (b"N", "require", "doesn't speak TLS: set ssl = on"),
        (b"E\0\0\0\5x", "require", "refuses the connection before TLS"),
        (b"S", "require", "closed before the server let us in"),
        (sasl(b"SCRAM-SHA-256-PLUS"), "disable", "without channel binding"),
        (message(b"R", struct.pack("!l", 7)), "disable", r"Kerberos: pip install .*gssauth"),
        (message(b"R", struct.pack("!l", 2)), "disable", "way to authenticate that the driver"),
        (
            message(b"E", b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"),
            "disable",
            "the server is starting or stopping .SQLSTATE 57P03",
        ),
    ],
)
async def test_answers_of_other_programs_are_explained(
    answer: bytes, mode: str, problem: str
) -> None:
    async with listener(answer) as port:
        text = await problem_of(f"postgresql://u:{PASSWORD}@{HOST}:{port}/d?sslmode={mode}")
    assert re.search(problem, text), text
    assert "starting up" not in text


async def test_connecting_to_a_silent_listener_ends_after_connect_timeout() -> None:
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        text = await problem_of(f"postgresql://{HOST}:{port}/d?connect_timeout=1")
    assert "can't be reached in time: nothing that speaks its protocol" in text
    assert "within 1 seconds" in text


async def test_a_password_file_is_read_as_libpq_reads_it(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    """asyncpg's own reader keeps the backslashes, and fails on a short line."""
    role = f"r_{database}"
    cluster.sql(
        database,
        f"CREATE ROLE {role} LOGIN PASSWORD 'a:b\\c'; GRANT ALL ON SCHEMA public TO {role}",
    )
    file = tmp_path / "pgpass"
    file.write_text(
        f"# a comment\n\nshort:line\n{HOST}:1:*:{role}:no\n*:{cluster.port}:*:{role}:a\\:b\\\\c\n"
    )
    url = f"postgresql://{role}@{HOST}:{cluster.port}/{database}?passfile={file}"
    file.chmod(0o644)
    assert "others may read it; set its mode to 0600" in await problem_of(url)
    file.chmod(0o600)
    async with opened_store(url):
        pass
    assert "No such file" in await problem_of(f"{url}.none")
    file.write_bytes(b"*:*:*:*:\xff\n")
    assert "it is not UTF-8" in await problem_of(url)


async def test_a_process_whose_user_has_no_name_needs_one_in_the_url(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like in a container that runs as a user ID without an entry in /etc/passwd."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr(getpass, "getuser", nameless)
    text = await problem_of(f"postgresql://{HOST}:{cluster.port}/postgres")
    assert "the URL names no user" in text


async def test_the_socket_of_a_non_default_port_is_found(cluster: Cluster, database: str) -> None:
    folder = str(cluster.folder).replace("/", "%2F")
    password = PASSWORD.replace(" ", "%20")
    for url in (
        f"postgresql://{USER}:{password}@{folder}:{cluster.port}/{database}",
        f"postgresql://{USER}:{password}@/{database}?host={cluster.folder}&port={cluster.port}",
    ):
        async with opened_store(url):
            pass


async def test_the_application_name_of_the_url_reaches_the_server(
    cluster: Cluster, database: str
) -> None:
    names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = '{}'"
    for query, name in (("", "interaction-svc"), ("?application_name=mine", "mine")):
        async with opened_store(cluster.url(database) + query):
            assert cluster.sql("postgres", names.format(database)) == name


async def test_a_connection_has_tcp_keepalive(cluster: Cluster) -> None:
    for options, expected in (
        ("keepalives_idle=77&keepalives_interval=7&keepalives_count=3", (1, 77, 7, 3)),
        ("keepalives=0&keepalives_idle=77", (0, 7200, 75, 9)),
    ):
        db = await Connection.open(Dsn.parse(f"{cluster.url('postgres')}?{options}"), 5)
        transport: asyncio.Transport = db._raw._transport  # type: ignore[attr-defined]
        link = transport.get_extra_info("socket")
        found = (
            link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(
                link.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ),
        )
        await db.close()
        assert found[0] == expected[0]
        assert expected[0] == 0 or found == expected


async def test_a_store_that_is_read_only_by_default_is_not_opened_and_its_first_probe_logged(
    cluster: Cluster, database: str
) -> None:
    async with opened_store(cluster.url(database)):
        pass
    role = f"r_{database}"
    cluster.sql(
        database,
        f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'p';"
        f" ALTER ROLE {role} SET default_transaction_read_only = on",
    )
    url = f"postgresql://{role}:p@{HOST}:{cluster.port}/{database}"
    assert "default_transaction_read_only is on" in await problem_of(url)
    async with opened_store(url, migrate=False) as store:  # like the source of a copy
        with pytest.raises(StoreUnavailableError, match="default_transaction_read_only is on"):
            await store.probe()
        health = Health(store)
        with capture_logs() as lines:
            await health.start()
        assert ["default_transaction_read_only is on" in line["cause"] for line in lines] == [True]
        await health.stop()
