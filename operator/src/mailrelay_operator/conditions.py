"""What was observed of a relay -> its conditions (pure).

Each says in its message what to do. `Ready` sums the others up: it is true when mail is taken and
sent, and otherwise gives the first reason in the order in which somebody would look.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mailrelay_operator.desired.labels import COMPONENT, INSTANCE

TRUE: Final = "True"
FALSE: Final = "False"
UNKNOWN: Final = "Unknown"

MESSAGE_LIMIT: Final = 2000  # characters; a longer list of faults is cut

# How long pods may take before somebody should look, as a Deployment's own progress deadline.
SLOW_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, as Kubernetes knows it; its times are added when it is written."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Workload:
    """What a Deployment or StatefulSet says of its pods."""

    kind: str
    name: str
    wanted: int
    ready: int = 0
    updated: int = 0
    is_observed: bool = True  # its controller has seen the latest spec
    fault: str = ""  # its controller cannot make pods, or they do not get ready in time

    @property
    def is_rolled_out(self) -> bool:
        """Whether all pods are of the latest spec, and ready."""
        return self.is_observed and self.updated >= self.wanted and self.ready >= self.wanted

    @property
    def summary(self) -> str:
        """`ready/wanted`, as the printer column shows it."""
        return f"{self.ready}/{self.wanted}"


@dataclass(frozen=True, slots=True)
class StreamsJob:
    """What the Job that makes the streams came to."""

    name: str
    done: bool = False
    fault: str = ""
    ended_at: float = 0.0  # seconds since the epoch; 0 while it runs


@dataclass(frozen=True, slots=True)
class MissingSecret:
    """A Secret, or a key of one, that the spec names and that is not there."""

    name: str
    key: str  # empty: the Secret itself
    used_by: str  # the field that names it

    def __str__(self) -> str:
        if self.key:
            return f"Secret {self.name} ({self.used_by}) has no key {self.key}: add it"
        return f"Secret {self.name} ({self.used_by}) does not exist: create it"


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the conditions are made from."""

    spec_fault: str = ""
    is_paused: bool = False
    missing: tuple[MissingSecret, ...] = ()
    strangers: tuple[str, ...] = ()  # `Kind name` of objects in the way that are not ours
    apply_faults: tuple[str, ...] = ()
    waits: str = ""  # why nothing is changed now: an upgrade goes relay by relay
    rolling_seconds: float = 0.0  # for how long pods have been on their way
    needs_certificate: bool = False
    certificate_fault: str = ""
    has_own_queue: bool = True
    nats: Workload | None = None
    streams: StreamsJob | None = None
    ingress: Workload | None = None
    sender: Workload | None = None
    monitor: Workload | None = None
    health: tuple[str, ...] | None = None  # the monitor's reasons; None: it was not asked
    is_unavailable: bool = False  # the monitor says that no mail can be taken
    # The monitor says that the queue answers, so its streams are there: a Job that runs again only
    # looks at them, or changes a limit, while mail flows on.
    answers: bool = False
    lost_streams: tuple[str, ...] = ()  # what the queue had and has not, by the monitor
    extra: tuple[Condition, ...] = field(default_factory=tuple)


def conditions(seen: Observed) -> tuple[Condition, ...]:
    """Return all conditions, `Ready` first."""
    parts = (
        _secrets(seen),
        _certificate(seen),
        _queue(seen),
        _available("IngressAvailable", "ingress", seen.ingress),
        _available("SendersAvailable", "sender", seen.sender),
    )
    progressing = _progressing(seen)
    degraded = _degraded(seen)
    paused = _paused(seen)
    ready = _ready(seen, parts)
    return (ready, progressing, *parts, degraded, paused, *seen.extra)


def _secrets(seen: Observed) -> Condition:
    if seen.missing:
        return Condition(
            "SecretsResolved", FALSE, "SecretMissing", _list("; ".join(map(str, seen.missing)))
        )
    return Condition("SecretsResolved", TRUE, "Resolved", "all Secrets and their keys are there")


