"""For each alert: numbers at which it fires, and such at which it does not, as promtool reads them.

A series is written as promtool writes it: `0+1x30` is 0, 1 … 30, one a minute; `_` is a minute
without a number. `at` is when the alert is asked for; one that fires has held by then, one that is
quiet has not, or was never true.
"""

from __future__ import annotations

from dataclasses import dataclass

A_DAY = 86_400
MANY = "x400"


@dataclass(frozen=True, slots=True)
class Case:
    """What Prometheus has seen, and whether the alert fires `at`."""

    alert: str
    fires: bool
    at: str
    series: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.alert} {'fires' if self.fires else 'is quiet'} at {self.at}"


def of_relay(metric: str, component: str = "monitor", **labels: str) -> str:
    all_labels = {"namespace": "post", "relay": "mail", "component": component}
    all_labels |= {"instance": f"{component}:8026", "job": "post/mail-pods"} | labels
    inside = ", ".join(f'{name}="{value}"' for name, value in all_labels.items())
    return f"{metric}{{{inside}}}"


def of_operator(metric: str, **labels: str) -> str:
    inside = ", ".join(
        f'{name}="{value}"' for name, value in {"namespace": "ops", **labels}.items()
    )
    return f"{metric}{{{inside}}}"


READY = of_relay("mailrelay_ready", "sender", instance="one:8026")
READY_TOO = of_relay("mailrelay_ready", "sender", instance="two:8026")
UP = of_relay("up", "sender", instance="one:8026")
QUEUE_UP = of_relay("mailrelay_queue_up")
CONNECTIONS = of_relay("mailrelay_smtp_connections", "ingress")
SLOTS = of_relay("mailrelay_delivery_slots", "sender")
NEW, DEFERRED = (of_relay("mailrelay_queue_jobs", state=each) for each in ("new", "deferred"))
STARTED = of_relay("process_start_time_seconds", "sender")
SMART_HOST = {"route": "all", "next_hop": "mx.example:587"}
HOST_OF_ONE, HOST_OF_TWO = (
    of_relay("mailrelay_upstream_up", "sender", instance=each, **SMART_HOST) for each in ("1", "2")
)
ENDS = of_relay("mailrelay_certificate_ends_seconds", "ingress")
UNUSABLE = of_relay("mailrelay_unusable_files_total", "ingress", what="users")
LOSSES = of_relay("mailrelay_queue_losses_total")
OLDEST_JOB = of_relay("mailrelay_queue_oldest_seconds")
OLDEST_EMAIL = of_relay("mailrelay_oldest_email_seconds")
RECORDS = of_relay("mailrelay_store_records", stream="in")
MOST = of_relay("mailrelay_store_limit_records", stream="in")
BODIES = of_relay("mailrelay_store_bytes", stream="body")
BODY_ROOM = of_relay("mailrelay_store_limit_bytes", stream="body")
LANES = of_relay("mailrelay_store_bytes", stream="lane")
LANE_ROOM = of_relay("mailrelay_store_limit_bytes", stream="lane")
TAKES_NEW = of_relay("mailrelay_takes_new_mail", "sender")
FULL = of_relay("mailrelay_enqueue_refused_total", "ingress", reason="full")
TOO_LARGE = of_relay("mailrelay_enqueue_refused_total", "ingress", reason="too_large")
FREE, SIZE = of_relay("mailrelay_disk_free_bytes"), of_relay("mailrelay_disk_size_bytes")
GB = 1024**3
SENT, BOUNCED, DEFERRALS = (
    of_relay("mailrelay_recipients_total", "sender", disposition=each, route="all")
    for each in ("sent", "bounced", "deferred")
)
FAILED, MOST_FAILED = (
    of_relay(f"mailrelay_failed_{each}") for each in ("records", "limit_records")
)
FAILED_BYTES = of_relay("mailrelay_store_bytes", stream="failed")
FAILED_ROOM = of_relay("mailrelay_failed_limit_bytes")
DISCARDED, BY_HAND = (
    of_relay("mailrelay_failed_discarded_total", reason=each) for each in ("max_records", "by_hand")
)
FOLLOWED, FILES_UP = (
    of_relay(f"mailrelay_failed_{each}") for each in ("store_followed", "files_up")
)
LAG = of_relay("mailrelay_event_lag_records")
DROPPED = of_relay("mailrelay_events_dropped_total", "ingress")
MISSED = of_relay("mailrelay_event_records_missed_total")
TOKENS_LOST = of_relay("mailrelay_limit_tokens_lost_total", "ingress")
LEADS, LEADS_TOO = (of_operator("mailrelay_operator_leads", pod=each) for each in ("a", "b"))
PASSED, STOPPED, FAILED_PASSES = (
    of_operator("mailrelay_operator_reconciles_total", result=each)
    for each in ("ok", "stopped", "failed")
)
WAITS = of_operator("mailrelay_operator_queue_wait_seconds")


