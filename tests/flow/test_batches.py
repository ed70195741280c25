"""The jobs of one message, seen from outside: one after the other, and who is left out."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.deliveries import Delivery
from tests.support.extra_sender import extra_sender, queue_admin
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.replies import Reply
from tests.support.scripting import Accept, Delay, Script, Stage, Stall
from tests.support.scripts import accept_all, fail_at, first_of, per_recipient
from tests.support.smtp_client import SmtpDialogue, Submitted
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

HELLO = b"Subject: hello\r\n\r\nhi\r\n"
GONE = Reply(550, "5.1.1 no such user")
LATER = Reply(450, "4.2.0 later")


def people(message: str, count: int) -> list[str]:
    return [f"{message}-{number}@example.com" for number in range(count)]


async def submit(relay: Relay, *recipients: str, content: bytes = HELLO) -> Submitted:
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as client:
        submitted = await client.submit("from@example.org", list(recipients), content)
        assert submitted.accepted, submitted.final
        return submitted


@dataclass
class Watch:
    """An upstream that notes when each transaction's first RCPT came and when it was taken."""

    script: Script = accept_all
    began: dict[int, float] = field(default_factory=dict)
    ended: dict[int, Delivery] = field(default_factory=dict)

    def upstream(self) -> ScriptedUpstream:
        return ScriptedUpstream(self.script, on_rcpt=self._rcpt, on_delivery=self._delivery)

    def pauses(self) -> dict[str, list[float]]:
        """By message: seconds between a job's end and the beginning of the next one's attempt."""
        times: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for transaction, delivery in sorted(self.ended.items()):
            message = delivery.rcpt_tos[0].partition("-")[0]
            times[message].append((self.began[transaction], delivery.time))
        return {
            message: [after[0] - before[1] for before, after in itertools.pairwise(spans)]
            for message, spans in times.items()
        }

    def _rcpt(self, _address: str, _nth: int, _connection: int, transaction: int) -> None:
        self.began.setdefault(transaction, time.time())

    def _delivery(self, delivery: Delivery) -> None:
        self.ended[delivery.transaction] = delivery


def addresses(upstream: ScriptedUpstream) -> list[str]:
    return [address for delivery in upstream.received for address in delivery.rcpt_tos]


async def test_the_pause_lies_between_the_end_of_a_job_and_the_next_one(tmp_path: Path) -> None:
    watch = Watch(fail_at(Stage.FINAL_DOT, Delay(0.2)))
    options = {"batchSize": 2, "batchDelay": 400, "workerCount": 4}
    async with (
        watch.upstream() as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, *people("m", 9))
        await upstream.wait_received(5, 20)
        assert addresses(upstream) == people("m", 9)
        (pauses,) = watch.pauses().values()
        assert len(pauses) == 4
        assert min(pauses) >= 0.4
        assert max(pauses) < 1.4


