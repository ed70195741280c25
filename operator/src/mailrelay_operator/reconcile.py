"""One pass over one relay: read, generate, want, apply, prune, observe, tell.

Nothing of a pass depends on what happened, only on what is: it may be repeated, and begun anew, at
any time. What cannot be done (a faulty spec, a missing Secret, a name that is taken) leaves the
relay as it runs, and stands in its conditions. A pass that finds everything as the last one left it
ends after a few comparisons.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay_operator.apply import Applier, Outcome
from mailrelay_operator.child import Manifest, RelayKey
from mailrelay_operator.cluster.errors import ConflictError, NamespaceEndsError
from mailrelay_operator.conditions import MissingSecret, Observed, conditions, rolling_seconds
from mailrelay_operator.desired.children import desired
from mailrelay_operator.gather import Gatherer
from mailrelay_operator.known import Known
from mailrelay_operator.plan import Plan, plan
from mailrelay_operator.references import missing, references
from mailrelay_operator.resource.relay import Relay, ResourceError, read_relay
from mailrelay_operator.resource.relay_config import relay_config
from mailrelay_operator.rotation import AGAIN_SECONDS as ROTATION_SECONDS
from mailrelay_operator.rotation import Rotation
from mailrelay_operator.scaling import Scaling
from mailrelay_operator.secrets_of import SecretReader, SecretWriter, StrangerError
from mailrelay_operator.status_writer import StatusWriter
from mailrelay_operator.streams_again import StreamsAgain, lost_streams
from mailrelay_operator.upgrade import Upgrade
from mailrelay_operator.view import View

# How soon a relay is looked at again of itself. Everything that matters tells of itself; this is
# for the time that passes: a certificate that ends.
AGAIN_SECONDS: Final = 3600.0
_STOPPED_SECONDS: Final = 60.0  # what was refused may be taken now: a quota was raised
_AWAITED_SECONDS: Final = 1.0
_ROLLING_SECONDS: Final = 60.0  # pods that take too long tell of nothing
_TURN_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pass works with."""

    known: Known
    applier: Applier
    reader: SecretReader
    writer: SecretWriter
    gatherer: Gatherer
    scaling: Scaling
    rotation: Rotation
    streams: StreamsAgain
    status: StatusWriter
    upgrade: Upgrade
    made_by: str
    clock: Clock
    log: Logger
    counted: Callable[[str], None]  # how a pass ended: ok, stopped


@dataclass(slots=True)
class _Last:
    """What a relay's last pass came to, when everything was as it was wanted."""

    fingerprint: object
    children: int


@dataclass(slots=True)
class _Found:
    """What a pass finds out on its way."""

    spec_fault: str = ""
    missing: tuple[MissingSecret, ...] = ()
    strangers: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    waits: str = ""
    again_seconds: float = AGAIN_SECONDS
    streams_are_due: bool = False  # to be made again

    @property
    def is_stopped(self) -> bool:
        """Whether the relay is not as its spec says, and somebody has to do something."""
        return bool(self.spec_fault or self.missing or self.strangers or self.faults)


