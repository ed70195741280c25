"""What a process says is wrong with it reaches who listens, for as long as it is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mailrelay.queue import state as state_module
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.state import Kind, StateListener, StateTeller
from mailrelay.runtime.lifecycle import end_tasks
from tests.support.nats import NatsServer
from tests.support.wait import wait_until


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def teller(sender: QueueConnection, clock: Clock) -> AsyncIterator[StateTeller]:
    teller = StateTeller(sender, clock)
    task = asyncio.ensure_future(teller.run())
    yield teller
    await end_tasks([task])


@pytest.fixture
async def listener(monitor: QueueConnection, clock: Clock) -> StateListener:
    listener = StateListener(monitor, clock)
    await listener.start()
    await monitor.api("STREAM.INFO." + monitor.names.in_stream())  # the server knows it by now
    return listener


def told(listener: StateListener) -> list[tuple[Kind, str, float]]:
    return [(each.kind, each.reason, each.since) for each in listener.conditions()]


async def test_what_is_wrong_is_told_at_once_and_so_is_its_end(
    teller: StateTeller, listener: StateListener, clock: Clock
) -> None:
    teller.tell(Kind.UPSTREAM, "no route")
    await wait_until(lambda: told(listener) == [(Kind.UPSTREAM, "no route", 1000.0)], 2, "told")
    clock.now = 1007.0
    teller.tell(Kind.UPSTREAM, "refused")  # for another reason, since the same time
    teller.tell(Kind.CONFIGURATION, "a comma")
    expected = [(Kind.UPSTREAM, "refused", 1000.0), (Kind.CONFIGURATION, "a comma", 1007.0)]
    await wait_until(lambda: told(listener) == expected, 2, "both are told")
    teller.tell(Kind.UPSTREAM, "")
    teller.tell(Kind.CONFIGURATION, "")
    await wait_until(lambda: told(listener) == [], 2, "the end is told")


async def test_who_listens_later_hears_it_too(
    monkeypatch: pytest.MonkeyPatch,
    teller: StateTeller,
    monitor: QueueConnection,
    clock: Clock,
) -> None:
    monkeypatch.setattr(state_module, "REPEAT_SECONDS", 0.1)
    teller.tell(Kind.UPSTREAM, "no route")
    await asyncio.sleep(0)  # it is told before anybody listens
    listener = StateListener(monitor, clock)
    await listener.start()
    await wait_until(lambda: bool(told(listener)), 5, "heard")


async def test_a_process_that_died_leaves_nothing_behind(
    teller: StateTeller, listener: StateListener, clock: Clock
) -> None:
    teller.tell(Kind.UPSTREAM, "no route")
    await wait_until(lambda: bool(told(listener)), 2, "told")
    clock.now += 60  # and nothing more is heard
    assert told(listener) == []


async def test_two_processes_with_the_same_trouble_are_one_reason_from_the_earlier_on(
    server: NatsServer,  # noqa: ARG001 — starts it
    sender: QueueConnection,
    listener: StateListener,
    clock: Clock,
) -> None:
    tasks = []
    for seconds in (5, 3):
        clock.now = 1000.0 + seconds
        teller = StateTeller(sender, clock)
        teller.tell(Kind.UPSTREAM, "no route")
        tasks.append(asyncio.ensure_future(teller.run()))
    await wait_until(lambda: told(listener) == [(Kind.UPSTREAM, "no route", 1003.0)], 5, "heard")
    await end_tasks(tasks)


async def test_what_cannot_be_read_harms_nothing(
    sender: QueueConnection, teller: StateTeller, listener: StateListener
) -> None:
    for payload in (b"", b"{", b'{"instance": "x", "conditions": [{"kind": "new kind"}]}'):
        await sender.publish_nowait(sender.names.state_subject("sender"), payload)
    teller.tell(Kind.UPSTREAM, "no route")
    await wait_until(lambda: len(told(listener)) == 1, 2, "told")


async def test_an_ingress_is_heard_too(
    ingress: QueueConnection, listener: StateListener, clock: Clock
) -> None:
    teller = StateTeller(ingress, clock)
    teller.tell(Kind.CONFIGURATION, "a comma")
    task = asyncio.ensure_future(teller.run())
    await wait_until(lambda: bool(told(listener)), 2, "heard")
    await end_tasks([task])
