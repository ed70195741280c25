"""A loop whose clock jumps to the next timer at once: hours of waiting take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits, and no timer is set: this would hang")
        if not ready and timeout:
            self.jumped += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.jumped


def run_virtually(main: Coroutine[Any, Any, Value]) -> Value:
    """Run to the end on a clock that starts at 1000 and stands still while something is done."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main)
