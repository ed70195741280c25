"""What the tests of dialogues with an ingress share."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator

from mailrelay.mail.job import Job
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import decode_jobs
from mailrelay.runtime.logging import Logger
from tests.ingress.ingress_process import PASSWORD, USER, Ingress
from tests.support.nats import NatsServer
from tests.support.smtp_client import SmtpDialogue

CONTENT = b"Subject: x\r\n\r\ntext\r\n"
HOST = "127.0.0.1"
MAX_MESSAGE_BYTES = 1024 * 1024  # that `ingress` takes, by its configuration


@contextlib.asynccontextmanager
async def greeted(ingress: Ingress) -> AsyncIterator[SmtpDialogue]:
    async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
        yield dialogue


async def queued(server: NatsServer, log: Logger) -> int:
    """How many jobs the queue has."""
    async with server.connected(Role.MONITOR, log) as monitor:
        info = await monitor.api(f"STREAM.INFO.{server.names.in_stream()}")
        return int(info["state"]["messages"])


async def last_job(server: NatsServer, log: Logger) -> Job:
    async with server.connected(Role.MONITOR, log) as monitor:
        answer = await monitor.api(
            f"STREAM.MSG.GET.{server.names.in_stream()}", {"last_by_subj": "mailrelay.in.>"}
        )
        return decode_jobs(base64.b64decode(answer["message"]["data"]))[0]


async def assert_still_serves(ingress: Ingress) -> None:
    async with greeted(ingress) as dialogue:
        if "AUTH" in dialogue.extensions:
            await dialogue.auth_plain(USER, PASSWORD, 235)
        submitted = await dialogue.submit("a@sender.test", ["b@reader.test"], CONTENT)
        assert submitted.accepted, submitted
        await dialogue.quit()
