"""The composition root: makes every part once, runs them, and ends them in order."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from mailrelay.config.load import ConfigError
from mailrelay.runtime.clock import system_clock
from mailrelay.runtime.lifecycle import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    Life,
    run_service,
    wait_first,
)
from mailrelay.runtime.logging import Logger, configure_logging
from mailrelay.runtime.probe import Probe
from mailrelay.runtime.tracing import Tracing, tracing_from_environ
from mailrelay_operator.apply import Applier
from mailrelay_operator.backlog import Backlogs
from mailrelay_operator.child import Manifest, RelayKey
from mailrelay_operator.child_kinds import CHILDREN, SECRET, Kind
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.cluster.errors import ClusterError
from mailrelay_operator.cluster.login import access, log_in
from mailrelay_operator.cluster.watch import Follower, Watch
from mailrelay_operator.desired.labels import MANAGED_BY, MANAGER
from mailrelay_operator.events import EventWriter
from mailrelay_operator.face import Pulse, unhealthy_reason, unready_reason
from mailrelay_operator.gather import Gatherer
from mailrelay_operator.handlers import watch_relays
from mailrelay_operator.known import (
    ChildFollower,
    Known,
    OwnSecretFollower,
    SecretFollower,
)
from mailrelay_operator.leader import Leadership
from mailrelay_operator.metrics import OperatorMetrics
from mailrelay_operator.reconcile import Parts, Reconciler
from mailrelay_operator.relist import Relist
from mailrelay_operator.rotation import Rotation
from mailrelay_operator.scaling import Scaling
from mailrelay_operator.secrets_of import SecretReader, SecretWriter
from mailrelay_operator.settings import OperatorSettings, operator_settings
from mailrelay_operator.status_writer import StatusWriter
from mailrelay_operator.streams_again import StreamsAgain
from mailrelay_operator.upgrade import Upgrade
from mailrelay_operator.work_queue import WorkQueue
from mailrelay_operator.workers import Workers

# Several events of one change make one pass.
_COALESCE_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 5.0  # how often gauges are set
_SPREAD: Final = 0.2  # of the time between lists, over which the passes after one are spread


def run(environ: Mapping[str, str]) -> int:
    """Run the operator; return its exit code."""
    try:
        settings = operator_settings(environ)
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 — there is no log yet
        return EXIT_BAD_INPUT
    log = configure_logging("operator", settings.log_format)
    return run_service(lambda life: _live(settings, environ, log, life), environ)


async def _live(
    settings: OperatorSettings, environ: Mapping[str, str], log: Logger, life: Life
) -> int:
    try:
        client = await log_in(environ)
    except ClusterError as error:
        log.error("operator.failed", reason=str(error))  # noqa: TRY400 — the reason says it all
        return EXIT_BAD_INPUT
    cluster = Cluster(client)
    tracing = tracing_from_environ("operator", environ)
    try:
        return await _Operator(settings, environ, cluster, tracing, log).live(life)
    finally:
        tracing.close()
        await cluster.close()


class _Operator:
    """The parts."""

    def __init__(
        self,
        settings: OperatorSettings,
        environ: Mapping[str, str],
        cluster: Cluster,
        tracing: Tracing,
        log: Logger,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._cluster = cluster
        self._tracing = tracing
        self._log = log
        clock = system_clock
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._metrics = OperatorMetrics(self._registry)
        self._pulse = Pulse()
        self._queue: WorkQueue[RelayKey] = WorkQueue()
        self._known = Known(self._concerns)
        self._leader = Leadership(
            cluster, settings.namespace, settings.lease, settings.identity, log=log
        )
        self._backlogs = Backlogs(self._concerns, clock=clock)
        reader = SecretReader(cluster, self._known)
        scaling = Scaling(
            self._known, self._backlogs, reader, monitor_url=settings.monitor_url, clock=clock
        )
        self._gatherer = Gatherer(self._known, settings.images, settings.namespace)
        writer = SecretWriter(cluster, self._known)
        events = EventWriter(cluster, settings.identity, clock=clock, log=log)
        self._reconciler = Reconciler(
            Parts(
                known=self._known,
                applier=Applier(cluster, self._known, self._metrics),
                reader=reader,
                writer=writer,
                rotation=Rotation(cluster, self._known, writer),
                gatherer=self._gatherer,
                scaling=scaling,
                streams=StreamsAgain(cluster, self._known, scaling.numbers, clock),
                status=StatusWriter(cluster, self._known, events, clock),
                upgrade=Upgrade(self._known.relays),
                made_by=settings.made_by,
                clock=clock,
                log=log,
                counted=lambda result: self._metrics.reconciles.labels(result).inc(),
            )
        )
        self._workers = Workers(
            self._queue, self._pass, failed=self._failed, count=settings.workers
        )
        self._watches = tuple(self._all_watches())
        self._relist = Relist(
            cluster,
            self._known,
            settings.watched,
            seconds=settings.relist_seconds,
            missed=self._metrics.missed.inc,
            listed=self._spread,
            log=log,
        )

    async def live(self, life: Life) -> int:
        """Run until asked to stop, or until the Lease was lost."""
        probe = self._probe()
        watched = list(self._settings.watched) or "all"
        self._log.info("operator.started", watched=watched, probe=probe.port if probe else None)
        try:
            await wait_first(
                life.wait_stop(),
                self._leader.run(),
                self._relist.run(),
                watch_relays(
                    self._noticed,
                    lambda: access(self._environ),
                    self._settings.watched,
                    lambda: _take_signals(life),
                ),
                self._lead(life),
                self._measure(),
                *(watch.run() for watch in self._watches),
                *([probe.beat()] if probe else []),
            )
        finally:
            # Everything that writes has ended by now: another one may begin.
            await self._leader.give_up()
            if probe:
                probe.close()
        if life.is_stopping:
            self._log.info("operator.stopped")
            return EXIT_OK
        self._log.error("operator.ended", reason="the Lease was lost, or kopf ended")
        return EXIT_FAILED

    async def _lead(self, life: Life) -> None:
        """Work once this process leads and knows everything."""
        await self._relist.wait_listed()
        for watch in self._watches:
            await watch.wait_listed()
        life.tell_ready()
        await self._leader.wait_held()
        self._log.info("operator.works", relays=len(list(self._known.relays())))
        await wait_first(self._workers.run(), self._backlogs.run())

    def _all_watches(self) -> list[Watch]:
        ours = f"{MANAGED_BY}={MANAGER}"
        children, own = ChildFollower(self._known), OwnSecretFollower(self._known)
        whole = Kind(SECRET.api_version, SECRET.kind, SECRET.plural)
        watches = []
        for namespace in self._settings.watched or (None,):
            watches += [self._watch(kind, namespace, children, ours) for kind in CHILDREN]
            # Those that we generated with their content, people's without.
            watches.append(self._watch(whole, namespace, own, ours))
            others = f"{MANAGED_BY}!={MANAGER}"
            watches.append(self._watch(SECRET, namespace, SecretFollower(self._known), others))
        return watches

    def _watch(self, kind: Kind, namespace: str | None, follower: Follower, selector: str) -> Watch:
        async def absent(is_absent: bool) -> None:  # noqa: FBT001 — Watch's
            if await self._gatherer.note_absent(kind, is_absent=is_absent):
                for key in self._known.relays():
                    self._concerns(key)

        return Watch(
            self._cluster,
            kind,
            namespace,
            follower,
            self._metrics,
            selector=selector,
            relist_seconds=self._settings.relist_seconds,
            absent=absent if kind.optional else None,
        )

    def _noticed(self, what: str | None, body: Manifest) -> None:
        metadata = body["metadata"]
        self._relist.note_told((metadata["namespace"], metadata["name"]))
        if what == "DELETED":
            known = self._known.relay((metadata["namespace"], metadata["name"]))
            if known is not None and known["metadata"]["uid"] == metadata["uid"]:
                self._known.forget_relay((metadata["namespace"], metadata["name"]))
        else:
            self._known.note_relay(body)

    def _concerns(self, key: RelayKey) -> None:
        if key[1]:  # an object with our label and no relay's is nobody's
            self._queue.add(key, _now(), _COALESCE_SECONDS)

    def _spread(self, keys: tuple[RelayKey, ...]) -> None:
        self._queue.add_all(keys, _now(), self._settings.relist_seconds * _SPREAD)

    async def _pass(self, key: RelayKey) -> float | None:
        span = self._tracing.start("reconcile", "")
        began = time.perf_counter()
        error = ""
        try:
            return await self._reconciler.reconcile(key)
        except Exception as raised:
            error = str(raised) or type(raised).__name__
            raise
        finally:
            self._metrics.seconds.observe(time.perf_counter() - began)
            span.end({"mailrelay.namespace": key[0], "mailrelay.relay": key[1]}, error)

    def _failed(self, key: RelayKey, error: Exception, pause_seconds: float) -> None:
        self._metrics.reconciles.labels("failed").inc()
        known = isinstance(error, ClusterError | TimeoutError)
        self._log.warning(
            "relay.pass_failed",
            relay="/".join(key),
            reason=str(error) or type(error).__name__,
            again_seconds=round(pause_seconds, 2),
            **({} if known else {"exc_info": error}),
        )

    async def _measure(self) -> None:
        while True:
            self._metrics.queued.set(self._queue.depth(_now()))
            self._metrics.waiting.set(self._queue.longest_wait_seconds(_now()))
            self._metrics.relays.set(len(list(self._known.relays())))
            self._metrics.leads.set(self._leader.is_held)
            self._metrics.requests.set(self._cluster.requests)
            self._pulse = self._look()
            await asyncio.sleep(_LOOK_SECONDS)

    def _probe(self) -> Probe | None:
        if not self._settings.probe_address:
            return None
        probe = Probe(
            self._settings.probe_address,
            self._unready,
            self._registry,
            # Of the last look: the probe's thread must not read what the loop changes.
            unhealthy_reason=lambda: unhealthy_reason(self._pulse),
        )
        probe.start()
        return probe

    def _unready(self) -> str:
        """Answer in the probe's thread: whether everything is known."""
        awaited = [watch.kind.kind for watch in self._watches if not watch.is_listed]
        relays = [] if self._relist.is_listed else ["MailRelay"]
        return unready_reason([*awaited, *relays], self._leader.fault)

    def _look(self) -> Pulse:
        now = time.monotonic()
        silent = [(watch.kind.kind, now - watch.heard_at) for watch in self._watches]
        return Pulse(
            leads=self._leader.is_held,
            longest_work_seconds=self._queue.longest_work_seconds(_now()),
            longest_wait_seconds=self._queue.longest_wait_seconds(_now()),
            silent_seconds=(*silent, ("MailRelay", now - self._relist.heard_at)),
            untold=self._relist.untold(),
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _take_signals(life: Life) -> None:
    """Take back the signals that kopf took for itself: what they end is this process's to say."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.stop)
