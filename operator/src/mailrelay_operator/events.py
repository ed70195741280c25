"""Tell people of a relay's changes of state by Kubernetes Events, none of them twice in a while."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay_operator.child_kinds import EVENT, RELAY
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.cluster.errors import ClusterError, NamespaceEndsError
from mailrelay_operator.conditions import Change

CONTROLLER: Final = "mailrelay.dev/operator"
_QUIET_SECONDS: Final = 600.0  # the same words about the same relay are not written again
_REMEMBERED: Final = 4096  # such words; the oldest go first
_NOTE_LIMIT: Final = 1024  # characters, the API server's limit


class EventWriter:
    """Writes Events. One that cannot be written is dropped: conditions say the same."""

    def __init__(self, cluster: Cluster, identity: str, *, clock: Clock, log: Logger) -> None:
        self._cluster = cluster
        self._identity = identity
        self._clock = clock
        self._log = log
        self._written: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def tell(self, relay: Mapping[str, Any], changes: Sequence[Change]) -> None:
        """Write an Event for each change."""
        metadata = relay["metadata"]
        for change in changes:
            if not self._is_news((metadata["uid"], change.reason, change.message)):
                continue
            try:
                await self._cluster.create(
                    EVENT, metadata["namespace"], self._event(metadata, change)
                )
            except NamespaceEndsError:
                return  # nobody reads Events there any more
            except ClusterError as error:
                self._log.warning(
                    "relay.event_dropped",
                    relay=f"{metadata['namespace']}/{metadata['name']}",
                    reason=str(error),
                )

    def _is_news(self, words: tuple[str, str, str]) -> bool:
        now = self._clock()
        before = self._written.pop(words, None)
        fresh = before is None or now - before >= _QUIET_SECONDS
        self._written[words] = now if before is None or fresh else before
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return fresh

    def _event(self, metadata: Mapping[str, Any], change: Change) -> dict[str, Any]:
        at = dt.datetime.fromtimestamp(self._clock(), dt.UTC)
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "generateName": f"{metadata['name']}-",
                "namespace": metadata["namespace"],
            },
            "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._identity,
            "action": "Reconcile",
            "reason": change.reason,
            "type": "Warning" if change.warning else "Normal",
            "note": change.message[:_NOTE_LIMIT],
            "regarding": {
                "apiVersion": RELAY.api_version,
                "kind": RELAY.kind,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
        }
