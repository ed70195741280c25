"""Pods: what all of them have, so that none has less.

Each passes the `restricted` Pod Security Standard, writes only to the folders given to it, has no
token for the API and no Services in its environment, and has requests and limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mailrelay_operator.desired.labels import labels, selector
from mailrelay_operator.desired.manifest import Manifest, without_none
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.resource.pods import Pods, TopologySpread
from mailrelay_operator.resource.quantity import amount
from mailrelay_operator.resource.relay import Relay

_USER: Final = 10_001  # the images' own
# Of mounted Secrets: for the group, which the kubelet makes the pod's, and for nobody else. The
# relay refuses a file of secrets that others can read.
_SECRET_MODE: Final = 0o440
_CONFIG_MODE: Final = 0o444
_SPREAD: Final = (
    TopologySpread(topology_key="topology.kubernetes.io/zone"),
    TopologySpread(topology_key="kubernetes.io/hostname"),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A question that the kubelet asks over HTTP, how often, and how many noes it takes."""

    port: str
    path: str
    period: int  # seconds
    failures: int
    timeout: int = 3  # seconds

    def manifest(self) -> Manifest:
        """Return it as a container has it."""
        return {
            "httpGet": {"port": self.port, "path": self.path},
            "periodSeconds": self.period,
            "timeoutSeconds": self.timeout,
            "failureThreshold": self.failures,
        }


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder that a container sees, and what is in it."""

    name: str
    path: str
    source: Manifest | None  # None: a claim of the StatefulSet's own
    is_read_only: bool = False

    @classmethod
    def secret(cls, name: str, path: str, secret_name: str, items: Mapping[str, str]) -> Volume:
        """Return some keys of a Secret; `items` has the file of each."""
        source = {
            "secretName": secret_name,
            "defaultMode": _SECRET_MODE,
            "items": _items(items),
        }
        return cls(name, path, {"secret": source}, is_read_only=True)

    @classmethod
    def config_map(cls, name: str, path: str, config_map: str) -> Volume:
        """Return a ConfigMap, changed in place when it changes."""
        source = {"name": config_map, "defaultMode": _CONFIG_MODE}
        return cls(name, path, {"configMap": source}, is_read_only=True)

    @classmethod
    def projected(cls, name: str, path: str, sources: Iterable[Manifest]) -> Volume:
        """Return several Secrets and ConfigMaps in one folder."""
        source = {"defaultMode": _SECRET_MODE, "sources": list(sources)}
        return cls(name, path, {"projected": source}, is_read_only=True)

    @classmethod
    def claim(cls, name: str, path: str, claim_name: str) -> Volume:
        """Return the volume of a claim."""
        return cls(name, path, {"persistentVolumeClaim": {"claimName": claim_name}})

    @classmethod
    def scratch(cls, name: str, path: str, size: str) -> Volume:
        """Return a folder that lives as long as the pod; a pod that fills it is evicted."""
        return cls(name, path, {"emptyDir": {"sizeLimit": size}})


def secret_source(secret_name: str, items: Mapping[str, str]) -> Manifest:
    """Return some keys of a Secret as a part of `Volume.projected`."""
    return {"secret": {"name": secret_name, "items": _items(items)}}


@dataclass(frozen=True, slots=True)
class Container:
    """The one container of a pod."""

    component: Component
    image: str
    resources: Manifest
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)  # variables from the pod itself
    ports: Mapping[str, int] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    pause_seconds: int = 0  # before it is told to end, so that clients learn of it first


def amounts(pods: Pods, requests: Mapping[str, str], limits: Mapping[str, str]) -> Manifest:
    """Return requests and limits: what people set, and a default for what they did not.

    No default contradicts what is set: Kubernetes refuses a request above its limit.
    """
    given = pods.resources
    asked = dict(given.requests or {}) if given is not None else {}
    most = dict(given.limits or {}) if given is not None else {}
    for name in asked.keys() & (limits.keys() - most.keys()):
        most[name] = max(asked[name], limits[name], key=amount)
    for name in most.keys() & (requests.keys() - asked.keys()):
        asked[name] = min(most[name], requests[name], key=amount)
    return {"requests": {**requests, **asked}, "limits": {**limits, **most}}


def pod_template(  # noqa: PLR0913 — the parts of a pod
    relay: Relay,
    pods: Pods,
    container: Container,
    volumes: Iterable[Volume],
    *,
    grace_seconds: int,
    annotations: Mapping[str, str] | None = None,
    revision_label: str = "",
    restart_policy: str = "Always",
) -> Manifest:
    """Return a pod's template.

    `revision_label` is what tells the pods of one revision from those of the last one: spreading
    counts only pods of the same.
    """
    component = container.component
    all_volumes = tuple(volumes)
    affinity = pods.affinity
    spread = pods.topology_spread_constraints or _SPREAD
    pull_secrets = [{"name": each.name} for each in relay.spec.image_pull_secrets]
    spec = without_none(
        {
            "serviceAccountName": ChildNames(relay.name).service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": restart_policy,
            "terminationGracePeriodSeconds": grace_seconds,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "imagePullSecrets": pull_secrets or None,
            "priorityClassName": pods.priority_class_name,
            "nodeSelector": pods.node_selector or None,
            "tolerations": [_plain(each) for each in pods.tolerations] or None,
            "affinity": (_plain(affinity) or None) if affinity is not None else None,
            "topologySpreadConstraints": [
                _spread(relay, component, each, revision_label) for each in spread
            ]
            if revision_label
            else None,
            "containers": [_container(relay, container, all_volumes)],
            "volumes": [
                {"name": volume.name, **volume.source}
                for volume in all_volumes
                if volume.source is not None
            ],
        }
    )
    metadata: Manifest = {"labels": {**(pods.labels or {}), **labels(relay.name, component)}}
    all_annotations = {**(pods.annotations or {}), **(annotations or {})}
    if all_annotations:
        metadata["annotations"] = all_annotations
    return {"metadata": metadata, "spec": spec}


def _container(relay: Relay, container: Container, volumes: tuple[Volume, ...]) -> Manifest:
    environment = container_environment(container)
    lifecycle = {"preStop": {"sleep": {"seconds": container.pause_seconds}}}
    return without_none(
        {
            "name": container.component.value,
            "image": container.image,
            "imagePullPolicy": relay.spec.images.pull_policy,
            "args": list(container.args) or None,
            "env": environment or None,
            "ports": [
                {"name": name, "containerPort": port, "protocol": "TCP"}
                for name, port in container.ports.items()
            ]
            or None,
            "resources": container.resources,
            **{name: probe.manifest() for name, probe in container.probes.items()},
            "lifecycle": lifecycle if container.pause_seconds else None,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                without_none(
                    {
                        "name": volume.name,
                        "mountPath": volume.path,
                        "readOnly": True if volume.is_read_only else None,
                    }
                )
                for volume in volumes
            ],
        }
    )


def container_environment(container: Container) -> list[Manifest]:
    """Return the variables of a container: values as they are, and what the pod itself knows."""
    environment: list[Manifest] = [
        {"name": name, "value": literal(value)} for name, value in container.environment.items()
    ]
    return environment + [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in container.fields.items()
    ]


def literal(value: str) -> str:
    """Return a value so that Kubernetes takes it as it is: `$(NAME)` in it names no variable."""
    return value.replace("$", "$$")


def _items(items: Mapping[str, str]) -> list[Manifest]:
    return [{"key": key, "path": path} for key, path in items.items()]


def _spread(
    relay: Relay, component: Component, constraint: TopologySpread, revision_label: str
) -> Manifest:
    return {
        **_plain(constraint),
        "labelSelector": {"matchLabels": selector(relay.name, component)},
        "matchLabelKeys": [revision_label],
    }


def _plain(section: Any) -> Manifest:  # noqa: ANN401 — any section that is Kubernetes' own shape
    found: Manifest = section.model_dump(by_alias=True, exclude_none=True)
    return found
