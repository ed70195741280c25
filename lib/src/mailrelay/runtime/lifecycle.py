"""A service process's life: signals, readiness, its supervisor's death.

SIGTERM and SIGINT ask for an orderly stop, once; a second one ends the process at once. SIGHUP asks
for the configuration to be read again. A process that has a supervisor ends when the supervisor
does, however it died: the supervisor holds the other end of a pipe (`MAILRELAY_LIFELINE_FD`) whose
closing is the sign. Ending then is abrupt on purpose: it is what `kill -9` does, which must be safe
anyway, and cannot hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

import uvloop

READY_FD = "MAILRELAY_READY_FD"
LIFELINE_FD = "MAILRELAY_LIFELINE_FD"
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
_CANCEL_AGAIN_SECONDS = 0.5  # time for a task's own tidying up


class Life:
    """What a service's main function gets: when to stop, and how to say that it is ready."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._stop = asyncio.Event()
        self._reload: Callable[[], None] | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether an orderly stop was asked for."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask for an orderly stop; the second time, end at once."""
        if self._stop.is_set():
            os._exit(EXIT_FAILED)
        self._stop.set()

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Have `reload` called for each SIGHUP; before that the signal does nothing."""
        self._reload = reload

    def hang_up(self) -> None:
        """Ask for the configuration to be read again."""
        if self._reload is not None:
            self._reload()

    async def wait_stop(self) -> None:
        """Wait until an orderly stop is asked for."""
        await self._stop.wait()

    def tell_ready(self) -> None:
        """Tell the supervisor, if there is one, that this process does its work now."""
        fd = self._environ.get(READY_FD)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.write(int(fd), b"ready\n")


def run_service(
    main: Callable[[Life], Coroutine[Any, Any, int]], environ: Mapping[str, str]
) -> int:
    """Run a service's main function to its end on uvloop and return its exit code."""

    async def whole_life() -> int:
        life = Life(environ)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, life.stop)
        loop.add_signal_handler(signal.SIGHUP, life.hang_up)
        lifeline = environ.get(LIFELINE_FD)
        if lifeline is not None:
            loop.add_reader(int(lifeline), os._exit, EXIT_FAILED)
        return await main(life)

    return uvloop.run(whole_life())


async def wait_first(*waits: Awaitable[object]) -> None:
    """Return when the first of `waits` ends, cancel the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end_tasks(tasks)


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel `tasks` until all have ended, whatever they ended with.

    Once is not always enough: Python 3.11's `asyncio.wait_for`, which nats-py uses too, swallows a
    cancellation that meets the end of what it waits for.
    """
    ending = list(tasks)
    pending = {task for task in ending if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*ending, return_exceptions=True)
