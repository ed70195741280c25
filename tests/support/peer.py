"""What the tests need of another mail server, whichever it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from tests.support.messages import CorpusMessage
from tests.support.stored import StoredMail
from tests.support.wait import wait_until


class Peer(Protocol):
    """A mail server that takes mail for every domain and keeps it."""

    port: int

    @property
    def log_text(self) -> str:
        """All that it has logged."""

    def count(self) -> int:
        """How many mails it has delivered."""

    def mails(self) -> list[StoredMail]:
        """The mails it has delivered, one for each recipient."""

    def tidied(self, content: bytes) -> bytes:
        """Return content as this server stores it, whoever sent it."""


# Starts a peer for an `async with` block.
StartPeer = Callable[[], contextlib.AbstractAsyncContextManager[Peer]]


async def wait_mails(
    peer: Peer, count: int, limit_seconds: float = 20.0, *, domain: str = ""
) -> list[StoredMail]:
    """Wait until the peer has delivered so many mails (to that domain), and return them all."""
    found: list[StoredMail] = []

    def arrived() -> bool:
        if not domain and peer.count() < count:
            raise AssertionError(f"{peer.count()} of {count} mails")
        found[:] = [mail for mail in peer.mails() if mail.recipient.endswith(domain)]
        assert len(found) >= count, f"{len(found)} of {count} mails"
        return True

    try:
        await wait_until(arrived, limit_seconds, "the peer has delivered all", interval=0.05)
    except AssertionError as error:
        error.add_note(f"end of the peer's log:\n{peer.log_text[-4000:]}")
        raise
    return found


def mail_params(message: CorpusMessage) -> str:
    """Return what a MAIL command for this message has to declare."""
    params = []
    if message.needs_8bit:
        params.append("BODY=8BITMIME")
    if message.needs_smtputf8:
        params.append("SMTPUTF8")
    return " ".join(params)
