"""Kept content ages, and takes no more of the disk than it may."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry

from mailrelay.config.model import Emails
from mailrelay.emails import days, kept_files, kept_of_day
from mailrelay.mail.ids import QueueId, new_queue_id
from mailrelay.runtime.logging import Logger
from mailrelay_monitor.kept import KeptEmails, KeptMetrics, kept_content

DAY = 24 * 3600.0
NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC
MEGABYTE = 1024 * 1024


def keep(data: Path, at: float, number: int, size: int = 1000) -> QueueId:
    queue_id = new_queue_id(at, number)
    files = kept_files(data, queue_id)
    files.content.parent.mkdir(parents=True, exist_ok=True)
    files.content.write_bytes(os.urandom(size))
    files.envelope.write_text("{}")
    return queue_id


def keeper(data: Path, log: Logger, **limits: float) -> KeptEmails:
    return KeptEmails(
        data,
        Emails.model_validate(limits),
        clock=lambda: NOW,
        log=log,
        metrics=KeptMetrics(CollectorRegistry()),
    )


def left(data: Path) -> list[QueueId]:
    return [queue_id for day in days(data) for queue_id in kept_of_day(data, day)]


def test_what_is_older_than_it_may_be_goes(tmp_path: Path, log: Logger) -> None:
    old = [keep(tmp_path, NOW - 3 * DAY, 1), keep(tmp_path, NOW - DAY - 1, 2)]
    young = [keep(tmp_path, NOW - DAY + 1, 3), keep(tmp_path, NOW, 4)]
    swept = keeper(tmp_path, log, keepSeconds=DAY).sweep()
    assert (swept.too_old, swept.too_much) == (2, 0)
    assert left(tmp_path) == young
    assert not kept_files(tmp_path, old[0]).content.parent.exists()
    assert not kept_files(tmp_path, old[1]).envelope.exists()


def test_the_oldest_goes_first_when_there_is_too_much(tmp_path: Path, log: Logger) -> None:
    kept = [keep(tmp_path, NOW - (9 - n) * DAY / 3, n, MEGABYTE // 2) for n in range(10)]
    thinner = keeper(tmp_path, log, maxBytes=2 * MEGABYTE)
    swept = thinner.sweep()
    assert swept.left_bytes <= 2 * MEGABYTE
    assert left(tmp_path) == kept[-3:]  # the envelopes take space too
    assert swept.too_much == 7
    assert thinner.sweep().too_much == 0
    more = keep(tmp_path, NOW + 1, 99, MEGABYTE // 2)
    assert thinner.sweep().too_much == 1
    assert left(tmp_path) == [*kept[-2:], more]


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path, log: Logger) -> None:
    queue_id = keep(tmp_path, NOW - 2 * DAY, 1)
    failed = tmp_path / "emails" / "failed"
    failed.mkdir()
    (failed / f"{queue_id}.json").write_text("{}")
    note = kept_files(tmp_path, queue_id).content.parent / "note.txt"
    note.write_text("mine")
    keeper(tmp_path, log, keepSeconds=DAY).sweep()
    assert note.read_text() == "mine"
    assert (failed / f"{queue_id}.json").exists()


def test_what_was_left_half_written_goes_after_an_hour(tmp_path: Path, log: Logger) -> None:
    folder = kept_files(tmp_path, keep(tmp_path, NOW, 1)).content.parent
    for name, age in ((".old.eml.new", 3700), (".young.eml.new", 3500)):
        (folder / name).write_text("half")
        os.utime(folder / name, (NOW - age, NOW - age))
    keeper(tmp_path, log).sweep()
    assert [each.name for each in folder.iterdir() if each.name.startswith(".")] == [
        ".young.eml.new"
    ]


def test_no_folder_is_nothing_to_do(tmp_path: Path, log: Logger) -> None:
    swept = keeper(tmp_path, log).sweep()
    assert (swept.too_old, swept.too_much, swept.left_bytes) == (0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_content_is_found_by_its_queue_id(tmp_path: Path) -> None:
    queue_id = keep(tmp_path, NOW, 1)
    assert kept_content(tmp_path, queue_id) == kept_files(tmp_path, queue_id).content
    assert kept_content(tmp_path, new_queue_id(NOW, 2)) is None
