"""Keeps processes alive. What they do is nothing to it.

A process that had become ready is restarted at once, however often it dies: what it does goes on.
One that dies before it is ready has something wrong that a restart does not mend: it is tried
again ever more slowly, then the supervisor gives up. One that says by its exit code that its input
is bad is not tried again, unless it had been ready before: then somebody made a slip in its input
since, which must not stop everything else, and it is tried until that is mended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mailrelay.runtime.lifecycle import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from mailrelay_cli.child_process import ChildProcess, exit_words, file_tail

# Takes a child's name, whole lines with their line feeds, and whether from standard error.
NamedLineSink = Callable[[str, bytes, bool], None]


class GiveUpError(Exception):
    """Going on makes no sense; `lines` say why."""

    def __init__(self, exit_code: int, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.exit_code = exit_code
        self.lines = tuple(lines)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to keep alive."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    fds: tuple[int, ...] = ()  # passed on under the same numbers
    # Returns once the process does its work; None: the process tells by MAILRELAY_READY_FD.
    # May raise GiveUpError.
    wait_ready: Callable[[], Awaitable[None]] | None = None
    # Waited for before each start.
    before_start: Callable[[], Awaitable[None]] | None = None
    # Whether exit code 2 says that its input is bad; another's program may mean anything by it.
    tells_bad_input: bool = True
    # Begun when the process is ready; returns why it must be started again, if ever it must.
    watch: Callable[[], Awaitable[str]] | None = None
    stop_seconds: float = 10.0  # from SIGTERM to SIGKILL
    log_file: Path | None = None  # where to look for its last words when it said none to us


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a process that died is started again. Seconds."""

    after_ready: float = 0.1  # not 0: one that dies at once must not take a whole core
    first_backoff: float = 0.1
    longest_backoff: float = 5.0
    deaths_before_giving_up: int = 8  # in a row, each before it was ready
    slow_start: float = 30.0  # not ready by then: told, not killed; a large store takes its time
    hurried_stop: float = 0.5  # instead of a child's own limit, once a second signal has come

    def backoff(self, deaths: int) -> float:
        """Return the pause after so many deaths in a row."""
        doublings = min(deaths - 1, 30)  # enough for any pause, and few enough for a float
        return float(min(self.longest_backoff, self.first_backoff * 2**doublings))


