"""Attempts against a scripted upstream on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import Body, Job, Recipient
from mailrelay.queue.bodies import BodyUnreadableError
from mailrelay_sender import connection as connection_module
from mailrelay_sender.attempt import AttemptResult, attempt
from mailrelay_sender.connection import ConnectionPool, UpstreamSettings, Verdicts
from mailrelay_sender.named_hops import MAX_POOLS, NamedHops
from mailrelay_sender.plan import Hosts
from mailrelay_sender.route import NamedHop, SmartHost
from tests.lib.jobs import make_job
from tests.support.certificates import Certificates, make_certificates
from tests.support.dots import stuff
from tests.support.extensions import Extensions
from tests.support.messages import every_shape
from tests.support.replies import Reply
from tests.support.scripting import (
    AcceptThenClose,
    Action,
    Close,
    CloseInContent,
    Garbage,
    Stage,
    Stall,
)
from tests.support.scripts import accept_all, fail_at, half_of_recipients, refuse_tls
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

SENT, DEFERRED, BOUNCED = Disposition.SENT, Disposition.DEFERRED, Disposition.BOUNCED
LIMIT_SECONDS = 5.0
STALL_SECONDS = 0.3


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[True, False], ids=["pipelined", "one by one"])
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedUpstream]:
    offers = Extensions(pipelining=request.param)
    async with ScriptedUpstream(extensions=offers, keep_wire=True) as running:
        yield running
        assert running.violations == []


def pool_to(
    upstream: ScriptedUpstream,
    host: str = "127.0.0.1",
    **changes: Any,  # noqa: ANN401 — options of any type
) -> contextlib.AbstractAsyncContextManager[ConnectionPool]:
    return pool_at(host, upstream.port, **changes)


@contextlib.asynccontextmanager
async def pool_at(
    host: str,
    port: int,
    **changes: Any,  # noqa: ANN401 — options of any type
) -> AsyncIterator[ConnectionPool]:
    config = RelayConfig.model_validate(
        {
            "security": {"requireAuth": False},
            "forwardSMTP": True,
            "forwardHost": host,
            "forwardPort": port,
        }
        | changes
    )
    settings = UpstreamSettings.from_config(config, "relay.test")
    pool = ConnectionPool(SmartHost(host, port), settings)
    try:
        yield pool
    finally:
        await pool.close_idle()


@pytest.fixture
async def pool(upstream: ScriptedUpstream) -> AsyncIterator[ConnectionPool]:
    async with pool_to(upstream) as made:
        yield made


async def inline(job: Job) -> AsyncIterator[bytes]:
    yield job.content


async def try_once(
    job: Job, pool: ConnectionPool, limit_seconds: float = LIMIT_SECONDS
) -> AttemptResult:
    result = await attempt(job, Hosts((pool,)), inline, limit_seconds)
    assert sorted(o.recipient for o in result.outcomes) == [r.number for r in job.recipients]
    assert result.fault is None, result.fault
    return result


def dispositions(result: AttemptResult) -> list[Disposition]:
    ordered = sorted(result.outcomes, key=lambda outcome: outcome.recipient)
    return [outcome.disposition for outcome in ordered]


async def test_a_job_is_sent_with_its_envelope(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    result = await try_once(make_job(3), pool)
    assert dispositions(result) == [SENT] * 3
    [delivery] = upstream.received
    assert delivery.mail_from == "ada@sender.test"
    assert delivery.rcpt_tos == ("r0@reader.test", "r1@reader.test", "r2@reader.test")
    assert delivery.content == make_job().content
    assert delivery.mail_params == (f"SIZE={len(delivery.content)}",)
    assert result.outcomes[0].reply.text.startswith("Ok: queued as")


async def test_every_shape_of_mail_arrives_octet_for_octet(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    for message in every_shape():
        job = make_job(
            content=stuff(message.content)[:-3],
            body_8bitmime=message.needs_8bit,
            smtputf8=message.needs_smtputf8,
        )
        assert dispositions(await try_once(job, pool)) == [SENT], message.name
        assert upstream.received[-1].content == message.content, message.name
        assert upstream.received[-1].wire == job.content
    assert upstream.connections == 1


async def test_a_bounces_empty_reverse_path_stays_empty(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    await try_once(make_job(reverse_path=""), pool)
    assert upstream.received[0].mail_from == ""


# --- Each stage, each trouble ------------------------------------------------------------------

STAGES = [Stage.CONNECT, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT]
TROUBLE: list[tuple[str, Action]] = [
    ("4xx", Reply(451, "4.7.1 Later")),
    ("5xx", Reply(550, "5.7.1 Never")),
    ("421", Reply(421, "4.3.2 Closing")),
    ("close", Close()),
    ("reset", Close(reset=True)),
    ("stall", Stall()),
    ("garbage", Garbage(b"this is no reply\r\n")),
    ("binary", Garbage(b"\xff\xfe\0\x01\r\n")),
    ("wrong code", Reply(399, "What")),
]


@pytest.mark.parametrize("name, action", TROUBLE, ids=[name for name, _ in TROUBLE])  # noqa: PT006
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: str(stage.value))
async def test_trouble_at_a_stage_is_what_it_means_and_the_next_attempt_is_clean(
    stage: Stage, name: str, action: Action, upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    upstream.script = fail_at(stage, action)
    limit = STALL_SECONDS if name == "stall" else LIMIT_SECONDS
    result = await try_once(make_job(2), pool, limit)
    before_mail = stage in {Stage.CONNECT, Stage.EHLO}
    if name == "wrong code" and stage is Stage.EHLO:
        assert dispositions(result) in ([SENT] * 2, [DEFERRED] * 2)  # an EHLO answered, oddly
    elif name == "5xx" and not before_mail:
        assert dispositions(result) == [BOUNCED] * 2
        assert result.outcomes[0].reply.enhanced == "5.7.1"
    else:
        assert dispositions(result) == [DEFERRED] * 2, result
    for outcome in result.outcomes:
        assert outcome.reply.text
    if name == "stall":
        assert "did not finish within" in result.outcomes[0].reply.text
    upstream.script = accept_all
    count = upstream.received_count
    assert dispositions(await try_once(make_job(2), pool)) == [SENT] * 2
    assert upstream.received_count == count + 1
    await pool.close_idle()
    await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "no connection is left")


async def test_an_upstream_that_is_not_there_defers(upstream: ScriptedUpstream) -> None:
    async with pool_to(upstream) as pool:
        await upstream.stop()
        result = await try_once(make_job(2), pool)
        assert dispositions(result) == [DEFERRED] * 2
        assert "4.4.1" in str(result.outcomes[0].reply)
        await upstream.start()
        assert dispositions(await try_once(make_job(2), pool)) == [SENT] * 2


@pytest.mark.parametrize(
    ("action", "disposition"),
    [(Reply(550, "5.1.1 No"), BOUNCED), (Reply(450, "4.2.1 Busy"), DEFERRED)],
)
async def test_half_of_the_recipients_fail_and_the_others_get_it(
    action: Action, disposition: Disposition, upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    upstream.script = half_of_recipients(action)
    result = await try_once(make_job(4), pool)
    assert dispositions(result) == [SENT, disposition, SENT, disposition]
    assert upstream.received[0].rcpt_tos == ("r0@reader.test", "r2@reader.test")


@pytest.mark.parametrize("action", [Close(), Reply(421, "4.3.2 Bye")])
async def test_a_connection_lost_between_recipients_defers_those_not_decided(
    action: Action, upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    def script(stage: Stage, context: Any) -> Action:  # noqa: ANN401
        if stage is not Stage.RCPT:
            return accept_all(stage, context)
        return {"r0@reader.test": Reply(550, "5.1.1 No"), "r2@reader.test": action}.get(
            context.address, accept_all(stage, context)
        )

    upstream.script = script
    result = await try_once(make_job(4), pool)
    assert dispositions(result) == [BOUNCED, DEFERRED, DEFERRED, DEFERRED]
    assert upstream.received_count == 0


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("action", [CloseInContent, AcceptThenClose])
async def test_a_connection_lost_around_the_content_defers(
    action: Any,  # noqa: ANN401
    reset: bool,  # noqa: FBT001
    upstream: ScriptedUpstream,
    pool: ConnectionPool,
) -> None:
    stage = Stage.DATA if action is CloseInContent else Stage.FINAL_DOT
    upstream.script = fail_at(stage, action(reset=reset))
    job = make_job(2, content=b"Subject: x\r\n\r\n" + b"text\r\n" * 200_000)
    result = await try_once(job, pool)
    assert dispositions(result) == [DEFERRED] * 2
    assert result.outcomes[0].reply.enhanced == "4.4.2"


# --- Pipelining (RFC 2920) ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def pool_to_waiter(replies: bytes, seen: list[bytes]) -> AsyncIterator[ConnectionPool]:
    """A server that answers a transaction's commands only when it has them all.

    `seen` gets the commands, and then whatever comes behind the replies to them.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 up.test\r\n")
            await reader.readuntil(b"\r\n")
            writer.write(b"250-up.test\r\n250 PIPELINING\r\n")
            seen.append(await reader.readuntil(b"DATA\r\n"))
            writer.write(replies)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                seen.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 2.0.0 Taken\r\n")
                await reader.read()
        finally:
            writer.close()
            served.set()

    served = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        async with pool_at("127.0.0.1", server.sockets[0].getsockname()[1]) as pool:
            yield pool
        await asyncio.wait_for(served.wait(), 30)


