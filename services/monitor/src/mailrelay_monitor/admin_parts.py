"""What the answers on failed and captured mail are made of, put together once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from mailrelay.config.model import RelayConfig
from mailrelay.emails import emails_folder
from mailrelay.mail.ids import QueueId
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.captured import CaptureStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import EventWriter, events_dropped
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.publish import Publisher
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay_monitor.admin_database import AdminDatabase
from mailrelay_monitor.captured import CapturedRemover, Releaser
from mailrelay_monitor.failed_files import FailedFiles, FileMetrics
from mailrelay_monitor.failed_follow import FailedFollower, FollowMetrics
from mailrelay_monitor.failed_removal import FailedRemover, RemovalMetrics
from mailrelay_monitor.failed_returned import ReturnedRecords
from mailrelay_monitor.index_thread import IndexThread
from mailrelay_monitor.retry import Resender, ResendMetrics

_EVENTS_END_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class AdminParts:
    """The parts. `has_upstream` tells whether a release needs a next hop of its own."""

    database: AdminDatabase
    failed: FailedStore
    follower: FailedFollower
    files: FailedFiles
    remover: FailedRemover
    resender: Resender
    captured: CaptureStore
    releaser: Releaser
    captured_remover: CapturedRemover
    bodies: BodyStore
    events: EventWriter
    has_upstream: Callable[[], bool]  # now: the configuration may change
    data_dir: Path

    def run(self) -> Iterator[Awaitable[None]]:
        """Return what must run for as long as the monitor does."""
        yield self.follower.run()
        yield self.files.run(self.follower.changed)
        yield self.resender.run()
        yield self.resender.run_interval(self.follower)
        yield self.releaser.run()
        yield self.events.run()

    async def close(self) -> None:
        """Tell what is left to tell and close the file."""
        await self.database.close()


def admin_parts(  # noqa: PLR0913 — what the composition root has
    connection: QueueConnection,
    config: RelayConfig,
    data_dir: Path,
    index: IndexThread,
    registry: CollectorRegistry,
    *,
    clock: Clock,
    log: Logger,
    prompt: Callable[[QueueId], None],
    asking: asyncio.Lock,
    has_upstream: Callable[[], bool],
) -> AdminParts:
    """Put the parts together.

    `prompt` is told of content that may be done with; `asking` is held while that is found out.
    """
    publisher = Publisher(connection)
    failed = FailedStore(connection, publisher)
    bodies = BodyStore(connection, publisher)
    captured = CaptureStore(connection)
    events = EventWriter(connection, publisher, events_dropped.inc)
    database = AdminDatabase(data_dir / "monitor" / "admin.sqlite3", log)
    resender = Resender(
        connection,
        failed,
        publisher,
        database,
        config.failed,
        clock=clock,
        log=log,
        metrics=ResendMetrics(registry),
    )
    files = FailedFiles(
        emails_folder(data_dir) / "failed",
        failed,
        bodies,
        database,
        log=log,
        metrics=FileMetrics(registry),
    )
    remover = FailedRemover(
        connection,
        failed,
        database,
        files,
        events,
        config.failed,
        clock=clock,
        log=log,
        metrics=RemovalMetrics(registry),
        prompt=prompt,
        ended=resender.take,
        catch_up=lambda: follower.catch_up(),  # noqa: PLW0108 — made below
    )
    follower = FailedFollower(
        connection,
        failed,
        database,
        index,
        remover,
        ReturnedRecords(connection, failed, database, log=log, prompt=prompt),
        log=log,
        metrics=FollowMetrics(registry),
        ended=resender.take,
        resumed=resender.wake,
    )
    return AdminParts(
        database=database,
        failed=failed,
        follower=follower,
        files=files,
        remover=remover,
        resender=resender,
        captured=captured,
        releaser=Releaser(
            connection,
            captured,
            publisher,
            database,
            clock=clock,
            log=log,
            asking=asking,
        ),
        captured_remover=CapturedRemover(captured, log=log, prompt=prompt),
        bodies=bodies,
        events=events,
        has_upstream=has_upstream,
        data_dir=data_dir,
    )
