"""Log lines of a process whose reader is gone: mail matters more than what is told of it."""

from __future__ import annotations

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
