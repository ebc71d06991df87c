"""Test the files that the image is built from, its user, and its command."""

import json
import tomllib

from testing.paths import ROOT
from testing.process import run

from interaction_svc.transports.address import Address
from tests.deploy.manifests import DOCKERFILE, TOOLS, dockerfile, settings_of, tool

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def copied() -> set[str]:
    """Return the paths that the Dockerfile copies from the repository."""
    copies = [line.split() for line in dockerfile("COPY") if not line.startswith("--from")]
    return {source for *sources, _ in copies for source in sources}


def test_hadolint_accepts_it() -> None:
    checked = tool(TOOLS / "hadolint", DOCKERFILE)
    assert checked.returncode == 0, checked.stdout


def test_it_is_built_from_what_the_package_is_made_of_and_nothing_else() -> None:
    assert copied() == {
        "requirements", "pyproject.toml", "src", PROJECT["readme"], *PROJECT["license-files"],
    }  # fmt: skip
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert patterns[1] == "*"
    assert {line[1:] for line in patterns if line.startswith("!")} == copied()


def test_its_user_is_a_number_and_not_root() -> None:
    (user,) = dockerfile("USER")
    assert all(part.isdigit() and int(part) > 0 for part in user.split(":"))


def test_it_runs_the_command_line_and_serves() -> None:
    (entry,) = dockerfile("ENTRYPOINT")
    (command,) = dockerfile("CMD")
    assert json.loads(entry)[0] in PROJECT["scripts"]
    assert run(*json.loads(entry)[1:], *json.loads(command), "--help").returncode == 0


def test_it_names_the_ports() -> None:
    settings = settings_of({})
    addresses = (settings.grpc_address, settings.http_address, settings.metrics_address)
    (exposed,) = dockerfile("EXPOSE")
    assert exposed.split() == [str(Address.parse(address).port) for address in addresses]
