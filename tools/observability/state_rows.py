"""Rows of the overview: the queue, the room that is left, and the processes."""

from __future__ import annotations

from typing import Final

from tools.observability.grafana import Panel, Query, Row
from tools.observability.promql import chosen, per_relay
from tools.observability.queries import NAME, per_second

# The operator has metrics of these names, too, and is no relay.
COMPONENTS: Final = 'component=~"ingress|sender|monitor"'

QUEUE: Final = Row(
    "Queue",
    (
        Panel(
            "Jobs by state",
            "new: before the first attempt; deferred: waits for the next one.",
            "short",
            (
                Query(
                    per_relay("sum", chosen("mailrelay_queue_jobs"), "state"),
                    f"{{{{state}}}} {NAME}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Age of the oldest",
            "Job before its first attempt; email that has not come to its end.",
            "s",
            (
                Query(per_relay("max", chosen("mailrelay_queue_oldest_seconds")), f"job {NAME}"),
                Query(per_relay("max", chosen("mailrelay_oldest_email_seconds")), f"email {NAME}"),
            ),
        ),
        Panel(
            "Emails by how they stand",
            "failed: finished, and a recipient was not reached; queued: not finished.",
            "short",
            (
                Query(
                    per_relay("max", chosen("mailrelay_emails", 'state!="successful"'), "state"),
                    f"{{{{state}}}} {NAME}",
                ),
            ),
        ),
    ),
)

ROOM: Final = Row(
    "Room",
    (
        Panel(
            "Stores at NATS, full to",
            "Of what each stream may hold on disk.",
            "percentunit",
            (
                Query(
                    per_relay(
                        "max",
                        f"{chosen('mailrelay_store_bytes')}"
                        f" / ({chosen('mailrelay_store_limit_bytes')} > 0)",
                        "stream",
                    ),
                    f"{{{{stream}}}} {NAME}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Large content",
            "Bodies over 1 MB, kept beside their jobs until no record names them.",
            "bytes",
            (
                Query(
                    per_relay("max", chosen("mailrelay_store_bytes", 'stream="body"')),
                    f"used {NAME}",
                ),
                Query(
                    per_relay("max", chosen("mailrelay_store_limit_bytes", 'stream="body"')),
                    f"room {NAME}",
                ),
            ),
        ),
        Panel(
            "queueSize and the failed store, full to",
            "Of the records that there may be.",
            "percentunit",
            (
                Query(
                    per_relay(
                        "max",
                        f"{chosen('mailrelay_store_records')}"
                        f" / {chosen('mailrelay_store_limit_records')}",
                        "stream",
                    ),
                    f"{{{{stream}}}} {NAME}",
                ),
                Query(
                    per_relay(
                        "max",
                        f"{chosen('mailrelay_failed_records')}"
                        f" / {chosen('mailrelay_failed_limit_records')}",
                    ),
                    f"failed {NAME}",
                ),
            ),
            most=1,
        ),
        Panel(
            "Disk",
            "Where the monitor's data are; on one machine the queue's too.",
            "bytes",
            (
                Query(per_relay("min", chosen("mailrelay_disk_free_bytes")), f"free {NAME}"),
                Query(per_relay("max", chosen("mailrelay_disk_size_bytes")), f"size {NAME}"),
                Query(
                    per_relay("max", chosen("mailrelay_emails_kept_bytes")),
                    f"kept content {NAME}",
                ),
            ),
        ),
        Panel(
            "Events not yet counted, and lost ones",
            "The monitor lags behind; events that were dropped or missed.",
            "short",
            (
                Query(per_relay("max", chosen("mailrelay_event_lag_records")), f"lag {NAME}"),
                Query(
                    per_relay(
                        "sum",
                        f"increase({chosen('mailrelay_events_dropped_total')}[$__rate_interval])",
                    ),
                    f"dropped {NAME}",
                ),
                Query(
                    per_relay(
                        "sum",
                        f"increase({chosen('mailrelay_event_records_missed_total')}"
                        "[$__rate_interval])",
                    ),
                    f"missed {NAME}",
                ),
            ),
        ),
        Panel(
            "Certificate",
            "How long the certificate of ingress holds; nothing without TLS.",
            "s",
            (
                Query(
                    per_relay(
                        "min", f"({chosen('mailrelay_certificate_ends_seconds')} > 0) - time()"
                    ),
                    NAME,
                ),
            ),
        ),
    ),
)

PROCESSES: Final = Row(
    "Processes",
    (
        Panel(
            "Memory",
            "Resident, of each process.",
            "bytes",
            (
                Query(
                    per_relay(
                        "sum",
                        chosen("process_resident_memory_bytes", COMPONENTS),
                        "component",
                        "instance",
                    ),
                    f"{{{{component}}}} {{{{instance}}}} {NAME}",
                ),
            ),
        ),
        Panel(
            "CPU",
            "Processors in use.",
            "short",
            (
                Query(
                    per_second(
                        "process_cpu_seconds_total",
                        "component",
                        "instance",
                        matchers=(COMPONENTS,),
                    ),
                    f"{{{{component}}}} {{{{instance}}}} {NAME}",
                ),
            ),
        ),
        Panel(
            "Restarts",
            "How often a process was started again within the last hour.",
            "short",
            (
                Query(
                    per_relay(
                        "sum",
                        f"changes({chosen('process_start_time_seconds', COMPONENTS)}[1h])",
                        "component",
                    ),
                    f"{{{{component}}}} {NAME}",
                ),
            ),
        ),
    ),
)

OPERATOR: Final = Row(
    "Operator (in a cluster)",
    (
        Panel(
            "Passes over relays",
            "ok: the relay is as its spec says; stopped: something is missing or refused; failed.",
            "ops",
            (
                Query(
                    "sum by (result) (rate(mailrelay_operator_reconciles_total[$__rate_interval]))",
                    "{{result}}",
                ),
            ),
        ),
        Panel(
            "Changes by others, undone",
            "Children that somebody edited, deleted or added.",
            "short",
            (
                Query(
                    "sum by (kind, how) (increase(mailrelay_operator_drift_undone_total"
                    "[$__rate_interval]))",
                    "{{kind}} {{how}}",
                ),
            ),
        ),
        Panel(
            "Relays, and how long one waits for its pass",
            "Relays that there are; those that are due; seconds that one has waited longest.",
            "short",
            (
                Query("max(mailrelay_operator_relays)", "relays"),
                Query("max(mailrelay_operator_queue_depth)", "due"),
                Query("max(mailrelay_operator_queue_wait_seconds)", "seconds"),
            ),
        ),
    ),
)
