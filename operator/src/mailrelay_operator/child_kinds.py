"""The kinds of objects that a relay is made of: what is watched, compared, and removed.

One table, from which the watches, the rights (`rights`) and the promises about foreign fields come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object."""

    api_version: str
    kind: str
    plural: str
    # Below these a field that somebody else added is taken out again. Labels and annotations of
    # the object itself are everybody's.
    closed: tuple[str, ...] = ()
    optional: bool = False  # belongs to an add-on that a cluster may not have
    metadata_only: bool = False  # watched without content
    # Whether a change of a relay's spec may want it no longer, so that the operator removes it. All
    # others stay as long as the relay, and go by their owner.
    pruned: bool = False

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        group, slash, _ = self.api_version.rpartition("/")
        return group if slash else ""

    def path(self, namespace: str | None, name: str = "") -> str:
        """Return the object's URL path, or the collection's; of all namespaces without one."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{name}" if name else "")


RELAY: Final = Kind("mailrelay.dev/v1alpha1", "MailRelay", "mailrelays")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
EVENT: Final = Kind("events.k8s.io/v1", "Event", "events")

POD: Final = Kind("v1", "Pod", "pods")

SECRET: Final = Kind("v1", "Secret", "secrets", metadata_only=True)
CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DEPLOYMENT: Final = Kind("apps/v1", "Deployment", "deployments", ("spec",))
STATEFUL_SET: Final = Kind("apps/v1", "StatefulSet", "statefulsets", ("spec",))
JOB: Final = Kind("batch/v1", "Job", "jobs", pruned=True)
POD_MONITOR: Final = Kind(
    "monitoring.coreos.com/v1", "PodMonitor", "podmonitors", ("spec",), optional=True, pruned=True
)
CERTIFICATE: Final = Kind(
    "cert-manager.io/v1", "Certificate", "certificates", ("spec",), optional=True, pruned=True
)

CHILDREN: Final = (
    DEPLOYMENT,
    STATEFUL_SET,
    JOB,
    Kind("v1", "Service", "services", ("spec",)),
    Kind("v1", "ConfigMap", "configmaps", ("data", "binaryData")),
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    CLAIM,
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", ("spec",), pruned=True),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", ("spec",)),
    POD_MONITOR,
    CERTIFICATE,
)

BY_KIND: Final = {kind.kind: kind for kind in (*CHILDREN, SECRET)}
