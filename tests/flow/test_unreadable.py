"""Records that no sender can read: kept with evidence, counted, and no trouble to other mail."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import structlog

from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Job, Recipient
from mailrelay.queue.connection import ConnectionSettings, open_connection
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.scripts import accept_all
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

ID = new_queue_id(time.time(), 7)


def job(**changes: Any) -> Job:  # noqa: ANN401 — a job's fields
    fields: dict[str, Any] = {
        "submission": ID,
        "batch": 1,
        "batches": 1,
        "total_recipients": 1,
        "accepted_at": 1_700_000_000.0,
        "reverse_path": "a@example.org",
        "recipients": (Recipient(0, "r@example.com"),),
        "content": b"Subject: x\r\n\r\nhi\r\n",
    }
    return Job(**(fields | changes))


WHOLE = encode_jobs([job()])
NEVER = {
    "nothing": b"",
    "truncated": WHOLE[:-20],
    "written by hand": b"\x01not a record",
    "of no version": b"\x00" + WHOLE[1:],
    "without a job": encode_jobs([]),
    "without a recipient": encode_jobs([job(recipients=())]),
}
LATER = b"\x63" + WHOLE[1:]


async def put(relay: Relay, role: Role, subject: str, *payloads: bytes) -> None:
    running = relay.run_file()
    settings = ConnectionSettings(
        running.nats, role.value, Path(running.credentials) / f"{role.value}.seed"
    )
    connection = await open_connection(
        settings, structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
    )
    try:
        for payload in payloads:
            await Publisher(connection).store(Record(subject, payload, ""))
    finally:
        await connection.close()


async def levels(relay: Relay) -> dict[str, int]:
    text = (await relay.get("/metrics", headers={"Accept": "text/plain"})).text
    found = {}
    for line in text.splitlines():
        if line.startswith("mailrelay_store_records{"):
            found[line.split('"')[1]] = int(float(line.split()[1]))
    return found


async def test_records_that_cannot_be_read_are_set_aside_and_other_mail_goes_on(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedUpstream(accept_all) as upstream,
        running_relay(tmp_path, **forwarding_to(upstream.port)) as relay,
    ):
        sender = relay.pid("sender")
        await put(relay, Role.INGRESS, "mailrelay.in.0.-", *NEVER.values())
        await put(relay, Role.INGRESS, f"mailrelay.in.0.{ID}", NEVER["truncated"])
        await put(relay, Role.SENDER, "mailrelay.lane.now.-", NEVER["truncated"])
        await put(relay, Role.INGRESS, "mailrelay.in.0.-", LATER)
        async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port) as client:
            await client.expect(220)
            await client.ehlo()
            sent = await client.submit("a@example.org", ["r@example.com"], b"x: y\r\n\r\n")
            assert sent.accepted
        await upstream.wait_received(1)

        async def set_aside() -> bool:
            found = await levels(relay)
            assert (found["failed"], found["lane"]) == (len(NEVER) + 2, 0), found
            return True

        await wait_until(set_aside, 20, "all but one are in the failed store")
        # That of a later version is left where it is, for a later sender.
        assert (await levels(relay))["in"] == 1
        lines = relay.log_lines("record.unreadable")
        assert len(lines) == len(NEVER) + 3
        assert {line["octets"] for line in lines} >= {LATER[:64].hex(), WHOLE[:64].hex()}

        async def listed() -> bool:
            answer = (await relay.get("/api/failed?limit=100")).json()
            kinds = [each["disposition"] for each in answer["failed"]]
            assert kinds == ["unreadable"] * (len(NEVER) + 2), answer
            return True

        await wait_until(listed, 20, "they are listed as unreadable")
        assert relay.pid("sender") == sender, "it never died of one"
        assert len(upstream.received) == 1
