"""Rows of the overview: mail that comes in, and mail that goes out."""

from __future__ import annotations

from typing import Final

from tools.observability.grafana import Panel, Query, Row
from tools.observability.promql import chosen, per_relay, quantile
from tools.observability.queries import NAME, per_second, percentiles

IN: Final = Row(
    "Mail coming in",
    (
        Panel(
            "Accepted",
            "Messages, and their recipients.",
            "ops",
            (
                Query(per_second("mailrelay_accepted_total"), f"messages {NAME}"),
                Query(per_second("mailrelay_accepted_recipients_total"), f"recipients {NAME}"),
            ),
        ),
        Panel(
            "Refusals by code",
            "Commands and messages that ingress refused (docs/reference/replies.md).",
            "ops",
            (Query(per_second("mailrelay_rejections_total", "code"), f"{{{{code}}}} {NAME}"),),
            is_stacked=True,
        ),
        Panel(
            "Rate-limited, and not taken by the queue",
            "MAIL refused because a limit is reached; messages that the queue did not take.",
            "ops",
            (
                Query(per_second("mailrelay_rate_limited_total", "limit"), f"{{{{limit}}}} {NAME}"),
                Query(
                    per_second("mailrelay_enqueue_refused_total", "reason"),
                    f"queue: {{{{reason}}}} {NAME}",
                ),
            ),
        ),
        Panel(
            "Time to accept",
            "From the final dot to the queue's word; the client is told 250 after it.",
            "s",
            percentiles("mailrelay_enqueue_seconds"),
        ),
        Panel(
            "Clients",
            "SMTP connections that are open.",
            "short",
            (Query(per_relay("sum", chosen("mailrelay_smtp_connections")), NAME),),
        ),
        Panel(
            "Logins",
            "AUTH commands with credentials, by what came of them.",
            "ops",
            (Query(per_second("mailrelay_logins_total", "outcome"), f"{{{{outcome}}}} {NAME}"),),
            is_stacked=True,
        ),
    ),
)

OUT: Final = Row(
    "Mail going out",
    (
        Panel(
            "What attempts came to",
            "Recipients: sent, deferred (tried again later), bounced (refused for good), expired.",
            "ops",
            (
                Query(
                    per_second("mailrelay_recipients_total", "disposition"),
                    f"{{{{disposition}}}} {NAME}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Failed for good, by route",
            "Recipients bounced or expired.",
            "ops",
            (
                Query(
                    per_second(
                        "mailrelay_recipients_total",
                        "route",
                        matchers=('disposition=~"bounced|expired"',),
                    ),
                    f"{{{{route}}}} {NAME}",
                ),
            ),
        ),
        Panel(
            "Smart hosts",
            "1 while every sender could use it when last tried, 0 while one could not.",
            "bool_on_off",
            (
                Query(
                    per_relay("min", chosen("mailrelay_upstream_up"), "route", "next_hop"),
                    f"{{{{route}}}} {{{{next_hop}}}} {NAME}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Time to delivery",
            "From acceptance to a recipient's delivery, waiting for retries included.",
            "s",
            percentiles("mailrelay_delivery_latency_seconds"),
        ),
        Panel(
            "Time of an attempt (p95), by route",
            "What the next hop takes for its answers.",
            "s",
            (Query(quantile(0.95, "mailrelay_attempt_seconds", "route"), f"{{{{route}}}} {NAME}"),),
        ),
        Panel(
            "Sender slots",
            "Attempts under way, how many there may be, and jobs that senders hold.",
            "short",
            (
                Query(per_relay("sum", chosen("mailrelay_deliveries_in_flight")), f"in use {NAME}"),
                Query(per_relay("sum", chosen("mailrelay_delivery_slots")), f"slots {NAME}"),
                Query(per_relay("sum", chosen("mailrelay_claims")), f"held {NAME}"),
            ),
        ),
    ),
)