async def test_the_pause_holds_under_backlog_and_holds_up_no_other_message(
    tmp_path: Path,
) -> None:
    watch = Watch(fail_at(Stage.MAIL, Stall(None)))
    options = {"batchSize": 1, "batchDelay": 3000, "workerCount": 1}
    async with (
        watch.upstream() as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        for number in range(20):
            await submit(relay, *people(f"before{number}", 1))
        for number in range(3):
            await submit(relay, *people(f"several{number}", 3))
        for number in range(20):
            await submit(relay, *people(f"behind{number}", 1))
        upstream.script = fail_at(Stage.FINAL_DOT, Delay(0.05))
        upstream.drop_connections()  # all of it waits now behind one delivery
        await upstream.wait_received(49, 60)
        await relay.wait_health(20, queued_emails=0)
        order = addresses(upstream)
        assert sorted(order) == sorted(set(order))
        for number in range(3):
            jobs = [address for address in order if address.startswith(f"several{number}-")]
            assert jobs == people(f"several{number}", 3)
            assert min(watch.pauses()[f"several{number}"]) >= 3
        # What came behind them did not wait for their pauses.
        last_behind = max(place for place, to in enumerate(order) if to.startswith("behind"))
        assert last_behind < min(
            order.index(f"several{number}-2@example.com") for number in range(3)
        )


async def test_the_pause_holds_with_two_senders_on_one_queue(tmp_path: Path) -> None:
    watch = Watch(fail_at(Stage.FINAL_DOT, Delay(0.05)))
    options = {"batchSize": 1, "batchDelay": 300, "workerCount": 2}
    async with (
        watch.upstream() as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
        extra_sender(relay) as second,
    ):
        for number in range(8):
            await submit(relay, *people(f"m{number}", 6))
            await submit(relay, *people(f"single{number}", 1))
        await upstream.wait_received(56, 60)
        await relay.wait_health(20, queued_emails=0)
        taken = addresses(upstream)
        assert sorted(taken) == sorted(set(taken))
        for number in range(8):
            jobs = [address for address in taken if address.startswith(f"m{number}-")]
            assert jobs == people(f"m{number}", 6)
            assert min(watch.pauses()[f"m{number}"]) >= 0.3
        sent_there = second.log_text.count('"event":"mail.batch"')
        assert 0 < sent_there < 56, "both senders delivered"
        assert "sender.fault" not in second.log_text + relay.log_text


@pytest.mark.parametrize("loss", ["purged", "killed"])
async def test_losing_what_was_told_of_turns_loses_no_mail(tmp_path: Path, loss: str) -> None:
    watch = Watch()
    options = {"batchSize": 1, "batchDelay": 300, "workerCount": 2, "queue": {"ackWaitSeconds": 2}}
    async with (
        watch.upstream() as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
        extra_sender(relay),
    ):
        for number in range(4):
            await submit(relay, *people(f"m{number}", 12))
        await upstream.wait_received(12, 30)
        if loss == "purged":
            async with queue_admin(relay) as admin:
                purged = await admin.api("STREAM.PURGE.mailrelay-pace")
                assert purged["purged"] == 4
        else:
            relay.kill("nats")
        await upstream.wait_received(48, 60)
        await relay.wait_health(30, queued_emails=0, failed_emails=0)
        assert set(addresses(upstream)) == {to for n in range(4) for to in people(f"m{n}", 12)}
        for pauses in watch.pauses().values():
            # One pause, or none: who had told it remembers.
            assert sum(pause < 0.3 for pause in pauses) <= 2


async def test_a_recipient_that_fails_stops_what_was_not_tried_yet(tmp_path: Path) -> None:
    script = per_recipient({"m-3@example.com": GONE, "m-0@example.com": [LATER, Accept()]})
    options = {"batchSize": 2, "batchDelay": 0, "workerCount": 4, "continueOnError": False}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, *people("m", 9))
        other = await submit(relay, *people("other", 9))
        await relay.wait_health(30, queued_emails=0, failed_emails=1)
        assert sorted(addresses(upstream)) == sorted([*people("m", 3), *people("other", 9)]), (
            "job 2 was tried whole, and a recipient that was deferred is tried again"
        )
        assert upstream.attempts.keys() == {*people("m", 4), *people("other", 9)}
        answer = (await relay.get(f"/api/messages/{submitted.queue_id}")).json()
        states = {each["address"]: each["state"] for each in answer["recipients"]}
        assert [states[to] for to in people("m", 9)] == ["sent"] * 3 + ["bounced"] + [
            "not_tried"
        ] * 5
        last = answer["recipients"][-1]
        assert "not tried: a recipient in batch 2 of 5 failed for good" in last["reply"]
        left_out = await relay.logged("mail.not_tried", 5)
        assert {line["recipient"] for line in left_out} == set(people("m", 9)[4:])
        assert {line["id"] for line in left_out} == {submitted.queue_id}
        batches = await relay.logged("mail.batch", 6, id=submitted.queue_id)
        counts = [
            {key: line[key] for key in ("sent", "deferred", "bounced", "not_tried") if key in line}
            for line in sorted(batches, key=lambda line: (line["batch"], line["attempt"]))
        ]
        assert counts == [
            {"sent": 1, "deferred": 1},
            {"sent": 1},
            {"sent": 1, "bounced": 1},
            {"not_tried": 2},
            {"not_tried": 2},
            {"not_tried": 1},
        ]
        good = (await relay.get(f"/api/messages/{other.queue_id}")).json()
        assert {each["state"] for each in good["recipients"]} == {"sent"}
        # A resend is a resend like any other.
        upstream.script = accept_all
        assert (await relay.post("/admin/retry-failed")).json()["resent"] == 6
        await relay.wait_health(20, failed_emails=0, queued_emails=0)
        assert sorted(addresses(upstream)) == sorted([*people("m", 9), *people("other", 9)])