async def test_all_commands_leave_before_the_first_answer_where_that_is_offered() -> None:
    seen: list[bytes] = []
    replies = b"250 MAIL\r\n250 RCPT\r\n550 5.1.1 No\r\n354 Go on\r\n"
    async with pool_to_waiter(replies, seen) as pool:
        result = await try_once(make_job(2), pool)
    assert dispositions(result) == [SENT, BOUNCED]
    commands, content = seen
    assert commands.split(b"\r\n")[1:] == [
        *(b"RCPT TO:<r%d@reader.test>" % n for n in range(2)),
        b"DATA",
        b"",
    ]
    assert content == make_job().content + b".\r\n"


async def test_a_server_that_waits_for_content_for_nobody_gets_none() -> None:
    seen: list[bytes] = []
    replies = b"250 MAIL\r\n550 5.1.1 No\r\n550 5.1.1 No\r\n354 Go on\r\n"
    async with pool_to_waiter(replies, seen) as pool:
        assert dispositions(await try_once(make_job(2), pool)) == [BOUNCED] * 2
    assert len(seen) == 1  # the commands, and then the end


# --- Kept connections ---------------------------------------------------------------------------


async def test_a_connection_is_kept_for_the_next_message(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    for _ in range(5):
        await try_once(make_job(), pool)
    assert upstream.connections == 1
    await pool.close_idle()
    await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "it was ended")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_connection_closed_meanwhile_is_replaced_by_a_fresh_one(
    reset: bool,  # noqa: FBT001
    upstream: ScriptedUpstream,
    pool: ConnectionPool,
) -> None:
    await try_once(make_job(), pool)
    upstream.drop_connections(reset=reset)
    assert dispositions(await try_once(make_job(), pool)) == [SENT]
    assert upstream.connections == 2


