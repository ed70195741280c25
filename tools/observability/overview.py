"""The overview: from mail coming in to mail gone out, and what it needs meanwhile."""

from __future__ import annotations

from typing import Final

from tools.observability.grafana import Dashboard, Panel, Query, Row, Variable
from tools.observability.mail_rows import IN, OUT
from tools.observability.promql import chosen, per_relay
from tools.observability.queries import NAME, per_second
from tools.observability.state_rows import COMPONENTS, OPERATOR, PROCESSES, QUEUE, ROOM

_GLANCE: Final = Row(
    "Now",
    (
        Panel(
            "Accepted",
            "Messages accepted a second: safe in the queue before the client was told 250.",
            "ops",
            (Query(per_second("mailrelay_accepted_total"), NAME),),
            is_stat=True,
        ),
        Panel(
            "Delivered",
            "Recipients that a next hop took, a second.",
            "ops",
            (
                Query(
                    per_second("mailrelay_recipients_total", matchers=('disposition="sent"',)), NAME
                ),
            ),
            is_stat=True,
            none="0",
        ),
        Panel(
            "Jobs in the queue",
            "New and deferred. A job is a message, or a batch of its recipients.",
            "short",
            (Query(per_relay("sum", chosen("mailrelay_queue_jobs")), NAME),),
            is_stat=True,
        ),
        Panel(
            "Oldest email",
            "How long ago the oldest email was accepted that has not come to its end.",
            "s",
            (Query(per_relay("max", chosen("mailrelay_oldest_email_seconds")), NAME),),
            is_stat=True,
            steps=((3600, "yellow"), (86400, "red")),
        ),
        Panel(
            "Failed, kept",
            "Recipients in the failed store: they can be looked at and sent again.",
            "short",
            (Query(per_relay("max", chosen("mailrelay_failed_records")), NAME),),
            is_stat=True,
            steps=((1, "yellow"),),
        ),
        Panel(
            "Not ready",
            "Processes whose /readyz says no.",
            "short",
            (Query(per_relay("sum", f"1 - {chosen('mailrelay_ready', COMPONENTS)}"), NAME),),
            is_stat=True,
            steps=((1, "red"),),
        ),
    ),
    height=4,
    across=6,
)

OVERVIEW: Final = Dashboard(
    "mailrelay-overview",
    "MailRelay overview",
    "From mail coming in to mail gone out. Alerts and what to do: docs/runbooks.",
    (_GLANCE, IN, OUT, QUEUE, ROOM, PROCESSES, OPERATOR),
    (
        Variable("namespace", "Namespace", "label_values(mailrelay_queue_up, namespace)"),
        Variable(
            "relay", "Relay", 'label_values(mailrelay_queue_up{namespace=~"$namespace"}, relay)'
        ),
    ),
)
