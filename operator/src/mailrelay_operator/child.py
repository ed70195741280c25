"""One child as it was last seen, in as little memory as will do.

A cluster with a thousand relays has some 25,000 of them. What a child is made of is kept, packed,
only until somebody has held it against what is wanted; from then on its `shape` is enough to know
that it is still as it was.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mailrelay_operator.child_kinds import Kind
from mailrelay_operator.compare import foreign_fields
from mailrelay_operator.observe import Observation, observe

# On each child: a digest of the manifest that it was applied with. A field that is no longer wanted
# is seen by it, also after a restart.
MANIFEST: Final = "mailrelay.dev/manifest"
# And which operator did it: its version and defaults.
MADE_BY: Final = "mailrelay.dev/made-by"
INSTANCE: Final = "app.kubernetes.io/instance"

Manifest = dict[str, Any]
RelayKey = tuple[str, str]  # namespace, name


@dataclass(slots=True)
class Child:
    """A child."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    version: str
    relay: str  # its name, by the label
    owner: str  # uid of the relay that controls it; empty: nobody does
    manifest: str  # digest by the annotation
    made_by: str
    shape: str  # another one when anything but the status may be another
    has_foreign_fields: bool
    is_deleted: bool  # it is on its way out
    observed: Observation
    packed: bytes | None  # its content, until it is verified
    verified: str = ""  # digest of the manifest that it was found to be as

    @property
    def relay_key(self) -> RelayKey:
        """The relay that it says it belongs to."""
        return self.namespace, self.relay

    def content(self) -> Manifest:
        """Return what it is made of; only while it is not verified."""
        if self.packed is None:
            raise ValueError(f"{self.kind.kind} {self.name} was verified, and its content let go")
        content: Manifest = msgspec.json.decode(zlib.decompress(self.packed))
        return content

    def verify(self, digest: str) -> None:
        """Take note that it is as a manifest with this digest says."""
        self.verified, self.packed = digest, None


def child_of(kind: Kind, found: Mapping[str, Any], before: Child | None = None) -> Child:
    """Return an object as a child; what is known of an earlier version holds for its shape."""
    metadata = found["metadata"]
    annotations = metadata.get("annotations", {})
    shape = _shape(found)
    child = Child(
        kind=kind,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        relay=metadata.get("labels", {}).get(INSTANCE, ""),
        owner=_controller(metadata),
        manifest=annotations.get(MANIFEST, ""),
        made_by=annotations.get(MADE_BY, ""),
        shape=shape,
        has_foreign_fields=bool(kind.closed) and bool(foreign_fields(found, kind.closed)),
        is_deleted="deletionTimestamp" in metadata,
        observed=observe(kind.kind, found),
        packed=None,
    )
    if before is not None and (before.uid, before.shape) == (child.uid, shape) and before.verified:
        child.verified = before.verified
    else:
        child.packed = _pack(found)
    return child


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return a digest of a manifest, whatever the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(manifest, order="deterministic")).hexdigest()[:32]


def _controller(metadata: Mapping[str, Any]) -> str:
    for owner in metadata.get("ownerReferences", ()):
        if owner.get("controller"):
            return str(owner["uid"])
    return ""


def _shape(found: Mapping[str, Any]) -> str:
    """Return the generation, where there is one, and a digest of what people may edit beside it.

    Where there is none each version is a shape of its own.
    """
    metadata = found["metadata"]
    generation = metadata.get("generation")
    if generation is None:
        return str(metadata["resourceVersion"])
    beside = [metadata.get(key) for key in ("labels", "annotations", "ownerReferences")]
    return f"{generation}/{digest_of({'beside': beside})}"


def _pack(found: Mapping[str, Any]) -> bytes:
    kept = {key: value for key, value in found.items() if key != "status"}
    kept["metadata"] = {
        key: value for key, value in found["metadata"].items() if key != "managedFields"
    }
    return zlib.compress(msgspec.json.encode(kept), 1)