@pytest.mark.parametrize("action", [Reply(421, "4.4.2 Idle"), Close(), Close(reset=True)])
async def test_a_kept_connection_that_says_421_to_mail_is_replaced_by_a_fresh_one(
    action: Action, upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    await try_once(make_job(), pool)
    upstream.script = fail_at(Stage.MAIL, action, times=1)
    assert dispositions(await try_once(make_job(), pool)) == [SENT]
    assert upstream.connections == 2
    assert upstream.received_count == 2


async def test_a_kept_connection_that_said_goodbye_meanwhile_is_replaced_by_a_fresh_one(
    pool: ConnectionPool,
) -> None:
    """What it said must not be taken for the answer to the next command."""
    await try_once(make_job(), pool)
    [kept] = pool._idle
    kept._dialogue.data_received(b"421 4.4.2 Idle for too long\r\n")
    assert not kept.is_open
    assert dispositions(await try_once(make_job(), pool)) == [SENT]


async def test_a_kept_connection_that_stalls_is_not_left_open(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    await try_once(make_job(), pool)
    upstream.script = fail_at(Stage.MAIL, Stall())
    assert dispositions(await try_once(make_job(), pool, STALL_SECONDS)) == [DEFERRED]
    await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "it was dropped")


async def test_a_connection_has_served_enough_at_some_time(
    upstream: ScriptedUpstream, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_MESSAGES", 2)
    for _ in range(4):
        await try_once(make_job(), pool)
    assert upstream.connections == 2


# --- Extensions ---------------------------------------------------------------------------------


async def test_mail_that_needs_smtputf8_bounces_where_it_is_not_offered(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    upstream.extensions = replace(upstream.extensions, smtputf8=False)
    needs = make_job(
        smtputf8=True, recipients=1, reverse_path="zoë@sender.test", body_8bitmime=True
    )
    result = await try_once(needs, pool)
    assert dispositions(result) == [BOUNCED]
    assert result.outcomes[0].reply.enhanced == "5.6.7"
    header = make_job(smtputf8=True, content="Subject: ü\r\n\r\n".encode(), body_8bitmime=True)
    assert dispositions(await try_once(header, pool)) == [BOUNCED]
    to_be_safe = make_job(smtputf8=True, content="A: b\r\n\r\nü\r\n".encode(), body_8bitmime=True)
    assert dispositions(await try_once(to_be_safe, pool)) == [SENT]
    assert upstream.received[0].mail_params[-1] == "BODY=8BITMIME"


async def test_an_address_of_any_shape_goes_out_as_it_came_in(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    address = '"a > b"@reader.test'
    job = make_job(recipients=1)
    job = make_job(recipients=1, smtputf8=True)
    job = Job(
        **{
            **{name: getattr(job, name) for name in job.__slots__},
            "recipients": (Recipient(0, address), Recipient(1, "用户@例え.test")),
        }
    )
    assert dispositions(await try_once(job, pool)) == [SENT, SENT]
    assert upstream.received[0].rcpt_tos == (address, "用户@例え.test")


async def test_an_upstream_that_knows_only_helo_gets_the_mail(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    upstream.script = fail_at(Stage.EHLO, Reply(502, "5.5.1 What"), times=1)
    assert dispositions(await try_once(make_job(), pool)) == [SENT]
    assert upstream.received[0].mail_params == ()


# --- TLS and AUTH -------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
async def test_tls_is_used_and_verified_against_the_configured_authority(
    implicit: bool,  # noqa: FBT001
    certificates: Certificates,
) -> None:
    offers = Extensions(starttls=certificates.server.context(), implicit_tls=implicit)
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, forwardCAFile=str(certificates.authority), forwardSSL=implicit) as pool,
    ):
        result = await try_once(make_job(), pool)
        assert dispositions(result) == [SENT]
        assert upstream.received[0].tls
        assert result.tls.startswith("TLSv1.")
        assert upstream.violations == []


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize("which", ["self_signed", "expired", "untrusted"])
async def test_a_certificate_that_does_not_verify_defers_with_a_clear_reply(
    which: str,
    implicit: bool,  # noqa: FBT001
    certificates: Certificates,
) -> None:
    server = certificates.server if which == "untrusted" else getattr(certificates, which)
    offers = Extensions(starttls=server.context(), implicit_tls=implicit)
    trusted = {} if which == "untrusted" else {"forwardCAFile": str(certificates.authority)}
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, forwardSSL=implicit, **trusted) as pool,
    ):
        result = await try_once(make_job(2), pool)
        assert dispositions(result) == [DEFERRED] * 2
        reply = result.outcomes[0].reply
        assert reply.enhanced == "4.7.5"
        assert "the certificate of 127.0.0.1 is not valid: " in reply.text
        words = {"expired": "certificate has expired", "self_signed": "self-signed certificate"}
        assert words.get(which, "unable to get local issuer certificate") in reply.text
        assert "forwardCAFile" in reply.text
        assert upstream.transactions == 0
        await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "no one is left")


