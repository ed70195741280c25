"""How far a submission's jobs have come: told, joined, and asked of the queue itself."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.pace import Pace
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.errors import QueueError
from mailrelay.queue.pace import PaceStore
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger
from tests.lib.jobs import make_job, queue_id
from tests.support.nats import LIMITS, NatsServer
from tests.support.wait import wait_until

ID = queue_id(1)
paces = st.builds(Pace, st.integers(1, 9), st.floats(0, 9), st.integers(0, 9))


@pytest.fixture
def store(sender: QueueConnection) -> PaceStore:
    return PaceStore(sender, Publisher(sender))


@given(paces, paces)
def test_joining_takes_no_turn_back_and_keeps_the_first_stop(one: Pace, other: Pace) -> None:
    both = one.joined(other)
    assert both == other.joined(one)
    assert both.joined(one) == both
    assert both.next == max(one.next, other.next)
    stops = {pace.stopped_by for pace in (one, other)} - {0}
    assert both.stopped_by == min(stops, default=0)


async def test_what_was_told_is_read_again_and_never_goes_back(store: PaceStore) -> None:
    assert await store.read(ID) is None
    await store.tell(ID, Pace(3, 50.0))
    assert await store.read(ID) == Pace(3, 50.0)
    await store.tell(ID, Pace(2, 99.0))
    assert await store.read(ID) == Pace(3, 50.0)
    await store.tell(ID, Pace(stopped_by=2))
    assert await store.read(ID) == Pace(3, 50.0, 2)
    assert await store.read(queue_id(2)) is None


async def test_of_two_who_tell_at_the_same_moment_neither_is_forgotten(store: PaceStore) -> None:
    for number in range(20):
        submission = queue_id(100 + number)
        await asyncio.gather(
            store.tell(submission, Pace(7, 5.0)), store.tell(submission, Pace(stopped_by=2))
        )
        assert await store.read(submission) == Pace(7, 5.0, 2)


async def test_a_server_that_restarted_knows_no_turns_until_the_stream_is_made_again(
    store: PaceStore, sender: QueueConnection, server: NatsServer, log: Logger
) -> None:
    await store.tell(ID, Pace(3, 50.0))
    server.kill()
    server.start()
    await wait_until(lambda: not sender.is_connected, 5, "the sender notices")
    await wait_until(lambda: sender.is_connected, 5, "the sender is back")
    with pytest.raises(QueueError):
        await asyncio.wait_for(store.read(ID), 5)
    await server.ensure(log, LIMITS)
    assert await store.read(ID) is None
    await store.tell(ID, Pace(4, 60.0))
    assert await store.read(ID) == Pace(4, 60.0)


async def test_turns_of_another_version_are_no_answer(
    store: PaceStore, sender: QueueConnection
) -> None:
    await Publisher(sender).store(Record(sender.names.pace_subject(ID), b"\x63x", ""))
    with pytest.raises(QueueError, match="unknown format version 99"):
        await store.read(ID)


async def test_the_first_job_that_waits_is_found_by_its_place_in_the_batch(
    store: PaceStore, ingress: QueueConnection, sender: QueueConnection
) -> None:
    names = sender.names
    for number in (1, 2):  # two submissions, one behind the other
        jobs = [make_job(1, submission=queue_id(number), batch=k, batches=40) for k in range(1, 41)]
        await Publisher(ingress).store_together(
            [Record(names.in_subject(None), encode_jobs([job]), job.name) for job in jobs]
        )
    claims: asyncio.Queue[Claim] = asyncio.Queue()
    pull = PullLoop(sender, names.in_stream(), names.in_consumer, room=lambda: 100, take=claims.put)
    running = asyncio.create_task(pull.run())
    taken = [await asyncio.wait_for(claims.get(), 10) for _ in range(80)]
    running.cancel()
    first = taken[0].sequence
    # What `batch` a job is tells where the first of its submission lies.
    assert [claim.sequence for claim in taken] == list(range(first, first + 80))
    assert await store.first_waiting(first) == first
    for claim in (*taken[:7], taken[8], *taken[41:]):
        await claim.ack()
    assert await store.first_waiting(first) == first + 7
    assert await store.first_waiting(first + 40) == first + 40
    assert await store.first_waiting(first + 41) == 0
