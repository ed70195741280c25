"""Write a relay's status: when it is another one, and its queue numbers rarely."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mailrelay.runtime.clock import Clock
from mailrelay_operator.backlog import Numbers
from mailrelay_operator.child_kinds import RELAY
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.cluster.errors import NotFoundError
from mailrelay_operator.conditions import Condition, Workload, as_written, changes
from mailrelay_operator.events import EventWriter
from mailrelay_operator.known import Known

NUMBERS_SECONDS: Final = 300.0  # how much older what stands in status may be than what is known


class StatusWriter:
    """Writes status and the Events that go with it."""

    def __init__(self, cluster: Cluster, known: Known, events: EventWriter, clock: Clock) -> None:
        self._cluster = cluster
        self._known = known
        self._events = events
        self._clock = clock

    async def write(
        self,
        body: Mapping[str, Any],
        conditions: Sequence[Condition],
        *,
        ingress: Workload | None,
        sender: Workload | None,
        address: str,
        numbers: Numbers | None,
    ) -> None:
        """Write what differs from what stands there. Raises ClusterError."""
        old = body.get("status") or {}
        metadata = body["metadata"]
        now = _rfc3339(self._clock())
        status: dict[str, Any] = {
            "observedGeneration": metadata["generation"],
            "conditions": as_written(
                conditions, old.get("conditions", ()), metadata["generation"], now
            ),
        }
        if ingress is not None:
            status["ingress"] = {**_pods(ingress), "address": address}
        if sender is not None:
            status["sender"] = _pods(sender)
        queue = self._queue(old.get("queue"), numbers)
        if queue is not None:
            status["queue"] = queue
        if _same(status, old):
            return
        manifest = {
            "apiVersion": RELAY.api_version,
            "kind": RELAY.kind,
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "status": status,
        }
        try:
            written = await self._cluster.apply_status(RELAY, metadata["namespace"], manifest)
        except NotFoundError:
            return  # deleted meanwhile
        self._known.note_relay(written)
        await self._events.tell(body, changes(conditions, old.get("conditions", ())))

    def _queue(
        self, old: Mapping[str, Any] | None, numbers: Numbers | None
    ) -> Mapping[str, Any] | None:
        if numbers is None or numbers.fault:
            return old
        if old is not None and numbers.at - _seconds(old.get("asOf", "")) < NUMBERS_SECONDS:
            return old
        new: dict[str, Any] = {
            "jobs": numbers.jobs,
            "failed": numbers.failed,
            "captured": numbers.captured,
            "ready": numbers.ready.jobs if numbers.ready is not None else None,
        }
        new = {name: value for name, value in new.items() if value is not None}
        if not new or (old is not None and {**old, **new} == dict(old)):
            return old  # not known, or the same: the same numbers are no news, however old
        return {**new, "asOf": _rfc3339(numbers.at)}


def _pods(workload: Workload) -> dict[str, Any]:
    return {
        "replicas": workload.wanted,
        "readyReplicas": workload.ready,
        "summary": workload.summary,
    }


def _same(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    # Kubernetes keeps a list-map in the order in which it was applied.
    return dict(new) == dict(old)


def _rfc3339(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> float:
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
