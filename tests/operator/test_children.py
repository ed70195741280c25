"""What is true of the children of every relay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.desired.names import ENDINGS, Component
from mailrelay_operator.generate import generated_names
from tests.operator.relays import CASES, body, case, child, inputs, pod_specs, relay

EVERY = [pytest.param(desired(case(name), inputs()), id=name) for name in CASES]
# Kubernetes' names: RFC 1123 labels, of Services RFC 1035 ones.
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST = "m" + "x" * 39  # names of relays have 40 characters at most


def containers(children: tuple[Manifest, ...]) -> Iterator[Manifest]:
    for spec in pod_specs(children).values():
        yield from spec["containers"]


@pytest.mark.parametrize("children", EVERY)
def test_every_pod_passes_the_restricted_pod_security_standard(
    children: tuple[Manifest, ...],
) -> None:
    for spec in pod_specs(children).values():
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        assert {key for volume in spec["volumes"] for key in volume} <= {"name", *allowed}
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own["readOnlyRootFilesystem"] is True
            assert not any("hostPort" in port for port in container.get("ports", ()))


@pytest.mark.parametrize("children", EVERY)
def test_no_pod_has_a_token_for_the_api_or_services_in_its_environment(
    children: tuple[Manifest, ...],
) -> None:
    (account,) = (each for each in children if each["kind"] == "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    for spec in pod_specs(children).values():
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["serviceAccountName"] == account["metadata"]["name"]


@pytest.mark.parametrize("children", EVERY)
def test_every_container_has_requests_and_a_limit_of_memory(children: tuple[Manifest, ...]) -> None:
    for container in containers(children):
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("children", EVERY)
def test_every_container_that_stays_is_probed_at_a_port_that_it_has(
    children: tuple[Manifest, ...],
) -> None:
    for component, spec in pod_specs(children).items():
        (container,) = spec["containers"]
        probes = [key for key in container if key.endswith("Probe")]
        assert len(probes) == (0 if component == "streams" else 3)
        ports = {port["name"] for port in container.get("ports", ())}
        assert {container[key]["httpGet"]["port"] for key in probes} <= ports


@pytest.mark.parametrize("children", EVERY)
def test_no_secret_is_in_a_child_and_none_in_an_environment(children: tuple[Manifest, ...]) -> None:
    assert "Secret" not in {each["kind"] for each in children}
    for container in containers(children):
        for variable in container.get("env", ()):
            assert "secretKeyRef" not in json.dumps(variable)
        assert "envFrom" not in container


@pytest.mark.parametrize("children", EVERY)
def test_files_of_secrets_are_for_the_pods_group_and_nobody_else(
    children: tuple[Manifest, ...],
) -> None:
    for spec in pod_specs(children).values():
        assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
        for volume in spec["volumes"]:
            for kind in ("secret", "projected"):
                if kind in volume:
                    assert volume[kind]["defaultMode"] == 0o440


@pytest.mark.parametrize("children", EVERY)
def test_every_volume_is_mounted_and_every_mount_has_a_volume(
    children: tuple[Manifest, ...],
) -> None:
    for each in children:
        if "template" in each.get("spec", {}):
            spec = each["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            volumes = [volume["name"] for volume in spec["volumes"]]
            templates = each["spec"].get("volumeClaimTemplates", ())
            volumes += [template["metadata"]["name"] for template in templates]
            mounts = [mount["name"] for mount in container["volumeMounts"]]
            assert sorted(mounts) == sorted(volumes)
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("children", EVERY)
def test_no_two_children_have_the_same_name_and_each_has_the_relays_labels(
    children: tuple[Manifest, ...],
) -> None:
    titles = [(each["kind"], each["metadata"]["name"]) for each in children]
    assert len(set(titles)) == len(titles)
    for each in children:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "mail"
        assert labels["app.kubernetes.io/managed-by"] == "mailrelay-operator"
        assert each["metadata"]["namespace"] == "apps"


@pytest.mark.parametrize("children", EVERY)
def test_selectors_find_the_components_own_pods_and_no_others(
    children: tuple[Manifest, ...],
) -> None:
    for each in children:
        if each["kind"] in {"Deployment", "StatefulSet"}:
            selector = each["spec"]["selector"]["matchLabels"]
            labels = each["spec"]["template"]["metadata"]["labels"]
            assert selector.items() <= labels.items()
            assert selector["app.kubernetes.io/component"] in {part.value for part in Component}


@pytest.mark.parametrize("children", EVERY)
def test_a_child_goes_with_its_relay(children: tuple[Manifest, ...]) -> None:
    for each in children:
        owners = each["metadata"].get("ownerReferences", [])
        if each["kind"] != "PersistentVolumeClaim":
            (owner,) = owners
            assert owner["uid"] == body()["metadata"]["uid"]
            assert owner["controller"] is True


@pytest.mark.parametrize(("policy", "owners"), [("Retain", 0), ("Delete", 1)])
def test_volumes_stay_unless_the_resource_says_that_they_go(policy: str, owners: int) -> None:
    found = desired(relay({"deletionPolicy": policy, "queue": {"replicas": 3}}), inputs())
    claims = [each for each in found if each["kind"] == "PersistentVolumeClaim"]
    assert len(claims) == 4
    for claim in claims:
        assert len(claim["metadata"].get("ownerReferences", [])) == owners
    nats = child(found, "StatefulSet", "mail-nats")
    assert nats["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def test_the_claims_of_nats_are_those_that_its_stateful_set_looks_for() -> None:
    found = desired(relay({"queue": {"replicas": 3}}), inputs())
    nats = child(found, "StatefulSet", "mail-nats")
    (template,) = nats["spec"]["volumeClaimTemplates"]
    names = [f"{template['metadata']['name']}-mail-nats-{number}" for number in range(3)]
    kinds = [each["kind"] for each in found]
    for name in names:
        claim = child(found, "PersistentVolumeClaim", name)
        assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
        assert found.index(claim) < kinds.index("StatefulSet")


def test_a_volume_that_grows_leaves_what_cannot_be_changed_as_it_is() -> None:
    small = desired(relay({"queue": {"storage": {"size": "10Gi"}}}), inputs())
    large = desired(relay({"queue": {"storage": {"size": "20Gi"}}}), inputs())
    sets = [child(each, "StatefulSet", "mail-nats")["spec"] for each in (small, large)]
    for key in ("volumeClaimTemplates", "serviceName", "selector", "podManagementPolicy"):
        assert sets[0][key] == sets[1][key]


@pytest.mark.parametrize("servers", [1, 3])
def test_every_name_fits_however_long_the_relays_is(servers: int) -> None:
    resource = relay({"queue": {"replicas": servers}}, name=LONGEST)
    found = desired(resource, inputs())
    for each in found:
        name = each["metadata"]["name"]
        pattern = SERVICE_NAME if each["kind"] == "Service" else NAME
        assert pattern.fullmatch(name), name
        # Pods of a Job and a StatefulSet, and their labels, have a few characters more.
        assert len(name) <= 63 - (6 if each["kind"] in {"Job", "StatefulSet"} else 0), name
        for value in each["metadata"]["labels"].values():
            assert len(value) <= 63
    for name in generated_names(resource):
        assert len(name) <= 63


def test_two_relays_of_a_namespace_never_want_the_same_name() -> None:
    """One relay may be called as another one with an ending: `mail`, `mail-nats`."""
    for kind, endings in ENDINGS.items():
        clashes = [
            (one, other)
            for one in endings
            for other in endings
            if one != other and one.endswith(f"-{other}")
        ]
        assert clashes == [], kind


@pytest.mark.parametrize("name", CASES)
def test_the_endings_are_those_that_children_have(name: str) -> None:
    resource = case(name)
    for each in desired(resource, inputs()):
        ending = each["metadata"]["name"].removeprefix("mail-")
        if each["kind"] not in {"Job", "PersistentVolumeClaim"}:
            assert ending in ENDINGS[each["kind"]]
    assert {name.removeprefix("mail-") for name in generated_names(resource)} <= set(
        ENDINGS["Secret"]
    )


def test_a_deployment_says_nothing_of_replicas_that_others_decide() -> None:
    found = desired(relay({"sender": {"scaledExternally": True}}), inputs())
    assert "replicas" not in child(found, "Deployment", "mail-sender")["spec"]


def test_the_operators_number_of_senders_is_the_deployments() -> None:
    spec = {"sender": {"autoscaling": {"minReplicas": 0, "maxReplicas": 9}}}
    for number in (0, 7):
        found = desired(relay(spec), inputs(sender_replicas=number))
        assert child(found, "Deployment", "mail-sender")["spec"]["replicas"] == number


def test_add_ons_are_used_only_where_they_are_there() -> None:
    spec = {"ingress": {"tls": {"issuerRef": {"name": "letsencrypt"}}}}
    kinds = {each["kind"] for each in desired(relay(spec), inputs())}
    assert {"Certificate", "PodMonitor"} <= kinds
    without = inputs(has_certificates=False, has_pod_monitors=False)
    kinds = {each["kind"] for each in desired(relay(spec), without)}
    assert not {"Certificate", "PodMonitor"} & kinds


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, ({"cpu": "100m", "memory": "256Mi"}, {"memory": "512Mi"})),
        (
            {"requests": {"memory": "1Gi"}},  # above the default limit
            ({"cpu": "100m", "memory": "1Gi"}, {"memory": "1Gi"}),
        ),
        (
            {"limits": {"memory": "128Mi", "cpu": "50m"}},  # below the default requests
            ({"cpu": "50m", "memory": "128Mi"}, {"memory": "128Mi", "cpu": "50m"}),
        ),
        (
            {"requests": {"memory": "64Mi"}, "limits": {"memory": "2Gi"}},
            ({"cpu": "100m", "memory": "64Mi"}, {"memory": "2Gi"}),
        ),
        (
            {"requests": {"ephemeral-storage": "1Gi"}},
            (
                {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
                {"memory": "512Mi"},
            ),
        ),
    ],
)
def test_no_default_contradicts_the_resources_that_people_set(
    resources: dict[str, Any], expected: tuple[dict[str, str], dict[str, str]]
) -> None:
    spec = {"ingress": {"pods": {"resources": resources}}}
    (container,) = pod_specs(desired(relay(spec), inputs()))["ingress"]["containers"]
    assert (container["resources"]["requests"], container["resources"]["limits"]) == expected


@pytest.mark.parametrize("families", [["IPv4"], ["IPv6", "IPv4"]])
def test_pods_listen_in_both_families_whatever_their_service_has(families: list[str]) -> None:
    service = {"ipFamilies": families, "ipFamilyPolicy": "PreferDualStack"}
    spec = {"ingress": {"service": service}, "queue": {"replicas": 3}}
    found = desired(relay(spec), inputs())
    for component in ("ingress", "sender", "monitor"):
        (container,) = pod_specs(found)[component]["containers"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment["MAILRELAY_PROBE_ADDRESS"] == "*:8026"
    config = child(found, "ConfigMap", "mail-nats-conf")["data"]["nats.conf"]
    assert '"listen": "0.0.0.0:4222"' in config  # both: test_pods_as_processes
    assert child(found, "Service", "mail-ingress")["spec"]["ipFamilies"] == families
