"""Limits on how many messages are accepted: whose, in which window (docs/decisions/0018).

Windows are fixed: the hours and days of UTC. A counter belongs to one window of one sender, or of
everybody, so a new window begins with a new counter and nothing has to be reset.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from mailrelay.mail.address import same_mailbox

EVERYBODY = "all"  # the key of the counters of the whole system; no sender's key is that short
_KEY_OCTETS = 16  # of the hash: two addresses never meet by chance, nor for a price worth paying
_KEYS_KEPT = 16_384


class Window(Enum):
    """A fixed stretch of UTC."""

    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """How long it is."""
        return 3600 if self is Window.HOUR else 86_400

    def number(self, at: float) -> int:
        """Return which one `at` (seconds since the epoch) falls into."""
        return int(at // self.seconds)

    def ends_at(self, number: int) -> float:
        """Return when it is over, in seconds since the epoch."""
        return float((number + 1) * self.seconds)


class Scope(Enum):
    """Whose messages are counted."""

    SENDER = "sender"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class CounterName:
    """One counter: one window of one sender, or of everybody."""

    scope: Scope
    window: Window
    number: int  # which hour or day since the epoch
    address: str  # of the sender, its domain folded, empty for `<>`; empty for everybody

    @property
    def key(self) -> str:
        """What stands for the sender in a subject."""
        return EVERYBODY if self.scope is Scope.GLOBAL else sender_key(self.address)

    @property
    def limit_name(self) -> str:
        """Which limit it counts for: `sender_hour`, `sender_day`, `global_hour`, `global_day`."""
        return limit_name(self.scope, self.window)

    @property
    def ends_at(self) -> float:
        """When its window is over, in seconds since the epoch."""
        return self.window.ends_at(self.number)


def limit_name(scope: Scope, window: Window) -> str:
    """Return a limit's name in logs, metrics and answers."""
    return f"{scope.value}_{window.value}"


def sender_of(reverse_path: str) -> str:
    """Return whom a message counts for: the reverse path, its domain folded; `<>` is a sender."""
    return same_mailbox(reverse_path)


@lru_cache(maxsize=_KEYS_KEPT)
def sender_key(address: str) -> str:
    """Return a sender's key: a subject token that says nothing and fits any address."""
    digest = hashlib.sha256(address.encode()).digest()[:_KEY_OCTETS]
    return base64.b32encode(digest).decode().rstrip("=").lower()
