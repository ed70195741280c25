"""Content on its way to the body stream, while our own code fails."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import cast

import pytest

from mailrelay.queue.bodies import CHUNK_BYTES, MAX_INLINE_BYTES, BodyStore, Writing
from mailrelay_ingress.accept import Submission
from mailrelay_ingress.content import ContentScanner
from mailrelay_ingress.enqueue import Intake
from mailrelay_ingress.memory import SMALL_BYTES, MemoryBudget, Share
from mailrelay_ingress.session import Client, Transaction


class FaultyStore:
    """Fails at the first chunk in a way that nobody expects, and takes the others."""

    async def begin(self) -> Writing:
        """Begin."""
        return Writing("epoch", 0.0)

    async def store_chunk(self, _submission: str, chunk: int, _payload: bytes) -> None:
        """Store a chunk."""
        if chunk == 0:
            raise ValueError("a bug")


def begun(share: Share) -> Intake:
    # Neither 8BITMIME nor SMTPUTF8.
    transaction = Transaction("a@example.org")
    transaction.add("r@example.com")
    submission = Submission.begin(Client("127.0.0.1", is_local=True), transaction, "relay.test")
    return Intake(submission, share, cast("BodyStore", FaultyStore()), lambda _: None)


async def test_a_chunk_that_a_bug_kept_from_the_queue_is_a_failure_and_no_250() -> None:
    intake = begun(MemoryBudget().share())
    await intake.add(b"Subject: x\r\n\r\n")
    for _ in range(MAX_INLINE_BYTES // CHUNK_BYTES + 2):
        await intake.add((b"y" * 62 + b"\r\n") * (CHUNK_BYTES // 64))
        await asyncio.sleep(0)  # what was sent off ends before the message does
    await intake.complete()
    with pytest.raises(ValueError, match="a bug"):
        intake.raise_failure()
    assert intake.body is None


async def test_content_that_comes_in_tiny_pieces_takes_no_more_memory_than_its_size() -> None:
    """Or a share of the budget would not bound what a client can make us hold."""
    content = b"Subject: x\r\n\r\n" + (b"y" * 62 + b"\r\n") * (SMALL_BYTES // 64 - 2)
    intake, scanner = begun(MemoryBudget().share()), ContentScanner()
    tracemalloc.start()
    try:
        for start in range(0, len(content), 8):
            await intake.add(scanner.feed(content[start : start + 8]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.5 * len(content)
    await intake.add(scanner.feed(b".\r\n"))
    await intake.complete()
    assert intake.inline().endswith(content)
