"""Two books held against each other: what the relay promised and what arrived.

A promise is a 250 after the final dot, for the recipients whose RCPT was
answered 250. It is kept when the upstream took the message for each of them.
Once too often is a duplicate; where no answer reached the client, both
delivery and none are right.
"""

from __future__ import annotations

import enum
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Self

    from tests.support.deliveries import Delivery

# Rows of each kind that the table shows; the rest is counted.
SHOWN_ROWS = 10


class Outcome(enum.StrEnum):
    """How a submission ended for the client."""

    ACCEPTED = "accepted"  # 250 received after the final dot
    REFUSED = "refused"  # a 4xx or 5xx received
    UNKNOWN = "unknown"  # the connection was lost after the final dot was sent
    NOT_SENT = "not sent"  # the final dot was never sent


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One submission."""

    ledger_id: str
    recipients: tuple[str, ...]  # whose RCPT was accepted
    refused_recipients: tuple[str, ...]
    size: int
    sha256: str
    body_sha256: str
    outcome: Outcome
    code: int | None  # of the reply that decided
    queue_id: str | None
    started: float  # wall clock, seconds: MAIL was sent
    time: float  # wall clock, seconds: the outcome was known

    @property
    def seconds(self) -> float:
        """How long the client waited."""
        return self.time - self.started


class Ledger:
    """The client's book; with a path, each entry is in the file once it is recorded."""

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[LedgerEntry] = []
        # Replies that refused something for a time, and after which it was tried again.
        self.told: Counter[int] = Counter()
        self.report: dict[str, object] | None = None  # of a run that is over
        self._file: TextIO | None = path.open("a", buffering=1) if path is not None else None

    def record(self, entry: LedgerEntry) -> None:
        """Write an entry."""
        self.entries.append(entry)
        self._write(asdict(entry))

    def tell(self, code: int) -> None:
        """Count a reply after which the message is tried again."""
        self.told[code] += 1
        self._write({"told": code})

    def with_outcome(self, outcome: Outcome) -> list[LedgerEntry]:
        """List the entries that ended so."""
        return [entry for entry in self.entries if entry.outcome is outcome]

    @property
    def accepted(self) -> list[LedgerEntry]:
        """The promises."""
        return self.with_outcome(Outcome.ACCEPTED)

    def accepted_lately(self, count: int = 100) -> list[LedgerEntry]:
        """List the promises among the last entries: cheap however long the book is."""
        return [each for each in self.entries[-count:] if each.outcome is Outcome.ACCEPTED]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ledger file back, a torn last line left out."""
        ledger = cls()
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            fields = json.loads(line)
            if "told" in fields:
                ledger.told[fields["told"]] += 1
                continue
            if "report" in fields:
                ledger.report = fields["report"]
                continue
            fields["outcome"] = Outcome(fields["outcome"])
            for name in ("recipients", "refused_recipients"):
                fields[name] = tuple(fields[name])
            ledger.entries.append(LedgerEntry(**fields))
        return ledger

    def end(self, report: dict[str, object]) -> None:
        """Write the last line: the run is over, and came to this."""
        self.report = report
        self._write({"report": report})

    def _write(self, fields: dict[str, object]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(fields, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What does not agree between the two books."""

    accepted_messages: int
    accepted_recipients: int
    delivered_recipients: int  # distinct (message, recipient)
    lost: list[tuple[str, str]] = field(default_factory=list)  # (message, recipient)
    duplicated: list[tuple[str, str, int]] = field(default_factory=list)  # and how often taken
    unaccepted_but_delivered: list[tuple[str, str, Outcome]] = field(default_factory=list)
    altered: list[tuple[str, str]] = field(default_factory=list)  # (message, body's sha256)
    strangers: list[tuple[str, str]] = field(default_factory=list)  # not in the ledger

    @property
    def refused_but_delivered(self) -> list[tuple[str, str, Outcome]]:
        """Delivered though the client was told no, which nothing excuses."""
        return [row for row in self.unaccepted_but_delivered if row[2] is Outcome.REFUSED]

    @property
    def nothing_lost(self) -> bool:
        """Whether every promise was kept, bodies intact; duplicates are allowed."""
        return not (self.lost or self.altered or self.refused_but_delivered or self.strangers)

    @property
    def exactly_once(self) -> bool:
        """Whether every promise was kept once."""
        return self.nothing_lost and not self.duplicated

    def __str__(self) -> str:
        kinds: dict[str, list[str]] = {
            "lost": [f"{who} to {rcpt}" for who, rcpt in self.lost],
            "duplicated": [
                f"{who} to {rcpt}, {times} times" for who, rcpt, times in self.duplicated
            ],
            "unaccepted but delivered": [
                f"{who} to {rcpt} ({outcome})"
                for who, rcpt, outcome in self.unaccepted_but_delivered
            ],
            "body altered": [f"{who} (sha256 {digest[:12]})" for who, digest in self.altered],
            "not in the ledger": [f"{who or 'no id'} to {rcpt}" for who, rcpt in self.strangers],
        }
        lines = [
            f"{'accepted messages':26}{self.accepted_messages:>8}",
            f"{'accepted recipients':26}{self.accepted_recipients:>8}",
            f"{'delivered recipients':26}{self.delivered_recipients:>8}",
        ]
        for kind, rows in kinds.items():
            lines.append(f"{kind:26}{len(rows):>8}")
            lines += [f"    {row}" for row in rows[:SHOWN_ROWS]]
            if len(rows) > SHOWN_ROWS:
                lines.append(f"    ... {len(rows) - SHOWN_ROWS} more")
        return "\n".join(lines)


