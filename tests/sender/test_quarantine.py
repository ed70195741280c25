"""One attempt in a process of its own: what it delivers, and what its death makes of the job."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import psutil
import pytest
import structlog
from structlog.testing import LogCapture

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Job, Recipient
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.publish import Publisher
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_sender import quarantine
from mailrelay_sender.connection import Verdicts
from mailrelay_sender.quarantine import NotBegunError, Quarantine
from tests.support.nats import LIMITS, NatsServer
from tests.support.relay import forwarding_to, relay_config
from tests.support.replies import Reply
from tests.support.scripting import Accept, Action, Context, Delay, Stage, Stall
from tests.support.scripts import fail_at, per_recipient
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

CONTENT = b"Subject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 40_000  # some 3 MB


@pytest.fixture
def log() -> Logger:
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    return cast(
        "Logger", structlog.wrap_logger(None, processors=[LogCapture()], wrapper_class=wrapper)
    )


@pytest.fixture
async def sender(tmp_path: Path, log: Logger) -> AsyncIterator[QueueConnection]:
    server = NatsServer(find_nats_server(print), tmp_path / "server")
    server.start()
    try:
        await server.ensure(log, LIMITS)
        async with server.connected(Role.SENDER, log) as connection:
            yield connection
    finally:
        server.kill()


class NotedVerdicts(Verdicts):
    """Tells that somebody wants to send a final dot."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def _wait_allowed(self) -> None:
        self.asked.set()
        await super()._wait_allowed()


@pytest.fixture
def verdicts() -> NotedVerdicts:
    return NotedVerdicts()


@pytest.fixture
def make(
    tmp_path: Path, sender: QueueConnection, log: Logger, verdicts: Verdicts
) -> Callable[..., Quarantine]:
    def quarantine_for(upstream: ScriptedUpstream, **changes: object) -> Quarantine:
        file = tmp_path / "config.json"
        options = {"processingTimeout": 1, **forwarding_to(upstream.port), **changes}
        file.write_text(json.dumps(relay_config(**options)))
        environ = {**os.environ, "MAILRELAY_CONFIG": str(file)}
        bodies = BodyStore(sender, Publisher(sender))
        return Quarantine(environ, bodies, 1, log, verdicts=verdicts)

    return quarantine_for


def job(**changes: object) -> Job:
    fields: dict[str, object] = {
        "submission": new_queue_id(1_700_000_000.0, 7),
        "batch": 1,
        "batches": 1,
        "total_recipients": 2,
        "accepted_at": 1_700_000_000.0,
        "reverse_path": "a@example.org",
        "recipients": (Recipient(0, "r0@example.com"), Recipient(1, "r1@example.com")),
        "content": CONTENT[:1000] + b"\r\n",
    }
    return Job(**(fields | changes))  # type: ignore[arg-type]


async def test_content_from_the_body_stream_is_delivered_and_each_recipient_has_its_outcome(
    make: Callable[[ScriptedUpstream], Quarantine], sender: QueueConnection
) -> None:
    body = await BodyStore(sender, Publisher(sender)).store_content(job().submission, CONTENT)
    async with ScriptedUpstream(
        per_recipient({"r1@example.com": Reply(550, "5.1.1 nobody")})
    ) as upstream:
        result = await make(upstream).attempt(
            job(content=b"", body=body), "next:25", 11, lambda: True
        )
        assert [outcome.disposition for outcome in result.outcomes] == [
            Disposition.BOUNCED,
            Disposition.SENT,
        ]
        assert result.fault is None
        assert [message.content for message in upstream.received] == [CONTENT]


async def test_a_next_hop_that_stalls_is_a_temporary_failure_and_no_death(
    make: Callable[[ScriptedUpstream], Quarantine],
) -> None:
    async with ScriptedUpstream(fail_at(Stage.MAIL, Stall(None))) as upstream:
        result = await make(upstream).attempt(job(), "next:25", 11, lambda: True)
    assert {outcome.disposition for outcome in result.outcomes} == {Disposition.DEFERRED}


