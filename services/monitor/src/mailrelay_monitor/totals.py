"""The numbers that people see, what each means, and where they stand in the event stream."""

from __future__ import annotations

from dataclasses import dataclass, field

SECONDS_SHOWN_AS_DEGRADED = 24 * 3600.0  # long enough for someone to look, not for ever


@dataclass(frozen=True, slots=True)
class Totals:
    """Counted since the relay's first start. An "email" is a submission: one DATA.

    A submission is finished when every recipient has a final disposition. A resend can turn a
    failed one into a successful one; then it is counted there from then on.
    """

    total_emails: int = 0  # accepted submissions
    successful_emails: int = 0  # finished, and every recipient sent or captured
    failed_emails: int = 0  # finished, and a recipient bounced, expired, suppressed or not tried
    lost_emails: int = 0  # not finished when the queue's data was lost
    total_recipients: int = 0  # of the accepted submissions
    # From acceptance to the last recipient's final disposition, summed over the submissions that
    # finished. A later resend does not change it.
    processing_ms: int = 0

    def plus(self, other: Totals) -> Totals:
        """Add, number by number."""
        return Totals(
            self.total_emails + other.total_emails,
            self.successful_emails + other.successful_emails,
            self.failed_emails + other.failed_emails,
            self.lost_emails + other.lost_emails,
            self.total_recipients + other.total_recipients,
            self.processing_ms + other.processing_ms,
        )

    @property
    def finished_emails(self) -> int:
        """Successful or failed."""
        return self.successful_emails + self.failed_emails

    @property
    def queued_emails(self) -> int:
        """Accepted, and neither finished nor lost."""
        return max(0, self.total_emails - self.finished_emails - self.lost_emails)

    @property
    def avg_processing_time_ms(self) -> int:
        """Mean of `processing_ms` over the finished; 0 when there are none."""
        return round(self.processing_ms / self.finished_emails) if self.finished_emails else 0

    @property
    def success_rate(self) -> float:
        """Percent of the finished that are successful, one decimal; 100.0 when there are none."""
        if not self.finished_emails:
            return 100.0
        return round(100 * self.successful_emails / self.finished_emails, 1)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The totals, and exactly which events they hold. Kept and changed as one."""

    totals: Totals = field(default_factory=Totals)
    created: str = ""  # when the event stream was made; another time is another stream
    sequence: int = 0  # the last event record that is in the rows
    # Up to here events are in the totals already. Beyond `sequence` only while rows are made anew.
    counted_to: int = 0
    # A submission accepted before was counted before the rows were made anew.
    known_before: float = 0.0
    pruned_to: str = ""  # the newest queue id whose row may have been removed
    missed_events: int = 0  # records that aged out before they were read
    missed_at: float = 0.0
    unreadable_records: int = 0
    queue_losses: int = 0  # times that the event stream was found to be another one
    queue_lost_at: float = 0.0
