"""Failed and captured mail of a running relay: resent, released, deleted, with their races."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.relay_process import run_command
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.replies import Reply
from tests.support.scripting import Accept, Delay
from tests.support.scripts import per_recipient
from tests.support.smtp_client import SmtpDialogue, Submitted
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

HELLO = b"Subject: hello\r\nMessage-ID: <1@x>\r\n\r\nhi\r\n.dots\r\n"
REFUSED = Reply(550, "5.1.1 no such user")
LATER = Reply(450, "4.2.0 later")


async def submit(relay: Relay, *recipients: str) -> Submitted:
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as client:
        return await client.submit("from@example.org", list(recipients), HELLO)


async def wait_empty(relay: Relay, *streams: str) -> None:
    async def is_empty() -> bool:
        text = (await relay.get("/metrics", headers={"Accept": "text/plain"})).text
        return all(f'mailrelay_store_records{{stream="{one}"}} 0.0' in text for one in streams)

    await wait_until(is_empty, 30, f"{streams} are empty")


@pytest.mark.timeout(120)
async def test_resent_twice_within_50_ms_while_another_recipient_is_deferred(
    tmp_path: Path,
) -> None:
    script = per_recipient(
        {"new@example.com": [REFUSED, Accept()], "slow@example.com": [LATER] * 3 + [Accept()]}
    )
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, "new@example.com", "slow@example.com")
        await wait_until(lambda: bool(relay.log_lines("mail.bounced")), 20, "one is refused")
        first, second = await asyncio.gather(
            relay.post("/admin/retry-failed"), relay.post("/admin/retry-failed")
        )
        assert first.json()["resent"] + second.json()["resent"] == 1
        await upstream.wait_received(2, timeout=60)
        await relay.wait_health(60, queued_emails=0, failed_emails=0)
        taken = Counter(to for delivery in upstream.received for to in delivery.rcpt_tos)
        assert taken == {"new@example.com": 1, "slow@example.com": 1}
        await wait_empty(relay, "in", "lane")


@pytest.mark.timeout(120)
async def test_a_resend_whose_sender_is_killed_goes_on_and_the_file_goes_at_its_end(
    tmp_path: Path,
) -> None:
    script = per_recipient({"new@example.com": [REFUSED, Delay(600), Accept()]})
    queue = {"storeBytes": 2 * 1024**3, "ackWaitSeconds": 2}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, queue=queue, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, "new@example.com")
        file = relay.data_dir / "emails" / "failed" / f"{submitted.queue_id}-0.json"
        await wait_until(file.exists, 20, "the failure is filed")
        found = json.loads(file.read_text())
        assert found["content"].endswith("\r\n\r\nhi\r\n.dots\r\n")
        assert found["tries"][0]["code"] == 550
        assert (await relay.post("/admin/retry-failed")).json()["resent"] == 1
        await wait_until(lambda: upstream.attempts["new@example.com"] == 2, 20, "it is resent")
        relay.kill("sender")
        # Its record in the lane comes back to the next sender, which finds its own mark.
        await upstream.wait_received(1, timeout=40)
        assert upstream.attempts["new@example.com"] == 3
        await relay.wait_health(20, failed_emails=0, queued_emails=0)
        await wait_until(lambda: not file.exists(), 20, "the file is gone")

        async def told() -> bool:
            (one,) = (await relay.get("/admin/retry-failed")).json()["requests"]
            return bool(one["delivered"] == 1)

        await wait_until(told, 20, "its progress is told")


@pytest.mark.timeout(120)
async def test_what_is_deleted_while_its_resend_is_alive_does_not_come_back(
    tmp_path: Path,
) -> None:
    script = per_recipient({"new@example.com": [REFUSED, Delay(3, then=REFUSED)]})
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, "new@example.com")
        await relay.wait_health(20, failed_emails=1)
        await relay.post("/admin/retry-failed")
        await wait_until(lambda: upstream.attempts["new@example.com"] == 2, 20, "it is resent")
        done = await asyncio.to_thread(
            run_command,
            *("failed", "delete", str(submitted.queue_id)),
            *("--data-dir", str(relay.data_dir)),
        )
        assert (done.returncode, done.stdout) == (0, "1 deleted\n"), done.stderr
        await wait_until(lambda: len(relay.log_lines("mail.bounced")) == 2, 30, "it fails again")
        await wait_empty(relay, "in", "lane", "failed")
        folder = relay.data_dir / "emails" / "failed"
        assert not list(folder.iterdir())


@pytest.mark.timeout(120)
async def test_captured_mail_is_released_twice_and_stays_until_it_is_deleted(
    tmp_path: Path,
) -> None:
    script = per_recipient({"b@example.com": [LATER, Accept()]})
    async with ScriptedUpstream(script) as upstream, running_relay(tmp_path) as relay:
        submitted = await submit(relay, "a@example.com", "b@example.com")
        await relay.wait_health(20, total_emails_processed=1)

        async def command(*words: str) -> tuple[int, str, str]:
            done = await asyncio.to_thread(
                run_command, "captured", *words, "--data-dir", str(relay.data_dir)
            )
            return done.returncode, done.stdout, done.stderr

        queue_id, hop = str(submitted.queue_id), f"127.0.0.1:{upstream.port}"
        code, out, _ = await command("list")
        assert (code, queue_id in out, "1 in all" in out) == (0, True, True)
        code, out, _ = await command("show", queue_id)
        assert (code, "\n.dots" in out, "\n..dots" in out) == (0, True, False)
        code, out, err = await command("release", queue_id)
        assert (code, out) == (2, "")
        assert "set forwardSMTP and forwardHost" in err
        code, out, err = await command("release", queue_id, "--next-hop", hop)
        assert (code, "1 to be released" in out) == (0, True), err
        # One recipient is deferred, and tried again by schedule at the same next hop.
        await upstream.wait_received(2, timeout=40)
        code, _, err = await command("release", "--all", "--next-hop", hop)
        assert code == 0, err
        await upstream.wait_received(3, timeout=40)
        taken = Counter(to for delivery in upstream.received for to in delivery.rcpt_tos)
        assert taken == {"a@example.com": 2, "b@example.com": 2}
        assert all(delivery.content.endswith(HELLO) for delivery in upstream.received)
        await wait_empty(relay, "in", "lane")
        assert (await relay.get("/api/captured")).json()["records"] == 1
        code, out, _ = await command("delete", queue_id)
        assert (code, out) == (0, "1 deleted\n")
        await wait_empty(relay, "capture")


@pytest.mark.timeout(120)
async def test_a_release_that_fails_is_failed_mail_and_its_resend_goes_to_the_same_hop(
    tmp_path: Path,
) -> None:
    script = per_recipient({"a@example.com": [REFUSED, Accept()]})
    async with ScriptedUpstream(script) as upstream, running_relay(tmp_path) as relay:
        submitted = await submit(relay, "a@example.com")
        await relay.wait_health(20, total_emails_processed=1)
        asked = {"ids": [str(submitted.queue_id)], "next_hop": f"localhost:{upstream.port}"}
        assert (await relay.post("/admin/release", json=asked)).status_code == 200

        async def has_failed() -> bool:
            return bool((await relay.get("/api/failed")).json()["matching"] == 1)

        await wait_until(has_failed, 20, "it is in the failed store")
        assert (await relay.post("/admin/retry-failed")).json()["resent"] == 1
        await upstream.wait_received(1, timeout=30)
        await wait_empty(relay, "in", "lane")
        assert (await relay.get("/api/captured")).json()["records"] == 1
