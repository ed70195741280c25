"""Alerts on the operator. Its metrics are of no relay: it looks after all of them."""

from __future__ import annotations

from typing import Final

from tools.observability.alerting import Alert, Group, Severity

_IN: Final = "{{ with $labels.namespace }} in {{ . }}{{ end }}"
_WAITS_SECONDS: Final = 300

OPERATOR: Final = Group(
    "operator",
    (
        Alert(
            "OperatorDoesNothing",
            Severity.CRITICAL,
            "5m",
            "sum by (namespace) (mailrelay_operator_leads) == 0",
            f"No operator{_IN} leads",
            "Its processes are there, and none of them acts: relays stay as they are, senders are "
            "not scaled, changes are not carried out. Mail flows on.",
        ),
        Alert(
            "OperatorFails",
            Severity.WARNING,
            "10m",
            "sum by (namespace) (increase(mailrelay_operator_reconciles_total"
            '{result="failed"}[10m])) >= 3',
            f"The operator{_IN} fails to bring relays about",
            "Passes over relays end in errors and are tried again. The API server refuses "
            "something, or cannot be reached.",
        ),
        Alert(
            "RelayStopped",
            Severity.WARNING,
            "15m",
            "sum by (namespace) (increase(mailrelay_operator_reconciles_total"
            '{result="stopped"}[15m])) > 0',
            f"The operator{_IN} cannot carry out a relay's spec",
            "Something that a MailRelay names is missing or refused. The relay runs on as it was; "
            "its conditions say what to mend.",
        ),
        Alert(
            "OperatorBehind",
            Severity.WARNING,
            "10m",
            f"max by (namespace) (mailrelay_operator_queue_wait_seconds) > {_WAITS_SECONDS}",
            f"The operator{_IN} is late by {{{{ $value | humanizeDuration }}}}",
            "A relay waits so long for its pass: too many relays for one operator, or a slow API "
            "server.",
        ),
    ),
)
