"""What the peer tests' verdicts rest on: they must see a difference when there is one."""

from __future__ import annotations

import pytest

from tests.support.received import parse_received
from tests.support.stored import compare, read_stored

RECEIVED = (
    b"Received: from client.test ([192.0.2.1])\r\n\tby relay.test with ESMTPS\r\n"
    b"\t(using TLSv1.3 with cipher X)\r\n\tid abc123\r\n\tfor <bo@reader.test>;\r\n"
    b"\tTue, 02 Jan 2024 03:04:05 +0000\r\n"
)
IDS = b"Date: Tue, 02 Jan 2024 03:04:05 +0000\r\nMessage-ID: <a@b>\r\n"
CONTENT = b"Subject: x\r\n" + IDS + b"\r\ntext\r\n"


def test_an_unchanged_content_below_one_received_field_is_identical() -> None:
    found = compare(CONTENT, RECEIVED + CONTENT)

    assert found.identical
    assert (found.added_date, found.added_message_id) == (False, False)
    assert found.received.queue_id == "abc123"
    assert found.received.recipient == "bo@reader.test"
    assert found.received.comment == "(using TLSv1.3 with cipher X)"


@pytest.mark.parametrize(
    "stored",
    [
        RECEIVED + CONTENT.replace(b"text", b"Text"),
        RECEIVED + CONTENT + b"\r\n",
        RECEIVED + CONTENT[:-2],
        RECEIVED + RECEIVED + CONTENT,
        RECEIVED + IDS + CONTENT,
        RECEIVED + CONTENT.replace(b"Subject: ", b"Subject:"),
    ],
    ids=["octet", "line_added", "end_cut", "two_received", "ids_again", "white_space"],
)
def test_any_change_is_seen(stored: bytes) -> None:
    assert not compare(CONTENT, stored).identical


def test_date_and_message_id_are_expected_only_where_the_client_gave_none() -> None:
    bare = b"Subject: x\r\n\r\nDate: in the body\r\n"

    assert compare(bare, RECEIVED + IDS + bare).identical
    assert not compare(bare, RECEIVED + bare).identical


def test_the_mail_server_s_own_fields_are_taken_off_and_no_more() -> None:
    own = b"Return-Path: <a@b>\nX-Original-To: c@d\nDelivered-To: c@d\nReceived: by peer\n\tid 1\n"
    mail = read_stored(own + (RECEIVED + CONTENT).replace(b"\r\n", b"\n"), ["x-original-to"])

    assert (mail.reverse_path, mail.recipient) == ("a@b", "c@d")
    assert mail.peer_received == b"Received: by peer\r\n\tid 1\r\n"
    assert mail.content == RECEIVED + CONTENT


@pytest.mark.parametrize(
    "field",
    [
        RECEIVED.replace(b"from", b"off"),
        RECEIVED.replace(b";", b""),
        RECEIVED.replace(b"client.test", b"client_test\r\n"),
        RECEIVED.replace(b"Jan", b"Mon"),
        RECEIVED.replace(b"\tid abc123\r\n\tfor <bo@reader.test>", b"\tfor <bo@x.test> id abc"),
    ],
    ids=["no_from", "no_semicolon", "bad_name", "bad_date", "clauses_swapped"],
)
def test_a_field_that_breaks_the_grammar_is_refused(field: bytes) -> None:
    with pytest.raises(AssertionError):
        parse_received(field)
