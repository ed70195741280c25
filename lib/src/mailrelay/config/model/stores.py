"""Mail that stays: captured, failed, and the content kept beside the queue."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mailrelay.config.model.section import Seconds, Section


class Capture(Section):
    """Mail that is kept because no upstream is configured."""

    max_messages: int = Field(
        default=10_000,
        ge=1,
        description="Captured jobs kept (a message has one per `batchSize` recipients).",
    )
    when_full: Literal["refuse", "dropOldest"] = Field(
        default="refuse",
        description="At the limit: keep what comes in the queue, which then answers 452 when it is "
        "full too; or let the oldest go.",
    )


class Failed(Section):
    """The failed store: mail that could not be delivered. Past a limit the oldest goes first."""

    resend_interval_seconds: float = Field(
        default=3600,
        ge=0,
        le=30 * 24 * 3600,
        description="How often each recipient that expired is tried once more; 0: by hand only.",
    )
    resend_bounced: bool = Field(
        default=False,
        description="Whether that holds for recipients that were refused for good, too.",
    )
    max_records: int = Field(
        default=100_000, ge=1, le=10_000_000, description="Recipients kept in the failed store."
    )
    max_bytes: int = Field(
        default=0,
        ge=0,
        description="What they may use in the queue; 0, or more than there is: 90 % of the failed "
        "store's share of it.",
    )
    max_age_seconds: float = Field(
        default=90 * 24 * 3600,
        ge=0,
        description="A failed recipient is kept this long after its message was accepted; "
        "0: without end.",
    )


class Emails(Section):
    """The content that `security.logAllEmails` keeps, in `emails` under the data folder."""

    keep_seconds: Seconds = Field(
        default=7 * 24 * 3600, description="Content older than this goes, within a minute."
    )
    max_bytes: int = Field(
        default=1024**3,
        ge=1024**2,
        description="Bytes kept in all; beyond, the oldest goes, within a minute.",
    )
