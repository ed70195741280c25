"""Alerts on what becomes of mail, and on whether it is counted."""

from __future__ import annotations

from typing import Final

from tools.observability.alerting import WHICH, WHICH_FIRST, Alert, Group, Severity
from tools.observability.promql import per_relay

_NEARLY_FULL: Final = 0.8
_BEHIND: Final = 10_000
_ENOUGH: Final = 10  # recipients: a share of fewer says nothing


def _share(dispositions: str, window: str, least: float) -> str:
    """Which share of a route's outcomes are these, where there are enough of them."""
    counted = "mailrelay_recipients_total"
    these = per_relay(
        "sum", f'increase({counted}{{disposition=~"{dispositions}"}}[{window}])', "route"
    )
    return (
        f"{these} / {per_relay('sum', f'increase({counted}[{window}])', 'route')} > {least}"
        f" and {these} > {_ENOUGH}"
    )


DELIVERY: Final = Group(
    "delivery",
    (
        Alert(
            "DeliveriesFail",
            Severity.WARNING,
            "5m",
            _share("bounced|expired|not_tried", "30m", 0.1),
            f"{{{{ $value | humanizePercentage }}}} of attempts of {WHICH} fail for good",
            "Of route {{ $labels.route }}, within half an hour. The recipients are in the failed "
            "store with the reply that each got.",
        ),
        Alert(
            "DeliveriesDeferred",
            Severity.WARNING,
            "15m",
            _share("deferred", "30m", 0.5),
            f"{{{{ $value | humanizePercentage }}}} of attempts of {WHICH} are put off",
            "Of route {{ $labels.route }}, within half an hour: the next hop says later, or "
            "cannot be reached.",
        ),
        Alert(
            "FailedStoreNearlyFull",
            Severity.WARNING,
            "5m",
            f"mailrelay_failed_records / mailrelay_failed_limit_records > {_NEARLY_FULL} or "
            'ignoring (stream) mailrelay_store_bytes{stream="failed"} / ignoring (stream) '
            f"(mailrelay_failed_limit_bytes > 0) > {_NEARLY_FULL}",
            f"The failed store of {WHICH} is {{{{ $value | humanizePercentage }}}} full",
            "Past `failed.maxRecords` or `failed.maxBytes` the oldest failed mail goes for good.",
        ),
        Alert(
            "FailedMailDiscarded",
            Severity.WARNING,
            "0m",
            per_relay(
                "sum",
                'increase(mailrelay_failed_discarded_total{reason!~"by_hand|max_age"}[1h])',
                "reason",
            )
            + " > 0",
            f"{WHICH_FIRST} drops failed mail ({{{{ $labels.reason }}}})",
            "The failed store is past a limit, so the oldest failed mail goes, undelivered.",
        ),
        Alert(
            "FailedStoreNotFollowed",
            Severity.WARNING,
            "10m",
            "mailrelay_failed_store_followed == 0 or mailrelay_failed_files_up == 0",
            f"The failed store of {WHICH} is not looked after",
            "The monitor cannot read it, or cannot write the files of failed mail. Failed mail "
            "stays in the queue; it is not limited, exported or resent meanwhile.",
        ),
    ),
)

COUNTING: Final = Group(
    "counting",
    (
        Alert(
            "MonitorBehind",
            Severity.WARNING,
            "10m",
            f"mailrelay_event_lag_records > {_BEHIND}",
            f"The monitor of {WHICH} lags behind by {{{{ $value }}}} records",
            "Totals and the list of messages are late. Mail does not wait for them.",
        ),
        Alert(
            "EventsLost",
            Severity.WARNING,
            "0m",
            per_relay("sum", "increase(mailrelay_events_dropped_total[1h])")
            + " > 0 or "
            + per_relay("sum", "increase(mailrelay_event_records_missed_total[1h])")
            + " > 0",
            f"{WHICH_FIRST} lost events",
            "A process could not tell them, or they aged out before the monitor read them. Totals "
            "and the list of messages are wrong by them; no mail is lost.",
        ),
        Alert(
            "RateLimitTokensLost",
            Severity.INFO,
            "0m",
            per_relay("sum", "increase(mailrelay_limit_tokens_lost_total[1h])") + " > 0",
            f"Rate limits of {WHICH} let fewer messages through than they say",
            "Tokens of the rate limits could not be given back: they count as messages until "
            "their hour or day ends.",
        ),
    ),
)
