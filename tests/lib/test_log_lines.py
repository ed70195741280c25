"""Log lines: none is missing while the process lives, and mail matters more than they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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
