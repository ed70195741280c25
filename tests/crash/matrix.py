"""Every step in every walk that passes it: `python -m tests.crash.matrix`, or `make crash`.

A dry run of each walk tells which steps it passes, in which process and how often; the matrix is
made of exactly those. The short form has each step once, in the walk that takes the least time, and
each kind of process killed once in each walk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.crash.arming import Point
from tests.crash.cells import Result, as_json, passed_for_certain, points_of, run_cell
from tests.crash.rig import Rig, running_rig
from tests.crash.table import bad_cells, summary, table
from tests.crash.walks import WALKS, Walk

# Relays of each kind that run beside each other; most walks need the first kind.
RIGS = {"forward": 3, "expire": 1, "slow": 1, "capture": 1, "limited": 1, "routes": 1}
OTHERS = ("nats", "supervisor")
# Steps that no walk passes, each with the reason.
NOT_WALKED: dict[str, str] = {
    "orphan.removed": "nats-server must have lost a removal first, as on a full disk: see "
    "tests/lib/test_orphans.py",
}

_MORE_TRIES = 4

Cell = tuple[Walk, Point | None]


@dataclass(slots=True)
class Run:
    """What a run came to."""

    dry: list[Result] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether no cell is bad."""
        return not bad_cells([*self.dry, *self.results])

    @property
    def steps(self) -> set[str]:
        """The steps at which a process was killed."""
        return {each.point.step for each in self.results if each.point and each.reached}

    def __str__(self) -> str:
        everything = [*self.dry, *self.results]
        parts = [table(self.results), *map(str, bad_cells(everything)), summary(everything)]
        return "\n".join([*parts, f"{self.seconds:.0f} s"])


async def run_matrix(
    folder: Path,
    *,
    full: bool,
    walks: Sequence[Walk] = WALKS,
    wanted: Callable[[Cell], bool] = lambda _: True,
) -> Run:
    """Run the matrix in a folder; `wanted` chooses among its cells."""
    run = Run()
    started = time.monotonic()
    rigs: dict[str, list[Rig]] = {}
    async with contextlib.AsyncExitStack() as stack:
        kinds = [kind for kind in RIGS if any(walk.kind == kind for walk in walks)]
        for kind in kinds:
            rigs[kind] = []
            for number in range(RIGS[kind]):
                rig = running_rig(folder / f"{kind}{number}", kind)
                rigs[kind].append(await stack.enter_async_context(rig))
        run.dry = await _run_cells(folder, rigs, [(walk, None) for walk in walks])
        cells = (full_cells if full else short_cells)(run.dry)
        run.results = await _run_cells(folder, rigs, [cell for cell in cells if wanted(cell)])
        run.results = [await _again(rigs, result) for result in run.results]
    run.seconds = time.monotonic() - started
    return run


def full_cells(dry: Sequence[Result]) -> list[Cell]:
    """Every point in every walk, and the other processes once a step and once a walk."""
    cells: list[Cell] = [(result.walk, point) for result in dry for point in points_of(result)]
    return cells + _others(dry) + _in_each_walk(dry, (*OTHERS, "ingress", "monitor"))


def short_cells(dry: Sequence[Result]) -> list[Cell]:
    """Every step once for each process that passes it; every kind of process in each walk."""
    cells: list[Cell] = []
    for (process, step), walk in _cheapest(dry).items():
        cells.append((walk, Point(process, step)))
        if step.endswith("sent"):
            cells.append((walk, Point(process, step, out=True)))
    return cells + _in_each_walk(dry, OTHERS)


def _cheapest(dry: Sequence[Result]) -> dict[tuple[str, str], Walk]:
    found: dict[tuple[str, str], Walk] = {}
    for result in sorted(dry, key=lambda each: each.seconds, reverse=True):
        found |= dict.fromkeys(passed_for_certain(result), result.walk)
    return dict(sorted(found.items()))


def _others(dry: Sequence[Result]) -> list[Cell]:
    """At each step, nats-server and the supervisor die in place of who passes it."""
    return [
        (walk, Point(process, step, victim=victim))
        for (process, step), walk in _cheapest(dry).items()
        for victim in OTHERS
    ]


def _in_each_walk(dry: Sequence[Result], victims: Sequence[str]) -> list[Cell]:
    """In each walk each kind of process dies once in the middle of what the sender does."""
    cells: list[Cell] = []
    for result in dry:
        passed = [key for key in result.counts if key[0] == "sender"]
        process, step = sorted(passed)[len(passed) // 2]
        cells += [(result.walk, Point(process, step, victim=victim)) for victim in victims]
    return cells


async def _run_cells(
    folder: Path, rigs: dict[str, list[Rig]], cells: Sequence[Cell]
) -> list[Result]:
    """Share the cells out among the rigs; the order of the results is that of the cells."""
    waiting = {kind: [n for n, (walk, _) in enumerate(cells) if walk.kind == kind] for kind in rigs}
    results: dict[int, Result] = {}

    async def work(rig: Rig, numbers: list[int]) -> None:
        while numbers:
            number = numbers.pop(0)
            walk, point = cells[number]
            results[number] = result = await run_cell(rig, walk, point)
            if not result.is_good and (point is None or result.reached):
                sys.stderr.write(f"{result}\n")
            with (folder / "results.jsonl").open("a") as file:
                file.write(as_json(result) + "\n")

    await asyncio.gather(*(work(rig, waiting[kind]) for kind, some in rigs.items() for rig in some))
    return [results[number] for number in range(len(cells))]


async def _again(rigs: dict[str, list[Rig]], result: Result) -> Result:
    """A step may be passed less often than in the dry run: die at the last passing there was.

    How often differs from run to run (what comes together is counted together, and what is deleted
    at once has no file written first), so several tries.
    """
    for _ in range(_MORE_TRIES):
        point = result.point
        if point is None or result.reached or result.error:
            break
        count = result.counts[point.process, point.step] or 1
        nearer = replace(point, nth=min(count, point.nth))
        result = await run_cell(rigs[result.walk.kind][0], result.walk, nearer)
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.crash.matrix")
    parser.add_argument("--short", action="store_true", help="each step once")
    parser.add_argument("--walk", help="only walks whose name contains this")
    parser.add_argument("--step", help="only steps that contain this")
    parser.add_argument("--victim", help="only this process is killed")
    parser.add_argument("--list", action="store_true", help="only say which cells there are")
    parser.add_argument("--keep", type=Path, help="an empty folder to leave everything in")
    return parser.parse_args()


def main() -> int:
    """Run from the command line; returns the exit code."""
    options = _options()
    walks = [walk for walk in WALKS if (options.walk or "") in walk.name]

    def wanted(cell: Cell) -> bool:
        point = cell[1]
        if options.list:
            sys.stdout.write(f"{cell[0].name} | {point}\n")
            return False
        return point is not None and (
            (options.step or "") in point.step and options.victim in {None, point.killed}
        )

    with contextlib.ExitStack() as stack:
        folder = options.keep or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="mailrelay-crash-")
        )
        run = asyncio.run(
            run_matrix(Path(folder), full=not options.short, walks=walks, wanted=wanted)
        )
        sys.stdout.write(f"{run}\n{'good' if run.is_good else 'BAD'}\n")
    return 0 if run.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
