"""A relay's Secrets: those that people made are read, those that are missing are generated."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailrelay.runtime.logging import Logger
from mailrelay_operator.child import INSTANCE, RelayKey
from mailrelay_operator.child_kinds import SECRET
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.cluster.errors import ConflictError, NotFoundError
from mailrelay_operator.desired.labels import MANAGED_BY, MANAGER
from mailrelay_operator.desired.manifest import manifest
from mailrelay_operator.generate import GeneratedSecret, generate
from mailrelay_operator.known import Known, SecretKey, secret_data
from mailrelay_operator.resource.relay import Relay


@dataclass(frozen=True, slots=True)
class Read:
    """What is kept of a Secret of people's: no content."""

    version: str
    keys: frozenset[str]  # that have a value
    digest: str


class StrangerError(Exception):
    """A Secret that the operator would make exists and is somebody else's; the text is its name."""


class SecretReader:
    """Reads people's Secrets, each version once."""

    def __init__(self, cluster: Cluster, known: Known) -> None:
        self._cluster = cluster
        self._known = known
        self._read: dict[SecretKey, Read] = {}

    async def read(self, place: SecretKey) -> Read | None:
        """Return what is known of a Secret; None when there is none. Raises ClusterError."""
        version = self._known.secret_version(place)
        if not version:
            self._read.pop(place, None)
            return None
        before = self._read.get(place)
        if before is not None and before.version == version:
            return before
        try:
            found = await self._cluster.get(SECRET, *place)
        except NotFoundError:
            return None
        data = secret_data(found)
        read = Read(
            version,  # of what the watch told: a newer one is read again when it tells of that
            frozenset(key for key, value in data.items() if value),
            digest_of_data(data),
        )
        self._read[place] = read
        return read

    async def token(self, place: SecretKey, key: str) -> str:
        """Return one value, which is not kept; empty when it is not there. Raises ClusterError."""
        found = await self._cluster.find(SECRET, *place)
        value = secret_data(found or {}).get(key, b"")
        return value.decode("ascii", "ignore").strip()


class SecretWriter:
    """Makes the Secrets that a relay needs and nobody gave."""

    def __init__(self, cluster: Cluster, known: Known) -> None:
        self._cluster = cluster
        self._known = known

    async def make(self, relay: Relay, key: RelayKey, now: dt.datetime, log: Logger) -> int:
        """Generate what is missing or damaged; return how many were written.

        Raises StrangerError, ClusterError (ConflictError: somebody was faster; look again).
        """
        found = {name: own.data for name, own in self._known.own_secrets(key).items()}
        changed = generate(relay, found, now)
        for secret in changed:
            await self._write(relay, key, secret)
            log.info("relay.secret_generated", secret=secret.name)
        return len(changed)

    async def write(
        self, relay: Relay, key: RelayKey, name: str, data: Mapping[str, bytes]
    ) -> None:
        """Replace a generated Secret's content. Raises StrangerError, ClusterError."""
        own = self._known.own_secrets(key)[name]
        await self._write(relay, key, GeneratedSecret(name, own.type, data))

    async def _write(self, relay: Relay, key: RelayKey, secret: GeneratedSecret) -> None:
        content = {name: base64.b64encode(value).decode() for name, value in secret.data.items()}
        wanted: dict[str, Any] = manifest(
            relay, "v1", "Secret", secret.name, type=secret.type, data=content
        )
        own = self._known.own_secrets(key).get(secret.name)
        if own is None:
            try:
                written = await self._cluster.create(SECRET, relay.namespace, wanted)
            except ConflictError:
                written = await self._recover(relay, secret.name)
        else:
            # Just this version: two that generate at once must not both believe that they did it.
            labels = {**own.metadata.get("labels", {}), **wanted["metadata"]["labels"]}
            metadata = {**own.metadata, "labels": labels}
            metadata["ownerReferences"] = wanted["metadata"]["ownerReferences"]
            written = await self._cluster.replace(
                SECRET, relay.namespace, {**wanted, "type": own.type, "metadata": metadata}
            )
        self._known.note_own_secret(written, is_news=False)

    async def _recover(self, relay: Relay, name: str) -> dict[str, Any]:
        """Return a Secret of ours that lost its labels, with them again.

        Raises StrangerError when it never was ours.
        """
        found = await self._cluster.get(SECRET, relay.namespace, name)
        metadata = found["metadata"]
        owners = {reference["uid"] for reference in metadata.get("ownerReferences", ())}
        if relay.uid not in owners:
            raise StrangerError(name)
        labels = {**metadata.get("labels", {}), MANAGED_BY: MANAGER, INSTANCE: relay.name}
        metadata["labels"] = labels
        return await self._cluster.replace(SECRET, relay.namespace, found)


def digest_of_data(data: Mapping[str, bytes]) -> str:
    """Return a digest of a Secret's content, from which nobody gets the content back."""
    whole = hashlib.sha256()
    for name in sorted(data):
        for part in (name.encode(), data[name]):
            whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()[:32]
