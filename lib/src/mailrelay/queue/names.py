"""One place for every name at NATS: all begin with the relay's prefix.

Several relays share one server by having different prefixes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailrelay.mail.ids import QueueId
from mailrelay.mail.limit import Window
from mailrelay.queue.lanes import LADDER, Lane

_PREFIX = re.compile(r"[a-z][a-z0-9-]{0,39}")
NO_BODY = "-"  # the subject token of a record whose content is inline


@dataclass(frozen=True, slots=True)
class Names:
    """Names of streams (`…-in-0`), consumers, subjects (`….in.0.<body>`) and inboxes."""

    prefix: str

    def __post_init__(self) -> None:
        """Refuse a prefix that would not be one plain subject token."""
        if _PREFIX.fullmatch(self.prefix) is None:
            msg = f"queue prefix {self.prefix!r} must match {_PREFIX.pattern}"
            raise ValueError(msg)

    # Streams.
    def in_stream(self, partition: int = 0) -> str:
        """Accepted mail before its first attempt."""
        return f"{self.prefix}-in-{partition}"

    @property
    def lane_stream(self) -> str:
        """Mail that waits for its next attempt."""
        return f"{self.prefix}-lane"

    @property
    def failed_stream(self) -> str:
        """The failed store."""
        return f"{self.prefix}-failed"

    @property
    def capture_stream(self) -> str:
        """Mail kept instead of forwarded."""
        return f"{self.prefix}-capture"

    @property
    def body_stream(self) -> str:
        """Large content, in chunks."""
        return f"{self.prefix}-body"

    @property
    def event_stream(self) -> str:
        """What happened."""
        return f"{self.prefix}-event"

    @property
    def checkpoint_stream(self) -> str:
        """The monitor's totals."""
        return f"{self.prefix}-checkpoint"

    def limit_stream(self, window: Window) -> str:
        """The counters of the rate limits of one kind of window."""
        return f"{self.prefix}-limit-{window.value}"

    @property
    def pace_stream(self) -> str:
        """How far the jobs of a submission have come."""
        return f"{self.prefix}-pace"

    # Consumers.
    @property
    def in_consumer(self) -> str:
        """The senders' consumer of new mail."""
        return f"{self.prefix}-sender"

    def lane_consumer(self, lane: Lane) -> str:
        """The senders' consumer of one lane."""
        return f"{self.prefix}-lane-{lane.name}"

    @property
    def lane_consumers(self) -> tuple[str, ...]:
        """All lane consumers, in the ladder's order."""
        return tuple(self.lane_consumer(lane) for lane in LADDER)

    # Subjects.
    def in_subject(self, body: QueueId | None, partition: int = 0) -> str:
        """Where an accepted job is published."""
        return f"{self.prefix}.in.{partition}.{body or NO_BODY}"

    def lane_subject(self, lane: Lane, body: QueueId | None) -> str:
        """Where a job that waits is published."""
        return f"{self.prefix}.lane.{lane.name}.{body or NO_BODY}"

    def failed_subject(self, submission: QueueId, recipient: int) -> str:
        """The one place of a failed recipient's record."""
        return f"{self.prefix}.failed.{submission}.{recipient}"

    def capture_subject(self, submission: QueueId, batch: int, recipients: str) -> str:
        """The one place of the record of captured recipients (`recipients` is their hash).

        A job's recipients may be captured at different times, and none may push out another.
        """
        return f"{self.prefix}.capture.{submission}.{batch}-{recipients}"

    def body_subject(self, submission: QueueId, chunk: int) -> str:
        """The one place of a chunk of content."""
        return f"{self.prefix}.body.{submission}.{chunk}"

    def event_subject(self, source: str) -> str:
        """Where a role (`ingress`, `sender`, `monitor`) tells its events."""
        return f"{self.prefix}.event.{source}"

    def state_subject(self, role: str) -> str:
        """Where a role's processes tell what is wrong with them; stored nowhere."""
        return f"{self.prefix}.state.{role}"

    @property
    def checkpoint_subject(self) -> str:
        """The one place of the monitor's totals."""
        return f"{self.prefix}.checkpoint"

    def limit_subject(self, window: Window, number: int) -> str:
        """What the subjects of one window's counters begin with; each has its key behind it."""
        return f"{self.prefix}.limit.{window.value}.{number}"

    @property
    def recall_subject(self) -> str:
        """Where a process asks the others for unused tokens; no stream keeps it."""
        return f"{self.prefix}.recall"

    def pace_subject(self, submission: QueueId) -> str:
        """The one place of what is known of a submission's turns."""
        return f"{self.prefix}.pace.{submission}"

    def records_with_body(self, submission: QueueId) -> tuple[tuple[str, str], ...]:
        """Return (stream, subject filter) of every place that can name a stored body.

        In the order in which records move on, so that asking them one after the other cannot miss
        a record on its way (queue rule 10).
        """
        return (
            (self.in_stream(), f"{self.prefix}.in.*.{submission}"),
            (self.lane_stream, f"{self.prefix}.lane.*.{submission}"),
            (self.failed_stream, f"{self.prefix}.failed.{submission}.*"),
            (self.capture_stream, f"{self.prefix}.capture.{submission}.*"),
        )

    def inbox_prefix(self, role: str) -> str:
        """Where a role gets its replies; a prefix of its own, or roles could read each other's."""
        return f"{self.prefix}.inbox.{role}"
