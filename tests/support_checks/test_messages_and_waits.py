from __future__ import annotations

import email
import re
import ssl
from email import policy
from typing import TYPE_CHECKING

import pytest

from tests.support import dots
from tests.support.certificates import make_certificates
from tests.support.deliveries import summarise
from tests.support.message_shapes import LONGEST_LINE
from tests.support.messages import corpus, every_shape, of_size
from tests.support.replies import MalformedReplyError, Reply, parse_reply_line
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_every_shape_can_be_carried_by_smtp() -> None:
    for message in every_shape():
        assert not dots.has_bare_line_end(message.content), message.name
        assert b"\0" not in message.content, message.name
        assert message.content.endswith(b"\r\n"), message.name
        longest = max(len(line) for line in message.content.split(b"\r\n"))
        assert longest <= LONGEST_LINE, message.name
        assert message.needs_8bit or not message.needs_smtputf8, message.name


def test_the_corpus_is_the_same_for_the_same_seed() -> None:
    first, again, other = (list(corpus(seed, 120)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len({message.name for message in first}) == 120


def test_stuffing_and_unstuffing_are_inverse() -> None:
    for message in corpus(5, 100):
        wire = dots.stuff(message.content)
        assert wire.endswith(b".\r\n")
        assert wire.find(dots.END_OF_DATA) in {-1, len(wire) - 5}
        assert not dots.has_unstuffed_line(wire[:-3])
        assert dots.unstuff(wire[:-3]) == message.content


def test_generated_messages_parse_as_what_they_claim_to_be() -> None:
    by_name = {message.name.rpartition("-")[0]: message.content for message in every_shape()}
    kinds = {
        "alternative": "multipart/alternative",
        "mixed_with_attachments": "multipart/mixed",
        "delivery_report": "multipart/report",
        "signed_smime": "application/pkcs7-mime",
    }
    for name, kind in kinds.items():
        parsed = email.message_from_bytes(by_name[name], policy=policy.SMTP)
        assert parsed.get_content_type() == kind
        assert not parsed.defects
    assert b"message/rfc822" in by_name["nested_message"]
    assert re.search(rb"=\r\n", by_name["quoted_printable"])
    assert not by_name["headers_only_without_blank_line"].endswith(b"\r\n\r\n")


@pytest.mark.parametrize("size", [400, 401, 5_000, 100_000, 20_000_000])
def test_a_message_has_exactly_the_size_asked_for(size: int) -> None:
    content = of_size(size, ledger_id="x1")
    assert len(content) == size
    assert not dots.has_bare_line_end(content)
    assert content.endswith(b"\r\n")
    assert summarise(content).ledger_id == "x1"


def test_ids_are_found_in_headers_of_any_case_and_fold_and_never_in_the_body() -> None:
    summary = summarise(b"message-ID:\r\n <a@b>\r\nX-LEDGER-ID: 7\r\n\r\nX-Ledger-Id: 8\r\n")
    assert (summary.message_id, summary.ledger_id) == ("<a@b>", "7")
    assert summarise(b"\r\nX-Ledger-Id: 8\r\n").ledger_id == ""


def test_replies_are_read_strictly() -> None:
    assert parse_reply_line(b"250-ok") == (250, False, "ok")
    assert parse_reply_line(b"250") == (250, True, "")
    for bad in (b"25 ok", b"650 ok", b"260 ok", b"250ok", b""):
        with pytest.raises(MalformedReplyError):
            parse_reply_line(bad)
    reply = Reply(250, "2.0.0 Ok: queued as <A-1>")
    assert (reply.enhanced, reply.queue_id) == ("2.0.0", "A-1")
    assert Reply(250, "a\nb").wire == b"250-a\r\n250 b\r\n"


async def test_a_wait_ends_with_its_condition_or_says_what_was_missing() -> None:
    answers = iter([False, False, True])
    await wait_until(lambda: next(answers), 5, "three looks", interval=0.001)

    async def never() -> bool:
        return False

    def checks() -> None:
        raise AssertionError("two of three")

    with pytest.raises(AssertionError, match=r"not within 0\.03 s: the moon"):
        await wait_until(never, 0.03, "the moon")
    with pytest.raises(AssertionError, match=r"mail \(last: two of three\)"):
        await wait_until(checks, 0.03, "mail")


def test_certificates_are_what_their_names_say(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)

    def handshake(server: ssl.SSLContext, name: str) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = certificates.client_context().wrap_bio(to_client, to_server, False, name)  # noqa: FBT003 - stdlib
        peer = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, peer, client, peer):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue

    for name in ("localhost", "127.0.0.1", "::1"):
        handshake(certificates.server.context(), name)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(certificates.expired.context(), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        handshake(certificates.self_signed.context(), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(certificates.server.context(), "other.test")