class Reconciler:
    """Makes passes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._last: dict[RelayKey, _Last] = {}

    async def reconcile(self, key: RelayKey) -> float | None:
        """Make a pass; return after how many seconds to look again of itself.

        Raises ClusterError when the API server could not be reached: try again.
        """
        parts = self._parts
        log = parts.log.bind(relay="/".join(key))
        body = parts.known.relay(key)
        if body is None:
            self._forget(key)
            return None
        if "deletionTimestamp" in body["metadata"]:
            # Kubernetes removes what the relay owns, the claims of its volumes with
            # `deletionPolicy: Delete` included; nothing waits for an operator.
            self._forget(key)
            return None
        found = _Found()
        relay = self._read(body, found)
        if relay is not None and not relay.spec.paused:
            try:
                await self._make(key, relay, found, log)
            except NamespaceEndsError:
                # The relay goes with it soon, and its children are going.
                log.info("relay.namespace_ends")
                return _STOPPED_SECONDS
        await self._tell(key, body, relay, found)
        if found.streams_are_due:  # told before: afterwards there is another Job to speak of
            await parts.streams.run(key, log)
        parts.counted("stopped" if found.is_stopped else "ok")
        return found.again_seconds

    def _forget(self, key: RelayKey) -> None:
        self._last.pop(key, None)
        self._parts.known.reads(key, ())
        self._parts.upgrade.forget(key)
        self._parts.scaling.forget(key)
        self._parts.streams.forget(key)

    def _read(self, body: Manifest, found: _Found) -> Relay | None:
        try:
            return read_relay(body)
        except ResourceError as error:
            found.spec_fault = "; ".join(error.faults)
            return None

    async def _make(self, key: RelayKey, relay: Relay, found: _Found, log: Logger) -> None:
        parts = self._parts
        wanted = references(relay)
        parts.known.reads(key, ((relay.namespace, reference.name) for reference in wanted))
        read = {
            reference.name: await parts.reader.read((relay.namespace, reference.name))
            for reference in wanted
        }
        found.missing = missing(
            wanted, {name: None if each is None else each.keys for name, each in read.items()}
        )
        if found.missing:
            return
        now = dt.datetime.fromtimestamp(parts.clock(), dt.UTC)
        digests = {name: each.digest for name, each in read.items() if each is not None}
        replicas = parts.scaling.replicas(key, relay)
        fingerprint = (
            relay.uid,
            relay.generation,
            now.date(),
            tuple(sorted(digests.items())),
            tuple(sorted((n, own.version) for n, own in parts.known.own_secrets(key).items())),
            replicas,
            parts.gatherer.fingerprint(key, relay),
        )
        if self._is_as_before(key, fingerprint):
            await self._follow_up(key, relay, found, log)
            return
        try:
            relay_config(relay)
        except ResourceError as error:
            # Before anything is made: a certificate for another name, say.
            found.spec_fault = "; ".join(error.faults)
            return
        try:
            await parts.writer.make(relay, key, now, log)
        except StrangerError as error:
            found.strangers = (f"Secret {error}",)
            found.again_seconds = _STOPPED_SECONDS
            return
        except ConflictError as error:
            log.info("relay.secret_raced", reason=str(error))
            found.again_seconds = _AWAITED_SECONDS
            return
        inputs = parts.gatherer.inputs(key, relay, digests, replicas)
        try:
            manifests = desired(relay, inputs)
        except (KeyError, ValueError) as error:
            # Beyond what the resource's rules can say: a quantity, a combination.
            found.spec_fault = f"spec: {error}"
            return
        todo = plan(manifests, parts.known.children(key), owner=relay.uid, made_by=parts.made_by)
        await self._carry_out(key, relay, todo, found, log)
        if todo.is_nothing:
            self._last[key] = _Last(fingerprint, len(parts.known.children(key)))
            await self._follow_up(key, relay, found, log)
        elif not found.is_stopped and not found.waits:
            # What was just applied is verified; the next pass begins from here.
            self._last.pop(key, None)

    async def _follow_up(self, key: RelayKey, relay: Relay, found: _Found, log: Logger) -> None:
        """Take the next step of what takes several, all being as it is wanted until then.

        That is the replacement of a key, and streams that the queue has lost.
        """
        due = self._parts.streams.due_in(key)
        if due is not None:
            found.again_seconds = max(due, _AWAITED_SECONDS)
            found.streams_are_due = due == 0
            return
        rotation = self._parts.rotation
        if rotation.is_under_way(key, relay):
            taken = await rotation.step(key, relay, log)
            # What was written is known without being told of.
            found.again_seconds = _AWAITED_SECONDS if taken else ROTATION_SECONDS

    def _is_as_before(self, key: RelayKey, fingerprint: object) -> bool:
        last = self._last.get(key)
        children = self._parts.known.children(key)
        return (
            last is not None
            and last.fingerprint == fingerprint
            and last.children == len(children)
            and all(
                child.verified == child.manifest
                and not child.has_foreign_fields
                and not child.is_deleted
                for child in children.values()
            )
        )

    async def _carry_out(
        self, key: RelayKey, relay: Relay, todo: Plan, found: _Found, log: Logger
    ) -> None:
        parts = self._parts
        if todo.is_nothing:
            return
        if todo.awaited:
            found.again_seconds = _AWAITED_SECONDS
        if todo.rolls_by_upgrade and not self._was_changed(key, relay):
            found.waits = parts.upgrade.ask(key)
            if found.waits:
                found.again_seconds = _TURN_SECONDS
                todo = todo.without_upgrade()
        outcome: Outcome = await parts.applier.carry_out(todo, relay.namespace, relay.uid, log)
        found.strangers = tuple(outcome.strangers)
        found.faults = tuple(outcome.faults)
        if found.is_stopped:
            found.again_seconds = _STOPPED_SECONDS

    def _was_changed(self, key: RelayKey, relay: Relay) -> bool:
        """Tell whether somebody changed the spec since it was last looked at."""
        body = self._parts.known.relay(key) or {}
        return bool((body.get("status") or {}).get("observedGeneration") != relay.generation)

    async def _tell(
        self, key: RelayKey, body: Manifest, relay: Relay | None, found: _Found
    ) -> None:
        parts = self._parts
        children = parts.known.children(key)
        view = View.of(children, relay)
        numbers = parts.scaling.numbers(key)
        observed = view.observed()
        seen = replace(
            observed,
            spec_fault=found.spec_fault,
            is_paused=relay is not None and relay.spec.paused,
            missing=found.missing,
            strangers=found.strangers,
            apply_faults=found.faults,
            waits=found.waits,
            rolling_seconds=rolling_seconds(
                (body.get("status") or {}).get("conditions", ()), parts.clock()
            ),
            health=None if numbers is None or numbers.fault else numbers.reasons,
            is_unavailable=numbers is not None and numbers.is_unavailable,
            answers=numbers is not None and numbers.is_told and not numbers.is_unavailable,
            lost_streams=lost_streams(observed.streams, numbers),
        )
        told = conditions(seen)
        if any((each.type, each.reason) == ("Progressing", "Rolling") for each in told):
            found.again_seconds = min(found.again_seconds, _ROLLING_SECONDS)
        self._note_upgrade(key, seen, children)
        await parts.scaling.follow(
            key,
            relay,
            is_running=seen.monitor is not None,
            is_calm=seen.nats is None or seen.nats.is_rolled_out,
        )
        await parts.status.write(
            body,
            told,
            ingress=view.ingress,
            sender=view.sender,
            address=view.address,
            numbers=numbers,
        )

    def _note_upgrade(self, key: RelayKey, seen: Observed, children: Any) -> None:  # noqa: ANN401 — see Known
        # What an upgrade leaves as it is keeps its maker: one child of ours says that it was here.
        is_new = any(child.made_by == self._parts.made_by for child in children.values())
        told = {condition.type: condition for condition in conditions(seen)}
        fault = ""
        if told["Degraded"].status == "True":
            fault = told["Degraded"].message
        elif told["Progressing"].status == "True":
            fault = told["Progressing"].message
        elif told["Ready"].status != "True":
            fault = told["Ready"].message
        self._parts.upgrade.note(key, is_new=is_new and not seen.waits, fault=fault)
