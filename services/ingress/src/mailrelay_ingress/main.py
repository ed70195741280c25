"""The ingress process: put the parts together, serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mailrelay.config.live import LiveConfig
from mailrelay.config.load import ConfigError
from mailrelay.queue.connection import open_connection
from mailrelay.queue.counters import CounterStore
from mailrelay.queue.errors import QueueError
from mailrelay.queue.events import EventWriter, events_dropped
from mailrelay.queue.publish import Publisher
from mailrelay.queue.state import Kind, StateTeller
from mailrelay.runtime.addresses import open_listeners
from mailrelay.runtime.certificate import ServerCertificate
from mailrelay.runtime.clock import system_clock
from mailrelay.runtime.lifecycle import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, Life, run_service
from mailrelay.runtime.logging import Logger, configure_logging
from mailrelay.runtime.probe import start_probe
from mailrelay.runtime.tracing import tracing_from_environ
from mailrelay.service import ServiceSettings, service_settings
from mailrelay_ingress.authentication import Authenticator, Users
from mailrelay_ingress.enqueue import Enqueuer
from mailrelay_ingress.keep import ContentKeeper
from mailrelay_ingress.leases import LeaseBook
from mailrelay_ingress.listener import Listener, ListenerParts
from mailrelay_ingress.memory import MemoryBudget
from mailrelay_ingress.policy import Policy
from mailrelay_ingress.rate_limits import RateLimiter
from mailrelay_ingress.refresh import Refresher, open_certificate

GRACE_SECONDS = 8.0  # for each DATA under way when told to stop
_EVENTS_SECONDS = 1.0
_TOKENS_SECONDS = 0.5
_KEEPER_SECONDS = 1.0  # for copies that are not written yet
_BACKLOG = 1024  # clients that wait to be accepted, as the supervisor's


def main(environ: Mapping[str, str]) -> int:
    """Run the process and return its exit code."""
    try:
        settings = service_settings("ingress", environ)
        certificate = open_certificate(settings.config, settings.data_dir)
        users = Users(settings.config)
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 — before there is a log
        return EXIT_BAD_INPUT
    log = configure_logging("ingress", settings.log_format)
    parts = _Secrets(certificate, users)
    return run_service(lambda life: _serve(life, settings, parts, log, environ), environ)


@dataclass(frozen=True, slots=True)
class _Secrets:
    certificate: ServerCertificate | None
    users: Users


async def _serve(
    life: Life,
    settings: ServiceSettings,
    secrets: _Secrets,
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
    authenticator = Authenticator(secrets.users)
    refresher = Refresher(config, settings.data_dir, secrets.certificate, authenticator, log)
    keeper = ContentKeeper(settings.data_dir, log, is_on=config.security.log_all_emails)
    parts = ListenerParts(
        policy=Policy(config),
        authenticator=authenticator,
        enqueuer=Enqueuer(connection, events, tracing, log, config.batch_size, keeper),
        rate_limiter=RateLimiter(config.rate_limits, leases, system_clock, log),
        budget=MemoryBudget(),
        log=log,
        host_name=config.host_name or socket.getfqdn(),
        max_message_bytes=config.max_message_bytes,
        certificate=secrets.certificate,
    )
    listener = Listener(parts)
    state = StateTeller(connection, system_clock)
    live = _follow(settings.live_config(log), parts, refresher, state)
    live.uses(keeper.use, "security.logAllEmails")
    life.on_reload(live.reload)
    try:
        plain = _sockets(settings, settings.listen_fds, config.smtp_port, "smtpPort")
        secure = _sockets(settings, settings.listen_tls_fds, config.tls.smtps_port, "tls.smtpsPort")
    except ConfigError as error:
        log.critical("listener.refused", error=str(error))
        await connection.close()
        return EXIT_BAD_INPUT
    await listener.start(plain, secure)
    probe = start_probe(
        settings.probe_address, lambda: "" if connection.is_connected else "queue unreachable"
    )
    running = (events.run(), leases.run(), refresher.run(), state.run(), live.run())
    background = [asyncio.ensure_future(part) for part in running]
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
    await asyncio.to_thread(keeper.close, _KEEPER_SECONDS)
    authenticator.close()
    tracing.close()
    await connection.close()
    log.info("ingress.stopped", orderly=orderly)
    return EXIT_OK if orderly else EXIT_FAILED


def _sockets(
    settings: ServiceSettings, fds: tuple[int, ...], port: int, key: str
) -> list[socket.socket]:
    """Return the supervisor's sockets, or our own where there is no supervisor.

    Raises ConfigError when a port cannot be had; `key` is the option that says which.
    """
    if fds or not port:
        return [socket.socket(fileno=fd) for fd in fds]
    host = settings.config.smtp_host
    try:
        return open_listeners(host, port, _BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        words = f"port {host}:{port} cannot be opened: {reason}: set smtpHost or {key}"
        raise ConfigError([words]) from error


def _follow(
    live: LiveConfig, parts: ListenerParts, refresher: Refresher, state: StateTeller
) -> LiveConfig:
    """Say what of a changed configuration is taken over here without a restart."""
    live.uses(parts.policy.use, *Policy.FOLLOWS)
    live.prepares(refresher.prepare, *Refresher.FOLLOWS)
    live.uses(parts.enqueuer.use, "batchSize")
    live.uses(lambda config: parts.rate_limiter.use(config.rate_limits), "rateLimits")
    live.on_fault_change(lambda: state.tell(Kind.CONFIGURATION, live.fault))
    return live
