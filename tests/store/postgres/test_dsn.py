"""URLs of PostgreSQL stores: parsed as by libpq, and never shown with a secret."""

import re
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interaction_svc.runtime.setting_types import check_database_url
from interaction_svc.runtime.settings import SettingsError, load_settings
from interaction_svc.store import StoreURLError
from interaction_svc.store.factory import check_url, name_of, shown_url
from interaction_svc.store.postgres.connect import server_settings
from interaction_svc.store.postgres.dsn import Dsn, Host
from interaction_svc.store.postgres.dsn_parameters import PARAMETERS


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the environment variables that libpq reads."""
    for parameter in PARAMETERS.values():
        if parameter.variable:
            monkeypatch.delenv(parameter.variable, raising=False)


def problem_of(url: str) -> str:
    with pytest.raises(StoreURLError) as raised:
        check_url(url)
    return str(raised.value)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://", [Host(None, None)]),
        ("postgresql:///db", [Host(None, None)]),
        ("postgresql://db1", [Host("db1", None)]),
        ("postgresql://db1:5433/x", [Host("db1", 5433)]),
        ("postgres://a.example.com,b:5433/x", [Host("a.example.com", None), Host("b", 5433)]),
        ("postgresql://a,b/x?port=1,2", [Host("a", 1), Host("b", 2)]),
        ("postgresql://a,b/x?port=7", [Host("a", 7), Host("b", 7)]),
        ("postgresql://u:p@[::1]:5433/x", [Host("::1", 5433)]),
        ("postgresql://[fe80::1%25eth0]/x", [Host("fe80::1%eth0", None)]),
        ("postgresql:///x?host=::1,10.0.0.1", [Host("::1", None), Host("10.0.0.1", None)]),
        ("postgresql:///x?host=/var/run/pg&port=5433", [Host("/var/run/pg", 5433)]),
        ("postgresql://%2Fvar%2Frun%2Fpg:5433/x", [Host("/var/run/pg", 5433)]),
        ("postgresql://u@%2Fvar%2Frun%2Fpg/x", [Host("/var/run/pg", None)]),
        ("postgresql:///x?hostaddr=10.0.0.1", [Host("10.0.0.1", None)]),
        (" POSTGRESQL://db1/x\n", [Host("db1", None)]),
    ],
)
def test_hosts_are_read_as_by_libpq(url: str, hosts: list[Host]) -> None:
    assert list(Dsn.parse(url).hosts) == hosts


@pytest.mark.parametrize(
    ("url", "user", "password", "database"),
    [
        ("postgresql://u:p@h/d", "u", "p", "d"),
        ("postgresql://admin@server:pass@127.0.0.1:1/db", "admin@server", "pass", "db"),
        ("postgresql://u:a@b:c@h/d", "u", "a@b:c", "d"),
        ("postgresql://u+v:p+q%20r@h/d+e", "u+v", "p+q r", "d+e"),
        ("postgresql://u%40v:%2F%3F%23%25@h/a%2Fb", "u@v", "/?#%", "a/b"),
        ("postgresql://h/d?user=u&password=p+q%26", "u", "p+q&", "d"),
        ("postgresql://h?dbname=d&%70assword=p%3D=", None, "p==", "d"),
        ("postgresql://u:p@h/d?user=v&password=q&dbname=e", "v", "q", "e"),
        ("postgresql://h/", None, None, None),
    ],
)
def test_credentials_are_read_as_by_libpq(
    url: str, user: str | None, password: str | None, database: str | None
) -> None:
    dsn = Dsn.parse(url)
    assert (dsn.get("user"), dsn.get("password"), dsn.get("dbname")) == (user, password, database)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (
            "channel_binding=require",
            "channel_binding: write disable or prefer.*sslmode=verify-full",
        ),
        ("sslmode=verifyfull", "sslmode: write disable, allow, .* or verify-full"),
        ("ssl=require", "ssl: write true.*sslmode"),
        ("sslrootcert=system&sslmode=require", "sslrootcert=system: write sslmode=verify-full"),
        ("sslnegotiation=direct", "sslnegotiation=direct: write sslmode=require"),
        ("connect_timeout=0", "connect_timeout: write a number from 1"),
        ("connect_timeout=5s", "connect_timeout: write a number from 1"),
        ("target_session_attrs=master", "target_session_attrs: write any, read-write"),
        ("keepalives_idle=-1", "keepalives_idle: write a number from 0"),
        ("gssencmode=require", "gssencmode: write disable or prefer"),
        ("require_auth=scram-sha-256", "require_auth: .*pg_hba.conf"),
        ("service=main", "service: .*write what the service's section says"),
        ("replication=true", "replication: write 0"),
        ("statement_timeout=5", "statement_timeout: set postgres_statement_seconds"),
        ("statement_cache_size=many", "statement_cache_size: write a number from 0"),
        ("conect_timeout=5", "conect_timeout, .*did you mean connect_timeout"),
        ("sslMode=require", "sslMode, .*did you mean sslmode"),
        ("serach_path=x", "serach_path, .*did you mean search_path"),
        ("geqo=off", "geqo, .*options=-c%20name%3Dvalue"),
        ("oauth_client_secret=x", "oauth_client_secret: .*OAuth"),
        ("host=a&hostaddr=10.0.0.1", "write one of host and hostaddr"),
        ("nonsense", "name=value"),
    ],
)
def test_unsupported_parameters_are_refused_by_name(query: str, problem: str) -> None:
    assert re.search(problem, problem_of(f"postgresql://h/d?{query}".replace("h/", "/", 1)))


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_every_parameter_of_libpq_is_accepted_or_refused_by_name(name: str) -> None:
    """No parameter reaches the server as a setting, whatever its value."""
    for value in ("1", "require", "surely-not-right"):
        try:
            dsn = Dsn.parse(f"postgresql:///d?{name}={value}")
        except StoreURLError as error:
            problem = str(error)
        else:
            problem, sent = name, server_settings(dsn, 1)
            assert name not in sent or name in ("application_name", "options")
        assert name in problem or "has a port" in problem


def test_parameters_of_libpq_are_not_sent_as_server_settings() -> None:
    query = (
        "channel_binding=prefer&connect_timeout=7&keepalives=1&keepalives_idle=30&sslmode=disable"
        "&target_session_attrs=any&gssencmode=disable&client_encoding=utf8&tcp_user_timeout=9"
        "&load_balance_hosts=random&fallback_application_name=f&max_protocol_version=latest"
    )
    dsn = Dsn.parse(
        f"postgresql://h/d?{query}&search_path=a,b&citus.use_x=on&options=-c%20jit%3Doff"
    )
    assert dsn.connect_seconds == 7
    assert server_settings(dsn, 1.5) == {
        "application_name": "f",
        "search_path": "a,b",
        "citus.use_x": "on",
        "options": "-c jit=off",
        "statement_timeout": "1500",
    }


def test_the_application_name_is_the_one_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Dsn.parse("postgresql://h/d").application_name == "interaction-svc"
    assert Dsn.parse("postgresql://h/d?application_name=mine").application_name == "mine"
    monkeypatch.setenv("PGAPPNAME", "of the environment")
    assert Dsn.parse("postgresql://h/d").application_name == "of the environment"
    assert Dsn.parse("postgresql://h/d?application_name=mine").application_name == "mine"


def test_environment_variables_supply_missing_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,/run/pg")
    monkeypatch.setenv("PGPORT", "5433")
    monkeypatch.setenv("PGPASSWORD", "s")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    dsn = Dsn.parse("postgresql://")
    assert dsn.hosts == (Host("a", 5433), Host("/run/pg", 5433))
    assert (dsn.connect_seconds, dsn.get("password")) == (3, "s")
    assert Dsn.parse("postgresql://b:1").hosts == (Host("b", 1),)
    monkeypatch.setenv("PGSSLMODE", "on")
    assert problem_of("postgresql://b").startswith("PGSSLMODE: write disable")


def test_random_load_balancing_tries_every_host() -> None:
    dsn = Dsn.parse("postgresql://a,b,c/d?load_balance_hosts=random")
    orders = {tuple(host.name for host, _ in dsn.attempts()) for _ in range(200)}
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+asyncpg://u:secret@h/d", "'postgresql+asyncpg://…' is not"),
        ("jdbc:postgresql://h/d?password=secret", "'…' is not"),
        ("host=/tmp password='a secret\\'s'", "'…' is not"),
        ("postgre%73ql://u:secret@h/d", "'…' is not"),
        ("u:secret@h/d", "'…' is not"),
        ("sqlite://u:secret@h/d", "'sqlite://…' is not"),
        ("sqlite:///a.db?password=secret", "'sqlite:///a.db?…' has"),
        ("postgresql:/u:secret@h/d", "postgresql://… is not"),
        ("postgresql://u:se/cret@h/d", "postgresql://… has"),
        ("postgresql://u:1/secret@h/d", "postgresql://… has"),
        ("postgresql://u:1/secret?x=y@h/d", "postgresql://… has"),
        ("postgresql://u:1?secret=x@h/d", "postgresql://… has an unknown parameter"),
        ("postgresql://u:1?secret@h/d", "postgresql://… has an option"),
        ("postgresql://u:secret#1@h/d", "postgresql://… has a #"),
        ("postgresql://u:%secret@h/d", "postgresql://… has a %"),
        ("postgresql://u:%ffsecret@h/d", "postgresql://… has bytes"),
        ("postgresql://u:sec\nret@h/d", "postgresql://… has a line break"),
        ("postgresql://secret%40h/d", "postgresql://… has a host"),
        ("postgresql://u:secret%40h/d", "postgresql://… has a port"),
        ("postgresql://h/d?password=a&secret=b", "postgresql://… has an unknown parameter"),
        ("postgresql://h/d?sslpassword=a&secret", "postgresql://… has an option"),
        ("postgresql://u:[secret@h/d:e@", "postgresql://… has an @"),
    ],
)
def test_only_the_scheme_of_an_invalid_url_is_shown(url: str, shown: str) -> None:
    text = problem_of(url)
    assert text.startswith(shown)
    assert "secret" not in text.replace("in a password", "")
    assert "sec\n" not in text


def test_a_file_is_named_in_an_error() -> None:
    assert "'interactions.db' is not" in problem_of("interactions.db")
    assert "'sqlite:interactions.db' is not" in problem_of("sqlite:interactions.db")


def test_a_url_in_the_log_hides_only_secrets() -> None:
    url = (
        "postgres://u:s@db1,[::1]:7/a%20b?sslmode=verify-full&sslrootcert=/etc/ca.pem"
        "&sslpassword=t&options=-c%20x.y%3Dz&application_name=x%26y"
    )
    assert shown_url(url) == (
        "postgresql://***@db1,[::1]:7/a%20b?sslmode=verify-full&sslrootcert=/etc/ca.pem"
        "&sslpassword=***&options=***&application_name=x%26y"
    )
    assert name_of(url) == "PostgreSQL db1,[::1]:7/a b"
    assert shown_url("sqlite:///a.db") == "sqlite:///a.db"


FORMS = (
    "postgresql://u:{}@h:5/d",
    "postgresql://admin@server:{}@h/d",
    "POSTGRES://u:{}@[::1]:5,h2:6/d?sslmode=require",
    "postgresql://h/d?password={}",
    "postgresql://h/d?user=u&%70assword={}&sslmode=require",
    "postgresql://h/d?sslpassword={}&connect_timeout=3",
    "postgresql://h/d?options=-c%20a.b%3D{}",
    "postgresql://u:{}@h/d?channel_binding=require",
    "postgresql://u:{}@h/d?conect_timeout=5",
    "postgresql://u:{}@h:port/d",
    "postgresql://u:{}@h/d#x",
    "postgresql+psycopg://u:{}@h/d",
    "postgre%73ql://u:{}@h/d",
    "mysql://u:{}@h/d",
    "host=h user=u password={} dbname=d",
    "host=h password='{}'",
    "u:{}@h/d",
    " postgresql://u:{}@h/d \n",
)
# The first characters occur in no text of ours. The rest is any text of a password.
SECRETS = st.text(st.characters(codec="utf-8"), max_size=12).map(lambda rest: f"Zq7{rest}xK9w")


def shown_by(show: Callable[[str], object], url: str) -> str:
    """Return the result of `show` for a URL, or the text of the error and of all its causes."""
    try:
        return repr(show(url))
    except (StoreURLError, ValueError) as error:
        texts: list[str] = []
        cause: BaseException | None = error
        while cause is not None:
            texts.append(f"{cause} {cause!r}")
            cause = cause.__cause__ or cause.__context__
        return "".join(texts)


@settings(max_examples=500)
@given(form=st.sampled_from(FORMS), secret=SECRETS, is_encoded=st.booleans())
def test_no_output_has_a_secret_in_it(form: str, secret: str, is_encoded: bool) -> None:
    url = form.format(quote(secret, safe="") if is_encoded else secret)
    for show in (check_url, name_of, shown_url):
        shown = shown_by(show, url)
        assert "Zq7" not in shown
        assert "xK9w" not in shown
    error = shown_by(check_database_url, url)
    assert error == repr(url.strip()) or not re.search("Zq7|xK9w", error)


@given(secret=SECRETS.filter(lambda secret: "\0" not in secret))
def test_an_encoded_password_is_decoded(secret: str) -> None:
    for form in ("postgresql://u:{}@h/d", "postgresql://h/d?password={}"):
        assert Dsn.parse(form.format(quote(secret, safe=""))).get("password") == secret


def test_errors_of_invalid_settings_hide_their_values() -> None:
    urls = "postgresql://u:Zq7@h:x/d", "host=h password=xK9w"
    with pytest.raises(SettingsError) as raised:
        load_settings(store=urls[0], replica_store=urls[1])
    text = "".join(traceback.format_exception(raised.value))
    assert "Zq7" not in text
    assert "xK9w" not in text