def compare(ledger: Ledger, deliveries: Iterable[Delivery]) -> Verdict:
    """Hold deliveries against promises; messages are matched by `X-Ledger-Id`."""
    entries = {entry.ledger_id: entry for entry in ledger.entries}
    taken: Counter[tuple[str, str]] = Counter()
    altered: dict[tuple[str, str], None] = {}
    for delivery in deliveries:
        entry = entries.get(delivery.ledger_id)
        taken.update((delivery.ledger_id, rcpt) for rcpt in delivery.rcpt_tos)
        if entry is not None and entry.body_sha256 != delivery.body_sha256:
            altered[delivery.ledger_id, delivery.body_sha256] = None
    promised = {
        (entry.ledger_id, rcpt): None for entry in ledger.accepted for rcpt in entry.recipients
    }
    unaccepted: list[tuple[str, str, Outcome]] = []
    strangers: list[tuple[str, str]] = []
    for ledger_id, rcpt in taken:
        if (ledger_id, rcpt) in promised:
            continue
        entry = entries.get(ledger_id)
        if entry is None:
            strangers.append((ledger_id, rcpt))
        elif rcpt in entry.refused_recipients:
            unaccepted.append((ledger_id, rcpt, Outcome.REFUSED))
        elif rcpt not in entry.recipients:
            strangers.append((ledger_id, rcpt))
        else:
            unaccepted.append((ledger_id, rcpt, entry.outcome))
    return Verdict(
        accepted_messages=len(ledger.accepted),
        accepted_recipients=len(promised),
        delivered_recipients=len(taken),
        lost=[key for key in promised if key not in taken],
        duplicated=[(*key, times) for key, times in taken.items() if times > 1],
        unaccepted_but_delivered=unaccepted,
        altered=list(altered),
        strangers=strangers,
    )


def delivery_seconds(ledger: Ledger, deliveries: Iterable[Delivery]) -> list[float]:
    """From the client's 250 to the upstream's, for each first delivery, in rising order."""
    promised = {entry.ledger_id: entry.time for entry in ledger.accepted}
    first: dict[tuple[str, str], float] = {}
    for delivery in deliveries:
        if delivery.ledger_id in promised:
            for rcpt in delivery.rcpt_tos:
                key = (delivery.ledger_id, rcpt)
                first[key] = min(first.get(key, delivery.time), delivery.time)
    return sorted(taken - promised[ledger_id] for (ledger_id, _), taken in first.items())
