from __future__ import annotations

import asyncio
import smtplib
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import dots, scripts
from tests.support.certificates import make_certificates
from tests.support.extensions import Extensions
from tests.support.messages import every_shape, of_size
from tests.support.replies import Reply
from tests.support.scripting import (
    AcceptThenClose,
    Action,
    Close,
    CloseInContent,
    Context,
    Delay,
    Garbage,
    Stage,
    Stall,
)
from tests.support.smtp_client import ConnectionEndedError, SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def _shook_badly(upstream: ScriptedUpstream) -> bool:
    return bool(upstream.tls_failures) and upstream.open_connections == 0


HELLO = b"Subject: hello\r\nX-Ledger-Id: one\r\n\r\nhello\r\n"


async def test_every_shape_arrives_as_it_was_sent() -> None:
    async with (
        ScriptedUpstream(keep_wire=True) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        for message in every_shape():
            params = "SMTPUTF8 BODY=8BITMIME" if message.needs_smtputf8 else ""
            if message.needs_8bit and not params:
                params = "BODY=8BITMIME"
            submitted = await dialogue.submit(
                "a@b.test", ["c@d.test"], message.content, mail_params=params, pipelined=True
            )
            assert submitted.accepted, message.name
            delivery = upstream.received[-1]
            assert delivery.content == message.content, message.name
            assert delivery.wire + b".\r\n" == dots.stuff(message.content), message.name
        assert upstream.violations == []


async def test_stdlib_client_delivers_with_tls_and_auth(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    offers = Extensions(
        starttls=certificates.server.context(),
        auth=("PLAIN", "LOGIN"),
        auth_only_with_tls=True,
        auth_required=True,
        credentials={"ada": "s3cret"},
    )

    def converse(port: int, mechanism: str) -> None:
        with smtplib.SMTP("localhost", port, timeout=10) as client:
            client.ehlo()
            assert "auth" not in client.esmtp_features
            client.starttls(context=certificates.client_context())
            client.ehlo()
            client.user, client.password = "ada", "wrong"
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
            client.password = "s3cret"  # noqa: S105 - the test's own
            client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
            client.sendmail("a@b.test", ["c@d.test", "e@d.test"], HELLO)

    async with ScriptedUpstream(extensions=offers) as upstream:
        await asyncio.to_thread(converse, upstream.port, "PLAIN")
        await asyncio.to_thread(converse, upstream.port, "LOGIN")
        first, second = await upstream.wait_received(2)
        assert (first.tls, first.auth) == (True, "ada")
        assert first.rcpt_tos == ("c@d.test", "e@d.test")
        assert first.content == HELLO
        assert (first.connection, second.connection) == (1, 2)
        assert first.ledger_id == "one"
        assert upstream.violations == []


async def test_implicit_tls_and_bad_certificates(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    good = Extensions(starttls=certificates.server.context(), implicit_tls=True)
    trust = certificates.client_context()
    async with (
        ScriptedUpstream(extensions=good) as upstream,
        SmtpDialogue.connect(upstream.host, upstream.port, tls=trust) as dialogue,
    ):
        await dialogue.expect(220)
        assert "STARTTLS" not in await dialogue.ehlo()
    for bad in (certificates.expired, certificates.self_signed):
        async with (
            ScriptedUpstream(extensions=Extensions(starttls=bad.context())) as upstream,
            SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
        ):
            with pytest.raises(OSError, match="certificate verify failed"):
                await dialogue.starttls(trust)
            await wait_until(partial(_shook_badly, upstream), 5, "a failed handshake")


async def test_commands_smuggled_before_the_handshake_are_dropped(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    offers = Extensions(starttls=certificates.server.context())
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        dialogue.send_raw(b"STARTTLS\r\nEHLO injected\r\n")
        await dialogue.expect(220)
        await dialogue.shake_hands(certificates.client_context(), "localhost")
        await dialogue.cmd("MAIL FROM:<a@b.test>", 503)
        await dialogue.ehlo()
        assert len(upstream.violations) == 1


async def test_recipients_are_answered_one_by_one_and_by_attempt() -> None:
    script = scripts.per_recipient(
        {
            "later@x.test": [Reply(451, "4.7.1 later"), Reply(250, "2.1.5 now")],
            "never@x.test": Reply(550, "5.1.1 no\n5.1.1 really"),
            lambda address: address.endswith("@full.test"): Reply(452, "4.2.2 full"),
        }
    )
    rcpts = ["ok@x.test", "later@x.test", "never@x.test", "any@full.test"]
    async with (
        ScriptedUpstream(script) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        first = await dialogue.submit("", rcpts, HELLO)
        second = await dialogue.submit("", rcpts, HELLO, pipelined=True)
        assert [reply.code for reply in first.rcpts] == [250, 451, 550, 452]
        assert first.rcpts[2].lines == ("5.1.1 no", "5.1.1 really")
        assert first.rcpts[1].enhanced == "4.7.1"
        assert [reply.code for reply in second.rcpts] == [250, 250, 550, 452]
        assert [d.rcpt_tos for d in upstream.received] == [
            ("ok@x.test",),
            ("ok@x.test", "later@x.test"),
        ]
        assert upstream.attempts["never@x.test"] == 2
        assert first.queue_id == "U1"


async def test_a_fraction_is_deferred_once_and_the_same_in_every_run() -> None:
    script = scripts.defer_fraction(0.3, seed=7)

    def asked(address: str, nth: int) -> bool:
        context = Context(1, 1, address, nth, "", (), b"", tls=False, auth=None)
        return script(Stage.RCPT, context) == scripts.DEFERRAL

    deferred = [n for n in range(2000) if asked(f"r{n}@x.test", 1)]
    assert 0.25 < len(deferred) / 2000 < 0.35
    assert not any(asked(f"r{n}@x.test", 2) for n in deferred)
    assert deferred[:3] == [n for n in range(100) if scripts.chosen(f"r{n}@x.test", 0.3, 7)][:3]


async def test_half_of_recipients_and_tls_can_be_refused(tmp_path: Path) -> None:
    script = scripts.first_of(scripts.half_of_recipients(), scripts.refuse_tls())
    offers = Extensions(starttls=make_certificates(tmp_path).server.context())
    async with (
        ScriptedUpstream(script, extensions=offers) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        await dialogue.cmd("STARTTLS", 454)
        submitted = await dialogue.submit("", [f"r{n}@x.test" for n in range(5)], HELLO)
        assert [reply.code for reply in submitted.rcpts] == [250, 550, 250, 550, 250]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_message_is_taken_without_a_reply(*, reset: bool) -> None:
    script = scripts.fail_at(Stage.FINAL_DOT, AcceptThenClose(reset=reset), times=1)
    async with ScriptedUpstream(script) as upstream:
        async with SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue:
            with pytest.raises(ConnectionEndedError):
                await dialogue.submit("", ["c@d.test"], HELLO)
        assert len(upstream.received) == 1
        async with SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue:
            assert (await dialogue.submit("", ["c@d.test"], HELLO)).accepted
        assert len(upstream.received) == 2


@pytest.mark.parametrize("stage", [Stage.CONNECT, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA])
@pytest.mark.parametrize("action", [Close(), Close(reset=True), Reply(421, "4.3.2 bye")])
async def test_a_connection_is_dropped_at_any_stage(stage: Stage, action: Close | Reply) -> None:
    async with (
        ScriptedUpstream(scripts.fail_at(stage, action, times=1)) as upstream,
        SmtpDialogue.connect(upstream.host, upstream.port) as dialogue,
    ):
        with pytest.raises(AssertionError):  # noqa: PT012 - where it fails is the parameter
            await dialogue.expect(220)
            await dialogue.ehlo()
            await dialogue.cmd("MAIL FROM:<>", 250)
            await dialogue.cmd("RCPT TO:<c@d.test>", 250)
            await dialogue.cmd("DATA", 354)
        if isinstance(action, Reply):
            await dialogue.expect_closed()
        await upstream.wait_until(lambda: upstream.open_connections == 0)
        assert upstream.received == []
        assert upstream.in_flight == 0


async def test_a_connection_is_dropped_within_the_content() -> None:
    script = scripts.fail_at(Stage.DATA, CloseInContent(after_bytes=50_000, reset=True))
    async with (
        ScriptedUpstream(script) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        with pytest.raises(ConnectionEndedError):
            await dialogue.submit("", ["c@d.test"], of_size(5_000_000))
        assert upstream.received == []


async def test_stalls_and_delays_hold_the_answer_back() -> None:
    actions: dict[Stage, Action] = {
        Stage.MAIL: Delay(0.1),
        Stage.RCPT: Stall(0.1),
        Stage.RSET: Stall(),
    }
    script = scripts.first_of(*(scripts.fail_at(*pair) for pair in actions.items()))
    async with (
        ScriptedUpstream(script) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        began = time.monotonic()
        submitted = await dialogue.submit("", ["c@d.test"], HELLO, pipelined=True)
        assert submitted.accepted
        assert time.monotonic() - began >= 0.19
        dialogue.limit_seconds = 0.1
        with pytest.raises(AssertionError, match=r"waited 0\.1 s for a reply"):
            await dialogue.cmd("RSET")
        await dialogue.close()
        await upstream.wait_until(lambda: upstream.open_connections == 0)


async def test_garbage_is_sent_as_it_is() -> None:
    async with (
        ScriptedUpstream(scripts.fail_at(Stage.EHLO, Garbage(b"\x00\xffno\r\n"))) as upstream,
        SmtpDialogue.connect(upstream.host, upstream.port) as dialogue,
    ):
        await dialogue.expect(220)
        with pytest.raises(AssertionError, match="not a reply line"):
            await dialogue.ehlo()


@pytest.mark.parametrize(
    "ending", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\r.\r"]
)
async def test_only_crlf_dot_crlf_ends_the_content(ending: bytes) -> None:
    smuggled = b"one" + ending + b"MAIL FROM:<evil@x.test>\r\n"
    async with (
        ScriptedUpstream() as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        for line in ("MAIL FROM:<>", "RCPT TO:<c@d.test>"):
            await dialogue.cmd(line, 250)
        await dialogue.cmd("DATA", 354)
        dialogue.send_raw(smuggled + b".\r\n")
        await dialogue.expect(250)
        assert len(upstream.received) == 1
        assert b"evil" in upstream.received[0].content
        assert any("bare CR or LF" in each for each in upstream.violations)


async def test_the_end_of_content_is_found_across_any_chunks() -> None:
    content = b".\r\n\r\n..\r\n.x\r\nlast\r\n"
    async with (
        ScriptedUpstream() as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        dialogue._writer.transport.get_extra_info("socket").setsockopt(6, 1, 1)  # TCP_NODELAY
        for line in ("MAIL FROM:<>", "RCPT TO:<c@d.test>"):
            await dialogue.cmd(line, 250)
        await dialogue.cmd("DATA", 354)
        for octet in dots.stuff(content):
            dialogue.send_raw(bytes([octet]))
            await asyncio.sleep(0.001)
        await dialogue.expect(250)
        assert upstream.received[0].content == content


async def test_twenty_megabytes_are_taken_quickly() -> None:
    content = of_size(20_000_000)
    async with (
        ScriptedUpstream(keep_content=False) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        began = time.monotonic()
        assert (await dialogue.submit("", ["c@d.test"], content)).accepted
        assert time.monotonic() - began < 5
        assert upstream.received[0].size == 20_000_000
        assert upstream.received[0].content == b""


async def test_an_upstream_comes_back_on_its_port_with_its_counts() -> None:
    async with ScriptedUpstream() as upstream:
        port = upstream.port
        async with SmtpDialogue.greeted(upstream.host, port) as dialogue:
            await dialogue.submit("", ["c@d.test"], HELLO)
            await upstream.stop()
            await dialogue.expect_closed()
        with pytest.raises(ConnectionRefusedError):
            async with SmtpDialogue.connect(upstream.host, port):
                pass
        await upstream.start()
        async with SmtpDialogue.greeted(upstream.host, port) as dialogue:
            await dialogue.submit("", ["c@d.test"], HELLO)
        assert (upstream.port, upstream.connections) == (port, 2)
        assert upstream.attempts["c@d.test"] == 2


async def test_an_upstream_listens_on_ipv6() -> None:
    async with (
        ScriptedUpstream(host="::1") as upstream,
        SmtpDialogue.greeted("::1", upstream.port) as dialogue,
    ):
        assert (await dialogue.submit("", ["c@d.test"], HELLO)).accepted


async def test_what_was_not_offered_is_refused_or_noted() -> None:
    bare = Extensions(pipelining=False, size=None, eight_bit_mime=False, smtputf8=False)
    async with (
        ScriptedUpstream(extensions=bare) as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as dialogue,
    ):
        assert set(dialogue.extensions) == {"ENHANCEDSTATUSCODES"}
        for param in ("SIZE=1", "BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "X=1"):
            await dialogue.cmd(f"MAIL FROM:<a@b.test> {param}", 555)
        await dialogue.cmd("MAIL FROM:<ä@b.test>", 553)
        await dialogue.submit("", ["c@d.test"], "\r\nä\r\n".encode(), pipelined=True)
        assert {each.split(": ")[1] for each in upstream.violations} == {
            "pipelining without leave after b'MAIL'",
            "pipelining without leave after b'RCPT'",
            "8-bit content without BODY=8BITMIME",
        }


async def test_in_flight_counts_open_transactions() -> None:
    async with (
        ScriptedUpstream() as upstream,
        SmtpDialogue.greeted(upstream.host, upstream.port) as one,
        SmtpDialogue.greeted(upstream.host, upstream.port) as two,
    ):
        await one.cmd("MAIL FROM:<>", 250)
        await two.cmd("MAIL FROM:<>", 250)
        assert upstream.in_flight == 2
        await one.cmd("RSET", 250)
        two.reset()
        await upstream.wait_until(lambda: upstream.in_flight == 0)
        assert (upstream.max_in_flight, upstream.max_open_connections) == (2, 2)


async def test_a_wait_that_fails_says_what_happened_so_far() -> None:
    async with ScriptedUpstream() as upstream:
        with pytest.raises(AssertionError, match=r"3 deliveries\nupstream .* 0 received"):
            await upstream.wait_received(3, timeout=0.05)
