"""A back-up's file, when the process that writes it dies, or the disk is full."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from mailrelay.queue.backup_file import BackupError, BackupWriter, Chunk, End
from tests.support import command

KILLED = """\
import os, signal, sys
from pathlib import Path
from mailrelay.queue.backup_file import BackupWriter, Head
with BackupWriter(Path(sys.argv[1])) as writer:
    writer.write(Head(1, 0.0, "mailrelay"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_back_up_left_goes_with_the_next_one(tmp_path: Path) -> None:
    running = command.run(sys.executable, "-c", KILLED, str(tmp_path / "killed"), limit=60)
    assert asyncio.run(running).code == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with BackupWriter(tmp_path / "slow") as slow:
        with BackupWriter(tmp_path / "next") as writer:
            writer.write(End(0))
        slow.write(End(0))  # which was under way beside it, and is whole all the same
    assert {path.name for path in tmp_path.iterdir()} == {"slow", "next"}


def test_a_back_up_that_finds_no_room_says_so_and_leaves_no_file(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))

    def write() -> None:
        with BackupWriter(tmp_path / "endless") as writer:
            for number in range(100):
                writer.write(Chunk("a", number, os.urandom(10_000)))

    try:
        with pytest.raises(BackupError, match="endless cannot be written: "):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