def _certificate(seen: Observed) -> Condition:
    if seen.certificate_fault:
        return Condition("CertificateReady", FALSE, "NotIssued", _list(seen.certificate_fault))
    if not seen.needs_certificate:
        return Condition("CertificateReady", TRUE, "NotNeeded", "no issuer is named")
    return Condition("CertificateReady", TRUE, "Issued", "the certificate is there")


def _queue(seen: Observed) -> Condition:
    if seen.has_own_queue:
        nats = seen.nats
        if nats is None:
            return Condition("QueueReady", FALSE, "NotMade", "the queue's servers are not made yet")
        if nats.fault:
            return Condition("QueueReady", FALSE, "ServersFail", _list(_look_at(nats)))
        # Of three servers two are enough.
        if nats.ready <= nats.wanted // 2:
            return Condition(
                "QueueReady", FALSE, "ServersStart", f"{nats.summary} servers of {nats.name} ready"
            )
    streams = seen.streams
    if streams is None:
        return Condition("QueueReady", FALSE, "NotMade", "the queue's streams are not made yet")
    if streams.fault:
        return Condition(
            "QueueReady",
            FALSE,
            "StreamsRefused",
            _list(f"{streams.fault}; see: kubectl logs job/{streams.name}"),
        )
    if not streams.done and not seen.answers:
        return Condition(
            "QueueReady", FALSE, "StreamsAwaited", f"Job {streams.name} makes the streams"
        )
    if seen.lost_streams and seen.is_unavailable:
        lost = ", ".join(seen.lost_streams)
        message = f"the queue lost {lost}: Job {streams.name} is run again"
        return Condition("QueueReady", FALSE, "StreamsMissing", _list(message))
    return Condition("QueueReady", TRUE, "Ready", "servers and streams are there")


def _available(kind: str, component: str, workload: Workload | None) -> Condition:
    if workload is None:
        return Condition(kind, FALSE, "NotMade", f"the {component} is not made yet")
    if workload.wanted == 0:
        if component == "sender":
            return Condition(kind, TRUE, "ScaledToZero", "no sender is needed now")
        return Condition(kind, FALSE, "NoReplicas", f"spec.{component}.replicas is 0: raise it")
    if workload.ready == 0:
        reason = "PodsFail" if workload.fault else "PodsStart"
        return Condition(kind, FALSE, reason, _list(_look_at(workload)))
    return Condition(kind, TRUE, "Available", f"{workload.summary} pods ready")


def _look_at(workload: Workload) -> str:
    said = f": {workload.fault}" if workload.fault else ""
    # The pods, because only they tell of an image that cannot be pulled or a node that is full.
    relay, _, component = workload.name.rpartition("-")
    pods = f"{INSTANCE}={relay},{COMPONENT}={component}"
    return (
        f"{workload.summary} pods of {workload.kind} {workload.name} ready{said}; "
        f"see: kubectl describe pods --selector {pods}"
    )


def _stopped(seen: Observed) -> Iterator[tuple[str, str]]:
    """Return why the relay cannot be made as its spec says; what runs stays as it was."""
    if seen.spec_fault:
        yield "SpecInvalid", f"{seen.spec_fault}; the relay stays as it was"
    if seen.missing:
        secrets = "; ".join(map(str, seen.missing))
        yield "SecretMissing", f"{secrets}; the relay stays as it was"
    if seen.strangers:
        names = ", ".join(seen.strangers)
        yield (
            "NameTaken",
            f"{names} exists and belongs to somebody else: remove it, or rename the relay",
        )
    if seen.apply_faults:
        yield "ApplyRefused", "the API server refused " + "; ".join(seen.apply_faults)


def _progressing(seen: Observed) -> Condition:
    if seen.is_paused:
        return Condition("Progressing", FALSE, "Paused", "spec.paused is true")
    for reason, message in _stopped(seen):
        return Condition("Progressing", FALSE, reason, _list(message))
    if seen.waits:
        return Condition("Progressing", FALSE, "Waits", _list(seen.waits))
    rolling = [
        work.name
        for work in (seen.nats, seen.ingress, seen.sender, seen.monitor)
        if work is not None and not work.is_rolled_out
    ]
    if rolling:
        return Condition("Progressing", TRUE, "Rolling", f"pods come: {', '.join(rolling)}")
    return Condition("Progressing", FALSE, "Done", "everything is as the spec says")


