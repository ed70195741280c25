"""Dialogues with a real ingress: what a proper client gets, and what a hostile one does not."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from mailrelay.mail.ids import is_queue_id
from mailrelay.mail.job import Job
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import decode_jobs
from mailrelay.runtime.logging import Logger
from tests.ingress.ingress_process import PASSWORD, USER, Ingress
from tests.support.certificates import Certificates
from tests.support.nats import NatsServer
from tests.support.replies import Reply
from tests.support.smtp_client import SmtpDialogue

CONTENT = b"Subject: x\r\n\r\ntext\r\n"
HOST = "127.0.0.1"
MAX_MESSAGE_BYTES = 1024 * 1024  # as conftest.py configures it


@contextlib.asynccontextmanager
async def greeted(ingress: Ingress) -> AsyncIterator[SmtpDialogue]:
    async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
        yield dialogue


async def queued(server: NatsServer, log: Logger) -> int:
    """How many jobs the queue has."""
    async with server.connected(Role.MONITOR, log) as monitor:
        info = await monitor.api(f"STREAM.INFO.{server.names.in_stream()}")
        return int(info["state"]["messages"])


async def last_job(server: NatsServer, log: Logger) -> Job:
    async with server.connected(Role.MONITOR, log) as monitor:
        answer = await monitor.api(
            f"STREAM.MSG.GET.{server.names.in_stream()}", {"last_by_subj": "mailrelay.in.>"}
        )
        return decode_jobs(base64.b64decode(answer["message"]["data"]))[0]


async def assert_still_serves(ingress: Ingress) -> None:
    async with greeted(ingress) as dialogue:
        if "AUTH" in dialogue.extensions:
            await dialogue.auth_plain(USER, PASSWORD, 235)
        submitted = await dialogue.submit("a@sender.test", ["b@reader.test"], CONTENT)
        assert submitted.accepted, submitted
        await dialogue.quit()


@pytest.fixture
async def unharmed(ingress: Ingress) -> AsyncIterator[Ingress]:
    """The ingress; after whatever the test did, the next client is served as ever."""
    yield ingress
    await assert_still_serves(ingress)


# --- Proper clients -----------------------------------------------------------------------------


async def test_ehlo_lists_exactly_what_is_promised(
    ingress: Ingress, secure_ingress: Ingress, certificates: Certificates
) -> None:
    plain = {
        "SIZE": str(1024 * 1024),
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


# --- Hostile clients ----------------------------------------------------------------------------


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


# --- TLS and AUTH -------------------------------------------------------------------------------


async def test_without_authentication_mail_is_refused(secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        reply = await dialogue.cmd("MAIL FROM:<a@b.test>", 530)
        assert reply.enhanced == "5.7.0"


async def test_authentication_works_with_plain_and_login(
    secure_ingress: Ingress, server: NatsServer, log: Logger
) -> None:
    user, password = (base64.b64encode(text.encode()).decode() for text in (USER, PASSWORD))
    async with greeted(secure_ingress) as dialogue:
        assert (await dialogue.auth_plain(USER, PASSWORD, 235)).enhanced == "2.7.0"
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
        await dialogue.cmd("AUTH PLAIN x", 503)
    assert b" with ESMTPA\r\n" in (await last_job(server, log)).content
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("AUTH LOGIN", 334)
        await dialogue.cmd(user, 334)
        await dialogue.cmd(password, 235)
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd(f"AUTH LOGIN {user}", 334)
        await dialogue.cmd(password, 235)
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("auth plain", 334)
        whole = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
        await dialogue.cmd(whole, 235)


@pytest.mark.parametrize(
    ("user", "password"), [(USER, "wrong"), ("other", PASSWORD), ("", ""), ("\xff", "\0")]
)
async def test_bad_credentials_are_refused(
    user: str, password: str, secure_ingress: Ingress
) -> None:
    async with greeted(secure_ingress) as dialogue:
        reply = await dialogue.auth_plain(user, password)
        assert reply.code in {535, 501}
        assert reply.enhanced
        await dialogue.cmd("MAIL FROM:<a@b.test>", 530)


@pytest.mark.parametrize("line", ["AUTH PLAIN ===", "AUTH PLAIN YQ==", "AUTH CRAM-MD5", "AUTH"])
async def test_rubbish_in_authentication_is_refused(line: str, secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        reply = await dialogue.cmd(line)
        assert reply.code >= 500
        assert reply.enhanced
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("AUTH LOGIN", 334)
        assert (await dialogue.cmd("*")).code >= 500
        await dialogue.cmd("NOOP", 250)


async def test_what_is_sent_in_the_clear_behind_starttls_is_discarded(
    secure_ingress: Ingress, certificates: Certificates
) -> None:
    async with greeted(secure_ingress) as dialogue:
        dialogue.send_raw(b"STARTTLS\r\nNOOP\r\nRSET\r\nEHLO injected\r\n")
        await dialogue.expect(220)
        await dialogue.shake_hands(certificates.client_context(), "localhost")
        await dialogue.cmd("MAIL FROM:<a@b.test>", 503)  # no EHLO was heard
        await dialogue.ehlo()
        await dialogue.auth_plain(USER, PASSWORD, 235)
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted


async def test_starttls_forgets_what_was_said_before(
    secure_ingress: Ingress, certificates: Certificates, server: NatsServer, log: Logger
) -> None:
    async with greeted(secure_ingress) as dialogue:
        await dialogue.auth_plain(USER, PASSWORD, 235)
        await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
        await dialogue.starttls(certificates.client_context())
        await dialogue.cmd("RCPT TO:<a@b.test>", 503)
        await dialogue.ehlo()
        await dialogue.cmd("MAIL FROM:<a@b.test>", 530)
        assert (await dialogue.cmd("STARTTLS", 503)).enhanced == "5.5.1"
        await dialogue.auth_plain(USER, PASSWORD, 235)
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
    content = (await last_job(server, log)).content
    assert re.search(rb" with ESMTPSA\r\n\t\(using TLSv1\.[23] with cipher [A-Z0-9_-]+\)", content)


async def test_a_command_in_one_packet_with_the_end_of_the_handshake_is_heard(
    secure_ingress: Ingress, certificates: Certificates
) -> None:
    """TLS 1.3 lets a client send its first command right behind its Finished."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection((HOST, secure_ingress.port), 5) as sock:
        sock.recv(1000)
        sock.sendall(b"EHLO x\r\n")
        said = b""
        while b"250 " not in said:
            said += sock.recv(1000)
        sock.sendall(b"STARTTLS\r\n")
        assert sock.recv(1000).startswith(b"220")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(b"EHLO behind\r\n")
        sock.sendall(outgoing.read())
        heard = b""
        while b"ENHANCED" not in heard:
            with contextlib.suppress(ssl.SSLWantReadError):
                heard += tls.read()
                continue
            incoming.write(sock.recv(65536))
    assert heard.startswith(b"250-relay.test")


async def test_a_handshake_that_fails_ends_that_connection_only(secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("STARTTLS", 220)
        dialogue.send_raw(b"EHLO in the clear\r\n" * 20)
        with contextlib.suppress(AssertionError):
            await dialogue.expect_closed()
    await assert_still_serves(secure_ingress)


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