async def test_a_failure_stops_the_rest_when_what_was_told_is_lost(tmp_path: Path) -> None:
    script = per_recipient({"m-1@example.com": GONE})
    options = {"batchSize": 1, "batchDelay": 1500, "workerCount": 2, "continueOnError": False}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, *people("m", 4))
        await wait_until(
            lambda: bool(relay.log_lines("mail.bounced")), 20, "a recipient has failed"
        )
        relay.kill("sender")  # with what it remembers
        async with queue_admin(relay) as admin:
            assert (await admin.api("STREAM.PURGE.mailrelay-pace"))["purged"] == 1
        await relay.wait_health(40, queued_emails=0, failed_emails=1)
        assert upstream.attempts.keys() == set(people("m", 2))
        assert len(await relay.logged("mail.not_tried", 2)) == 2


async def test_by_default_a_failure_stops_nothing(tmp_path: Path) -> None:
    script = per_recipient({"m-0@example.com": GONE, "m-3@example.com": GONE})
    options = {"batchSize": 2, "batchDelay": 0}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        submitted = await submit(relay, *people("m", 9))
        await relay.wait_health(20, queued_emails=0, failed_emails=1)
        assert sorted(addresses(upstream)) == sorted(
            set(people("m", 9)) - {"m-0@example.com", "m-3@example.com"}
        )
        assert upstream.attempts.keys() == set(people("m", 9))
        lines = await relay.logged("mail.batch", 5)
        assert {line["id"] for line in lines} == {submitted.queue_id}
        assert sorted(line["batch"] for line in lines) == [f"{k}/5" for k in range(1, 6)]
        assert sum(line["recipients"] for line in lines) == 9
        assert sum(line.get("bounced", 0) for line in lines) == 2
        assert all(line["seconds"] > 0 for line in lines)
        async with queue_admin(relay) as admin:
            info = await admin.api("STREAM.INFO.mailrelay-pace")
            assert info["state"]["last_seq"] == 0, "nothing is told that nobody needs"


async def test_a_retry_neither_waits_for_a_turn_nor_takes_one(tmp_path: Path) -> None:
    script = per_recipient({"m-0@example.com": [LATER, Accept()]})
    options = {"batchSize": 1, "batchDelay": 8000, "workerCount": 3}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, *people("m", 2))
        await upstream.wait_received(2, 30)
        await relay.wait_health(20, queued_emails=0)
        lines = await relay.logged("mail.batch", 3)
        order = [(line["batch"], line["attempt"]) for line in lines]
        assert order == [("1/2", 1), ("1/2", 2), ("2/2", 1)]
        first, _, second = (datetime.fromisoformat(line["time"]) for line in lines)
        # The pause, and not one after the other for each attempt.
        assert 7.5 <= (second - first).total_seconds() < 16


async def test_a_sender_that_dies_repeats_only_the_job_that_was_open(tmp_path: Path) -> None:
    watch = Watch(fail_at(Stage.FINAL_DOT, Delay(0.3)))
    options = {"batchSize": 2, "batchDelay": 200, "workerCount": 3, "queue": {"ackWaitSeconds": 2}}
    async with (
        watch.upstream() as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, *people("m", 16))
        await upstream.wait_received(3, 20)
        await wait_until(lambda: upstream.in_flight == 1, 10, "the fourth job is on its way")
        relay.kill("sender")
        await relay.wait_health(40, queued_emails=0, total_emails_processed=1)
        repeated = {to for to, times in upstream.attempts.items() if times > 1}
        assert repeated <= set(people("m", 16)[6:8])
        assert set(addresses(upstream)) == set(people("m", 16))
        assert max(upstream.attempts.values()) <= 2


