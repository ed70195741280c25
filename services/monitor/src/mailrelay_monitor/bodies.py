"""Delete large content that nothing names any more (queue rule 10): the only place that does.

A final event prompts the question, because big mail must not pile up; the stream leaders answer
it, and where there are several servers they are asked twice. The event comes before its job's
record is acked, so the question is asked a few times. So does ingress for what it stored in vain;
chunks of that may still be on their way, so it is asked once more. A slow sweep asks the same of
every body older than an hour, for the events that never came. Age alone and the index never delete
anything.
"""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter

from mailrelay.mail.ids import QueueId, new_queue_id
from mailrelay.queue.bodies import BodyStore, Deletion
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError, QueueRefusedError
from mailrelay.queue.leader import SPOKEN_SECONDS
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger

# 102 s in all: an ack may be late by a restart of the sender or an election in a cluster. Content
# still in use then waits for another event of its submission, or the sweep.
ASK_DELAYS_SECONDS = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2)
# Longer than the queue takes to come to what was sent to it when the event was told.
LATE_CHUNK_SECONDS = 20.0
MAX_WAITING = 10_000  # some 2 MB; what finds no room is the sweep's
_FIRST_SWEEP_SECONDS = 10.0
_SWEEP_SECONDS = 600.0
# Content is written before the record that names it, and written anew by a sender that could not
# store that record for 30 minutes.
UNSPOKEN_AGE_SECONDS = 3600.0
_RETRY_SECONDS = 1.0
_NOT_FOUND = 10037