async def test_a_suspicious_job_goes_by_its_route_and_waits_when_that_is_another_meanwhile(
    make: Callable[..., Quarantine],
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        await first.stop()
        ports = (first.port, second.port)
        hosts = [{"host": "127.0.0.1", "port": port, "tls": "opportunistic"} for port in ports]
        route = {"name": "out", "recipientDomains": ["example.com"], "smartHosts": hosts}
        quarantine = make(first, processingTimeout=30, routes=[route])
        result = await quarantine.attempt(job(), "next:25", 11, lambda: True)
        assert {(o.disposition, o.next_hop) for o in result.outcomes} == {
            (Disposition.SENT, f"127.0.0.1:{second.port}")
        }
        mixed = job(recipients=(Recipient(0, "r@example.com"), Recipient(1, "r@other.test")))
        result = await quarantine.attempt(mixed, "next:25", 11, lambda: True)
        assert {(o.disposition, o.reply.text) for o in result.outcomes} == {
            (Disposition.DEFERRED, "the routes were changed meanwhile")
        }
        assert (first.transactions, second.transactions) == (0, 1)


async def test_a_body_that_is_gone_is_a_temporary_failure(
    make: Callable[[ScriptedUpstream], Quarantine], sender: QueueConnection
) -> None:
    bodies = BodyStore(sender, Publisher(sender))
    body = await bodies.store_content(new_queue_id(1_700_000_000.0, 8), CONTENT)
    async with ScriptedUpstream(per_recipient({})) as upstream:
        result = await make(upstream).attempt(
            job(content=b"", body=body), "next:25", 11, lambda: True
        )
        assert {outcome.disposition for outcome in result.outcomes} == {Disposition.DEFERRED}
        assert "content cannot be read" in result.outcomes[0].reply.text
        assert upstream.received == []


async def test_a_process_that_dies_three_times_ends_the_job_with_the_evidence(
    make: Callable[[ScriptedUpstream], Quarantine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "_MODULE", "tests.sender.no_such_module")
    async with ScriptedUpstream(per_recipient({})) as upstream:
        result = await make(upstream).attempt(job(), "next:25", 11, lambda: True)
    assert {outcome.disposition for outcome in result.outcomes} == {Disposition.EXPIRED}
    assert "died 3 times, last: ended with 1" in str(result.outcomes[0].reply)


async def test_the_process_has_nothing_of_the_queue_and_ends_with_its_sender(
    make: Callable[[ScriptedUpstream], Quarantine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILRELAY_NATS_SEED_FILE", "seed")
    monkeypatch.setenv("MAILRELAY_NATS_URL", "nats://nowhere")
    async with ScriptedUpstream(fail_at(Stage.MAIL, Stall(None))) as upstream:
        trying = asyncio.create_task(make(upstream).attempt(job(), "next:25", 11, lambda: True))

        def ours() -> list[psutil.Process]:
            return [
                child
                for child in psutil.Process().children()
                if "mailrelay_sender.alone" in child.cmdline()
            ]

        await wait_until(lambda: bool(ours()), 10, "it was started")
        process = ours()[0]
        assert not [key for key in process.environ() if key.startswith("MAILRELAY_NATS")]
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        await wait_until(lambda: not process.is_running(), 5, "it has ended")


async def test_a_process_that_hangs_is_ended_and_counts_as_dead(
    make: Callable[[ScriptedUpstream], Quarantine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "_START_AND_END_SECONDS", 24.0)
    monkeypatch.setattr(quarantine, "DEATHS", 1)
    async with ScriptedUpstream(fail_at(Stage.MAIL, Stall(None))) as upstream:
        trying = asyncio.create_task(make(upstream).attempt(job(), "next:25", 11, lambda: True))
        await upstream.wait_until(lambda: upstream.connections > 0, 25, "it has connected")
        for child in psutil.Process().children():
            if "mailrelay_sender.alone" in child.cmdline():
                child.suspend()
        result = await trying
    assert "did not end within 25 s" in str(result.outcomes[0].reply)


async def test_its_final_dot_counts_while_it_is_not_answered(
    make: Callable[[ScriptedUpstream], Quarantine], verdicts: NotedVerdicts
) -> None:
    async with ScriptedUpstream(fail_at(Stage.FINAL_DOT, Delay(0.5))) as upstream:
        trying = asyncio.create_task(make(upstream).attempt(job(), "next:25", 11, lambda: True))
        await wait_until(lambda: verdicts.awaited == 1, 10, "it is known to be out")
        result = await trying
    assert {outcome.disposition for outcome in result.outcomes} == {Disposition.SENT}
    assert verdicts.awaited == 0


async def test_no_final_dot_goes_out_once_its_sender_stops(
    make: Callable[[ScriptedUpstream], Quarantine], verdicts: NotedVerdicts
) -> None:
    ended = 0

    def script(stage: Stage, _context: Context) -> Action:
        nonlocal ended
        ended += stage is Stage.FINAL_DOT
        return Accept()

    verdicts.close()
    async with ScriptedUpstream(script) as upstream:
        trying = asyncio.create_task(make(upstream).attempt(job(), "next:25", 11, lambda: True))
        await asyncio.wait_for(verdicts.asked.wait(), 10)
        assert verdicts.awaited == 0
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        await upstream.wait_until(lambda: not upstream.open_connections, 10, "it has ended")
    assert ended == 0


async def test_what_waited_for_its_turn_does_not_begin_when_it_may_not_any_more(
    make: Callable[[ScriptedUpstream], Quarantine],
) -> None:
    async with ScriptedUpstream(per_recipient({})) as upstream:
        with pytest.raises(NotBegunError):
            await make(upstream).attempt(job(), "next:25", 11, lambda: False)
        assert upstream.connections == 0
