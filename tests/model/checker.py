"""Explore every reachable state, breadth first, so that the first trace found is a shortest one.

Knows nothing of mail. A model gives the first state, the successors of a state, and what is wrong
with one. Afterwards every state must be able to reach an end by moves that are no faults.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Move(Generic[S]):
    """One step of one party, in words; a fault is a step that need not come."""

    words: str
    state: S
    is_fault: bool = False


class Model(Protocol[S]):
    def first(self) -> S: ...

    def moves(self, state: S) -> Iterable[Move[S]]: ...

    def key(self, state: S) -> Hashable:
        """What tells states apart; equal for those that nothing later can tell apart."""

    def wrong(self, state: S) -> str:
        """What is wrong with the state, "" for nothing."""

    def is_end(self, state: S) -> bool:
        """Whether nothing is left to do and nothing is left behind."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a run found. `wrong` is empty when every invariant holds in every state."""

    states: int
    moves: int
    depth: int
    seconds: float  # of processor time
    wrong: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.states} states, {self.moves} moves, depth {self.depth}"
        if not self.wrong:
            return head
        steps = "\n".join(f"  {number:2}. {words}" for number, words in enumerate(self.trace, 1))
        return f"{head}\n{steps}\n  => {self.wrong}"


class TooManyStatesError(Exception):
    """The space is larger than the caller allowed: nothing is proven."""


class Explorer(Generic[S]):
    """One exploration; states are numbered in the order in which they were found."""

    def __init__(self, model: Model[S], limit: int) -> None:
        self._model = model
        self._limit = limit
        self._numbers: dict[Hashable, int] = {}
        self._origins: list[tuple[int, str]] = []
        self._depths: list[int] = []
        self._before: list[list[int]] = []  # where moves that are no faults come from
        self._ends: list[int] = []
        self._moves = 0
        self._started = time.process_time()

    def run(self) -> Exploration:
        """Explore. Raises TooManyStatesError."""
        gc.disable()  # states hold no cycles, and looking for some takes a third of the time
        try:
            return self._explore()
        finally:
            gc.enable()

    def _explore(self) -> Exploration:
        first = self._model.first()
        queue = deque([(self._number(self._model.key(first), -1, ""), first)])
        while queue:
            number, state = queue.popleft()
            wrong = self._model.wrong(state)
            if wrong:
                return self._result(number, wrong)
            if self._model.is_end(state):
                self._ends.append(number)
            for move in self._model.moves(state):
                self._moves += 1
                key = self._model.key(move.state)
                known = self._numbers.get(key)
                if known is None:
                    known = self._number(key, number, move.words)
                    queue.append((known, move.state))
                if not move.is_fault:
                    self._before[known].append(number)
        stuck = next(self._stuck(), None)
        if stuck is not None:
            return self._result(stuck, "from here the queue never becomes empty, without any fault")
        return self._result(-1, "")

    def _number(self, key: Hashable, origin: int, words: str) -> int:
        number = len(self._numbers)
        if number >= self._limit:
            raise TooManyStatesError(f"more than {self._limit} states")
        self._numbers[key] = number
        self._origins.append((origin, words))
        self._depths.append(self._depths[origin] + 1 if origin >= 0 else 0)
        self._before.append([])
        return number

    def _stuck(self) -> Iterator[int]:
        """Yield the states, nearest first, from which no end can be reached without a fault."""
        reaches = bytearray(len(self._numbers))
        waiting = list(self._ends)
        for number in waiting:
            reaches[number] = 1
        while waiting:
            for origin in self._before[waiting.pop()]:
                if not reaches[origin]:
                    reaches[origin] = 1
                    waiting.append(origin)
        return (number for number, is_good in enumerate(reaches) if not is_good)

    def _result(self, number: int, wrong: str) -> Exploration:
        trace: list[str] = []
        while number > 0:
            number, words = self._origins[number]
            trace.append(words)
        return Exploration(
            states=len(self._numbers),
            moves=self._moves,
            depth=max(self._depths),
            seconds=time.process_time() - self._started,
            wrong=wrong,
            trace=tuple(reversed(trace)),
        )
