"""What clients and mail see while parts of the relay are full, away or told to stop."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.nats import unable_to_write
from tests.support.relay import Relay, forwarding_to, relay_config, running_relay
from tests.support.replies import Reply
from tests.support.scripting import Accept, Action, Context, Delay, Stage, Stall
from tests.support.scripts import fail_at, per_recipient
from tests.support.smtp_client import SmtpDialogue, Submitted
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

HELLO = b"Subject: hello\r\n\r\nhi\r\n"


LARGE = HELLO + b"x" * 60 + b"\r\n"
LARGE += LARGE[len(HELLO) :] * 80_000  # 5 MB: more chunks than are stored at once


async def submit(relay: Relay, *recipients: str, content: bytes = HELLO) -> Submitted:
    # Longer than the relay's own limit on storing a message.
    async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=40) as client:
        await client.expect(220)
        await client.ehlo()
        return await client.submit("from@example.org", list(recipients), content)


async def test_a_full_queue_answers_452_and_takes_mail_again_afterwards(tmp_path: Path) -> None:
    options = forwarding_to(0)
    async with ScriptedUpstream(fail_at(Stage.MAIL, Stall(None))) as upstream:
        options["forwardPort"] = upstream.port
        async with running_relay(tmp_path, queueSize=3, workerCount=1, **options) as relay:
            for _ in range(3):
                assert (await submit(relay, "a@example.com")).accepted
            refused = await submit(relay, "a@example.com")
            assert str(refused.final).startswith("452 4.3.1")
            # A message of several jobs is taken whole or not at all.
            several = await submit(relay, *(f"r{number}@example.com" for number in range(45)))
            assert str(several.final).startswith("452 4.3.1")
            upstream.script = per_recipient({})
            upstream.drop_connections()
            await upstream.wait_received(3, timeout=30)
            await relay.wait_health(30, queued_emails=0)
            assert (await submit(relay, "a@example.com")).accepted
            assert upstream.attempts.keys() == {"a@example.com"}


@pytest.mark.parametrize("content", [HELLO, LARGE], ids=["small", "large"])
async def test_without_its_queue_the_relay_answers_451_in_bounded_time_and_recovers(
    tmp_path: Path, content: bytes
) -> None:
    async with running_relay(tmp_path) as relay:
        assert (await submit(relay, "a@example.com")).accepted
        nats = relay.kill("nats", signal.SIGSTOP)
        started = time.monotonic()
        try:
            refused = await submit(relay, "a@example.com", content=content)
        finally:
            psutil.Process(nats).resume()
        assert str(refused.final).startswith("451 4.3.0")
        assert time.monotonic() - started < 25
        assert (await submit(relay, "a@example.com", content=content)).accepted


async def test_a_queue_that_restarts_meanwhile_is_waited_for(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        relay.kill("nats")
        submitted = await submit(relay, "a@example.com")
        assert submitted.accepted, submitted.final
        await relay.wait_health(30, total_emails_processed=1, queued_emails=0)


async def test_an_unreachable_upstream_defers_and_readiness_does_not_care(tmp_path: Path) -> None:
    upstream = ScriptedUpstream()
    async with upstream:
        await upstream.stop()
        async with running_relay(tmp_path, **forwarding_to(upstream.port)) as relay:
            await submit(relay, "a@example.com")
            await wait_until(
                lambda: bool(relay.log_lines("mail.deferred")), 10, "the mail is deferred"
            )
            assert relay.log_lines("mail.deferred")[0]["reply"].startswith("451 4.4.1")
            assert (await relay.get("/readyz")).status_code == 200
            await upstream.start()
            await upstream.wait_received(1, timeout=30)


async def test_a_changed_retry_schedule_strands_no_deferred_mail(tmp_path: Path) -> None:
    later = {"initialIntervalSeconds": 20, "maxIntervalSeconds": 20}
    sooner = {"initialIntervalSeconds": 1, "maxIntervalSeconds": 1, "multiplier": 1}
    script = per_recipient({"slow@example.com": [Reply(450, "4.2.0 later")] * 2 + [Accept()]})
    async with ScriptedUpstream(script) as upstream:
        relay = Relay(tmp_path, relay_config(retry=later, **forwarding_to(upstream.port)))
        await relay.start()
        await submit(relay, "slow@example.com")
        await wait_until(lambda: bool(relay.log_lines("mail.deferred")), 10, "it is deferred")
        assert await relay.stop() == 0
        relay.config["retry"] = sooner
        await relay.start()
        await upstream.wait_received(1, timeout=50)
        assert await relay.stop() == 0
        assert upstream.attempts == {"slow@example.com": 3}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_loses_nothing_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    accepted: list[str] = []
    async with (
        ScriptedUpstream() as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        children = psutil.Process(relay.pid("supervisor")).children(recursive=True)

        async def keep_submitting(session: int) -> None:
            count = 0
            while True:
                try:
                    submitted = await submit(relay, f"s{session}n{count}@example.com")
                except (AssertionError, OSError):
                    return
                if submitted.accepted:
                    accepted.append(f"s{session}n{count}@example.com")
                count += 1

        sessions = [asyncio.create_task(keep_submitting(session)) for session in range(8)]
        await wait_until(lambda: len(accepted) > 50, 20, "mail flows")
        assert relay.process is not None
        relay.process.send_signal(number)
        assert await asyncio.wait_for(relay.process.wait(), 40) == 0
        await asyncio.gather(*sessions)
        assert not [child for child in children if child.is_running()]
        assert "Traceback" not in relay.log_text
        await relay.start()
        await relay.wait_health(45, queued_emails=0)
        taken = [address for delivery in upstream.received for address in delivery.rcpt_tos]
        assert set(accepted) <= set(taken)
        assert len(taken) == len(set(taken)), "an orderly stop repeats nothing"


async def test_a_full_capture_store_ends_in_452_and_degraded_health(tmp_path: Path) -> None:
    capture = {"maxMessages": 3}
    async with running_relay(tmp_path, capture=capture, queueSize=2, workerCount=1) as relay:
        for _ in range(5):

            async def is_taken() -> bool:
                return (await submit(relay, "a@example.com")).accepted

            # Three are captured, as fast as the sender is; two more wait in the queue.
            await wait_until(is_taken, 10, "the mail is taken")
        refused = await submit(relay, "a@example.com")
        assert str(refused.final).startswith("452 4.3.1")

        async def is_degraded() -> bool:
            answer = (await relay.get("/health")).json()
            return answer["status"] == "degraded" and "capture" in str(answer["reasons"])

        await wait_until(is_degraded, 15, "health says that the capture store is full")


async def test_in_development_the_oldest_captured_mail_goes_first(tmp_path: Path) -> None:
    capture = {"maxMessages": 3, "whenFull": "dropOldest"}
    async with running_relay(tmp_path, capture=capture) as relay:
        for _ in range(8):
            assert (await submit(relay, "a@example.com")).accepted
        await relay.wait_health(queued_emails=0, total_emails_processed=8)
        assert (await relay.get("/health")).json()["status"] == "ok"


@pytest.mark.timeout(120)
async def test_a_stop_waits_for_the_answer_to_a_final_dot(tmp_path: Path) -> None:
    script = fail_at(Stage.FINAL_DOT, Delay(13))  # longer than attempts get otherwise
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, "a@example.com")
        await wait_until(lambda: upstream.attempts["a@example.com"] == 1, 10, "it is on its way")
        assert await relay.stop() == 0
        await relay.start()
        await relay.wait_health(30, queued_emails=0, total_emails_processed=1)
        assert upstream.attempts == {"a@example.com": 1}


@pytest.mark.timeout(120)
async def test_a_final_dot_that_comes_too_late_for_a_stop_does_not_go_out(tmp_path: Path) -> None:
    ended = 0

    def script(stage: Stage, context: Context) -> Action:
        nonlocal ended
        if stage is Stage.FINAL_DOT:
            ended += 1
            return Delay(8)
        if stage is Stage.DATA and context.transaction == 1:
            return Delay(11)  # behind the 10 s that attempts get, before the sender is gone
        return Accept()

    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, "a@example.com")
        await wait_until(lambda: upstream.attempts["a@example.com"] == 1, 10, "it is on its way")
        assert await relay.stop() == 0
        await relay.start()
        await relay.wait_health(60, queued_emails=0, total_emails_processed=1)
        assert ended == 1


async def test_a_queue_whose_disk_was_full_is_restarted_and_takes_mail_again(
    tmp_path: Path,
) -> None:
    async with running_relay(tmp_path) as relay:
        assert (await submit(relay, "a@example.com")).accepted
        await relay.wait_health(10, queued_emails=0)
        nats = relay.pid("nats")
        # A limit on the size of files, which needs no root, fails a write as a full disk does.
        with unable_to_write(nats):
            during = await submit(relay, "b@example.com")
        # 250 when the restart came within the 15 s for which storing is repeated.
        assert during.final is not None
        assert during.final.code in {250, 451}

        def is_another() -> bool:
            return relay.run_file().pids.get("nats", nats) != nats

        await wait_until(is_another, 20, "nats-server was started again")
        assert "write error" in relay.log_lines("process.broken")[0]["message"]
        assert (await submit(relay, "c@example.com")).accepted
        await relay.wait_health(20, queued_emails=0)
