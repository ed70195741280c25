"""Own exceptions at the queue's boundary; the cause is chained.

QueueError
├── QueueUnavailableError   nothing answered in time: the outcome may be unknown
├── ClaimVoidError          the server lost the record that was claimed
└── QueueRefusedError       the server answered no: nothing was stored
    ├── QueueFullError          a limit on messages or bytes is reached
    ├── RecordTooLargeError     one record is larger than the server takes
    └── QueueMovedOnError       another record is the subject's last by now
StreamMismatchError         a stream is not what this version needs (admin only)
"""

from __future__ import annotations

from typing import Final

STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014


class QueueError(Exception):
    """Base of what can go wrong with the queue."""


class QueueUnavailableError(QueueError):
    """Nothing answered in time. What was asked for may have happened all the same."""


class ClaimVoidError(QueueError):
    """The server lost its data since the record was claimed: there is nothing to settle.

    Saying it all the same could settle a new record of the same number (queue rule 14).
    """


class QueueRefusedError(QueueError):
    """The server refused; nothing was stored. `err_code` is JetStream's own number."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code


class QueueFullError(QueueRefusedError):
    """A limit on messages or bytes is reached."""


class RecordTooLargeError(QueueRefusedError):
    """One record is larger than the server takes."""


class QueueMovedOnError(QueueRefusedError):
    """A compare-and-set lost: another record is the last one of its subject."""


class StreamMismatchError(Exception):
    """The server made something else of a stream than was asked; older servers ignore fields."""


# Measured on nats-server 2.15.1: full by count or bytes, store full, account resources used up.
_FULL = frozenset({10077, 10023, 10002, 10028, 10047})
_TOO_LARGE = frozenset({10054})
_MOVED_ON = frozenset({10071, 10164})


# What passes by itself: JetStream is starting up, has no leader, or is catching up (in a cluster
# any server may say so of what it cannot see); it forgot the beginning of an atomic batch (10176:
# it restarted), or has too many under way (10210: those not finished go after 10 s). And what is
# being stored right now under the same id, by a publish that nobody has confirmed (10158).
_NOT_NOW = frozenset({10008, 10009, 10039, 10076, 10158, 10176, 10210})


def refusal(code: int, err_code: int, description: str) -> QueueError:
    """Return the exception for a JetStream error."""
    if err_code in _NOT_NOW:
        return QueueUnavailableError(f"{description} ({code}/{err_code})")
    if err_code in _FULL:
        return QueueFullError(code, err_code, description)
    if err_code in _TOO_LARGE:
        return RecordTooLargeError(code, err_code, description)
    if err_code in _MOVED_ON:
        return QueueMovedOnError(code, err_code, description)
    return QueueRefusedError(code, err_code, description)
