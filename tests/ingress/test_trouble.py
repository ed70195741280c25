"""The queue full, frozen or away; idle clients; the end of the process. A server of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, cast

import pytest

from mailrelay.queue.bodies import MAX_COPIED_BYTES
from mailrelay.queue.events import EventWriter
from mailrelay.queue.publish import Publisher
from mailrelay.queue.rights import Role
from mailrelay.runtime.certificate import ServerCertificate
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.tracing import tracing_from_environ
from mailrelay_ingress import listener
from mailrelay_ingress.authentication import Authenticator, Users
from mailrelay_ingress.enqueue import Enqueuer, Intake
from mailrelay_ingress.listener import protocol, receive
from mailrelay_ingress.policy import Policy
from tests.ingress.dialogue import CONTENT, HOST, greeted
from tests.ingress.ingress_process import Ingress, running_ingress
from tests.support.nats import LIMITS, NatsServer, limits
from tests.support.replies import Reply
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

RECIPIENT = ["b@reader.test"]


@pytest.fixture
def running(server: NatsServer, tmp_path: Path) -> Iterator[Ingress]:
    with running_ingress(tmp_path / "ingress", server) as ingress:
        yield ingress


async def submit(ingress: Ingress, *, recipients: list[str] = RECIPIENT) -> Reply:
    async with greeted(ingress) as dialogue:
        dialogue.limit_seconds = 30
        submitted = await dialogue.submit("a@sender.test", recipients, CONTENT)
        assert submitted.final
        return submitted.final


async def test_a_full_queue_is_answered_452_until_there_is_room(
    running: Ingress, server: NatsServer, log: Logger
) -> None:
    await asyncio.to_thread(server.reset, log, limits(queue_size=2))
    many = [f"r{number}@reader.test" for number in range(60)]  # three jobs
    refused = await submit(running, recipients=many)
    assert (refused.code, refused.enhanced) == (452, "4.3.1")
    for _ in range(2):
        assert (await submit(running)).code == 250
    refused = await submit(running)
    assert (refused.code, refused.enhanced) == (452, "4.3.1")
    await asyncio.to_thread(server.reset, log, LIMITS)
    assert (await submit(running)).code == 250
    assert (await submit(running, recipients=many)).code == 250


async def test_content_that_the_queue_lost_meanwhile_is_not_accepted(
    running: Ingress, server: NatsServer, log: Logger
) -> None:
    await asyncio.to_thread(server.reset, log, LIMITS)
    async with greeted(running) as dialogue:
        dialogue.limit_seconds = 30
        await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
        await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
        await dialogue.cmd("DATA", 354)
        dialogue.send_raw(b"Subject: x\r\n\r\n" + (b"z" * 76 + b"\r\n") * 40_000)

        async def chunks() -> int:
            async with server.connected(Role.MONITOR, log) as monitor:
                info = await monitor.api("STREAM.INFO.mailrelay-body")
            return int(info["state"]["messages"])

        async def some_are_stored() -> bool:
            return await chunks() >= 4

        await wait_until(some_are_stored, 10, "chunks are stored")
        await server.lose_data(log)
        dialogue.send_raw(b"the end\r\n.\r\n")
        refused = await dialogue.read_reply()
        assert (refused.code, refused.enhanced) == (451, "4.3.0")
    async with server.connected(Role.ADMIN, log) as admin:
        info = await admin.api("STREAM.INFO.mailrelay-in-0")
    assert info["state"]["messages"] == 0
    assert (await submit(running)).code == 250


async def test_a_record_names_the_body_that_its_settling_may_write(
    running: Ingress, server: NatsServer, log: Logger
) -> None:
    """Or that body would be deleted before the next record names it (queue rule 10)."""
    await asyncio.to_thread(server.reset, log, LIMITS)
    subjects = []
    for size in (1_000, 300_000):
        async with greeted(running) as dialogue:
            content = b"Subject: x\r\n\r\n" + b"y" * 76 + b"\r\n"
            submitted = await dialogue.submit(
                "a@sender.test", RECIPIENT, content + (b"z" * 76 + b"\r\n") * (size // 78)
            )
            assert submitted.accepted
            subjects.append(submitted.queue_id if size > MAX_COPIED_BYTES else "-")
    async with server.connected(Role.ADMIN, log) as admin:
        info = await admin.api("STREAM.INFO.mailrelay-in-0", {"subjects_filter": ">"})
    assert set(info["state"]["subjects"]) == {f"mailrelay.in.0.{token}" for token in subjects}


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_a_queue_that_is_away_is_answered_451_and_250_again_afterwards(
    running: Ingress, server: NatsServer, how: str
) -> None:
    assert (await submit(running)).code == 250
    if how == "stopped":
        server.stop()
    else:
        server.freeze()
    started = time.monotonic()
    answers = await asyncio.gather(*(submit(running) for _ in range(3)))
    took = time.monotonic() - started
    if how == "stopped":
        server.start()
    else:
        server.thaw()
    for reply in answers:
        assert (reply.code, reply.enhanced) == (451, "4.3.0")
    assert took < 20

    async def taken() -> bool:
        return (await submit(running)).code == 250

    await wait_until(taken, 10, "mail is taken again")


async def test_mail_sent_while_the_queue_restarts_is_taken(
    running: Ingress, server: NatsServer
) -> None:
    server.kill()
    sending = asyncio.create_task(submit(running))
    await asyncio.sleep(0.5)  # it tries meanwhile; how often plays no part
    assert not sending.done()
    server.start()
    assert (await sending).code == 250


@pytest.mark.parametrize("away_from", ["the first chunk on", "the job on"])
async def test_large_mail_sent_while_the_queue_restarts_is_taken(
    running: Ingress, server: NatsServer, log: Logger, away_from: str
) -> None:
    await asyncio.to_thread(server.reset, log, LIMITS)
    async with greeted(running) as dialogue:
        dialogue.limit_seconds = 30
        await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
        await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
        await dialogue.cmd("DATA", 354)
        if away_from == "the first chunk on":
            server.kill()
        # What is more than inline goes to the body stream, in two whole chunks.
        dialogue.send_raw(b"Subject: x\r\n\r\n" + (b"z" * 76 + b"\r\n") * 14_000)
        if away_from == "the job on":
            await wait_until(lambda: chunks(server, log, at_least=2), 10, "chunks are stored")
            server.kill()
        dialogue.send_raw(b"the end\r\n.\r\n")
        reply = asyncio.create_task(dialogue.read_reply())
        await asyncio.sleep(0.5)  # it tries meanwhile; how often plays no part
        assert not reply.done(), reply.result()
        server.start()
        assert (await reply).code == 250


async def chunks(server: NatsServer, log: Logger, *, at_least: int) -> bool:
    async with server.connected(Role.MONITOR, log) as monitor:
        info = await monitor.api("STREAM.INFO.mailrelay-body")
    return int(info["state"]["messages"]) >= at_least


async def test_an_orderly_stop_lets_a_message_under_way_end(running: Ingress) -> None:
    async with greeted(running) as sending, greeted(running) as waiting:
        await sending.cmd("MAIL FROM:<a@b.test>", 250)
        await sending.cmd("RCPT TO:<a@b.test>", 250)
        await sending.cmd("DATA", 354)
        os.kill(running.process.pid, signal.SIGTERM)
        reply = await waiting.expect(421)
        assert reply.enhanced == "4.3.2"
        await waiting.expect_closed()
        sending.send_raw(CONTENT + b".\r\n")
        await sending.expect(250)
        await sending.expect(421)
        await sending.expect_closed()
    assert await asyncio.to_thread(running.process.wait, 10) == 0


async def test_more_clients_than_allowed_are_told_to_come_again(
    server: NatsServer, tmp_path: Path
) -> None:
    with running_ingress(tmp_path / "few", server, maxConnections=2) as ingress:
        async with greeted(ingress) as one, greeted(ingress) as two:
            async with SmtpDialogue.connect(HOST, ingress.port) as third:
                assert (await third.expect(421)).enhanced == "4.7.0"
                await third.expect_closed()
            await one.quit()
            await two.cmd("NOOP", 250)
            assert (await submit(ingress)).code == 250


async def test_an_idle_client_is_told_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 0.2)
    served = await served_here()
    try:
        async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
            reply = await dialogue.expect(421)
            assert reply.enhanced == "4.4.2"
            await dialogue.expect_closed()
    finally:
        await served.stop()


async def test_a_client_from_elsewhere_is_not_offered_authentication_in_the_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "peer_address", lambda _: "192.0.2.1")
    served = await served_here(user="ada")
    try:
        async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
            assert "AUTH" not in dialogue.extensions
            reply = await dialogue.auth_plain("ada", "secret", 538)
            assert reply.enhanced == "5.7.11"
    finally:
        await served.stop()


async def test_a_message_that_comes_too_slowly_ends_its_session(
    monkeypatch: pytest.MonkeyPatch, server: NatsServer, log: Logger
) -> None:
    """What follows is content: it must not be read as commands."""
    monkeypatch.setattr(receive, "MAX_DATA_SECONDS", -1.0)
    async with server.connected(Role.INGRESS, log) as connection:
        events = EventWriter(connection, Publisher(connection), lambda _: None)
        tracing = tracing_from_environ("ingress", {})
        served = await served_here(enqueuer=Enqueuer(connection, events, tracing, log, 20))
        try:
            async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
                await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
                await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
                await dialogue.cmd("DATA", 354)
                dialogue.send_raw(b"Subject: x\r\n\r\nfirst\r\n")
                assert (await dialogue.expect(421)).enhanced == "4.4.2"
                await dialogue.expect_closed()
        finally:
            await served.stop()


class FaultyEnqueuer(Enqueuer):
    """Has a bug."""

    async def finish(self, intake: Intake) -> NoReturn:
        """Fail."""
        await intake.complete()
        raise ValueError("a bug")


async def test_a_bug_in_storing_is_answered_451_and_the_next_message_is_heard(
    server: NatsServer, log: Logger
) -> None:
    async with server.connected(Role.INGRESS, log) as connection:
        events = EventWriter(connection, Publisher(connection), lambda _: None)
        tracing = tracing_from_environ("ingress", {})
        served = await served_here(enqueuer=FaultyEnqueuer(connection, events, tracing, log, 20))
        try:
            async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
                for _ in range(2):
                    await dialogue.cmd("MAIL FROM:<a@sender.test>", 250)
                    await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
                    await dialogue.cmd("DATA", 354)
                    dialogue.send_raw(b"Subject: x\r\n\r\nhi\r\n.\r\n")
                    await dialogue.expect(451)
        finally:
            await served.stop()


async def test_a_client_from_elsewhere_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "peer_address", lambda _: "192.0.2.1")
    served = await served_here(local_only=True)
    try:
        async with SmtpDialogue.connect(HOST, served.port) as dialogue:
            assert (await dialogue.expect(550)).enhanced == "5.7.1"
            await dialogue.expect_closed()
    finally:
        await served.stop()


class Served:
    """A listener in this process, for what another process could not be made to do."""

    def __init__(self, serving: listener.Listener, port: int) -> None:
        self._serving = serving
        self.port = port

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._serving.connections

    async def stop(self) -> None:
        await self._serving.stop(1.0)
        await asyncio.sleep(0)


async def served_here(
    *,
    user: str = "",
    local_only: bool = False,
    enqueuer: Enqueuer | None = None,
    certificate: ServerCertificate | None = None,
    **security: object,
) -> Served:
    import socket  # noqa: PLC0415

    from mailrelay.config.model import RelayConfig  # noqa: PLC0415
    from mailrelay_ingress.leases import LeaseBook  # noqa: PLC0415
    from mailrelay_ingress.memory import MemoryBudget  # noqa: PLC0415
    from mailrelay_ingress.rate_limits import RateLimiter  # noqa: PLC0415
    from tests.ingress.conftest import silent_log  # noqa: PLC0415

    config = RelayConfig.model_validate(
        {
            "security": {"requireAuth": False, "allowLocalOnly": local_only, **security},
            "defaultUsername": user,
            "defaultPassword": "secret" if user else "",
        }
    )
    parts = listener.ListenerParts(
        policy=Policy(config),
        # Nothing is limited, so nobody asks for tokens.
        rate_limiter=RateLimiter(
            config.rate_limits, cast("LeaseBook", None), time.time, silent_log()
        ),
        authenticator=Authenticator(Users(config)),
        enqueuer=cast("Enqueuer", enqueuer),  # without one no message may get so far
        budget=MemoryBudget(),
        log=silent_log(),
        host_name="relay.test",
        max_message_bytes=1000,
        certificate=certificate,
    )
    serving = listener.Listener(parts)
    sock = socket.create_server((HOST, 0))
    await serving.start([sock])
    return Served(serving, int(sock.getsockname()[1]))


async def test_a_port_that_is_taken_is_named_and_ends_it_with_2(
    running: Ingress, server: NatsServer, tmp_path: Path
) -> None:
    environ = os.environ | {
        "MAILRELAY_CONFIG": str(tmp_path / "ingress" / "config.json"),
        "MAILRELAY_NATS_URL": server.url,
        "MAILRELAY_NATS_SEED_FILE": str(server.seed_file(Role.INGRESS)),
        "MAILRELAY_DATA_DIR": str(tmp_path / "data"),
    }
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mailrelay_ingress"),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(second.communicate(), 30)
    finally:
        if second.returncode is None:
            second.kill()
            await second.wait()
    assert second.returncode == 2, said
    assert f"port 127.0.0.1:{running.port} cannot be opened: Address already in use" in str(said)
    assert "set smtpHost or smtpPort" in str(said)