def fires(alert: str, at: str, series: dict[str, str]) -> Case:
    return Case(alert, True, at, series)  # noqa: FBT003 — the function's name says it


def quiet(alert: str, at: str, series: dict[str, str]) -> Case:
    return Case(alert, False, at, series)  # noqa: FBT003 — the function's name says it


CASES = (
    fires("NotReady", "6m", {READY: "0x10", READY_TOO: "0x10"}),
    fires("NotReady", "6m", {READY: "_x10", UP: "0x10"}),  # it does not answer at all
    quiet("NotReady", "4m", {READY: "0x10", READY_TOO: "0x10"}),
    quiet("NotReady", "8m", {READY: "0x10", READY_TOO: "1x10"}),  # one of two is
    quiet("NotReady", "8m", {READY: "1x3 0x2 1x5"}),  # a restart
    fires("IngressAbsent", "6m", {QUEUE_UP: "1x10"}),
    quiet("IngressAbsent", "6m", {QUEUE_UP: "1x10", CONNECTIONS: "0x10"}),
    fires("SenderAbsent", "6m", {NEW: "1x10", DEFERRED: "0x10"}),
    quiet("SenderAbsent", "6m", {NEW: "0x10", DEFERRED: "0x10"}),  # scaled to zero
    quiet("SenderAbsent", "6m", {NEW: "7x10", SLOTS: "5x10"}),
    fires("MonitorAbsent", "11m", {CONNECTIONS: "0x20"}),
    quiet("MonitorAbsent", "9m", {CONNECTIONS: "0x20"}),
    quiet("MonitorAbsent", "11m", {CONNECTIONS: "0x20", QUEUE_UP: "0x20"}),
    fires("Restarting", "10m", {STARTED: "100x2 200x2 300x2 400x10"}),
    quiet("Restarting", "10m", {STARTED: "100x2 200x2 300x10"}),
    fires("SmartHostDown", "11m", {HOST_OF_ONE: "0x20", HOST_OF_TWO: "0x20"}),
    quiet("SmartHostDown", "11m", {HOST_OF_ONE: "0x20", HOST_OF_TWO: "1x20"}),
    fires("CertificateEndsSoon", "1m", {ENDS: f"{7 * A_DAY - 1}x5"}),
    fires("CertificateEndsSoon", "5m", {ENDS: "100x5"}),  # it is over
    quiet("CertificateEndsSoon", "1m", {ENDS: f"{7 * A_DAY + 120}x5"}),
    quiet("CertificateEndsSoon", "1m", {ENDS: "0x5"}),  # no TLS
    fires("FilesUnusable", "10m", {UNUSABLE: "0x5 1x10"}),
    quiet("FilesUnusable", "10m", {UNUSABLE: "3x20"}),
    fires("QueueDown", "4m", {QUEUE_UP: "1 0x10"}),
    quiet("QueueDown", "2m", {QUEUE_UP: "1 0x10"}),
    fires("QueueLostData", "5m", {LOSSES: "0x2 1x10"}),
    quiet("QueueLostData", "90m", {LOSSES: "0x2 1x100"}),  # told for an hour
    fires("NewMailWaits", "11m", {OLDEST_JOB: "0+60x20"}),
    quiet("NewMailWaits", "10m", {OLDEST_JOB: "0+60x20"}),
    fires("MailTooOld", "6m", {OLDEST_EMAIL: f"{A_DAY + 1}+60x10", DEFERRED: "1x10"}),
    quiet("MailTooOld", "6m", {OLDEST_EMAIL: f"{A_DAY + 1}+60x10", DEFERRED: "0x10"}),
    quiet("MailTooOld", "6m", {OLDEST_EMAIL: f"{A_DAY // 2}+60x10", DEFERRED: "1x10"}),
    fires("QueueNearlyFull", "6m", {RECORDS: "801x10", MOST: "1000x10"}),
    quiet("QueueNearlyFull", "6m", {RECORDS: "800x10", MOST: "1000x10"}),
    fires("StoreNearlyFull", "11m", {BODIES: "81x20", BODY_ROOM: "100x20"}),
    quiet("StoreNearlyFull", "11m", {BODIES: "80x20", BODY_ROOM: "100x20"}),
    quiet("StoreNearlyFull", "11m", {BODIES: "80x20", BODY_ROOM: "0x20"}),  # no limit
    # 10 a minute, 400 of 1000 after 40 minutes: 2,800 in four hours.
    fires("QueueGrowing", "60m", {RECORDS: "0+10x90", MOST: "1000x90"}),
    fires("QueueGrowing", "60m", {LANES: "0+10x90", LANE_ROOM: "1000x90"}),
    quiet("QueueGrowing", "30m", {RECORDS: "0+10x90", MOST: "1000x90"}),  # not a third full
    quiet("QueueGrowing", "60m", {RECORDS: "500+1x90", MOST: "1000x90"}),
    fires("DeferredMailStopsNew", "6m", {TAKES_NEW: "0x10"}),
    quiet("DeferredMailStopsNew", "6m", {TAKES_NEW: "0x2 1 0x10"}),
    fires("RefusesMail", "12m", {FULL: "0x2 1+1x20"}),
    quiet("RefusesMail", "12m", {FULL: "0x2 1x20"}),  # one message
    quiet("RefusesMail", "12m", {TOO_LARGE: "0+1x20"}),  # the client's own fault
    fires("DiskNearlyFull", "6m", {FREE: f"{9 * GB}x10", SIZE: f"{100 * GB}x10"}),
    fires("DiskNearlyFull", "6m", {FREE: f"{GB - 1}x10", SIZE: f"{4 * GB}x10"}),
    quiet("DiskNearlyFull", "6m", {FREE: f"{11 * GB}x10", SIZE: f"{100 * GB}x10"}),
    fires("DeliveriesFail", "40m", {SENT: "0+8x60", BOUNCED: "0+1x60"}),
    quiet("DeliveriesFail", "40m", {SENT: "0+10x60", BOUNCED: "0+1x60"}),  # 9 %
    quiet("DeliveriesFail", "40m", {SENT: "0x60", BOUNCED: "0x20 5x40"}),  # too few
    fires("DeliveriesDeferred", "40m", {SENT: "0+1x60", DEFERRALS: "0+2x60"}),
    quiet("DeliveriesDeferred", "40m", {SENT: "0+2x60", DEFERRALS: "0+1x60"}),
    fires("FailedStoreNearlyFull", "6m", {FAILED: "81x10", MOST_FAILED: "100x10"}),
    fires("FailedStoreNearlyFull", "6m", {FAILED_BYTES: "81x10", FAILED_ROOM: "100x10"}),
    quiet(
        "FailedStoreNearlyFull",
        "6m",
        {FAILED: "80x10", MOST_FAILED: "100x10", FAILED_BYTES: "80x10", FAILED_ROOM: "100x10"},
    ),
    fires("FailedMailDiscarded", "10m", {DISCARDED: "0x5 1x10"}),
    quiet("FailedMailDiscarded", "10m", {DISCARDED: "4x20", BY_HAND: "0+1x20"}),
    fires("FailedStoreNotFollowed", "11m", {FOLLOWED: "0x20", FILES_UP: "0x20"}),
    fires("FailedStoreNotFollowed", "11m", {FOLLOWED: "1x20", FILES_UP: "0x20"}),
    quiet("FailedStoreNotFollowed", "11m", {FOLLOWED: "1x20", FILES_UP: "1x20"}),
    fires("MonitorBehind", "11m", {LAG: "10001x20"}),
    quiet("MonitorBehind", "11m", {LAG: "10001x5 9999 10001x20"}),
    fires("EventsLost", "10m", {DROPPED: "0x5 3x10", MISSED: "0x20"}),
    fires("EventsLost", "10m", {DROPPED: "0x20", MISSED: "0x5 1x10"}),
    quiet("EventsLost", "10m", {DROPPED: "3x20", MISSED: "1x20"}),
    fires("RateLimitTokensLost", "10m", {TOKENS_LOST: "0x5 1x10"}),
    quiet("RateLimitTokensLost", "10m", {TOKENS_LOST: "1x20"}),
    fires("OperatorDoesNothing", "6m", {LEADS: "0x10", LEADS_TOO: "0x10"}),
    quiet("OperatorDoesNothing", "6m", {LEADS: "1x10", LEADS_TOO: "0x10"}),
    fires("OperatorFails", "25m", {FAILED_PASSES: "0+1x40", PASSED: "0+9x40"}),
    quiet("OperatorFails", "25m", {FAILED_PASSES: "0x10 2x40", PASSED: "0+9x40"}),
    fires("RelayStopped", "25m", {STOPPED: "0+1x40"}),
    quiet("RelayStopped", "25m", {STOPPED: "0x2 1x40"}),  # mended
    fires("OperatorBehind", "11m", {WAITS: "301x20"}),
    quiet("OperatorBehind", "11m", {WAITS: "299x20"}),
)
