"""What Helm tells after an installation: the next command, for the values that were given."""

from __future__ import annotations

from typing import Final

import pytest

from tests.chart.helm import CHART, Helm, Values
from tests.chart.modes import SPEC

pytestmark = pytest.mark.operator

USERS: Final = {"security": {"usersSecretName": "users"}}
# Values, what must be told, and what must not.
TOLD: Final[dict[str, tuple[Values, list[str], list[str]]]] = {
    "nothing set": (
        {},
        [
            "keeps the relays of all namespaces",
            "kubectl rollout status --namespace mail deployment/mailrelay-operator",
            "helm test mailrelay --namespace mail",
            "kubectl apply -f - <<EOF",
            "kubectl get mailrelay\n",
        ],
        ["crds.enabled", "rbac.create", "kubectl wait"],
    ),
    "some namespaces": (
        {"operator": {"watchNamespaces": ["shop", "web"]}},
        [
            "keeps the relays of shop, web.",
            "Make a relay in shop or web:",
            "kubectl apply --namespace shop -f - <<EOF",
            "kubectl get mailrelay --namespace shop\n",
        ],
        ["all namespaces"],
    ),
    "a first relay": (
        {"relay": {"create": True, "namespace": "shop", "spec": SPEC}},
        [
            "kubectl wait --namespace shop mailrelay/relay --for=condition=Ready",
            "relay-ingress.shop.svc, port 587, as user mailrelay",
            "kubectl get secret --namespace shop relay-smtp",
        ],
        ["EOF", "It has no route"],
    ),
    "a first relay without a route": (
        {"relay": {"create": True}},
        ["It has no route, so it captures all mail and lets nothing out"],
        ["EOF"],
    ),
    "a first relay with users and a port": (
        {"relay": {"create": True, "spec": {**SPEC, **USERS, "ingress": {"port": 25}}}},
        ["relay-ingress.mail.svc, port 25\n"],
        ["relay-smtp"],
    ),
    "no roles": (
        {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "given"}},
        ["Bind those of operator/rbac.yaml to\nServiceAccount given in namespace mail"],
        [],
    ),
    "the definition of somebody": (
        {"crds": {"enabled": False}},
        ["kubectl apply --server-side -f operator/crd/mailrelays.yaml"],
        [],
    ),
    "no test": ({"test": {"enabled": False}}, ["kubectl rollout status"], ["helm test"]),
}


@pytest.mark.parametrize("case", TOLD)
async def test_the_next_command_is_told(case: str, renderer: Helm) -> None:
    values, told, untold = TOLD[case]
    arguments = ("install", "mailrelay", str(CHART), "--namespace", "mail", "--dry-run=client")
    said = await renderer.did(*arguments, values=values)
    notes = said.partition("NOTES:\n")[2] + "\n"
    assert [each for each in told if each not in notes] == [], notes
    assert [each for each in untold if each in notes] == [], notes
