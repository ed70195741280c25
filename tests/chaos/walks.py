"""The walks that mail takes through the queue, each with what it must come to at the upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.relay import RelayClient
from tests.support.scripting import ACCEPT, Action, Context, Stage
from tests.support.scripts import DEFERRAL, REFUSAL
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

PATIENCE_SECONDS = 120.0
LINE = b"All happy relays are alike; each unhappy relay is unhappy in its own way.\r\n"


@dataclass(frozen=True, slots=True)
class Walk:
    """One submission. A recipient that begins with `defer` or `refuse` meets that, once."""

    name: str
    recipients: tuple[str, ...]
    size: int = 1000


def walks(run: str) -> tuple[Walk, ...]:
    """Return all walks, their recipients made different by `run`."""
    return (
        Walk("one recipient", (f"one-{run}@example.com",)),
        Walk("45 recipients in 3 jobs", tuple(f"r{n}-{run}@example.com" for n in range(45))),
        Walk("deferred", tuple(f"defer{n}-{run}@example.com" for n in range(3))),
        Walk(
            "failed and resent, another one deferred",
            (f"refuse-{run}@example.com", f"defer-other-{run}@example.com"),
        ),
        Walk("5 MB", tuple(f"large{n}-{run}@example.com" for n in range(3)), 5_000_000),
    )


def script(stage: Stage, context: Context) -> Action:
    """Meet each recipient as its name says."""
    if stage is Stage.RCPT and context.nth == 1:
        if context.address.startswith("defer"):
            return DEFERRAL
        if context.address.startswith("refuse"):
            return REFUSAL
    return ACCEPT


async def submit(relay: RelayClient, walk: Walk) -> int:
    """Hand a walk's message in; returns the code of the final reply."""
    content = b"Subject: %s\r\n\r\n" % walk.name.encode()
    content += LINE * (walk.size // len(LINE))
    async with SmtpDialogue.connect(
        "127.0.0.1", relay.smtp_port, limit_seconds=PATIENCE_SECONDS
    ) as client:
        await client.expect(220)
        await client.ehlo()
        submitted = await client.submit("from@example.org", list(walk.recipients), content)
    assert submitted.final is not None
    return submitted.final.code


async def finish(relay: RelayClient, upstream: ScriptedUpstream, taken: Sequence[Walk]) -> None:
    """Wait until all recipients were taken, resending those that failed."""
    wanted = {recipient for walk in taken for recipient in walk.recipients}

    async def all_taken() -> bool:
        missing = wanted - recipients_of(upstream)
        if missing and all(recipient.startswith("refuse") for recipient in missing):
            await relay.post("/admin/retry-failed")
            await asyncio.sleep(1)  # asking again at once starts nothing new
        assert not missing, sorted(missing)[:5]
        return True

    await wait_until(all_taken, PATIENCE_SECONDS, "all recipients were taken", interval=0.1)


def recipients_of(upstream: ScriptedUpstream) -> set[str]:
    """Whom the upstream has taken mail for."""
    return {recipient for delivery in upstream.received for recipient in delivery.rcpt_tos}


def duplicates_of(upstream: ScriptedUpstream) -> list[str]:
    """Who was taken more than once."""
    everybody = [rcpt for delivery in upstream.received for rcpt in delivery.rcpt_tos]
    return sorted({recipient for recipient in everybody if everybody.count(recipient) > 1})
