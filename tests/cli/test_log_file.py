from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from mailrelay_cli.log_file import LogFile, LogStream, logger_into


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    log = LogFile(path)
    log.write_lines(b"one\ntwo\n")
    log.write_lines(b"three\n")
    assert path.read_bytes() == b"old\none\ntwo\nthree\n"
    assert path.stat().st_mode & 0o777 in {0o600, 0o644}


def test_a_half_line_of_a_killed_writer_gets_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"whole\nhal")
    LogFile(path).write_lines(b"next\n")
    assert path.read_bytes() == b"whole\nhal\nnext\n"


def test_the_file_rotates_between_lines_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(path, max_bytes=100, max_files=3)
    for number in range(50):
        log.write_lines(f"line {number:04}\n".encode())
    files = sorted(each.name for each in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2"]
    kept = b"".join((tmp_path / name).read_bytes() for name in ("log.2", "log.1", "log"))
    assert all((tmp_path / name).stat().st_size <= 100 for name in files)
    assert kept == b"".join(f"line {number:04}\n".encode() for number in range(20, 50))


def test_a_full_disk_loses_lines_counts_them_and_tells_later(tmp_path: Path) -> None:
    log = LogFile(Path("/dev/full"))
    log.write_lines(b"one\ntwo\n")
    log.tell("three")
    assert log.dropped == 3
    log.close()
    log._path = tmp_path / "log"
    log.write_lines(b"four\n")
    note, rest = (tmp_path / "log").read_bytes().split(b"\n", 1)
    assert json.loads(note)["event"] == "log.dropped"
    assert json.loads(note)["lines"] == 3
    assert rest == b"four\n"
    assert log.dropped == 0


def test_a_disk_that_fills_in_mid_write_keeps_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(path)
    log.write_lines(b"first\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        log.write_lines(b"x" * 8191 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"first\n"
    assert log.dropped == 1


def test_a_folder_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "gone" / "log")
    log.write_lines(b"one\n")
    assert log.dropped == 1


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_what_the_library_logs_goes_into_the_file(fmt: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger_into(LogFile(path, fmt)).warning("queue.error", error="no such thing")
    line = path.read_text()
    assert "queue.error" in line
    assert "no such thing" in line
    if fmt == "json":
        assert json.loads(line)["level"] == "warning"


def test_a_stream_gets_whole_lines_and_counts_those_that_a_slow_reader_missed() -> None:
    reader, writer = os.pipe()
    log = LogStream(writer)
    line = b"x" * 65_535 + b"\n"
    while not log.dropped:
        log.write_lines(line)
    os.set_blocking(reader, False)
    log.write_lines(line)
    log.tell("still", "info")
    assert log.dropped >= 3  # nothing is read, so nothing more is taken
    read = b""
    for _ in range(100):  # the reader is back
        log.close()
        try:
            read += os.read(reader, 4 * 1024 * 1024)
        except BlockingIOError:
            break
    log.tell("again", "info")
    read += os.read(reader, 4 * 1024 * 1024)
    assert read.endswith(b"\n")
    lines = read.splitlines()
    assert set(lines[:-2]) == {line[:-1]}
    dropped, again = map(json.loads, lines[-2:])
    assert (dropped["event"], again["event"]) == ("log.dropped", "again")
    assert dropped["lines"] >= 3
    for each in (reader, writer):
        os.close(each)
