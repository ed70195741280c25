"""What the streams hold, and how much disk is left: asked every few seconds, told from memory."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from mailrelay.mail.limit import Window
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import STREAM_NOT_FOUND, QueueError, QueueRefusedError
from mailrelay.queue.levels import Level, level_of
from mailrelay.queue.streams import work_queues
from mailrelay.runtime.clock import Clock
from mailrelay_monitor.index_file import IndexDamagedError, IndexUnwritableError

_INTERVAL_SECONDS = 5.0
_ADVICE: Final = "pace"  # queue rule 11: losing it costs a pause, never mail
_SHOWN: Final = frozenset({"in", "lane", "failed", "capture", "body", "limit-hour", "limit-day"})


@dataclass(frozen=True, slots=True)
class Backlog:
    """One look. `fault` says why `levels` could not be read, they are the last known then."""

    fault: str = "the queue was not asked yet"
    levels: dict[str, Level] = field(default_factory=dict)  # by short name: in, lane, failed …
    disk_free_bytes: int = 0
    disk_total_bytes: int = 0
    oldest_open_at: float = 0.0  # when the oldest unfinished email was accepted; 0: there is none
    at: float = 0.0
    # What `mailrelay queue ensure` makes and the server has not: it lost its data, or somebody
    # deleted it.
    missing_streams: tuple[str, ...] = ()  # without one of these no mail is taken, or none kept
    missing_consumers: tuple[str, ...] = ()  # streams with fewer consumers than senders claim from
    missing_advice: tuple[str, ...] = ()  # the stream in memory: a restart of the server empties it

    @property
    def missing(self) -> tuple[str, ...]:
        """All that is missing, as people call it; empty while the queue does not answer."""
        consumers = (f"consumers of {stream}" for stream in self.missing_consumers)
        return (*self.missing_streams, *self.missing_advice, *consumers)


class BacklogMetrics:
    """The backlog for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge(
            "mailrelay_queue_jobs",
            "Jobs in the queue.",
            ["state"],  # new: before the first attempt; deferred: waits in a lane
            registry=registry,
        )
        self.records = Gauge(
            "mailrelay_store_records",
            "Records in a stream.",
            ["stream"],  # in, lane, failed, capture, body (chunks), limit-hour, limit-day
            registry=registry,
        )
        self.bytes = Gauge(
            "mailrelay_store_bytes",
            "Octets that a stream holds on disk.",
            ["stream"],  # as above
            registry=registry,
        )
        self.oldest_job = Gauge(
            "mailrelay_queue_oldest_seconds",
            "How long the job that is longest in the queue waits for its first attempt to end.",
            registry=registry,
        )
        self.oldest_email = Gauge(
            "mailrelay_oldest_email_seconds",
            "How long ago the oldest email was accepted that is neither finished nor lost.",
            registry=registry,
        )
        self.limit_records = Gauge(
            "mailrelay_store_limit_records",
            "Records that a stream may hold; absent where only octets count.",
            ["stream"],  # as above
            registry=registry,
        )
        self.limit_bytes = Gauge(
            "mailrelay_store_limit_bytes",
            "Octets that a stream may hold on disk.",
            ["stream"],  # as above
            registry=registry,
        )
        self.disk_free = Gauge(
            "mailrelay_disk_free_bytes",
            "Octets free where the monitor's data folder is.",
            registry=registry,
        )
        self.disk_size = Gauge(
            "mailrelay_disk_size_bytes",
            "Octets of the disk where the monitor's data folder is, used ones included.",
            registry=registry,
        )
        self.is_up = Gauge(
            "mailrelay_queue_up",
            "1 when the queue answered and had all its streams when last asked, 0 otherwise.",
            registry=registry,
        )

    def show(self, backlog: Backlog) -> None:
        """Take over what was found."""
        self.is_up.set(0 if backlog.fault or backlog.missing_streams else 1)
        self.disk_free.set(backlog.disk_free_bytes)
        self.disk_size.set(backlog.disk_total_bytes)
        self.oldest_email.set(_age(backlog.oldest_open_at, backlog.at))
        if "in" in backlog.levels:
            self.oldest_job.set(_age(backlog.levels["in"].oldest_at, backlog.at))
        for name, state in (("in", "new"), ("lane", "deferred")):
            if name in backlog.levels:
                self.jobs.labels(state).set(backlog.levels[name].messages)
        for name, level in backlog.levels.items():
            self.records.labels(name).set(level.messages)
            self.bytes.labels(name).set(level.stored_bytes)
            self.limit_bytes.labels(name).set(max(0, level.max_bytes))
            if level.max_messages > 0:
                self.limit_records.labels(name).set(level.max_messages)


def _age(at: float, now: float) -> float:
    return max(0.0, now - at) if at else 0.0


class BacklogWatch:
    """Looks every few seconds; `backlog` is the last look."""

    def __init__(
        self,
        connection: QueueConnection,
        data_dir: Path,
        *,
        clock: Clock,
        metrics: BacklogMetrics,
        oldest_open: Callable[[], Awaitable[float]],
    ) -> None:
        """`oldest_open` asks when the oldest unfinished email was accepted; 0: there is none."""
        self._connection = connection
        self._data_dir = data_dir
        self._clock = clock
        self._metrics = metrics
        self._oldest_open = oldest_open
        names = connection.names
        self._streams = {
            "in": names.in_stream(),
            "lane": names.lane_stream,
            "failed": names.failed_stream,
            "capture": names.capture_stream,
            "body": names.body_stream,
            "limit-hour": names.limit_stream(Window.HOUR),
            "limit-day": names.limit_stream(Window.DAY),
            "event": names.event_stream,
            "checkpoint": names.checkpoint_stream,
            "pace": names.pace_stream,
        }
        claimed = [stream for stream, _, _ in work_queues(names)]
        self._consumers = {stream: claimed.count(stream) for stream in claimed}
        self.backlog = Backlog()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def look(self) -> None:
        """Look once."""
        oldest = self.backlog.oldest_open_at
        with contextlib.suppress(IndexDamagedError, IndexUnwritableError):  # the collector tells it
            oldest = await self._oldest_open()
        disk = shutil.disk_usage(self._data_dir)
        seen = Backlog("", {}, disk.free, disk.total, oldest, self._clock())
        try:
            self.backlog = await self._look_at_streams(seen)
        except QueueError as error:
            self.backlog = replace(seen, fault=str(error), levels=self.backlog.levels)
        self._metrics.show(self.backlog)

    async def _look_at_streams(self, seen: Backlog) -> Backlog:
        """Add what the streams hold, and which are not there. Raises QueueError."""
        levels: dict[str, Level] = {}
        missing: dict[str, str] = {}
        fewer: list[str] = []
        for name, stream in self._streams.items():
            try:
                level = await level_of(self._connection, stream)
            except QueueRefusedError as error:
                if error.err_code != STREAM_NOT_FOUND:
                    raise
                missing[name] = stream
                continue
            levels[name] = level
            if level.consumers < self._consumers.get(stream, 0):
                fewer.append(stream)
        advice = missing.pop(_ADVICE, None)
        return replace(
            seen,
            levels={name: level for name, level in levels.items() if name in _SHOWN},
            missing_streams=tuple(missing.values()),
            missing_consumers=tuple(fewer),
            missing_advice=(advice,) if advice else (),
        )
