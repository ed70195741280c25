"""What a load run is to send: each message a value, made from its number alone."""

from __future__ import annotations

import hashlib
import json
import random
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tests.support.deliveries import LEDGER_HEADER

_FILLER_LINE = b"All happy relays are alike; each unhappy relay is unhappy in its own way.\r\n"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One run. It ends at `count` messages or after `duration_seconds`, what comes first."""

    host: str
    port: int
    count: int | None = None
    duration_seconds: float | None = None
    sessions: int = 10
    messages_per_connection: int | None = None  # None: connections are kept
    rate: float | None = None  # messages per second over all sessions; None: no limit
    sizes: tuple[tuple[int, float], ...] = ((5_000, 1.0),)  # (octets, weight)
    recipient_counts: tuple[tuple[int, float], ...] = ((1, 1.0),)  # (recipients, weight)
    mail_from: str = "load@sender.test"
    senders: int = 1  # so many addresses take turns, `mail_from` with a number in front
    domain: str = "load.test"  # of the recipients, each of which is unique
    seed: int = 0
    credentials: tuple[str, str] | None = None  # AUTH PLAIN
    # JSON of the two, read for each connection instead: a password that changes is a new file.
    credentials_file: Path | None = None
    starttls: ssl.SSLContext | None = None
    starttls_name: str = "localhost"  # what the certificate must be for
    # How long one reply may take; after it the connection counts as lost.
    reply_seconds: float = 60.0
    # How long one message is tried again while no connection lasts up to its final dot.
    patience_seconds: float = 30.0
    # Whether a 4xx is tried again within that time, as a sending program would.
    retries_temporary: bool = False
    # Whether what was begun when the run was stopped is tried on, within that time.
    finishes_begun: bool = False
    # Distinguishes the ids of runs that go to the same upstream.
    run: str = field(default="")

    def login(self) -> tuple[str, str] | None:
        """User and password for a new connection. Raises OSError, ValueError for their file."""
        if self.credentials_file is None:
            return self.credentials
        user, password = json.loads(self.credentials_file.read_text())
        return user, password

    def __post_init__(self) -> None:
        """Refuse a plan without an end."""
        if self.count is None and self.duration_seconds is None:
            raise ValueError("a load plan needs a count or a duration")


@dataclass(frozen=True, slots=True)
class LoadMessage:
    """One submission to make."""

    ledger_id: str
    mail_from: str
    rcpt_tos: tuple[str, ...]
    content: bytes
    sha256: str
    body_sha256: str


@lru_cache(maxsize=64)
def _filler(size: int) -> bytes:
    whole, rest = divmod(size, len(_FILLER_LINE))
    tail = b"" if rest < 2 else b"x" * (rest - 2) + b"\r\n"
    return _FILLER_LINE * whole + tail


def make_message(plan: LoadPlan, number: int) -> LoadMessage:
    """Make the message with this number; size and recipients are drawn by seed and number."""
    size, rcpt_count = plan.sizes[0][0], plan.recipient_counts[0][0]
    if len(plan.sizes) > 1 or len(plan.recipient_counts) > 1:
        draw = random.Random(f"{plan.seed}:{number}")  # noqa: S311 - a mix, not a secret
        size = draw.choices(*zip(*plan.sizes, strict=True))[0]
        rcpt_count = draw.choices(*zip(*plan.recipient_counts, strict=True))[0]
    ledger_id = f"{plan.run}{plan.seed}-{number}"
    rcpt_tos = tuple(f"r{n}-{ledger_id}@{plan.domain}" for n in range(rcpt_count))
    mail_from = plan.mail_from
    if plan.senders > 1:
        mail_from = f"{number % plan.senders}-{mail_from}"
    head = (
        f"From: <{mail_from}>\r\nTo: undisclosed-recipients:;\r\n"
        f"Subject: Load {ledger_id}\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"
        f"Message-ID: <{ledger_id}@load.test>\r\n{LEDGER_HEADER}: {ledger_id}\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
    ).encode()
    mark = f"Ledger {ledger_id}\r\n".encode()  # no two bodies are alike
    body = mark + _filler(max(0, size - len(head) - len(mark)))
    return LoadMessage(
        ledger_id=ledger_id,
        mail_from=mail_from,
        rcpt_tos=rcpt_tos,
        content=head + body,
        sha256=hashlib.sha256(head + body).hexdigest(),
        body_sha256=hashlib.sha256(body).hexdigest(),
    )
