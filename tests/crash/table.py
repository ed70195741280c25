"""The table of crash points: a row for each process and step, a column for each walk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.crash.cells import Result


def bad_cells(results: Sequence[Result]) -> list[Result]:
    """The cells in which a promise was not kept, or nobody was killed."""
    return [result for result in results if not result.is_good]


def table(results: Sequence[Result]) -> str:
    """`lost/duplicated of so many cells`; a dot where the walk does not pass the step."""
    walks = list(dict.fromkeys(result.walk.name for result in results))
    rows: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        point = result.point
        if point is None:
            continue
        title = f"{point.process} {point.step}" + (f" > {point.victim}" if point.victim else "")
        rows.setdefault(title, {}).setdefault(result.walk.name, []).append(result)
    width = max((len(title) for title in rows), default=10)
    lines = [f"{chr(ord('A') + number)}: {name}" for number, name in enumerate(walks)]
    letters = [chr(ord("A") + number) for number in range(len(walks))]
    lines.append(f"{'killed after':{width}} " + " ".join(f"{each:>8}" for each in letters))
    for title, by_walk in sorted(rows.items()):
        cells = [_cell(by_walk.get(name, ())) for name in walks]
        lines.append(f"{title:{width}} " + " ".join(f"{each:>8}" for each in cells))
    lines.append("in each field: recipients lost / duplicated x cells; ! marks a bad one")
    return "\n".join(lines)


def _cell(results: Sequence[Result]) -> str:
    if not results:
        return "."
    lost = sum(len(each.findings.lost) for each in results)
    duplicated = sum(len(each.findings.duplicated) for each in results)
    mark = "!" if bad_cells(results) else ""
    return f"{lost}/{duplicated}x{len(results)}{mark}"


def summary(results: Sequence[Result]) -> str:
    """The sums."""
    killed = Counter(each.point.killed for each in results if each.point and each.reached)
    unreached = sum(1 for each in results if each.point and not each.reached)
    lost = sum(len(each.findings.lost) for each in results)
    duplicated = sum(len(each.findings.duplicated) for each in results)
    unexplained = sum(len(each.unexplained) for each in results)
    left = sum(len(each.findings.left) for each in results)
    return (
        f"{len(results)} cells; killed: "
        + ", ".join(f"{process} {count}" for process, count in sorted(killed.items()))
        + f"; not reached {unreached}; lost {lost}; duplicated {duplicated}"
        + f", without excuse {unexplained}; left behind {left}; bad {len(bad_cells(results))}"
    )
