"""Real processes under a supervisor in this one; a helper stops it whatever the test does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from mailrelay_cli.supervisor import (
    ChildSpec,
    GiveUpError,
    RestartPolicy,
    StopRequest,
    Supervisor,
)
from tests.cli.stand_in import DEAF, LIVE, READY, stand_in
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

FAST = RestartPolicy(after_ready=0.01, first_backoff=0.001, longest_backoff=0.002)


class Bench:
    """A supervisor, what it said, and the processes it started."""

    def __init__(self, policy: RestartPolicy = FAST) -> None:
        self.told: list[str] = []
        self.noted: list[tuple[str, dict[str, Any]]] = []
        self.lines: list[tuple[str, bytes, bool]] = []
        self.stop = StopRequest()
        self.is_ready = asyncio.Event()
        self.supervisor = Supervisor(
            tell=lambda text, _: self.told.append(text),
            note=lambda event, **fields: self.noted.append((event, fields)),
            sink=lambda *line: self.lines.append(line),
            policy=policy,
        )

    async def run(self, *groups: list[ChildSpec]) -> int:
        names = [spec.name for group in groups for spec in group]
        return await self.supervisor.run(groups, names[::-1], self.stop, self.is_ready.set)

    @contextlib.asynccontextmanager
    async def running(self, *groups: list[ChildSpec]) -> AsyncIterator[asyncio.Task[int]]:
        task = asyncio.create_task(self.run(*groups))
        ready = asyncio.create_task(self.is_ready.wait())
        try:
            await asyncio.wait({task, ready}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            assert self.is_ready.is_set(), task
            yield task
        finally:
            ready.cancel()
            self.stop()
            await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 20)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [fields for each, fields in self.noted if each == event]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_process_that_had_been_ready_is_back_within_a_second_however_often_it_dies() -> (
    None
):
    bench = Bench(RestartPolicy())
    async with bench.running([stand_in("one", READY + LIVE)]):
        for restarts in range(1, 13):
            old = bench.supervisor.pids["one"]
            died = time.monotonic()
            os.kill(old, signal.SIGKILL)
            await wait_until(
                lambda n=restarts: len(bench.events("process.ready")) > n, 5, "ready again"
            )
            assert time.monotonic() - died < 1
            assert bench.supervisor.pids["one"] != old
    assert bench.told == ["one was ended by SIGKILL; starting it again"] * 12


async def test_one_that_tells_ready_and_dies_in_one_breath_had_been_ready() -> None:
    bench = Bench()
    async with bench.running([stand_in("one", READY)]):
        await wait_until(lambda: len(bench.told) > 10, 10, "ten restarts")
    assert set(bench.told) == {"one ended with 0; starting it again"}


async def test_one_that_dies_before_it_is_ready_is_given_up_after_eight_times_with_its_words() -> (
    None
):
    bench = Bench()
    program = "import sys\nprint('a line')\nsys.exit('cannot find the thing')"
    with pytest.raises(GiveUpError) as gave_up:
        await bench.run([stand_in("bad", program)])
    assert gave_up.value.exit_code == 1
    assert gave_up.value.lines == (
        "bad ended with 1 before it was ready, 8 times in a row; giving up",
        "  cannot find the thing",
    )
    assert bench.told == ["bad ended with 1 before it was ready; trying again"] * 7
    assert len(bench.events("process.ended")) == 8


async def test_giving_one_up_stops_the_others() -> None:
    bench = Bench()
    pids: list[int] = []
    bench.supervisor.pids_changed = lambda: pids.extend(bench.supervisor.pids.values())
    with pytest.raises(GiveUpError):
        await bench.run([stand_in("good", READY + LIVE)], [stand_in("bad", "raise SystemExit(1)")])
    assert len(set(pids)) == 9
    assert all(is_gone(pid) for pid in pids)
    assert not bench.is_ready.is_set()


async def test_bad_input_before_ready_is_not_tried_again() -> None:
    bench = Bench()
    program = "import sys\nprint('smtpPort: too big', file=sys.stderr)\nsys.exit(2)"
    with pytest.raises(GiveUpError) as gave_up:
        await bench.run([stand_in("bad", program)])
    assert (gave_up.value.exit_code, gave_up.value.lines) == (2, ("smtpPort: too big",))
    assert len(bench.events("process.ended")) == 1


async def test_exit_code_2_after_ready_is_a_death_like_any_other() -> None:
    bench = Bench()
    async with bench.running([stand_in("one", READY + "sys.exit(2)")]):
        await wait_until(lambda: len(bench.told) > 2, 5, "restarts")


async def test_input_that_went_bad_since_stops_nothing_and_is_tried_until_it_is_mended(
    tmp_path: Path,
) -> None:
    slip = tmp_path / "slip"
    program = (
        f"import os, sys\nif os.path.exists({str(slip)!r}):\n    sys.exit(print('a comma') or 2)\n"
    )
    bench = Bench()
    async with bench.running(
        [stand_in("one", program + READY + LIVE), stand_in("other", READY + LIVE)]
    ) as task:
        other = bench.supervisor.pids["other"]
        slip.touch()
        os.kill(bench.supervisor.pids["one"], signal.SIGKILL)
        await wait_until(lambda: len(bench.events("process.ended")) > 10, 20, "tried often")
        assert not task.done()
        slip.unlink()
        await wait_until(lambda: len(bench.events("process.ready")) > 2, 10, "ready again")
        assert bench.supervisor.pids["other"] == other
    assert bench.told == [
        "one was ended by SIGKILL; starting it again",
        "one cannot start: a comma; trying",
    ]


async def test_a_program_that_is_missing_is_given_up_saying_so() -> None:
    bench = Bench()
    with pytest.raises(GiveUpError, match=r"ghost cannot be started .*/nonexistent/ghost"):
        await bench.run([ChildSpec("ghost", ("/nonexistent/ghost",), {})])


def test_the_pauses_double_up_to_five_seconds() -> None:
    policy = RestartPolicy()
    pauses = [policy.backoff(deaths) for deaths in range(1, 8)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]


async def test_a_group_starts_when_the_one_before_is_ready_and_all_stop_in_order() -> None:
    bench = Bench()
    async with bench.running(
        [stand_in("first", "import time\ntime.sleep(0.3)\n" + READY + LIVE)],
        [stand_in("second", READY + LIVE), stand_in("third", READY + LIVE)],
    ) as task:
        assert bench.events("process.ready")[0]["process"] == "first"
        bench.stop()
        assert await asyncio.wait_for(task, 10) == 0
    assert [each["process"] for each in bench.events("process.ended")] == [
        "third",
        "second",
        "first",
    ]
    assert bench.told == []


async def test_one_that_does_not_stop_in_time_is_killed_and_that_is_told() -> None:
    bench = Bench()
    deaf = DEAF + READY + "while True: time.sleep(60)"
    async with bench.running([stand_in("deaf", deaf, stop_seconds=0.2)]) as task:
        bench.stop()
        assert await asyncio.wait_for(task, 5) == 0
    assert bench.told == ["deaf did not stop in time and was killed"]


async def test_a_second_request_to_stop_is_quick_about_it() -> None:
    bench = Bench()
    deaf = DEAF + READY + "while True: time.sleep(60)"
    async with bench.running([stand_in("deaf", deaf, stop_seconds=60)]) as task:
        started = time.monotonic()
        bench.stop()
        bench.stop()
        assert await asyncio.wait_for(task, 5) == 0
        assert time.monotonic() - started < 2


async def test_a_stop_between_two_lives_ends_at_once() -> None:
    bench = Bench(RestartPolicy(after_ready=60))
    async with bench.running([stand_in("one", READY)]) as task:
        await wait_until(lambda: bench.told, 5, "its death")
        bench.stop()
        assert await asyncio.wait_for(task, 2) == 0


async def test_a_stop_while_it_starts_ends_it() -> None:
    bench = Bench()
    task = asyncio.create_task(bench.run([stand_in("slow", "import time\ntime.sleep(60)")]))
    await wait_until(lambda: bench.supervisor.pids, 5, "its start")
    pid = bench.supervisor.pids["slow"]
    bench.stop()
    assert await asyncio.wait_for(task, 5) == 0
    assert is_gone(pid)


async def test_one_that_is_slow_to_be_ready_is_told_of_and_left_alone() -> None:
    bench = Bench(RestartPolicy(slow_start=0.1))
    program = "import time\ntime.sleep(0.6)\n" + READY + LIVE
    async with bench.running([stand_in("slow", program)]):
        assert bench.told == ["slow is not ready after 0.1 s; waiting on"]
        assert len(bench.events("process.ready")) == 1


async def test_what_a_dead_process_had_started_dies_with_it() -> None:
    bench = Bench()
    program = (
        READY
        + "import subprocess\n"
        + "print(subprocess.Popen([sys.executable, '-S', '-c', 'input()'], "
        + "stdin=subprocess.PIPE).pid, flush=True)\n"
        + LIVE
    )
    async with bench.running([stand_in("parent", program)]):
        await wait_until(lambda: bench.lines, 5, "the grandchild's id")
        grandchild = int(bench.lines[0][1])
        os.kill(bench.supervisor.pids["parent"], signal.SIGKILL)
        await wait_until(lambda: is_gone(grandchild), 5, "the grandchild's end")


async def test_ctrl_c_reaches_no_child() -> None:
    bench = Bench()
    async with bench.running([stand_in("one", READY + LIVE)]):
        assert os.getpgid(bench.supervisor.pids["one"]) != os.getpgid(0)


async def test_lines_arrive_whole_with_where_they_came_from() -> None:
    bench = Bench()
    program = (
        READY
        + "def out(fd, text):\n    os.write(fd, text); time.sleep(0.1)\n"
        + "out(1, b'one\\ntw'); out(2, b'err'); out(1, b'o\\nthr'); out(1, b'ee\\nhalf')\n"
        + LIVE
    )
    async with bench.running([stand_in("one", program)]):
        await wait_until(lambda: len(bench.lines) == 3, 5, "three whole lines")
    assert bench.lines[:3] == [("one", line, False) for line in (b"one\n", b"two\n", b"three\n")]
    assert set(bench.lines[3:]) == {("one", b"half\n", False), ("one", b"err\n", True)}


async def test_a_line_without_end_is_cut_and_takes_no_more_memory() -> None:
    bench = Bench()
    program = READY + "os.write(1, b'x' * 3_000_000)\n" + LIVE
    async with bench.running([stand_in("one", program)]):
        await wait_until(lambda: sum(len(line) for _, line, _ in bench.lines) > 2_000_000, 5, "cut")
    assert all(len(line) <= 1024 * 1024 + 65_537 for _, line, _ in bench.lines)


async def test_a_wait_of_its_own_decides_when_it_is_ready() -> None:
    bench = Bench()
    allowed = asyncio.Event()
    spec = _waiting_for(allowed.wait)
    task = asyncio.create_task(bench.run([spec]))
    await wait_until(lambda: bench.supervisor.pids, 5, "its start")
    assert not bench.is_ready.is_set()
    allowed.set()
    await wait_until(bench.is_ready.is_set, 5, "ready")
    bench.stop()
    assert await asyncio.wait_for(task, 5) == 0


async def test_a_wait_that_gives_up_stops_everything() -> None:
    async def give_up() -> None:
        raise GiveUpError(1, ["the queue cannot be set up"])

    bench = Bench()
    pids: list[int] = []
    bench.supervisor.pids_changed = lambda: pids.extend(bench.supervisor.pids.values())
    with pytest.raises(GiveUpError, match="cannot be set up"):
        await bench.run([_waiting_for(give_up)])
    assert is_gone(pids[0])


def _waiting_for(wait: Callable[[], Awaitable[object]]) -> ChildSpec:
    async def wait_ready() -> None:
        await wait()

    plain = stand_in("one", "import signal\nsignal.pause()")
    return ChildSpec(plain.name, plain.argv, {}, wait_ready=wait_ready)


async def test_one_that_its_watch_finds_broken_is_ended_in_order_and_started_again() -> None:
    broken = asyncio.Event()

    async def watch() -> str:
        await broken.wait()
        broken.clear()
        return "it is broken"

    bench = Bench()
    async with bench.running([replace(stand_in("one", READY + LIVE), watch=watch)]):
        broken.set()
        await wait_until(lambda: len(bench.events("process.ready")) == 2, 10, "ready again")
        broken.set()
        await wait_until(lambda: len(bench.events("process.ready")) == 3, 10, "ready once more")
    told = ["one: it is broken; restarting it", "one was ended by SIGTERM; starting it again"]
    assert bench.told == told * 2


async def test_a_broken_one_that_does_not_end_is_killed() -> None:
    async def watch() -> str:
        return "it is broken"

    bench = Bench()
    deaf = replace(stand_in("one", DEAF + READY + LIVE, stop_seconds=0.1), watch=watch)
    async with bench.running([deaf]):
        await wait_until(lambda: len(bench.events("process.ready")) == 2, 10, "ready again")
    assert bench.told[1] == "one was ended by SIGKILL; starting it again"


async def test_a_stop_while_a_process_is_watched_ends_both() -> None:
    watched: list[str] = []

    async def watch() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            watched.append("ended")
        return ""

    bench = Bench()
    async with bench.running([replace(stand_in("one", READY + LIVE), watch=watch)]):
        pass
    assert watched == ["ended"]
    assert bench.told == []


async def test_exit_code_2_of_a_program_that_means_nothing_by_it_is_a_death_before_ready() -> None:
    bench = Bench()
    spec = replace(stand_in("one", "raise SystemExit(2)\n"), tells_bad_input=False)
    with pytest.raises(GiveUpError, match="8 times in a row") as error:
        await bench.run([spec])
    assert error.value.exit_code == 1


async def test_each_start_waits_for_what_it_needs() -> None:
    asked = asyncio.Event()
    room = asyncio.Event()

    async def wait_room() -> None:
        asked.set()
        await room.wait()
        room.clear()

    bench = Bench()
    task = asyncio.create_task(
        bench.run([replace(stand_in("one", READY + LIVE), before_start=wait_room)])
    )
    try:
        await asyncio.wait_for(asked.wait(), 5)
        assert bench.supervisor.pids == {}
        for starts in (1, 2):
            room.set()
            await wait_until(
                lambda n=starts: len(bench.events("process.ready")) == n, 10, "it is ready"
            )
            os.kill(bench.supervisor.pids["one"], signal.SIGKILL)
            await wait_until(lambda: bench.supervisor.pids == {}, 10, "it is gone")
    finally:
        bench.stop()  # while it waits: that ends at once
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5)
    assert task.result() == 0
