"""Read the files of deploy/ and run the validators."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from testing.paths import ROOT

from interaction_svc.runtime.settings import CLIENT_SETTINGS, ENV_PREFIX, Settings, load_settings

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DOCKERFILE = DEPLOY / "Dockerfile"
GUIDE = ROOT / "docs" / "deployment.md"
TOOLS = Path(sys.executable).parent

SERVER_OVERLAYS = ("tls", "mesh")
OVERLAYS = (*SERVER_OVERLAYS, "migrate", "admin")
KUBERNETES_VERSIONS = ("1.31", "1.37")
"""The first version with all features in use, and the latest that the validator knows."""

Manifest = dict[str, Any]

needs_kustomize = pytest.mark.skipif(
    shutil.which("kustomize") is None, reason="needs Go, to build kustomize"
)


def tool(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd
    )


def build(folder: Path) -> str:
    built = tool("kustomize", "build", folder)
    assert built.returncode == 0, built.stderr
    return built.stdout


@cache
def text_of(overlay: str) -> str:
    """Return an overlay as kustomize renders it."""
    return build(DEPLOY / "kubernetes" / overlay)


def objects_of(overlay: str) -> list[Manifest]:
    return list(yaml.safe_load_all(text_of(overlay)))


def of_kind(objects: Iterable[Manifest], kind: str) -> list[Manifest]:
    return [found for found in objects if found["kind"] == kind]


def pod_of(overlay: str) -> Manifest:
    """Return the only Pod or Pod template of an overlay: its metadata and spec."""
    objects = objects_of(overlay)
    pods = of_kind(objects, "Pod")
    for kind in ("Deployment", "Job"):
        pods += [found["spec"]["template"] for found in of_kind(objects, kind)]
    (pod,) = pods
    return pod


def container_of(overlay: str) -> Manifest:
    (container,) = pod_of(overlay)["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def environment_of(overlay: str) -> dict[str, str]:
    """Return the variables that a container gets from ConfigMaps, without those from Secrets."""
    maps = {found["metadata"]["name"]: found for found in of_kind(objects_of(overlay), "ConfigMap")}
    environment: dict[str, str] = {}
    for source in container_of(overlay).get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]["data"]
    return environment


def names_of(overlay: str) -> set[str]:
    """Return the names of all variables of a container, including those from Secrets."""
    return {*environment_of(overlay), *(named["name"] for named in container_of(overlay)["env"])}


def compose() -> Manifest:
    loaded = yaml.safe_load(COMPOSE.read_text())
    assert isinstance(loaded, dict)
    return loaded


def compose_servers() -> dict[str, Manifest]:
    services = compose()["services"]
    return {name: found for name, found in services.items() if name.startswith("server")}


def unknown_settings(names: Iterable[str]) -> set[str]:
    """Return the names with the service's prefix that are no settings of a server."""
    known = {name for name in (*Settings.model_fields, "config") if name not in CLIENT_SETTINGS}
    return {
        name
        for name in names
        if name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX).lower() not in known
    }


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Load the settings as the service does, from this environment only."""
    with mock.patch.dict(os.environ, environment, clear=True):
        return load_settings()


def check_drain(settings: Settings, grace_seconds: float) -> None:
    """Check that the grace period covers both drain settings and the closing of the store."""
    closing_seconds = 5
    assert settings.drain_delay_seconds > 0
    assert settings.drain_delay_seconds + settings.drain_seconds + closing_seconds <= grace_seconds


def dockerfile(instruction: str) -> list[str]:
    """Return the arguments of each `instruction` in the Dockerfile."""
    lines = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{instruction} ")]
