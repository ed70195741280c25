"""The tests' side of an order to kill: written whole, looked at by `armed/sitecustomize.py`.

A relay that is started with `environ` kills nothing until an order is there. Each order has a
cell's name of its own, under which the services note the steps that they pass.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ARMED = Path(__file__).parent / "armed"
# A publish that was handed to the NATS client is on the wire after so many turns of the event
# loop: its flusher task wakes, writes, and the transport writes at the end of that turn.
TURNS_UNTIL_OUT = 3


@dataclass(frozen=True, slots=True)
class Point:
    """Where to kill: the n-th time that `process` passes `step`."""

    process: str
    step: str
    nth: int = 1
    out: bool = False  # only once what was handed to a socket has left
    victim: str = ""  # another process that dies in its place: nats, supervisor …

    def __str__(self) -> str:
        text = f"{self.process} {self.step} #{self.nth}"
        return text + (" out" if self.out else "") + (f" -> {self.victim}" if self.victim else "")

    @property
    def killed(self) -> str:
        """Which process dies."""
        return self.victim or self.process


@dataclass(frozen=True, slots=True)
class Pass:
    """One step that a process passed."""

    at: float
    process: str
    pid: int
    step: str


class Arming:
    """One relay's orders."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.environ = {"PYTHONPATH": str(ARMED), "MAILRELAY_TEST_ORDERS": str(folder)}

    def record(self, cell: str) -> None:
        """Have the steps noted, and nobody killed."""
        self._order(cell, Point("", ""), 0)

    def arm(self, cell: str, point: Point, victim_pid: int = 0) -> None:
        """Have a process killed; `victim_pid` 0 is the one that passes the step."""
        self._order(cell, point, victim_pid)

    def shift_clock(self, process: str, seconds: float) -> None:
        """Have the next process of this name live so many seconds ahead."""
        (self._folder / f"clock-{process}").write_text(str(seconds))

    def disarm(self) -> None:
        """Take the order back."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / "order").unlink()

    def killed_at(self, cell: str) -> float | None:
        """When the order was carried out (seconds since the epoch); None: not yet."""
        try:
            return float((self._folder / f"killed-{cell}").read_text() or 0) or None
        except (FileNotFoundError, ValueError):
            return None

    def passes(self, cell: str) -> list[Pass]:
        """The steps passed under an order, in order of time."""
        try:
            lines = (self._folder / f"passed-{cell}").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            at, process, pid, step = line.split(" ")
            found.append(Pass(float(at), process, int(pid), step))
        return found

    def counts(self, cell: str) -> Counter[tuple[str, str]]:
        """How often each process passed each step."""
        return Counter((each.process, each.step) for each in self.passes(cell))

    def _order(self, cell: str, point: Point, victim_pid: int) -> None:
        order = {
            "cell": cell,
            "process": point.process,
            "step": point.step,
            "nth": point.nth,
            "turns": TURNS_UNTIL_OUT if point.out else 0,
            "victim": victim_pid,
        }
        new = self._folder / f"order-{cell}"
        new.write_text(json.dumps(order))
        new.replace(self._folder / "order")
