"""Streams that fill up: what is refused, what goes on, and that all of it drains (queue rule 7)."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from mailrelay_sender.work import MAX_SETTLING
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.replies import Reply
from tests.support.scripts import per_recipient
from tests.support.smtp_client import SmtpDialogue, Submitted
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

MB = 1024 * 1024
LATER = Reply(450, "4.2.0 later")
WORKERS = 5
LINE = b"y" * 70 + b"\r\n"
# The least that leaves each stream a few megabytes: lanes 12, new mail 9.6, bodies 10.5.
SMALL_STORE = {"queue": {"storeBytes": 48 * MB, "ackWaitSeconds": 4}, "queueSize": 100_000}


def content(size_bytes: int) -> bytes:
    return b"Subject: large\r\n\r\n" + LINE * (size_bytes // len(LINE))


async def submit(client: SmtpDialogue, recipients: list[str], size_bytes: int) -> Submitted:
    return await client.submit("a@example.org", recipients, content(size_bytes))


async def fill(relay: Relay, recipients: list[str], size_bytes: int, most: int) -> int:
    """Submit until the answer is 452; returns how many were taken."""
    async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=40) as client:
        await client.expect(220)
        await client.ehlo()
        for taken in range(most):
            submitted = await submit(client, recipients, size_bytes)
            if not submitted.accepted:
                assert str(submitted.final).startswith("452 4.3.1")
                return taken
    raise AssertionError(f"the store has no end: {most} messages of {size_bytes} bytes were taken")


@pytest.mark.timeout(180)
async def test_before_the_lanes_are_full_new_mail_waits_and_what_was_sent_in_part_is_noted(
    tmp_path: Path,
) -> None:
    script = per_recipient({"late@example.com": LATER})
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(
            tmp_path, workerCount=WORKERS, **SMALL_STORE, **forwarding_to(upstream.port)
        ) as relay,
    ):
        both = ["ok@example.com", "late@example.com"]
        taken = await fill(relay, both, 58_000, most=2000)
        await wait_until(
            lambda: bool(relay.log_lines("lanes.nearly_full")), 20, "new mail is left alone"
        )
        # Nothing that was sent is held in memory alone, but for what is just being settled.
        relay.kill("sender", signal.SIGKILL)
        upstream.script = per_recipient({})
        await relay.wait_health(120, queued_emails=0, total_emails_processed=taken)
        # Another sender may have found room from the start, and then says nothing of it.
        async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as client:
            assert (await submit(client, both, 58_000)).accepted
        taken += 1
        await relay.wait_health(60, queued_emails=0, total_emails_processed=taken)
        assert not [x for x in relay.log_lines("settle.repeats") if "maximum" in x["error"]]
        copies = Counter(to for message in upstream.received for to in message.rcpt_tos)
        open_at_the_kill = WORKERS + MAX_SETTLING  # a kill repeats these at most
        assert set(copies) == set(both)
        assert all(taken <= count <= taken + open_at_the_kill for count in copies.values()), copies


@pytest.mark.timeout(300)
async def test_when_there_is_no_room_for_bodies_only_mail_that_needs_one_is_refused(
    tmp_path: Path,
) -> None:
    script = per_recipient({"late@example.com": LATER})
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **SMALL_STORE, **forwarding_to(upstream.port)) as relay,
    ):
        large = await fill(relay, ["late@example.com"], 2 * MB, most=20)
        assert large >= 2
        async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=40) as client:
            await client.expect(220)
            await client.ehlo()
            assert (await submit(client, ["ok@example.com"], 5_000)).accepted
            # Its deferral would move the content to the body stream, where there is no room.
            for _ in range(4):
                assert (await submit(client, ["late@example.com"], 900_000)).accepted

            async def all_deferred() -> bool:
                deferred = {line["id"] for line in relay.log_lines("mail.deferred")}
                return len(deferred) == large + 4

            await wait_until(all_deferred, 30, "all of it is deferred")
            assert (await submit(client, ["ok@example.com"], 5_000)).accepted
        upstream.script = per_recipient({})
        await relay.wait_health(60, queued_emails=0, total_emails_processed=large + 6)
        assert len(upstream.received) == large + 6

        async def bodies_are_gone() -> bool:
            metrics = await relay.get("/metrics", headers={"Accept": "text/plain"})
            (left,) = re.findall(r'mailrelay_store_records{stream="body"} (\d+)', metrics.text)
            assert int(left) == 0, f"{left} chunks"  # of the refused message, too
            return True

        # The monitor's questions end after 102 s, a late chunk's come 20 s behind the others.
        await wait_until(bodies_are_gone, 125, "no body is left")


@pytest.mark.timeout(240)
async def test_full_events_and_a_full_failed_store_drop_their_oldest_and_say_so(
    tmp_path: Path,
) -> None:
    words = "no such mailbox here " * 20
    script = per_recipient({lambda to: to.startswith("r"): Reply(550, f"5.1.1 {words}")})
    recipients, messages = 1000, 9
    options = {**SMALL_STORE, "batchDelay": 0, "batchSize": 100}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        monitor = relay.kill("monitor", signal.SIGSTOP)  # it reads nothing, and removes nothing
        async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=40) as client:
            await client.expect(220)
            await client.ehlo()
            for message in range(messages):
                refused = [f"r{number}.{message}@example.com" for number in range(recipients)]
                assert (await submit(client, refused, 500)).accepted
            await wait_until(
                lambda: len(relay.log_lines("mail.bounced")) == recipients * messages,
                120,
                "all of them are refused, whatever became of the records",
                interval=1,
            )
            os.kill(monitor, signal.SIGCONT)

            async def gaps_are_told() -> bool:
                health = (await relay.get("/health")).json()
                assert health["status"] == "degraded", health
                assert any("event gap" in reason for reason in health["reasons"]), health
                return True

            await wait_until(gaps_are_told, 60, "the gap is told")
            assert (await submit(client, ["ok@example.com"], 500)).accepted
        await upstream.wait_received(1)

        async def failures_are_told() -> bool:
            metrics = await relay.get("/metrics", headers={"Accept": "text/plain"})
            lines = [x for x in metrics.text.splitlines() if "mailrelay_store_records" in x]
            kept = next(int(float(x.split()[1])) for x in lines if '"failed"' in x)
            assert 0 < kept < recipients * messages, lines
            return True

        await wait_until(failures_are_told, 30, "the oldest failed records are gone")
        assert not relay.log_lines("settle.repeats")
