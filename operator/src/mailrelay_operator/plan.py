"""What is to be done so that a relay's children are as they are wanted (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mailrelay_operator.child import MADE_BY, MANIFEST, Child, Manifest, digest_of
from mailrelay_operator.child_kinds import BY_KIND, JOB, Kind
from mailrelay_operator.compare import differences

ChildKey = tuple[str, str]  # kind, name


@dataclass(frozen=True, slots=True)
class Wanted:
    """A manifest to be applied, and why."""

    kind: Kind
    manifest: Manifest  # with the digest and the maker in its annotations
    digest: str
    found: Child | None  # None: it is to be made
    drift: tuple[str, ...] = ()  # paths that somebody changed

    @property
    def title(self) -> str:
        """How people call it."""
        return f"{self.kind.kind} {self.manifest['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in this order."""

    apply: tuple[Wanted, ...] = ()
    clean: tuple[Wanted, ...] = ()  # somebody else's fields are to be taken out
    delete: tuple[Child, ...] = ()
    awaited: tuple[str, ...] = ()  # what is on its way out, and made again afterwards
    as_wanted: tuple[Wanted, ...] = field(default=(), repr=False)

    @property
    def is_nothing(self) -> bool:
        """Whether everything is as it is wanted."""
        return not (self.apply or self.clean or self.delete or self.awaited)

    @property
    def rolls_by_upgrade(self) -> bool:
        """Whether it changes what another operator made and nobody edited."""
        return any(
            wanted.found is not None
            and not wanted.drift
            and wanted.found.made_by != wanted.manifest["metadata"]["annotations"][MADE_BY]
            for wanted in self.apply
        )

    def without_upgrade(self) -> Plan:
        """Only what is missing or drifted away; what waits for an upgrade's turn is left alone."""
        kept = (wanted for wanted in self.apply if wanted.found is None)
        return Plan(tuple(kept), (), (), self.awaited, self.as_wanted)


def plan(
    manifests: Sequence[Mapping[str, Any]],
    found: Mapping[ChildKey, Child],
    *,
    owner: str,
    made_by: str,
) -> Plan:
    """Hold what is wanted against what was found.

    Children are verified on the way: what is as it is wanted is remembered to be so.
    """
    apply: list[Wanted] = []
    clean: list[Wanted] = []
    as_wanted: list[Wanted] = []
    awaited: list[str] = []
    names: set[ChildKey] = set()
    for manifest in manifests:
        kind = BY_KIND[manifest["kind"]]
        key = (kind.kind, manifest["metadata"]["name"])
        names.add(key)
        child = found.get(key)
        wanted = _wanted(kind, manifest, child, made_by)
        if child is None:
            apply.append(wanted)
        elif child.is_deleted or (child.owner and child.owner != owner):
            # Of a relay of the same name that was deleted: the garbage collector is at it.
            awaited.append(wanted.title)
        elif kind is JOB:
            child.verify(wanted.digest)  # cannot be changed; another one has another name
            as_wanted.append(wanted)
        elif _is_as_wanted(wanted, child):
            (clean if child.has_foreign_fields else as_wanted).append(wanted)
        else:
            drift = () if child.manifest != wanted.digest else _drift(wanted, child)
            apply.append(_wanted(kind, manifest, child, made_by, drift))
    return Plan(
        tuple(apply),
        tuple(clean),
        tuple(_superfluous(found.values(), names, owner)),
        tuple(awaited),
        tuple(as_wanted),
    )


def _wanted(
    kind: Kind,
    manifest: Mapping[str, Any],
    found: Child | None,
    made_by: str,
    drift: tuple[str, ...] = (),
) -> Wanted:
    digest = digest_of(manifest)
    metadata = dict(manifest["metadata"])
    metadata["annotations"] = {
        **metadata.get("annotations", {}),
        MANIFEST: digest,
        MADE_BY: made_by,
    }
    if found is not None:
        metadata["uid"] = found.uid  # another object under the name is refused
    return Wanted(kind, {**manifest, "metadata": metadata}, digest, found, drift)


def _is_as_wanted(wanted: Wanted, child: Child) -> bool:
    if child.manifest != wanted.digest:
        return False
    if child.verified == wanted.digest:
        return True
    if _drift(wanted, child):
        return False
    child.verify(wanted.digest)
    return True


def _drift(wanted: Wanted, child: Child) -> tuple[str, ...]:
    return () if child.packed is None else drift_of(wanted, child.content())


def drift_of(wanted: Wanted, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Name what of an object is not as it is wanted."""
    # Who made it last is no drift: an operator of another version that found nothing to do.
    metadata = {**wanted.manifest["metadata"]}
    metadata["annotations"] = dict(metadata["annotations"])
    del metadata["annotations"][MADE_BY]
    return tuple(differences({**wanted.manifest, "metadata": metadata}, content))


def _superfluous(found: Iterable[Child], names: set[ChildKey], owner: str) -> Iterable[Child]:
    for child in found:
        if (
            (child.kind.kind, child.name) not in names
            and child.kind.pruned
            and child.owner == owner
            and not child.is_deleted
        ):
            yield child
