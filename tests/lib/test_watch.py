from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from mailrelay.runtime.watch import watch_files
from tests.support.wait import wait_until

INTERVAL_SECONDS = 0.02


@contextlib.asynccontextmanager
async def watching(path: Path) -> AsyncIterator[list[int]]:
    calls: list[int] = []

    async def changed() -> None:
        calls.append(1)

    task = asyncio.create_task(
        watch_files(lambda: [path], changed, interval_seconds=INTERVAL_SECONDS)
    )
    await asyncio.sleep(0)  # the first look is taken when the task starts
    try:
        yield calls
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_called(calls: list[int], times: int) -> None:
    async def called() -> bool:
        return len(calls) >= times

    await wait_until(called, 5, f"called {times} times", interval=0.01)


async def test_a_rewritten_file_is_noticed_once(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("one")
    async with watching(file) as calls:
        file.write_text("three")
        await wait_called(calls, 1)
        await asyncio.sleep(5 * INTERVAL_SECONDS)  # more looks, at a file that stands still
        assert calls == [1]


async def test_a_link_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text("same")
    link = tmp_path / "data"
    link.symlink_to("old")
    async with watching(link) as calls:
        swapped = tmp_path / "swapped"
        swapped.symlink_to("new")
        swapped.rename(link)
        await wait_called(calls, 1)


async def test_a_file_that_goes_and_one_that_comes_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("one")
    async with watching(file) as calls:
        file.unlink()
        await wait_called(calls, 1)
        file.write_text("one")
        await wait_called(calls, 2)


async def test_a_file_that_others_may_no_longer_read_is_noticed(tmp_path: Path) -> None:
    """A file of users is refused for its mode, and mended by `chmod` alone."""
    file = tmp_path / "users"
    file.write_text("one")
    file.chmod(0o644)
    async with watching(file) as calls:
        file.chmod(0o600)
        await wait_called(calls, 1)
