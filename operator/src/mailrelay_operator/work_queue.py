"""Which relay is looked at next, and when: keyed, so that none is worked on twice at once.

A key stands in the queue once however often it is added; the earliest time wins. What is added
while its key is worked on is looked at once more afterwards: the work may have read before the
change. A key that failed comes back after a growing pause with jitter, one that did well starts
over. No task and no clock in here: `workers` turns it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long a key that failed is left alone, in seconds: doubled each time up to a limit."""

    first_seconds: float = 0.5
    most_seconds: float = 300.0
    jitter: float = 0.5  # 0 to 1: that share of the pause is left to chance, so that keys part

    def seconds(self, failures: int, chance: float) -> float:
        """Return the pause after so many failures in a row; `chance` is from 0 to 1."""
        # The exponent is bounded: a key may fail for weeks.
        whole = min(self.first_seconds * 2.0 ** min(failures - 1, 30), self.most_seconds)
        return whole * (1 - self.jitter * chance)


@dataclass(slots=True)
class _Entry:
    """What is known of a key that is queued, being worked on, or failed before."""

    due: float | None = None  # None: not queued
    started_at: float | None = None  # None: nobody works on it
    failures: int = 0


@dataclass(slots=True)
class WorkQueue(Generic[Key]):
    """The queue. Times are of one clock that never goes back, in seconds."""

    back_off: BackOff = field(default_factory=BackOff)
    chance: Callable[[], float] = random.random
    changed: Callable[[], None] = lambda: None  # called when something may be due earlier
    _entries: dict[Key, _Entry] = field(default_factory=dict)
    _heap: list[tuple[float, int, Key]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)

    def add(self, key: Key, now: float, delay_seconds: float = 0.0) -> None:
        """Have a key looked at, at the latest after the delay."""
        entry = self._entries.setdefault(key, _Entry())
        due = now + delay_seconds
        if entry.due is not None and entry.due <= due:
            return
        entry.due = due
        if entry.started_at is None:
            self._push(key, due)

    def add_all(self, keys: Iterable[Key], now: float, spread_seconds: float = 0.0) -> None:
        """Have all keys looked at, each at a random time within the spread."""
        for key in keys:
            self.add(key, now, spread_seconds * self.chance())

    def take(self, now: float) -> Key | None:
        """Hand out the key that is due longest, or None; it is being worked on from now."""
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            entry = self._entries.get(key)
            # A stale place in the heap: the key came earlier, or is being worked on.
            if entry is None or entry.due != due or entry.started_at is not None:
                continue
            entry.due, entry.started_at = None, now
            return key
        return None

    def next_due(self) -> float | None:
        """Say when a key is due next; None when none is queued."""
        return self._heap[0][0] if self._heap else None

    def succeeded(self, key: Key, now: float, again_seconds: float | None = None) -> None:
        """Give a key back that went well; look at it again after `again_seconds`, if given."""
        entry = self._entries[key]
        entry.failures = 0
        self._give_back(key, entry, None if again_seconds is None else now + again_seconds)

    def failed(self, key: Key, now: float) -> float:
        """Give a key back that failed; return after how many seconds it is tried again."""
        entry = self._entries[key]
        entry.failures += 1
        pause = self.back_off.seconds(entry.failures, self.chance())
        # What was added meanwhile waits, too: the same fault would come of it.
        entry.due = None
        self._give_back(key, entry, now + pause)
        return pause

    def failures(self, key: Key) -> int:
        """Return how often in a row a key failed."""
        entry = self._entries.get(key)
        return entry.failures if entry else 0

    def depth(self, now: float) -> int:
        """Count the keys that are due and that nobody works on."""
        return sum(
            1
            for entry in self._entries.values()
            if entry.due is not None and entry.due <= now and entry.started_at is None
        )

    def longest_wait_seconds(self, now: float) -> float:
        """Return for how long the key has been due that is due longest; 0 when none is."""
        waits = (
            now - entry.due
            for entry in self._entries.values()
            if entry.due is not None and entry.started_at is None
        )
        return max(0.0, max(waits, default=0.0))

    def longest_work_seconds(self, now: float) -> float:
        """Return for how long the key has been worked on that is worked on longest."""
        return max(
            (now - e.started_at for e in self._entries.values() if e.started_at is not None),
            default=0.0,
        )

    def _give_back(self, key: Key, entry: _Entry, again: float | None) -> None:
        entry.started_at = None
        if again is not None and (entry.due is None or again < entry.due):
            entry.due = again
        if entry.due is not None:
            self._push(key, entry.due)
        elif not entry.failures:
            del self._entries[key]

    def _push(self, key: Key, due: float) -> None:
        heapq.heappush(self._heap, (due, next(self._order), key))
        self.changed()
