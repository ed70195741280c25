"""Content that ingress keeps as files (`security.logAllEmails`): shown, and thinned out.

Once a minute what is older than `emails.keepSeconds` goes, then the oldest until the rest takes no
more than `emails.maxBytes` of the disk. Also while nothing is kept any more: what was kept before
ages too. A day's folder that did not change is not looked through again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from mailrelay.config.model import Emails
from mailrelay.emails import days, emails_folder, kept_files
from mailrelay.mail.ids import QueueId, accepted_seconds, is_queue_id
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger

SWEEP_SECONDS = 60.0
_BLOCK_BYTES = 512  # the unit of st_blocks
_SCRATCH_SECONDS = 3600.0  # a file that is still being written is younger


def kept_content(data_dir: Path, queue_id: QueueId) -> Path | None:
    """Return the file that has a message's content, when it is kept."""
    content = kept_files(data_dir, queue_id).content
    return content if content.is_file() else None


class KeptMetrics:
    """What is counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.removed = Counter(
            "mailrelay_emails_removed_total",
            "Messages whose kept content was removed.",
            # `age`: older than keepSeconds; `size`: more than maxBytes in all
            ["reason"],
            registry=registry,
        )
        self.size = Gauge(
            "mailrelay_emails_kept_bytes", "What kept content takes of the disk.", registry=registry
        )


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did."""

    too_old: int
    too_much: int
    left_bytes: int


class KeptEmails:
    """Thins out the folder. One process a data folder."""

    def __init__(
        self, data_dir: Path, limits: Emails, *, clock: Clock, log: Logger, metrics: KeptMetrics
    ) -> None:
        self.data_dir = data_dir
        self._limits = limits
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._known: dict[str, tuple[int, int]] = {}  # a day: when changed, bytes

    def use(self, limits: Emails) -> None:
        """Go on with other limits."""
        self._limits = limits

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                swept = await asyncio.to_thread(self.sweep)
            except OSError as error:
                self._log.warning("emails.not_swept", reason=str(error))
            else:
                self._tell(swept)
            await asyncio.sleep(SWEEP_SECONDS)

    def sweep(self) -> Swept:
        """Remove what is too old or too much. Raises OSError."""
        cutoff = self._clock() - self._limits.keep_seconds
        too_old = 0
        found = days(self.data_dir)
        for day in found:
            queue_ids = list(_queue_ids(self._folder(day)))
            # A day begins before everything in it; once one is young enough the later days are too.
            old = [each for each in queue_ids if accepted_seconds(each) < cutoff]
            too_old += self._remove(old)
            if len(old) < len(queue_ids):
                break
        sizes = {day: self._bytes(day) for day in found}
        self._known = {day: self._known[day] for day in found if day in self._known}
        total, too_much = sum(sizes.values()), 0
        for day in found:
            if total <= self._limits.max_bytes:
                break
            for queue_id in sorted(_queue_ids(self._folder(day))):
                total -= self._bytes_of(queue_id)
                too_much += self._remove([queue_id])
                if total <= self._limits.max_bytes:
                    break
        for day in found:
            self._tidy(day)
        return Swept(too_old, too_much, max(0, total))

    def _folder(self, day: str) -> Path:
        return emails_folder(self.data_dir) / day

    def _remove(self, queue_ids: list[QueueId]) -> int:
        for queue_id in queue_ids:
            files = kept_files(self.data_dir, queue_id)
            files.content.unlink(missing_ok=True)
            files.envelope.unlink(missing_ok=True)
        return len(queue_ids)

    def _bytes(self, day: str) -> int:
        """Return what a day takes of the disk."""
        folder = self._folder(day)
        try:
            changed_at = folder.stat().st_mtime_ns
        except OSError:
            return 0
        known = self._known.get(day)
        if known is not None and known[0] == changed_at:
            return known[1]
        size = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
        self._known[day] = (changed_at, size)
        return size

    def _bytes_of(self, queue_id: QueueId) -> int:
        files = kept_files(self.data_dir, queue_id)
        size = 0
        for path in (files.content, files.envelope):
            with contextlib.suppress(OSError):
                size += path.stat().st_blocks * _BLOCK_BYTES
        return size

    def _tidy(self, day: str) -> None:
        """Remove what a killed ingress left half written, and a day that has nothing more."""
        folder = self._folder(day)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    continue
                if self._clock() - entry.stat(follow_symlinks=False).st_mtime > _SCRATCH_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not empty, as a rule
            folder.rmdir()

    def _tell(self, swept: Swept) -> None:
        self._metrics.size.set(swept.left_bytes)
        self._metrics.removed.labels("age").inc(swept.too_old)
        self._metrics.removed.labels("size").inc(swept.too_much)
        if swept.too_old or swept.too_much:
            self._log.info(
                "emails.removed",
                too_old=swept.too_old,
                too_much=swept.too_much,
                left_bytes=swept.left_bytes,
            )


def _queue_ids(folder: Path) -> Iterator[QueueId]:
    """Yield the ids that a folder has files of, each once."""
    seen = set()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.partition(".")[0]
            if is_queue_id(name) and name not in seen:
                seen.add(name)
                yield QueueId(name)
