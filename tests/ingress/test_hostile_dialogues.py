"""Dialogues with a real ingress: what a hostile client does not get, and does not harm."""

from __future__ import annotations

import contextlib
import socket

import pytest

from mailrelay.runtime.logging import Logger
from tests.ingress.dialogue import (
    CONTENT,
    HOST,
    MAX_MESSAGE_BYTES,
    assert_still_serves,
    greeted,
    last_job,
    queued,
)
from tests.ingress.ingress_process import Ingress
from tests.support.nats import NatsServer
from tests.support.replies import Reply
from tests.support.smtp_client import SmtpDialogue


async def test_a_command_line_may_be_longer_than_512_octets(unharmed: Ingress) -> None:
    async with greeted(unharmed) as dialogue:
        await dialogue.cmd(b"NOOP " + b"x" * 2000, 250)


@pytest.mark.parametrize("length", [2100, 5000, 300_000])
async def test_an_overlong_command_line_is_refused_once(length: int, unharmed: Ingress) -> None:
    async with greeted(unharmed) as dialogue:
        reply = await dialogue.cmd(b"NOOP " + b"x" * length, 500)
        assert reply.enhanced == "5.5.2"
        await dialogue.cmd("NOOP", 250)


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0",
        b"NOOP\0",
        b"MAIL FROM:<a\0@b.test>",
        b"MAIL FROM:<a@b.test>\0 SIZE=1",
        b"MAIL FROM:<a@b.test\rRCPT TO:<x@y.test>",
        b"MAIL FROM:<a@[IPv6:::1%\rRCPT TO:<x@y.test>]>",
        b"\xff\xfe\xfd",
        b"MAIL FROM:<\xff@b.test>",
        b"MAIL FROM:<\xff@b.test> SMTPUTF8",
        b"M\xc3\x84IL FROM:<a@b.test>",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_octets_that_have_no_place_in_a_command_are_refused(
    line: bytes, unharmed: Ingress
) -> None:
    async with greeted(unharmed) as dialogue:
        reply = await dialogue.cmd(line)
        assert reply.code >= 500, reply
        assert reply.enhanced
        await dialogue.cmd("NOOP", 250)


async def test_a_helo_name_of_rubbish_does_not_reach_the_received_field(
    unharmed: Ingress, server: NatsServer, log: Logger
) -> None:
    async with SmtpDialogue.connect(HOST, unharmed.port) as dialogue:
        await dialogue.expect(220)
        await dialogue.cmd(b"EHLO x\rX-Evil: 1 (\0\xff)", 250)
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
    content = (await last_job(server, log)).content
    assert content.startswith(b"Received: from [127.0.0.1] ([127.0.0.1])\r\n\tby relay.test ")
    assert b"Evil" not in content


SMUGGLED = (
    b"MAIL FROM:<evil@sender.test>\r\nRCPT TO:<victim@reader.test>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nevil\r\n.\r\n"
)


