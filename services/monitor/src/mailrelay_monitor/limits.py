"""How far the rate limits are used up, read from the counters at the queue when asked.

A counter holds the messages accepted in its window, and the few tokens that ingress processes have
leased or reserved at this moment.
"""

from __future__ import annotations

import heapq
from contextlib import aclosing
from dataclasses import dataclass

from mailrelay.config.model import RateLimits
from mailrelay.mail.limit import CounterName, Scope, Window, sender_of
from mailrelay.queue.counters import CounterStore, CounterUse
from mailrelay.runtime.clock import Clock

MOST_SHOWN = 1000
# Looked at for one answer and kind of window; reading them takes about a second.
_MOST_READ = 20_000
_READ_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One counter against its limit."""

    name: CounterName
    used: int
    most: int

    @property
    def fraction(self) -> float:
        """1.0 is used up."""
        return self.used / self.most


@dataclass(frozen=True, slots=True)
class LimitReport:
    """What is shown: everybody's counters, then senders' by how far they are used up."""

    enabled: bool
    uses: tuple[LimitUse, ...]
    is_complete: bool  # False: there are more counters than were read or are shown


class LimitView:
    """Reads the counters."""

    def __init__(self, limits: RateLimits, counters: CounterStore, clock: Clock) -> None:
        self._limits = limits
        self._counters = counters
        self._clock = clock

    def use(self, limits: RateLimits) -> None:
        """Hold the counters against other limits from now on."""
        self._limits = limits

    async def report(self, sender: str | None, at_most: int) -> LimitReport:
        """Return the counters of this hour and day, of one sender only when one is given.

        Raises QueueUnavailableError.
        """
        uses = [await self._read(Scope.GLOBAL, window, "") for window in Window]
        if sender is not None:
            uses += [await self._read(Scope.SENDER, window, sender) for window in Window]
            return LimitReport(self._limits.enabled, tuple(uses), is_complete=True)
        senders: list[LimitUse] = []
        is_complete = True
        for window in Window:
            # A counter comes once for each addition that still stands; the last one holds.
            found: dict[CounterName, CounterUse] = {}
            number = window.number(self._clock())
            async with aclosing(self._counters.walk(window, number)) as walk:
                async for use in walk:
                    found[use.name] = use
                    if len(found) >= _MOST_READ:
                        is_complete = False
                        break
            senders += [
                self._held_against(use)
                for use in found.values()
                if use.name.scope is Scope.SENDER and use.total > 0
            ]
        shown = heapq.nlargest(at_most, senders, key=lambda use: use.fraction)
        is_complete = is_complete and len(shown) == len(senders)
        return LimitReport(self._limits.enabled, (*uses, *shown), is_complete)

    async def _read(self, scope: Scope, window: Window, sender: str) -> LimitUse:
        name = CounterName(scope, window, window.number(self._clock()), sender_of(sender))
        total = await self._counters.total(name, deadline_seconds=_READ_SECONDS)
        return self._held_against(CounterUse(name, total))

    def _held_against(self, use: CounterUse) -> LimitUse:
        most = self._limits.most(use.name.scope, use.name.window)
        return LimitUse(use.name, use.total, most)
