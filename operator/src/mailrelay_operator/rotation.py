"""Replace the roles' keys at NATS, a step at a pass (`key_slots` says which, and in what order).

Asked for by an annotation of the resource: another word than the last time, a date say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from mailrelay_operator.child import Child, RelayKey
from mailrelay_operator.child_kinds import POD
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.conditions import StreamsJob, Workload
from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.desired.services import KEY_ANNOTATION
from mailrelay_operator.generate import ROLES, take_step
from mailrelay_operator.key_slots import KeySlots, key_slots, next_step
from mailrelay_operator.known import Known
from mailrelay_operator.plan import ChildKey
from mailrelay_operator.resource.relay import Relay
from mailrelay_operator.secrets_of import SecretWriter

ROTATE: Final = "mailrelay.dev/rotate-keys"

# How soon to look again at a replacement that is under way: pods that end tell of nothing.
AGAIN_SECONDS: Final = 10.0

_COMPONENTS: Final = {
    Role.ADMIN: Component.STREAMS,
    Role.INGRESS: Component.INGRESS,
    Role.SENDER: Component.SENDER,
    Role.MONITOR: Component.MONITOR,
}


class Rotation:
    """Takes the steps."""

    def __init__(self, cluster: Cluster, known: Known, writer: SecretWriter) -> None:
        self._cluster = cluster
        self._known = known
        self._writer = writer

    def is_under_way(self, key: RelayKey, relay: Relay) -> bool:
        """Tell whether some role's key is being replaced, or is asked to be."""
        return any(self._needs_look(slots, self._asked(key)) for slots in self._slots(key, relay))

    async def step(self, key: RelayKey, relay: Relay, log: Logger) -> bool:
        """Take the next step of each role; tell whether one was taken.

        To be called when all children are as they are wanted. Raises StrangerError, ClusterError.
        """
        asked = self._asked(key)
        children = self._known.children(key)
        taken = False
        for role in ROLES:
            name = ChildNames(relay.name).key_secret(role)
            own = self._known.own_secrets(key).get(name)
            slots = key_slots(own.data) if own is not None else None
            if own is None or slots is None or not self._needs_look(slots, asked):
                continue
            step = next_step(
                slots,
                asked=asked,
                nats_lets_in=slots.known if _is_rolled_out(relay, children) else (),
                keys_of_pods=await self._keys_of_pods(relay, role, slots),
            )
            if step is None:
                continue
            await self._writer.write(relay, key, name, take_step(own.data, step, asked))
            log.info("relay.key_step", role=role.value, step=step.value)
            taken = True
        return taken

    async def _keys_of_pods(self, relay: Relay, role: Role, slots: KeySlots) -> Collection[str]:
        """Return the keys that the role's pods were started with, those that end included."""
        if slots.spare is None or slots.spare_is_new:
            return ()  # not what is waited for now
        labels = selector(relay.name, _COMPONENTS[role])
        wanted = ",".join(f"{name}={value}" for name, value in labels.items())
        keys = set()
        async for page in self._cluster.pages(POD, relay.namespace, wanted):
            for pod in page.items:
                if pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                    keys.add(pod["metadata"].get("annotations", {}).get(KEY_ANNOTATION, ""))
        return keys

    def _slots(self, key: RelayKey, relay: Relay) -> list[KeySlots]:
        if not relay.spec.queue.is_own:
            return []
        own = self._known.own_secrets(key)
        names = ChildNames(relay.name)
        found = (own.get(names.key_secret(role)) for role in ROLES)
        slots = (key_slots(secret.data) for secret in found if secret is not None)
        return [each for each in slots if each is not None]

    def _needs_look(self, slots: KeySlots, asked: str) -> bool:
        return slots.spare is not None or slots.spare_is_new or asked not in {"", slots.asked}

    def _asked(self, key: RelayKey) -> str:
        body = self._known.relay(key) or {}
        annotations = body.get("metadata", {}).get("annotations") or {}
        return str(annotations.get(ROTATE, ""))


def _is_rolled_out(relay: Relay, children: Mapping[ChildKey, Child]) -> bool:
    """Tell whether each NATS server runs with the configuration that is wanted now."""
    name = ChildNames(relay.name).of(Component.NATS)
    nats = children.get(("StatefulSet", name))
    if nats is None or not isinstance(nats.observed, Workload) or not nats.observed.is_rolled_out:
        return False
    jobs = (child.observed for child in children.values() if not child.is_deleted)
    return all(job.done for job in jobs if isinstance(job, StreamsJob))
