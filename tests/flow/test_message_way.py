"""A message's whole way through a running relay, seen from both ends."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.support.relay import Relay, forwarding_to, relay_config, running_relay
from tests.support.replies import Reply
from tests.support.scripting import Accept
from tests.support.scripts import per_recipient
from tests.support.smtp_client import SmtpDialogue, Submitted
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

HELLO = (
    b"Subject: hello\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n\r\nhi\r\n"
)


async def submit(relay: Relay, *recipients: str, content: bytes = HELLO) -> Submitted:
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as client:
        return await client.submit("from@example.org", list(recipients), content)


async def test_a_message_arrives_unchanged_below_one_received_field(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, "to@example.com")
        (delivery,) = await upstream.wait_received(1)
        head, found, rest = delivery.content.partition(b"Subject: hello")
        assert found + rest == HELLO
        assert re.fullmatch(
            rb"Received: from \S+ \(\[127\.0\.0\.1\]\)\r\n\tby relay\.test with ESMTP\r\n"
            rb"\tid " + str(submitted.queue_id).encode() + rb"\r\n\tfor <to@example\.com>;"
            rb"\r\n\t\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\r\n",
            head,
        )
        assert delivery.mail_from == "from@example.org"
        assert upstream.violations == []


async def test_forty_five_recipients_go_out_in_jobs_of_twenty_in_order(tmp_path: Path) -> None:
    recipients = [f"r{number}@example.com" for number in range(45)]
    async with (
        ScriptedUpstream() as upstream,
        running_relay(tmp_path, workerCount=1, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, *recipients, "R7@EXAMPLE.com", "r7@EXAMPLE.com")
        deliveries = await upstream.wait_received(3)
        assert [len(delivery.rcpt_tos) for delivery in deliveries] == [20, 20, 6]
        taken = [address for delivery in deliveries for address in delivery.rcpt_tos]
        # `r7@EXAMPLE.com` is `r7@example.com` again; a local part keeps its case.
        assert taken == [*recipients, "R7@EXAMPLE.com"]
        assert len({delivery.content for delivery in deliveries}) == 1
        await relay.wait_health(queued_emails=0, total_emails_processed=1)
        answer = (await relay.get(f"/api/messages/{submitted.queue_id}")).json()
        assert {recipient["state"] for recipient in answer["recipients"]} == {"sent"}


async def test_only_deferred_recipients_are_tried_again(tmp_path: Path) -> None:
    busy = Reply(450, "4.2.0 try later")
    script = per_recipient({"slow@example.com": [busy, busy, Accept()]})
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, "a@example.com", "slow@example.com", "b@example.com")
        first, second = await upstream.wait_received(2, timeout=40)
        assert first.rcpt_tos == ("a@example.com", "b@example.com")
        assert second.rcpt_tos == ("slow@example.com",)
        assert upstream.attempts == {"a@example.com": 1, "b@example.com": 1, "slow@example.com": 3}
        await relay.wait_health(queued_emails=0, failed_emails=0, total_emails_processed=1)
        deferred = await relay.logged("mail.deferred", 2)
        assert [line["attempt"] for line in deferred] == [1, 2]
        assert {line["id"] for line in deferred} == {submitted.queue_id}


async def test_a_refused_recipient_is_kept_and_resent_by_hand(tmp_path: Path) -> None:
    refused = Reply(550, "5.1.1 no such user")
    script = per_recipient({"new@example.com": [refused, Accept()]})
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, "a@example.com", "new@example.com")
        await relay.wait_health(queued_emails=0, failed_emails=1)
        answer = (await relay.get(f"/api/messages/{submitted.queue_id}")).json()
        by_address = {recipient["address"]: recipient for recipient in answer["recipients"]}
        assert by_address["new@example.com"]["state"] == "bounced"
        assert "5.1.1 no such user" in by_address["new@example.com"]["reply"]
        assert (await relay.post("/admin/retry-failed")).json()["resent"] == 1
        deliveries = await upstream.wait_received(2)
        assert deliveries[1].rcpt_tos == ("new@example.com",)
        assert deliveries[1].content == deliveries[0].content
        health = await relay.wait_health(queued_emails=0, failed_emails=0)
        assert health["details"]["success_rate"] == 100.0
        assert (await relay.post("/admin/retry-failed")).json()["resent"] == 0


async def test_a_recipient_that_never_gets_through_expires_into_the_failed_store(
    tmp_path: Path,
) -> None:
    script = per_recipient({"full@example.com": Reply(452, "4.2.2 mailbox full")})
    retry = {"maxAttempts": 2, "initialIntervalSeconds": 1, "maxIntervalSeconds": 1}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, retry=retry, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, "full@example.com")
        await relay.wait_health(30, queued_emails=0, failed_emails=1)
        (expired,) = await relay.logged("mail.expired")
        assert expired["reply"] == "452 4.2.2 mailbox full"
        assert upstream.attempts == {"full@example.com": 2}


async def test_without_an_upstream_mail_is_captured_and_shown(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        submitted = await submit(relay, "a@example.com", "b@example.com")
        await relay.wait_health(queued_emails=0, total_emails_processed=1)
        answer = (await relay.get(f"/api/messages/{submitted.queue_id}")).json()
        assert {recipient["state"] for recipient in answer["recipients"]} == {"captured"}
        page = await relay.get("/")
        assert str(submitted.queue_id) in page.text


async def test_a_twenty_megabyte_message_arrives_whole(tmp_path: Path) -> None:
    line = b"0123456789abcdef" * 4 + b"\r\n"
    content = b"Subject: big\r\n\r\n" + line * (20 * 1024 * 1024 // len(line))
    async with (
        ScriptedUpstream() as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, *(f"r{number}@example.com" for number in range(25)), content=content)
        for delivery in await upstream.wait_received(2):
            assert delivery.content.endswith(content)

        async def no_body_left() -> bool:
            metrics = await relay.get("/metrics", headers={"Accept": "text/plain"})
            return 'mailrelay_store_bytes{stream="body"} 0.0' in metrics.text

        await wait_until(no_body_left, 20, "the body is deleted once it is not needed")


async def test_the_log_tells_a_messages_story_by_its_queue_id(tmp_path: Path) -> None:
    script = per_recipient({"slow@example.com": [Reply(450, "4.2.0 later"), Accept()]})
    secret = b"Subject: x\r\n\r\nthe-content-itself\r\n"
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, "slow@example.com", content=secret)
        await upstream.wait_received(1, timeout=30)
        await relay.wait_health(queued_emails=0)
        story = [line for line in relay.log_text.splitlines() if str(submitted.queue_id) in line]
        events = [re.search(r'"event":"([^"]+)"', line) for line in story]
        assert [event[1] for event in events if event] == [
            "mail.accepted",
            "mail.batch",
            "mail.deferred",
            "mail.batch",
            "mail.sent",
        ]
        assert "the-content-itself" not in relay.log_text


async def test_totals_are_the_same_after_every_process_was_restarted(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        async with running_relay(tmp_path, **forwarding_to(upstream.port)) as relay:
            for _ in range(5):
                await submit(relay, "a@example.com", "b@example.com")
            await relay.wait_health(total_emails_processed=5, queued_emails=0)
            before = (await relay.get("/metrics")).json()
            for name in ("ingress", "sender", "monitor", "nats"):
                relay.kill(name)
            await wait_until(
                lambda: relay.console().count("starting it again") >= 4, 20, "all were noticed"
            )
            await relay.wait_ready()
            await submit(relay, "a@example.com", "b@example.com")
            await relay.wait_health(20, total_emails_processed=6, queued_emails=0)
            assert await relay.stop() == 0
            await relay.start()
            after = (await relay.get("/metrics")).json()
        assert before["total_emails"] == 5
        assert before["total_recipients"] == 10
        assert after["total_emails"] == 6
        assert after["successful_emails"] == 6
        assert after["total_recipients"] == 12


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_localhost_listens_on_both_families(tmp_path: Path, host: str) -> None:
    async with running_relay(tmp_path, smtpHost="localhost") as relay:
        async with SmtpDialogue.greeted(host, relay.smtp_port) as client:
            assert (await client.submit("a@x.org", ["b@x.org"], HELLO)).accepted
        await relay.wait_health(total_emails_processed=1)


async def test_http_is_refused_for_a_host_name_that_is_not_local(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        answer = await relay.get("/health", headers={"Host": "attacker.example"})
        assert answer.status_code == httpx.codes.FORBIDDEN


async def test_failed_recipients_of_one_job_that_are_resent_into_capture_are_all_kept(
    tmp_path: Path,
) -> None:
    gone = Reply(550, "5.1.1 no such user")
    async with ScriptedUpstream(per_recipient({lambda _: True: gone})) as upstream:
        relay = Relay(tmp_path, relay_config(**forwarding_to(upstream.port)))
        await relay.start()
        await submit(relay, "a@example.com", "b@example.com")
        await relay.wait_health(failed_emails=1, queued_emails=0)
        assert await relay.stop() == 0
    for key in ("forwardSMTP", "forwardHost", "forwardPort"):
        del relay.config[key]
    await relay.start()
    assert (await relay.post("/admin/retry-failed")).json()["resent"] == 2

    async def both_are_kept() -> bool:
        metrics = await relay.get("/metrics", headers={"Accept": "text/plain"})
        return 'mailrelay_store_records{stream="capture"} 2.0' in metrics.text

    await wait_until(both_are_kept, 20, "both are captured")
    await relay.wait_health(failed_emails=0, queued_emails=0)
    assert await relay.stop() == 0
