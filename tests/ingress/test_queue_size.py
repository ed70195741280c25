"""`queueSize` from outside: three ingress processes on one queue, and kills."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from tests.ingress.dialogue import CONTENT, HOST
from tests.ingress.ingress_process import Ingress, running_ingress
from tests.support.nats import LIMITS, NatsServer, limits
from tests.support.smtp_client import ConnectionEndedError, SmtpDialogue
from tests.support.wait import wait_until

SIZE = 100
BATCH = 20
_numbers = iter(range(1_000_000))


@pytest.fixture
def three(server: NatsServer, log: Logger, tmp_path: Path) -> Iterator[list[Ingress]]:
    """Three ingress processes at a queue of a hundred jobs that nobody takes away."""
    server.reset(log, limits(queue_size=SIZE))
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(running_ingress(tmp_path / str(n), server, batchSize=BATCH))
            for n in range(3)
        ]
    server.reset(log, LIMITS)


async def jobs_queued(server: NatsServer, log: Logger) -> int:
    async with server.connected(Role.ADMIN, log) as admin:
        info = await admin.api("STREAM.INFO.mailrelay-in-0")
        return int(info["state"]["messages"])


async def submit(ingress: Ingress, jobs: int) -> int:
    """Send a message that is so many jobs; return its code, 0 when the client got no answer."""
    many = [f"r{next(_numbers)}@reader.test" for _ in range((jobs - 1) * BATCH + 1)]
    try:
        async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
            dialogue.limit_seconds = 30
            submitted = await dialogue.submit("a@sender.test", many, CONTENT, pipelined=True)
    except (ConnectionEndedError, OSError):
        return 0
    assert submitted.final is not None
    return submitted.final.code


async def send(ingresses: list[Ingress], shapes: list[int], each: int) -> Counter[tuple[int, int]]:
    """Send from many clients of each process; return how often (jobs, code) was answered."""
    counts: Counter[tuple[int, int]] = Counter()

    async def client(ingress: Ingress, offset: int) -> None:
        for number in range(each):
            jobs = shapes[(offset + number) % len(shapes)]
            counts[jobs, await submit(ingress, jobs)] += 1

    await asyncio.gather(*(client(ingress, n) for n in range(10) for ingress in ingresses))
    return counts


def jobs_accepted(counts: Counter[tuple[int, int]]) -> int:
    return sum(jobs * count for (jobs, code), count in counts.items() if code == 250)


async def test_exactly_queue_size_jobs_are_accepted_by_several_processes(
    three: list[Ingress], server: NatsServer, log: Logger
) -> None:
    counts = await send(three, [1], 5)
    assert counts == {(1, 250): SIZE, (1, 452): 50}
    assert await jobs_queued(server, log) == SIZE


async def test_messages_of_several_jobs_are_taken_whole_or_not_at_all(
    three: list[Ingress], server: NatsServer, log: Logger
) -> None:
    counts = await send(three, [1, 3, 7], 3)
    assert {code for _, code in counts} == {250, 452}
    accepted = jobs_accepted(counts)
    assert accepted == await jobs_queued(server, log) <= SIZE
    # What did not fit was too large for what was left; what fits is taken, up to the last place.
    for left in range(SIZE - accepted, 0, -1):
        assert await submit(three[left % 3], left + 1) == 452
        assert await submit(three[left % 3], 1) == 250
    assert await submit(three[0], 1) == 452
    assert await jobs_queued(server, log) == SIZE


async def test_a_killed_ingress_takes_no_place_with_it(
    three: list[Ingress], server: NatsServer, log: Logger
) -> None:
    sending = asyncio.create_task(send(three, [1, 2], 2))

    async def is_under_way() -> bool:
        return await jobs_queued(server, log) > 20

    await wait_until(is_under_way, 20, "jobs come in", 0.001)
    three[0].process.kill()
    counts = await sending
    unknown = sum(jobs * count for (jobs, code), count in counts.items() if code == 0)
    queued = await jobs_queued(server, log)
    assert jobs_accepted(counts) <= queued <= min(SIZE, jobs_accepted(counts) + unknown)
    rest = await send(three[1:], [1], 8)
    assert jobs_accepted(rest) == SIZE - queued
    assert await jobs_queued(server, log) == SIZE


async def test_a_killed_server_never_has_more_than_queue_size_jobs(
    three: list[Ingress], server: NatsServer, log: Logger
) -> None:
    sending = asyncio.create_task(send(three, [1, 2], 3))

    async def is_under_way() -> bool:
        return await jobs_queued(server, log) > 20

    await wait_until(is_under_way, 20, "jobs come in", 0.001)
    server.kill()
    server.start()
    counts = await sending
    assert {code for _, code in counts} <= {250, 452, 451}
    queued = await jobs_queued(server, log)
    assert jobs_accepted(counts) <= queued <= SIZE
    rest = await send(three, [1], 5)
    assert jobs_accepted(rest) == SIZE - queued
    assert await jobs_queued(server, log) == SIZE
