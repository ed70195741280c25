"""How far the jobs of a submission have come (queue rule 11): advisory, and in memory.

What is known is joined with what is there, never put in its place, so that a late word takes no
turn back. Losing all of it loses no mail: which job of a submission is the first that still waits
can be asked of the stream of new mail itself, where the jobs of one submission lie one behind the
other because they were stored as one atomic batch.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from mailrelay.mail.ids import QueueId
from mailrelay.mail.pace import Pace
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError, QueueRefusedError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import RecordError, decode_pace, encode_pace
from mailrelay.runtime.steps import passed

_NOT_FOUND = 10037
_TRIES = 5  # of two who tell at the same moment one is refused, reads again, and tells once more
# It is advice: nobody waits for it as for mail.
_TIMEOUT_SECONDS = 1.0
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is stored; `sequence` is 0 when nothing is, or nothing that can be read."""

    pace: Pace
    sequence: int


class PaceStore:
    """Reads and writes it over one connection."""

    def __init__(self, connection: QueueConnection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = connection.names

    async def read(self, submission: QueueId) -> Pace | None:
        """Return what is known of a submission; None when nothing is. Raises QueueError."""
        kept = await self._read(submission)
        return kept.pace if kept.sequence else None

    async def tell(self, submission: QueueId, news: Pace) -> None:
        """Add `news` to what is known. Raises QueueError."""
        for last in (False,) * (_TRIES - 1) + (True,):
            kept = await self._read(submission)
            joined = kept.pace.joined(news)
            if kept.sequence and joined == kept.pace:
                return
            record = Record(
                self._names.pace_subject(submission),
                encode_pace(joined),
                "",
                {_EXPECTED: str(kept.sequence)},
            )
            try:
                await self._publisher.store(record, deadline_seconds=_TIMEOUT_SECONDS)
            except QueueRefusedError:
                if last:
                    raise
                continue
            passed("pace.told")
            return

    async def first_waiting(self, first: int) -> int:
        """Return the sequence of the first record of new mail from `first` on.

        Asked of the stream's leader. 0 when there is none. Raises QueueError.
        """
        try:
            answer = await self._connection.api(
                f"STREAM.MSG.GET.{self._names.in_stream()}",
                {"seq": first, "next_by_subj": f"{self._names.prefix}.in.0.>"},
                timeout_seconds=_TIMEOUT_SECONDS,
            )
        except QueueRefusedError as error:
            if error.err_code == _NOT_FOUND:
                return 0
            raise
        return int(answer["message"]["seq"])

    async def _read(self, submission: QueueId) -> _Kept:
        try:
            answer = await self._connection.api(
                f"STREAM.MSG.GET.{self._names.pace_stream}",
                {"last_by_subj": self._names.pace_subject(submission)},
                timeout_seconds=_TIMEOUT_SECONDS,
            )
        except QueueRefusedError as error:
            if error.err_code == _NOT_FOUND:
                return _Kept(Pace(), 0)
            raise
        message = answer["message"]
        sequence = int(message["seq"])
        try:
            return _Kept(decode_pace(base64.b64decode(message.get("data", ""))), sequence)
        except RecordError as error:
            # Of another version. It is advice: waiting for it to be understood helps nobody.
            msg = f"what is known of the turns of {submission} cannot be read: {error}"
            raise QueueError(msg) from error
