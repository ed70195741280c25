"""Content that is kept beside the queue, by a real ingress and on a disk that fails."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from mailrelay.emails import kept_files, kept_of_day
from mailrelay.mail.ids import QueueId
from mailrelay.mail.wire_form import DotUnstuffer
from mailrelay_ingress import keep
from mailrelay_ingress.accept import Submission
from mailrelay_ingress.keep import ContentKeeper
from mailrelay_ingress.session import Client, Transaction
from tests.ingress.conftest import silent_log
from tests.ingress.dialogue import HOST
from tests.ingress.ingress_process import Ingress, running_ingress
from tests.support import dots
from tests.support.nats import NatsServer
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

KEEPING = {"requireAuth": False, "logAllEmails": True}
DOTTED = b"Subject: x\r\n\r\n.\r\n..\r\n.dot\r\ntext.\r\n"


def submission() -> Submission:
    client = Client("192.0.2.1", is_local=False, helo="\udcff", esmtp=True)
    transaction = Transaction("a@b.test")
    transaction.add("ü@d.test")
    return Submission.begin(client, transaction, "relay.test")


async def submitted(ingress: Ingress, content: bytes) -> QueueId:
    async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
        dialogue.limit_seconds = 30
        found = await dialogue.submit("a@sender.test", ["b@reader.test", "c@reader.test"], content)
        assert found.accepted, found
        assert found.queue_id
        return QueueId(found.queue_id)


@pytest.mark.parametrize("size", [0, 200_000, 3_000_000])
async def test_accepted_content_is_kept_as_its_author_wrote_it(
    size: int, tmp_path: Path, server: NatsServer
) -> None:
    content = DOTTED + (b"." + b"x" * 76 + b"\r\n") * (size // 79)
    data_dir = tmp_path / "data"
    with running_ingress(
        tmp_path / "ingress", server, data_dir=data_dir, security=KEEPING
    ) as ingress:
        queue_id = await submitted(ingress, content)
        files = kept_files(data_dir, queue_id)
        await wait_until(files.content.exists, 10, "the file")
        kept = files.content.read_bytes()
        assert kept.startswith(b"Received: from client.test")
        assert kept.endswith(content)
        envelope = json.loads(files.envelope.read_bytes())
        assert envelope["id"] == queue_id
        assert envelope["sender"] == "a@sender.test"
        assert envelope["recipients"] == ["b@reader.test", "c@reader.test"]
        assert envelope["client"] == HOST
        for path, mode in ((files.content, 0o600), (files.content.parent, 0o700)):
            assert path.stat().st_mode & 0o777 == mode


async def test_what_was_refused_or_broken_off_is_not_kept(
    tmp_path: Path, server: NatsServer
) -> None:
    data_dir = tmp_path / "data"
    with running_ingress(
        tmp_path / "ingress", server, data_dir=data_dir, security=KEEPING, maxMessageBytes=4_000_000
    ) as ingress:
        block = (b"x" * 98 + b"\r\n") * 20_000
        for ending in (block * 3 + b".\r\n", b"a\nb\r\n.\r\n", None):
            async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
                dialogue.limit_seconds = 30
                await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
                await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
                await dialogue.cmd("DATA", 354)
                dialogue.send_raw(b"Subject: x\r\n\r\n" + block)
                await dialogue.drain()
                if ending is not None:
                    dialogue.send_raw(ending)
                    await dialogue.expect(552, 521)
        last = await submitted(ingress, DOTTED)
        files = kept_files(data_dir, last)
        await wait_until(files.content.exists, 10, "the file")
        names = {each.name for each in files.content.parent.iterdir()}
    assert list(kept_of_day(data_dir, files.content.parent.name)) == [last]
    assert {name for name in names if not name.startswith(".")} == {f"{last}.eml", f"{last}.json"}
    left = {each.name for each in files.content.parent.iterdir()}
    assert left == {f"{last}.eml", f"{last}.json"}  # the half written ones are gone with it


async def test_a_folder_that_cannot_be_written_refuses_no_mail(
    tmp_path: Path, server: NatsServer
) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "emails").write_text("a file where the folder should be")
    with running_ingress(
        tmp_path / "ingress", server, data_dir=data_dir, security=KEEPING
    ) as ingress:
        queue_id = await submitted(ingress, DOTTED)
        await wait_until(lambda: "emails.not_kept" in ingress.log_text, 10, "it is told")
        line = next(each for each in ingress.log_text.splitlines() if "emails.not_kept" in each)
        assert json.loads(line)["id"] == queue_id
        await submitted(ingress, DOTTED)


async def test_off_makes_no_folder(tmp_path: Path, server: NatsServer) -> None:
    data_dir = tmp_path / "data"
    with running_ingress(tmp_path / "ingress", server, data_dir=data_dir) as ingress:
        await submitted(ingress, DOTTED)
    assert not data_dir.exists()


def test_what_the_disk_does_not_keep_up_with_goes_unkept_and_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "MAX_HELD_BYTES", 1000)
    keeper = ContentKeeper(tmp_path, silent_log(), is_on=True)
    # A pipe that nobody reads stands where the first file goes: the thread waits there.
    first, later = submission(), submission()
    stuck = keeper.begin(first)
    assert stuck is not None
    pipe = Path(keep.scratch_of(kept_files(tmp_path, first.queue_id)))
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    stuck.add(b"x" * 900)
    copy = keeper.begin(later)
    assert copy is not None
    copy.add(b"y" * 101)
    assert copy.lost
    copy.keep(b"")
    with pipe.open("rb") as reader:
        stuck.keep(b"")
        assert reader.read(900) == b"x" * 900
        keeper.close(10)
    assert keeper._held_bytes == 0
    assert not kept_files(tmp_path, later.queue_id).content.exists()


def test_a_full_disk_is_left_to_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "FREE_FLOOR_BYTES", 2**62)
    keeper = ContentKeeper(tmp_path, silent_log(), is_on=True)
    copy = keeper.begin(submission())
    assert copy is not None
    copy.keep(DOTTED)
    keeper.close(10)
    assert copy.lost
    assert list(tmp_path.iterdir()) == []


def test_an_envelope_of_any_octets_can_be_written(tmp_path: Path) -> None:
    keeper = ContentKeeper(tmp_path, silent_log(), is_on=True)
    named = submission()
    copy = keeper.begin(named)
    assert copy is not None
    copy.keep(DOTTED)
    keeper.close(10)
    envelope = json.loads(kept_files(tmp_path, named.queue_id).envelope.read_bytes())
    assert (envelope["helo"], envelope["recipients"]) == ("\\xff", ["ü@d.test"])


def test_stuffed_dots_are_taken_out_wherever_the_pieces_are_cut() -> None:
    content = b".\r\n..\r\n...x\r\n\r\n.\r\nx.\r\n.\r.\r\n"
    wire = dots.stuff(content).removesuffix(b".\r\n")
    choice = random.Random(1)  # noqa: S311 — no secret
    for _ in range(500):
        cuts = sorted(choice.sample(range(len(wire) + 1), choice.randrange(8)))
        unstuffer = DotUnstuffer()
        edges = zip([0, *cuts], [*cuts, len(wire)], strict=True)
        assert b"".join(unstuffer.feed(wire[a:b]) for a, b in edges) == content
