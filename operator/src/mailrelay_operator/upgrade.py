"""Whose turn it is when a new operator would roll every relay: one at a time (pure).

A relay that somebody's spec or Secret changes needs no turn. A new version of the operator, or new
default images, change all of them; if the change is bad, it must be the first relay that shows it
and not the last. So the next one rolls when the one before is as it should be, and none does while
a relay that was rolled is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mailrelay_operator.child import RelayKey


@dataclass(slots=True)
class Upgrade:
    """Hands the turn round. What it knows comes from each relay's own passes."""

    all_relays: Callable[[], Iterable[RelayKey]]
    _is_new: dict[RelayKey, bool] = field(default_factory=dict)  # made by this operator
    _fault: dict[RelayKey, str] = field(default_factory=dict)  # why it is not as it should be
    _turn: RelayKey | None = None

    def note(self, key: RelayKey, *, is_new: bool, fault: str) -> None:
        """Take note of a relay: whether this operator made it, and what is wrong with it, if."""
        self._is_new[key] = is_new
        if fault:
            self._fault[key] = fault
        else:
            self._fault.pop(key, None)
        if self._turn == key and is_new and not fault:
            self._turn = None

    def forget(self, key: RelayKey) -> None:
        """Take note that a relay is gone."""
        self._is_new.pop(key, None)
        self._fault.pop(key, None)
        if self._turn == key:
            self._turn = None

    def ask(self, key: RelayKey) -> str:
        """Ask for the turn: empty when it is this relay's, otherwise what it waits for."""
        if self._turn == key:
            return ""
        for other, is_new in self._is_new.items():
            if other != key and is_new and other in self._fault:
                name = "/".join(other)
                return f"the operator's new version waits for relay {name}: {self._fault[other]}"
        if self._turn is not None:
            return f"the operator's new version waits for relay {'/'.join(self._turn)}"
        unseen = sum(1 for each in self.all_relays() if each != key and each not in self._is_new)
        if unseen:
            return f"the operator's new version waits until {unseen} more relays were looked at"
        self._turn = key
        return ""
