"""What tests of attempts share: a pool of connections to an upstream, and one try."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mailrelay.config.model import RelayConfig
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import Job
from mailrelay_sender.attempt import AttemptResult, attempt
from mailrelay_sender.connection import ConnectionPool, UpstreamSettings
from mailrelay_sender.plan import Hosts
from mailrelay_sender.route import SmartHost
from tests.support.upstream import ScriptedUpstream

SENT, DEFERRED, BOUNCED = Disposition.SENT, Disposition.DEFERRED, Disposition.BOUNCED
LIMIT_SECONDS = 5.0
STALL_SECONDS = 0.3


def pool_to(
    upstream: ScriptedUpstream,
    host: str = "127.0.0.1",
    **changes: Any,  # noqa: ANN401 — options of any type
) -> contextlib.AbstractAsyncContextManager[ConnectionPool]:
    return pool_at(host, upstream.port, **changes)


@contextlib.asynccontextmanager
async def pool_at(
    host: str,
    port: int,
    **changes: Any,  # noqa: ANN401 — options of any type
) -> AsyncIterator[ConnectionPool]:
    config = RelayConfig.model_validate(
        {
            "security": {"requireAuth": False},
            "forwardSMTP": True,
            "forwardHost": host,
            "forwardPort": port,
        }
        | changes
    )
    settings = UpstreamSettings.from_config(config, "relay.test")
    pool = ConnectionPool(SmartHost(host, port), settings)
    try:
        yield pool
    finally:
        await pool.close_idle()


async def inline(job: Job) -> AsyncIterator[bytes]:
    yield job.content


async def try_once(
    job: Job, pool: ConnectionPool, limit_seconds: float = LIMIT_SECONDS
) -> AttemptResult:
    result = await attempt(job, Hosts((pool,)), inline, limit_seconds)
    assert sorted(o.recipient for o in result.outcomes) == [r.number for r in job.recipients]
    assert result.fault is None, result.fault
    return result


def dispositions(result: AttemptResult) -> list[Disposition]:
    ordered = sorted(result.outcomes, key=lambda outcome: outcome.recipient)
    return [outcome.disposition for outcome in ordered]
