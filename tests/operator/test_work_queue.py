from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from mailrelay_operator.work_queue import BackOff, WorkQueue
from mailrelay_operator.workers import Workers
from tests.operator.virtual_time import run_virtually


def queue() -> WorkQueue[str]:
    return WorkQueue(chance=lambda: 0.0)


def test_a_key_that_is_added_often_is_handed_out_once() -> None:
    work = queue()
    for _ in range(3):
        work.add("a", now=0)
    assert [work.take(0), work.take(0)] == ["a", None]


def test_the_earliest_time_wins() -> None:
    work = queue()
    work.add("a", now=0, delay_seconds=60)
    work.add("a", now=0, delay_seconds=5)
    work.add("a", now=0, delay_seconds=30)
    assert (work.take(4.9), work.take(5), work.take(60)) == (None, "a", None)


def test_a_key_that_is_worked_on_is_not_handed_out_again() -> None:
    work = queue()
    work.add("a", now=0)
    assert work.take(0) == "a"
    work.add("a", now=1)
    assert work.take(100) is None


def test_what_is_added_meanwhile_is_looked_at_afterwards() -> None:
    work = queue()
    work.add("a", now=0)
    work.take(0)
    work.add("a", now=1)
    work.succeeded("a", now=2)
    assert (work.take(2), work.take(2)) == ("a", None)


def test_a_key_that_failed_waits_longer_each_time_and_starts_over_once_it_went_well() -> None:
    work = queue()
    work.add("a", now=0)
    now, pauses = 0.0, []
    for _ in range(12):
        assert work.take(now) == "a"
        pauses.append(work.failed("a", now))
        assert work.take(now + pauses[-1] - 0.01) is None
        now += pauses[-1]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == 300.0
    work.take(now)
    work.succeeded("a", now)
    work.add("a", now)
    work.take(now)
    assert work.failed("a", now) == 0.5


def test_a_change_of_a_key_that_failed_waits_no_longer_than_the_change_asks() -> None:
    work = queue()
    work.add("a", now=0)
    work.take(0)
    work.failed("a", now=0)
    work.add("a", now=0.1)
    assert work.take(0.1) == "a"


def test_keys_that_failed_together_come_back_apart() -> None:
    chances = iter([0.0, 0.5, 1.0])
    work: WorkQueue[str] = WorkQueue(chance=lambda: next(chances))
    pauses = []
    for key in "abc":
        work.add(key, now=0)
        work.take(0)
        pauses.append(work.failed(key, 0))
    assert pauses == [0.5, 0.375, 0.25]


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_a_pause_stays_within_its_bounds(failures: int, chance: float) -> None:
    assert 0.25 <= BackOff().seconds(failures, chance) <= 300.0


def test_a_relist_spreads_the_keys() -> None:
    chances = iter([0.1, 0.9])
    work: WorkQueue[str] = WorkQueue(chance=lambda: next(chances))
    work.add_all(["a", "b"], now=0, spread_seconds=10)
    assert (work.take(1), work.take(8.9), work.take(9)) == ("a", None, "b")


def test_the_queue_knows_how_much_waits_and_for_how_long() -> None:
    work = queue()
    work.add("a", now=0)
    work.add("b", now=3)
    work.add("later", now=0, delay_seconds=100)
    assert (work.depth(5), work.longest_wait_seconds(5)) == (2, 5)
    work.take(5)
    assert (work.depth(9), work.longest_wait_seconds(9), work.longest_work_seconds(9)) == (1, 6, 4)


def test_nothing_is_remembered_of_a_key_that_went_well() -> None:
    work = queue()
    for number in range(100):
        work.add(str(number), now=0)
        work.succeeded(work.take(0) or "", now=0)
    assert not work._entries


@contextlib.asynccontextmanager
async def working(workers: Workers[str]) -> AsyncIterator[None]:
    task = asyncio.create_task(workers.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_keys_are_worked_on_side_by_side_and_one_key_never_twice_at_once() -> None:
    async def main() -> None:
        under_way: list[str] = []
        most = 0
        done: list[str] = []

        async def work(key: str) -> None:
            nonlocal most
            assert key not in under_way
            under_way.append(key)
            most = max(most, len(under_way))
            await asyncio.sleep(1)
            under_way.remove(key)
            done.append(key)

        work_queue = queue()
        now = asyncio.get_running_loop().time
        async with working(Workers(work_queue, work, failed=lambda *_: None, count=3)):
            for key in "abcab":
                work_queue.add(key, now())
            await asyncio.sleep(0.5)
            work_queue.add("a", now())
            await asyncio.sleep(10)
        assert sorted(done) == ["a", "a", "b", "c"]
        assert most == 3

    run_virtually(main())


def test_work_that_fails_is_told_of_and_tried_again_and_holds_nobody_up() -> None:
    async def main() -> None:
        told: list[tuple[str, str, float]] = []
        tries: list[str] = []

        async def work(key: str) -> None:
            tries.append(key)
            if key == "bad" and tries.count("bad") < 4:
                raise OSError("no")

        work_queue = queue()
        workers = Workers(
            work_queue, work, failed=lambda *args: told.append((args[0], str(args[1]), args[2]))
        )
        async with working(workers):
            work_queue.add("bad", asyncio.get_running_loop().time())
            work_queue.add("good", asyncio.get_running_loop().time())
            await asyncio.sleep(60)
        assert told == [("bad", "no", 0.5), ("bad", "no", 1.0), ("bad", "no", 2.0)]
        assert tries.count("bad") == 4
        assert tries.count("good") == 1

    run_virtually(main())


def test_work_that_hangs_is_given_up_and_tried_again() -> None:
    async def main() -> None:
        tries = 0

        async def work(_: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                await asyncio.Event().wait()

        work_queue = queue()
        told: list[Exception] = []
        workers = Workers(work_queue, work, failed=lambda _, error, __: told.append(error))
        async with working(workers):
            work_queue.add("a", asyncio.get_running_loop().time())
            await asyncio.sleep(200)
        assert tries == 2
        assert isinstance(told[0], TimeoutError)

    run_virtually(main())


def test_work_says_itself_when_to_look_again() -> None:
    async def main() -> None:
        times: list[float] = []

        async def work(_: str) -> float:
            times.append(asyncio.get_running_loop().time())
            return 15.0

        work_queue = queue()
        async with working(Workers(work_queue, work, failed=lambda *_: None)):
            work_queue.add("a", asyncio.get_running_loop().time())
            await asyncio.sleep(50)
        assert [time - times[0] for time in times] == [0, 15, 30, 45]

    run_virtually(main())


def test_work_that_never_waits_leaves_the_others_their_turn() -> None:
    async def main() -> None:
        work_queue = queue()
        now = asyncio.get_running_loop().time
        done = 0

        async def work(key: str) -> None:
            nonlocal done
            done += 1
            assert done < 10_000, "nobody else gets a turn"
            work_queue.add(key, now())

        async with working(Workers(work_queue, work, failed=lambda *_: None)):
            work_queue.add("a", now())
            for _ in range(100):
                await asyncio.sleep(0)
        assert done < 1000

    run_virtually(main())