class BodyMetrics:
    """What was deleted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deleted = Counter(
            "mailrelay_bodies_deleted",
            "Submissions whose stored content was deleted, by what found it.",
            ["found_by"],  # event: one prompted it, final or abandoned; sweep: nothing spoke of it
            registry=registry,
        )


class BodyCleaner:
    """Asks, one body after the other, and deletes."""

    def __init__(
        self,
        connection: QueueConnection,
        store: BodyStore,
        *,
        clock: Clock,
        log: Logger,
        metrics: BodyMetrics,
    ) -> None:
        self._connection = connection
        self._store = store
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._waiting: dict[QueueId, int] = {}  # how often it was asked
        self._due: list[tuple[float, QueueId]] = []
        # Of these: to be asked once more behind their deletion, and those of which that is left.
        self._once_more: set[QueueId] = set()
        self._deleted: set[QueueId] = set()
        # Of these: unused at the last look, which is to be confirmed by the next.
        self._unconfirmed: set[QueueId] = set()
        self._wake = asyncio.Event()
        # Held while the streams are asked about one body. The order of the questions is that in
        # which records move on; a release moves one back, and must not come in between.
        self.asking = asyncio.Lock()

    def prompt(self, submission: QueueId) -> None:
        """Ask soon whether the content is still in use; it is bounded and does not wait."""
        if submission in self._waiting:
            self._waiting[submission] = 0  # a later job of it ended: ask the full number of times
        elif len(self._waiting) < MAX_WAITING:
            self._waiting[submission] = 0
            self._push(submission, ASK_DELAYS_SECONDS[0])
            self._wake.set()

    def prompt_abandoned(self, submission: QueueId) -> None:
        """Ask soon of content that was stored in vain, and once more behind its deletion."""
        self.prompt(submission)
        if submission in self._waiting:
            self._once_more.add(submission)

    async def run_prompted(self) -> None:
        """Answer the prompts until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if not self._due:
                await self._wake.wait()
                continue
            # Nothing pushed later is due earlier by more than the first delay.
            pause = min(self._due[0][0] - loop.time(), ASK_DELAYS_SECONDS[0])
            if self._due[0][0] > loop.time():
                await asyncio.sleep(max(0.0, pause))
                continue
            _, submission = heapq.heappop(self._due)
            confirms = submission in self._unconfirmed
            self._unconfirmed.discard(submission)
            try:
                found_by = "" if submission in self._deleted else "event"
                deletion = await self._delete_unused(submission, found_by, confirms=confirms)
            except QueueError as error:
                self._log.warning("body.not_asked", id=submission, reason=str(error))
                self._push(submission, _RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if deletion is Deletion.UNCONFIRMED:
                self._unconfirmed.add(submission)
                self._push(submission, SPOKEN_SECONDS)
            else:
                self._settle(submission, deleted=deletion is Deletion.DONE)

    async def run_sweep(self) -> None:
        """Sweep from time to time until cancelled."""
        pause = _FIRST_SWEEP_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = _SWEEP_SECONDS
            try:
                deleted = await self.sweep()
            except QueueError as error:
                self._log.warning("body.sweep_broken_off", reason=str(error))
                continue
            if deleted:
                self._log.info("body.swept", deleted=deleted)

    async def sweep(self) -> int:
        """Ask of every body that is old enough; return how many were deleted.

        Raises QueueError.
        """
        written_before = self._clock() - UNSPOKEN_AGE_SECONDS
        deleted = 0
        unconfirmed = []
        # A body is never older than its submission.
        for submission in await self._stored(new_queue_id(written_before, 0)):
            if await self._is_written_since(submission, written_before):
                continue
            deletion = await self._delete_unused(submission, "sweep")
            deleted += deletion is Deletion.DONE
            if deletion is Deletion.UNCONFIRMED:
                unconfirmed.append(submission)
        if unconfirmed:
            await asyncio.sleep(SPOKEN_SECONDS)
        for submission in unconfirmed:
            deletion = await self._delete_unused(submission, "sweep", confirms=True)
            deleted += deletion is Deletion.DONE
        return deleted

    async def _delete_unused(
        self, submission: QueueId, found_by: str, *, confirms: bool = False
    ) -> Deletion:
        async with self.asking:
            deletion = await self._store.delete_unused(submission, confirms=confirms)
        if deletion is Deletion.DONE and found_by:
            self._metrics.deleted.labels(found_by).inc()
        return deletion

    def _settle(self, submission: QueueId, *, deleted: bool) -> None:
        asked = self._waiting[submission] + 1
        if deleted and submission in self._once_more:
            self._once_more.discard(submission)
            self._deleted.add(submission)
            self._waiting[submission] = 0
            self._push(submission, LATE_CHUNK_SECONDS)
            return
        if deleted or asked >= len(ASK_DELAYS_SECONDS):
            del self._waiting[submission]
            self._once_more.discard(submission)
            self._deleted.discard(submission)
            return
        self._waiting[submission] = asked
        self._push(submission, ASK_DELAYS_SECONDS[asked])

    def _push(self, submission: QueueId, delay_seconds: float) -> None:
        due = asyncio.get_running_loop().time() + delay_seconds
        heapq.heappush(self._due, (due, submission))

    async def _stored(self, before: QueueId) -> list[QueueId]:
        """Return the submissions older than `before` that have chunks."""
        prefix = f"{self._connection.names.prefix}.body."
        found: set[QueueId] = set()
        offset = 0
        while True:
            info = await self._connection.api(
                f"STREAM.INFO.{self._connection.names.body_stream}",
                {"subjects_filter": f"{prefix}>", "offset": offset},
            )
            subjects = info["state"].get("subjects") or {}
            for subject in subjects:
                submission = QueueId(subject.removeprefix(prefix).partition(".")[0])
                if submission < before:
                    found.add(submission)
            offset += len(subjects)
            if not subjects or offset >= int(info.get("total", 0)):
                return sorted(found)

    async def _is_written_since(self, submission: QueueId, at: float) -> bool:
        """Tell whether a chunk is younger; costs no content unless one is."""
        names = self._connection.names
        since = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
        try:
            await self._connection.api(
                f"STREAM.MSG.GET.{names.body_stream}",
                {"start_time": since, "next_by_subj": f"{names.prefix}.body.{submission}.>"},
            )
        except QueueRefusedError as error:
            if error.err_code == _NOT_FOUND:
                return False
            raise
        return True
