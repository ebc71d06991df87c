"""Start servers with the settings of deploy/, and run the probes of deploy/ on them."""

import signal
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing.api_keys import new_key
from testing.certificates import Authority
from testing.process import Served, run, served
from testing.wait import wait_until

from interaction_svc.transports.address import Address
from tests.deploy.manifests import (
    GUIDE,
    compose,
    compose_servers,
    container_of,
    environment_of,
    needs_kustomize,
    settings_of,
)

Probe = Callable[[Served], bool]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Deployed(NamedTuple):
    """The environment and the probes of a deployed server."""

    environment: dict[str, str]
    is_alive: Probe | None
    is_ready: Probe

    def flags(self) -> list[str]:
        """Return flags for free ports, because other servers may use the deployed ones."""
        settings = settings_of(self.environment)
        grpc_host = Address.parse(settings.grpc_address).host
        http_host = Address.parse(settings.http_address).host
        return ["--grpc-address", f"{grpc_host}:0", "--http-address", f"{http_host}:0"]


def kubelet(probe: dict[str, Any]) -> Probe:
    """Return a function that probes as the kubelet does: without a key or certificate check."""

    def asks_http(server: Served) -> bool:
        url = server.base_url + probe["httpGet"]["path"]
        assert url.startswith(probe["httpGet"].get("scheme", "HTTP").lower() + "://")
        with httpx.Client(verify=False, trust_env=False) as client:
            return client.get(url).is_success

    def asks_grpc(server: Served) -> bool:
        with grpc.insecure_channel(
            f"127.0.0.1:{Address.parse(server.grpc_address).port}"
        ) as channel:
            request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
            checked = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
        assert checked.status in (SERVING, NOT_SERVING)
        return bool(checked.status == SERVING)

    return asks_grpc if "grpc" in probe else asks_http


def of_kubernetes(overlay: str) -> Deployed:
    container = container_of(overlay)
    return Deployed(
        environment_of(overlay),
        kubelet(container["livenessProbe"]),
        kubelet(container["readinessProbe"]),
    )


def of_compose() -> Deployed:
    (given, _) = compose_servers().values()
    kind, python, *arguments = given["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")

    def is_ready(server: Served) -> bool:
        port = server.base_url.rpartition(":")[2]
        command = [argument.replace("8080", port) for argument in arguments]
        return subprocess.run([sys.executable, *command], check=False, timeout=60).returncode == 0

    return Deployed(given["environment"], None, is_ready)


@pytest.fixture(
    params=[
        "compose",
        pytest.param("tls", marks=needs_kustomize),
        pytest.param("mesh", marks=needs_kustomize),
    ]
)
def deployed(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> Deployed:
    """Return each deployment, with its files in the folder of the test."""
    issued = authority.issue()
    issued.certificate.rename(tmp_path / "tls.crt")
    issued.key.rename(tmp_path / "tls.key")
    (tmp_path / "interaction-svc.toml").write_text('store = "sqlite:///of-the-file.db"\n')
    given = of_compose() if request.param == "compose" else of_kubernetes(request.param)
    environment = dict(given.environment)
    for name, value in environment.items():
        for folder in ("/run/secrets/", "/etc/interaction-svc/tls/"):
            if value.startswith(folder):
                environment[name] = value.replace(folder, f"{tmp_path}/")
                assert Path(environment[name]).is_file(), f"{name} is no file of the secrets"
    return given._replace(environment=environment)


def test_it_starts_once_there_is_a_key_and_its_probes_follow_it(
    deployed: Deployed, tmp_path: Path
) -> None:
    flags = deployed.flags()
    store = tmp_path / "interactions.db"
    settings = settings_of(deployed.environment)
    if not settings.insecure:
        arguments = ("serve", *flags, "--store", f"sqlite:///{store}", "--no-metrics")
        refused = run(*arguments, stdin=None, cwd=tmp_path, **deployed.environment)
        assert refused.returncode == 2
        said = refused.stderr.decode()
        assert "make a key" in said
        assert "tls_certificate" not in said.splitlines()[-1], "the certificate is not enough"
    new_key(store, "admin")
    # The server drains until the second signal.
    flags += ["--drain-delay-seconds", "600"]
    with served(tmp_path, *flags, env=deployed.environment, status=128 + signal.SIGTERM) as server:
        assert "unknown setting" not in server.log.read_text()
        assert deployed.is_ready(server)
        server.terminate()
        wait_until(lambda: not deployed.is_ready(server))
        assert server.process.poll() is None
        if deployed.is_alive is not None:
            assert deployed.is_alive(server), "it would be killed while it drains"
        server.process.send_signal(signal.SIGTERM)


def test_the_guide_makes_the_secrets_of_the_compose_file(tmp_path: Path) -> None:
    block = next(text for text in GUIDE.read_text().split("```")[1::2] if "mkdir -m 700" in text)
    commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    (tmp_path / "deploy").mkdir()
    made = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=tmp_path, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "deploy" / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {path.name: path for path in folder.iterdir()}
    wanted = {Path(secret["file"]).name for secret in compose()["secrets"].values()}
    assert set(files) == wanted
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o644}
    password = files["postgres-password"].read_text().strip()
    url = tomllib.loads(files["interaction-svc.toml"].read_text())["store"]
    postgres = compose()["services"]["postgres"]["environment"]
    user, database = postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]
    assert url == f"postgresql://{user}:{password}@postgres:5432/{database}"
    new_key(tmp_path / "interactions.db", "admin")
    tls = ("--tls-certificate", str(files["tls.crt"]), "--tls-key", str(files["tls.key"]))
    context = ssl.create_default_context(cafile=files["tls.crt"])
    with (
        served(tmp_path, "--http-address", "0.0.0.0:0", *tls) as server,
        httpx.Client(verify=context, trust_env=False) as client,
    ):
        assert client.get(f"{server.base_url}/readyz").status_code == 200
