"""Carry out the steps of a plan on a running relay, and note when each began and ended."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from tests.chaos.flow import Flow
from tests.chaos.plan import Fault, Kind
from tests.chaos.processes import go_on, signal_when_there
from tests.chaos.rig import Rig
from tests.chaos.upstream import UpstreamProcess


@dataclass(frozen=True, slots=True)
class Happening:
    """A fault that was carried out. Wall clock, seconds."""

    fault: Fault
    began: float
    ended: float  # of a kill: when the last of its targets was killed


class Inflictor:
    """Does to the relay what tracks say; `happened` is what was done, in order of its end."""

    def __init__(self, rig: Rig, upstream: UpstreamProcess, flow: Flow) -> None:
        self._relay = rig.relay
        self._flow = flow
        self._upstream = upstream
        self._disk = rig.disk
        self._lasting: set[asyncio.Task[None]] = set()
        self.happened: list[Happening] = []
        self.resent: list[str] = []  # what the relay said to each request
        self.left_out = 0

    async def follow(self, track: Iterable[Fault], limit_seconds: float | None = None) -> None:
        """Do one step after the other, until the track ends, the time, or the task."""
        ends_at = time.monotonic() + (math.inf if limit_seconds is None else limit_seconds)
        for fault in track:
            if fault.waits:
                await self._flow.wait()
            await asyncio.sleep(fault.pause_seconds)  # the plan's own pace
            if time.monotonic() >= ends_at:
                return
            if fault.kind is Kind.FREEZE:  # the next step does not wait for its end
                task = asyncio.create_task(self._inflict(fault))
                self._lasting.add(task)
                task.add_done_callback(self._lasting.discard)
            else:
                await self._inflict(fault)

    async def wait_over(self) -> None:
        """Wait until what was begun has ended."""
        if self._lasting:
            await asyncio.gather(*self._lasting)

    async def _inflict(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL | Kind.KILL_TOGETHER:
                await self._signal(fault, fault.targets, signal.SIGKILL)
            case Kind.RESTART:
                await self._signal(fault, fault.targets, signal.SIGTERM)
            case Kind.RESTART_RELAY:
                await self._signal(fault, ("supervisor",), signal.SIGTERM)
            case Kind.FREEZE:
                await self._freeze(fault)
            case Kind.UPSTREAM:
                await self._trouble(fault)
            case Kind.DISK_FULL:
                await self._fill_disk(fault)
            case Kind.RESEND:
                await self._resend(fault)

    async def _signal(self, fault: Fault, targets: Iterable[str], number: int) -> None:
        sent_at = []
        for name in targets:
            at, fd = await signal_when_there(self._relay, name, number)
            os.close(fd)
            sent_at.append(at)
        self.happened.append(Happening(fault, min(sent_at), time.time()))

    async def _freeze(self, fault: Fault) -> None:
        began, fd = await signal_when_there(self._relay, fault.targets[0], signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)  # how long it lasts
        finally:
            go_on(fd)
            self.happened.append(Happening(fault, began, time.time()))

    async def _trouble(self, fault: Fault) -> None:
        began = time.time()
        self._upstream.set_trouble(fault.targets[0])
        try:
            await asyncio.sleep(fault.seconds)  # how long it lasts
        finally:
            self._upstream.set_trouble("")
            self.happened.append(Happening(fault, began, time.time()))

    async def _fill_disk(self, fault: Fault) -> None:
        if self._disk is None:
            self.left_out += 1
            return
        began = time.time()
        try:
            async with self._disk.full():
                await asyncio.sleep(fault.seconds)  # how long it lasts
        finally:
            self.happened.append(Happening(fault, began, time.time()))

    async def _resend(self, fault: Fault) -> None:
        began = time.time()
        with contextlib.suppress(httpx.HTTPError):  # the monitor is away: asked in vain
            self.resent.append((await self._relay.post("/admin/retry-failed")).text)
        self.happened.append(Happening(fault, began, time.time()))