async def test_verification_can_be_switched_off(certificates: Certificates) -> None:
    offers = Extensions(starttls=certificates.self_signed.context())
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, forwardVerifyTLS=False) as pool,
    ):
        assert dispositions(await try_once(make_job(), pool)) == [SENT]
        assert upstream.received[0].tls


async def test_starttls_offered_and_then_refused_defers(certificates: Certificates) -> None:
    offers = Extensions(starttls=certificates.server.context())
    async with (
        ScriptedUpstream(refuse_tls(), extensions=offers) as upstream,
        pool_to(upstream, forwardCAFile=str(certificates.authority)) as pool,
    ):
        result = await try_once(make_job(), pool)
        assert dispositions(result) == [DEFERRED]
        assert "454" in result.outcomes[0].reply.text


def test_authorities_that_cannot_be_read_are_a_fault_of_the_configuration(tmp_path: Path) -> None:
    config = RelayConfig.model_validate(
        {"security": {"requireAuth": False}, "forwardCAFile": str(tmp_path / "no.pem")}
    )
    with pytest.raises(ConfigError, match=r"forwardCAFile: must be a PEM file .*no\.pem"):
        UpstreamSettings.from_config(config, "x")


CREDENTIALS = {"forwardUsername": "ada", "forwardPassword": "open sesame"}


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_the_upstream_is_told_who_we_are(mechanism: str) -> None:
    offers = Extensions(auth=(mechanism,), credentials={"ada": "open sesame"}, auth_required=True)
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, **CREDENTIALS) as p,
    ):
        assert dispositions(await try_once(make_job(), p)) == [SENT]
        assert upstream.received[0].auth == "ada"


