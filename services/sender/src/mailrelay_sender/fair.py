"""Which source a free slot takes its work from (queue rule 12). Pure but for its own memory.

New mail gets three slots out of four and due mail the fourth while both have some. Who had nothing
for a while does not wait for that: the first that comes is served next. Lanes take turns among
themselves, the one that was served longest ago first.
"""

from __future__ import annotations

from collections.abc import Sequence

_NEW_A_DUE = 3  # new mail's share is three times that of all lanes together


class FairShare:
    """Remembers who was served. Source 0 is new mail, the others are lanes."""

    def __init__(self, lanes: int) -> None:
        self._lanes = list(range(1, lanes + 1))  # the one served longest ago first
        self._new_since_due = _NEW_A_DUE

    def next(self, has_work: Sequence[bool]) -> int | None:
        """Return the source to serve now, None when none has work."""
        lane = next((each for each in self._lanes if has_work[each]), None)
        if has_work[0] and (lane is None or self._new_since_due < _NEW_A_DUE):
            self._new_since_due += 1
            return 0
        if lane is None:
            return None
        self._lanes.remove(lane)
        self._lanes.append(lane)
        self._new_since_due = 0
        return lane
