"""What the chart renders is taken strictly by a real API server, whatever the values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mailrelay_operator.rights import OWN, RELAYS, rules
from mailrelay_operator.settings import VERSION, operator_settings
from tests.chart.helm import CHART, ROOT, Helm, named
from tests.chart.modes import MODES, mode
from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest, documents

pytestmark = pytest.mark.operator

CRD_FILE = ROOT / "operator" / "crd" / "mailrelays.yaml"
NAMESPACE = "mail-system"


async def test_the_api_server_takes_every_manifest_of_every_mode_strictly_and_without_a_warning(
    helm: Helm, admin: Client, namespace: str
) -> None:
    await admin.apply(CRD_FILE.read_text())
    await admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "given"}})
    faults = []
    for name in MODES:
        manifests = await helm.rendered(namespace, mode(name, namespace))
        assert manifests, name
        for manifest in manifests:
            try:
                await admin.apply(manifest, dry_run=True, strict=True)
            except ApiRefusedError as error:
                faults.append(f"{name}: {error}")
        faults += [f"{name}: {warning}" for warning in admin.warnings]
        admin.warnings.clear()
    assert faults == []


@pytest.mark.parametrize("name", MODES)
async def test_helm_finds_nothing_to_complain_of(name: str, renderer: Helm) -> None:
    said = await renderer.did("lint", "--strict", str(CHART), values=mode(name, NAMESPACE))
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("name", MODES)
async def test_every_object_has_the_labels_of_all_and_the_operator_takes_its_environment(
    name: str, renderer: Helm
) -> None:
    values = {
        **mode(name, NAMESPACE),
        "commonLabels": {"example.com/part": "mail"},
        "commonAnnotations": {"example.com/contact": "postmaster"},
    }
    manifests = await renderer.rendered(NAMESPACE, values)
    for manifest in manifests:
        metadata = manifest["metadata"]
        who = f"{manifest['kind']} {metadata['name']}"
        assert metadata["labels"]["example.com/part"] == "mail", who
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "mailrelay", who
        assert metadata["annotations"]["example.com/contact"] == "postmaster", who
    settings = operator_settings(environment(manifests))
    assert settings.namespace == NAMESPACE
    assert settings.watched == tuple(values.get("operator", {}).get("watchNamespaces", ()))
    assert settings.probe_address == "192.0.2.7:8080"


async def test_the_definition_is_the_operators_and_stays_unless_told_otherwise(
    renderer: Helm,
) -> None:
    name = "mailrelays.mailrelay.dev"
    found = named(await renderer.rendered(NAMESPACE), "CustomResourceDefinition", name)
    wanted = yaml.safe_load(CRD_FILE.read_text())
    assert found["spec"] == wanted["spec"]
    kept = {"helm.sh/resource-policy": "keep"}
    assert found["metadata"]["annotations"] == wanted["metadata"]["annotations"] | kept
    manifests = await renderer.rendered(NAMESPACE, {"crds": {"keep": False}})
    found = named(manifests, "CustomResourceDefinition", name)
    assert found["metadata"]["annotations"] == wanted["metadata"]["annotations"]


async def test_the_roles_are_the_operators_table(renderer: Helm) -> None:
    manifests = await renderer.rendered(NAMESPACE)
    assert named(manifests, "ClusterRole", "mailrelay-operator")["rules"] == rules(RELAYS)
    assert named(manifests, "Role", "mailrelay-operator-lease")["rules"] == rules(OWN)


async def test_an_operator_of_some_namespaces_has_rights_in_them_alone(renderer: Helm) -> None:
    values = {"operator": {"watchNamespaces": ["shop", "web"]}}
    manifests = await renderer.rendered(NAMESPACE, values)
    kinds = [each["kind"] for each in manifests]
    assert "ClusterRole" not in kinds
    assert "ClusterRoleBinding" not in kinds
    roles = [each for each in manifests if each["kind"] == "Role"]
    given = {each["metadata"]["namespace"]: each["rules"] for each in roles}
    assert given == {
        "shop": rules(RELAYS),
        "web": rules(RELAYS),
        NAMESPACE: rules(OWN),
    }
    bound = [each for each in manifests if each["kind"] == "RoleBinding"]
    account = {"kind": "ServiceAccount", "name": "mailrelay-operator", "namespace": NAMESPACE}
    assert all(each["subjects"] == [account] for each in bound)


async def test_images_are_named_by_registry_tag_and_digest(renderer: Helm) -> None:
    manifests = await renderer.rendered(NAMESPACE)
    images = operator_settings(environment(manifests)).images
    assert images.ingress == f"mailrelay-ingress:{VERSION}"
    manifests = await renderer.rendered(NAMESPACE, mode("a registry", NAMESPACE))
    images = operator_settings(environment(manifests)).images
    assert images.ingress == "registry.example.org/mail/mailrelay-ingress:1.2.3"
    nats = "registry.example.org/mail/mailrelay-nats:2.15.1@sha256:" + "0" * 64
    assert images.nats == nats


async def test_what_people_set_for_the_pods_is_there(renderer: Helm) -> None:
    manifests = await renderer.rendered(NAMESPACE, mode("placement, labels, proxies", NAMESPACE))
    found = deployment(manifests)
    pod = found["spec"]["template"]
    assert found["metadata"]["annotations"]["example.com/owner"] == "mail"
    assert pod["metadata"]["annotations"]["example.com/team"] == "mail"
    assert pod["metadata"]["labels"]["example.com/cost"] == "42"
    assert pod["spec"]["nodeSelector"] == {"pool": "mail"}
    assert pod["spec"]["tolerations"][0]["key"] == "mail"
    assert pod["spec"]["priorityClassName"] == "system-cluster-critical"
    assert environment(manifests)["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    assert "HTTP_PROXY" not in environment(manifests)
    assert ".svc" in environment(manifests)["NO_PROXY"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in environment(manifests)


async def test_labels_of_people_never_change_whom_the_deployment_selects(renderer: Helm) -> None:
    label = {"app.kubernetes.io/name": "theirs", "app.kubernetes.io/instance": "theirs"}
    values = {"operator": {"podLabels": label}, "commonLabels": label}
    spec = deployment(await renderer.rendered(NAMESPACE, values))["spec"]
    selected = spec["selector"]["matchLabels"]
    assert selected.items() <= spec["template"]["metadata"]["labels"].items()
    assert selected["app.kubernetes.io/name"] == "mailrelay-operator"


async def test_the_charts_facts_are_those_of_the_repository(renderer: Helm) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION
    (crd,) = yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    assert crd["name"] == "mailrelays.mailrelay.dev"
    named_images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    manifests = await renderer.rendered(NAMESPACE)
    used = {
        value
        for name, value in environment(manifests).items()
        if name.startswith("MAILRELAY_OPERATOR_IMAGE_")
    }
    used.add(deployment(manifests)["spec"]["template"]["spec"]["containers"][0]["image"])
    assert {each["image"] for each in named_images} == used


async def test_dashboards_and_rules_are_handed_on_to_the_letter(
    renderer: Helm, tmp_path: Path
) -> None:
    chart = tmp_path / "mailrelay"
    shutil.copytree(CHART, chart)
    rules_file = {
        "groups": [{"name": "g", "rules": [{"alert": "A", "expr": "{{ $labels.x }} > 1"}]}]
    }
    dashboard = '{"title": "{{ instance }}", "text": "a\\nb"}\n'
    for folder, name, text in (
        ("dashboards", "one_more.json", dashboard),
        ("rules", "one_more.yaml", "# made\n" + yaml.safe_dump(rules_file)),
    ):
        (chart / "files" / folder).mkdir(exist_ok=True)
        (chart / "files" / folder / name).write_text(text)
    values = mode("monitoring", NAMESPACE)
    said = await renderer.did("template", "m", str(chart), "--no-hooks", values=values)
    manifests = documents(said)
    rule = named(manifests, "PrometheusRule", "m-mailrelay-one-more")
    assert rule["spec"] == rules_file
    assert rule["metadata"]["labels"]["release"] == "p"
    found = named(manifests, "ConfigMap", "m-mailrelay-dashboard-one-more")
    assert found["data"] == {"mailrelay-one_more.json": dashboard}
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"]["grafana_folder"] == "Mail"


async def test_an_alert_leads_to_its_page_where_somebody_has_put_the_pages(renderer: Helm) -> None:
    rule = {"enabled": True, "runbookBaseUrl": "https://git.example.org/runbooks/"}
    manifests = await renderer.rendered(NAMESPACE, {"monitoring": {"prometheusRule": rule}})
    made = named(manifests, "PrometheusRule", "mailrelay-alerts")
    alerts = [each for group in made["spec"]["groups"] for each in group["rules"]]
    assert {each["annotations"]["runbook_url"] for each in alerts if "alert" in each} == {
        f"https://git.example.org/runbooks/{page.name}"
        for page in (ROOT / "docs" / "runbooks").glob("MailRelay*.md")
    }


def deployment(manifests: list[Manifest]) -> Manifest:
    (found,) = (each for each in manifests if each["kind"] == "Deployment")
    return found


def environment(manifests: list[Manifest]) -> dict[str, str]:
    """The operator's environment as a kubelet makes it."""
    (container,) = deployment(manifests)["spec"]["template"]["spec"]["containers"]
    fields = {"metadata.namespace": NAMESPACE, "status.podIP": "192.0.2.7"}
    found: dict[str, str] = {}
    for each in container["env"]:
        if "value" in each:
            found[each["name"]] = each["value"].replace("$(POD_IP)", found.get("POD_IP", ""))
        else:
            found[each["name"]] = fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
    return found


def test_the_schema_is_one_for_any_reader() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["global"] == {"type": "object"}
