"""What is known of the cluster: relays, their children, Secrets; and which relay a change concerns.

Fed by the watches and by the answers to what the operator itself writes, so that its own change,
when the watch tells of it, is no news.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailrelay_operator.child import INSTANCE, Child, Manifest, RelayKey, child_of
from mailrelay_operator.child_kinds import RELAY, SECRET, Kind
from mailrelay_operator.plan import ChildKey

SecretKey = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class OwnSecret:
    """A Secret that the operator generated, with its content."""

    uid: str
    version: str
    metadata: Mapping[str, Any]
    type: str
    data: Mapping[str, bytes] = field(repr=False)


def secret_data(found: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a Secret's content; a value that is no base64 is none."""
    data = {}
    for key, value in (found.get("data") or {}).items():
        try:
            data[key] = base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError):
            continue
    return data


class Known:
    """The memory. `concerns` is called with the relay that a change is about."""

    def __init__(self, concerns: Callable[[RelayKey], None]) -> None:
        self._concerns = concerns
        self._relays: dict[RelayKey, Manifest] = {}
        self._children: dict[RelayKey, dict[ChildKey, Child]] = {}
        self._owners: dict[tuple[str, SecretKey], RelayKey] = {}  # by kind and place
        self._own_secrets: dict[RelayKey, dict[str, OwnSecret]] = {}
        self._secret_versions: dict[SecretKey, str] = {}
        self._readers: dict[SecretKey, set[RelayKey]] = {}
        self._reads: dict[RelayKey, frozenset[SecretKey]] = {}

    def relays(self) -> Iterable[RelayKey]:
        """Return the keys of all relays."""
        return list(self._relays)

    def relay(self, key: RelayKey) -> Manifest | None:
        """Return a relay's resource as last seen."""
        return self._relays.get(key)

    def children(self, key: RelayKey) -> dict[ChildKey, Child]:
        """Return a relay's children as last seen, by kind and name."""
        return self._children.get(key, {})

    def own_secrets(self, key: RelayKey) -> Mapping[str, OwnSecret]:
        """Return the generated Secrets of a relay, by name."""
        return self._own_secrets.get(key, {})

    def secret_version(self, key: SecretKey) -> str:
        """Return the version of a Secret that people made; empty when it is not there."""
        return self._secret_versions.get(key, "")

    def reads(self, key: RelayKey, secrets: Iterable[SecretKey]) -> None:
        """Have a relay looked at again when one of these Secrets changes."""
        wanted = frozenset(secrets)
        before = self._reads.get(key, frozenset())
        for secret in before - wanted:
            self._readers[secret].discard(key)
            if not self._readers[secret]:
                del self._readers[secret]
        for secret in wanted - before:
            self._readers.setdefault(secret, set()).add(key)
        if wanted:
            self._reads[key] = wanted
        else:
            self._reads.pop(key, None)

    def note_relay(self, found: Manifest) -> None:
        """Take note of a relay's resource; one that is older than what is known is no news."""
        key = _place(found)
        before = self._relays.get(key)
        self._relays[key] = found
        if before is None or _essence(before) != _essence(found):
            self._concerns(key)

    def forget_relay(self, key: RelayKey) -> None:
        """Take note that a relay's resource is gone."""
        if self._relays.pop(key, None) is not None:
            self._concerns(key)

    def note_child(self, kind: Kind, found: Mapping[str, Any], *, is_news: bool = True) -> Child:
        """Take note of a child. What the operator wrote itself is no news."""
        place = _place(found)
        child_key = (kind.kind, place[1])
        owner = self._owners.get((kind.kind, place))
        before = self._children.get(owner, {}).get(child_key) if owner else None
        child = child_of(kind, found, before)
        key = child.relay_key
        if owner is not None and owner != key:
            self._drop(kind, place)  # somebody changed the label
            moved_from = owner
        else:
            moved_from = None
        self._children.setdefault(key, {})[child_key] = child
        self._owners[kind.kind, place] = key
        if is_news and (before is None or before.version != child.version):
            self._concerns(key)
            if moved_from is not None:
                self._concerns(moved_from)
        return child

    def forget_child(self, kind: Kind, place: SecretKey, *, is_news: bool = True) -> None:
        """Take note that a child is gone."""
        key = self._drop(kind, place)
        if key is not None and is_news:
            self._concerns(key)

    def note_own_secret(self, found: Mapping[str, Any], *, is_news: bool = True) -> None:
        """Take note of a generated Secret."""
        metadata = found["metadata"]
        key = (metadata["namespace"], metadata.get("labels", {}).get(INSTANCE, ""))
        secret = OwnSecret(
            metadata["uid"],
            metadata["resourceVersion"],
            {name: value for name, value in metadata.items() if name != "managedFields"},
            found.get("type", "Opaque"),
            secret_data(found),
        )
        before = self._own_secrets.get(key, {}).get(metadata["name"])
        self._own_secrets.setdefault(key, {})[metadata["name"]] = secret
        self._owners[SECRET.kind, _place(found)] = key
        # Another relay may name it: its smart host may be this one.
        self.note_secret(_place(found), secret.version)
        if is_news and (before is None or before.version != secret.version):
            self._concerns(key)

    def forget_own_secret(self, place: SecretKey) -> None:
        """Take note that a generated Secret is gone."""
        key = self._owners.pop((SECRET.kind, place), None)
        if key is not None:
            own = self._own_secrets.get(key, {}).pop(place[1], None)
            # One that only lost its label is seen among people's, maybe before this.
            if own is not None and self._secret_versions.get(place) == own.version:
                self.note_secret(place, "")
            if not self._own_secrets.get(key):
                self._own_secrets.pop(key, None)
            self._concerns(key)

    def note_secret(self, place: SecretKey, version: str) -> None:
        """Take note of a Secret that people made, or that is gone (an empty version)."""
        if version:
            self._secret_versions[place] = version
        else:
            self._secret_versions.pop(place, None)
        for key in self._readers.get(place, ()):
            self._concerns(key)

    def _drop(self, kind: Kind, place: SecretKey) -> RelayKey | None:
        key = self._owners.pop((kind.kind, place), None)
        if key is None:
            return None
        children = self._children.get(key, {})
        children.pop((kind.kind, place[1]), None)
        if not children:
            self._children.pop(key, None)
        return key


