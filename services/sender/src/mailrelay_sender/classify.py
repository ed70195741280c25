"""What a reply means for a recipient. Pure, and the only place that looks at reply codes.

4yz: try again later. 5yz to MAIL, RCPT, DATA or the content: refused for good. Everything that
happens before MAIL (connection, TLS, AUTH, EHLO, whatever code) is about us or the host and not
about the mail: try again later. 552 to RCPT means too many recipients (RFC 5321 section
4.5.3.1.10): try again later. A reply that no server may give here is a fault of the host.
"""

from __future__ import annotations

from enum import Enum

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.reply import MAX_TEXT_CHARACTERS, Reply

_TOO_MANY_RECIPIENTS = 552
CLOSING = 421
START_INPUT = 354


class Stage(Enum):
    """How far the attempt had come."""

    CONNECTION = "connection"  # up to and with EHLO, STARTTLS, AUTH
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "content"  # the final dot was sent


_POSITIVE = 2  # the first digit


def is_accepted(stage: Stage, reply: Reply) -> bool:
    """Tell whether the attempt goes on after this reply.

    The first digit decides (RFC 5321 section 4.2.1), but for the one intermediate reply.
    """
    if stage is Stage.DATA:
        return reply.code == START_INPUT
    return reply.code // 100 == _POSITIVE


def disposition_of(stage: Stage, reply: Reply) -> Disposition:
    """Return what a reply at a stage makes of the recipients it concerns."""
    if stage is Stage.CONTENT and is_accepted(stage, reply):
        return Disposition.SENT
    if stage is Stage.CONNECTION or not reply.is_permanent:
        return Disposition.DEFERRED
    if stage is Stage.RCPT and reply.code == _TOO_MANY_RECIPIENTS:
        return Disposition.DEFERRED
    return Disposition.BOUNCED


# Replies of our own, for what no server said. Enhanced codes: RFC 3463 section 3.5 and 3.8.
def cannot_connect(next_hop: str, why: str) -> Reply:
    """No connection, or none that we may use."""
    return Reply.parse(451, f"4.4.1 cannot reach {next_hop}: {why}")


def connection_lost(next_hop: str, why: str) -> Reply:
    """The connection broke in the middle."""
    return Reply.parse(451, f"4.4.2 connection to {next_hop} lost: {why}")


def tls_failed(next_hop: str, why: str) -> Reply:
    """TLS could not be had as required."""
    return Reply.parse(451, f"4.7.5 TLS with {next_hop} failed: {why}")


def auth_failed(next_hop: str, why: str) -> Reply:
    """The next hop does not take our credentials."""
    return Reply.parse(451, f"4.7.8 {next_hop} refused our credentials: {why}")


def timed_out(next_hop: str, seconds: float) -> Reply:
    """The attempt took longer than `processingTimeout`."""
    return Reply.parse(451, f"4.4.2 {next_hop} did not finish within {seconds:g} s")


def body_unreadable(why: str) -> Reply:
    """The content could not be read from the queue."""
    return Reply.parse(451, f"4.3.0 content cannot be read from the queue: {why}")


def internal_fault(why: str) -> Reply:
    """Our own code failed."""
    return Reply.parse(451, f"4.3.0 internal fault: {why}")


def poison(how: str, deaths: int) -> Reply:
    """Trying the mail ends our own process."""
    words = f"set aside: the process that tried it alone died {deaths} times, last: {how}"
    return Reply.parse(451, f"4.3.0 {words}")


def needs_smtputf8(next_hop: str) -> Reply:
    """The mail needs SMTPUTF8 and the next hop does not offer it (RFC 6531 section 3.5)."""
    return Reply.parse(553, f"5.6.7 {next_hop} does not support SMTPUTF8, which this mail needs")


def not_tried(stopped_by: int, batches: int) -> Reply:
    """Another recipient failed, and `continueOnError` is false. 5.3.0: RFC 3463 section 3.4."""
    return Reply(
        554,
        "5.3.0",
        f"not tried: a recipient in batch {stopped_by} of {batches} failed for good, and "
        "continueOnError is false",
    )


def all_down(*replies: Reply) -> Reply:
    """None of a route's smart hosts could be used, for these reasons."""
    if len(replies) == 1:
        return replies[0]
    share = MAX_TEXT_CHARACTERS // len(replies) - 2
    codes = {reply.enhanced for reply in replies}
    # 4.4.0, an undefined network status, when they differ: RFC 3463 section 3.5.
    enhanced = codes.pop() if len(codes) == 1 else "4.4.0"
    return Reply(451, enhanced, "; ".join(reply.text[:share] for reply in replies))


def another_plan() -> Reply:
    """The configuration was changed while a job was handed to a process of its own."""
    return Reply(451, "4.3.0", "the routes were changed meanwhile")


CAPTURED = Reply(250, "2.0.0", "captured: no upstream is configured")
CAPTURED_BY_DOMAIN = Reply(250, "2.0.0", "captured: no route takes mail for this domain")