@dataclass(slots=True)
class StopRequest:
    """Set from a signal handler: once to stop in order, twice to be quick about it."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self) -> None:
        """Ask."""
        (self.hurry if self.asked.is_set() else self.asked).set()


class _Child:
    """One spec and its process of the moment."""

    def __init__(self, spec: ChildSpec, owner: Supervisor) -> None:
        self.spec = spec
        self.process: ChildProcess | None = None
        self.was_ready = asyncio.Event()  # once; it stays set over restarts
        self._owner = owner
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._keep(), name=self.spec.name)
        return self._task

    async def stop(self, hurry: asyncio.Event) -> None:
        """End the process and wait until it is gone."""
        self._is_stopping = True
        if self._task is None:
            return
        process = self.process
        if process is not None:
            process.terminate()
            if not await self._gone_in_time(process, hurry):
                self._owner.tell(
                    f"{self.spec.name} did not stop in time and was killed", "process.killed"
                )
                process.kill()
                await process.exited
        else:
            self._task.cancel()  # between two lives
        await asyncio.gather(self._task, return_exceptions=True)

    async def _gone_in_time(self, process: ChildProcess, hurry: asyncio.Event) -> bool:
        hurried = asyncio.create_task(hurry.wait())
        try:
            await _wait_any(process.exited, hurried, limit_seconds=self.spec.stop_seconds)
            if not process.exited.done() and hurried.done():
                await asyncio.wait({process.exited}, timeout=self._owner.policy.hurried_stop)
        finally:
            hurried.cancel()
        return process.exited.done()

    async def _keep(self) -> None:
        deaths = slips = 0
        policy = self._owner.policy
        while True:
            words, code, became_ready = await self._live()
            if self._is_stopping:
                return
            name = self.spec.name
            if became_ready:
                deaths = slips = 0
                self._owner.tell(f"{name} {words}; starting it again", "process.restarted")
                await asyncio.sleep(policy.after_ready)
                continue
            if code == EXIT_BAD_INPUT and self.spec.tells_bad_input:
                lines = self._last_words() or [f"{name} {words}"]
                if not self.was_ready.is_set():
                    raise GiveUpError(EXIT_BAD_INPUT, lines)
                slips += 1
                if slips == 1:
                    reason = "; ".join(lines)
                    self._owner.tell(f"{name} cannot start: {reason}; trying", "process.bad_input")
                await asyncio.sleep(policy.backoff(slips))
                continue
            deaths += 1
            if deaths >= policy.deaths_before_giving_up:
                raise GiveUpError(
                    EXIT_FAILED,
                    [
                        f"{name} {words} before it was ready, {deaths} times in a row; giving up",
                        *(f"  {line}" for line in self._last_words()),
                    ],
                )
            self._owner.tell(
                f"{name} {words} before it was ready; trying again", "process.start_failed"
            )
            await asyncio.sleep(policy.backoff(deaths))

    async def _live(self) -> tuple[str, int, bool]:
        """Run one process to its end: how it ended, its exit code, whether it had been ready."""
        spec, owner = self.spec, self._owner
        if spec.before_start is not None:
            await spec.before_start()
        try:
            process = ChildProcess(
                spec.argv, spec.env, spec.fds, lambda lines, err: owner.sink(spec.name, lines, err)
            )
        except OSError as error:
            return f"cannot be started ({error})", EXIT_FAILED, False
        self.process = process
        owner.pids_changed()
        slow = asyncio.get_running_loop().call_later(owner.policy.slow_start, self._tell_slow)
        ready = asyncio.ensure_future(
            process.told_ready if spec.wait_ready is None else spec.wait_ready()
        )
        watching: asyncio.Future[str] | None = None
        try:
            await _wait_any(process.exited, ready)
            became_ready = ready.done()
            if became_ready:
                ready.result()  # raises what the wait raised
                slow.cancel()
                self.was_ready.set()
                owner.note("process.ready", process=spec.name, pid=process.pid)
                if spec.watch is not None:
                    watching = asyncio.ensure_future(spec.watch())
                    await self._watch(process, watching)
            code = await process.exited
        finally:
            slow.cancel()
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        words = exit_words(code)
        owner.note("process.ended", process=spec.name, pid=process.pid, how=words)
        self._words = process.tail
        self.process = None
        owner.pids_changed()
        return words, code, became_ready

    async def _watch(self, process: ChildProcess, watching: asyncio.Future[str]) -> None:
        """Wait until the process has ended or must; then see to it that it does."""
        await _wait_any(process.exited, watching)
        if process.exited.done() or self._is_stopping:
            return
        self._owner.tell(f"{self.spec.name}: {watching.result()}; restarting it", "process.broken")
        process.terminate()
        await _wait_any(process.exited, limit_seconds=self.spec.stop_seconds)
        process.kill()

    def _tell_slow(self) -> None:
        seconds = self._owner.policy.slow_start
        self._owner.tell(
            f"{self.spec.name} is not ready after {seconds:g} s; waiting on", "process.slow"
        )

    _words: Sequence[str] = ()

    def _last_words(self) -> list[str]:
        if self._words or self.spec.log_file is None:
            return list(self._words)
        return file_tail(self.spec.log_file)


class Supervisor:
    """Starts groups of processes one after the other, keeps them alive, stops them in order."""

    def __init__(
        self,
        *,
        tell: Callable[[str, str], None],
        note: Callable[..., None],
        sink: NamedLineSink,
        pids_changed: Callable[[], None] = lambda: None,
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        """`tell(text, event)` is for people and the log, `note(event, **fields)` for the log."""
        self.tell = tell
        self.note = note
        self.sink = sink
        self.pids_changed = pids_changed
        self.policy = policy
        self._children: dict[str, _Child] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The processes that there are now."""
        return {
            name: child.process.pid
            for name, child in self._children.items()
            if child.process is not None
        }

    def signal_ready(self, names: Sequence[str], number: int) -> None:
        """Send a signal to those that are ready: before that it could find no handler."""
        for name in names:
            child = self._children.get(name)
            process = child.process if child is not None else None
            if process is not None and process.told_ready.done():
                process.send_signal(number)

    def set_stop_seconds(self, name: str, seconds: float) -> None:
        """Give a process another limit on its stop."""
        child = self._children.get(name)
        if child is not None:
            child.spec = replace(child.spec, stop_seconds=seconds)

    async def run(
        self,
        groups: Sequence[Sequence[ChildSpec]],
        stop_order: Sequence[str],
        stop: StopRequest,
        on_ready: Callable[[], None],
    ) -> int:
        """Run until asked to stop or there is no sense in going on; return the exit code.

        A group is started when all before it have been ready once. Raises GiveUpError, after
        everything has been stopped.
        """
        self._children = {spec.name: _Child(spec, self) for group in groups for spec in group}
        living = asyncio.create_task(self._live(groups, on_ready))
        asked = asyncio.create_task(stop.asked.wait())
        try:
            await _wait_any(living, asked)
            if living.done():
                living.result()
        finally:
            for task in (living, asked):
                task.cancel()
            await asyncio.gather(living, asked, return_exceptions=True)
            for name in stop_order:
                await self._children[name].stop(stop.hurry)
        return EXIT_OK

    async def _live(
        self, groups: Sequence[Sequence[ChildSpec]], on_ready: Callable[[], None]
    ) -> None:
        keeping: set[asyncio.Task[None]] = set()
        for group in groups:
            children = [self._children[spec.name] for spec in group]
            keeping |= {child.start() for child in children}
            ready = asyncio.gather(*(child.was_ready.wait() for child in children))
            try:
                await _wait_any(*keeping, ready)
                _raise_first(keeping)
                await ready
            finally:
                ready.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ready
        on_ready()
        await _wait_any(*keeping)
        _raise_first(keeping)


async def _wait_any(*waits: asyncio.Future[Any], limit_seconds: float | None = None) -> None:
    """Return when the first is done; unlike awaiting one, leave all of them as they are."""
    await asyncio.wait(waits, timeout=limit_seconds, return_when=asyncio.FIRST_COMPLETED)


def _raise_first(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()
