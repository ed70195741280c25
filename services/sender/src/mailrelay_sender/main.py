"""The sender process: put the parts together, deliver until told to stop."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Mapping

from mailrelay.config.live import LiveConfig
from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import host_files
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import open_connection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.events import EventWriter, events_dropped
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.pace import PaceStore
from mailrelay.queue.publish import Publisher
from mailrelay.queue.state import Kind, StateTeller
from mailrelay.runtime.clock import system_clock
from mailrelay.runtime.lifecycle import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, Life, run_service
from mailrelay.runtime.logging import Logger, configure_logging
from mailrelay.runtime.probe import start_probe
from mailrelay.runtime.tracing import tracing_from_environ
from mailrelay.service import ServiceSettings, service_settings
from mailrelay_sender.connection import Verdicts
from mailrelay_sender.pacing import Pacing, PacingOptions, pacing_options
from mailrelay_sender.plan import Plan
from mailrelay_sender.quarantine import Quarantine
from mailrelay_sender.settle import Settler
from mailrelay_sender.slots import SlotLimits, Slots, slot_count
from mailrelay_sender.space import LaneSpace
from mailrelay_sender.upstream import FOLLOWS as UPSTREAM_FOLLOWS
from mailrelay_sender.upstream import Upstream
from mailrelay_sender.work import (
    MAX_PARKED,
    Parked,
    Patience,
    WorkParts,
    open_jobs,
    settle_parked,
    work_slot,
)

GRACE_SECONDS = 10.0  # for the attempts under way when told to stop
_EVENTS_SECONDS = 1.0
_SETTLE_SECONDS = 5.0  # QUIT, the word on whose turn is next, the event: each may take a second


def main(environ: Mapping[str, str]) -> int:
    """Run the process and return its exit code."""
    try:
        settings = service_settings("sender", environ)
        Plan.of(settings.config, "", Verdicts())
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 — before there is a log
        return EXIT_BAD_INPUT
    log = configure_logging("sender", settings.log_format)
    return run_service(lambda life: _deliver(life, settings, log, environ), environ)


async def _deliver(
    life: Life,
    settings: ServiceSettings,
    log: Logger,
    environ: Mapping[str, str],
) -> int:
    config = settings.config
    try:
        connection = await open_connection(settings.queue, log)
    except QueueError as error:
        log.critical("queue.refused_us", error=str(error))
        return EXIT_FAILED
    tracing = tracing_from_environ("sender", environ)
    publisher = Publisher(connection)
    events = EventWriter(connection, publisher, events_dropped.inc)
    bodies = BodyStore(connection, publisher)
    pacing = Pacing(
        PaceStore(connection, publisher),
        FailedStore(connection, publisher),
        _pacing_options(config),
        system_clock,
        log,
    )
    parked: Parked = deque()
    space = LaneSpace(connection, open_jobs(config.worker_count), log)
    settler = Settler(connection, events, bodies, log, system_clock, lane_grows=space.added)
    slots = Slots(
        connection,
        SlotLimits(config.worker_count, config.queue.ack_wait_seconds),
        settler,
        log,
        system_clock,
        takes_new=lambda: len(parked) < MAX_PARKED and space.has_room,
        pacing=pacing,
    )
    state = StateTeller(connection, system_clock)
    upstream = Upstream(
        config,
        config.host_name or socket.getfqdn(),
        lambda reason: state.tell(Kind.UPSTREAM, reason),
        log,
    )
    parts = WorkParts(
        slots=slots,
        settler=settler,
        bodies=bodies,
        upstream=upstream,
        pacing=pacing,
        quarantine=Quarantine(
            environ, bodies, config.processing_timeout, log, verdicts=upstream.verdicts
        ),
        patience=Patience.of(config),
        tracing=tracing,
        log=log,
        clock=system_clock,
        parked=parked,
    )
    live = _follow(settings.live_config(log), parts, state)
    life.on_reload(live.reload)
    running = (
        *(*slots.run(), space.run(slots.wake_new), events.run(), settle_parked(parts)),
        *(upstream.run(), state.run(), live.run()),
    )
    background = [asyncio.ensure_future(part) for part in running]
    probe = start_probe(
        settings.probe_address, lambda: "" if connection.is_connected else "queue unreachable"
    )
    if probe is not None:
        background.append(asyncio.create_task(probe.beat()))
    workers = [asyncio.create_task(work_slot(parts)) for _ in range(config.worker_count)]
    slot_count.set(len(workers))
    life.tell_ready()
    log.info("sender.ready", slots=config.worker_count, routes=upstream.plan.routing.names)
    stopped = asyncio.create_task(life.wait_stop())
    gone = asyncio.create_task(connection.wait_gone())
    await asyncio.wait([stopped, gone, *background, *workers], return_when=asyncio.FIRST_COMPLETED)
    orderly = stopped.done()
    for task in (*background, *workers):
        if task.done() and not task.cancelled() and task.exception() is not None:
            log.error("sender.died", exc_info=task.exception())
    await slots.stop()
    if orderly:
        await slots.wait_idle(GRACE_SECONDS)
        # An attempt may be cut off anywhere but behind its final dot: that would repeat it.
        await upstream.wait_verdicts(parts.patience.attempt_limit_seconds)
        await slots.wait_idle(_SETTLE_SECONDS)
        await events.wait_written(_EVENTS_SECONDS)
    for task in (stopped, gone, *background, *workers):
        task.cancel()
    await parts.suspects.cancel()
    await parts.settling.cancel()
    await slots.end()
    await asyncio.gather(*background, *workers, return_exceptions=True)
    await upstream.close()
    tracing.close()
    await connection.close()
    log.info("sender.stopped", orderly=orderly)
    return EXIT_OK if orderly else EXIT_FAILED


def _pacing_options(config: RelayConfig) -> PacingOptions:
    return pacing_options(
        batch_delay_ms=config.batch_delay,
        continue_on_error=config.continue_on_error,
        attempt_limit=config.processing_timeout,
        ack_wait=config.queue.ack_wait_seconds,
    )


def _follow(live: LiveConfig, parts: WorkParts, state: StateTeller) -> LiveConfig:
    """Say what of a changed configuration is taken over here without a restart."""
    live.prepares(parts.upstream.prepare, *UPSTREAM_FOLLOWS, files=host_files)
    live.uses(parts.patience.use, *Patience.FOLLOWS)
    live.uses(parts.quarantine.use, "processingTimeout")

    def pace(config: RelayConfig) -> None:
        parts.pacing.options = _pacing_options(config)

    live.uses(pace, "batchDelay", "continueOnError", "processingTimeout")
    live.on_fault_change(lambda: state.tell(Kind.CONFIGURATION, live.fault))
    return live
