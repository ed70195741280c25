"""Log lines: none is missing while the process lives, and mail matters more than they do."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading

import pytest

from mailrelay.runtime.logging import _Lines

PROGRAM = """
import sys
from mailrelay.runtime.logging import configure_logging

log = configure_logging("test", sys.argv[1])
sys.stdin.readline()  # until nobody reads our lines
for number in range(3):
    log.info("mail.accepted", number=number)
sys.stderr.write("went on")
sys.stderr.flush()
"""


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_line_that_nobody_reads_stops_nothing(style: str) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, style],
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    os.close(reading)
    _, said = process.communicate("\n", timeout=30)
    assert said.startswith("went on"), said


ALL_WAYS = """
import asyncio, sys, threading
from mailrelay.runtime.logging import configure_logging

log = configure_logging("test", "json")
log.info("before the loop")


async def run():
    log.info("in the loop")
    log.info("in the same turn")
    await asyncio.to_thread(log.info, "in a thread")
    log.info("in the last turn")
    if sys.argv[1] == "exit":
        sys.exit(3)
    if sys.argv[1] == "raise":
        raise ValueError


try:
    asyncio.run(run())
finally:
    log.info("behind the loop")
"""


@pytest.mark.parametrize("end", ["return", "exit", "raise"])
def test_each_line_is_written_in_order_however_the_process_ends(end: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ALL_WAYS, end], capture_output=True, timeout=30, check=False
    )
    assert [json.loads(line)["event"] for line in ended.stdout.splitlines()] == [
        "before the loop",
        "in the loop",
        "in the same turn",
        "in a thread",
        "in the last turn",
        "behind the loop",
    ]


class _Counted(io.BytesIO):
    writes = 0

    def write(self, octets: object) -> int:
        self.writes += 1
        return super().write(octets)  # type: ignore[arg-type]


async def test_the_lines_of_a_turn_are_one_write() -> None:
    file = _Counted()
    lines = _Lines(file, b"")
    for _ in range(2):
        lines.write(b"a\n")
        lines.write(b"b\n")
        await asyncio.sleep(0)
    assert (file.writes, file.getvalue()) == (2, b"a\nb\n" * 2)


async def test_lines_of_threads_and_of_the_loop_are_all_written() -> None:
    file = io.BytesIO()
    lines = _Lines(file, b"")

    def tell() -> None:
        for _ in range(2000):
            lines.write(b"thread\n")

    threads = [threading.Thread(target=tell) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        lines.write(b"loop\n")
        await asyncio.sleep(0)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)
    written = file.getvalue()
    assert (written.count(b"thread\n"), written.count(b"loop\n")) == (6000, 2000)