async def test_credentials_that_are_refused_defer_and_do_not_show() -> None:
    offers = Extensions(auth=("PLAIN",), credentials={"ada": "other"})
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, **CREDENTIALS) as p,
    ):
        result = await try_once(make_job(), p)
        assert dispositions(result) == [DEFERRED]
        reply = result.outcomes[0].reply
        assert reply.enhanced == "4.7.8"
        assert "535" in reply.text
        assert "sesame" not in str(result)
        assert "sesame" not in repr(p._settings)


async def test_an_upstream_without_auth_defers_when_we_have_credentials() -> None:
    async with ScriptedUpstream() as upstream, pool_to(upstream, **CREDENTIALS) as pool:
        result = await try_once(make_job(), pool)
        assert dispositions(result) == [DEFERRED]
        assert result.outcomes[0].reply.enhanced == "4.7.8"


async def test_a_password_is_never_sent_in_the_clear_to_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "_is_loopback", lambda _: False)
    offers = Extensions(auth=("PLAIN",))
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, **CREDENTIALS) as p,
    ):
        result = await try_once(make_job(), p)
        assert dispositions(result) == [DEFERRED]
        assert "never sent in the clear" in result.outcomes[0].reply.text
        await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "no one is left")


# --- Content ------------------------------------------------------------------------------------


