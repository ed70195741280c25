"""The operator in the cluster: definitions, rights and a Deployment of its image."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.cluster import RESTRICTED
from tests.support.kubernetes.node import image_reference
from tests.support.wait import wait_until

ROOT: Final = Path(__file__).parents[2]
NAMESPACE: Final = "mailrelay-system"
NAME: Final = "mailrelay-operator"
READY_SECONDS: Final = 120.0
_PORT: Final = 8026
IMAGES: Final = ("ingress", "sender", "monitor", "nats", "tools")


async def install_operator(client: Client) -> None:
    """Install it as shipped, and wait until it is ready."""
    await client.apply(namespace(NAMESPACE))
    await client.apply((ROOT / "operator" / "crd" / "mailrelays.yaml").read_text())
    await client.apply((ROOT / "operator" / "rbac.yaml").read_text())
    await client.apply(deployment())
    await wait_deployment(client, NAMESPACE, NAME, READY_SECONDS)


async def wait_deployment(client: Client, namespace: str, name: str, limit_seconds: float) -> None:
    """Wait until all pods of a Deployment's newest revision are ready, and no others are there."""

    async def is_ready() -> bool:
        found = await client.get("apps/v1", "Deployment", name, namespace=namespace)
        status, wanted = found.get("status", {}), found["spec"]["replicas"]
        assert status.get("observedGeneration") == found["metadata"]["generation"], status
        counted = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
        assert counted == [wanted] * 3, status
        return True

    await wait_until(is_ready, limit_seconds, f"{name} is ready", interval=0.2)


def namespace(name: str, *, restricted: bool = True) -> Manifest:
    """A namespace; the restricted Pod Security Standard is enforced unless told otherwise."""
    labels = RESTRICTED if restricted else {}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def deployment(tag: str = "latest") -> list[Manifest]:
    """The operator's Deployment and account; relays get images of this tag."""
    labels = {"app.kubernetes.io/name": NAME}
    environment = {
        "MAILRELAY_OPERATOR_PROBE_ADDRESS": f"0.0.0.0:{_PORT}",
        **{
            f"MAILRELAY_OPERATOR_IMAGE_{name.upper()}": image_reference(f"mailrelay-{name}", tag)
            for name in IMAGES
        },
    }
    own = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    container = {
        "name": "operator",
        "image": image_reference(NAME),
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "MAILRELAY_OPERATOR_NAMESPACE", "valueFrom": own},
            *({"name": name, "value": value} for name, value in environment.items()),
        ],
        "ports": [{"name": "probe", "containerPort": _PORT}],
        "startupProbe": _probe("/healthz", 2, 60),
        "readinessProbe": _probe("/readyz", 2, 3),
        "livenessProbe": _probe("/healthz", 10, 3),
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "serviceAccountName": NAME,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    metadata = {"name": NAME, "namespace": NAMESPACE, "labels": labels}
    account = {"name": NAME, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]


def _probe(path: str, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"port": "probe", "path": path},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
