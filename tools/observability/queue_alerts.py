"""Alerts on the queue: whether it answers, how old and how full it is."""

from __future__ import annotations

from typing import Final

from tools.observability.alerting import WHICH, WHICH_FIRST, Alert, Group, Severity
from tools.observability.promql import RELAY, per_relay

_NEARLY_FULL: Final = 0.8
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_AHEAD: Final = 4 * _HOUR
_FILLED: Final = 0.3  # below, a steep line says little
_BYTES: Final = 'mailrelay_store_bytes{stream=~"in|lane|body"}'
_ROOM: Final = 'mailrelay_store_limit_bytes{stream=~"in|lane|body"} > 0'
_RECORDS: Final = 'mailrelay_store_records{stream="in"}'
_MOST: Final = 'mailrelay_store_limit_records{stream="in"}'


def _fills(held: str, most: str) -> str:
    return f"(predict_linear({held}[30m], {_AHEAD}) > ({most}) and {held} / ({most}) > {_FILLED})"


QUEUE: Final = Group(
    "queue",
    (
        Alert(
            "QueueDown",
            Severity.CRITICAL,
            "2m",
            "mailrelay_queue_up == 0",
            f"The queue of {WHICH} does not answer, or lacks a stream",
            "The monitor gets no answer from NATS, or not all streams are there. Clients are told "
            "451 and keep their mail; what was accepted is safe on NATS' disk and waits.",
        ),
        Alert(
            "QueueLostData",
            Severity.CRITICAL,
            "0m",
            "increase(mailrelay_queue_losses_total[1h]) > 0",
            f"The queue of {WHICH} lost its data",
            "NATS' streams were made anew: its volume is another one, or was emptied. Mail that "
            "was accepted and not delivered is gone from there.",
        ),
        Alert(
            "NewMailWaits",
            Severity.CRITICAL,
            "5m",
            f"mailrelay_queue_oldest_seconds > {5 * _MINUTE}",
            f"New mail of {WHICH} waits {{{{ $value | humanizeDuration }}}} for its first attempt",
            "Senders are away, busy with slow next hops, or too few for what comes in.",
        ),
        Alert(
            "MailTooOld",
            Severity.WARNING,
            "5m",
            # A row whose events were lost never ends: it counts only while there are jobs.
            f"mailrelay_oldest_email_seconds > {_DAY} and on ({RELAY}) "
            + per_relay("sum", "mailrelay_queue_jobs")
            + " > 0",
            f"An email of {WHICH} is undelivered for {{{{ $value | humanizeDuration }}}}",
            "A recipient of it is deferred again and again. It expires when it is as old as "
            "`retry.maxAgeSeconds` says, and is in the failed store then.",
        ),
        Alert(
            "QueueNearlyFull",
            Severity.WARNING,
            "5m",
            f"{_RECORDS} / {_MOST} > {_NEARLY_FULL}",
            f"The queue of {WHICH} is {{{{ $value | humanizePercentage }}}} full",
            "It may have `queueSize` jobs before their first attempt. Full, clients are told 452.",
        ),
        Alert(
            "StoreNearlyFull",
            Severity.WARNING,
            "10m",
            f"{_BYTES} / ({_ROOM}) > {_NEARLY_FULL}",
            f"Store {{{{ $labels.stream }}}} of {WHICH} is "
            "{{ $value | humanizePercentage }} full",
            "in: new mail; lane: deferred mail; body: content over 1 MB. Full, clients are told "
            "452; with the store of deferred mail nearly full, new mail waits.",
        ),
        Alert(
            "QueueGrowing",
            Severity.WARNING,
            "15m",
            f"{_fills(_RECORDS, _MOST)} or {_fills(_BYTES, _ROOM)}",
            f"Store {{{{ $labels.stream }}}} of {WHICH} will be full within 4 hours",
            "As it grew in the last half hour: more comes in than goes out.",
        ),
        Alert(
            "DeferredMailStopsNew",
            Severity.WARNING,
            "5m",
            per_relay("max", "mailrelay_takes_new_mail") + " == 0",
            f"Senders of {WHICH} take no new mail",
            "The store of deferred mail is nearly full, so that the room that is left is kept for "
            "what is under way. New mail waits.",
        ),
        Alert(
            "RefusesMail",
            Severity.WARNING,
            "5m",
            per_relay(
                "sum",
                'rate(mailrelay_enqueue_refused_total{reason=~"full|unavailable"}[5m])',
                "reason",
            )
            + " > 0",
            f"{WHICH_FIRST} refuses mail: the queue is {{{{ $labels.reason }}}}",
            "Clients are told 452 (full) or 451 (unavailable) and try again later.",
        ),
        Alert(
            "DiskNearlyFull",
            Severity.WARNING,
            "5m",
            "mailrelay_disk_free_bytes / mailrelay_disk_size_bytes < 0.1 or "
            f"mailrelay_disk_free_bytes < {1024**3}",
            f"The disk of {WHICH} is nearly full",
            "Less than a tenth, or than 1 GiB, is free where the monitor's data are. On one "
            "machine the queue is there, too.",
        ),
    ),
)
