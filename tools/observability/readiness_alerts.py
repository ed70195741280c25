"""Alerts on what must be there for mail to be taken and delivered."""

from __future__ import annotations

from typing import Final

from tools.observability.alerting import WHICH, WHICH_FIRST, Alert, Group, Severity
from tools.observability.promql import OF_RELAYS, RELAY, per_relay

_MONITOR_IS_THERE: Final = per_relay("group", "mailrelay_queue_up")
_INGRESS_IS_THERE: Final = per_relay("group", "mailrelay_smtp_connections")
_SENDER_IS_THERE: Final = per_relay("group", "mailrelay_delivery_slots")
_DAY: Final = 86400
_CERTIFICATE_DAYS: Final = 7

READINESS: Final = Group(
    "readiness",
    (
        Alert(
            "NotReady",
            Severity.CRITICAL,
            "5m",
            # What cannot be scraped has no readiness any more, and `up` says 0 of it.
            per_relay("max", f'mailrelay_ready{{relay!=""}} or up{{{OF_RELAYS}}}', "component")
            + " == 0",
            f"No {{{{ $labels.component }}}} of {WHICH} is ready",
            "Each process of it says no to /readyz, or does not answer Prometheus. Without ingress "
            "no mail is taken; without senders none is delivered; without the monitor nothing is "
            "counted.",
        ),
        Alert(
            "IngressAbsent",
            Severity.CRITICAL,
            "5m",
            f"{_MONITOR_IS_THERE} unless on ({RELAY}) {_INGRESS_IS_THERE}",
            f"{WHICH_FIRST} has no ingress",
            "Its monitor is there, and no ingress is: nobody takes mail.",
        ),
        Alert(
            "SenderAbsent",
            Severity.CRITICAL,
            "5m",
            per_relay("sum", "mailrelay_queue_jobs")
            + f" > 0 unless on ({RELAY}) {_SENDER_IS_THERE}",
            f"{WHICH_FIRST} has no sender, and {{{{ $value }}}} jobs wait",
            "Mail is taken and kept, and nobody delivers it. A relay scaled to zero senders has "
            "them again within seconds of new mail, when its operator works.",
        ),
        Alert(
            "MonitorAbsent",
            Severity.WARNING,
            "10m",
            f"{_INGRESS_IS_THERE} unless on ({RELAY}) {_MONITOR_IS_THERE}",
            f"{WHICH_FIRST} has no monitor",
            "Mail flows, but nothing is counted, stored content is not deleted, the failed store "
            "is not looked after, and most of the other alerts are blind.",
        ),
        Alert(
            "Restarting",
            Severity.WARNING,
            "0m",
            f"changes(process_start_time_seconds{{{OF_RELAYS}}}[15m]) >= 3",
            f"{{{{ $labels.component }}}} of {WHICH} was started again {{{{ $value }}}} times in "
            "15 minutes",
            "Something ends the process again and again. What it had under way is done again by "
            "the next one.",
        ),
        Alert(
            "SmartHostDown",
            Severity.WARNING,
            "10m",
            per_relay("max", "mailrelay_upstream_up", "route", "next_hop") + " == 0",
            f"Smart host {{{{ $labels.next_hop }}}} of {WHICH} cannot be used",
            "No sender gets a connection that it can use: not found, not reachable, a bad "
            "certificate, or credentials refused. Mail of route {{ $labels.route }} goes to "
            "another smart host of it, or waits in the queue and is tried again.",
        ),
        Alert(
            "CertificateEndsSoon",
            Severity.WARNING,
            "0m",
            per_relay("min", "mailrelay_certificate_ends_seconds > 0")
            + f" - time() < {_CERTIFICATE_DAYS * _DAY}",
            f"The certificate of {WHICH} ends in {{{{ $value | humanizeDuration }}}}",
            "Clients that check certificates will refuse to speak to it afterwards. Whatever "
            "renews certificates has not done so yet.",
        ),
        Alert(
            "FilesUnusable",
            Severity.WARNING,
            "0m",
            per_relay("sum", "increase(mailrelay_unusable_files_total[1h])", "what") + " > 0",
            f"A changed file ({{{{ $labels.what }}}}) of {WHICH} cannot be used",
            "What was read before stays in force. After a restart the process would not start "
            "with this file.",
        ),
    ),
)
