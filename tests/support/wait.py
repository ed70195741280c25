"""Waiting with a limit: a test that hangs tells nothing, one that fails tells what."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def wait_until(
    predicate: Callable[[], object] | Callable[[], Awaitable[object]],
    limit_seconds: float,
    what: str,
    interval: float = 0.02,
) -> None:
    """Return as soon as the predicate is true; fail with `what` at the limit.

    An AssertionError inside the predicate counts as "not yet", and its text is
    kept for the failure message. The predicate is always asked once more at the
    limit, so a slow machine does not fail a condition that holds.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        reason = ""
        last_time = time.monotonic() >= deadline
        try:
            answer: object = predicate()
            if inspect.isawaitable(answer):
                answer = await answer
        except AssertionError as error:
            answer, reason = False, f" (last: {error})"
        if answer:
            return
        if last_time:
            message = f"not within {limit_seconds:g} s: {what}{reason}"
            raise AssertionError(message)
        await asyncio.sleep(min(interval, max(0.0, deadline - time.monotonic())))