class ChildFollower:
    """Hands what the watches of children tell on to the memory."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def is_there(self, kind: Kind, found: Manifest) -> None:
        """Take note of a child."""
        self._known.note_child(kind, found)

    def is_gone(self, kind: Kind, place: SecretKey) -> None:
        """Take note that a child is gone."""
        self._known.forget_child(kind, place)


class OwnSecretFollower:
    """The same for generated Secrets."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def is_there(self, kind: Kind, found: Manifest) -> None:  # noqa: ARG002 — Follower's
        """Take note of a generated Secret."""
        self._known.note_own_secret(found)

    def is_gone(self, kind: Kind, place: SecretKey) -> None:  # noqa: ARG002 — Follower's
        """Take note that a generated Secret is gone."""
        self._known.forget_own_secret(place)


class SecretFollower:
    """The same for people's Secrets, of which only the version is known."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def is_there(self, kind: Kind, found: Manifest) -> None:  # noqa: ARG002 — Follower's
        """Take note of a Secret."""
        self._known.note_secret(_place(found), found["metadata"]["resourceVersion"])

    def is_gone(self, kind: Kind, place: SecretKey) -> None:  # noqa: ARG002 — Follower's
        """Take note that a Secret is gone."""
        self._known.note_secret(place, "")


class RelayFollower:
    """The same for relays: what kopf's watch may have failed to tell."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def is_there(self, kind: Kind, found: Manifest) -> None:  # noqa: ARG002 — Follower's
        """Take note of a relay."""
        found.setdefault("kind", RELAY.kind)
        self._known.note_relay(found)

    def is_gone(self, kind: Kind, place: SecretKey) -> None:  # noqa: ARG002 — Follower's
        """Take note that a relay is gone."""
        self._known.forget_relay(place)


def _place(found: Mapping[str, Any]) -> SecretKey:
    metadata = found["metadata"]
    return metadata["namespace"], metadata["name"]


def _essence(found: Manifest) -> tuple[object, ...]:
    """Return what a relay is looked at again for: not its status, which is ours."""
    metadata = found["metadata"]
    return (
        metadata["uid"],
        metadata.get("generation"),
        metadata.get("annotations"),
        metadata.get("finalizers"),
        metadata.get("deletionTimestamp"),
    )
