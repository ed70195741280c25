"""Queue ids: sortable by time, safe as a NATS subject token, short enough for a log line."""

from __future__ import annotations

import re
from typing import NewType

QueueId = NewType("QueueId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_TIME_DIGITS = 9  # 45 bits of milliseconds: enough until the year 3084
_RANDOM_DIGITS = 13  # 65 bits: two ids of one millisecond collide once in 10^19
_PATTERN = re.compile(rf"[{_ALPHABET}]{{{_TIME_DIGITS + _RANDOM_DIGITS}}}")


def new_queue_id(now_seconds: float, entropy: int) -> QueueId:
    """Name a submission accepted at `now_seconds`, with at least 65 random bits in `entropy`."""
    return QueueId(
        _digits(int(now_seconds * 1000), _TIME_DIGITS) + _digits(entropy, _RANDOM_DIGITS)
    )


def accepted_seconds(queue_id: QueueId) -> float:
    """Return the time that a queue id was made with, to the millisecond."""
    milliseconds = 0
    for digit in queue_id[:_TIME_DIGITS]:
        milliseconds = milliseconds << 5 | _ALPHABET.index(digit)
    return milliseconds / 1000


def is_queue_id(text: str) -> bool:
    """Tell whether `text` could have come from `new_queue_id` (and so is safe in a subject)."""
    return _PATTERN.fullmatch(text) is not None


def _digits(number: int, count: int) -> str:
    digits = []
    for _ in range(count):
        digits.append(_ALPHABET[number & 31])
        number >>= 5
    return "".join(reversed(digits))
