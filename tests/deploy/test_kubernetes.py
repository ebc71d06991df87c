"""Test the Kubernetes manifests as kustomize renders them."""

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
    GUIDE,
    KUBERNETES_VERSIONS,
    OVERLAYS,
    SERVER_OVERLAYS,
    build,
    check_drain,
    container_of,
    environment_of,
    names_of,
    needs_kustomize,
    objects_of,
    of_kind,
    pod_of,
    settings_of,
    text_of,
    tool,
    unknown_settings,
)

pytestmark = needs_kustomize
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
servers = pytest.mark.parametrize("overlay", SERVER_OVERLAYS)


def validate(manifests: str, folder: Path, version: str) -> str:
    """Return the errors by the schemas of a Kubernetes version, including unknown fields."""
    path = folder / "manifests.yaml"
    path.write_text(manifests)
    checked = tool(sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, path)
    said = checked.stdout + checked.stderr
    assert said.count("passed for resource") or checked.returncode
    return said if checked.returncode else ""


@every_overlay
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_schemas_of_kubernetes_accept_it(tmp_path: Path, overlay: str, version: str) -> None:
    assert validate(text_of(overlay), tmp_path, version) == ""


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_validator_finds_a_misspelt_field(tmp_path: Path, version: str) -> None:
    broken = text_of("tls").replace("maxUnavailable: 0", "maxUnavailible: 0")
    assert "maxUnavailible" in validate(broken, tmp_path, version)


@every_overlay
def test_variables_are_settings(overlay: str) -> None:
    assert unknown_settings(names_of(overlay)) == set()
    settings_of(environment_of(overlay))


@every_overlay
def test_it_gets_no_variables_of_services(overlay: str) -> None:
    """Service links would set variables such as INTERACTION_SVC_REST_PORT."""
    assert pod_of(overlay)["spec"]["enableServiceLinks"] is False


@every_overlay
def test_the_command_is_there(overlay: str) -> None:
    container = container_of(overlay)
    if "command" not in container:
        assert run(*container["args"], "--help").returncode == 0


@every_overlay
def test_secrets_are_referred_to_and_not_written(overlay: str) -> None:
    assert of_kind(objects_of(overlay), "Secret") == []
    assert "password" not in str(environment_of(overlay)).lower()
    variables = container_of(overlay)["env"]
    assert {named["name"]: named["valueFrom"]["secretKeyRef"] for named in variables} == {
        "INTERACTION_SVC_STORE": {"name": "interaction-svc-store", "key": "url"},
        "PGPASSWORD": {"name": "interaction-svc-store", "key": "password"},
    }  # fmt: skip


@every_overlay
def test_it_is_of_no_namespace_and_of_this_version(overlay: str) -> None:
    assert not [found for found in objects_of(overlay) if "namespace" in found["metadata"]]
    assert container_of(overlay)["image"] == f"interaction-svc:{__version__}"


@every_overlay
def test_it_keeps_to_the_restricted_pod_security_standard(overlay: str) -> None:
    pod, container = pod_of(overlay)["spec"], container_of(overlay)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


@servers
def test_ports_are_those_of_the_settings_and_reached_from_other_machines(overlay: str) -> None:
    settings = settings_of(environment_of(overlay))
    addresses = {
        "grpc": Address.parse(settings.grpc_address),
        "rest": Address.parse(settings.http_address),
        "metrics": Address.parse(settings.metrics_address),
    }
    assert not any(address.is_loopback for address in addresses.values())
    container, pod = container_of(overlay), pod_of(overlay)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {name: address.port for name, address in addresses.items()}
    probes = [container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")]
    for probe in probes:
        if "grpc" in probe:
            assert probe["grpc"]["port"] == ports["grpc"]
        else:
            assert probe["httpGet"]["port"] == "rest"
            assert probe["httpGet"].get("scheme", "HTTP").lower() == settings.http_scheme
    annotations = pod["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])
    objects = objects_of(overlay)
    for service in of_kind(objects, "Service"):
        (port,) = service["spec"]["ports"]
        assert port["port"] == ports[port["targetPort"]]
    assert settings.public_url == f"{settings.http_scheme}://interaction-svc-rest:8080"
    (policy,) = of_kind(objects, "NetworkPolicy")
    allowed = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert allowed == list(ports)


@servers
def test_all_that_selects_servers_selects_them_and_nothing_else(overlay: str) -> None:
    objects = objects_of(overlay)
    (deployment,) = of_kind(objects, "Deployment")
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    (policy,) = of_kind(objects, "NetworkPolicy")
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
        *(service["spec"]["selector"] for service in of_kind(objects, "Service")),
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in pod_of(overlay)["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert len(selectors) == 7

    def labels(of: str) -> set[tuple[str, str]]:
        return set(pod_of(of)["metadata"]["labels"].items())

    for selector in selectors:
        assert set(selector.items()) <= labels(overlay)
        assert not set(selector.items()) <= labels("migrate")
        assert not set(selector.items()) <= labels("admin")


@servers
def test_there_are_two_and_one_is_always_left(overlay: str) -> None:
    objects = objects_of(overlay)
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


@servers
def test_grpc_clients_get_the_addresses_of_all_servers(overlay: str) -> None:
    services = {
        found["metadata"]["name"]: found["spec"]
        for found in of_kind(objects_of(overlay), "Service")
    }
    assert services["interaction-svc-grpc"]["clusterIP"] == "None"
    assert services["interaction-svc-rest"]["type"] == "ClusterIP"
    assert "dns:///interaction-svc-grpc" in GUIDE.read_text()


@servers
def test_it_has_drained_before_it_is_killed(overlay: str) -> None:
    settings = settings_of(environment_of(overlay))
    check_drain(settings, pod_of(overlay)["spec"]["terminationGracePeriodSeconds"])


def test_the_certificate_is_where_its_secret_is_mounted() -> None:
    settings = settings_of(environment_of("tls"))
    pod, container = pod_of("tls")["spec"], container_of("tls")
    (volume,) = (volume for volume in pod["volumes"] if "secret" in volume)
    assert volume["secret"]["secretName"] == "interaction-svc-tls"
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == volume["name"])
    assert "subPath" not in mount  # a file mounted by subPath is not updated
    folder = Path(mount["mountPath"])
    # The keys of a Secret of the type kubernetes.io/tls.
    assert settings.tls_certificate == folder / "tls.crt"
    assert settings.tls_key == folder / "tls.key"
    # Root owns the files, and the group may read them.
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_the_overlay_of_the_guide_can_be_built(tmp_path: Path) -> None:
    block = next(
        text for text in GUIDE.read_text().split("```")[1::2] if "kind: Kustomization" in text
    )
    overlay: Any = yaml.safe_load(block.removeprefix("yaml\n"))
    (named,) = overlay["resources"]
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    given = tmp_path / "deploy" / Path(named).relative_to("interaction-svc/deploy")
    own = tmp_path / "own"
    own.mkdir()
    overlay["resources"] = [str(Path("..") / given.relative_to(tmp_path))]
    (own / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = build(own)
    assert validate(built, tmp_path, KUBERNETES_VERSIONS[-1]) == ""
    (deployment,) = of_kind(yaml.safe_load_all(built), "Deployment")
    assert deployment["metadata"]["namespace"] == overlay["namespace"]
    image = overlay["images"][0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"
    (config,) = of_kind(yaml.safe_load_all(built), "ConfigMap")
    assert unknown_settings(config["data"]) == set()
    settings_of(config["data"])
