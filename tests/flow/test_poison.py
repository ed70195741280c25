"""A message that kills whoever tries it: it ends with a record, and all other mail is delivered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.relay import Relay, forwarding_to, relay_config
from tests.support.scripts import per_recipient
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream

POISON = Path(__file__).with_name("poison")
OTHERS = 20


@pytest.mark.timeout(180)
async def test_a_message_that_kills_its_sender_is_set_aside_and_the_others_are_delivered(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream(per_recipient({})) as upstream:
        options = {"queue": {"storeBytes": 1024**3, "ackWaitSeconds": 1}, "workerCount": 2}
        relay = Relay(tmp_path, relay_config(**options, **forwarding_to(upstream.port)))
        relay.environ["PYTHONPATH"] = str(POISON)
        await relay.start()
        try:
            async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port) as client:
                await client.expect(220)
                await client.ehlo()
                recipients = [f"r{number}@example.com" for number in range(OTHERS)]
                recipients.insert(3, "poison@example.com")
                for recipient in recipients:
                    submitted = await client.submit("a@example.org", [recipient], b"x: y\r\n\r\n")
                    assert submitted.accepted

            await relay.wait_health(120, queued_emails=0, total_emails_processed=OTHERS + 1)
            assert {to for message in upstream.received for to in message.rcpt_tos} == {
                recipient for recipient in recipients if not recipient.startswith("poison")
            }
            expired = relay.log_lines("mail.expired")
            assert [line["recipient"] for line in expired] == ["poison@example.com"]
            assert "died 3 times, last: ended by signal 9" in expired[0]["reply"]
            assert len(relay.log_lines("quarantine.died")) == 3
            health = (await relay.get("/health")).json()
            assert health["details"]["failed_emails"] == 1
            assert await relay.stop() == 0
        finally:
            assert relay.process is not None
            if relay.process.returncode is None:
                relay.process.kill()
                await relay.process.wait()
