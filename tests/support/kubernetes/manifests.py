"""Objects that the tests put into a cluster beside the product's own."""

from __future__ import annotations

from typing import Any, Final

from tests.support.kubernetes.client import Manifest

RBAC: Final = "rbac.authorization.k8s.io/v1"


def deployment(name: str, namespace: str, labels: dict[str, str], pod: Manifest) -> Manifest:
    """One pod, made again when it is gone."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service(
    name: str,
    namespace: str,
    labels: dict[str, str],
    ports: list[Manifest],
    **spec: Any,  # noqa: ANN401 — JSON
) -> Manifest:
    """The address of the pods with these labels."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": labels, "ports": ports, **spec},
    }


def account(name: str, namespace: str, rules: list[Manifest]) -> list[Manifest]:
    """A service account, and what it may do in all namespaces."""
    metadata = {"name": name, "namespace": namespace}
    who = {"kind": "ServiceAccount", **metadata}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        *role("ClusterRole", {"name": name}, rules, who),
    ]


def role(kind: str, metadata: Manifest, rules: list[Manifest], who: Manifest) -> list[Manifest]:
    """A Role or ClusterRole, and its binding to somebody."""
    return [
        {"apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": rules},
        {
            "apiVersion": RBAC,
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {
                "apiGroup": RBAC.partition("/")[0],
                "kind": kind,
                "name": metadata["name"],
            },
            "subjects": [who],
        },
    ]
