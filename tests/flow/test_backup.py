"""A back-up of a running relay's queue, restored into another relay: all mail goes out once."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mailrelay_cli.data_folder import DataFolder
from tests.cli.relay_process import run_command
from tests.support.messages import of_size
from tests.support.relay import QUICK_RETRY, Relay, forwarding_to, relay_config
from tests.support.replies import Reply
from tests.support.scripts import accept_all, per_recipient
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(900)

SOON = 180.0  # two relays and four commands are started, on a machine that may be busy
SMALL = b"Subject: hello\r\n\r\nhi\r\n"
LARGE = of_size(3_000_000)
REFUSED, LATER = Reply(550, "5.1.1 no such user"), Reply(450, "4.2.0 later")
# However slow the machine, nothing expires, and what was deferred is due within the test.
RETRY = QUICK_RETRY | {"maxAttempts": 1000, "initialIntervalSeconds": 5, "maxIntervalSeconds": 5}
DEFERRED = [f"later-{number}@example.com" for number in range(20)]
OTHERS = {"large@example.com": LARGE, "gone@example.com": SMALL}


async def queue(
    relay: Relay, verb: str, role: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run `mailrelay queue …` with a role's key; mail flows meanwhile."""
    seed = str(DataFolder(relay.data_dir).seed_file(role))
    at_nats = ("--nats", relay.run_file().nats, "--seed-file", seed)
    return await asyncio.to_thread(run_command, "queue", verb, *at_nats, *words)


async def wait_failed(relay: Relay, records: int) -> None:
    """Wait until so many recipients are in the failed store."""

    async def are_there() -> bool:
        return int((await relay.get("/api/failed")).json()["matching"]) == records

    await wait_until(are_there, SOON, f"{records} in the failed store", interval=0.2)


@contextlib.asynccontextmanager
async def started(folder: Path, **changes: Any) -> AsyncIterator[Relay]:  # noqa: ANN401 — JSON
    """A relay that is killed at the end of the `with` block, all of its processes with it."""
    relay = Relay(folder, relay_config(**changes))
    try:
        await relay.start(wait_ready=False)
        await relay.wait_ready(SOON)
        yield relay
    finally:
        assert relay.process is not None
        if relay.process.returncode is None:
            relay.process.kill()
            await relay.process.wait()


async def test_what_was_open_is_delivered_once_by_the_relay_that_it_is_restored_into(
    tmp_path: Path,
) -> None:
    backups = tmp_path / "backups"
    for folder in (backups, tmp_path / "lost", tmp_path / "new"):
        folder.mkdir()
    script = per_recipient({"gone@example.com": REFUSED, lambda _address: True: LATER})
    async with ScriptedUpstream(script) as upstream:
        forwarding = forwarding_to(upstream.port) | {"retry": RETRY}
        async with started(tmp_path / "lost", **forwarding) as lost:
            async with SmtpDialogue.greeted("127.0.0.1", lost.smtp_port) as client:
                for recipient in DEFERRED:
                    assert (await client.submit("a@example.org", [recipient], SMALL)).accepted
                for recipient, content in OTHERS.items():
                    assert (await client.submit("a@example.org", [recipient], content)).accepted
            everybody = {*DEFERRED, *OTHERS}
            await wait_until(lambda: everybody <= upstream.attempts.keys(), SOON, "each is tried")
            await wait_failed(lost, 1)
            for _ in range(2):
                done = await queue(
                    lost, "backup", "monitor", "--folder", str(backups), "--keep", "1"
                )
                assert done.returncode == 0, done.stderr
            (file,) = backups.iterdir()
            assert f"{file}: " in done.stdout
            await lost.stop()
        shutil.rmtree(lost.data_dir)

        upstream.script = accept_all
        async with started(tmp_path / "new", **forwarding) as relay:
            done = await queue(relay, "restore", "sender", str(backups))
            assert done.returncode == 0, done.stderr
            await upstream.wait_received(len(DEFERRED) + 1, SOON)
            await wait_failed(relay, 1)
            resent = run_command("failed", "resend", "--all", "--data-dir", str(relay.data_dir))
            assert "1 to be resent" in resent.stdout, resent.stderr
            await upstream.wait_received(len(DEFERRED) + 2, SOON)
            await wait_failed(relay, 0)
        taken = Counter(to for delivery in upstream.received for to in delivery.rcpt_tos)
        assert taken == Counter([*DEFERRED, *OTHERS])
        large = [one.content for one in upstream.received if "large@example.com" in one.rcpt_tos]
        assert large[0].endswith(LARGE)
