"""Send failed mail again: a job in `lane.now` for each failed record (queue rule 8).

The job names the record's sequence, and so does its message id: asking twice within the server's
window stores nothing, and later the claimer drops a job whose record was settled meanwhile.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from mailrelay.mail.job import FailedRecord
from mailrelay.queue.bodies import body_token
from mailrelay.queue.errors import QueueError
from mailrelay.queue.failed import FailedStore, StoredFailure
from mailrelay.queue.lanes import NOW
from mailrelay.queue.names import Names
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger

_AT_ONCE = 16  # publishes under way; each may carry 1 MB
_STORE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ResendReport:
    """What became of a request. `fault` says why it was broken off, empty when it was not."""

    resent: int
    already_resending: int
    unreadable: int
    fault: str = ""


class Resender:
    """Queues resends; one request at a time."""

    def __init__(self, store: FailedStore, publisher: Publisher, names: Names, log: Logger) -> None:
        self._store = store
        self._publisher = publisher
        self._names = names
        self._log = log
        self._lock = asyncio.Lock()

    async def resend_all(self) -> ResendReport:
        """Resend everything that is in the failed store now."""
        async with self._lock:
            report = await self._resend_all()
        self._log.info(
            "failed.resent",
            resent=report.resent,
            already_resending=report.already_resending,
            unreadable=report.unreadable,
            fault=report.fault,
        )
        return report

    async def _resend_all(self) -> ResendReport:
        duplicates: list[bool] = []
        unreadable = 0
        fault = ""
        waiting: list[Record] = []
        try:
            async for failure in self._store.walk():
                record = self._record(failure)
                if record is None:
                    unreadable += 1
                    continue
                waiting.append(record)
                if len(waiting) == _AT_ONCE:
                    await self._publish(waiting, duplicates)
                    waiting = []
            await self._publish(waiting, duplicates)
        except QueueError as error:
            fault = str(error)
        return ResendReport(duplicates.count(False), duplicates.count(True), unreadable, fault)

    async def _publish(self, records: list[Record], duplicates: list[bool]) -> None:
        """Store all; note those that went through even when another did not."""
        stored = await asyncio.gather(
            *(self._publisher.store(record, deadline_seconds=_STORE_SECONDS) for record in records),
            return_exceptions=True,
        )
        errors = []
        for answer in stored:
            if isinstance(answer, BaseException):
                errors.append(answer)
            else:
                duplicates.append(answer.duplicate)
        if errors:
            raise errors[0]

    def _record(self, failure: StoredFailure) -> Record | None:
        if failure.record is None:
            return None
        return resend_record(failure.record, failure.sequence, self._names)


def resend_record(failed: FailedRecord, sequence: int, names: Names) -> Record:
    """Return the record that resends a failed one; its history goes along."""
    job = replace(failed.job, attempt=1, faults=0, hop=0, due=0.0, resend_of=sequence)
    return Record(
        names.lane_subject(NOW, body_token(job)),
        encode_jobs([job]),
        f"{job.submission}.{failed.recipient.number}.r/{sequence}",
    )
