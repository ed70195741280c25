"""Have the streams made again when the queue has lost them: a volume is gone, somebody deleted one.

The monitor says what is missing. The Job that makes it is done by then, so it is removed, and the
next pass finds that it is not there. Nothing of that is written down anywhere: an operator that
starts anew asks the monitor again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay_operator.backlog import Numbers
from mailrelay_operator.child import Child, RelayKey
from mailrelay_operator.child_kinds import JOB
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.conditions import StreamsJob
from mailrelay_operator.known import Known
from mailrelay_operator.work_queue import BackOff

# What the monitor says is up to 5 s old, and clocks of machines differ a little.
SETTLE_SECONDS: Final = 15.0
# A queue that does not keep what the Job makes is somebody's to look at; the Job costs a pod.
_BACK_OFF: Final = BackOff(first_seconds=30.0, most_seconds=600.0)


@dataclass(frozen=True, slots=True)
class Runs:
    """How often in a row the Job was run again, and when the last time."""

    count: int = 0
    at: float = 0.0


def lost_streams(job: StreamsJob | None, numbers: Numbers | None) -> tuple[str, ...]:
    """Return what the queue had and has not, by what the monitor saw since the Job's end (pure).

    A Job that is not done is at it; what the monitor said before its end, or just behind it, may be
    of before.
    """
    if numbers is None or job is None or not (job.done or job.fault):
        return ()
    return numbers.missing if numbers.at >= job.ended_at + SETTLE_SECONDS else ()


def seconds_until_due(
    job: StreamsJob | None, numbers: Numbers | None, runs: Runs, now: float, chance: float
) -> float | None:
    """Return in how many seconds to run the Job again; 0 now, None not as far as is known (pure).

    `chance` is from 0 to 1.
    """
    if not lost_streams(job, numbers):
        return None
    if not runs.count:
        return 0.0
    return max(0.0, runs.at + _BACK_OFF.seconds(runs.count, chance) - now)


class StreamsAgain:
    """Runs the Job again."""

    def __init__(
        self,
        cluster: Cluster,
        known: Known,
        numbers: Callable[[RelayKey], Numbers | None],
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._known = known
        self._numbers = numbers
        self._clock = clock
        self._chance = chance
        self._runs: dict[RelayKey, Runs] = {}

    def forget(self, key: RelayKey) -> None:
        """Take note that a relay is gone."""
        self._runs.pop(key, None)

    def due_in(self, key: RelayKey) -> float | None:
        """Return in how many seconds to `run` it; 0 now, None not as far as is known.

        To be called when all children are as they are wanted.
        """
        numbers = self._numbers(key)
        if numbers is not None and not numbers.fault and numbers.is_told and not numbers.missing:
            self.forget(key)
            return None
        child = self._job(key)
        job = child.observed if child is not None else None
        if not isinstance(job, StreamsJob):
            return None
        runs = self._runs.get(key, Runs())
        return seconds_until_due(job, numbers, runs, self._clock(), self._chance())

    async def run(self, key: RelayKey, log: Logger) -> None:
        """Remove the Job, when it is still there: the next pass makes it. Raises ClusterError."""
        child, numbers = self._job(key), self._numbers(key)
        if child is None:
            return
        self._runs[key] = Runs(self._runs.get(key, Runs()).count + 1, self._clock())
        await self._cluster.delete(JOB, child.namespace, child.name, uid=child.uid)
        child.is_deleted = True  # until the watch says that it is gone
        missing = list(numbers.missing) if numbers is not None else []
        log.warning("relay.streams_made_again", missing=missing, job=child.name)

    def _job(self, key: RelayKey) -> Child | None:
        jobs = [
            child
            for child in self._known.children(key).values()
            if child.kind is JOB and not child.is_deleted
        ]
        # Of several all but one are on their way out, and a pass that finds them is not at rest.
        return jobs[0] if len(jobs) == 1 else None
