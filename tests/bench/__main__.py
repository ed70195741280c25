"""Benchmarks by name: `make bench ARGS="limits --rounds 7"`; without a name it lists them."""

from __future__ import annotations

import sys
from typing import Protocol

from tests.bench import answers, operator_scale, protocol_cost, rate_limits, throughput


class Bench(Protocol):
    """A module that measures one thing; the first line of its text says what."""

    __doc__: str | None

    def main(self, arguments: list[str]) -> int:
        """Measure and print; returns the exit code."""


BENCHES: dict[str, Bench] = {
    "answers": answers,
    "limits": rate_limits,
    "operator": operator_scale,
    "protocol": protocol_cost,
    "throughput": throughput,
}


def main() -> int:
    """Run the one that is named; what follows are its own options."""
    name, *options = sys.argv[1:] or [""]
    if name not in BENCHES:
        for each, bench in BENCHES.items():
            sys.stdout.write(f"{each:10} {(bench.__doc__ or '').splitlines()[0]}\n")
        return 0 if name in {"", "--help"} else 2
    return BENCHES[name].main(options)


if __name__ == "__main__":
    sys.exit(main())