@pytest.mark.parametrize(
    "ending",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r.\n",
        b"\n.\r",
        b"\r\n.\r",
        b"\r\n.\n",
        b"\r\n\n.\r\n",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\n",
        b"\n\n.\n\n",
        b"\r\n\r.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n\0.\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("apart", [False, True], ids=["one-write", "two-writes"])
async def test_smuggling_is_refused_and_there_is_no_second_message(
    ending: bytes,
    apart: bool,
    unharmed: Ingress,
    server: NatsServer,
    log: Logger,
) -> None:
    before = await queued(server, log)
    async with greeted(unharmed) as dialogue:
        await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
        await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
        await dialogue.cmd("DATA", 354)
        dialogue.send_raw(b"Subject: x\r\n\r\ntext" + ending)
        if apart:
            await dialogue.drain()
        dialogue.send_raw(SMUGGLED)
        reply = await dialogue.read_reply()
        if b"\0" in ending:
            assert (reply.code, reply.enhanced) == (554, "5.6.0")
        else:
            assert (reply.code, reply.enhanced) == (521, "5.5.2")
            await dialogue.expect_closed()
    assert await queued(server, log) == before


async def test_a_refused_message_whose_end_is_not_found_is_not_read_as_commands(
    unharmed: Ingress, server: NatsServer, log: Logger
) -> None:
    """It is too big first, and has a bare line feed then: the rest is content, not commands."""
    before = await queued(server, log)
    async with greeted(unharmed) as dialogue:
        await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
        await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
        await dialogue.cmd("DATA", 354)
        line = b"x" * 76 + b"\r\n"
        dialogue.send_raw(line * (MAX_MESSAGE_BYTES // len(line) + 2000))
        await dialogue.drain()
        dialogue.send_raw(b"bare\nline" + b"\r\n" * 3 + SMUGGLED)
        assert (await dialogue.read_reply()).code == 552
        await dialogue.expect_closed()
    assert await queued(server, log) == before


async def test_a_client_that_is_told_to_come_again_may_do_so_often(unharmed: Ingress) -> None:
    async with greeted(unharmed) as dialogue:
        await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
        for number in range(20_000):
            dialogue.send_raw(b"RCPT TO:<r%d@reader.test>\r\n" % number)
            if number % 500 == 499:
                for _ in range(500):
                    assert (await dialogue.read_reply()).code == 250
        for _ in range(30):  # more than the errors that end a session
            await dialogue.cmd("RCPT TO:<more@reader.test>", 452)
        await dialogue.cmd("NOOP", 250)


@pytest.mark.parametrize("ending", [b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n"], ids=repr)
async def test_a_client_that_ends_its_mail_wrongly_is_told_at_once(
    ending: bytes, unharmed: Ingress
) -> None:
    async with greeted(unharmed) as dialogue:
        dialogue.limit_seconds = 3
        await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
        await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
        await dialogue.cmd("DATA", 354)
        dialogue.send_raw(b"text" + ending)
        await dialogue.expect(521)
        await dialogue.expect_closed()


async def test_commands_behind_a_refused_message_are_not_carried_out(
    unharmed: Ingress, server: NatsServer, log: Logger
) -> None:
    before = await queued(server, log)
    async with greeted(unharmed) as dialogue:
        await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
        await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
        await dialogue.cmd("DATA", 354)
        dialogue.send_raw(b"x\n.\n" + SMUGGLED * 500)
        await dialogue.expect(521)
        await dialogue.expect_closed()
    assert await queued(server, log) == before


async def test_a_line_that_is_too_long_is_refused_and_the_session_goes_on(
    unharmed: Ingress,
) -> None:
    async with greeted(unharmed) as dialogue:
        for content, code in [(b"x" * 999, 554), (b"." * 999, 554), (b"." * 998, 250)]:
            submitted = await dialogue.submit("a@b.test", ["c@d.test"], content + b"\r\n")
            assert submitted.final
            assert submitted.final.code == code


async def test_mail_that_went_round_in_circles_is_refused(unharmed: Ingress) -> None:
    async with greeted(unharmed) as dialogue:
        submitted = await dialogue.submit(
            "a@b.test", ["c@d.test"], b"Received: x\r\n" * 100 + b"\r\n"
        )
        assert submitted.final
        assert (submitted.final.code, submitted.final.enhanced) == (554, "5.4.6")


async def test_too_many_errors_end_the_session(unharmed: Ingress) -> None:
    async with greeted(unharmed) as dialogue:
        for _ in range(19):
            await dialogue.cmd("RCPT TO:<a@b.test>", 503)
        reply = await dialogue.cmd("RCPT TO:<a@b.test>", 421)
        assert reply.enhanced == "4.7.0"
        await dialogue.expect_closed()


async def test_unknown_commands_end_the_session(unharmed: Ingress) -> None:
    async with greeted(unharmed) as dialogue:
        replies: list[Reply] = []
        with contextlib.suppress(AssertionError):
            while len(replies) < 30:
                replies.append(await dialogue.cmd("XYZZY"))
        assert 1 < len(replies) < 30
        assert all(reply.enhanced for reply in replies)


async def test_a_connection_dropped_in_the_middle_of_data_leaves_nothing(
    unharmed: Ingress, server: NatsServer, log: Logger
) -> None:
    before = await queued(server, log)
    for reset in (False, True):
        async with greeted(unharmed) as dialogue:
            await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
            await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
            await dialogue.cmd("DATA", 354)
            dialogue.send_raw(CONTENT * 20_000)
            await dialogue.drain()
            if reset:
                dialogue.reset()
    await assert_still_serves(unharmed)
    assert await queued(server, log) == before + 1


async def test_a_message_above_the_limit_is_refused_and_the_session_goes_on(
    unharmed: Ingress,
) -> None:
    line = b"x" * 98 + b"\r\n"
    async with greeted(unharmed) as dialogue:
        submitted = await dialogue.submit("a@b.test", ["c@d.test"], line * 11_000)
        assert submitted.final
        assert (submitted.final.code, submitted.final.enhanced) == (552, "5.3.4")
        assert (await dialogue.submit("a@b.test", ["c@d.test"], line * 10_000)).accepted


async def test_endless_data_is_cut_and_memory_stays_bounded(unharmed: Ingress) -> None:
    before = peak = unharmed.rss_bytes
    block = (b"x" * 98 + b"\r\n") * 2000
    with socket.create_connection((HOST, unharmed.port), 10) as sock:
        file = sock.makefile("rb")
        file.readline()
        sock.sendall(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nDATA\r\n")
        for _ in range(4):
            file.readline()
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100 * 1024 * 1024:
                sock.sendall(block)
                sent += len(block)
                peak = max(peak, unharmed.rss_bytes)
        with contextlib.suppress(ConnectionError):
            assert file.readline().startswith(b"552 5.3.4 ")
    assert sent < 20 * 1024 * 1024
    assert peak - before < 80 * 1024 * 1024


async def test_an_endless_command_line_takes_no_memory(unharmed: Ingress) -> None:
    before = unharmed.rss_bytes
    with socket.create_connection((HOST, unharmed.port), 10) as sock:
        sock.recv(1000)
        for _ in range(64):
            sock.sendall(b"x" * 1024 * 1024)
        assert unharmed.rss_bytes - before < 20 * 1024 * 1024
