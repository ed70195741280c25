"""Gather what `desired` needs beside the resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailrelay_operator.child import RelayKey
from mailrelay_operator.child_kinds import CERTIFICATE, POD_MONITOR, Kind
from mailrelay_operator.desired.inputs import Images, Inputs
from mailrelay_operator.desired.names import ChildNames
from mailrelay_operator.generate import ROLES
from mailrelay_operator.key_slots import key_slots
from mailrelay_operator.known import Known
from mailrelay_operator.resource.relay import Relay
from mailrelay_operator.secrets_of import digest_of_data

# Another word in it makes the streams' Job run again.
STREAMS_RUN = "mailrelay.dev/run-streams"


@dataclass(slots=True)
class Gatherer:
    """Puts inputs together; `served` is told of add-ons by their watches."""

    known: Known
    images: Images
    namespace: str
    served: dict[str, bool] = field(default_factory=dict)

    async def note_absent(self, kind: Kind, *, is_absent: bool) -> bool:
        """Take note of whether the API server knows an add-on's kind; tell whether that is news."""
        before = self.served.get(kind.kind)
        self.served[kind.kind] = not is_absent
        return before is not None and before == is_absent

    def fingerprint(self, key: RelayKey, relay: Relay) -> object:
        """Return what else the inputs come from: another one, and they may be others."""
        return (self._serves(POD_MONITOR), self._serves(CERTIFICATE), self._run(key), relay.name)

    def inputs(
        self,
        key: RelayKey,
        relay: Relay,
        digests: Mapping[str, str],
        sender_replicas: int | None,
    ) -> Inputs:
        """Return the inputs; the relay's own Secrets are there by now."""
        own = self.known.own_secrets(key)
        names = ChildNames(relay.name)
        keys = {}
        if relay.spec.queue.is_own:
            for role in ROLES:
                slots = key_slots(own[names.key_secret(role)].data)
                if slots is not None:
                    keys[role] = slots
        digests = dict(digests)
        if names.route_secret in own:
            digests[names.route_secret] = digest_of_data(own[names.route_secret].data)
        return Inputs(
            images=self.images,
            operator_namespace=self.namespace,
            keys=keys,
            digests=digests,
            sender_replicas=sender_replicas,
            streams_run=self._run(key),
            has_pod_monitors=self._serves(POD_MONITOR),
            has_certificates=self._serves(CERTIFICATE),
        )

    def _serves(self, kind: Kind) -> bool:
        return self.served.get(kind.kind, False)

    def _run(self, key: RelayKey) -> str:
        body = self.known.relay(key) or {}
        annotations = body.get("metadata", {}).get("annotations") or {}
        return str(annotations.get(STREAMS_RUN, ""))