async def test_content_that_cannot_be_read_bothers_no_server(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    async def unreadable(_: Job) -> AsyncIterator[bytes]:
        if upstream.connections == 0:
            raise BodyUnreadableError("chunk 0 is gone")
        yield b""

    result = await attempt(make_job(2), Hosts((pool,)), unreadable, LIMIT_SECONDS)
    assert dispositions(result) == [DEFERRED] * 2
    assert "chunk 0 is gone" in result.outcomes[0].reply.text
    assert upstream.connections == 0


async def test_content_that_breaks_off_is_never_taken(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    async def half(_: Job) -> AsyncIterator[bytes]:
        yield b"Subject: x\r\n\r\nfirst\r\n"
        raise BodyUnreadableError("chunk 1 is gone")

    result = await attempt(make_job(2), Hosts((pool,)), half, LIMIT_SECONDS)
    assert dispositions(result) == [DEFERRED] * 2
    await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "it was dropped")
    assert upstream.received_count == 0


async def test_a_fault_of_our_own_is_temporary_and_told(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    async def broken(_: Job) -> AsyncIterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise ZeroDivisionError("a bug")

    result = await attempt(make_job(1), Hosts((pool,)), broken, LIMIT_SECONDS)
    assert isinstance(result.fault, ZeroDivisionError)
    assert dispositions(result) == [DEFERRED]
    await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "it was dropped")


async def test_an_address_with_a_control_character_is_a_fault_and_leaves_no_connection(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    job = make_job(1, reverse_path="a@b.test>\r\nRCPT TO:<x@y.test")
    result = await attempt(job, Hosts((pool,)), inline, LIMIT_SECONDS)
    assert dispositions(result) == [DEFERRED]
    assert upstream.transactions == 0
    await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "it was dropped")


async def test_a_job_that_another_may_have_by_now_is_let_go_of_before_its_first_rcpt(
    upstream: ScriptedUpstream, pool: ConnectionPool
) -> None:
    sent = await try_once(make_job(1), pool)
    assert not sent.is_let_go
    result = await attempt(
        make_job(2), Hosts((pool,)), inline, LIMIT_SECONDS, is_ours=lambda: False
    )
    assert (result.is_let_go, result.outcomes, result.fault) == (True, [], None)
    await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "it was dropped")
    assert upstream.received_count == 1


async def test_a_large_body_is_streamed_with_bounded_memory(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.upstream_process",
        "--record",
        str(tmp_path / "record"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout
        port = int((await process.stdout.readline()).split()[1])
        chunk = (b"x" * 98 + b"\r\n") * 5243
        chunks = 40
        held: list[int] = []

        async def pieces(_: Job) -> AsyncIterator[bytes]:
            for number in range(chunks):
                held.append(psutil.Process().memory_info().rss)
                yield (b"%d" % (number % 10)) + chunk[1:]

        upstream = ScriptedUpstream(port=port)
        before = psutil.Process().memory_info().rss
        size = chunks * len(chunk)
        async with pool_to(upstream) as pool:
            job = make_job(1, body=Body(chunks, size, ""))
            result = await attempt(job, Hosts((pool,)), pieces, 30)
            assert dispositions(result) == [SENT]
        assert size > 20_000_000
        assert max(held) - before < 20 * 1024 * 1024

        def recorded() -> bool:
            return f'"size":{size}' in (tmp_path / "record").read_text()

        await wait_until(recorded, 5, "the upstream has all of it")
    finally:
        process.terminate()
        await process.wait()


async def test_a_named_hop_that_is_forgotten_keeps_no_connection(
    upstream: ScriptedUpstream,
) -> None:
    config = RelayConfig.model_validate({"security": {"requireAuth": False}})
    hops = NamedHops(UpstreamSettings.from_config(config, "relay.test"), Verdicts())
    pool = await hops.pool(NamedHop("127.0.0.1", upstream.port))
    connection = await pool.get()  # an attempt is under way
    for port in range(1, MAX_POOLS + 1):
        await hops.pool(NamedHop("127.0.0.1", port))
    await pool.put_back(connection)
    assert not connection.is_open
    await upstream.wait_until(lambda: not upstream.open_connections, 10, "it has ended")
