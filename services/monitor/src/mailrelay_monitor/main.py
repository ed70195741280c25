"""The composition root: makes every part once, runs them, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, ProcessCollector

from mailrelay.config.load import ConfigError
from mailrelay.config.smart_hosts import configured_routes
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import QueueConnection, open_connection
from mailrelay.queue.counters import CounterStore
from mailrelay.queue.errors import QueueError
from mailrelay.queue.publish import Publisher
from mailrelay.queue.state import Condition, Kind, StateListener
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
from mailrelay.service import ServiceSettings, service_settings
from mailrelay_monitor.access import Guests
from mailrelay_monitor.admin_parts import admin_parts
from mailrelay_monitor.backlog import BacklogMetrics, BacklogWatch
from mailrelay_monitor.bodies import BodyCleaner, BodyMetrics
from mailrelay_monitor.checkpoint import Checkpoint
from mailrelay_monitor.collect import Collector, CollectorMetrics
from mailrelay_monitor.exposition import LedgerMetrics
from mailrelay_monitor.http import Sources, make_app
from mailrelay_monitor.index import Index
from mailrelay_monitor.index_file import IndexDamagedError, IndexUnwritableError
from mailrelay_monitor.index_thread import IndexThread
from mailrelay_monitor.kept import KeptEmails, KeptMetrics
from mailrelay_monitor.limits import LimitView
from mailrelay_monitor.ready import Readiness
from mailrelay_monitor.serve import HttpServer, listening_sockets

_HTTP_END_SECONDS = 1.5
_CHECKPOINT_END_SECONDS = 1.0


def run(environ: Mapping[str, str]) -> int:
    """Run the monitor; return its exit code."""
    try:
        settings = service_settings("monitor", environ)
        Guests.of(settings.config)
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 — there is no log yet
        return EXIT_BAD_INPUT
    log = configure_logging("monitor", settings.log_format)
    return run_service(lambda life: _live(settings, log, life), environ)


async def _live(settings: ServiceSettings, log: Logger, life: Life) -> int:
    opening = asyncio.ensure_future(open_connection(settings.queue, log))
    try:
        await wait_first(life.wait_stop(), asyncio.shield(opening))
    except QueueError as error:
        return _failed(log, error)
    if not opening.done():
        opening.cancel()
        return EXIT_OK
    connection = opening.result()
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        return await _Monitor(settings, connection, log).live(life)
    except (OSError, ConfigError) as error:
        return _failed(log, error)
    finally:
        await connection.close()


def _failed(log: Logger, error: Exception) -> int:
    log.error("monitor.failed", reason=str(error))
    return EXIT_FAILED


class _Monitor:
    """The parts."""

    def __init__(self, settings: ServiceSettings, connection: QueueConnection, log: Logger) -> None:
        self._settings = settings
        self._connection = connection
        self._log = log
        publisher = Publisher(connection)
        clock = system_clock
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._bodies = BodyCleaner(
            connection,
            BodyStore(connection, publisher),
            clock=clock,
            log=log,
            metrics=BodyMetrics(registry),
        )
        self._index = IndexThread(settings.data_dir / "monitor" / "index.sqlite3", clock)
        self._checkpoint = Checkpoint(connection, publisher, clock, log)
        self._collector = Collector(
            connection,
            self._index,
            self._checkpoint,
            clock=clock,
            log=log,
            metrics=CollectorMetrics(registry),
            prompt=self._bodies.prompt,
            prompt_abandoned=self._bodies.prompt_abandoned,
        )
        self._backlog = BacklogWatch(
            connection,
            settings.data_dir,
            clock=clock,
            metrics=BacklogMetrics(registry),
            oldest_open=lambda: self._index.run(Index.oldest_open_at),
        )
        LedgerMetrics(lambda: self._collector.ledger, registry)
        self._registry = registry
        self._kept = KeptEmails(
            settings.data_dir,
            settings.config.emails,
            clock=clock,
            log=log,
            metrics=KeptMetrics(registry),
        )
        readiness = Readiness(
            connection, settings.smtp_address, lambda: self._collector.is_caught_up
        )
        self._states = StateListener(connection, clock)
        self._live = settings.live_config(log, tells_restarts=True)
        guests = Guests.of(settings.config)
        self._live.prepares(guests.prepare, "http", files=lambda config: [config.http.token_file])
        self._admin = admin_parts(
            connection,
            settings.config,
            settings.data_dir,
            self._index,
            registry,
            clock=clock,
            log=log,
            prompt=self._bodies.prompt,
            asking=self._bodies.asking,
            has_upstream=lambda: bool(configured_routes(self._live.config)),
        )
        limits = LimitView(settings.config.rate_limits, CounterStore(connection, publisher), clock)
        self._live.uses(lambda config: limits.use(config.rate_limits), "rateLimits")
        self._sources = Sources(
            connection=connection,
            collector=self._collector,
            index=self._index,
            backlog=self._backlog,
            readiness=readiness,
            limits=limits,
            admin=self._admin,
            registry=registry,
            clock=clock,
            guests=guests,
            conditions=self._conditions,
        )

    def _conditions(self) -> tuple[Condition, ...]:
        """Return what is wrong, as the other processes say and this one knows."""
        told = self._states.conditions()
        fault = self._live.fault
        if not fault or any(condition.reason == fault for condition in told):
            return told
        return (*told, Condition(Kind.CONFIGURATION, fault, self._live.fault_since))

    async def live(self, life: Life) -> int:
        """Run until asked to stop. Raises OSError when a port cannot be had."""
        life.on_reload(self._live.reload)
        await self._states.start()
        server = self._http_server()
        probe = self._probe()
        await self._backlog.look()
        serving = asyncio.ensure_future(server.run() if server else life.wait_stop())
        try:
            await wait_first(
                life.wait_stop(),
                self._connection.wait_gone(),
                asyncio.shield(serving),
                self._tell_ready(server, life),
                self._collector.run(),
                self._checkpoint.run(lambda: self._collector.ledger),
                self._backlog.run(),
                self._bodies.run_prompted(),
                self._bodies.run_sweep(),
                self._live.run(),
                self._kept.run(),
                *self._admin.run(),
                *([probe.beat()] if probe else []),
            )
        finally:
            if server:
                server.stop()
                await asyncio.wait([serving], timeout=_HTTP_END_SECONDS)
            await self._keep()
            if probe:
                probe.close()
        if life.is_stopping:
            self._log.info("monitor.stopped")
            return EXIT_OK
        self._log.error("monitor.ended", reason="the queue's connection or the HTTP server ended")
        return EXIT_FAILED

    def _http_server(self) -> HttpServer | None:
        if not self._settings.config.enable_health_check:
            return None
        port = self._settings.config.health_check_port
        hosts = self._settings.config.http.listen
        sockets = listening_sockets(self._settings.listen_fds, hosts, port)
        return HttpServer(make_app(self._sources), sockets)

    def _probe(self) -> Probe | None:
        if not self._settings.probe_address:
            return None
        probe = Probe(self._settings.probe_address, self._unready_reason, self._registry)
        probe.start()
        return probe

    def _unready_reason(self) -> str:
        """Answer the pod's probe, in its thread: whether the monitor itself does its work."""
        if not self._connection.is_connected:
            return "not connected to the queue"
        return "" if self._collector.is_caught_up else "the totals are not caught up yet"

    async def _tell_ready(self, server: HttpServer | None, life: Life) -> None:
        if server:
            await server.wait_started()
        life.tell_ready()
        self._log.info("monitor.ready", http=server is not None)
        await asyncio.Event().wait()

    async def _keep(self) -> None:
        """Store the last totals and close the index."""
        with contextlib.suppress(
            QueueError, IndexUnwritableError, IndexDamagedError, asyncio.TimeoutError
        ):
            # Of the index itself: the collector may have been stopped while it was writing.
            ledger = await self._index.run(lambda index: index.ledger)
            await asyncio.wait_for(self._checkpoint.store(ledger), _CHECKPOINT_END_SECONDS)
        await self._admin.close()
        await self._index.close()
