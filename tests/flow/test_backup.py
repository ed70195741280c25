"""A back-up of a running relay's queue, restored into another relay: all mail goes out once."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from mailrelay_cli.data_folder import DataFolder
from tests.cli.relay_process import run_command
from tests.support.messages import of_size
from tests.support.relay import QUICK_RETRY, Relay, forwarding_to, relay_config, running_relay
from tests.support.replies import Reply
from tests.support.scripts import accept_all, per_recipient
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(240)

SOON = 60.0
SMALL = b"Subject: hello\r\n\r\nhi\r\n"
LARGE = of_size(3_000_000)
REFUSED, LATER = Reply(550, "5.1.1 no such user"), Reply(450, "4.2.0 later")
# However slow the machine, nothing expires, and what was deferred is due within the test.
RETRY = QUICK_RETRY | {"maxAttempts": 1000, "initialIntervalSeconds": 5, "maxIntervalSeconds": 5}
DEFERRED = [f"later-{number}@example.com" for number in range(20)]


async def queue(
    relay: Relay, verb: str, role: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run `mailrelay queue …` with a role's key; mail flows meanwhile."""
    seed = str(DataFolder(relay.data_dir).seed_file(role))
    at_nats = ("--nats", relay.run_file().nats, "--seed-file", seed)
    return await asyncio.to_thread(run_command, "queue", verb, *at_nats, *words)


async def test_what_was_open_is_delivered_once_by_the_relay_that_it_is_restored_into(
    tmp_path: Path,
) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    script = per_recipient({"gone@example.com": REFUSED, lambda _address: True: LATER})
    async with ScriptedUpstream(script) as upstream:
        forwarding = forwarding_to(upstream.port) | {"retry": RETRY}
        lost = Relay(tmp_path / "lost", relay_config(**forwarding))
        lost.folder.mkdir()
        try:
            await lost.start()
            async with SmtpDialogue.greeted("127.0.0.1", lost.smtp_port) as client:
                for recipient in DEFERRED:
                    assert (await client.submit("a@example.org", [recipient], SMALL)).accepted
                both = ["large@example.com", "gone@example.com"]
                assert (await client.submit("a@example.org", both, LARGE)).accepted
            await wait_until(
                lambda: {*DEFERRED, *both} <= upstream.attempts.keys(), SOON, "each is tried"
            )
            await lost.logged("mail.bounced")
            for _ in range(2):
                done = await queue(
                    lost, "backup", "monitor", "--folder", str(backups), "--keep", "1"
                )
                assert done.returncode == 0, done.stderr
            (file,) = backups.iterdir()
            assert f"{file}: " in done.stdout
        finally:
            assert lost.process is not None
            lost.process.kill()
            await lost.process.wait()
        shutil.rmtree(lost.data_dir)

        upstream.script = accept_all
        (tmp_path / "new").mkdir()
        async with running_relay(tmp_path / "new", **forwarding) as relay:
            done = await queue(relay, "restore", "sender", str(backups))
            assert done.returncode == 0, done.stderr
            await upstream.wait_received(len(DEFERRED) + 1, SOON)
            await relay.wait_health(SOON, failed_emails=1)
            resent = run_command("failed", "resend", "--all", "--data-dir", str(relay.data_dir))
            assert "1 to be resent" in resent.stdout, resent.stderr
            await upstream.wait_received(len(DEFERRED) + 2, SOON)
            await relay.wait_health(SOON, failed_emails=0)
        taken = Counter(to for delivery in upstream.received for to in delivery.rcpt_tos)
        assert taken == Counter([*DEFERRED, *both])
        large = [one.content for one in upstream.received if "large@example.com" in one.rcpt_tos]
        assert large[0].endswith(LARGE)
