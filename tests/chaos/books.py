"""The two books of a run, and what was done to it: all that the judge looks at.

Everything is read back from files, so that a kept folder can be judged again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.faults import Happening
from tests.chaos.plan import Fault, Kind
from tests.support.deliveries import Delivery, read_deliveries
from tests.support.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Attempt:
    """One RCPT for a recipient at the upstream, and what came of it."""

    seen_at: float
    transaction: int
    delivery: Delivery | None  # taken for this recipient
    untold: bool  # taken, and the client was not told


@dataclass(slots=True)
class Books:
    """A run, written down."""

    ledger: Ledger
    deliveries: list[Delivery]
    attempts: dict[str, list[Attempt]]  # by recipient, in order
    violations: list[str]
    happened: list[Happening] = field(default_factory=list)
    ready_at: list[float] = field(default_factory=list)


def read_books(ledger: Path, record: Path, faults: Path) -> Books:
    """Read a run's files."""
    happened, ready_at = read_faults(faults)
    deliveries = read_deliveries(record)
    taken = {delivery.transaction: delivery for delivery in deliveries}
    rcpts: dict[str, list[tuple[float, int]]] = defaultdict(list)
    untold: set[int] = set()
    violations: list[str] = []
    for line in record.read_bytes().splitlines():
        fields = json.loads(line)
        match fields["kind"]:
            case "rcpt":
                rcpts[fields["address"]].append((fields["time"], fields["transaction"]))
            case "untold":
                untold.add(fields["transaction"])
            case "violation":
                violations.append(fields["what"])
    attempts = {
        address: [_attempt(address, at, number, taken, untold) for at, number in seen]
        for address, seen in rcpts.items()
    }
    return Books(Ledger.read(ledger), deliveries, attempts, violations, happened, ready_at)


def _attempt(
    address: str, at: float, number: int, taken: dict[int, Delivery], untold: set[int]
) -> Attempt:
    delivery = taken.get(number)
    if delivery is None or address not in delivery.rcpt_tos:
        return Attempt(at, number, None, untold=False)
    return Attempt(at, number, delivery, untold=number in untold)


def write_faults(file: Path, happened: Iterable[Happening], ready_at: list[float]) -> None:
    """Write down what was done."""
    rows = [
        {**asdict(each.fault), "began": each.began, "ended": each.ended}
        for each in sorted(happened, key=lambda each: each.began)
    ]
    file.write_text(json.dumps({"happened": rows, "ready_at": ready_at}, indent=1))


def read_faults(file: Path) -> tuple[list[Happening], list[float]]:
    """Read what was done."""
    found = json.loads(file.read_text())
    happened = []
    for row in found["happened"]:
        began, ended = row.pop("began"), row.pop("ended")
        row["kind"], row["targets"] = Kind(row["kind"]), tuple(row["targets"])
        happened.append(Happening(Fault(**row), began, ended))
    return happened, found["ready_at"]
