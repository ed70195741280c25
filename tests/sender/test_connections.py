"""Kept connections to an upstream, PIPELINING, and what servers offer or lack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mailrelay.mail.job import Job, Recipient
from mailrelay_sender import connection as connection_module
from mailrelay_sender.connection import ConnectionPool
from tests.lib.jobs import make_job
from tests.sender.attempts import (
    BOUNCED,
    DEFERRED,
    SENT,
    STALL_SECONDS,
    dispositions,
    pool_at,
    try_once,
)
from tests.support.replies import Reply
from tests.support.scripting import (
    Action,
    Close,
    Stage,
    Stall,
)
from tests.support.scripts import fail_at
from tests.support.upstream import ScriptedUpstream

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
    reset: bool,
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
