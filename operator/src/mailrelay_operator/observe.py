"""What an object's status says, in a few words (pure): the rest of it is not kept."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailrelay_operator.conditions import StreamsJob, Workload


@dataclass(frozen=True, slots=True)
class CertificateState:
    """What cert-manager says of a Certificate."""

    fault: str = ""  # empty: it is issued


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Where a Service is reached from outside of the cluster."""

    load_balancer: str = ""  # name or address; empty: there is none, or not yet


Observation = Workload | StreamsJob | CertificateState | ServiceState | None


def observe(kind: str, found: Mapping[str, Any]) -> Observation:
    """Return what matters of an object's status; None for kinds whose status says nothing."""
    match kind:
        case "Deployment" | "StatefulSet":
            return _workload(kind, found)
        case "Job":
            return _job(found)
        case "Certificate":
            return _certificate(found)
        case "Service":
            return _service(found)
    return None


def _workload(kind: str, found: Mapping[str, Any]) -> Workload:
    metadata, status = found["metadata"], found.get("status", {})
    wanted = found.get("spec", {}).get("replicas", 1)
    updated = status.get("updatedReplicas", 0)
    # A StatefulSet without a new revision counts none as updated in older servers.
    if kind == "StatefulSet" and status.get("currentRevision") == status.get("updateRevision"):
        updated = max(updated, status.get("currentReplicas", 0))
    return Workload(
        kind,
        metadata["name"],
        wanted=wanted,
        ready=status.get("readyReplicas", 0),
        updated=updated,
        is_observed=status.get("observedGeneration", 0) >= metadata.get("generation", 0),
        fault=_workload_fault(status),
    )


def _workload_fault(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions", ()):
        failed = condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
        late = condition.get("type") == "Progressing" and condition.get("status") == "False"
        if failed or late:
            return str(condition.get("message", condition.get("reason", "")))
    return ""


def _job(found: Mapping[str, Any]) -> StreamsJob:
    name, fault, done, ended_at = found["metadata"]["name"], "", False, 0.0
    for condition in found.get("status", {}).get("conditions", ()):
        if condition.get("status") != "True":
            continue
        if condition.get("type") == "Complete":
            done = True
        elif condition.get("type") == "Failed":
            fault = str(condition.get("message") or condition.get("reason") or "it failed")
        else:
            continue
        ended_at = _seconds(condition.get("lastTransitionTime"))
    return StreamsJob(name, done=done, fault=fault, ended_at=ended_at)


def _seconds(text: object) -> float:
    """Return an RFC 3339 time in seconds since the epoch; 0 when there is none."""
    try:
        return dt.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def _certificate(found: Mapping[str, Any]) -> CertificateState:
    for condition in found.get("status", {}).get("conditions", ()):
        if condition.get("type") == "Ready":
            good = condition.get("status") == "True"
            return CertificateState("" if good else str(condition.get("message", "not issued")))
    return CertificateState("cert-manager has not looked at it yet")


def _service(found: Mapping[str, Any]) -> ServiceState:
    for point in found.get("status", {}).get("loadBalancer", {}).get("ingress", ()):
        # A load balancer with a name may have another address tomorrow.
        if address := point.get("hostname") or point.get("ip"):
            return ServiceState(str(address))
    return ServiceState()
