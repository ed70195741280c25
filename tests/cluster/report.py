"""What a run with pods came to, in figures: shown at its end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.support.ledger import Ledger, Verdict

_TITLES = ("messages", "a second", "lost", "twice", "gap s", "told, and tried again")

lines: list[str] = []
_rows: list[tuple[str, int, float, int, int, float, str]] = []


def count(what: str, ledger: Ledger, verdict: Verdict) -> None:
    """Add a row: what happened, and what the client's and the sink's books say of it."""
    times = sorted(entry.time for entry in ledger.accepted)
    seconds = times[-1] - times[0] if times else 0.0
    # The longest time in which no client was told 250, between the first one and the last.
    gap = max((after - before for before, after in itertools.pairwise(times)), default=0.0)
    _rows.append(
        (
            what,
            verdict.accepted_messages,
            len(times) / seconds if seconds else 0.0,
            len({message for message, _ in verdict.lost}),
            len({message for message, _, _ in verdict.duplicated}),
            gap,
            ", ".join(f"{times} x {code}" for code, times in sorted(ledger.told.items())) or "-",
        )
    )


def left_out(what: str, why: str) -> None:
    """Say what was not tried."""
    lines.append(f"left out: {what}: {why}")


def shown() -> Iterator[str]:
    """Yield the lines and the table."""
    yield from lines
    if _rows:
        yield f"{'':44}" + "".join(f"{title:>10}" for title in _TITLES[:-1]) + f"  {_TITLES[-1]}"
    for what, messages, rate, lost, twice, gap, told in _rows:
        row = f"{what:44}{messages:>10}{rate:>10.1f}{lost:>10}{twice:>10}{gap:>10.1f}"
        yield f"{row}  {told}"
