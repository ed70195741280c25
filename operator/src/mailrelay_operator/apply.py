"""Do what a plan says, at the API server; a child that is refused does not keep the others back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from mailrelay.runtime.logging import Logger
from mailrelay_operator.child_kinds import Kind
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.cluster.errors import (
    ClusterError,
    ConflictError,
    InvalidError,
    NamespaceEndsError,
    UnreachableError,
)
from mailrelay_operator.compare import foreign_fields, is_wanted, removal
from mailrelay_operator.known import Known
from mailrelay_operator.plan import Plan, Wanted, drift_of

_MANAGED_BY = "app.kubernetes.io/managed-by"


class DriftCounts(Protocol):
    """Who counts what others did and we undid."""

    def undone(self, kind: Kind, how: str) -> None:
        """Count a child that was `edited`, `deleted`, or had fields `added`."""


@dataclass(slots=True)
class Outcome:
    """What came of a plan."""

    strangers: list[str] = field(default_factory=list)  # in the way, and not ours
    faults: list[str] = field(default_factory=list)  # refused, with the server's words
    changed: int = 0


class Applier:
    """Carries plans out."""

    def __init__(self, cluster: Cluster, known: Known, counts: DriftCounts) -> None:
        self._cluster = cluster
        self._known = known
        self._counts = counts

    async def carry_out(self, plan: Plan, namespace: str, owner: str, log: Logger) -> Outcome:
        """Apply, clean up, delete.

        Raises UnreachableError, after which it is to be tried again, and NamespaceEndsError.
        """
        outcome = Outcome()
        for wanted in plan.apply:
            try:
                await self._apply(wanted, namespace, owner, log, outcome)
            except (UnreachableError, NamespaceEndsError):
                raise
            except ClusterError as error:
                self._refused(wanted, error, log, outcome)
        for wanted in plan.clean:
            try:
                await self._clean(wanted, namespace, log, outcome)
            except (UnreachableError, NamespaceEndsError):
                raise
            except ClusterError as error:
                self._refused(wanted, error, log, outcome)
        # What a changed spec no longer wants goes last, and only when the rest is there.
        if not outcome.faults and not outcome.strangers:
            for child in plan.delete:
                await self._cluster.delete(child.kind, namespace, child.name, uid=child.uid)
                child.is_deleted = True  # until the watch says that it is gone
                outcome.changed += 1
                log.info("relay.pruned", kind=child.kind.kind, name=child.name)
        return outcome

    def _refused(self, wanted: Wanted, error: ClusterError, log: Logger, outcome: Outcome) -> None:
        outcome.faults.append(f"{wanted.title}: {error}")
        log.warning("relay.child_refused", child=wanted.title, reason=str(error))

    async def _apply(
        self, wanted: Wanted, namespace: str, owner: str, log: Logger, outcome: Outcome
    ) -> None:
        kind, name = wanted.kind, wanted.manifest["metadata"]["name"]
        if wanted.found is None:
            there = await self._cluster.find(kind, namespace, name)
            if there is not None and not _is_ours(there, owner):
                outcome.strangers.append(wanted.title)
                return
        applied = await self._cluster.apply(kind, namespace, wanted.manifest)
        outcome.changed += 1
        self._tell(wanted, log)
        child = self._known.note_child(kind, applied, is_news=False)
        # The server's answer is what it made of the manifest: if a webhook changed it on the way,
        # applying it again would make no other.
        child.verify(wanted.digest)
        if child.has_foreign_fields:
            await self._clean(wanted, namespace, log, outcome)

    def _tell(self, wanted: Wanted, log: Logger) -> None:
        if wanted.drift:
            self._counts.undone(wanted.kind, "edited")
            log.info("relay.drift_undone", child=wanted.title, fields=list(wanted.drift[:20]))
        else:
            log.info(
                "relay.applied", child=wanted.title, new=wanted.found is None, digest=wanted.digest
            )

    async def _clean(self, wanted: Wanted, namespace: str, log: Logger, outcome: Outcome) -> None:
        """Take out what others put in, of exactly the version in which it was seen."""
        kind, name = wanted.kind, wanted.manifest["metadata"]["name"]
        found = await self._cluster.get(kind, namespace, name)
        # A wanted field that somebody has just set is his by now: applied again, not taken out.
        paths = [
            path
            for path in foreign_fields(found, kind.closed)
            if not is_wanted(path, wanted.manifest, found)
        ]
        if not paths:
            self._known.note_child(kind, found)
            return
        try:
            cleaned = await self._cluster.patch(kind, namespace, name, removal(found, paths))
        except (ConflictError, InvalidError):
            # A version that is another by now is "invalid", too. The watch tells of it, and the
            # relay is looked at again.
            now = await self._cluster.get(kind, namespace, name)
            if now["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]:
                raise
            return
        child = self._known.note_child(kind, cleaned, is_news=bool(drift_of(wanted, cleaned)))
        if not drift_of(wanted, cleaned):
            child.verify(wanted.digest)
        child.has_foreign_fields = False  # what cannot be taken out is not tried without end
        outcome.changed += 1
        self._counts.undone(kind, "added")
        fields = [".".join(map(str, path)) for path in paths[:20]]
        log.info("relay.drift_undone", child=wanted.title, added=fields)


def _is_ours(found: dict[str, object], owner: str) -> bool:
    """Tell whether an object was made for just this relay."""
    metadata = found["metadata"]
    if not isinstance(metadata, dict):
        return False
    labels = metadata.get("labels", {})
    if labels.get(_MANAGED_BY) != "mailrelay-operator":
        # A child of ours whose labels were taken off is still owned by the relay.
        return any(
            reference.get("uid") == owner for reference in metadata.get("ownerReferences", ())
        )
    owners = [ref["uid"] for ref in metadata.get("ownerReferences", ()) if ref.get("controller")]
    return not owners or owners == [owner]
