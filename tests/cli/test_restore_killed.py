"""`mailrelay queue restore`, killed at some moment: what it said last is where to go on."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from mailrelay.queue.backup_file import BackupWriter, End, Head, Kept, Kind
from mailrelay.queue.events import BatchReader
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import decode_jobs, encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from tests.cli.relay_process import COMMAND, run_command
from tests.lib.jobs import make_job, queue_id
from tests.support.nats import NatsServer, limits

RECORDS = 2000
TOLD_EVERY = 100


@pytest.fixture
def log() -> Logger:
    logger: Logger = structlog.get_logger()
    return logger


@pytest.fixture
def server(tmp_path: Path, log: Logger) -> Iterator[NatsServer]:
    server = NatsServer(find_nats_server(print), tmp_path / "server")
    server.start()
    server.reset(log, limits(queue_size=10 * RECORDS))
    yield server
    server.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    with BackupWriter(path) as writer:
        writer.write(Head(1, 0.0, "mailrelay"))
        for number in range(RECORDS):
            payload = encode_jobs([make_job(submission=queue_id(number))])
            writer.write(Kept(Kind.NEW, "-", payload, {}))
        writer.write(End(RECORDS))
    return path


async def in_queue(server: NatsServer, log: Logger) -> Counter[str]:
    """How often each submission is in the lanes."""
    names = server.names
    found: Counter[str] = Counter()
    async with server.connected(Role.MONITOR, log) as monitor:
        reader = BatchReader(monitor, names.lane_stream, f"{names.prefix}.lane.>")
        after = 0
        while page := await reader.read(after + 1):
            after = page[-1].sequence
            found.update(job.submission for each in page for job in decode_jobs(each.payload))
    return found


def killed_after_a_word(*words: str) -> int:
    """Kill a restore that has said how far it is; the number that it said last."""
    killed = subprocess.Popen(
        [COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    first = killed.stdout.readline()
    killed.kill()
    rest, complaints = killed.communicate(timeout=30)
    assert complaints == ""
    last = (first + rest).splitlines()[-1]
    assert last.endswith(f" of {RECORDS} records restored"), last
    return int(last.split()[0])


async def test_a_restore_that_is_killed_goes_on_from_the_last_number_that_it_said(
    server: NatsServer, file: Path, log: Logger
) -> None:
    seed = str(server.seed_file(Role.SENDER))
    words = ["queue", "restore", "--nats", server.url, "--seed-file", seed]
    told = killed_after_a_word(*words, str(file))
    there = await in_queue(server, log)
    assert told <= len(there) < RECORDS

    again = run_command(*words, str(file))
    assert again.returncode == 1
    assert "restored once more, mail would be sent twice" in again.stderr
    assert await in_queue(server, log) == there

    on = run_command(*words, "--skip", str(told), str(file))
    assert (on.returncode, on.stderr) == (0, "")
    found = await in_queue(server, log)
    assert found.keys() == {queue_id(number) for number in range(RECORDS)}
    assert found.total() == len(there) + RECORDS - told
    assert found.total() - RECORDS <= TOLD_EVERY
