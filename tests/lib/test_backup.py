"""A back-up of the queue, taken at a real nats-server and put into another one."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import Body, CaptureRecord, FailedRecord, Job, Recipient, ResendMark
from mailrelay.queue import backup_file
from mailrelay.queue.backup import Backup, back_up
from mailrelay.queue.backup_file import BackupError, BackupWriter, End, Head, Kind, check_backup
from mailrelay.queue.bodies import CHUNK_BYTES, BodyStore, Deletion, body_token
from mailrelay.queue.captured import CaptureStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.events import BatchReader, StoredMessage
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.lanes import NOW, lane_for
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.restore import NotEmptyError, Restore, RestoreBrokenError, restore
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import decode_jobs, encode_capture, encode_failed, encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from tests.lib.jobs import make_job, queue_id
from tests.support.nats import NatsServer
from tests.support.wait import wait_until

LARGE = bytes(range(256)) * (CHUNK_BYTES * 3 // 512)  # one chunk and a half
NOW_IS = 1_800_000_000.0
GARBAGE = b"\x01not a job"


@pytest.fixture(scope="module")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    folder = tmp_path_factory.mktemp("other") / "server"
    server = NatsServer(find_nats_server(print), folder, prefix="other")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def empty_server(other_server: NatsServer, log: Logger) -> NatsServer:
    """A server whose queue is empty and has other names."""
    other_server.reset(log)
    return other_server


@pytest.fixture
async def other(empty_server: NatsServer, log: Logger) -> AsyncIterator[QueueConnection]:
    async with empty_server.connected(Role.SENDER, log) as connection:
        yield connection


@pytest.fixture
async def other_reader(empty_server: NatsServer, log: Logger) -> AsyncIterator[QueueConnection]:
    async with empty_server.connected(Role.MONITOR, log) as connection:
        yield connection


@pytest.fixture
async def other_admin(empty_server: NatsServer, log: Logger) -> AsyncIterator[QueueConnection]:
    async with empty_server.connected(Role.ADMIN, log) as connection:
        yield connection


async def backed_up(reader: QueueConnection, path: Path) -> Backup:
    with BackupWriter(path) as writer:
        return await back_up(reader, writer)


async def restored(
    sender: QueueConnection, path: Path, skip: int = 0, *, adds: bool = False
) -> None:
    await restore(
        sender,
        Restore(path, check_backup(path), skip, adds),
        lambda: NOW_IS,
        lambda _done, _of: None,
    )


async def store(connection: QueueConnection, subject: str, payload: bytes) -> None:
    await Publisher(connection).store(Record(subject, payload, ""))


async def everything(
    connection: QueueConnection, stream: str, subjects: str
) -> list[StoredMessage]:
    reader = BatchReader(connection, stream, subjects)
    found: list[StoredMessage] = []
    while page := await reader.read(found[-1].sequence + 1 if found else 1):
        found += page
    return found


async def jobs_in_lanes(connection: QueueConnection) -> dict[str, list[Job]]:
    """What waits, by lane; a record that cannot be read has no jobs."""
    names = connection.names
    found: dict[str, list[Job]] = {}
    for message in await everything(connection, names.lane_stream, f"{names.prefix}.lane.>"):
        jobs = [] if message.payload == GARBAGE else decode_jobs(message.payload)
        found.setdefault(message.subject.split(".")[2], []).extend(jobs)
    return found


async def test_everything_that_was_open_is_in_the_other_queue(
    ingress: QueueConnection,
    sender: QueueConnection,
    monitor: QueueConnection,
    other: QueueConnection,
    other_reader: QueueConnection,
    tmp_path: Path,
) -> None:
    new = make_job(submission=queue_id(1))
    large = await with_body(ingress, make_job(1, submission=queue_id(2), batches=2))
    second = replace(large, batch=2, recipients=(Recipient(1, "second@reader.test"),))
    deferred = make_job(submission=queue_id(3), attempt=4, due=NOW_IS + 700)
    overdue = make_job(submission=queue_id(4), attempt=2, due=NOW_IS - 5)
    names = sender.names
    for job in (new, large, second):
        await store(ingress, names.in_subject(body_token(job)), encode_jobs([job]))
    for job in (deferred, overdue):
        lane = names.lane_subject(lane_for(job.due - NOW_IS), None)
        await store(sender, lane, encode_jobs([job]))
    await store(sender, names.lane_subject(NOW, None), GARBAGE)
    failed = make_job(submission=queue_id(5))
    mark = ResendMark(names.lane_stream, 7, NOW_IS)
    record = FailedRecord(failed, Disposition.BOUNCED, NOW_IS, mark)
    await store(sender, names.failed_subject(failed.submission, 0), encode_failed(record))
    captured = CaptureRecord(make_job(submission=queue_id(6)), NOW_IS)
    place = names.capture_subject(captured.job.submission, 1, "hash")
    await store(sender, place, encode_capture(captured))

    done = await backed_up(monitor, tmp_path / "file")
    assert done.records == {Kind.NEW: 3, Kind.LANE: 3, Kind.FAILED: 1, Kind.CAPTURED: 1}
    await restored(other, tmp_path / "file")

    assert await jobs_in_lanes(other_reader) == {
        "now": [new, large, second, overdue],
        "10m": [deferred],
    }
    bodies = BodyStore(other, Publisher(other))
    assert b"".join([piece async for piece in bodies.pieces(large)]) == LARGE
    last = await FailedStore(other, Publisher(other)).last(failed.submission, 0)
    assert last is not None
    assert last.record == replace(record, resending=None)
    (again,) = await CaptureStore(other_reader).read(0)
    assert (again.place, again.record) == ("1-hash", captured)


async def with_body(ingress: QueueConnection, job: Job) -> Job:
    """The job with large content that lies in the queue."""
    body: Body = await BodyStore(ingress, Publisher(ingress)).store_content(job.submission, LARGE)
    return replace(job, content=b"", body=body, size_bytes=len(LARGE))


async def test_content_that_several_records_name_is_there_for_the_last_when_the_first_is_done(
    ingress: QueueConnection,
    monitor: QueueConnection,
    other: QueueConnection,
    other_admin: QueueConnection,
    other_reader: QueueConnection,
    tmp_path: Path,
) -> None:
    """A sender delivers the first, and the monitor deletes, while the file is still read."""
    first = await with_body(ingress, make_job(1, submission=queue_id(1), batches=2))
    last = replace(first, batch=2, recipients=(Recipient(1, "second@reader.test"),))
    between = [make_job(submission=queue_id(number)) for number in range(2, 402)]
    for job in (first, *between, last):
        await store(ingress, ingress.names.in_subject(body_token(job)), encode_jobs([job]))
    await backed_up(monitor, tmp_path / "file")
    names = other.names

    async def settle_first() -> Deletion:
        subject = names.lane_subject(NOW, first.submission)
        reader = BatchReader(other_reader, names.lane_stream, subject)
        await wait_until(lambda: reader.read(1, 1), 30, "the first is restored", 0.001)
        await other_admin.api(f"STREAM.PURGE.{names.lane_stream}", {"filter": subject})
        bodies = BodyStore(other_admin, Publisher(other_admin))
        return await bodies.delete_unused(first.submission)

    async with asyncio.TaskGroup() as tasks:
        deletion = tasks.create_task(settle_first())
        tasks.create_task(restored(other, tmp_path / "file"))
    assert deletion.result() is Deletion.DONE
    assert last in (await jobs_in_lanes(other_reader))["now"]
    bodies = BodyStore(other, Publisher(other))
    assert b"".join([piece async for piece in bodies.pieces(last)]) == LARGE


@pytest.mark.parametrize("is_inside", [False, True], ids=["named before", "inside before"])
async def test_content_of_another_record_before_is_written_once_more_behind_the_next(
    is_inside: bool,
    ingress: QueueConnection,
    monitor: QueueConnection,
    other: QueueConnection,
    other_reader: QueueConnection,
    tmp_path: Path,
) -> None:
    """What was asked before that record was there deletes only what was stored before, too."""
    first = await with_body(ingress, make_job(1, submission=queue_id(1), batches=2))
    last = replace(first, batch=2, recipients=(Recipient(1, "second@reader.test"),))
    if is_inside:
        first = replace(first, body=None, content=LARGE)
    for job in (first, last):
        await store(ingress, ingress.names.in_subject(body_token(job)), encode_jobs([job]))
    await backed_up(monitor, tmp_path / "file")

    async def chunks_behind_the_last_record() -> bool:
        names = other.names
        records = await everything(other_reader, names.lane_stream, f"{names.prefix}.lane.>")
        chunks = await everything(other_reader, names.body_stream, f"{names.prefix}.body.>")
        assert len(chunks) == 2
        return all(chunk.stored_at > records[-1].stored_at for chunk in chunks)

    await restored(other, tmp_path / "file")
    assert await chunks_behind_the_last_record()
    # Nobody knows how far the attempt before came, and what became of that since.
    await restored(other, tmp_path / "file", skip=1)
    assert await chunks_behind_the_last_record()


async def test_a_tombstone_and_a_resend_under_way_are_left_out_and_the_failure_is_not(
    sender: QueueConnection, monitor: QueueConnection, tmp_path: Path
) -> None:
    names = sender.names
    done = make_job(submission=queue_id(1))
    await store(sender, names.failed_subject(done.submission, 0), b"")
    failed = make_job(submission=queue_id(2))
    record = FailedRecord(failed, Disposition.EXPIRED, NOW_IS)
    await store(sender, names.failed_subject(failed.submission, 0), encode_failed(record))
    resend = encode_jobs([replace(failed, resend_of=2)])
    await store(sender, names.lane_subject(NOW, None), resend)
    found = await backed_up(monitor, tmp_path / "file")
    assert found.records == {Kind.NEW: 0, Kind.LANE: 0, Kind.FAILED: 1, Kind.CAPTURED: 0}


async def test_a_back_up_while_mail_moves_has_each_recipient_once(
    server: NatsServer,
    sender: QueueConnection,
    monitor: QueueConnection,
    other: QueueConnection,
    other_reader: QueueConnection,
    log: Logger,
    tmp_path: Path,
) -> None:
    jobs = [make_job(2, submission=queue_id(number)) for number in range(1, 301)]
    for job in jobs:
        await store(sender, sender.names.lane_subject(NOW, None), encode_jobs([job]))
    moves = 0

    async def move_for_ever(admin: QueueConnection) -> None:
        """As senders do: what remains is stored, then the old record goes; one recipient fails."""
        nonlocal moves
        stream = sender.names.lane_stream
        while True:
            (oldest,) = await BatchReader(monitor, stream, f"{sender.names.prefix}.lane.>").read(
                1, 1
            )
            (job,) = decode_jobs(oldest.payload)
            if len(job.recipients) > 1 and moves % 7 == 0:
                lost = replace(job, recipients=job.recipients[1:])
                record = FailedRecord(lost, Disposition.BOUNCED, NOW_IS)
                place = sender.names.failed_subject(job.submission, lost.recipients[0].number)
                await store(sender, place, encode_failed(record))
                job = replace(job, recipients=job.recipients[:1])
            later = replace(job, attempt=job.attempt + 1)
            await store(sender, sender.names.lane_subject(NOW, None), encode_jobs([later]))
            body = {"seq": oldest.sequence, "no_erase": True}
            await admin.api(f"STREAM.MSG.DELETE.{stream}", body)
            moves += 1

    async with server.connected(Role.ADMIN, log) as admin:
        moving = asyncio.create_task(move_for_ever(admin))
        try:
            await wait_until(lambda: moves > 0 or moving.done(), 30, "a record has moved")
            before = moves
            done = await backed_up(monitor, tmp_path / "file")
            assert moves > before, "nothing moved meanwhile"
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)
    await restored(other, tmp_path / "file")
    found = Counter(
        (job.submission, recipient.number)
        for waiting in (await jobs_in_lanes(other_reader)).values()
        for job in waiting
        for recipient in job.recipients
    )
    failed = FailedStore(other_reader, Publisher(other_reader))
    found.update([(each.submission, each.recipient) async for each in failed.walk()])
    assert sum(done.records.values()) >= len(jobs)
    assert found == Counter({(job.submission, n): 1 for job in jobs for n in (0, 1)})


async def a_file(ingress: QueueConnection, reader: QueueConnection, path: Path, jobs: int) -> None:
    """A back-up of so many jobs, and nothing left in the queue that they were in."""
    for number in range(1, jobs + 1):
        job = make_job(submission=queue_id(number))
        await store(ingress, ingress.names.in_subject(None), encode_jobs([job]))
    await backed_up(reader, path)


async def test_a_queue_with_mail_is_left_alone_unless_one_says_so(
    ingress: QueueConnection, sender: QueueConnection, monitor: QueueConnection, tmp_path: Path
) -> None:
    await a_file(ingress, monitor, tmp_path / "file", 1)
    with pytest.raises(NotEmptyError, match="mailrelay-in-0 holds 1 records"):
        await restored(sender, tmp_path / "file")
    assert await jobs_in_lanes(monitor) == {}
    await restored(sender, tmp_path / "file", adds=True)
    assert len((await jobs_in_lanes(monitor))["now"]) == 1


async def test_a_restore_that_broke_off_goes_on_where_it_was(
    ingress: QueueConnection,
    monitor: QueueConnection,
    other: QueueConnection,
    other_admin: QueueConnection,
    other_reader: QueueConnection,
    tmp_path: Path,
) -> None:
    await a_file(ingress, monitor, tmp_path / "file", 5)
    stream = other.names.lane_stream
    config = (await other_admin.api(f"STREAM.INFO.{stream}"))["config"]
    await other_admin.api(f"STREAM.UPDATE.{stream}", config | {"max_msgs": 3})
    with pytest.raises(RestoreBrokenError) as broken:
        await restored(other, tmp_path / "file")
    assert broken.value.restored == 3
    await other_admin.api(f"STREAM.UPDATE.{stream}", config)
    await restored(other, tmp_path / "file", broken.value.restored)
    found = (await jobs_in_lanes(other_reader))["now"]
    assert [job.submission for job in found] == [queue_id(number) for number in range(1, 6)]


async def test_however_much_came_while_it_was_made_a_back_up_can_be_read(
    ingress: QueueConnection,
    monitor: QueueConnection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is longer is refused as damage. Patched, because 64 MB would take a million recipients.
    monkeypatch.setattr(backup_file, "_MAX_FRAME", 2000)
    await a_file(ingress, monitor, tmp_path / "file", 100)
    assert check_backup(tmp_path / "file").records == 100


async def test_a_file_that_is_not_whole_is_refused(
    ingress: QueueConnection, monitor: QueueConnection, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    await a_file(ingress, monitor, whole, 3)
    assert check_backup(whole).records == 3
    octets = whole.read_bytes()
    with BackupWriter(tmp_path / "endless") as writer:
        writer.write(Head(1, NOW_IS, "mailrelay"))
    with BackupWriter(tmp_path / "later") as writer:
        writer.write(Head(2, NOW_IS, "mailrelay"))
    (tmp_path / "cut").write_bytes(octets[:-20])
    (tmp_path / "foreign").write_bytes(b"PK\x03\x04 something else")
    (tmp_path / "packed").write_bytes(gzip.compress(b"\x00\x00\x00\x04text"))
    for name in ("endless", "cut", "foreign", "packed", "missing"):
        with pytest.raises(BackupError, match=rf"{name} .*(damaged|no back-up|cannot be read)"):
            check_backup(tmp_path / name)
    with pytest.raises(BackupError, match="format 2, and this version reads 1"):
        check_backup(tmp_path / "later")


async def test_an_octet_that_is_another_one_is_found_wherever_it_is(
    ingress: QueueConnection, monitor: QueueConnection, tmp_path: Path
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    await a_file(ingress, monitor, whole, 3)
    octets = whole.read_bytes()
    for place in range(10, len(octets)):  # behind gzip's header, in which a time is, and no mail
        damaged.write_bytes(octets[:place] + bytes([octets[place] ^ 0xFF]) + octets[place + 1 :])
        with pytest.raises(BackupError, match="damaged"):
            check_backup(damaged)


def assert_nothing_in(folder: Path) -> None:
    assert list(folder.iterdir()) == []


async def test_a_back_up_that_fails_leaves_no_file(
    monitor: QueueConnection, tmp_path: Path
) -> None:
    async def fails() -> None:
        with BackupWriter(tmp_path / "file") as writer:
            await back_up(monitor, writer)
            raise QueueUnavailableError("gone")

    with pytest.raises(QueueUnavailableError):
        await fails()
    assert_nothing_in(tmp_path)


def test_nobody_else_may_read_a_back_up(tmp_path: Path) -> None:
    with BackupWriter(tmp_path / "file") as writer:
        writer.write(End(0))
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
