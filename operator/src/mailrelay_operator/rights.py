"""The rights that the operator needs, and no others: one table.

`operator/rbac.yaml` and the chart's roles are made of it; a test runs the operator with exactly
these and fails on one that no request used, as the API server wrote down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mailrelay_operator.child_kinds import CHILDREN, EVENT, LEASE, POD, RELAY, SECRET, Kind

_WATCHED: Final = ("list", "watch")
# Made, looked at before they are made (a name may be somebody else's), changed.
_CHILD: Final = (*_WATCHED, "create", "get", "patch")


@dataclass(frozen=True, slots=True)
class Grant:
    """Verbs on a resource, and what they are for."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


def _of(kind: Kind, verbs: Iterable[str], why: str, below: str = "") -> Grant:
    return Grant(kind.group, kind.plural + below, tuple(sorted(verbs)), why)


# In each namespace whose relays the operator keeps, or in all.
RELAYS: Final = (
    _of(RELAY, _WATCHED, "the relays"),
    _of(RELAY, ("patch",), "what is told of them", "/status"),
    *(
        _of(
            kind,
            (*_CHILD, "delete") if kind.pruned else _CHILD,
            f"children: {kind.kind}" + (", where the add-on is there" if kind.optional else ""),
        )
        for kind in CHILDREN
    ),
    _of(
        SECRET,
        (*_WATCHED, "get", "create", "update"),
        "reads those that relays name, makes those that nobody gave",
    ),
    _of(POD, ("list",), "before a key at NATS is forgotten: whether a pod still has it"),
    _of(EVENT, ("create",), "tells of changes of state"),
)

# In the operator's own namespace.
OWN: Final = (_of(LEASE, ("create", "get", "update"), "one of several replicas acts"),)


def rules(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """Return the rules of a Role."""
    return [
        {"apiGroups": [grant.group], "resources": [grant.resource], "verbs": list(grant.verbs)}
        for grant in grants
    ]


def cluster_wide(account: str, namespace: str) -> tuple[dict[str, Any], ...]:
    """Return the manifests of all rights, for an operator that keeps every namespace's relays."""
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    return (
        *_bound("ClusterRole", account, None, RELAYS, subjects),
        *_bound("Role", account, namespace, OWN, subjects),
    )


def _bound(
    kind: str,
    name: str,
    namespace: str | None,
    grants: Iterable[Grant],
    subjects: list[dict[str, str]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    group = "rbac.authorization.k8s.io"
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    role = {
        "apiVersion": f"{group}/v1",
        "kind": kind,
        "metadata": metadata,
        "rules": rules(grants),
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": kind, "name": name},
        "subjects": subjects,
    }
    return role, binding
