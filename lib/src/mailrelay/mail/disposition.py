"""What became of one recipient in one attempt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mailrelay.mail.reply import Reply


class Disposition(Enum):
    """A recipient's state after an attempt; only DEFERRED (and HELD) leaves something to do."""

    SENT = "sent"
    DEFERRED = "deferred"
    BOUNCED = "bounced"  # refused for good by the next hop
    EXPIRED = "expired"  # tried until the schedule's end
    SUPPRESSED = "suppressed"
    HELD = "held"
    CAPTURED = "captured"
    NOT_TRIED = "not_tried"  # another recipient of its message failed, and `continueOnError` is off

    @property
    def is_final(self) -> bool:
        """Whether nothing remains to be done for the recipient."""
        return self not in _OPEN

    @property
    def is_failure(self) -> bool:
        """Whether the recipient belongs in the failed store."""
        return self in _FAILURES


_OPEN = frozenset({Disposition.DEFERRED, Disposition.HELD})
_FAILURES = frozenset({Disposition.BOUNCED, Disposition.EXPIRED, Disposition.NOT_TRIED})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's disposition, with the reply that decided it and who gave it."""

    recipient: int  # the recipient's number in its submission
    disposition: Disposition
    reply: Reply
    next_hop: str
