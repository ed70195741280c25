"""`mailrelay emails`: a day's content in one file that other programs read."""

from __future__ import annotations

import json
import mailbox
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailrelay.emails import kept_files
from mailrelay.mail.ids import accepted_seconds, new_queue_id
from tests.cli.relay_process import run_command

AT = datetime(2026, 11, 25, 23, 59, 59, tzinfo=UTC).timestamp()
CONTENT = b"Subject: one\r\n\r\nFrom here\r\n>From there\r\n"


def keep(data: Path, at: float, number: int, content: bytes = CONTENT) -> str:
    queue_id = new_queue_id(at, number)
    assert abs(accepted_seconds(queue_id) - at) < 0.001
    files = kept_files(data, queue_id)
    files.content.parent.mkdir(parents=True, exist_ok=True)
    files.content.write_bytes(content)
    files.envelope.write_text(json.dumps({"id": queue_id, "sender": "a@b.test"}))
    return queue_id


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    keep(folder, AT, 1)
    keep(folder, AT, 2, b"Subject: two\r\n\r\nno line end")
    keep(folder, AT + 2, 3)
    (folder / "emails" / "failed").mkdir()  # another part's
    return folder


def test_a_day_is_exported_for_mail_programs(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "day.mbox"
    arguments = ("--day", "2026-11-25", "--data-dir", str(data))
    done = run_command("emails", "export", str(out), *arguments)
    assert (done.returncode, done.stdout) == (0, f"{out}: 2 messages\n"), done.stderr
    assert out.stat().st_mode & 0o777 == 0o600
    box = mailbox.mbox(out)
    assert [message["Subject"] for message in box] == ["one", "two"]
    assert b"\n>From here\n>>From there\n" in out.read_bytes()
    assert out.read_bytes().startswith(b"From a@b.test Wed Nov 25 23:59:59 2026\n")
    box.close()


def test_a_day_is_exported_octet_for_octet(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "day.tar"
    arguments = ("--day", "2026-11-26", "--data-dir", str(data))
    done = run_command("emails", "export", str(out), *arguments)
    assert done.returncode == 0, done.stderr
    with tarfile.open(out) as archive:
        names = archive.getnames()
        assert [name.rpartition(".")[2] for name in names] == ["eml", "json"]
        member = archive.extractfile(names[0])
        assert member is not None
        assert member.read() == CONTENT
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_days_are_listed_with_their_messages(data: Path) -> None:
    done = run_command("emails", "list", "--data-dir", str(data))
    assert done.stdout == "2026-11-25  2\n2026-11-26  1\n"


@pytest.mark.parametrize(
    ("file", "day", "code", "words"),
    [
        ("x.zip", "2026-11-25", 2, "must end in .mbox or .tar"),
        ("x.tar", "yesterday", 2, "--day: 'yesterday' is no day; write YYYY-MM-DD"),
        ("x.tar", "2026-13-01", 2, "is no day"),
        ("x.tar", "../2026", 2, "is no day"),
        ("x.tar", "2026-11-01", 1, "nothing is kept of 2026-11-01"),
        ("no/folder/x.tar", "2026-11-25", 1, "cannot write no/folder/x.tar"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    file: str, day: str, code: int, words: str, data: Path
) -> None:
    done = run_command("emails", "export", file, "--day", day, "--data-dir", str(data))
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
