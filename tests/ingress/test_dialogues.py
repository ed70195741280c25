"""Dialogues with a real ingress: what a proper client gets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailrelay.mail.ids import is_queue_id
from mailrelay.runtime.logging import Logger
from tests.ingress.dialogue import CONTENT, HOST, MAX_MESSAGE_BYTES, greeted, last_job, queued
from tests.ingress.ingress_process import PASSWORD, USER, Ingress, running_ingress
from tests.support.certificates import Certificates
from tests.support.nats import NatsServer
from tests.support.smtp_client import SmtpDialogue


async def test_ehlo_lists_exactly_what_is_promised(
    ingress: Ingress, secure_ingress: Ingress, certificates: Certificates
) -> None:
    plain = {
        "SIZE": str(MAX_MESSAGE_BYTES),
        "8BITMIME": "",
        "SMTPUTF8": "",
        "PIPELINING": "",
        "ENHANCEDSTATUSCODES": "",
    }
    async with greeted(ingress) as dialogue:
        assert dialogue.extensions == plain
    async with greeted(secure_ingress) as dialogue:
        offered = plain | {"SIZE": str(50 * 1024 * 1024)}
        auth = dialogue.extensions.pop("AUTH")
        assert set(auth.split()) == {"PLAIN", "LOGIN"}
        assert dialogue.extensions == offered | {"STARTTLS": ""}
        await dialogue.starttls(certificates.client_context())
        await dialogue.ehlo()
        assert set(dialogue.extensions.pop("AUTH").split()) == {"PLAIN", "LOGIN"}
        assert dialogue.extensions == offered


async def test_a_message_is_queued_with_its_envelope_and_the_fields_on_top(
    ingress: Ingress, server: NatsServer, log: Logger
) -> None:
    async with greeted(ingress) as dialogue:
        content = b"Subject: \xc3\xbc\r\n\r\n.\r\n..\r\ntext\r\n"
        submitted = await dialogue.submit(
            "a@sender.test",
            ["b@reader.test", "b@READER.test", "c@reader.test"],
            content,
            mail_params="BODY=8BITMIME SMTPUTF8",
        )
        assert submitted.accepted
    job = await last_job(server, log)
    assert job.submission == submitted.queue_id
    assert is_queue_id(job.submission)
    assert job.reverse_path == "a@sender.test"
    assert [each.address for each in job.recipients] == ["b@reader.test", "c@reader.test"]
    assert job.smtputf8
    assert job.body_8bitmime
    assert job.content.startswith(b"Received: from client.test ([127.0.0.1])\r\n\tby relay.test")
    assert job.content.endswith(b"Subject: \xc3\xbc\r\n\r\n..\r\n...\r\ntext\r\n")
    assert b"\r\nDate: " in job.content
    assert job.size_bytes == len(job.content)


async def test_a_whole_session_may_come_in_one_write(
    unharmed: Ingress, server: NatsServer, log: Logger
) -> None:
    before = await queued(server, log)
    async with greeted(unharmed) as dialogue:
        transaction = (
            b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@reader.test>\r\nDATA\r\n" + CONTENT + b".\r\n"
        )
        dialogue.send_raw(transaction * 3 + b"NOOP\r\nQUIT\r\n")
        codes = [(await dialogue.read_reply()).code for _ in range(14)]
        assert codes == [250, 250, 354, 250] * 3 + [250, 221]
        await dialogue.expect_closed()
    assert await queued(server, log) == before + 3


async def test_every_octet_may_come_alone(unharmed: Ingress) -> None:
    async with SmtpDialogue.connect(HOST, unharmed.port) as dialogue:
        await dialogue.expect(220)
        script = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<b@c.test>\r\nDATA\r\n" + CONTENT + b".\r\n"
        for number in range(len(script)):
            dialogue.send_raw(script[number : number + 1])
            await dialogue.drain()
        for code in (250, 250, 250, 354, 250):
            await dialogue.expect(code)


@pytest.mark.parametrize(
    ("command", "code", "enhanced"),
    [
        ("RSET", 250, "2.0.0"),
        ("RSET x", 501, "5.5.4"),
        ("NOOP", 250, "2.0.0"),
        ("NOOP anything", 250, "2.0.0"),
        ("VRFY root", 252, "2.5.2"),
        ("VRFY", 501, "5.5.4"),
        ("HELP", 250, "2.0.0"),
        ("EXPN list", 502, "5.5.1"),
        ("XYZZY", 500, "5.5.2"),
        ("", 500, "5.5.2"),
        ("GET / HTTP/1.1", 500, "5.5.2"),
        ("EHLO", 501, "5.5.4"),
        ("HELO", 501, "5.5.4"),
        ("DATA", 503, "5.5.1"),
        ("DATA x", 501, "5.5.4"),
        ("RCPT TO:<a@b.test>", 503, "5.5.1"),
        ("MAIL", 501, "5.5.4"),
        ("MAIL TO:<a@b.test>", 501, "5.5.4"),
        ("MAIL FROM:a@b.test", 501, "5.1.7"),
        ("MAIL FROM:<a@b.test> SIZE=x", 501, "5.5.4"),
        ("MAIL FROM:<a@b.test> SIZE=1048577", 552, "5.3.4"),
        ("MAIL FROM:<a@b.test> RET=FULL", 555, "5.5.4"),
        ("MAIL FROM:<ü@b.test>", 553, "5.6.7"),
        ("STARTTLS", 454, "4.7.0"),
        ("AUTH PLAIN AGEAYg==", None, None),
        ("QUIT", 221, "2.0.0"),
    ],
)
async def test_a_command_gets_its_reply(
    command: str, code: int | None, enhanced: str | None, ingress: Ingress
) -> None:
    async with greeted(ingress) as dialogue:
        reply = await dialogue.cmd(command)
        if code is not None:
            assert (reply.code, reply.enhanced) == (code, enhanced)
        assert reply.enhanced, f"no enhanced status code: {reply}"
        assert reply.enhanced[0] == str(reply.code)[0]


async def test_commands_out_of_order_are_refused(unharmed: Ingress) -> None:
    async with SmtpDialogue.connect(HOST, unharmed.port) as dialogue:
        assert (await dialogue.expect(220)).text.startswith("relay.test ESMTP")
        for command in ("MAIL FROM:<a@b.test>", "RCPT TO:<a@b.test>", "DATA"):
            assert (await dialogue.cmd(command, 503)).enhanced == "5.5.1"
        await dialogue.ehlo()
        await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
        await dialogue.cmd("MAIL FROM:<c@b.test>", 503)
        await dialogue.cmd("DATA", 503)
        await dialogue.cmd("RCPT TO:<>", 501)
        await dialogue.cmd("RCPT TO:<a@b.test>", 250)
        await dialogue.cmd("RSET", 250)
        await dialogue.cmd("DATA", 503)
        await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
        await dialogue.ehlo()  # RFC 5321 section 4.1.4: as RSET
        await dialogue.cmd("RCPT TO:<a@b.test>", 503)


async def test_a_client_that_says_helo_gets_no_extensions(
    ingress: Ingress, server: NatsServer, log: Logger
) -> None:
    async with SmtpDialogue.connect(HOST, ingress.port) as dialogue:
        await dialogue.expect(220)
        assert len((await dialogue.cmd("HELO client.test", 250)).lines) == 1
        await dialogue.cmd("MAIL FROM:<a@b.test> SIZE=10", 555)
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
    assert b" with SMTP\r\n" in (await last_job(server, log)).content


async def test_a_large_message_passes_with_bounded_memory(
    secure_ingress: Ingress, server: NatsServer, log: Logger
) -> None:
    before = peak = secure_ingress.rss_bytes
    block = (b"x" * 98 + b"\r\n") * 2000
    async with greeted(secure_ingress) as dialogue:
        await dialogue.auth_plain(USER, PASSWORD, 235)
        await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
        await dialogue.cmd("RCPT TO:<c@d.test>", 250)
        await dialogue.cmd("DATA", 354)
        dialogue.send_raw(b"Subject: big\r\n\r\n")
        for _ in range(100):
            dialogue.send_raw(block)
            await dialogue.drain()
            peak = max(peak, secure_ingress.rss_bytes)
        dialogue.send_raw(b".\r\n")
        reply = await dialogue.expect(250)
    job = await last_job(server, log)
    assert job.submission == reply.queue_id
    assert job.body
    assert job.content == b""
    assert job.size_bytes == job.body.size_bytes > 20_000_000
    assert peak - before < 80 * 1024 * 1024


async def test_more_recipients_than_fit_are_to_be_sent_separately(
    tmp_path: Path, server: NatsServer, log: Logger
) -> None:
    await asyncio.to_thread(server.reset, log)
    with running_ingress(tmp_path / "ingress", server, batchSize=1) as ingress:
        async with greeted(ingress) as dialogue:
            await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
            lines = "".join(f"RCPT TO:<r{number}@b.test>\r\n" for number in range(1001))
            dialogue.send_raw(lines.encode())
            for _ in range(1000):
                await dialogue.expect(250)
            assert (await dialogue.expect(452)).enhanced == "4.5.3"
            await dialogue.cmd("DATA", 354)
            dialogue.send_raw(b"Subject: x\r\n\r\n.\r\n")
            await dialogue.expect(250)
    await asyncio.to_thread(server.reset, log)  # a thousand jobs leave no room for others