def peak_megabytes(pid: int) -> float:
    """The most memory that a process ever held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("delay_ms", "is_killed"), [(0, True), (5, False)])
async def test_ten_thousand_recipients_in_one_message(
    tmp_path: Path,
    delay_ms: int,
    is_killed: bool,
) -> None:
    everybody = people("m", 10_000)
    bad = {everybody[number] for number in (7, 5000, 9999)}
    options = {"batchDelay": delay_ms, "queue": {"ackWaitSeconds": 4, "storeBytes": 2**31}}
    async with (
        ScriptedUpstream(
            per_recipient({lambda to: to in bad: GONE}), keep_content=False
        ) as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=60) as client:
            await client.expect(220)
            await client.ehlo()
            content = b"Subject: all of you\r\n\r\n" + (b"x" * 70 + b"\r\n") * 800
            assert (await client.submit("from@example.org", everybody, content)).accepted
        peaks = {}
        if is_killed:
            await upstream.wait_received(200, 60)
            peaks["killed"] = peak_megabytes(relay.pid("sender"))
            relay.kill("sender")
        await relay.wait_health(200, queued_emails=0, failed_emails=1)
        assert set(addresses(upstream)) == set(everybody) - bad
        assert upstream.attempts.keys() == set(everybody)
        repeated = {
            (int(to[2:].partition("@")[0])) // 20 for to, n in upstream.attempts.items() if n > 1
        }
        assert len(repeated) <= (5 + 32 if is_killed else 0), (
            "at most what was in a slot or settled"
        )
        for name in ("ingress", "sender", "monitor", "nats", "supervisor"):
            peaks[name] = peak_megabytes(relay.pid(name))
        assert max(peaks.values()) < 150, peaks


@pytest.mark.parametrize("workers", [1, 3])
async def test_there_are_as_many_deliveries_at_once_as_workers(
    tmp_path: Path, workers: int
) -> None:
    async with (
        ScriptedUpstream(fail_at(Stage.FINAL_DOT, Delay(0.15))) as upstream,
        running_relay(tmp_path, workerCount=workers, **forwarding_to(upstream.port)) as relay,
    ):
        for number in range(12):
            await submit(relay, *people(f"m{number}", 1))
        await upstream.wait_received(12, 30)
        assert upstream.max_in_flight == workers


async def test_an_attempt_that_hangs_is_ended_and_counts_as_a_temporary_failure(
    tmp_path: Path,
) -> None:
    script = first_of(
        per_recipient({"hangs-0@example.com": [Stall(None), Accept()]}),
        per_recipient({}),
    )
    options = {"processingTimeout": 2, "workerCount": 1}
    async with (
        ScriptedUpstream(script) as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, *people("hangs", 1))
        await wait_until(lambda: bool(relay.log_lines("mail.deferred")), 10, "it is deferred")
        (line,) = relay.log_lines("mail.deferred")
        assert line["reply"].startswith("451 4.4.2")
        assert "within 2 s" in line["reply"]
        assert 2 <= line["seconds"] < 8
        await upstream.wait_received(1, 20)
        assert upstream.attempts == {"hangs-0@example.com": 2}
        await relay.wait_health(20, queued_emails=0, failed_emails=0)


async def test_a_stop_gives_waiting_jobs_back_and_the_next_start_goes_on_in_order(
    tmp_path: Path,
) -> None:
    options = {"batchSize": 1, "batchDelay": 400, "workerCount": 2}
    async with (
        ScriptedUpstream() as upstream,
        running_relay(tmp_path, **options, **forwarding_to(upstream.port)) as relay,
    ):
        await submit(relay, *people("m", 8))
        await upstream.wait_received(3, 20)
        assert relay.process is not None
        relay.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(relay.process.wait(), 40) == 0
        await relay.start()
        await upstream.wait_received(8, 60)
        assert addresses(upstream) == people("m", 8)
