"""Attempts against a scripted upstream on real sockets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mailrelay.config.model import RelayConfig
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import Body, Job
from mailrelay.queue.bodies import BodyUnreadableError
from mailrelay_sender.attempt import attempt
from mailrelay_sender.connection import ConnectionPool, UpstreamSettings, Verdicts
from mailrelay_sender.named_hops import MAX_POOLS, NamedHops
from mailrelay_sender.plan import Hosts
from mailrelay_sender.route import NamedHop
from tests.lib.jobs import make_job
from tests.sender.attempts import (
    BOUNCED,
    DEFERRED,
    LIMIT_SECONDS,
    SENT,
    STALL_SECONDS,
    dispositions,
    inline,
    pool_to,
    try_once,
)
from tests.support.dots import stuff
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
from tests.support.scripts import accept_all, fail_at, half_of_recipients
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until


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
    reset: bool,
    upstream: ScriptedUpstream,
    pool: ConnectionPool,
) -> None:
    stage = Stage.DATA if action is CloseInContent else Stage.FINAL_DOT
    upstream.script = fail_at(stage, action(reset=reset))
    job = make_job(2, content=b"Subject: x\r\n\r\n" + b"text\r\n" * 200_000)
    result = await try_once(job, pool)
    assert dispositions(result) == [DEFERRED] * 2
    assert result.outcomes[0].reply.enhanced == "4.4.2"


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
