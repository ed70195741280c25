"""`python -m tests.model`: explore the walks and print a table; `--mutations` prints traces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from tests.model.checker import Exploration, Explorer, TooManyStatesError
from tests.model.mutations import MUTATIONS, SOUND
from tests.model.protocol import INVARIANTS, Protocol
from tests.model.rules import Rules
from tests.model.state import Walk
from tests.model.walks import LONG_WALKS, WALKS

LIMIT = 5_000_000  # some 10 GB; reaching it is told, never taken for a result


def explore(walk: Walk, rules: Rules, limit: int = LIMIT) -> Exploration:
    """Raises TooManyStatesError."""
    return Explorer(Protocol(walk, rules), limit).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--walk", action="append", help="this walk alone; may be repeated")
    parser.add_argument("--long", action="store_true", help="more faults; takes many minutes")
    parser.add_argument("--mutations", action="store_true", help="break each rule, print traces")
    options = parser.parse_args()
    walks = LONG_WALKS if options.long else WALKS
    unknown = set(options.walk or ()) - {walk.name for walk in walks}
    if unknown:
        names = ", ".join(walk.name for walk in walks)
        parser.error(f"--walk {sorted(unknown)}: no such walk; there are: {names}")
    if options.mutations:
        return _break_rules(options.walk)
    return _print_table(walk for walk in walks if not options.walk or walk.name in options.walk)


def _print_table(walks: Iterable[Walk]) -> int:
    sys.stdout.write("invariants, each looked at in every state:\n")
    sys.stdout.writelines(f"  - {invariant}\n" for invariant in INVARIANTS)
    sys.stdout.write(
        f"{'walk':24}{'states':>10}{'moves':>10}{'depth':>7}{'CPU s':>8}  invariants\n"
    )
    traces = []
    total = 0
    for walk in walks:
        try:
            found = explore(walk, SOUND)
        except TooManyStatesError as error:
            traces.append(f"{walk.name}: {error}, so nothing is proven")
            continue
        total += found.states
        verdict = "BROKEN" if found.wrong else "hold"
        sys.stdout.write(
            f"{walk.name:24}{found.states:>10}{found.moves:>10}{found.depth:>7}"
            f"{found.seconds:>8.1f}  {verdict}\n"
        )
        sys.stdout.flush()
        if found.wrong:
            traces.append(f"{walk.name}: {found}")
    sys.stdout.write(f"{'all':24}{total:>10}\n")
    sys.stdout.writelines(f"{trace}\n" for trace in traces)
    return 1 if traces else 0


def _break_rules(only: list[str] | None) -> int:
    missed = 0
    for mutation in MUTATIONS:
        if only and mutation.walk not in only:
            continue
        found = explore(mutation.on(), mutation.rules)
        missed += mutation.wrong not in found.wrong
        sys.stdout.write(f"{mutation.rule} is off, walk {mutation.walk}: {found}\n\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
