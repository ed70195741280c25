"""Let the jobs of one submission go out one after the other (`batchDelay`, `continueOnError`).

Who had job k tells, at the end of its attempt, that k+1 is next and not before when, and whether
that is the end of it. Others ask before a slot is used. What was told lies in memory and may be
lost; then the queue itself is asked: the first job of the submission that is still among the new
mail is the next one, and a failed record of the submission means that it was stopped. That is
slower and knows no pause, so it is asked when nothing is known, or when what is known looks old.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Job
from mailrelay.mail.pace import Pace
from mailrelay.queue.errors import QueueError
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.pace import PaceStore
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay_sender.follow_up import FollowUp
from mailrelay_sender.turn import Go, LeaveOut, Turn, Wait, turn_of

# A wait that was right for one job of a submission is so for the others that come right behind it.
_FRESH_SECONDS = 1.0
# A next job that is due for this long is perhaps under way, and perhaps gone without a word.
_LATE_SECONDS = 5.0
_REMEMBERED = 1000  # submissions; one that is forgotten is asked for again

_waits = Counter(
    "mailrelay_turns_waited_total", "Jobs given back because it was not their turn yet."
)


@dataclass(frozen=True, slots=True)
class PacingOptions:
    """What the configuration says."""

    delay_seconds: float
    continue_on_error: bool
    patience_seconds: float  # a job that has its turn for longer is passed over
    overdue_seconds: float  # a job that has its turn for longer may have been tried, and killed

    @property
    def is_on(self) -> bool:
        """Whether the jobs of a submission wait for each other at all."""
        return self.delay_seconds > 0 or not self.continue_on_error


def pacing_options(
    *, batch_delay_ms: int, continue_on_error: bool, attempt_limit: float, ack_wait: float
) -> PacingOptions:
    """Return the options; the limits are seconds.

    A job that has its turn may be given back for a minute, wait behind deliveries that take as
    long as they may, be delivered itself, and all that again after a crash.
    """
    return PacingOptions(
        delay_seconds=batch_delay_ms / 1000,
        continue_on_error=continue_on_error,
        patience_seconds=60 + ack_wait + 4 * attempt_limit,
        overdue_seconds=2 * ack_wait,
    )


@dataclass(slots=True)
class _Memory:
    """What this process knows of a submission, and since when."""

    pace: Pace
    looked_at: float
    since: float  # when `pace.next` became what it is, as far as we know


class Pacing:
    """Asks and tells whose turn it is."""

    def __init__(
        self,
        store: PaceStore,
        failed: FailedStore,
        options: PacingOptions,
        clock: Clock,
        log: Logger,
    ) -> None:
        self.options = options  # may be put anew at any time
        self._store = store
        self._failed = failed
        self._clock = clock
        self._log = log
        self._memory: dict[QueueId, _Memory] = {}

    def concerns(self, job: Job) -> bool:
        """Tell whether a job of new mail has to wait for its turn."""
        return self.options.is_on and job.batches > 1

    def known_wait(self, job: Job) -> Wait | None:
        """Return how long a job waits when that was found out just now for its submission."""
        memory = self._memory.get(job.submission)
        if memory is None or self._clock() - memory.looked_at >= _FRESH_SECONDS:
            return None
        turn = self._turn(job, memory)
        return turn if isinstance(turn, Wait) else None

    async def turn(self, job: Job, sequence: int) -> Turn:
        """Say what to do with a job; `sequence` is its record's."""
        memory = await self._look(job, sequence)
        return self._turn(job, memory)

    def is_overdue(self, job: Job, stored_at: float) -> bool:
        """Tell whether a job has had its turn for so long that senders may have died of it.

        Each death costs an `ackWaitSeconds`. A job that only waited for its turn was delivered as
        often, and is tried as soon as it has it.
        """
        memory = self._memory.get(job.submission)
        not_before = memory.pace.not_before if memory else 0.0
        return self._clock() - max(not_before, stored_at) > self.options.overdue_seconds

    async def ended(self, job: Job, rest: FollowUp) -> None:
        """Note that a job was attempted and what came of it."""
        if not self.concerns(job) or job.resend_of or job.batch == job.batches:
            return
        stops = bool(rest.failed) and not self.options.continue_on_error
        if job.attempt > 1 and not stops:
            return  # a retry takes no turn
        pace = Pace(stopped_by=job.batch if stops else 0)
        if job.attempt == 1:
            not_before = self._clock() + self.options.delay_seconds
            pace = Pace(job.batch + 1, not_before, pace.stopped_by)
        self._remember(job.submission, pace)
        try:
            await self._store.tell(job.submission, pace)
        except QueueError as error:
            self._log.warning("pace.untold", id=job.submission, error=str(error))

    def _turn(self, job: Job, memory: _Memory) -> Turn:
        now = self._clock()
        turn = turn_of(
            job.batch,
            memory.pace,
            now=now,
            delay_seconds=self.options.delay_seconds,
            is_stuck=now - max(memory.since, memory.pace.not_before)
            > self.options.patience_seconds,
        )
        if isinstance(turn, LeaveOut) and self.options.continue_on_error:
            return Go()  # the option was changed meanwhile
        if isinstance(turn, Wait):
            _waits.inc()
        return turn

    async def _look(self, job: Job, sequence: int) -> _Memory:
        try:
            told = await self._store.read(job.submission)
        except QueueError as error:
            self._log.warning("pace.unread", id=job.submission, error=str(error))
            told = None
        memory = self._remember(job.submission, told or Pace())
        overdue = self._clock() - memory.pace.not_before > _LATE_SECONDS
        if job.batch > memory.pace.next and (told is None or overdue):
            memory = self._remember(job.submission, Pace(await self._first_waiting(job, sequence)))
        if told is None and job.batch >= memory.pace.next and not self.options.continue_on_error:
            stopped_by = await self._stopped_by(job)
            memory = self._remember(job.submission, Pace(stopped_by=stopped_by))
        return memory

    async def _first_waiting(self, job: Job, sequence: int) -> int:
        """Return the number of the submission's first job that is still among the new mail."""
        first = sequence - job.batch + 1
        try:
            found = await self._store.first_waiting(first)
        except QueueError as error:
            self._log.warning("pace.unread", id=job.submission, error=str(error))
            return 1
        # Nothing left, this job included: another sender has settled it.
        return found - first + 1 if found else job.batches

    async def _stopped_by(self, job: Job) -> int:
        """Return the job of the submission that a failed record speaks of; 0: none does."""
        if job.batch == 1:
            return 0
        try:
            record = await self._failed.last_of(job.submission)
        except QueueError as error:
            self._log.warning("pace.unread", id=job.submission, error=str(error))
            return 0
        if record is None:
            return 0
        if record.job.batch == job.batch and record.disposition is not Disposition.NOT_TRIED:
            return 0  # its own, from before it came again
        return min(record.job.batch, job.batch - 1)

    def _remember(self, submission: QueueId, news: Pace) -> _Memory:
        now = self._clock()
        memory = self._memory.pop(submission, None)
        if memory is None:
            memory = _Memory(news, now, now)
        else:
            joined = memory.pace.joined(news)
            if joined.next != memory.pace.next:
                memory.since = now
            memory.pace, memory.looked_at = joined, now
        self._memory[submission] = memory
        if len(self._memory) > _REMEMBERED:
            del self._memory[next(iter(self._memory))]
        return memory
