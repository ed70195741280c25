"""The ingress process: put the parts together, serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Mapping

from mailrelay.config.live import LiveConfig
from mailrelay.config.load import ConfigError
from mailrelay.config.tls import listener_context
from mailrelay.queue.connection import open_connection
from mailrelay.queue.counters import CounterStore
from mailrelay.queue.errors import QueueError
from mailrelay.queue.events import EventWriter, events_dropped
from mailrelay.queue.publish import Publisher
from mailrelay.queue.state import Kind, StateTeller
from mailrelay.runtime.clock import system_clock
from mailrelay.runtime.lifecycle import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, Life, run_service
from mailrelay.runtime.logging import Logger, configure_logging
from mailrelay.runtime.probe import start_probe
from mailrelay.runtime.tracing import tracing_from_environ
from mailrelay.service import ServiceSettings, service_settings
from mailrelay_ingress.authentication import Authenticator
from mailrelay_ingress.enqueue import Enqueuer
from mailrelay_ingress.leases import LeaseBook
from mailrelay_ingress.listener import Listener, ListenerParts
from mailrelay_ingress.memory import MemoryBudget
from mailrelay_ingress.policy import Policy
from mailrelay_ingress.rate_limits import RateLimiter

GRACE_SECONDS = 8.0  # for each DATA under way when told to stop
_EVENTS_SECONDS = 1.0
_TOKENS_SECONDS = 0.5


def main(environ: Mapping[str, str]) -> int:
    """Run the process and return its exit code."""
    try:
        settings = service_settings("ingress", environ)
        tls_context = listener_context(settings.config)
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 — before there is a log
        return EXIT_BAD_INPUT
    log = configure_logging("ingress", settings.log_format)
    return run_service(lambda life: _serve(life, settings, tls_context, log, environ), environ)


async def _serve(
    life: Life,
    settings: ServiceSettings,
    tls_context: ssl.SSLContext | None,
    log: Logger,
    environ: Mapping[str, str],
) -> int:
    config = settings.config
    try:
        connection = await open_connection(settings.queue, log)
    except QueueError as error:
        log.critical("queue.refused_us", error=str(error))
        return EXIT_FAILED
    tracing = tracing_from_environ("ingress", environ)
    publisher = Publisher(connection)
    events = EventWriter(connection, publisher, events_dropped.inc)
    leases = LeaseBook(CounterStore(connection, publisher), system_clock, log)
    await leases.hear_recalls()
    parts = ListenerParts(
        policy=Policy(config),
        authenticator=Authenticator(config),
        enqueuer=Enqueuer(connection, events, tracing, log, config.batch_size),
        rate_limiter=RateLimiter(config.rate_limits, leases, system_clock, log),
        budget=MemoryBudget(),
        log=log,
        host_name=config.host_name or socket.getfqdn(),
        max_message_bytes=config.max_message_bytes,
        tls_context=tls_context,
    )
    listener = Listener(parts)
    state = StateTeller(connection, system_clock)
    live = _follow(settings.live_config(log), parts, state)
    life.on_reload(live.reload)
    await listener.start(_sockets(settings))
    probe = start_probe(
        settings.probe_address, lambda: "" if connection.is_connected else "queue unreachable"
    )
    running = (events.run(), leases.run(), state.run(), live.run())
    background = [asyncio.create_task(part) for part in running]
    if probe is not None:
        background.append(asyncio.create_task(probe.beat()))
    life.tell_ready()
    log.info("ingress.ready", connections_max=config.max_connections)
    stopped = asyncio.create_task(life.wait_stop())
    gone = asyncio.create_task(connection.wait_gone())
    await asyncio.wait([stopped, gone, *background], return_when=asyncio.FIRST_COMPLETED)
    orderly = stopped.done()
    await listener.stop(GRACE_SECONDS if orderly else 0)
    await events.wait_written(_EVENTS_SECONDS)
    await leases.give_all_back(_TOKENS_SECONDS)
    for task in (stopped, gone, *background):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*background, return_exceptions=True)
    tracing.close()
    await connection.close()
    log.info("ingress.stopped", orderly=orderly)
    return EXIT_OK if orderly else EXIT_FAILED


def _sockets(settings: ServiceSettings) -> list[socket.socket]:
    """Return the supervisor's sockets, or our own where there is no supervisor."""
    if settings.listen_fds:
        return [socket.socket(fileno=fd) for fd in settings.listen_fds]
    host, port = settings.config.smtp_host, settings.config.smtp_port
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [socket.create_server(address[:2], family=family) for family, _, _, _, address in found]


def _follow(live: LiveConfig, parts: ListenerParts, state: StateTeller) -> LiveConfig:
    """Say what of a changed configuration is taken over here without a restart."""
    live.uses(parts.policy.use, *Policy.FOLLOWS)
    live.uses(parts.authenticator.use, *Authenticator.FOLLOWS)
    live.uses(parts.enqueuer.use, "batchSize")
    live.uses(lambda config: parts.rate_limiter.use(config.rate_limits), "rateLimits")
    live.on_fault_change(lambda: state.tell(Kind.CONFIGURATION, live.fault))
    return live