def _degraded(seen: Observed) -> Condition:
    for reason, message in _stopped(seen):
        return Condition("Degraded", TRUE, reason, _list(message))
    is_slow = seen.rolling_seconds >= SLOW_SECONDS
    for work in (seen.nats, seen.ingress, seen.sender, seen.monitor):
        if work is not None and (work.fault or (is_slow and not work.is_rolled_out)):
            return Condition("Degraded", TRUE, "PodsNotReady", _list(_look_at(work)))
    if seen.health:
        return Condition("Degraded", TRUE, "Health", _list("; ".join(seen.health)))
    return Condition("Degraded", FALSE, "AsExpected", "nothing is wrong")


def _paused(seen: Observed) -> Condition:
    if seen.is_paused:
        return Condition(
            "Paused", TRUE, "Asked", "nothing is changed until spec.paused is false again"
        )
    return Condition("Paused", FALSE, "NotAsked", "changes are made")


def _ready(seen: Observed, parts: Sequence[Condition]) -> Condition:
    # What runs is ready whether or not the latest spec could be taken over: Degraded says that.
    for part in parts[2:]:
        if part.status != TRUE:
            for reason, message in _stopped(seen):
                return Condition("Ready", FALSE, reason, _list(message))
            return Condition("Ready", FALSE, f"{part.type}{part.reason}", part.message)
    if seen.is_unavailable:
        reasons = "; ".join(seen.health or ())
        return Condition("Ready", FALSE, "Unavailable", _list(reasons))
    return Condition("Ready", TRUE, "Ready", "mail is taken and sent")


def _list(message: str) -> str:
    message = " ".join(message.split())
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"


def rolling_seconds(old: Sequence[dict[str, Any]], now: float) -> float:
    """Return for how long pods have been on their way, by the conditions as they were written."""
    for condition in old:
        if (condition.get("type"), condition.get("reason")) == ("Progressing", "Rolling"):
            try:
                since = dt.datetime.fromisoformat(condition["lastTransitionTime"])
            except (KeyError, ValueError):
                return 0.0
            return max(0.0, now - since.timestamp())
    return 0.0


def as_written(
    new: Sequence[Condition], old: Sequence[dict[str, Any]], generation: int, now: str
) -> list[dict[str, Any]]:
    """Return the conditions as status holds them; `now` in RFC 3339.

    A condition's time is that of its last change of `status`, and stays otherwise.
    """
    before = {condition.get("type"): condition for condition in old}
    written = []
    for condition in new:
        was = before.get(condition.type, {})
        same = was.get("status") == condition.status
        written.append(
            {
                "type": condition.type,
                "status": condition.status,
                "observedGeneration": generation,
                "lastTransitionTime": was.get("lastTransitionTime", now) if same else now,
                "reason": condition.reason,
                "message": condition.message,
            }
        )
    return written


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a condition that people are told of by an Event."""

    warning: bool
    reason: str
    message: str


_GOOD_WHEN_FALSE: Final = {"Degraded", "Paused", "Progressing"}


def changes(new: Sequence[Condition], old: Sequence[dict[str, Any]]) -> tuple[Change, ...]:
    """Return what an Event is written for: each condition whose status or reason is another.

    A new relay tells nothing of conditions that begin as they should be.
    """
    before = {condition.get("type"): condition for condition in old}
    told: dict[tuple[str, str], Change] = {}
    for condition in new:
        was = before.get(condition.type)
        good = condition.status == (FALSE if condition.type in _GOOD_WHEN_FALSE else TRUE)
        if was is None and (good or condition.status == UNKNOWN):
            continue
        if was is not None and (was.get("status"), was.get("reason")) == (
            condition.status,
            condition.reason,
        ):
            continue
        warning = not good and condition.type not in {"Paused", "Progressing"}
        change = Change(warning, f"{condition.type}{condition.reason}", condition.message)
        told.setdefault((condition.reason, condition.message), change)
    return tuple(told.values())
