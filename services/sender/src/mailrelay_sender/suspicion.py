"""Which records may have killed a sender, and are tried alone (queue rule 13).

How often a record was delivered is all that the server tells, and giving a record back raises that
number like a death does: the jobs of one message that wait for their turn come and go many times.
So what this process gave back itself is taken off, and the others' is not held against a record
once this process has lived for long: whoever meets a killer is young, because it kills.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SUSPICIOUS_DELIVERIES = 10
# With up to twenty senders and an `ackWaitSeconds` of 30, a killer comes round in this time.
YOUNG_SECONDS = 600.0
_REMEMBERED = 20_000

Key = tuple[str, int, float]


class Suspicion:
    """What one sender process knows about it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._given_back: dict[Key, int] = {}

    def given_back(self, key: Key) -> None:
        """Note that this process gave a record back."""
        self._given_back[key] = self._given_back.pop(key, 0) + 1
        if len(self._given_back) > _REMEMBERED:
            del self._given_back[next(iter(self._given_back))]

    def falls_on(self, key: Key, delivered: int) -> bool:
        """Tell whether a record that was delivered so often is to be tried alone."""
        if self._clock() - self._started_at > YOUNG_SECONDS:
            return False
        return delivered - self._given_back.get(key, 0) > SUSPICIOUS_DELIVERIES
