"""Certificates and client CAs that change while both listeners serve."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from testing.certificates import Authority, Files, replace
from testing.tls_listeners import REQUEST, Listeners, call, channel, connection, listening, serial

from interaction_svc.transports import tls

pytestmark = [pytest.mark.usefixtures("looks"), pytest.mark.both_loops]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Poll the files often, and return a list to which each polled path is added."""
    found: list[Path] = []
    stamp_of = tls._stamp_of

    def noted(path: Path) -> object:
        found.append(path)
        return stamp_of(path)

    monkeypatch.setattr(tls, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(tls, "_stamp_of", noted)
    return found


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


async def serials(listeners: Listeners, authority: Authority) -> set[str]:
    h2 = authority.context()
    h2.set_alpn_protocols(["h2"])
    return {
        await serial(listeners.http, authority.context()),
        await serial(listeners.grpc, h2),
    }


async def until(
    condition: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 20
) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if (await found) if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


async def test_new_connections_get_a_new_certificate_and_open_ones_continue(
    authority: Authority, logged: list[Any]
) -> None:
    async with listening(authority.issue()) as listeners:
        (old,) = await serials(listeners, authority)
        async with (
            connection(listeners.http, authority.context()) as (reader, writer),
            channel(listeners, authority) as opened,
        ):
            peer = await call(opened)

            async def ask() -> None:
                writer.write(REQUEST)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                await reader.readexactly(len(listeners.http.url("https")))

            await ask()
            authority.issue()
            await until(lambda: any(entry["event"] == "certificate loaded" for entry in logged))
            (new,) = await serials(listeners, authority)
            assert new != old
            entry = next(entry for entry in logged if entry["event"] == "certificate loaded")
            assert int(entry["serial"], 16) == int(new, 16)
            await ask()
            assert await call(opened) == peer


async def test_a_certificate_replaced_through_kubernetes_links_is_loaded(
    authority: Authority, tmp_path: Path, logged: list[Any]
) -> None:
    """Kubernetes replaces the link to the folder that the links of the files point to."""
    mount = tmp_path / "mount"
    mount.mkdir()
    for version in ("1", "2"):
        issued = authority.issue(f"server{version}")
        (mount / version).mkdir()
        shutil.copy(issued.certificate, mount / version / "tls.crt")
        shutil.copy(issued.key, mount / version / "tls.key")
    (mount / "..data").symlink_to("1")
    files = Files(mount / "tls.crt", mount / "tls.key")
    for path in (files.certificate, files.key):
        path.symlink_to(Path("..data") / path.name)
    async with listening(files) as listeners:
        (old,) = await serials(listeners, authority)
        (mount / "..new").symlink_to("2")
        os.replace(mount / "..new", mount / "..data")
        await until(lambda: any(entry["event"] == "certificate loaded" for entry in logged))
        (new,) = await serials(listeners, authority)
        assert new != old


@pytest.mark.parametrize("fault", ["cut", "other key", "gone", "empty"])
async def test_unusable_new_files_leave_the_old_in_use(
    authority: Authority, logged: list[Any], looks: list[Path], fault: str
) -> None:
    files = authority.issue()
    async with listening(files) as listeners:
        (old,) = await serials(listeners, authority)
        other = authority.issue("other")
        if fault == "cut":
            replace(files.certificate, other.certificate.read_bytes()[:300])
        elif fault == "other key":
            replace(files.certificate, other.certificate.read_bytes())
        elif fault == "gone":
            files.key.unlink()
        else:
            replace(files.key, b"")
        await until(lambda: bool(logged))
        assert await serials(listeners, authority) == {old}
        seen = len(looks)
        await until(lambda: len(looks) > seen + 20)
        (warning,) = logged
        assert warning["log_level"] == "warning"
        assert warning["problem"].startswith("tls_")
        assert str(files.certificate.parent) not in warning["problem"]
        authority.issue()
        await until(lambda: len(logged) > 1)
        assert logged[-1]["event"] == "certificate loaded"
        (new,) = await serials(listeners, authority)
        assert new != old


async def test_a_new_client_ca_is_used_for_new_connections(
    authority: Authority, tmp_path: Path, logged: list[Any]
) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    client = after.client("client", "ingest")
    trusted = tmp_path / "trusted.pem"
    replace(trusted, before.pem)
    async with listening(authority.issue(), trusted) as listeners:
        async with channel(listeners, authority, client) as opened:
            with pytest.raises(grpc.aio.AioRpcError):
                await call(opened)
        replace(trusted, before.pem + after.pem)
        await until(lambda: bool(logged))
        async with channel(listeners, authority, client) as opened:
            assert "ingest" in await call(opened)
