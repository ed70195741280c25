"""What a client sees of the rate limits, and what a transaction's end does with its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailrelay.mail.limit import CounterName, Scope, Window, sender_of
from mailrelay.queue.counters import CounterStore
from mailrelay.queue.publish import Publisher
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from tests.ingress.dialogue import CONTENT, greeted
from tests.ingress.ingress_process import Ingress, running_ingress
from tests.support.nats import NatsServer, limits
from tests.support.replies import Reply
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

RECIPIENT = ["b@reader.test"]
_numbers = iter(range(1_000_000))


def new_sender() -> str:
    return f"s{next(_numbers)}@sender.test"


def rate_limits(**changes: int) -> dict[str, Any]:
    """Limits that nobody reaches, but for the changes."""
    far = dict.fromkeys(("maxPerHour", "maxPerDay", "globalMaxPerHour", "globalMaxPerDay"), 10**6)
    return {"rateLimits": {"enabled": True, **far, **changes}}


async def wait_for_a_new_window(seconds: float) -> None:
    """See to it that the hour (and so the day) does not end within so many seconds."""
    rest = 3600 - time.time() % 3600
    if rest < seconds:
        number = Window.HOUR.number(time.time())
        await wait_until(
            lambda: Window.HOUR.number(time.time()) > number, rest + 1, "the next hour", 0.1
        )


def counter(scope: Scope, window: Window, sender: str = "") -> CounterName:
    return CounterName(scope, window, window.number(time.time()), sender_of(sender))


async def total(server: NatsServer, log: Logger, name: CounterName) -> int:
    async with server.connected(Role.INGRESS, log) as connection:
        counters = CounterStore(connection, Publisher(connection))
        return await counters.total(name, deadline_seconds=5)


async def wait_total(
    server: NatsServer, log: Logger, name: CounterName, wanted: int, limit_seconds: float = 1.5
) -> None:
    """Wait until the counter holds what was accepted and nothing else: a second is promised."""

    async def is_there() -> bool:
        found = await total(server, log, name)
        assert found == wanted, f"{name.limit_name} is at {found}"
        return True

    await wait_until(is_there, limit_seconds, f"{name.limit_name} is at {wanted}")


async def submit(ingress: Ingress, sender: str) -> Reply:
    async with greeted(ingress) as dialogue:
        submitted = await dialogue.submit(sender, RECIPIENT, CONTENT)
        return submitted.final or submitted.data or submitted.mail


@pytest.fixture
def three(tmp_path: Path, server: NatsServer) -> Iterator[Ingress]:
    """An ingress that takes three messages a sender and hour.

    One for each test: what it gives back late is of counters that another test has set to nothing,
    and would leave that test's below nothing.
    """
    with running_ingress(
        tmp_path / "three", server, maxMessageBytes=100_000, **rate_limits(maxPerHour=3)
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("option", "limit", "code", "enhanced"),
    [
        ("maxPerHour", "sender_hour", 450, "4.7.1"),
        ("maxPerDay", "sender_day", 450, "4.7.1"),
        ("globalMaxPerHour", "global_hour", 451, "4.3.2"),
        ("globalMaxPerDay", "global_day", 451, "4.3.2"),
    ],
)
async def test_each_limit_refuses_at_mail_with_its_reply_a_warning_and_a_metric(
    option: str,
    limit: str,
    code: int,
    enhanced: str,
    server: NatsServer,
    log: Logger,
    tmp_path: Path,
) -> None:
    await asyncio.to_thread(server.reset, log)
    await wait_for_a_new_window(60)
    sender = new_sender()
    with running_ingress(tmp_path / "one", server, **rate_limits(**{option: 2})) as ingress:
        for _ in range(2):
            assert (await submit(ingress, sender)).code == 250
        async with greeted(ingress) as dialogue:
            reply = await dialogue.cmd(f"MAIL FROM:<{sender}>")
            assert (reply.code, reply.enhanced) == (code, enhanced)
            await dialogue.cmd("RCPT TO:<b@reader.test>", 503)  # no transaction was begun
        other = await submit(ingress, new_sender())
        assert other.code == (250 if limit.startswith("sender") else code)
        warning = ingress.log_lines("mail.rate_limited")[0]
        assert warning["level"] == "warning"
        assert (warning["sender"], warning["limit"], warning["most"]) == (sender, limit, 2)
        metric = f'mailrelay_rate_limited_total{{limit="{limit}"}}'
        assert ingress.metric(metric) == (1 if limit.startswith("sender") else 2)


async def test_the_null_reverse_path_is_a_sender_and_domains_fold(three: Ingress) -> None:
    await wait_for_a_new_window(60)
    name = new_sender().partition("@")[0]
    for spelling in ("sender.test", "SENDER.test", "Sender.Test"):
        assert (await submit(three, f"{name}@{spelling}")).code == 250
    assert (await submit(three, f"{name}@sender.TEST")).code == 450
    assert (await submit(three, f"{name.upper()}@sender.test")).code == 250
    for _ in range(3):
        assert (await submit(three, "")).code == 250
    assert (await submit(three, "")).code == 450


async def rset(dialogue: SmtpDialogue) -> None:
    await dialogue.cmd("RSET", 250)


async def ehlo(dialogue: SmtpDialogue) -> None:
    await dialogue.ehlo()


async def quit_(dialogue: SmtpDialogue) -> None:
    await dialogue.quit()


async def leave(_: SmtpDialogue) -> None:
    """Close the connection without a word."""


async def disconnect(dialogue: SmtpDialogue) -> None:
    dialogue.reset()


async def disconnect_in_data(dialogue: SmtpDialogue) -> None:
    await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
    await dialogue.cmd("DATA", 354)
    dialogue.send_raw(b"Subject: x\r\n\r\nhalf a mess")
    await dialogue.drain()
    dialogue.reset()


async def too_big(dialogue: SmtpDialogue) -> None:
    await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
    await dialogue.cmd("DATA", 354)
    dialogue.send_raw(b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n")
    dialogue.send_raw((b"y" * 70 + b"\r\n") * 2000 + b".\r\n")
    await dialogue.expect(552)


async def bare_line_feed(dialogue: SmtpDialogue) -> None:
    await dialogue.cmd("RCPT TO:<b@reader.test>", 250)
    await dialogue.cmd("DATA", 354)
    dialogue.send_raw(b"Subject: x\n\n.\r\n")
    await dialogue.expect(521)


@pytest.mark.parametrize(
    "ending", [rset, ehlo, quit_, leave, disconnect, disconnect_in_data, too_big, bare_line_feed]
)
async def test_a_transaction_that_ends_without_250_gives_its_place_back(
    ending: Any,  # noqa: ANN401
    three: Ingress,
    server: NatsServer,
    log: Logger,
) -> None:
    await wait_for_a_new_window(60)
    sender = new_sender()
    for _ in range(4):
        async with greeted(three) as dialogue:
            await dialogue.cmd(f"MAIL FROM:<{sender}>", 250)
            await ending(dialogue)
        await wait_total(server, log, counter(Scope.SENDER, Window.HOUR, sender), 0)
    for _ in range(3):
        assert (await submit(three, sender)).code == 250
    assert (await submit(three, sender)).code == 450
    await wait_total(server, log, counter(Scope.SENDER, Window.HOUR, sender), 3)
    await wait_total(server, log, counter(Scope.SENDER, Window.DAY, sender), 3)


async def test_an_open_transaction_holds_its_place(three: Ingress) -> None:
    await wait_for_a_new_window(60)
    sender = new_sender()
    async with greeted(three) as one, greeted(three) as two, greeted(three) as more:
        await one.cmd(f"MAIL FROM:<{sender}>", 250)
        await two.cmd(f"MAIL FROM:<{sender}>", 250)
        await more.cmd(f"MAIL FROM:<{sender}>", 250)
        assert (await submit(three, sender)).code == 450
        await one.cmd("RSET", 250)
        assert (await submit(three, sender)).code == 250
        assert (await submit(three, sender)).code == 450


async def test_a_message_that_the_queue_has_no_room_for_is_not_counted(
    three: Ingress, server: NatsServer, log: Logger
) -> None:
    await wait_for_a_new_window(60)
    sender = new_sender()
    await asyncio.to_thread(server.reset, log, limits(queue_size=1))
    assert (await submit(three, sender)).code == 250
    for _ in range(4):
        assert (await submit(three, sender)).code == 452
    await wait_total(server, log, counter(Scope.SENDER, Window.HOUR, sender), 1)
    await asyncio.to_thread(server.reset, log)


async def test_a_client_over_its_limit_may_come_often_and_is_not_closed(three: Ingress) -> None:
    await wait_for_a_new_window(50)
    sender = new_sender()
    for _ in range(3):
        assert (await submit(three, sender)).code == 250
    async with greeted(three) as dialogue:
        for _ in range(22):
            await dialogue.cmd(f"MAIL FROM:<{sender}>", 450)
        await dialogue.cmd(f"MAIL FROM:<{new_sender()}>", 250)


async def test_a_queue_that_is_away_at_mail_is_answered_451(
    server: NatsServer, tmp_path: Path
) -> None:
    with running_ingress(tmp_path / "away", server, **rate_limits()) as ingress:
        server.stop()
        try:
            async with greeted(ingress) as dialogue:
                reply = await dialogue.cmd(f"MAIL FROM:<{new_sender()}>")
                assert (reply.code, reply.enhanced) == (451, "4.3.0")
        finally:
            server.start()

        async def is_taken() -> bool:
            return (await submit(ingress, new_sender())).code == 250

        await wait_until(is_taken, 10, "mail is taken again")


async def test_counters_survive_restarts_of_the_server_and_of_ingress(
    server: NatsServer, tmp_path: Path
) -> None:
    await wait_for_a_new_window(30)
    sender = new_sender()
    limit = rate_limits(maxPerHour=5)
    with running_ingress(tmp_path / "first", server, **limit) as ingress:
        for _ in range(2):
            assert (await submit(ingress, sender)).code == 250
        server.kill()
        server.start()
        assert (await submit(ingress, sender)).code == 250
    server.stop()
    server.start()
    with running_ingress(tmp_path / "second", server, **limit) as ingress:
        for _ in range(2):
            assert (await submit(ingress, sender)).code == 250
        assert (await submit(ingress, sender)).code == 450


async def test_an_orderly_stop_leaves_only_what_was_accepted_on_the_counters(
    server: NatsServer, log: Logger, tmp_path: Path
) -> None:
    await wait_for_a_new_window(60)
    sender = new_sender()
    with running_ingress(tmp_path / "stopped", server, **rate_limits()) as ingress:
        async with greeted(ingress) as dialogue:
            for _ in range(20):
                assert (await dialogue.submit(sender, RECIPIENT, CONTENT)).accepted
    assert await total(server, log, counter(Scope.SENDER, Window.HOUR, sender)) == 20
    assert await total(server, log, counter(Scope.SENDER, Window.DAY, sender)) == 20


async def test_without_limits_nothing_is_counted(
    server: NatsServer, log: Logger, tmp_path: Path
) -> None:
    sender = new_sender()
    with running_ingress(tmp_path / "off", server, rateLimits={"maxPerHour": 1}) as ingress:
        for _ in range(3):
            assert (await submit(ingress, sender)).code == 250
    assert await total(server, log, counter(Scope.SENDER, Window.HOUR, sender)) == 0
