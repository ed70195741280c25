"""Replies are paired with commands, whatever a server sends and however it is cut."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay_sender.dialogue import MAX_LINE_BYTES, MAX_REPLY_BYTES, Dialogue, DialogueError


class _Wire(asyncio.Transport):
    """Keeps what is written; the other side is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.is_aborted

    def write(self, data: Any) -> None:  # noqa: ANN401 — whatever holds octets
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


def open_dialogue() -> tuple[Dialogue, _Wire]:
    wire = _Wire()
    return Dialogue.take_over(wire), wire


REPLIES = b"250 2.1.0 Ok\r\n250-first\r\n250 second\r\n354 Go on\n550\r\n"


@given(st.lists(st.integers(0, len(REPLIES)), max_size=8))
def test_replies_come_in_order_however_they_are_cut(cuts: list[int]) -> None:
    async def run() -> None:
        dialogue, wire = open_dialogue()
        replies = dialogue.tell_nowait([(b"MAIL", b"a"), (b"RCPT",), (b"DATA",), (b"RSET",)])
        assert bytes(wire.written) == b"MAIL a\r\nRCPT\r\nDATA\r\nRSET\r\n"
        places = sorted({0, *cuts, len(REPLIES)})
        for start, end in itertools.pairwise(places):
            dialogue.data_received(REPLIES[start:end])
        found = [await reply for reply in replies]
        assert [(each.code, each.enhanced, each.text) for each in found] == [
            (250, "2.1.0", "Ok"),
            (250, "", "first second"),
            (354, "", "Go on"),
            (550, "", ""),
        ]
        assert dialogue.is_open

    asyncio.run(run())


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"this is no reply\r\n", "malformed reply: this is no reply"),
        (b"25\r\n", "malformed reply: 25"),
        (b"\xb2\xb2\xb2 x\r\n", "malformed reply"),
        (b"250 " + b"x" * MAX_LINE_BYTES + b"\r\n", "malformed reply: 250 xxx"),
        (b"250 " + b"x" * MAX_LINE_BYTES, "too long"),
        (b"250-" + b"x" * 1000 + b"\r\n", ""),
    ],
)
async def test_what_is_no_reply_ends_the_connection_and_tells_all_who_wait(
    octets: bytes, words: str
) -> None:
    dialogue, wire = open_dialogue()
    replies = dialogue.tell_nowait([(b"MAIL",), (b"RCPT",)])
    # The last of the cases goes on without an end.
    for _ in range(1 if words else MAX_REPLY_BYTES // 1000 + 1):
        dialogue.data_received(octets)
    for reply in replies:
        with pytest.raises(DialogueError, match=words or "too long"):
            await reply
    assert wire.is_aborted
    with pytest.raises(DialogueError):
        dialogue.tell_nowait([(b"NOOP",)])


async def test_an_answer_to_no_command_ends_the_connection() -> None:
    dialogue, wire = open_dialogue()
    [reply] = dialogue.tell_nowait([(b"NOOP",)])
    dialogue.data_received(b"250 Ok\r\n421 4.4.2 Idle\r\n")
    assert (await reply).code == 250
    assert (dialogue.is_open, wire.is_aborted) == (False, True)
    with pytest.raises(DialogueError, match=r"an answer to no command: 421 4\.4\.2 Idle"):
        await dialogue.tell(b"MAIL")


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer")])
async def test_a_lost_connection_is_told_to_all_who_wait(error: Exception | None) -> None:
    dialogue, _ = open_dialogue()
    first, second = dialogue.tell_nowait([(b"MAIL",), (b"RCPT",)])
    dialogue.data_received(b"250 Ok\r\n")
    dialogue.connection_lost(error)
    assert (await first).code == 250
    with pytest.raises(DialogueError, match="reset by peer" if error else "connection lost"):
        await second


async def test_content_waits_while_the_transport_takes_no_more() -> None:
    dialogue, wire = open_dialogue()
    dialogue.pause_writing()
    sending = asyncio.create_task(dialogue.send(b"content"))
    done, _ = await asyncio.wait([sending], timeout=0.05)
    assert not done
    assert bytes(wire.written) == b"content"
    dialogue.resume_writing()
    await asyncio.wait_for(sending, 5)


async def test_content_that_waits_for_room_ends_with_the_connection() -> None:
    dialogue, _ = open_dialogue()
    dialogue.pause_writing()
    sending = asyncio.create_task(dialogue.send(b"content"))
    await asyncio.sleep(0)  # it waits
    dialogue.eof_received()
    with pytest.raises(DialogueError, match="the server closed the connection"):
        await asyncio.wait_for(sending, 5)


@pytest.mark.parametrize("word", [b"a\r\nRSET", b"a\x00", b"a\x7f"])
async def test_a_command_with_a_control_character_never_leaves(word: bytes) -> None:
    dialogue, wire = open_dialogue()
    with pytest.raises(ValueError, match="control character"):
        dialogue.tell_nowait([(b"NOOP",), (b"MAIL", word)])
    assert not wire.written
