"""Test the compose file: its references exist, and secrets are in separate files."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from testing.paths import ROOT
from testing.process import run

from interaction_svc import __version__
from interaction_svc.transports.address import Address
from tests.deploy.manifests import (
    COMPOSE,
    DEPLOY,
    check_drain,
    compose,
    compose_servers,
    settings_of,
    tool,
    unknown_settings,
)

SERVICES: dict[str, Any] = compose()["services"]


def validate(path: Path) -> str:
    """Return the errors of a compose file by the schema of the Compose Specification."""
    checked = tool(
        sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path
    )
    assert (checked.returncode == 0) == ("ok" in checked.stdout)
    return "" if checked.returncode == 0 else checked.stdout


def test_the_compose_specification_accepts_it() -> None:
    assert validate(COMPOSE) == ""


def test_the_validator_finds_a_misspelt_key(tmp_path: Path) -> None:
    broken = compose()
    broken["services"]["server-2"]["healthchecks"] = {}
    path = tmp_path / "compose.yaml"
    path.write_text(yaml.safe_dump(broken))
    assert "healthchecks" in validate(path)


def test_what_it_refers_to_is_there() -> None:
    given = compose()
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= set(given["secrets"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert named <= set(given["volumes"])
        for name, path in service["environment"].items():
            folder, _, secret = str(path).rpartition("/")
            if folder == "/run/secrets":
                assert secret in service["secrets"], name


def test_secrets_are_files_that_git_and_the_image_leave_alone() -> None:
    for secret in compose()["secrets"].values():
        path = DEPLOY / secret["file"]
        assert tool("git", "check-ignore", path, cwd=ROOT).returncode == 0
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or name.endswith("_FILE")
            assert "://" not in value or "@" not in value


def test_variables_are_settings() -> None:
    for name in ("migrate", *compose_servers()):
        environment = SERVICES[name]["environment"]
        assert unknown_settings(environment) == set()
        assert all(isinstance(value, str) for value in environment.values())
        settings_of(environment)


def test_commands_are_there() -> None:
    for service in SERVICES.values():
        if "command" in service:
            assert run(*service["command"], "--help").returncode == 0


def test_servers_begin_when_the_schema_is_up_to_date() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for server in compose_servers().values():
        assert server["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def test_there_are_two_servers_that_differ_in_their_addresses_alone() -> None:
    first, second = compose_servers().values()
    for server in (first, second):
        ports = [port.split(":") for port in server.pop("ports")]
        # On other addresses than loopback, other machines could reach the servers.
        assert {host for host, _, _ in ports} == {"127.0.0.1"}
        settings = settings_of(server["environment"])
        addresses = (settings.grpc_address, settings.http_address, settings.metrics_address)
        assert [inner for _, _, inner in ports] == [
            str(Address.parse(address).port) for address in addresses
        ]
        assert server["environment"].pop("INTERACTION_SVC_PUBLIC_URL") == (
            f"https://localhost:{ports[1][1]}"
        )
    assert first == second


def test_it_has_drained_before_it_is_killed() -> None:
    for server in compose_servers().values():
        grace = server["stop_grace_period"]
        assert grace.endswith("s")
        check_drain(settings_of(server["environment"]), float(grace.removesuffix("s")))


@pytest.mark.parametrize("name", ["migrate", *compose_servers()])
def test_it_runs_with_the_least_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service  # the image sets a user that is not root


def test_images_are_pinned_to_versions() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images.pop("postgres").partition(":")[2].isdigit()
    assert set(images.values()) == {f"interaction-svc:{__version__}"}
    build = SERVICES["migrate"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
