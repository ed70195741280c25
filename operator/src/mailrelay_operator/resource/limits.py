"""How much is accepted, and how long what is not delivered is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mailrelay_operator.resource.option import option
from mailrelay_operator.resource.schema import ObjectName, Section


class Limits(Section):
    """How many messages are accepted."""

    enabled: bool = option("rateLimits.enabled")
    max_per_hour: int = option("rateLimits.maxPerHour")
    max_per_day: int = option("rateLimits.maxPerDay")
    global_max_per_hour: int = option("rateLimits.globalMaxPerHour")
    global_max_per_day: int = option("rateLimits.globalMaxPerDay")


class Capture(Section):
    """Mail that no route takes: kept and shown, and released by hand."""

    max_messages: int = option("capture.maxMessages")
    when_full: Literal["Refuse", "DropOldest"] = option(
        "capture.whenFull",
        description="At the limit: Refuse keeps what comes in the queue, which then answers 452 "
        "when it is full too; DropOldest lets the oldest go.",
    )


class Failed(Section):
    """The failed store: mail that could not be delivered. Past a limit the oldest goes first."""

    resend_interval_seconds: int = option("failed.resendIntervalSeconds")
    resend_bounced: bool = option("failed.resendBounced")
    max_records: int = option("failed.maxRecords")
    max_bytes: int = option("failed.maxBytes")
    max_age_seconds: int = option("failed.maxAgeSeconds")


class Emails(Section):
    """The content that `security.logAllEmails` keeps."""

    claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim of yours, of access mode ReadWriteMany, that all "
        "ingress pods write to and the monitor reads and thins out.",
    )
    keep_seconds: int = option("emails.keepSeconds")
    max_bytes: int = option("emails.maxBytes")
