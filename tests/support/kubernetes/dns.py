"""The cluster's DNS: CoreDNS in a pod, at the address that the kubelet gives to all others."""

from __future__ import annotations

from typing import Final

from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.manifests import account, deployment, service
from tests.support.kubernetes.node import COREDNS_IMAGE
from tests.support.kubernetes.node_files import DNS_ADDRESS, DNS_DOMAIN
from tests.support.wait import wait_until

READY_SECONDS: Final = 120.0
_NAMESPACE: Final = "kube-system"
_NAME: Final = "coredns"
_LABELS: Final = {"k8s-app": "kube-dns"}
# A name is forgotten soon, so that what moved is found; other zones there are none.
_COREFILE: Final = f""".:53 {{
  errors
  ready
  kubernetes {DNS_DOMAIN} in-addr.arpa ip6.arpa
  cache 5
}}
"""


async def start_dns(client: Client) -> None:
    """Make the pods and wait until they answer."""
    await client.apply(_manifests())

    async def is_ready() -> bool:
        found = await client.get("apps/v1", "Deployment", _NAME, namespace=_NAMESPACE)
        return bool(found.get("status", {}).get("readyReplicas"))

    await wait_until(is_ready, READY_SECONDS, "CoreDNS is ready", interval=0.1)


def _manifests() -> list[Manifest]:
    resources = ["endpoints", "services", "pods", "namespaces"]
    rules = [
        {"apiGroups": [""], "resources": resources, "verbs": ["list", "watch"]},
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    container = {
        "name": "coredns",
        "image": COREDNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }
    pod = {
        "serviceAccountName": _NAME,
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": _NAME}}],
    }
    ports = [
        {"name": name, "port": 53, "protocol": transport}
        for name, transport in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    return [
        *account(_NAME, _NAMESPACE, rules),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": _NAME, "namespace": _NAMESPACE},
            "data": {"Corefile": _COREFILE},
        },
        deployment(_NAME, _NAMESPACE, _LABELS, pod),
        service("kube-dns", _NAMESPACE, _LABELS, ports, clusterIP=DNS_ADDRESS),
    ]
