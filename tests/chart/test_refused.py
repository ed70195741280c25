"""What is wrong is refused before anything is installed, with words that say what to do."""

from __future__ import annotations

import re
from typing import Final

import pytest
import yaml

from tests.chart.helm import CHART, Helm, Values
from tests.chart.left import CRD, cluster_objects, objects
from tests.chart.test_rendering import CRD_FILE
from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.cluster import ApiServer

pytestmark = pytest.mark.operator

NAMESPACE = "mail-system"
HOST = {"host": "smtp.example.com"}


def relay(**spec: object) -> Values:
    return {"relay": {"create": True, "spec": spec}}


# Values, and what Helm says: the field, and what is wrong with it.
REFUSED: Final[list[tuple[Values, str]]] = [
    ({"replicas": 2}, "at '': additional properties 'replicas' not allowed"),
    ({"operator": {"replica": 2}}, "at '/operator': additional properties 'replica' not allowed"),
    ({"operator": {"replicas": 3}}, "at '/operator/replicas': maximum: got 3, want 2"),
    ({"operator": {"replicas": 0}}, "at '/operator/replicas': minimum: got 0, want 1"),
    ({"operator": {"replicas": "2"}}, "at '/operator/replicas': got string, want integer"),
    ({"operator": {"workers": 65}}, "at '/operator/workers': maximum: got 65, want 64"),
    ({"operator": {"logFormat": "xml"}}, "at '/operator/logFormat': value must be one of 'json'"),
    ({"operator": {"watchNamespaces": "web"}}, "at '/operator/watchNamespaces': got string, want"),
    ({"operator": {"watchNamespaces": ["Web"]}}, "at '/operator/watchNamespaces/0': 'Web' does"),
    ({"operator": {"watchNamespaces": ["a", "a"]}}, "at '/operator/watchNamespaces': items at 0"),
    ({"operator": {"extraEnv": {"A": "1"}}}, "at '/operator/extraEnv': got object, want array"),
    ({"operator": {"podLabels": {"a": 1}}}, "at '/operator/podLabels/a': got number, want string"),
    (
        {"operator": {"resources": {"limits": {"memory": "1 GB"}}}},
        "at '/operator/resources/limits/memory'",
    ),
    ({"operator": {"proxy": {"no": ""}}}, "at '/operator/proxy': additional properties 'no'"),
    (
        {"operator": {"networkPolicy": {"apiServerPorts": [0]}}},
        "at '/operator/networkPolicy/apiServerPorts/0': minimum: got 0, want 1",
    ),
    ({"images": {"tag": "a b"}}, "at '/images/tag': 'a b' does not match pattern"),
    ({"images": {"pullPolicy": "Sometimes"}}, "at '/images/pullPolicy': value must be one of"),
    ({"images": {"pullSecrets": ["a"]}}, "at '/images/pullSecrets/0': got string, want object"),
    ({"images": {"sender": {"digest": "0123"}}}, "at '/images/sender/digest': '0123' does not"),
    ({"images": {"sender": {"repository": "a/b:c"}}}, "at '/images/sender/repository': 'a/b:c'"),
    ({"images": {"sender": "a/b:c"}}, "at '/images/sender': got string, want object"),
    ({"serviceAccount": {"name": "A_b"}}, "at '/serviceAccount/name': 'A_b' does not match"),
    ({"crds": {"enabled": "yes"}}, "at '/crds/enabled': got string, want boolean"),
    ({"monitoring": {"podMonitor": {"interval": "30"}}}, "at '/monitoring/podMonitor/interval'"),
    (
        {"monitoring": {"prometheusRule": {"runbookBaseUrl": "docs/runbooks"}}},
        "at '/monitoring/prometheusRule/runbookBaseUrl'",
    ),
    ({"fullnameOverride": "a" * 41}, "at '/fullnameOverride': maxLength: got 41, want 40"),
    ({"relay": {"name": "Mail"}}, "at '/relay/name': 'Mail' does not match pattern"),
    ({"relay": {"name": "a" * 41}}, "at '/relay/name': maxLength: got 41, want 40"),
    (relay(hostname="a"), "at '/relay/spec': additional properties 'hostname' not allowed"),
    (relay(ingress={"replicas": -1}), "at '/relay/spec/ingress/replicas': minimum: got -1, want 0"),
    (relay(routes=[{"name": "a"}]), "at '/relay/spec/routes/0': missing property 'smartHosts'"),
    (
        relay(routes=[{"name": "a", "smartHosts": [{**HOST, "tls": "Never"}]}]),
        "at '/relay/spec/routes/0/smartHosts/0/tls': value must be one of",
    ),
    (
        relay(routes=[{"name": "a", "smartHosts": [{**HOST, "password": "x"}]}]),
        "at '/relay/spec/routes/0/smartHosts/0': additional properties 'password' not allowed",
    ),
    (relay(queue={"replicas": 2}), "at '/relay/spec/queue/replicas': value must be one of 1, 3"),
    ({"test": {"timeoutSeconds": 5}}, "at '/test/timeoutSeconds': minimum: got 5, want 10"),
    (
        {"operator": {"watchNamespaces": ["web"]}, **relay()},
        f"relay.namespace is {NAMESPACE}, which is not among operator.watchNamespaces",
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[each for _, each in REFUSED])
async def test_a_wrong_value_is_refused_with_its_fields_name(
    values: Values, message: str, renderer: Helm
) -> None:
    arguments = ("template", "mailrelay", str(CHART), "--namespace", NAMESPACE)
    assert message in await renderer.refused(*arguments, values=values)


async def test_a_cluster_that_is_too_old_is_named_with_what_is_wanted(renderer: Helm) -> None:
    arguments = ("template", "mailrelay", str(CHART), "--kube-version", "1.30.9")
    said = await renderer.refused(*arguments)
    assert "chart requires kubeVersion: >=1.31.0-0 which is incompatible with" in said
    assert "v1.30.9" in said
    await renderer.did(*arguments[:-1], "1.31.0")


async def test_a_second_installation_is_told_of_the_first(
    helm: Helm, api_server: ApiServer, admin: Client, namespace: str
) -> None:
    await helm.did("install", "mailrelay", str(CHART), "--namespace", namespace)
    before = await cluster_objects(admin)
    other = await api_server.new_namespace()
    said = await helm.refused("install", "second", str(CHART), "--namespace", other)
    assert f"MailRelay is installed already: release mailrelay in namespace {namespace}" in said
    assert f"helm upgrade mailrelay --namespace {namespace}" in said
    assert await objects(admin, other) == set()
    assert await cluster_objects(admin) == before
    # The way that the message names.
    apart = {"operator": {"watchNamespaces": [other]}, "crds": {"enabled": False}}
    await helm.did("install", "second", str(CHART), "--namespace", other, values=apart)


async def test_two_operators_of_one_namespace_are_refused(
    helm: Helm, api_server: ApiServer, namespace: str
) -> None:
    values: Values = {"operator": {"watchNamespaces": [namespace]}}
    await helm.did("install", "first", str(CHART), "--namespace", namespace, values=values)
    other = await api_server.new_namespace()
    values["crds"] = {"enabled": False}
    said = await helm.refused("install", "second", str(CHART), "--namespace", other, values=values)
    assert f'Role "mailrelay-operator" in namespace "{namespace}" exists' in said


async def test_a_definition_that_somebody_applied_is_handed_over_by_what_the_message_says(
    helm: Helm, api_server: ApiServer, admin: Client, namespace: str
) -> None:
    await admin.apply(older_definition(), manager="kubectl")
    install = ("install", "mailrelay", str(CHART), "--namespace", namespace)
    said = await helm.refused(*install)
    assert (
        "the definition mailrelays.mailrelay.dev is in the cluster and not this release's" in said
    )
    commands = [line.strip() for line in said.splitlines() if line.startswith("  kubectl ")]
    assert len(commands) == 2
    for command in commands:
        await api_server.kubectl(*command.split()[1:])
    (flag,) = re.findall(r"install and upgrade with (--[-a-z]+)", said)
    await helm.did(*install, flag)
    wanted = yaml.safe_load(CRD_FILE.read_text())["spec"]["versions"]
    assert (await admin.get(*CRD))["spec"]["versions"] == wanted
    await admin.apply(older_definition(), manager="kubectl")
    await helm.did("upgrade", *install[1:], flag)
    assert (await admin.get(*CRD))["spec"]["versions"] == wanted


def older_definition() -> Manifest:
    """The definition as another version may have had it."""
    found: Manifest = yaml.safe_load(CRD_FILE.read_text())
    (version,) = found["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["paused"]["description"] = "In other words."
    found["metadata"]["annotations"]["mailrelay.dev/definition"] = "sha256:older"
    return found


async def test_a_definition_of_another_version_is_named_when_the_chart_may_not_change_it(
    helm: Helm, admin: Client, namespace: str
) -> None:
    values = {"crds": {"enabled": False}}
    install = ("install", "mailrelay", str(CHART), "--namespace", namespace)
    said = await helm.refused(*install, values=values)
    assert "the cluster has no definition mailrelays.mailrelay.dev" in said
    await admin.apply(CRD_FILE.read_text())
    older = {"metadata": {"annotations": {"mailrelay.dev/definition": "sha256:older"}}}
    await admin.patch(*CRD, older)
    said = await helm.refused(*install, values=values)
    assert "is another version's (sha256:older) than this chart's (sha256:" in said
    assert "kubectl apply --server-side -f operator/crd/mailrelays.yaml" in said
    await admin.apply(CRD_FILE.read_text())
    said = await helm.did(*install, values=values)
    assert "kubectl apply --server-side -f operator/crd/mailrelays.yaml" in said


async def test_missing_rights_are_named_and_nothing_is_installed(
    api_server: ApiServer, admin: Client, namespace: str, helm: Helm
) -> None:
    everything_here = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    await api_server.service_account(namespace, "installer", rules=everything_here)
    limited = Helm(helm._folder / "limited", await api_server.kubeconfig_of(namespace, "installer"))
    install = ("install", "mailrelay", str(CHART), "--namespace", namespace)
    said = await limited.refused(*install)
    assert 'clusterroles.rbac.authorization.k8s.io "mailrelay-operator" is forbidden' in said
    assert f"system:serviceaccount:{namespace}:installer" in said
    assert await cluster_objects(admin) == set()
    # Who has one namespace installs into that, when somebody has applied the definition.
    await admin.apply(CRD_FILE.read_text())
    values = {
        "operator": {"watchNamespaces": [namespace]},
        "crds": {"enabled": False, "check": False},
    }
    await limited.did(*install, values=values)
