"""Tokens from several processes' books at a real nats-server: never more than the limit."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.limit import CounterName, Scope, Window
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.counters import ADDITIONS_KEPT, CounterStore
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.publish import Publisher
from mailrelay.queue.rights import Role
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from mailrelay_ingress import leases
from mailrelay_ingress.leases import MOST_LEASED, Account, LeaseBook, granted, lease_cap
from tests.support.nats import NatsServer
from tests.support.wait import wait_until

_numbers = iter(range(1_000_000))


def new_name(scope: Scope = Scope.SENDER) -> CounterName:
    """A counter that no other test uses, in a window that does not end."""
    address = f"{next(_numbers)}@sender.test"
    return CounterName(scope, Window.DAY, Window.DAY.number(time.time()) + 1, address)


@given(st.integers(1, 10**7), st.integers(-100, 2 * 10**7))
def test_a_lease_is_one_to_fifty_tokens_and_never_more_than_a_hundredth(
    limit: int, total: int
) -> None:
    cap = lease_cap(limit, total)
    assert 1 <= cap <= MOST_LEASED
    assert cap == 1 or cap <= limit / 100


@pytest.mark.parametrize(
    ("limit", "total", "cap"),
    [(200, 0, 2), (200, 168, 2), (200, 169, 1), (1000, 0, 10), (50, 0, 1), (10**6, 0, 50)],
)
def test_near_the_limit_one_token_is_leased_at_a_time(limit: int, total: int, cap: int) -> None:
    assert lease_cap(limit, total) == cap


@given(st.integers(1, 1000), st.lists(st.integers(1, 60), max_size=60))
def test_what_is_granted_of_successive_additions_is_never_more_than_the_limit(
    limit: int, additions: list[int]
) -> None:
    total = held = 0
    for asked in additions:
        total += asked
        held += granted(limit, total, asked)
    assert held == min(limit, total)


class Books:
    """Some books, each over a connection of its own, as if in processes of their own."""

    def __init__(self, server: NatsServer, log: Logger) -> None:
        self._server = server
        self._log = log
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.connections: list[QueueConnection] = []

    async def open(self, *, accounts: int = 1000) -> tuple[LeaseBook, CounterStore]:
        connection = await self._stack.enter_async_context(
            self._server.connected(Role.INGRESS, self._log)
        )
        self.connections.append(connection)
        counters = CounterStore(connection, Publisher(connection))
        book = LeaseBook(counters, time.time, self._log, accounts=accounts)
        await book.hear_recalls()
        self._tasks.append(asyncio.create_task(book.run()))
        return book, counters

    async def close(self) -> None:
        await end_tasks(self._tasks)
        await self._stack.aclose()


@pytest.fixture
async def books(server: NatsServer, log: Logger) -> AsyncIterator[Books]:
    opened = Books(server, log)
    yield opened
    await opened.close()


async def take_many(book: LeaseBook, account: Account, count: int) -> int:
    return sum(await asyncio.gather(*(book.take(account) for _ in range(count))))


async def test_a_counter_counts_on_over_a_restart_of_the_server(
    server: NatsServer, books: Books
) -> None:
    book, counters = await books.open()
    name = new_name()
    assert await take_many(book, book.account(name, 10), 4) == 4
    server.kill()
    server.start()
    assert await counters.total(name, deadline_seconds=5) == 4
    assert await take_many(book, book.account(name, 10), 9) == 6


async def test_an_addition_is_done_once_though_the_server_was_killed_and_others_came_behind_it(
    server: NatsServer, books: Books
) -> None:
    """Whoever reads a counter wants one record; the server needs the last ids all the same."""
    _, counters = await books.open()
    name = new_name()
    additions = [counters.addition(name, number + 1) for number in range(ADDITIONS_KEPT)]
    for addition in additions:
        assert await counters.add(addition, deadline_seconds=5) is not None
    before = await counters.total(name, deadline_seconds=5)
    server.kill()
    server.start()
    for addition in additions:  # as if no answer had come
        assert await counters.add(addition, deadline_seconds=15) is None
    assert await counters.total(name, deadline_seconds=5) == before


async def test_a_recalled_token_comes_at_once_and_not_when_it_has_been_idle(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "IDLE_SECONDS", 3600.0)
    name, limit = new_name(), 1000
    one, counters = await books.open()
    two, _ = await books.open()
    mine = one.account(name, limit)
    for _ in range(40):  # one after the other: the lease grows to 10, and some are left over
        assert await one.take(mine)
        if mine.free > 5:
            break
    spent, spare = await counters.total(name, deadline_seconds=5) - mine.free, mine.free
    assert spare > 5
    theirs = two.account(name, limit)
    assert await take_many(two, theirs, limit) == limit - spent
    assert mine.free == 0
    assert not await one.take(mine)
    assert not await two.take(theirs)
    assert await counters.total(name, deadline_seconds=5) == limit


async def test_unused_tokens_are_back_within_a_second(books: Books) -> None:
    book, counters = await books.open()
    name = new_name()
    account = book.account(name, 100_000)
    for _ in range(100):
        assert await book.take(account)
    assert await counters.total(name, deadline_seconds=5) > 100

    async def all_back() -> bool:
        return await counters.total(name, deadline_seconds=5) == 100

    await wait_until(all_back, 1.0, "what is not used is back")


async def test_a_token_taken_for_somebody_who_went_away_is_not_lost(books: Books) -> None:
    book, counters = await books.open()
    name = new_name()
    account = book.account(name, 10)
    waiting = [asyncio.create_task(book.take(account)) for _ in range(10)]
    await asyncio.sleep(0)  # let them begin
    await wait_until(lambda: any(each.done() for each in waiting), 2, "the first is served", 0)
    for each in waiting:
        each.cancel()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    taken = sum(each is True for each in done)

    async def all_back() -> bool:
        return await counters.total(name, deadline_seconds=5) == taken

    await wait_until(all_back, 2, "the tokens of those who went are back")


async def test_a_forgotten_account_gives_its_tokens_back(books: Books) -> None:
    book, counters = await books.open(accounts=2)
    name = new_name()
    account = book.account(name, 10_000)
    for _ in range(20):
        assert await book.take(account)
    for _ in range(3):
        assert await book.take(book.account(new_name(), 10))
    assert book.account(name, 10_000) is not account
    book.put_back(account)

    async def all_back() -> bool:
        return await counters.total(name, deadline_seconds=5) == 19

    await wait_until(all_back, 2, "its tokens are back")


async def test_a_server_that_is_away_is_told_and_what_it_may_have_counted_is_found_out(
    server: NatsServer, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_ASK_SECONDS", 0.3)
    book, counters = await books.open()
    name = new_name()
    account = book.account(name, 100)
    assert await book.take(account)
    server.freeze()  # it gets the addition, and does it later
    try:
        with pytest.raises(QueueUnavailableError):
            await book.take(account)
    finally:
        server.thaw()

    async def found_out() -> bool:
        return await counters.total(name, deadline_seconds=5) == 1

    await wait_until(found_out, 10, "the addition without an answer is undone")
    assert await take_many(book, account, 120) == 99


@pytest.mark.parametrize("limit", [1, 7, 150, 600])
async def test_several_books_never_grant_more_than_the_limit_and_lose_no_token(
    books: Books, limit: int
) -> None:
    """Everybody takes, puts back, or goes away while waiting, at random."""
    opened = [await books.open() for _ in range(4)]
    name = new_name()
    rng = random.Random(limit)  # noqa: S311 — a mix, not a secret
    held = [0]

    async def client(book: LeaseBook) -> None:
        for _ in range(limit // 20 + 5):
            account = book.account(name, limit)
            taking = asyncio.create_task(book.take(account))
            if rng.random() < 0.2:
                await asyncio.sleep(rng.random() * 0.01)  # clients take their time
                taking.cancel()
            try:
                is_granted = await taking
            except asyncio.CancelledError:
                continue
            if not is_granted:
                continue
            held[0] += 1
            assert held[0] <= limit
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.01)  # clients take their time
                book.put_back(account)
                held[0] -= 1

    await asyncio.gather(*(client(book) for book, _ in opened for _ in range(16)))
    counters = opened[0][1]

    async def counts_what_is_held() -> bool:
        return await counters.total(name, deadline_seconds=5) == held[0]

    await wait_until(counts_what_is_held, 3, "the counter is at what is held")
    book = opened[0][0]
    rest = limit - held[0]
    assert await take_many(book, book.account(name, limit), rest + 5) == rest
