"""One set of limits for four ingress processes and 64 clients: exact, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailrelay.mail.limit import Scope, Window
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from tests.ingress.ingress_process import Ingress, running_ingress
from tests.ingress.test_rate_limits import (
    counter,
    new_sender,
    rate_limits,
    wait_for_a_new_window,
    wait_total,
)
from tests.support.ledger import Ledger, Outcome
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan
from tests.support.nats import NatsServer
from tests.support.wait import wait_until

PROCESSES = 4
_runs = iter(range(1_000_000))
SESSIONS = 16  # at each process
LIMIT = 200
RECONNECT_SECONDS = 15.0


@contextlib.contextmanager
def running_four(folder: Path, server: NatsServer, **changes: int) -> Iterator[list[Ingress]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                running_ingress(folder / str(number), server, **rate_limits(**changes))
            )
            for number in range(PROCESSES)
        ]


async def send(
    ingresses: list[Ingress], counts: list[int], ledger: Ledger, *, sender: str = ""
) -> None:
    """Send so many messages to each process, all at once; refused ones are not tried again."""
    sender = sender or new_sender()
    async with asyncio.TaskGroup() as loads:
        for number, (ingress, count) in enumerate(zip(ingresses, counts, strict=True)):
            plan = LoadPlan(
                host="127.0.0.1",
                port=ingress.port,
                count=count,
                sessions=SESSIONS,
                sizes=((1000, 1.0),),
                mail_from=sender,
                run=f"{next(_runs)}-{number}-",
                patience_seconds=1.0,
            )
            loads.create_task(run_load(plan, ledger))


def accepted(ledger: Ledger) -> int:
    return sum(entry.outcome is Outcome.ACCEPTED for entry in ledger.entries)


async def wait_accepted(ledger: Ledger, wanted: int) -> None:
    await wait_until(lambda: accepted(ledger) >= wanted, 30, f"{wanted} are accepted", 0.001)


async def jobs_queued(server: NatsServer, log: Logger) -> int:
    async with server.connected(Role.ADMIN, log) as admin:
        info = await admin.api("STREAM.INFO.mailrelay-in-0")
        return int(info["state"]["messages"])


@pytest.mark.timeout(300)
async def test_ten_rounds_of_everybodys_hour_accept_exactly_the_limit(
    server: NatsServer, log: Logger, tmp_path: Path
) -> None:
    with running_four(tmp_path, server, globalMaxPerHour=LIMIT) as ingresses:
        for number in range(10):
            await asyncio.to_thread(server.reset, log)
            await wait_for_a_new_window(60)
            # In some rounds nearly all clients come to one process, or to three of them.
            counts = [[70] * 4, [220, 20, 20, 20], [0, 60, 110, 110]][number % 3]
            with Ledger(None) as ledger:
                await send(ingresses, counts, ledger)
                assert accepted(ledger) == LIMIT, f"round {number}"
                assert {entry.code for entry in ledger.entries} == {250, 451}
            assert await jobs_queued(server, log) == LIMIT
            await wait_total(server, log, counter(Scope.GLOBAL, Window.HOUR), LIMIT)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("option", ["maxPerHour", "maxPerDay", "globalMaxPerDay"])
async def test_the_other_limits_accept_exactly_as_many(
    option: str, server: NatsServer, log: Logger, tmp_path: Path
) -> None:
    await asyncio.to_thread(server.reset, log)
    with running_four(tmp_path, server, **{option: LIMIT}) as ingresses:
        await wait_for_a_new_window(60)
        with Ledger(None) as ledger:
            await send(ingresses, [70] * 4, ledger)
            assert accepted(ledger) == LIMIT
        assert await jobs_queued(server, log) == LIMIT


@pytest.mark.timeout(120)
async def test_a_killed_ingress_costs_no_more_than_the_tokens_that_it_held(
    server: NatsServer, log: Logger, tmp_path: Path
) -> None:
    await asyncio.to_thread(server.reset, log)
    with running_four(tmp_path, server, globalMaxPerHour=LIMIT) as ingresses:
        await wait_for_a_new_window(60)
        with Ledger(None) as ledger:
            sending = asyncio.create_task(send(ingresses, [70] * 4, ledger))
            await wait_accepted(ledger, LIMIT // 4)
            ingresses[0].process.kill()
            await sending
            await send(ingresses[1:], [60] * 3, ledger)
            outcomes = [entry.outcome for entry in ledger.entries]
            # A client that got no answer may have been the one whose message is queued.
            unknown = outcomes.count(Outcome.UNKNOWN)
            queued = await jobs_queued(server, log)
            assert accepted(ledger) <= queued <= accepted(ledger) + unknown
            assert queued <= LIMIT
            # Its transactions under way, and two tokens to spare.
            assert accepted(ledger) >= LIMIT - SESSIONS - LIMIT // 100


@pytest.mark.timeout(120)
async def test_a_killed_server_makes_no_difference_to_the_limit(
    server: NatsServer, log: Logger, tmp_path: Path
) -> None:
    await asyncio.to_thread(server.reset, log)
    with running_four(tmp_path, server, globalMaxPerHour=LIMIT) as ingresses:
        await wait_for_a_new_window(60)
        with Ledger(None) as ledger:
            sending = asyncio.create_task(send(ingresses, [60] * 4, ledger))
            for wanted in (LIMIT // 4, LIMIT // 2):
                await wait_accepted(ledger, wanted)
                server.kill()
                server.start()
            await sending
            # What was under way at the kills is found out, and places of refused messages are back.
            everybody = counter(Scope.GLOBAL, Window.HOUR)
            await wait_total(server, log, everybody, accepted(ledger), RECONNECT_SECONDS)
            await send(ingresses, [30] * 4, ledger)
            assert accepted(ledger) == LIMIT
